//! Where a recovery goes: a fresh tree beside the target on the same file system, and the swap.
//!
//! ```text
//! PARENT/NAME                                 the target
//! PARENT/.NAME.tidegate-recover.lock          held while a recovery of this target runs
//! PARENT/.NAME.tidegate-recover-<random>/     0700, of one run
//!     fill-<round>                            being filled
//!     ready-<ino>                             complete, and named after its own inode
//! PARENT/NAME-backup-<time>                   what the target held before
//! ```
//! The swap exchanges `ready-<ino>` with the target in one step, then moves what came back to the backup's name.
//! A run that dies between the two leaves a `ready-<ino>` that is another inode than its name says: the old
//! content, which the next run brings to its backup instead of removing it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use sys::{Dir, Errno, FileKind, Meta, SysError, WalkBuffer};

use super::backup::Keep;
use super::staging::Staging;
use crate::docker::{Container, Docker, DockerError, VolumeRef};
use crate::error::{Error, Result};

/// Longest name that appears in full in the names beside it.
const STEM_MAX: usize = 180;

/// A target: a name in a held directory.
pub struct Place {
    pub(super) parent: Arc<Dir>,
    pub(super) name: Vec<u8>,
    path: PathBuf,
    shown: String,
    pub(super) keep: Keep,
    /// Of a Docker volume that this run created: removed again if nothing comes of it.
    created: bool,
}

/// What the target is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    Absent,
    Empty,
    Filled,
}

impl Place {
    /// The target a user names: a directory (which need not exist), or `docker:NAME`.
    ///
    /// # Errors
    /// [`Error::Target`] with what is wrong and what to do; [`Error::Docker`].
    pub fn open(given: &str) -> Result<Self> {
        if !VolumeRef::is_meant_by(given) {
            return Self::directory(given);
        }
        let VolumeRef(name) =
            given.parse().map_err(|e: crate::docker::VolumeNameError| refused(given, &e.to_string()))?;
        let docker = Docker::connect()?;
        let (volume, created) = match docker.inspect_volume(&name) {
            Ok(volume) => (volume, false),
            Err(DockerError::NoSuchVolume { .. }) => {
                (docker.create_volume(&name, &std::collections::BTreeMap::new())?, true)
            }
            Err(error) => return Err(error.into()),
        };
        let path = volume.directory()?.to_owned();
        let place = Self::at(given, &path, Keep::Volume { docker, name }, created)?;
        place.unused()?;
        Ok(place)
    }

    fn directory(given: &str) -> Result<Self> {
        let path = crate::lane::absolute(Path::new(given))?;
        Self::at(given, &path, Keep::Beside, false)
    }

