//! The kernel, wrapped: the only crate that may hold `unsafe`, and it knows nothing of lanes or generations.
//!
//! Everything that touches a tree goes through a held directory descriptor ([`Dir`]) and single names: no
//! function takes a path with more than one component except the two that open a root. That one rule is what
//! keeps a container from steering a root process out of its volume by swapping a directory for a symlink.
//!
//! In reading order: [`error`], [`stat`], [`dir`], [`file`], [`meta`], [`owner`], [`mount`], [`uring`], [`handle`], [`fanotify`],
//! [`inotify`], [`procfs`], [`map`]; [`aio`] makes a write that fanotify is silent about, for tests.

pub mod aio;
pub mod dir;
pub mod error;
pub mod fanotify;
pub mod file;
pub mod handle;
pub mod host;
pub mod inotify;
pub mod map;
pub mod meta;
pub mod mount;
pub mod owner;
pub mod procfs;
pub mod stat;
pub mod uring;

pub use dir::{Dir, DirEntry, EntryType, WalkBuffer};
pub use error::{Errno, SysError};
pub use handle::Handle;
pub use meta::{Meta, Xattrs};
pub use owner::Owner;
pub use stat::{FileKind, Stat, Time};
