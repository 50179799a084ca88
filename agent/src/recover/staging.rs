//! The fresh tree on its way to the target, and the one step in which it takes the target's place.

use std::sync::Arc;

use sys::{Dir, Errno};

use super::place::{Lock, Now, Place, parse_ready};
use crate::error::{Error, Result};

/// A fresh place beside the target. [`Staging::abandon`] or [`Staging::end`] leaves nothing of it behind.
pub struct Staging {
    place: Place,
    dir: Dir,
    name: Vec<u8>,
    /// Backups of swaps that an earlier run did not end.
    pub finished: Vec<String>,
    _lock: Lock,
}

impl Staging {
    /// Takes a staging directory that [`Place::begin`] made.
    pub(super) fn new(place: Place, dir: Dir, name: Vec<u8>, finished: Vec<String>, lock: Lock) -> Self {
        Self { place, dir, name, finished, _lock: lock }
    }

    /// Where it goes.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A new empty tree, open.
    ///
    /// # Errors
    /// [`Error::Target`].
    pub fn tree(&self, name: &[u8]) -> Result<Arc<Dir>> {
        let make = || {
            self.dir.mkdir(name, 0o700)?;
            self.dir.open_dir(name).map(Arc::new)
        };
        make().map_err(|e| self.place.failed("make a tree in the staging directory", e))
    }

    /// Removes a tree.
    ///
    /// # Errors
    /// [`Error::Target`].
    pub fn remove(&self, name: &[u8]) -> Result<()> {
        self.dir
            .remove_tree(name)
            .map(drop)
            .map_err(|e| self.place.failed("remove a tree it no longer needs", e))
    }

    /// Makes the tree `name` durable and puts it in the target's place. Returns the name of the backup, if the
    /// target held anything.
    ///
    /// # Errors
    /// [`Error::Target`]: the target is as it was.
    pub fn swap(&self, name: &[u8]) -> Result<Option<String>> {
        let place = &self.place;
        let failed = |act: &'static str| move |e| place.failed(act, e);
        let ino = self.dir.stat(name).map_err(failed("look at the fresh tree"))?.ino;
        let ready = format!("ready-{ino}").into_bytes();
        self.dir.rename(name, &self.dir, &ready).map_err(failed("complete the fresh tree"))?;
        sys::file::sync_filesystem(&self.dir, b"staging").map_err(failed("make the fresh tree durable"))?;
        place.unused()?;
        let put = failed("put the fresh tree in its place");
        if place.now()? != Now::Filled {
            // Over an empty directory rename replaces it, in one step; over one that got content it fails.
            self.dir.rename(&ready, &place.parent, &place.name).map_err(put)?;
            self.sync(&place.parent);
            return Ok(None);
        }
        let backup = place.keep.prepare(&place.parent, &place.name, place.shown())?;
        match self.dir.exchange(&ready, &place.parent, &place.name) {
            Ok(()) => {
                self.sync(&place.parent);
                let moved = self.dir.rename(&ready, &backup.dir, &backup.name);
                moved.map_err(|e| Error::Target {
                    path: place.shown().to_owned(),
                    why: format!(
                        "holds the new content, but the old could not be moved to {}: {e}. It lies in {}; the next \
                         recovery of this target moves it",
                        backup.shown,
                        proto::path::Escaped(&self.name)
                    ),
                })?;
            }
            Err(e) if [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&e.errno) => {
                // A file system without exchange: for a moment the target is absent, with both beside it.
                place.parent.rename(&place.name, &backup.dir, &backup.name).map_err(put)?;
                if let Err(e) = self.dir.rename(&ready, &place.parent, &place.name) {
                    let _ = backup.dir.rename(&backup.name, &place.parent, &place.name);
                    return Err(put(e));
                }
            }
            Err(e) => return Err(put(e)),
        }
        self.sync(&place.parent);
        self.sync(&backup.dir);
        Ok(Some(backup.shown))
    }

    /// Renames are ordered after the content by the file system itself; this only makes them last.
    fn sync(&self, dir: &Dir) {
        if let Err(error) = sys::file::sync(dir, b".") {
            tracing::warn!(%error, "the swap is done, but may be undone by a crash of this host in the next seconds");
        }
    }

    /// Gives up: removes the staging directory, and the volume if it was made for this.
    pub fn abandon(self) {
        let place = &self.place;
        for name in self.dir.names().unwrap_or_default() {
            // The old content of a swap that could not be ended is not ours to remove.
            let ours = match (parse_ready(&name), self.dir.stat(&name)) {
                (Some(ino), Ok(stat)) => stat.ino == ino,
                (Some(_), Err(_)) => false,
                (None, _) => true,
            };
            if ours {
                let _ = self.dir.remove_tree(&name);
            }
        }
        let _ = place.parent.rmdir(&self.name);
        place.uncreate();
    }

    /// Ends after the swap.
    pub fn end(self) {
        let _ = self.place.parent.rmdir(&self.name);
    }
}
