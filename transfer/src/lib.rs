//! The copy engine: files go from a volume to a stage on the mirror's mount, many at a time, hashed on the way.
//!
//! [`run`] pulls jobs from a [`Feed`] and reports every one of them. A file is a flight, a pure state machine;
//! an engine makes the calls it asks for, with io_uring or without.
//!
//! In reading order: [`job`], [`error`], [`hash`], then inside the crate `holes`, `flight`, `window`, `throttle`, and the
//! shell: `limits`, `acts`, `pool`, `engine`.

#![forbid(unsafe_code)]

pub mod error;
pub mod hash;
pub mod job;

mod acts;
mod buffers;
mod engine;
mod flight;
mod holes;
mod limits;
mod pool;
mod throttle;
mod window;

pub use engine::{Engine, run};
pub use error::{CopyError, EngineError};
pub use hash::{ContentHash, ContentHasher, Hash, hash_block};
pub use job::{
    Copied, CopyJob, Durability, Feed, How, Identity, Job, Next, Options, Outcome, Side, Stats, Writers,
};
pub use limits::Limits;
pub use throttle::{Cost, Rates};
