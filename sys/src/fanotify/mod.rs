//! fanotify: told by the kernel which names of a whole file system were touched.
//!
//! [`group`] opens a group, marks file systems and reads; [`parse`] turns what was read into events and is safe code. nix
//! and rustix know no FID records, hence our own.

mod group;
mod parse;

pub use group::{Group, Marked, Marks, Mode, Queue};
pub use parse::{Event, Events, Malformed, Mask, Place, handle, key};
