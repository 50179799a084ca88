//! A filesystem that forgets: an in-memory disk behind FUSE with crash points, fault injection and a model of what a
//! power failure leaves.
//!
//! The server is a process of its own (`faultfs MOUNTPOINT --control SOCKET`): one that serves its own mount can hang
//! beyond the reach of SIGKILL. Tests use [`FaultFs`] behind `gate::require(&[Need::Root, Need::Fuse])`. In reading order: what is stored, what survives, what goes
//! wrong, and the two sides of the process boundary.
#![forbid(unsafe_code)]

mod acl;
mod content;
mod convert;
mod image;
mod rng;

mod durability;

mod faults;
mod gate;
mod ops;
mod world;

mod client;
mod control;
mod protocol;
mod server;

pub use client::FaultFs;
pub use control::{Options, serve};
pub use gate::STALL_MAX;
pub use protocol::{Action, Match, Op, Reply, Request, Rule, Status, Survive, TraceEntry, When};
