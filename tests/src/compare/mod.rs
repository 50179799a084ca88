//! The oracle: says in which ways two trees differ, knowing nothing of the product that made them so.
//!
//! It reads with plain calls only (`openat`, `pread`, `getxattr`), relative to held descriptors, and keeps its stack
//! flat however deep the tree is. Both trees must be at rest while it looks.

mod attrs;
mod content;
mod entry;
mod links;
mod options;
mod report;
mod walk;

pub use options::{Capability, Options, SpecialBits, Specials};
pub use report::{Aspect, Difference, Report, escape};

use std::path::Path;

/// Compares tree `a`, the truth, with tree `b`, the copy that is judged.
///
/// # Errors
/// Only when a root cannot be opened; whatever cannot be read inside is a difference of its own.
pub fn compare(a: &Path, b: &Path, options: &Options) -> anyhow::Result<Report> {
    walk::compare(a, b, options)
}

/// Panics with the list of differences unless `b` equals `a` under `options`; hands the counts back.
///
/// # Panics
/// When the trees differ or a root cannot be opened.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path, options: &Options) -> Report {
    let report = match compare(a, b, options) {
        Ok(report) => report,
        Err(error) => panic!("cannot compare {} with {}: {error:#}", a.display(), b.display()),
    };
    assert!(report.is_same(), "{} differs from {}:\n{report}", b.display(), a.display());
    report
}
