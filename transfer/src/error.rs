//! What can go wrong, kept apart by side: the volume being read, the mirror being written, the engine itself.

use sys::SysError;

/// Why one file was not copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The source could not be read. Nothing of this file is left in the stage; the path belongs in the quarantine.
    #[error("read the source")]
    Source(#[source] SysError),
    /// The name in the source is gone, or is another inode or no regular file by now: to be looked at again.
    /// Nothing of this file is left in the stage.
    #[error("the source was replaced meanwhile")]
    Replaced,
    /// The target could not be written. A part of the file may be left in the stage, and the cycle must not be
    /// sealed.
    #[error("write the target")]
    Target(#[source] SysError),
}

/// Why the engine stopped. Jobs that were in flight and not reported are in an unknown state.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No io_uring, though [`Engine::Ring`](crate::Engine) was asked for: nothing was done.
    #[error("set up the ring")]
    RingSetup(#[source] SysError),
    /// The ring refused to take or give operations.
    #[error("drive the ring")]
    Ring(#[source] SysError),
    /// No thread could be started: nothing was done.
    #[error("start a thread of the pool")]
    Spawn(#[source] std::io::Error),
    /// The feed said `Wait` while nothing was in flight that could end its waiting.
    #[error("the feed waits though nothing is in flight")]
    Starved,
    /// A [`Job::Call`](crate::Job) panicked. All other jobs were finished and reported.
    #[error("a call panicked")]
    CallPanicked,
}
