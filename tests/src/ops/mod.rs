//! Sequences of file system operations: all short ones against a model, and long random ones.

mod model;
mod op;
mod sequences;
mod workload;

pub use model::Model;
pub use op::{NAMES, Name, Op};
pub use sequences::{Counts, Seed, Sequences, for_each_sequence};
pub use workload::Workload;
