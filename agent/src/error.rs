//! Everything that can stop a command, and the exit code it ends with.

use proto::{Epoch, Generation, RelPath};
use sys::{Errno, SysError};

use crate::config::ConfigError;
use crate::docker::DockerError;
use crate::index::IndexError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit codes: a contract with scripts, tabled in `docs/operations.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, and volume and mirror agree.
    InSync = 0,
    /// Failed; nothing half-done is visible.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A guard stopped it: deletions, another writer, a mirror that is not ours.
    Halted = 3,
    /// The mirror cannot be used: not mounted, dead, wrong, read-only.
    MirrorUnusable = 4,
    /// Done, but some paths are in quarantine.
    Quarantine = 5,
}

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mirror's mount.
    #[error(transparent)]
    Mount(#[from] fsprobe::MirrorError),
    /// A call on the mirror or ledger failed.
    #[error("{act}")]
    Mirror {
        /// What was being done.
        act: String,
        /// Why it failed.
        #[source]
        source: SysError,
    },
    /// The volume cannot be used at all (single paths go to the quarantine instead).
    #[error("volume {path}: {why}")]
    Volume {
        /// Its path as given.
        path: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A file of the ledger is not sound.
    #[error("{file} in the ledger is damaged: {source}")]
    LedgerFile {
        /// Which.
        file: String,
        /// How.
        #[source]
        source: proto::FrameError,
    },
    /// The ledger's files are sound but contradict each other or the mirror.
    #[error("{0}")]
    LedgerState(String),
    /// Another writer took the lane over: this one must not touch the mirror again.
    #[error(
        "this writer of epoch {ours} was replaced by {host} (epoch {theirs}): the lane is written there now"
    )]
    Fenced {
        /// Our epoch.
        ours: Epoch,
        /// The newest.
        theirs: Epoch,
        /// Who holds it.
        host: String,
    },
    /// Another installation owns the lane.
    #[error(
        "the lane is written by {host} (epoch {epoch}). If that host or its state directory is gone for good, \
         take the lane over with --take-over; two writers are never allowed"
    )]
    OwnedByOther {
        /// Holder.
        host: String,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Somebody else sealed this generation.
    #[error("generation {0} was sealed by another writer meanwhile; run the command again")]
    GenerationTaken(Generation),
    /// A guard that protects what is in the mirror.
    #[error("{0}")]
    Guard(String),
    /// The ledger that marks the mirror is gone.
    #[error(
        "{mirror} is not the mirror it was: the ledger of lane {lane} is missing beside it. Nothing was written. \
         Is the right volume mounted, and is it complete?"
    )]
    MarkerMissing {
        /// The mirror's path.
        mirror: String,
        /// The lane that was there.
        lane: String,
    },
    /// Another lane lies where this host remembers one.
    #[error(
        "{mirror} holds lane {found}, where this host remembers lane {expected}: is the right volume mounted?"
    )]
    WrongLane {
        /// The mirror's path.
        mirror: String,
        /// Remembered.
        expected: String,
        /// There now.
        found: String,
    },
    /// Nothing was ever replicated to this mirror.
    #[error(
        "{mirror}: no ledger of tidegate lies beside it; nothing was ever replicated there, or it is not mounted"
    )]
    NoLedger {
        /// The mirror's path.
        mirror: String,
    },
    /// A sealed generation waits for its publish, which only its writer may do.
    #[error(
        "generation {generation} is sealed but not published yet, by {host} (epoch {epoch}). Wait for that host to \
         finish it; if it is gone for good, --take-over finishes it here"
    )]
    Unpublished {
        /// The generation.
        generation: Generation,
        /// Its writer.
        host: String,
        /// The writer's epoch.
        epoch: Epoch,
    },
    /// A path that can be none of a volume.
    #[error("{path:?} is not a path inside the volume: give it relative to the volume's root")]
    BadPath {
        /// As typed, escaped.
        path: String,
    },
    /// A path a user asked for is not there.
    #[error("{path} is neither in the volume's last generation nor an exception of it")]
    NoSuchPath {
        /// The path.
        path: RelPath,
    },
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Docker.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The state directory of this host.
    #[error("state directory: {act}")]
    State {
        /// What was being done, with the path.
        act: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another tidegate process works on this lane.
    #[error("another tidegate process works on this lane (lock {0}); wait for it or stop it")]
    Busy(String),
    /// What a cycle was about to do was overtaken by the volume: it begins anew, and this is seen by nobody.
    #[error("{path} went away while it was being replicated")]
    Raced {
        /// What was not where it was thought to be.
        path: RelPath,
    },
    /// The copy engine cannot run.
    #[error("copy engine: {0}")]
    Engine(String),
    /// A recovery's target.
    #[error("target {path}: {why}")]
    Target {
        /// Its path.
        path: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// What is run before a cut: there was none.
    #[error("{0}")]
    Hook(String),
    /// The agent was told to end while a cycle was under way.
    #[error(
        "told to stop: the generation that was being made is not sealed; the next run goes on from what was staged"
    )]
    Stopped,
    /// What the agent was asked, or could not be asked.
    #[error("{0}")]
    Agent(String),
    /// No agent runs on this host.
    #[error("{0}")]
    NoAgent(String),
    /// There is no change journal to read.
    #[error("no journal of {of}: {why}")]
    NoJournal {
        /// The lane or mirror.
        of: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The change journal cannot be read.
    #[error(transparent)]
    Journal(#[from] crate::journal::ReaderError),
    /// Content does not match its hash, or other proof failed.
    #[error("{0}")]
    NotProven(String),
}

impl Error {
    /// Exit code of a command that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Mount(_) | Self::MarkerMissing { .. } | Self::WrongLane { .. } | Self::NoLedger { .. } => {
                Exit::MirrorUnusable
            }
            Self::BadPath { .. } | Self::Config(_) => Exit::Usage,
            Self::Mirror { source, .. } if unusable(source.errno) => Exit::MirrorUnusable,
            Self::Fenced { .. }
            | Self::OwnedByOther { .. }
            | Self::GenerationTaken(_)
            | Self::Guard(_)
            | Self::Unpublished { .. } => Exit::Halted,
            Self::Mirror { .. }
            | Self::Volume { .. }
            | Self::LedgerFile { .. }
            | Self::LedgerState(_)
            | Self::NoSuchPath { .. }
            | Self::Index(_)
            | Self::Docker(_)
            | Self::State { .. }
            | Self::Busy(_)
            | Self::Raced { .. }
            | Self::Engine(_)
            | Self::Target { .. }
            | Self::Hook(_)
            | Self::Stopped
            | Self::Agent(_)
            | Self::NoAgent(_)
            | Self::NoJournal { .. }
            | Self::Journal(_)
            | Self::NotProven(_) => Exit::Failed,
        }
    }
}

/// True for errnos that speak of the mount rather than of one file.
fn unusable(errno: Errno) -> bool {
    [Errno::NOTCONN, Errno::CONNABORTED, Errno::ROFS, Errno::STALE].contains(&errno)
}

/// `.map_err(on_mirror(|| format!(…)))` for acts on mirror and ledger.
pub fn on_mirror(act: impl FnOnce() -> String) -> impl FnOnce(SysError) -> Error {
    move |source| Error::Mirror { act: act(), source }
}

/// `.map_err(on_state("make", path))` for acts on the state directory.
pub fn on_state<'a>(act: &'a str, path: &'a std::path::Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::State { act: format!("{act} {}", path.display()), source }
}
