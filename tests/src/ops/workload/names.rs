//! Chooses names for operations, and keeps the list of names in step with them.

use super::{Kind, Workload};
use crate::trees::odd_names;

/// Levels at which no further directory is made.
const DEPTH_MAX: usize = 12;

impl Workload {
    /// An existing name that the operation can act on.
    pub(super) fn existing(&mut self, fits: impl Fn(Kind) -> bool) -> Option<Vec<u8>> {
        let fitting: Vec<&Vec<u8>> =
            self.entries.iter().filter(|(_, kind)| fits(**kind)).map(|(name, _)| name).collect();
        if fitting.is_empty() { None } else { Some(fitting[self.rng.index(fitting.len())].clone()) }
    }

    /// A name that is free, in an existing directory; one in five at the top.
    pub(super) fn fresh(&mut self) -> Option<Vec<u8>> {
        let parent = if self.rng.percent(20) {
            Vec::new()
        } else {
            self.existing(|kind| kind == Kind::Dir).unwrap_or_default()
        };
        self.fresh_in(&parent)
    }

    /// A free name in one directory. Few are chosen from, so that names come back as something else.
    pub(super) fn fresh_in(&mut self, parent: &[u8]) -> Option<Vec<u8>> {
        if depth(parent) >= DEPTH_MAX {
            return None;
        }
        for _ in 0..10 {
            let leaf = if self.rng.percent(10) {
                self.rng.pick(&odd_names()).clone()
            } else {
                format!("n{}", self.rng.below(60)).into_bytes()
            };
            // Odd names are long; a path must stay one that plain calls can use.
            if parent.len() + leaf.len() > 3000 {
                continue;
            }
            let name = joined(parent, &leaf);
            if !self.entries.contains_key(&name) {
                return Some(name);
            }
        }
        None
    }

    /// Everything below a directory, not itself.
    pub(super) fn below(&self, dir: &[u8]) -> Vec<(Vec<u8>, Kind)> {
        let from = [dir, b"/"].concat();
        // '0' is the byte after '/'.
        let to = [dir, b"0"].concat();
        self.entries.range(from..to).map(|(name, kind)| (name.clone(), *kind)).collect()
    }

    /// Forgets a name and all below it.
    pub(super) fn forget(&mut self, name: &[u8]) -> Vec<(Vec<u8>, Kind)> {
        let mut gone = self.below(name);
        if let Some(kind) = self.entries.get(name) {
            gone.push((name.to_vec(), *kind));
        }
        for (name, _) in &gone {
            self.entries.remove(name);
        }
        gone
    }

    /// Takes in names that moved from `old` to `new`.
    pub(super) fn adopt(&mut self, moved: Vec<(Vec<u8>, Kind)>, old: &[u8], new: &[u8]) {
        for (name, kind) in moved {
            self.entries.insert([new, &name[old.len()..]].concat(), kind);
        }
    }
}

/// `dir/name`, or `name` at the top.
pub(super) fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Whether two names are the same or one lies below the other.
pub(super) fn related(x: &[u8], y: &[u8]) -> bool {
    let (short, long) = if x.len() < y.len() { (x, y) } else { (y, x) };
    long == short || (long.starts_with(short) && long[short.len()] == b'/')
}

fn depth(name: &[u8]) -> usize {
    name.iter().filter(|byte| **byte == b'/').count()
}
