//! Tests of the tests: the oracle must see every kind of difference, and the generators must make what they promise.
#![forbid(unsafe_code)]

#[path = "oracle/controls.rs"]
mod controls;
#[path = "oracle/flips.rs"]
mod flips;
#[path = "oracle/generators.rs"]
mod generators;
#[path = "oracle/sequences.rs"]
mod sequences;
#[path = "oracle/workload.rs"]
mod workload;
