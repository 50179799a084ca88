//! The tree of promise P8: everything a filesystem can hold that a copier is known to get wrong, in large numbers.

mod attributes;
mod bulk;
mod content;
mod names;
mod structure;

pub use names::odd_names;

use super::put::{Putter, Time, set_mtime};
use super::{Made, Rng};
use anyhow::{Context, Result};
use std::path::Path;

/// How to make the tree.
#[derive(Clone, Copy, Debug)]
pub struct FaithfulOptions {
    /// Names to make in all; the special parts alone need about 5,000.
    pub entries: u64,
    /// Seed of contents and of every choice.
    pub seed: u64,
    /// Also a file of 1 TiB that is nearly all hole, which a copy's filesystem may refuse.
    pub huge_sparse: bool,
    /// Also a socket and device nodes, which the policy leaves out.
    pub specials: bool,
}

impl FaithfulOptions {
    /// The usual tree with so many entries.
    pub fn entries(entries: u64) -> Self {
        FaithfulOptions { entries, seed: 1, huge_sparse: false, specials: true }
    }
}

/// Fills `dir` with the usual tree of `entries` names.
///
/// # Errors
/// When the filesystem refuses an entry, or when not run as root.
pub fn faithful(dir: &Path, entries: u64) -> Result<Made> {
    faithful_with(dir, &FaithfulOptions::entries(entries))
}

/// Fills `dir` with all parts, then sets the times of all directories.
///
/// # Errors
/// When the filesystem refuses an entry, or when not run as root.
pub fn faithful_with(dir: &Path, options: &FaithfulOptions) -> Result<Made> {
    let mut tree = Tree {
        times: stored_times(dir)?,
        put: Putter::new(dir),
        rng: Rng::new(options.seed),
        directories: Vec::new(),
    };
    names::build(&mut tree)?;
    attributes::build(&mut tree)?;
    structure::build(&mut tree, options)?;
    content::build(&mut tree, options)?;
    bulk::build(&mut tree, options.entries)?;
    // Deepest first, as making a directory comes before making what is in it.
    while let Some(name) = tree.directories.pop() {
        let time = tree.time();
        tree.put.mtime(&name, time)?;
    }
    Ok(tree.put.made)
}

/// The tree under construction.
struct Tree {
    put: Putter,
    rng: Rng,
    times: Vec<Time>,
    /// In the order of making.
    directories: Vec<Vec<u8>>,
}

impl Tree {
    fn dir(&mut self, name: &[u8]) -> Result<()> {
        self.put.dir(name)?;
        self.directories.push(name.to_vec());
        Ok(())
    }

    /// A small file whose bytes are its own.
    fn small(&mut self, name: &[u8]) -> Result<()> {
        let len = self.rng.between(1, 200) as usize;
        let bytes = self.rng.bytes(len);
        self.put.file(name, &bytes)?;
        Ok(())
    }

    /// One time in four an odd one, else an ordinary one with nanoseconds.
    fn time(&mut self) -> Time {
        if self.rng.percent(25) && !self.times.is_empty() {
            return *self.rng.pick(&self.times);
        }
        let seconds = 1_500_000_000 + self.rng.below(250_000_000) as i64;
        (seconds, self.rng.below(1_000_000_000) as u32)
    }
}

/// Odd times, from 1901 to the last second ext4 can hold.
const ODD_TIMES: [Time; 16] = [
    (-2_147_483_648, 0),
    (-2_145_916_800, 1),
    (-1, 0),
    (-1, 999_999_999),
    (0, 0),
    (0, 1),
    (1, 500_000_000),
    (946_684_799, 999_999_999),
    (2_147_483_647, 999_999_999),
    (2_147_483_648, 0),
    (4_294_967_295, 1),
    (4_294_967_296, 0),
    (4_300_000_000, 123_456_789),
    (8_589_934_592, 7),
    (12_884_901_888, 0),
    (15_032_385_535, 0),
];

/// Those of the odd times that this filesystem stores exactly; others it would silently round or clamp.
fn stored_times(dir: &Path) -> Result<Vec<Time>> {
    use std::os::unix::fs::MetadataExt;
    let probe = dir.join(".time-probe");
    std::fs::write(&probe, "").context("probe which times are stored")?;
    let mut stored = Vec::new();
    for time in ODD_TIMES {
        if set_mtime(&probe, time).is_ok() {
            let stat = probe.symlink_metadata()?;
            if (stat.mtime(), stat.mtime_nsec()) == (time.0, i64::from(time.1)) {
                stored.push(time);
            }
        }
    }
    std::fs::remove_file(&probe)?;
    Ok(stored)
}

/// `dir/name`.
fn below(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}
