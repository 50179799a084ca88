//! io_uring with owned operations: what the kernel may still touch belongs to the ring until its completion.
//!
//! A [`Request`] brings its buffer, descriptors and name; the [`Reply`] brings the buffer back. There is no way to
//! take them back before: neither a cancel nor a timeout ends a request that a FUSE server holds. Only the
//! *waiting* has a deadline ([`Ring::wait`]).
//!
//! In reading order: `op`, `ring`, `probe`.

mod op;
mod probe;
mod ring;

pub use op::{Punt, Reply, Request};
pub use probe::{Unavailable, probe};
pub use ring::{Ring, Waker};
