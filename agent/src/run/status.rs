//! What a lane says of itself: kept by its thread, read by everybody, never waited for.

use std::time::Instant;

use proto::{Cut, Generation, LaneName, Totals};

use crate::cycle::CycleReport;

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its volume or mirror is not open yet.
    Opening,
    /// It waits for something to do.
    Resting,
    /// A cycle is under way.
    Cycling,
    /// It waits for `resume`.
    Paused,
    /// The last try failed; the next one is set.
    Failing,
    /// It was told to end.
    Stopped,
}

/// What a lane said last.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name.
    pub name: LaneName,
    /// What is replicated, as configured.
    pub volume: String,
    /// Where to.
    pub mirror: String,
    /// What it is doing, and since when.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// Everything before this moment is in the mirror or in the quarantine.
    pub as_of: Option<Instant>,
    /// Lag beyond which it is an alert.
    pub alert_after: std::time::Duration,
    /// Names that wait.
    pub waiting: usize,
    /// Why all of the volume is to be looked at, if so.
    pub gap: Option<String>,
    /// Why changes are not captured, if they are not.
    pub not_captured: Option<String>,
    /// The last generation.
    pub generation: Generation,
    /// How it relates to the volume.
    pub cut: Option<Cut>,
    /// Sums over it.
    pub totals: Totals,
    /// Why deletions are halted.
    pub halted: Option<String>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// What is wrong with its journal.
    pub journal: Option<String>,
    /// When the next one is.
    pub next_try: Option<Instant>,
    /// Generations published since the agent began.
    pub published: u64,
}

impl Snapshot {
    /// Takes in what a cycle did.
    pub(super) fn take_in(&mut self, report: &CycleReport) {
        self.generation = report.generation;
        self.cut = Some(report.cut);
        self.totals = report.totals;
        self.halted.clone_from(&report.halted);
        self.published += u64::from(report.published);
    }
}

/// A lane's status, for scripts and people: ages instead of moments.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LaneStatus {
    /// `team/env`.
    pub lane: LaneName,
    /// What is replicated.
    pub volume: String,
    /// Where to.
    pub mirror: String,
    /// What it is doing.
    pub phase: Phase,
    /// For how long, in seconds.
    pub phase_seconds: f64,
    /// Age of the state up to which everything is in the mirror or in the quarantine: never less than the true lag. Nothing
    /// when it was never in sync.
    pub lag_seconds: Option<f64>,
    /// Lag beyond which it is an alert.
    pub alert_after_seconds: f64,
    /// Names that wait to be looked at.
    pub waiting: u64,
    /// Why all of the volume is to be looked at.
    pub gap: Option<String>,
    /// How changes are found: `fanotify` or `walk`.
    pub capture: String,
    /// Why not by fanotify.
    pub not_captured: Option<String>,
    /// The last generation; 0 for none.
    pub generation: u64,
    /// `exact` or `fuzzy`.
    pub cut: Option<String>,
    /// Files, directories, others, bytes.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symlinks and FIFOs.
    pub others: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Paths that could not be replicated.
    pub quarantined: u64,
    /// Paths that policy leaves out.
    pub left_out: u64,
    /// Why deletions are halted.
    pub halted: Option<String>,
    /// Why the last try failed.
    pub error: Option<String>,
    /// What is wrong with its journal: a restart will have to walk.
    pub journal: Option<String>,
    /// Seconds until the next.
    pub next_try_seconds: Option<f64>,
    /// Generations published since the agent began.
    pub published: u64,
}

impl Snapshot {
    /// As of `now`.
    pub fn status(&self, now: Instant) -> LaneStatus {
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        LaneStatus {
            lane: self.name.clone(),
            volume: self.volume.clone(),
            mirror: self.mirror.clone(),
            phase: self.phase,
            phase_seconds: ago(self.since),
            lag_seconds: self.as_of.map(ago),
            alert_after_seconds: self.alert_after.as_secs_f64(),
            waiting: self.waiting as u64,
            gap: self.gap.clone(),
            capture: if self.not_captured.is_some() { "walk" } else { "fanotify" }.to_owned(),
            not_captured: self.not_captured.clone(),
            generation: self.generation.0,
            cut: self.cut.map(|cut| cut.to_string()),
            files: self.totals.files,
            dirs: self.totals.dirs,
            others: self.totals.others,
            bytes: self.totals.bytes,
            quarantined: self.totals.quarantined,
            left_out: self.totals.left_out,
            halted: self.halted.clone(),
            error: self.error.clone(),
            journal: self.journal.clone(),
            next_try_seconds: self.next_try.map(|at| at.saturating_duration_since(now).as_secs_f64()),
            published: self.published,
        }
    }
}
