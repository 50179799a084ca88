//! Pure decisions: when a lane does what. Input and time go in, effects and the next wake-up come out; no I/O, no clock.
//!
//! ```text
//! Resting ─due→ Cycling ─done→ Resting          due: touched and quiet, or old; asked for; a walk, a retry, a barrier
//!                  └─failed→ Resting, back-off
//! ```
//! What a lane may say of its lag is kept here too: [`Core::as_of`] is a moment up to which everything is in the mirror or in
//! the quarantine. It moves only when a cycle that began then has ended with nothing put back and nothing withheld.

use std::time::{Duration, Instant};

/// Longest pause between two tries of a cycle that fails.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// First pause.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// First pause before a quarantined path is looked at again, and the longest.
const RETRY_MIN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// How a lane's times are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A cut is made when nothing was touched for this long. Grows with the time that cycles take.
    pub quiet: Duration,
    /// Or so early that the oldest change is in the mirror at this age, as far as the last cycle tells how long that takes.
    pub max_age: Duration,
    /// Time between walks of the whole volume though no gap is known; none where nothing is captured.
    pub safety: Option<Duration>,
    /// Time between walks where nothing is captured.
    pub walk: Option<Duration>,
    /// Time after which an idle lane proves that it is in sync still.
    pub barrier: Duration,
}

/// When the first and the last of something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub oldest: Instant,
    /// The last.
    pub newest: Instant,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// What is touched and not yet taken by a cycle; nothing when all is taken.
    Touched(Option<Span>),
    /// The cycle that was started at `as_of` has ended well.
    Done {
        /// When it took what was touched.
        as_of: Instant,
        /// Something was put back or withheld, so that the mirror lacks changes from before.
        is_partial: bool,
        /// Something is in the quarantine.
        is_quarantined: bool,
        /// There was nothing to do.
        is_idle: bool,
    },
    /// It has failed; what it had taken was put back.
    Failed,
    /// No cycles until `Resume`.
    Pause,
    /// Cycles again.
    Resume,
    /// Whatever was touched up to now is wanted in the mirror.
    Flush,
    /// The deletions that are withheld are meant.
    Approve,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an effect dropped here leaves its lane waiting for ever"]
pub enum Effect {
    /// Run a cycle, and say how it ended.
    Cycle {
        /// Look at the quarantined paths too.
        retry: bool,
        /// Look at all of the volume.
        whole: bool,
        /// Publish the deletions that are withheld.
        approve: bool,
    },
}

/// When a lane does what.
#[derive(Debug)]
pub struct Core {
    timing: Timing,
    cycling: bool,
    paused: bool,
    touched: Option<Span>,
    flush: bool,
    approve: bool,
    failures: u32,
    /// Nothing is begun before, but what a person asked for.
    not_before: Instant,
    begun: Instant,
    /// How long the last cycle took.
    took: Duration,
    as_of: Option<Instant>,
    /// When it was last proven, or tried to be.
    looked: Option<Instant>,
    walked: Option<Instant>,
    retry: Option<(Instant, Duration)>,
}

