//! Mounts: which one a mirror lives on, whether it is the right one, and whether it answers, without being
//! caught by a sick one.
//!
//! Identity comes from the kernel's mount list, which can be read while the mount itself is frozen. Whatever
//! asks the mount a question runs in a child process or on a thread of its own, with a deadline.
//!
//! In reading order: [`MountIdentity`] and [`FsKind`] say what is mounted, [`MirrorSpec`] says what is wanted,
//! `probe` knocks, `walk` resolves a path, [`PinnedMount`] is what comes out.
#![forbid(unsafe_code)]

mod error;
mod identity;
mod pinned;
mod probe;
mod spec;
mod walk;

pub use error::MirrorError;
pub use identity::{FsKind, MountIdentity};
pub use pinned::PinnedMount;
pub use spec::{MirrorSpec, PROBE_DEADLINE};