    fn at(given: &str, path: &Path, keep: Keep, created: bool) -> Result<Self> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refused(given, "is no name of a directory of its own: give its full name"));
        };
        let above = above.canonicalize().map_err(|e| {
            refused(given, &format!("the directory above it, {}, cannot be found: {e}", above.display()))
        })?;
        let parent = Dir::open(&above).map_err(|e| refused(given, &e.to_string()))?;
        let place = Self {
            parent: Arc::new(parent),
            path: above.join(name),
            name: name.as_bytes().to_vec(),
            shown: given.to_owned(),
            keep,
            created,
        };
        place.now()?;
        Ok(place)
    }

    /// The target as the user named it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Where it lies, free of symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True for a Docker volume, whose data root is closed to ordinary users.
    pub fn is_volume(&self) -> bool {
        matches!(self.keep, Keep::Volume { .. })
    }

    /// Refuses a Docker volume that a container may be writing to.
    ///
    /// # Errors
    /// [`Error::Target`] with the containers' names.
    pub fn unused(&self) -> Result<()> {
        let Keep::Volume { docker, name } = &self.keep else { return Ok(()) };
        let using: Vec<Container> =
            docker.containers_using(name)?.into_iter().filter(|c| c.state.may_write()).collect();
        if using.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = using.iter().map(|c| format!("{} ({})", c.name, c.state)).collect();
        let stop: Vec<&str> = using.iter().map(|c| c.name.as_str()).collect();
        Err(refused(
            &self.shown,
            &format!(
                "is in use by {}; nothing was changed. Stop what uses it first (docker stop {}), then run the \
                 command again",
                named.join(", "),
                stop.join(" ")
            ),
        ))
    }

    pub(super) fn now(&self) -> Result<Now> {
        let stat = match self.parent.stat(&self.name) {
            Ok(stat) => stat,
            Err(e) if e.errno == Errno::NOENT => return Ok(Now::Absent),
            Err(e) => return Err(self.failed("look at it", e)),
        };
        match stat.kind {
            FileKind::Dir if stat.mount_root => Err(refused(
                &self.shown,
                "is a mount point and cannot be exchanged as a whole: recover into a directory below it",
            )),
            FileKind::Dir => {
                let dir = self.parent.open_dir(&self.name).map_err(|e| self.failed("open it", e))?;
                let mut empty = true;
                dir.read(&mut WalkBuffer::default(), |_| empty = false)
                    .map_err(|e| self.failed("list it", e))?;
                Ok(if empty { Now::Empty } else { Now::Filled })
            }
            FileKind::Symlink => Err(refused(&self.shown, "is a symlink: name the directory itself")),
            _ => Err(refused(
                &self.shown,
                "is not a directory; nothing was changed. Move it away, or name another",
            )),
        }
    }

    /// An error about the target.
    pub fn failed(&self, act: &str, source: SysError) -> Error {
        let way_out = match source.errno {
            Errno::NOSPC | Errno::DQUOT => {
                "; the fresh copy needs its whole size beside the old content until it takes its place"
            }
            Errno::PERM | Errno::ACCESS => "; owners and modes can be restored by root only",
            _ => "",
        };
        Error::Target { path: self.shown.clone(), why: format!("{act}: {source}{way_out}. It is as it was") }
    }

    fn stem(&self) -> Vec<u8> {
        let mut stem = vec![b'.'];
        if self.name.len() <= STEM_MAX {
            stem.extend_from_slice(&self.name);
        } else {
            stem.extend_from_slice(&self.name[..STEM_MAX - 33]);
            stem.push(b'.');
            stem.extend_from_slice(&blake3::hash(&self.name).to_hex().as_bytes()[..32]);
        }
        stem.extend_from_slice(b".tidegate-recover");
        stem
    }

    /// Takes the target's lock, clears away what killed runs left, and makes a fresh staging directory.
    ///
    /// # Errors
    /// [`Error::Target`]: another recovery of this target runs, or the file system refuses.
    pub fn begin(self) -> Result<Staging> {
        let lock = self.lock()?;
        let finished = self.clear_leftovers()?;
        let mut name = self.stem();
        name.extend_from_slice(format!("-{:016x}", u64::from_le_bytes(sys::host::random())).as_bytes());
        let make = || {
            self.parent.mkdir(&name, 0o700)?;
            let dir = self.parent.open_dir(&name)?;
            plain(&dir, &name)?;
            Ok(dir)
        };
        let dir = make().map_err(|e| self.failed("make a staging directory beside it", e))?;
        Ok(Staging::new(self, dir, name, finished, lock))
    }

    fn lock(&self) -> Result<Lock> {
        let mut name = self.stem();
        name.extend_from_slice(b".lock");
        let act = "take its lock";
        // Each turn lost means that another recovery just ended: a few of them are more than ever happen.
        for _ in 0..16 {
            let opened = match self.parent.create(&name, 0o600) {
                Err(e) if e.errno == Errno::EXIST => self.parent.open_file(&name).map(|(fd, _)| fd),
                other => other,
            };
            let fd = match opened {
                Err(e) if e.is_gone() => continue,
                other => other.map_err(|e| self.failed(act, e))?,
            };
            let ours = sys::file::stat(&fd, &name).map_err(|e| self.failed(act, e))?;
            let held = match Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock) {
                Ok(held) => held,
                Err((_, nix::errno::Errno::EAGAIN)) => {
                    return Err(refused(&self.shown, "another recovery of it is running; wait for that one"));
                }
                Err((_, errno)) => {
                    let errno = Errno::from_raw_os_error(errno as i32);
                    return Err(self.failed(act, SysError::new("flock", &name, errno)));
                }
            };
            // The name may have been removed by its last holder between our open and our lock.
            match self.parent.stat(&name) {
                Ok(now) if now.ino == ours.ino => {
                    return Ok(Lock { parent: self.parent.clone(), name, _held: held });
                }
                Ok(_) => {}
                Err(e) if e.is_gone() => {}
                Err(e) => return Err(self.failed(act, e)),
            }
        }
        Err(refused(&self.shown, "other recoveries of it come and go; run the command again"))
    }

    /// Removes what killed runs left; completes a swap that was cut. The lock is held: nobody works in there.
    fn clear_leftovers(&self) -> Result<Vec<String>> {
        let mut prefix = self.stem();
        prefix.push(b'-');
        let act = "clear away what an earlier run left";
        let failed = |e| self.failed(act, e);
        let mut finished = Vec::new();
        for name in self.parent.names().map_err(failed)? {
            if !name.starts_with(&prefix) {
                continue;
            }
            let dir = match self.parent.open_dir(&name) {
                Ok(dir) => dir,
                // Not a directory, so none of ours.
                Err(e) if [Errno::NOTDIR, Errno::LOOP].contains(&e.errno) => continue,
                Err(e) => return Err(failed(e)),
            };
            for child in dir.names().map_err(failed)? {
                let ino = dir.stat(&child).map_err(failed)?.ino;
                if parse_ready(&child).is_some_and(|staged| staged != ino) {
                    let backup = self.keep.prepare(&self.parent, &self.name, &self.shown)?;
                    dir.rename(&child, &backup.dir, &backup.name).map_err(failed)?;
                    finished.push(backup.shown);
                } else {
                    dir.remove_tree(&child).map_err(failed)?;
                }
            }
            self.parent.rmdir(&name).map_err(failed)?;
        }
        Ok(finished)
    }

    /// Removes the Docker volume again that was created for a recovery that failed.
    pub(super) fn uncreate(&self) {
        // Docker removes the files with the volume: never one that holds anything.
        if let (true, Keep::Volume { docker, name }, Ok(Now::Empty)) = (self.created, &self.keep, self.now())
        {
            // Best effort: what stays is an empty volume.
            let _ = docker.remove_volume(name);
        }
    }
}

