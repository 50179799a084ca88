//! Shell: a mirror whose mount has been verified and is held open.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstatfs, openat, statx};
use sys::mount::{MountEntry, by_id, covering, parse_fstab, read_mountinfo};

use crate::walk::{Lost, Walked, walk};
use crate::{FsKind, MirrorError, MirrorSpec, MountIdentity};

/// `f_type` of everything behind `/dev/fuse`.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

/// A directory held inside a verified mount, and the name of the mirror in it.
///
/// As long as this lives, every operation through [`dir`](Self::dir) reaches the mount that was verified or
/// fails; it can never land on the directory below the mountpoint (P4). A mount that was detached meanwhile is
/// still reached: ask [`still_there`](Self::still_there) before and after a unit of work.
#[derive(Debug)]
pub struct PinnedMount {
    dir: OwnedFd,
    dir_path: PathBuf,
    name: Option<OsString>,
    mount_id: u64,
    dev: (u32, u32),
    identity: MountIdentity,
    kind: FsKind,
}

impl PinnedMount {
    /// Opens the mirror at `path`, whose last component need not exist yet, within `deadline`.
    ///
    /// Symlinks on the way are followed only if root or the caller planted them. Without a remembered identity
    /// to `expect`, a mount that `/etc/fstab` lists above the mirror must be there.
    ///
    /// # Errors
    /// Any [`MirrorError`]; nothing has been written anywhere.
    pub fn open(
        path: &Path,
        expect: Option<&MountIdentity>,
        deadline: Duration,
    ) -> Result<PinnedMount, MirrorError> {
        let spec = MirrorSpec::new(path).deadline(deadline);
        match expect {
            Some(identity) => spec.expect(identity.clone()).open(),
            None => spec.open(),
        }
    }

    /// Opens on a thread of its own: a mount can fall silent between the knock and the open.
    pub(crate) fn open_spec(spec: MirrorSpec) -> Result<PinnedMount, MirrorError> {
        /// The thread's own deadline comes first, since it can name the mount that is silent.
        const GRACE: Duration = Duration::from_millis(500);

        let begin = Instant::now();
        let path = spec.path.clone();
        let patience = spec.deadline + GRACE;
        let (answer, answered) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("open-mirror".into())
            // Nobody listens any more after the deadline; the descriptors are closed with the unsent value.
            .spawn(move || drop(answer.send(open_blocking(&spec, begin))))
            .map_err(|source| MirrorError::Open {
                act: "start a thread to open",
                path: path.clone(),
                source,
            })?;
        match answered.recv_timeout(patience) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(not_answering(path, begin.elapsed())),
            Err(RecvTimeoutError::Disconnected) => Err(MirrorError::Open {
                act: "open",
                path,
                source: io::Error::other("the thread that opened it panicked"),
            }),
        }
    }

    /// The directory that holds the mirror; the mirror itself if that [is the root of its
    /// mount](Self::is_mount_root). Open for reading, so it can be listed and synced.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The held directory's path, free of symlinks. For messages, not for opening.
    pub fn dir_path(&self) -> &Path {
        &self.dir_path
    }

    /// The mirror's name in [`dir`](Self::dir); `None` if that directory is the mirror.
    pub fn name(&self) -> Option<&OsStr> {
        self.name.as_deref()
    }

    /// Whether the mirror is the root of its mount, so that the ledger must live inside it.
    pub fn is_mount_root(&self) -> bool {
        self.name.is_none()
    }

    /// What to remember, and to expect the next time.
    pub fn identity(&self) -> &MountIdentity {
        &self.identity
    }

    /// The kind of filesystem.
    pub fn kind(&self) -> &FsKind {
        &self.kind
    }

    /// The kernel's id of the held mount; unique as long as this lives.
    pub fn mount_id(&self) -> u64 {
        self.mount_id
    }

    /// `(major, minor)` as files on it report them: for FUSE, the number of its connection.
    pub fn dev(&self) -> (u32, u32) {
        self.dev
    }

    /// Checks that the held mount is still the one a path walk would reach, and still writable. Asks the kernel
    /// only: it neither waits for the filesystem nor notices that the filesystem would not answer.
    ///
    /// # Errors
    /// `WrongMount`, `Remounted` (the same filesystem again: open anew), `ReadOnly` or `ReadMounts`.
    pub fn still_there(&self) -> Result<(), MirrorError> {
        let (mount_id, _) = mount_of(&self.dir, AtFlags::STATX_DONT_SYNC).map_err(|errno| {
            MirrorError::from_errno("look at", &self.dir_path, &self.identity.mountpoint, errno)
        })?;
        let mounts = mounts()?;
        let Some(found) = covering(&mounts, &self.dir_path) else {
            return Err(MirrorError::MountsMoved { path: self.mirror_path() });
        };
        let identity = MountIdentity::of(found);
        if identity != self.identity {
            return Err(wrong_mount(self.mirror_path(), &self.identity, identity));
        }
        if mount_id != self.mount_id || found.id != self.mount_id {
            return Err(MirrorError::Remounted { identity: Box::new(identity) });
        }
        writable(found)
    }

    /// The mirror's path, free of symlinks.
    fn mirror_path(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.dir_path.join(name),
            None => self.dir_path.clone(),
        }
    }
}

fn open_blocking(spec: &MirrorSpec, begin: Instant) -> Result<PinnedMount, MirrorError> {
    let walked = match walk(&spec.path, begin, spec.deadline) {
        Ok(walked) => walked,
        Err(Lost::Refused(error)) => return Err(error),
        Err(Lost::Missing { parent, trail }) => {
            // A missing directory is what a missing mount looks like: name that first.
            let mounts = mounts()?;
            if let Some(found) = covering(&mounts, &parent) {
                acceptable(spec, &trail, found)?;
            }
            return Err(MirrorError::ParentMissing { path: spec.path.clone(), parent });
        }
    };
    pin(spec, walked)
}

