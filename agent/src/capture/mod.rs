//! Capture: what the kernel says was touched, as names that a lane has to look at again.
//!
//! An event is never history. It says *look at this name*, and the look decides; so events may be merged, doubled and late,
//! and whatever is in doubt is a [`Gap`]: then all of the volume is looked at, with the kernel's mark already in place.
//!
//! In reading order: [`dirty`] holds what is to be looked at, [`reader`] fills it from the kernel's queue, [`spool`] keeps what it has
//! in hand, [`notes`] says it to the journal, [`resolve`] turns handles into paths when a cycle begins. [`open_files`] finds the files that can be
//! written to without an event.

mod dirty;
mod notes;
mod open_files;
mod reader;
mod resolve;
mod spool;

pub use dirty::{Dirty, Gap};
pub use notes::{cause, take_in};
pub use open_files::{NoScan, OpenFiles, Scan, WSet};
pub use reader::{Begin, Capture, Target, Unavailable};
pub use resolve::{Resolved, below, inode, object, resolve};
pub use spool::{Left, Spool};