/// A directory that hands nothing down: neither the setgid bit nor default ACLs of the directory it was made in.
fn plain(dir: &Dir, name: &[u8]) -> Result<(), SysError> {
    let (uid, gid) = sys::host::effective_owner();
    let mtime = dir.stat_self()?.mtime;
    let meta = Meta { mode: 0o700, uid, gid, mtime, xattrs: Vec::new() };
    sys::meta::reapply(dir.as_fd(), &meta, name).map(drop)
}

/// The inode that a complete tree is named after.
pub(super) fn parse_ready(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name.strip_prefix(b"ready-")?).ok()?.parse().ok()
}

/// The lock of one target; removed when dropped.
pub struct Lock {
    parent: Arc<Dir>,
    name: Vec<u8>,
    _held: Flock<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while held: who opened it before finds that the name is gone, and starts again.
        let _ = self.parent.unlink(&self.name);
    }
}

/// Refuses a target and a mirror that lie inside each other.
///
/// # Errors
/// [`Error::Target`].
pub fn apart(place: &Place, mirror: &Path) -> Result<()> {
    let parent = mirror.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
    let mirror = match (parent, mirror.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => mirror.to_owned(),
    };
    let ledger = mirror.with_file_name(OsStr::from_bytes(proto::names::LEDGERS));
    let inside = |a: &Path, b: &Path| a.starts_with(b);
    if inside(place.path(), &mirror) || inside(&mirror, place.path()) || inside(place.path(), &ledger) {
        return Err(refused(
            place.shown(),
            &format!("target and mirror ({}) must not lie inside each other", mirror.display()),
        ));
    }
    Ok(())
}

pub(super) fn refused(shown: &str, why: &str) -> Error {
    Error::Target { path: shown.to_owned(), why: why.to_owned() }
}
