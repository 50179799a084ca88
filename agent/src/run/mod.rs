//! The agent at work: lanes that are kept up to date for as long as it runs.
//!
//! In reading order: [`members`] are the files that somebody has open for writing; [`worker`] carries out the cycles of
//! one lane.

mod members;
mod worker;

pub use worker::{Retry, Watched, Worker};
