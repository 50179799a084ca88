//! Staging: everything a generation brings is made in `stage.N`, hashed on the way; the mirror is only read.
//!
//! The [`stager`] feeds the copy engine and takes its outcomes. New directories are walked here, while they are
//! copied, so that a first copy of any size needs memory only for what is in flight.
//!
//! In reading order: [`words`]; [`take`] makes tasks of the plan, [`start`] makes a job of a task, [`outcome`] says
//! what becomes of it; [`stager`] holds them together.

mod outcome;
mod stager;
mod start;
mod take;
mod words;

pub use stager::stage;
pub use take::dir_work;
pub use words::{Around, Dest, Item, Progress, Staged};
