//! The volume: a live tree that somebody else writes, pinned by its root.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::{Dir, Stat};

use crate::error::{Error, Result};

/// A pinned volume.
pub struct Volume {
    /// As the user gave it: a path or `docker:NAME`.
    pub given: String,
    /// Where it lies on this host.
    pub path: PathBuf,
    /// Its root, held open: nothing planted above or in place of it can lead us elsewhere.
    pub root: Arc<Dir>,
    /// What the root looked like when it was pinned.
    pub stat: Stat,
}

impl Volume {
    /// Pins the directory at `path`.
    ///
    /// # Errors
    /// [`Error::Volume`] when it is no directory, is a symlink, or cannot be read.
    pub fn pin(given: &str, path: &Path) -> Result<Self> {
        let refused = |why: String| Error::Volume { path: given.to_owned(), why };
        let root = Dir::open(path).map_err(|e| match e.errno {
            sys::Errno::NOENT => refused("does not exist".to_owned()),
            sys::Errno::NOTDIR | sys::Errno::LOOP => {
                refused("is not a directory, or is a symlink: name the directory itself".to_owned())
            }
            _ => refused(e.to_string()),
        })?;
        let stat = root.stat_self().map_err(|e| refused(e.to_string()))?;
        Ok(Self { given: given.to_owned(), path: path.to_owned(), root: Arc::new(root), stat })
    }

    /// Identity of the root: facts about inodes count only within it.
    pub fn id(&self) -> (u64, Option<proto::Time>) {
        (self.stat.ino, self.stat.btime.map(crate::index::time))
    }

    /// Proves that the path still leads to the pinned root.
    ///
    /// # Errors
    /// [`Error::Guard`] when the volume was unmounted, mounted over, replaced or turned into a symlink.
    pub fn still_there(&self) -> Result<()> {
        let now = Dir::open(&self.path).and_then(|dir| dir.stat_self());
        match now {
            Ok(now) if (now.ino, now.dev, now.mount) == (self.stat.ino, self.stat.dev, self.stat.mount) => {
                Ok(())
            }
            Ok(_) => Err(Error::Guard(format!(
                "{} is not the directory it was when this run began (replaced, or something was mounted or \
                 unmounted there): nothing was changed in the mirror. Check it and run the command again",
                self.given
            ))),
            Err(e) => Err(Error::Guard(format!("{} cannot be looked at any more: {e}", self.given))),
        }
    }
}
