//! The mirror as a tree of names: from a pinned directory, one component at a time.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fsprobe::PinnedMount;
use proto::RelPath;
use sys::{Dir, Errno, SysError};

use crate::error::{Error, Result, on_mirror};

/// Where the mirror hangs.
pub struct MirrorRoot {
    pinned: PinnedMount,
    /// The pinned directory: the mirror's parent, or the mirror itself where it is the root of its mount.
    held: Arc<Dir>,
    name: Option<Vec<u8>>,
}

impl MirrorRoot {
    /// Takes a pinned and verified mount.
    ///
    /// # Errors
    /// [`Error::Mirror`] when the held directory cannot be opened again.
    pub fn new(pinned: PinnedMount) -> Result<Self> {
        let name = pinned.name().map(|name| name.as_bytes().to_vec());
        let fd = pinned
            .dir()
            .try_clone_to_owned()
            .map_err(|e| SysError::new("dup", b"", Errno::from_io_error(&e).unwrap_or(Errno::MFILE)))
            .map_err(on_mirror(|| format!("hold {}", pinned.dir_path().display())))?;
        Ok(Self { held: Arc::new(Dir::from_fd(fd)), name, pinned })
    }

    /// The pinned mount.
    pub fn pinned(&self) -> &PinnedMount {
        &self.pinned
    }

    /// The pinned directory and, unless the mirror is the root of its mount, the mirror's name in it.
    pub fn place(&self) -> (&Arc<Dir>, Option<&[u8]>) {
        (&self.held, self.name.as_deref())
    }

    /// The mirror's path as the user knows it.
    pub fn path(&self) -> std::path::PathBuf {
        match &self.name {
            Some(name) => self.pinned.dir_path().join(OsStr::from_bytes(name)),
            None => self.pinned.dir_path().to_owned(),
        }
    }

    /// Opens the mirror; nothing if it does not exist yet.
    ///
    /// # Errors
    /// [`Error::Guard`] when something else has its name.
    pub fn open(&self) -> Result<Option<Dir>> {
        let opened = match &self.name {
            None => self.held.reopen(),
            Some(name) => self.held.open_dir(name),
        };
        match opened {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.errno == Errno::NOENT => Ok(None),
            Err(e) if [Errno::NOTDIR, Errno::LOOP].contains(&e.errno) => Err(Error::Guard(format!(
                "{} is not a directory: give the mirror a name of its own",
                self.path().display()
            ))),
            Err(e) => Err(on_mirror(|| format!("open the mirror {}", self.path().display()))(e)),
        }
    }
}

/// Resolves mirror paths to a held parent directory and a name, keeping the directories of the last path:
/// sorted paths cost one look-up per new component.
pub struct MirrorDirs<'a> {
    root: &'a MirrorRoot,
    /// Components of the held path and their directories; the first is the mirror itself.
    held: Vec<(Vec<u8>, Arc<Dir>)>,
}

impl<'a> MirrorDirs<'a> {
    /// Starts with nothing held.
    pub fn new(root: &'a MirrorRoot) -> Self {
        Self { root, held: Vec::new() }
    }

    /// The directory at `path`, held for acts on names in it.
    ///
    /// # Errors
    /// The kernel's errno for the first component that fails.
    pub fn dir(&mut self, path: &RelPath) -> Result<Arc<Dir>, SysError> {
        if self.held.is_empty() {
            let mirror = match self.root.place() {
                (held, None) => held.clone(),
                (held, Some(name)) => Arc::new(held.hold_dir(name)?),
            };
            self.held.push((Vec::new(), mirror));
        }
        let mut depth = 1;
        for component in path.components() {
            match self.held.get(depth) {
                Some((name, _)) if name == component => {}
                _ => {
                    self.held.truncate(depth);
                    let next = self.held[depth - 1].1.hold_dir(component)?;
                    self.held.push((component.to_vec(), Arc::new(next)));
                }
            }
            depth += 1;
        }
        Ok(self.held[depth - 1].1.clone())
    }

    /// The directory that holds `path`, and its name there. Of the root: the pinned directory.
    ///
    /// # Errors
    /// As [`MirrorDirs::dir`]; `EBUSY` for the root of a mirror that is the root of its mount.
    pub fn parent<'p>(
        &mut self,
        path: &'p RelPath,
    ) -> Result<(Arc<Dir>, std::borrow::Cow<'p, [u8]>), SysError> {
        let Some((parent, _)) = path.split_last() else {
            let (held, name) = self.root.place();
            let name = name.ok_or_else(|| SysError::new("replace mount root", b".", Errno::BUSY))?;
            self.held.clear();
            return Ok((held.clone(), name.to_vec().into()));
        };
        let at = path.as_bytes().len() - path.as_bytes().iter().rev().take_while(|b| **b != b'/').count();
        Ok((self.dir(&parent)?, path.as_bytes()[at..].into()))
    }
}
