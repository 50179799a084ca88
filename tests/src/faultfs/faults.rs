//! Decides which requests a fault strikes, and numbers the mutating ones. No I/O, no clock.

use std::collections::BTreeMap;

use super::protocol::{Action, Op, Rule, TraceEntry, When};

/// Faults that are set, and what has been seen since they were.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<Armed>,
    crash: Option<(u64, When)>,
    /// Bound on stored bytes.
    pub full: Option<u64>,
    /// Times a rule struck.
    pub struck: u64,
    trace: Vec<TraceEntry>,
    counts: BTreeMap<Op, u64>,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    seen: u64,
}

/// All that strikes one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    /// Errno to fail with.
    pub fail: Option<i32>,
    /// Bound on the bytes moved.
    pub short: Option<u32>,
    /// Milliseconds to hold back.
    pub delay: Option<u64>,
    /// Hold back until released.
    pub stall: bool,
    /// Spoil the bytes read.
    pub corrupt: bool,
    /// Pretend to have synced.
    pub lie: bool,
}

impl Faults {
    /// Adds a rule; its count starts now.
    pub fn inject(&mut self, rule: Rule) {
        self.rules.push(Armed { rule, seen: 0 });
    }

    /// Sets the crash point.
    pub fn crash_at(&mut self, point: u64, when: When) {
        self.crash = Some((point, when));
    }

    /// Removes every fault but keeps the trace.
    pub fn clear(&mut self) {
        *self = Faults {
            trace: std::mem::take(&mut self.trace),
            counts: std::mem::take(&mut self.counts),
            ..Faults::default()
        };
    }

    /// Restarts trace, counts and numbering but keeps the faults.
    pub fn clear_trace(&mut self) {
        self.trace.clear();
        self.counts.clear();
    }

    /// Mutating requests so far.
    pub fn trace(&self) -> &[TraceEntry] {
        &self.trace
    }

    /// Requests so far.
    pub fn counts(&self) -> &BTreeMap<Op, u64> {
        &self.counts
    }

    /// Counts a request and says what strikes it.
    pub fn meet(&mut self, op: Op, paths: &[String]) -> Verdict {
        *self.counts.entry(op).or_default() += 1;
        let mut verdict = Verdict::default();
        for Armed { rule, seen } in &mut self.rules {
            let meant = |text: &String| paths.iter().any(|path| path.contains(text.as_str()));
            if !rule.op.covers(op) || !rule.path_contains.as_ref().is_none_or(meant) {
                continue;
            }
            *seen += 1;
            if *seen != rule.nth && !(rule.every && *seen > rule.nth) {
                continue;
            }
            self.struck += 1;
            match rule.action {
                Action::Fail(errno) => verdict.fail = verdict.fail.or(Some(errno)),
                Action::Short(bytes) => verdict.short = Some(bytes),
                Action::Delay(millis) => verdict.delay = Some(millis),
                Action::Stall => verdict.stall = true,
                Action::Corrupt => verdict.corrupt = true,
                Action::Lie => verdict.lie = true,
            }
        }
        verdict
    }

    /// Whether answering a request needs its paths: for a rule that asks, or for the trace.
    pub fn wants_paths(&self, op: Op) -> bool {
        op.mutates() || self.rules.iter().any(|armed| armed.rule.path_contains.is_some())
    }

    /// Numbers a mutating request and says whether it is the crash point.
    pub fn number(
        &mut self,
        op: Op,
        paths: Vec<String>,
        offset: Option<u64>,
        len: Option<u64>,
    ) -> Option<When> {
        let n = self.trace.len() as u64 + 1;
        self.trace.push(TraceEntry { n, op, paths, offset, len, errno: 0 });
        self.crash.filter(|(point, _)| *point == n).map(|(_, when)| when)
    }

    /// Records how the request numbered last ended.
    pub fn ended(&mut self, errno: i32) {
        if let Some(entry) = self.trace.last_mut() {
            entry.errno = errno;
        }
    }
}
