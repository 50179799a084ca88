//! Comparing a tree with what a generation says of every path: content by hash, metadata, names, links.
//!
//! The tree is the mirror or the volume. In reading order: [`difference`] says what can differ, [`subject`] which
//! tree is judged and by which rules, [`links`] compares which names are one inode, [`listing`] reads both
//! sides of a directory, [`compare`] merges them.

mod compare;
mod difference;
mod links;
mod listing;
mod subject;

pub use compare::{Compared, compare};
pub use difference::{Difference, What};
pub use subject::Subject;
