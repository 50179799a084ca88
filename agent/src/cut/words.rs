//! Words: what agent and keeper say to each other, a line of JSON each. No I/O.

use std::path::PathBuf;
use std::time::Duration;

/// The first line that the keeper reads.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Orders {
    /// The lane, as the hooks are told it.
    pub lane: String,
    /// Its volume's directory, likewise.
    pub volume: String,
    /// Program to be run first.
    pub pre: Option<PathBuf>,
    /// Program to be run last.
    pub post: Option<PathBuf>,
    /// How long each of them may take.
    pub timeout: Duration,
    /// What is frozen in between.
    pub cgroups: Vec<PathBuf>,
    /// How long freezing may take.
    pub freeze_limit: Duration,
    /// How long they are kept frozen at most, whatever the agent does.
    pub hold_limit: Duration,
}

/// What the keeper says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Said {
    /// `pre` has ended well, and what was to be frozen is, or why not.
    Begun {
        /// Nothing when it is frozen, or nothing was to be.
        not_frozen: Option<String>,
    },
    /// `pre` has failed: there is to be no cut.
    Refused(String),
    /// All is as it was, and this is the keeper's last line.
    Ended {
        /// Why `post` failed.
        post: Option<String>,
        /// How long it was frozen.
        frozen: Option<Duration>,
    },
}

/// What the agent says after its orders. Its silence, when the pipe closes, means `Read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Word {
    /// The containers may go on, the hooks' time is not over.
    Thaw,
    /// All is read.
    Read,
}
