//! What this host can do for tidegate, tried rather than guessed: `tidegate doctor`.
//!
//! A check looks at one thing and says what it found and what to do about it. A new one is a function more in [`HOST`] or
//! [`LANE`]; what may hang has to bring its own deadline. In reading order: [`finding`] is what a check says, [`host`] and
//! [`lane`] are the checks.

mod finding;
mod host;
mod lane;

pub use finding::{Finding, Verdict};

use crate::config::LaneConfig;

/// What the checks know beside what they look at.
#[derive(Default)]
pub struct Context {
    /// The lanes that are examined.
    pub lanes: Vec<LaneConfig>,
    /// Processes that may hide what they have open.
    pub not_writers: Vec<String>,
}

impl Context {
    fn wants(&self, wish: impl Fn(&LaneConfig) -> bool) -> Option<&LaneConfig> {
        self.lanes.iter().find(|lane| wish(lane))
    }
}

/// Checks of the host, in the order in which they are told.
const HOST: [fn(&Context) -> Vec<Finding>; 8] = [
    host::kernel,
    host::capabilities,
    host::fanotify,
    host::open_files,
    host::io_uring,
    host::state,
    host::docker,
    host::freezer,
];

/// Checks of each lane.
const LANE: [fn(&LaneConfig) -> Vec<Finding>; 1] = [lane::volume];

/// Examines the host and the lanes; calls `say` with each finding as soon as there is one.
pub fn examine(context: &Context, mut say: impl FnMut(Finding)) {
    HOST.iter().flat_map(|check| check(context)).for_each(&mut say);
    for lane in &context.lanes {
        for finding in LANE.iter().flat_map(|check| check(lane)) {
            say(finding.of(&lane.name));
        }
    }
}
