//! Writers in processes of their own: what a container does to its volume while the product works on it.
//!
//! A writer is told how many changes to make and says when they are made; between two orders it is at rest, with its files
//! still open and mapped. In reading order: [`silent`] writes without any event, [`chaos`] does everything at random and
//! minds nobody; `process` is the line between a writer and the test that drives it.

mod chaos;
mod process;
mod silent;

pub use process::{Work, Writer, serve, stir};
pub use silent::Way;
