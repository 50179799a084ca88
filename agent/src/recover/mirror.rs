//! Reading the mirror: one directory at a time, from held descriptors, nothing followed.

use std::sync::Arc;

use proto::RelPath;
use sys::{Dir, Errno, Stat, SysError, WalkBuffer};

use crate::ledger::MirrorRoot;

/// Where the mirror hangs, as a handle that the copy engine's threads can hold.
#[derive(Clone)]
pub struct Root {
    held: Arc<Dir>,
    name: Option<Vec<u8>>,
}

impl Root {
    /// A handle of `root`.
    pub fn of(root: &MirrorRoot) -> Self {
        let (held, name) = root.place();
        Self { held: held.clone(), name: name.map(<[u8]>::to_vec) }
    }

    /// A handle of any other tree, held by its root.
    pub fn at(held: Arc<Dir>) -> Self {
        Self { held, name: None }
    }

    /// Opens a directory of the mirror from its root: never through what was held before.
    ///
    /// # Errors
    /// [`is_absent`] ones when it is no directory of the mirror (any more).
    pub fn dir(&self, path: &RelPath) -> Result<Dir, SysError> {
        let mut at = match &self.name {
            None => self.held.reopen()?,
            Some(name) => self.held.open_dir(name)?,
        };
        for component in path.components() {
            at = at.open_dir(component)?;
        }
        Ok(at)
    }

    /// Opens the directory `name` in `above`, which is `path`, and lists it. One that was replaced meanwhile is
    /// found again, once, from the root.
    ///
    /// # Errors
    /// As [`Root::dir`].
    pub fn list(&self, above: &Dir, name: &[u8], path: &RelPath) -> Result<Listed, SysError> {
        match above.open_dir(name).and_then(Listed::read) {
            Err(e) if is_absent(e.errno) => Listed::read(self.dir(path)?),
            other => other,
        }
    }

    /// Finds a file again from the root: its directory, and what it is now.
    ///
    /// # Errors
    /// As [`Root::dir`].
    pub fn find(&self, path: &RelPath) -> Result<(Arc<Dir>, Stat), SysError> {
        let Some((above, name)) = path.split_last() else {
            return Err(SysError::new("find", b".", Errno::ISDIR));
        };
        let dir = self.dir(&above)?;
        let stat = dir.stat(name)?;
        Ok((Arc::new(dir), stat))
    }
}

/// A directory of the mirror and the inode number of each name in it.
pub struct Listed {
    /// Open.
    pub dir: Arc<Dir>,
    /// Device of its files.
    pub dev: (u32, u32),
    bytes: Vec<u8>,
    names: Vec<(u32, u16, u64)>,
}

impl Listed {
    /// Reads a directory.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn read(dir: Dir) -> Result<Self, SysError> {
        let dev = dir.stat_self()?.dev;
        let (mut bytes, mut names) = (Vec::new(), Vec::new());
        dir.read(&mut WalkBuffer::default(), |entry| {
            names.push((bytes.len() as u32, entry.name.len() as u16, entry.ino));
            bytes.extend_from_slice(entry.name);
        })?;
        names.sort_unstable_by(|a, b| span(&bytes, a).cmp(span(&bytes, b)));
        Ok(Self { dir: Arc::new(dir), dev, bytes, names })
    }

    /// Inode number of a name, as the listing told it.
    pub fn ino(&self, name: &[u8]) -> Option<u64> {
        let at = self.names.binary_search_by(|at| span(&self.bytes, at).cmp(name)).ok()?;
        Some(self.names[at].2)
    }
}

fn span<'a>(bytes: &'a [u8], (start, len, _): &(u32, u16, u64)) -> &'a [u8] {
    &bytes[*start as usize..*start as usize + *len as usize]
}

/// True for errnos that say that something else, or nothing, has the name: what a writer that moves on, or
/// somebody who changes the mirror by hand, leaves.
pub fn is_absent(errno: Errno) -> bool {
    [Errno::NOENT, Errno::STALE, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::INVAL, Errno::ISDIR]
        .contains(&errno)
}

/// True for errnos that say that one file cannot be read, and nothing of the others.
pub fn is_of_one_file(errno: Errno) -> bool {
    is_absent(errno)
        || [Errno::IO, Errno::ACCESS, Errno::PERM, Errno::NODATA, Errno::FBIG, Errno::TOOBIG].contains(&errno)
}
