//! The agent at work: lanes that are kept up to date for as long as it runs.
//!
//! In reading order: [`agent`] starts and ends lanes and answers for them; [`lane`] is the thread of one, [`core`] decides when
//! it does what, [`worker`] carries out its cycles, of which [`members`] are the files that somebody has open for writing;
//! [`stored`] keeps the kernel's queue over a restart, [`status`] is what it says of itself.

mod agent;
mod core;
mod lane;
mod members;
mod status;
mod stored;
mod worker;

pub use agent::run;
pub use core::{Core, Effect, Input, Span, Timing};
pub use lane::Chain;
pub use status::{LaneStatus, Phase};
pub use worker::{Retry, Watched, Worker};
