//! A tree of names below a held directory, resolved one component at a time.

use std::sync::Arc;

use proto::RelPath;
use sys::{Dir, SysError};

/// Resolves paths below a root, keeping the directories of the last one.
pub struct Tree {
    root: Arc<Dir>,
    held: Vec<(Vec<u8>, Arc<Dir>)>,
}

impl Tree {
    /// Starts with only the root held.
    pub fn new(root: Arc<Dir>) -> Self {
        Self { root, held: Vec::new() }
    }

    /// The directory at `path`.
    ///
    /// # Errors
    /// Of the first component that fails.
    pub fn dir(&mut self, path: &RelPath) -> Result<Arc<Dir>, SysError> {
        for (depth, component) in path.components().enumerate() {
            if self.held.get(depth).is_some_and(|(name, _)| name == component) {
                continue;
            }
            self.held.truncate(depth);
            let above = self.held.last().map_or(&self.root, |(_, dir)| dir);
            let next = above.hold_dir(component)?;
            self.held.push((component.to_vec(), Arc::new(next)));
        }
        let depth = path.depth();
        Ok(if depth == 0 { self.root.clone() } else { self.held[depth - 1].1.clone() })
    }
}
