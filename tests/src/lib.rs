//! Test harness: everything that judges, drives and breaks the product without being part of it.
#![forbid(unsafe_code)]

pub mod compare;
pub mod docker;
pub mod faultfs;
pub mod flip;
pub mod gate;
pub mod lab;
pub mod ops;
pub mod product;
pub mod trees;
pub mod writers;
