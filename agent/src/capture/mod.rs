//! Capture: what the kernel says was touched, as names that a lane has to look at again.
//!
//! An event is never history. It says *look at this name*, and the look decides; so events may be merged, doubled and late,
//! and whatever is in doubt is a [`Gap`]: then all of the volume is looked at, with the kernel's mark already in place.
//!
//! In reading order: [`dirty`] holds what is to be looked at, [`reader`] fills it from the kernel's queue, [`notes`] says it to the journal, [`resolve`] turns
//! handles into paths when a cycle begins.

mod dirty;
mod notes;
mod reader;
mod resolve;

pub use dirty::{Dirty, Gap};
pub use notes::{cause, take_in};
pub use reader::{Begin, Capture, Target, Unavailable};
pub use resolve::{Resolved, below, resolve};