impl Core {
    /// A lane that has done nothing yet.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            cycling: false,
            paused: false,
            touched: None,
            flush: false,
            approve: false,
            failures: 0,
            not_before: now,
            begun: now,
            took: Duration::ZERO,
            as_of: None,
            looked: None,
            walked: None,
            retry: None,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Touched(span) => self.touched = span,
            Input::Done { as_of, is_partial, is_quarantined, is_idle } => {
                let took = self.took;
                self.ended(now);
                if is_idle {
                    // Nothing was to be done: that says nothing of how long it takes when something is.
                    self.took = took;
                }
                self.failures = 0;
                if !is_partial {
                    self.as_of = Some(as_of);
                }
                self.retry = match (is_quarantined, self.retry) {
                    (false, _) => None,
                    (true, None) => Some((now + RETRY_MIN, RETRY_MIN)),
                    (true, Some((at, pause))) if at <= now => {
                        let pause = (pause * 2).min(RETRY_MAX);
                        Some((now + pause, pause))
                    }
                    (true, later) => later,
                };
            }
            Input::Failed => {
                self.ended(now);
                self.not_before = now + back_off(self.failures);
                self.failures = self.failures.saturating_add(1);
            }
            Input::Pause => self.paused = true,
            Input::Resume => {
                self.paused = false;
                self.not_before = now;
            }
            Input::Flush => self.flush = true,
            Input::Approve => self.approve = true,
        }
    }

    fn ended(&mut self, now: Instant) {
        self.cycling = false;
        self.took = now.saturating_duration_since(self.begun);
        self.looked = Some(now);
    }

    /// What to do now, if anything. An effect is under way from here on.
    pub fn poll_effect(&mut self, now: Instant) -> Option<Effect> {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return None;
        }
        let whole = self.is_walk_due(now);
        let retry = self.retry.is_some_and(|(at, _)| at <= now);
        let effect = Effect::Cycle { retry, whole, approve: self.approve };
        if whole || self.walked.is_none() {
            self.walked = Some(now);
        }
        self.cycling = true;
        self.begun = now;
        self.flush = false;
        self.approve = false;
        Some(effect)
    }

    /// When something is to be done next; nothing while a cycle is under way or the lane is paused.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.cycling {
            return None;
        }
        if self.approve || self.flush {
            return Some(self.begun);
        }
        if self.paused {
            return None;
        }
        let touched = self.touched.map(|span| {
            let max_age = self.begin_by();
            let quiet = self.timing.quiet.max(self.took / 2).min(max_age);
            (span.newest + quiet).min(span.oldest + max_age)
        });
        let walk = match (self.timing.walk, self.walked) {
            (Some(every), Some(at)) => Some(at + every),
            (Some(_), None) => Some(self.not_before),
            (None, _) => self.timing.safety.zip(self.walked).map(|(every, at)| at + every),
        };
        let barrier = match (self.timing.walk, self.looked) {
            // A barrier without capture would be a walk.
            (Some(_), _) => None,
            (None, Some(at)) => Some(at + self.timing.barrier),
            (None, None) => Some(self.not_before),
        };
        let retry = self.retry.map(|(at, _)| at);
        let due = [touched, walk, barrier, retry].into_iter().flatten().min()?;
        Some(due.max(self.not_before))
    }

    /// Age of the oldest change at which a cycle is begun, so that it is in the mirror at `max_age` if the cycle takes half as
    /// long again as the last; never less than a quarter of `max_age`, for cycles that follow each other without a pause
    /// gather nothing.
    fn begin_by(&self) -> Duration {
        self.timing.max_age.saturating_sub(self.took * 3 / 2).max(self.timing.max_age / 4)
    }

    fn is_walk_due(&self, now: Instant) -> bool {
        let every = self.timing.walk.or(self.timing.safety);
        every.zip(self.walked).is_some_and(|(every, at)| at + every <= now)
    }

    /// Everything that was done before this moment is in the mirror or in the quarantine; nothing if that was never so.
    pub fn as_of(&self) -> Option<Instant> {
        self.as_of
    }

    /// True between `Pause` and `Resume`.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Tries that failed since the last good one.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next try is, after one that failed.
    pub fn next_try(&self) -> Option<Instant> {
        (self.failures > 0).then_some(self.not_before)
    }
}

