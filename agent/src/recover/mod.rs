//! Filling a directory or Docker volume from the last generation: into a fresh place, proven, then swapped in.
//!
//! In reading order: [`place`] is where it goes, [`staging`] how it takes the old content's place, [`backup`] where that
//! is kept, [`fill`] makes the tree of one generation from mirror and index, [`dress`] gives its directories
//! their metadata, [`run`] drives it until the tree is exactly one generation.

mod backup;
mod dress;
mod fill;
mod jobs;
mod links;
mod mirror;
mod place;
mod run;
mod staging;
mod tree;

pub use fill::SpecialBits;
pub(crate) use jobs::{answer, called};
pub use links::{LinkKey, link_key};
pub use mirror::{Listed, Root, is_absent, is_of_one_file};
pub use place::{Place, apart};
pub use run::{Options, Report, recover};
