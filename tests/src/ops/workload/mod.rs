//! A random life of a directory: every kind of change a container can make, without end, from one seed.

mod change;
mod names;

use crate::compare::escape;
use crate::trees::Rng;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a name is, as far as choosing an operation for it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Dir,
    Symlink,
    /// FIFO, socket or device: never opened.
    Node,
}

/// Random operations on a real directory. It has to be the only one that changes names there.
#[derive(Debug)]
pub struct Workload {
    root: PathBuf,
    rng: Rng,
    /// Every name below the root, as bytes.
    entries: BTreeMap<Vec<u8>, Kind>,
    /// Steps done.
    steps: u64,
    /// Names above which removing becomes as likely as making.
    soft_limit: usize,
}

impl Workload {
    /// Works in `dir`, starting from what is in it. Needs root.
    ///
    /// # Errors
    /// When `dir` cannot be read.
    pub fn new(seed: u64, dir: &Path) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut todo = vec![Vec::new()];
        while let Some(at) = todo.pop() {
            let here: Vec<u8> = at;
            for entry in std::fs::read_dir(dir.join(std::ffi::OsStr::from_bytes(&here)))? {
                let entry = entry?;
                let name = names::joined(&here, entry.file_name().as_bytes());
                let kind = entry.file_type()?;
                let kind = if kind.is_dir() {
                    todo.push(name.clone());
                    Kind::Dir
                } else if kind.is_file() {
                    Kind::File
                } else if kind.is_symlink() {
                    Kind::Symlink
                } else {
                    Kind::Node
                };
                entries.insert(name, kind);
            }
        }
        Ok(Workload { root: dir.to_path_buf(), rng: Rng::new(seed), entries, steps: 0, soft_limit: 400 })
    }

    /// Lets the tree grow to about `names` before removals balance it.
    #[must_use]
    pub fn soft_limit(mut self, names: usize) -> Self {
        self.soft_limit = names;
        self
    }

    /// Names there are now.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Does one operation and says which; the same seed on the same start gives the same history.
    ///
    /// # Errors
    /// When the system refuses an operation that should work.
    pub fn step(&mut self) -> Result<String> {
        self.steps += 1;
        // A choice may have nothing to act on; in a tree of any size one of these has.
        for _ in 0..200 {
            let change = self.choose();
            if let Some(done) = self.act(change)? {
                return Ok(format!("{}: {done}", self.steps));
            }
        }
        bail!("step {}: no operation fits {} entries", self.steps, self.entries.len())
    }

    fn choose(&mut self) -> change::Change {
        let crowded = self.entries.len() > self.soft_limit;
        if crowded && self.rng.percent(40) {
            return *self.rng.pick(&change::REMOVALS);
        }
        *self.rng.pick(&change::ALL)
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(name))
    }
}

fn told(name: &[u8]) -> String {
    escape(name)
}
