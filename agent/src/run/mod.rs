//! The agent at work: lanes that are kept up to date for as long as it runs.
//!
//! In reading order: [`worker`] carries out the cycles of one lane.

mod worker;

pub use worker::{Retry, Watched, Worker};
