//! Shell: resolves a mirror path component by component, on held descriptors.
//!
//! Symlinks are read and followed here, not by the kernel, so that one planted by another user is refused; and
//! each mountpoint is seen in the mount list before it is stepped on, so that a silent mount is knocked at first.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use sys::mount::{MountEntry, covering, read_mountinfo};

use crate::probe::{Knock, knock};
use crate::{FsKind, MirrorError};

/// As many as the kernel follows in one path.
const SYMLINKS_MAX: usize = 40;

/// Where a walk ended.
pub(crate) struct Walked {
    /// The directories passed, root first, each with the prefix of the given path that led to it (if it was not
    /// a symlink's target that did).
    pub trail: Vec<(PathBuf, PathBuf)>,
    /// The directory to hold, and its path without symlinks.
    pub dir: OwnedFd,
    pub dir_path: PathBuf,
    /// The mirror's name in it; `None` if the directory is the mirror, being the root of its mount.
    pub name: Option<OsString>,
}

/// How a walk can fail: for good, or on a directory that is not there, where the mount it would be on matters
/// more than the missing name.
pub(crate) enum Lost {
    Refused(MirrorError),
    Missing { parent: PathBuf, trail: Vec<(PathBuf, PathBuf)> },
}

impl From<MirrorError> for Lost {
    fn from(error: MirrorError) -> Lost {
        Lost::Refused(error)
    }
}

/// One directory held during the walk.
struct Place {
    fd: OwnedFd,
    path: PathBuf,
    facts: Facts,
}

/// What a walk needs to know about a file.
struct Facts {
    mount_id: u64,
    owner: u32,
    mode: u16,
}

/// A component still to take. `given` is the prefix of the original path that ends here, if it was written there.
struct Todo {
    name: OsString,
    given: Option<PathBuf>,
}

/// Resolves `path` until `begin + patience`; its last component need not exist.
pub(crate) fn walk(path: &Path, begin: Instant, patience: Duration) -> Result<Walked, Lost> {
    let mut walker =
        Walker { path, begin, patience, mounts: mounts()?, places: Vec::new(), trail: Vec::new() };
    walker.begin_at_root()?;

    let mut todo = components_of(path)?;
    let mut last_given: Option<PathBuf> = None;
    let mut symlinks = 0;
    let mut absent: Option<OsString> = None;
    while let Some(Todo { name, given }) = todo.pop() {
        if given.is_some() {
            // All that the previous component expanded to has been taken by now.
            walker.note(last_given.take());
            last_given = given;
        }
        if name == ".." {
            walker.leave();
            continue;
        }
        match walker.enter(&name)? {
            Entered::Directory => {}
            Entered::Absent if todo.is_empty() => absent = Some(name),
            Entered::Absent => {
                let parent = walker.here().path.join(&name);
                // It would be there, had it been mounted: say where each given prefix leads as far as it does.
                walker.trail.push((last_given.unwrap_or_else(|| parent.clone()), parent.clone()));
                return Err(Lost::Missing { parent, trail: walker.trail });
            }
            Entered::Symlink(target) => {
                symlinks += 1;
                if symlinks > SYMLINKS_MAX {
                    return Err(
                        MirrorError::SymlinkLoop { path: path.to_owned(), limit: SYMLINKS_MAX }.into()
                    );
                }
                if target.is_absolute() {
                    walker.begin_at_root()?;
                }
                todo.extend(names_of(&target).into_iter().rev().map(|name| Todo { name, given: None }));
            }
        }
    }
    Ok(walker.finish(absent, last_given)?)
}

struct Walker<'a> {
    path: &'a Path,
    begin: Instant,
    patience: Duration,
    mounts: Vec<MountEntry>,
    places: Vec<Place>,
    trail: Vec<(PathBuf, PathBuf)>,
}

enum Entered {
    Directory,
    Symlink(PathBuf),
    Absent,
}