/// Pause after `failures` tries that failed before this one.
pub fn back_off(failures: u32) -> Duration {
    BACK_OFF_MIN.saturating_mul(1u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    fn timing() -> Timing {
        Timing { quiet: 300 * MS, max_age: 2 * S, safety: Some(3600 * S), walk: None, barrier: 3 * S }
    }

    /// A lane that is in sync as of `begin`.
    fn in_sync(begin: Instant) -> Core {
        let mut core = Core::new(timing(), begin);
        assert_eq!(
            core.poll_effect(begin),
            Some(Effect::Cycle { retry: false, whole: false, approve: false })
        );
        core.handle(
            Input::Done { as_of: begin, is_partial: false, is_quarantined: false, is_idle: false },
            begin,
        );
        core
    }

    fn touch(core: &mut Core, oldest: Instant, newest: Instant) {
        core.handle(Input::Touched(Some(Span { oldest, newest })), newest);
    }

    #[test]
    fn a_cut_waits_for_quiet_but_not_for_ever() {
        let begin = Instant::now();
        let mut core = in_sync(begin);
        touch(&mut core, begin + S, begin + S);
        assert_eq!(core.poll_timeout(), Some(begin + S + 300 * MS));
        touch(&mut core, begin + S, begin + S + 250 * MS);
        assert_eq!(core.poll_timeout(), Some(begin + S + 550 * MS));
        touch(&mut core, begin + S, begin + S + 1950 * MS);
        assert_eq!(core.poll_timeout(), Some(begin + 3 * S), "the oldest change is two seconds old");
        assert!(core.poll_effect(begin + 3 * S - MS).is_none());
        assert!(core.poll_effect(begin + 3 * S).is_some());
        assert_eq!(core.poll_timeout(), None, "one cycle at a time");
    }

    #[test]
    fn quiet_grows_with_what_cycles_take_and_stays_below_the_age() {
        let begin = Instant::now();
        for (took, quiet) in [(100, 300), (800, 400), (1000, 500), (5000, 500)] {
            let mut core = after_a_cycle_of(took * MS, begin);
            let touched = begin + 2 * S + took * MS;
            touch(&mut core, touched, touched);
            assert_eq!(core.poll_timeout(), Some(touched + quiet * MS), "{took}");
        }
    }

    #[test]
    fn a_busy_lane_begins_so_early_that_it_ends_in_time() {
        let begin = Instant::now();
        for (took, age) in [(0, 2000), (400, 1400), (1000, 500), (5000, 500)] {
            let mut core = after_a_cycle_of(took * MS, begin);
            let oldest = begin + 2 * S + took * MS;
            touch(&mut core, oldest, oldest + 3 * S);
            assert_eq!(core.poll_timeout(), Some(oldest + age * MS), "{took}");
        }
    }

    /// The story: each barrier of an idle lane found nothing in a moment, and the first cycle of a burst was begun as if it
    /// took no longer: what came first was older than `max_age` when it was in the mirror.
    #[test]
    fn a_cycle_that_had_nothing_to_do_says_nothing_of_the_next() {
        let begin = Instant::now();
        let mut core = after_a_cycle_of(400 * MS, begin);
        let now = begin + 6 * S;
        assert!(core.poll_effect(now).is_some(), "the barrier");
        core.handle(Input::Done { as_of: now, is_partial: false, is_quarantined: false, is_idle: true }, now);
        let touched = now + S;
        core.handle(Input::Touched(Some(Span { oldest: touched, newest: touched + 2 * S })), touched);
        assert_eq!(core.poll_timeout(), Some(touched + 1400 * MS));
    }

    fn after_a_cycle_of(took: Duration, begin: Instant) -> Core {
        let mut core = in_sync(begin);
        touch(&mut core, begin, begin);
        assert!(core.poll_effect(begin + 2 * S).is_some());
        let done =
            Input::Done { as_of: begin + 2 * S, is_partial: false, is_quarantined: false, is_idle: false };
        core.handle(done, begin + 2 * S + took);
        core.handle(Input::Touched(None), begin + 2 * S + took);
        core
    }

    #[test]
    fn the_lag_never_claims_what_was_put_back() {
        let begin = Instant::now();
        let mut core = in_sync(begin);
        assert_eq!(core.as_of(), Some(begin));
        touch(&mut core, begin + S, begin + S);
        assert!(core.poll_effect(begin + 2 * S).is_some());
        core.handle(
            Input::Done { as_of: begin + 2 * S, is_partial: true, is_quarantined: false, is_idle: false },
            begin + 2 * S,
        );
        assert_eq!(core.as_of(), Some(begin));
        assert!(core.poll_effect(begin + 9 * S).is_some());
        core.handle(Input::Failed, begin + 9 * S);
        assert_eq!(core.as_of(), Some(begin));
        assert!(core.poll_effect(begin + 12 * S).is_some());
        core.handle(
            Input::Done { as_of: begin + 12 * S, is_partial: false, is_quarantined: true, is_idle: false },
            begin + 13 * S,
        );
        assert_eq!(core.as_of(), Some(begin + 12 * S), "the quarantine is told, so it is no lag");
    }

    #[test]
    fn failures_back_off_and_a_person_does_not_wait() {
        let begin = Instant::now();
        let mut core = in_sync(begin);
        touch(&mut core, begin, begin);
        let mut now = begin + S;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(core.poll_effect(now).is_some());
            core.handle(Input::Failed, now);
            assert_eq!(core.poll_timeout(), Some(now + pause * S));
            now += pause * S;
        }
        core.handle(Input::Flush, now - S);
        assert!(core.poll_effect(now - S).is_some());
    }

    #[test]
    fn a_paused_lane_forgets_nothing() {
        let begin = Instant::now();
        let mut core = in_sync(begin);
        core.handle(Input::Pause, begin);
        touch(&mut core, begin + S, begin + S);
        assert_eq!(core.poll_timeout(), None);
        core.handle(Input::Resume, begin + 60 * S);
        assert!(core.poll_effect(begin + 60 * S).is_some());
    }

    #[test]
    fn an_idle_lane_proves_itself_and_walks_seldom() {
        let begin = Instant::now();
        let mut core = in_sync(begin);
        let mut walks = 0;
        for _ in 0..2500 {
            let due = core.poll_timeout().unwrap();
            let Some(Effect::Cycle { whole, .. }) = core.poll_effect(due) else { panic!("due and not done") };
            walks += u32::from(whole);
            core.handle(
                Input::Done { as_of: due, is_partial: false, is_quarantined: false, is_idle: false },
                due,
            );
        }
        assert_eq!(core.as_of(), Some(begin + 7500 * S));
        assert_eq!(walks, 2, "one an hour");
    }

    #[test]
    fn without_capture_it_walks_on_an_interval_alone() {
        let begin = Instant::now();
        let mut core = Core::new(Timing { walk: Some(300 * S), ..timing() }, begin);
        assert!(core.poll_effect(begin).is_some());
        core.handle(
            Input::Done { as_of: begin, is_partial: false, is_quarantined: false, is_idle: false },
            begin + 5 * S,
        );
        assert_eq!(core.poll_timeout(), Some(begin + 300 * S));
    }

    #[test]
    fn quarantined_paths_are_tried_again_less_and_less() {
        let begin = Instant::now();
        let mut core = in_sync(begin);
        let mut now = begin;
        let mut tries = Vec::new();
        while tries.len() < 9 {
            now = core.poll_timeout().unwrap();
            let Some(Effect::Cycle { retry, .. }) = core.poll_effect(now) else { panic!("due and not done") };
            if retry {
                tries.push(now - begin);
            }
            core.handle(
                Input::Done { as_of: now, is_partial: false, is_quarantined: true, is_idle: false },
                now,
            );
        }
        let pauses: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert!(now > begin);
    }
}