fn pin(spec: &MirrorSpec, walked: Walked) -> Result<PinnedMount, MirrorError> {
    let Walked { trail, dir: place, dir_path, name } = walked;
    let moved = || MirrorError::MountsMoved { path: spec.path.clone() };

    // The descriptor says which mount it is on; the list only says what that mount is.
    let (mount_id, _) = mount_of(&place, AtFlags::STATX_DONT_SYNC)
        .map_err(|e| MirrorError::from_errno("look at", &dir_path, &dir_path, e))?;
    let mounts = mounts()?;
    let found = by_id(&mounts, mount_id).ok_or_else(moved)?;
    if covering(&mounts, &dir_path).is_none_or(|top| top.id != mount_id) {
        return Err(moved());
    }
    acceptable(spec, &trail, found)?;
    writable(found)?;

    let failed = |act, errno| MirrorError::from_errno(act, &dir_path, &found.mountpoint, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(&place, ".", flags, Mode::empty()).map_err(|errno| failed("open", errno))?;
    let (held_id, dev) = mount_of(&dir, AtFlags::empty()).map_err(|errno| failed("look at", errno))?;
    let kind = FsKind::of(&found.fstype);
    if held_id != mount_id || (dev != found.dev && !numbers_subvolumes(&kind)) {
        return Err(moved());
    }
    let magic = fstatfs(&dir).map_err(|errno| failed("ask for the totals of", errno))?.f_type as u64;
    if kind.is_fuse() != (magic & 0xffff_ffff == FUSE_SUPER_MAGIC) {
        return Err(moved());
    }

    let identity = MountIdentity::of(found);
    Ok(PinnedMount { dir, dir_path, name, mount_id, dev, identity, kind })
}

/// The remembered mount and no other; or, the first time, none that is known to be missing.
fn acceptable(
    spec: &MirrorSpec,
    trail: &[(PathBuf, PathBuf)],
    found: &MountEntry,
) -> Result<(), MirrorError> {
    let identity = MountIdentity::of(found);
    match &spec.expect {
        Some(expected) if *expected == identity => Ok(()),
        Some(expected) => Err(wrong_mount(spec.path.clone(), expected, identity)),
        None => nothing_missing(spec, trail, found),
    }
}

/// Refuses if the fstab wants something mounted on a directory of the trail that lies below the covering mount.
fn nothing_missing(
    spec: &MirrorSpec,
    trail: &[(PathBuf, PathBuf)],
    found: &MountEntry,
) -> Result<(), MirrorError> {
    let text = match fs::read(&spec.fstab) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(MirrorError::ReadFstab { path: spec.fstab.clone(), source }),
    };
    let below = |path: &Path| path.starts_with(&found.mountpoint) && path != found.mountpoint;
    let end = trail.last().map_or(spec.path.as_path(), |(_, path)| path.as_path());
    for wanted in parse_fstab(&text) {
        // The line may name the directory without symlinks, or by the path that was given; a given directory
        // that the walk did not even reach is not mounted either.
        let by_name = end.starts_with(&wanted.mountpoint) && below(&wanted.mountpoint);
        let as_given = match trail.iter().find(|(given, _)| *given == wanted.mountpoint) {
            Some((_, path)) => below(path),
            None => spec.path.starts_with(&wanted.mountpoint) && wanted.mountpoint != Path::new("/"),
        };
        if wanted.fstype != "swap" && (by_name || as_given) {
            return Err(MirrorError::NotMounted {
                path: spec.path.clone(),
                wanted: Box::new(wanted),
                fstab: spec.fstab.clone(),
                found: Box::new(MountIdentity::of(found)),
            });
        }
    }
    Ok(())
}

fn writable(found: &MountEntry) -> Result<(), MirrorError> {
    if found.is_read_only() {
        return Err(MirrorError::ReadOnly { identity: Box::new(MountIdentity::of(found)) });
    }
    Ok(())
}

/// Whether files carry device numbers of their subvolume, which mountinfo does not list.
fn numbers_subvolumes(kind: &FsKind) -> bool {
    matches!(kind, FsKind::Local(name) if name == "btrfs" || name == "bcachefs")
}

/// Mount id and device of an open file. With `STATX_DONT_SYNC`, FUSE answers from what it knows, without asking
/// its daemon.
fn mount_of(fd: &OwnedFd, sync: AtFlags) -> Result<(u64, (u32, u32)), rustix::io::Errno> {
    let stat = statx(fd, "", AtFlags::EMPTY_PATH | sync, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
    Ok((stat.stx_mnt_id, (stat.stx_dev_major, stat.stx_dev_minor)))
}

fn mounts() -> Result<Vec<MountEntry>, MirrorError> {
    read_mountinfo().map_err(|source| MirrorError::ReadMounts { source })
}

fn wrong_mount(path: PathBuf, expected: &MountIdentity, found: MountIdentity) -> MirrorError {
    MirrorError::WrongMount { path, expected: Box::new(expected.clone()), found: Box::new(found) }
}

fn not_answering(path: PathBuf, waited: Duration) -> MirrorError {
    let mounts = read_mountinfo().unwrap_or_default();
    let mountpoint = covering(&mounts, &path).map_or_else(|| path.clone(), |mount| mount.mountpoint.clone());
    MirrorError::NotAnswering { path, mountpoint, waited }
}