impl Walker<'_> {
    fn here(&self) -> &Place {
        self.places.last().expect("a walk begins at the root and never leaves it")
    }

    fn begin_at_root(&mut self) -> Result<(), MirrorError> {
        self.places.clear();
        let root = Path::new("/");
        let failed = |errno| MirrorError::from_errno("open", root, root, errno);
        let fd = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        let facts = facts_of(&look(&fd).map_err(failed)?);
        self.places.push(Place { fd, path: root.to_owned(), facts });
        Ok(())
    }

    fn leave(&mut self) {
        if self.places.len() > 1 {
            self.places.pop();
        }
    }

    /// Remembers that the given prefix leads to where we are.
    fn note(&mut self, given: Option<PathBuf>) {
        let here = self.here().path.clone();
        self.trail.push((given.unwrap_or_else(|| here.clone()), here));
    }

    fn enter(&mut self, name: &OsStr) -> Result<Entered, MirrorError> {
        let path = self.here().path.join(name);
        let mountpoint = self.knock_before(&path)?;
        let failed = |act, errno| MirrorError::from_errno(act, &path, &mountpoint, errno);

        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&self.here().fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Entered::Absent),
            Err(errno) => return Err(failed("look up", errno)),
        };
        let stat = look(&fd).map_err(|errno| failed("look at", errno))?;
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => {
                self.places.push(Place { fd, path, facts: facts_of(&stat) });
                Ok(Entered::Directory)
            }
            FileType::Symlink => {
                self.trust_symlink(&path, &facts_of(&stat))?;
                let target =
                    readlinkat(&fd, "", Vec::new()).map_err(|errno| failed("read the symlink", errno))?;
                Ok(Entered::Symlink(PathBuf::from(OsString::from_vec(target.into_bytes()))))
            }
            _ => Err(MirrorError::NotADirectory { path }),
        }
    }

    /// A symlink is followed if only root or we can have put it there: it is ours, and so is the directory (or
    /// that is sticky), since whoever owns a directory may move somebody else's symlink into it.
    fn trust_symlink(&self, path: &Path, link: &Facts) -> Result<(), MirrorError> {
        const STICKY: u16 = 0o1000;
        const OTHERS_WRITE: u16 = 0o002;
        let directory = &self.here().facts;
        let us = rustix::process::geteuid().as_raw();
        let trusted = |uid| uid == 0 || uid == us;
        let open_to_all = directory.mode & OTHERS_WRITE != 0 && directory.mode & STICKY == 0;
        if trusted(link.owner) && trusted(directory.owner) && !open_to_all {
            return Ok(());
        }
        Err(MirrorError::ForeignSymlink {
            path: path.to_owned(),
            owner: link.owner,
            directory_owner: directory.owner,
        })
    }

    /// If looking at `path` means stepping onto a mount that may hang, has a child do it first. Answers with the
    /// mountpoint that covers the path.
    fn knock_before(&mut self, path: &Path) -> Result<PathBuf, MirrorError> {
        let Some(mount) = covering(&self.mounts, path) else { return Ok(PathBuf::from("/")) };
        let mountpoint = mount.mountpoint.clone();
        if mount.id == self.here().facts.mount_id || !FsKind::of(&mount.fstype).may_hang() {
            return Ok(mountpoint);
        }
        let is_automount = mount.fstype == "autofs";
        match knock(path, mount.id, self.begin + self.patience)? {
            Knock::Silent => Err(MirrorError::NotAnswering {
                path: self.path.to_owned(),
                mountpoint,
                waited: self.begin.elapsed(),
            }),
            Knock::Answered if is_automount => {
                self.mounts = mounts()?;
                match covering(&self.mounts, path) {
                    // The knock made it mount something, which has answered by the same token.
                    Some(mount) if mount.fstype != "autofs" => Ok(mount.mountpoint.clone()),
                    _ => Err(MirrorError::AutomountFailed { path: self.path.to_owned(), mountpoint }),
                }
            }
            Knock::Answered => Ok(mountpoint),
        }
    }

    fn finish(
        mut self,
        absent: Option<OsString>,
        last_given: Option<PathBuf>,
    ) -> Result<Walked, MirrorError> {
        if let Some(name) = absent {
            let here = self.places.pop().expect("a walk begins at the root and never leaves it");
            let mirror = here.path.join(&name);
            self.trail.push((last_given.unwrap_or_else(|| mirror.clone()), mirror));
            return Ok(Walked { trail: self.trail, dir: here.fd, dir_path: here.path, name: Some(name) });
        }
        self.note(last_given);
        let mirror = self.places.pop().expect("a walk begins at the root and never leaves it");
        let Some(parent) = self.places.pop() else {
            return Err(MirrorError::InvalidPath {
                path: self.path.to_owned(),
                why: "it leads to the root directory",
            });
        };
        if parent.facts.mount_id != mirror.facts.mount_id {
            return Ok(Walked { trail: self.trail, dir: mirror.fd, dir_path: mirror.path, name: None });
        }
        let name = mirror.path.file_name().map(OsStr::to_owned);
        Ok(Walked { trail: self.trail, dir: parent.fd, dir_path: parent.path, name })
    }
}

fn mounts() -> Result<Vec<MountEntry>, MirrorError> {
    read_mountinfo().map_err(|source| MirrorError::ReadMounts { source })
}

fn look(fd: &OwnedFd) -> Result<Statx, Errno> {
    statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

fn facts_of(stat: &Statx) -> Facts {
    Facts { mount_id: stat.stx_mnt_id, owner: stat.stx_uid, mode: stat.stx_mode }
}

/// The components of a mirror path as it was given, in the order they are popped.
fn components_of(path: &Path) -> Result<Vec<Todo>, MirrorError> {
    let refuse = |why| Err(MirrorError::InvalidPath { path: path.to_owned(), why });
    if !path.is_absolute() {
        return refuse("it is not absolute");
    }
    let mut given = PathBuf::from("/");
    let mut todo = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                given.push(name);
                todo.push(Todo { name: name.to_owned(), given: Some(given.clone()) });
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return refuse("it contains `..`"),
        }
    }
    if todo.is_empty() {
        return refuse("it is the root directory");
    }
    todo.reverse();
    Ok(todo)
}

/// The components of a symlink's target; `..` is kept, and taken back along the directories we came by.
fn names_of(target: &Path) -> Vec<OsString> {
    target
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
