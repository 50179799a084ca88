//! A held directory, and every act on the names in it.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, RawDir, ResolveFlags};

use crate::error::{Errno, SysError, ctx};
use crate::stat::{LOOK, Stat, WANTED};

/// A directory held open. Acts on it name one component at a time and never follow a symlink.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// Its read position is not at the start any more.
    was_read: bool,
}

/// Type of a directory entry as `getdents64` tells it; `Unknown` on file systems that do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryType {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// Anything else that is known.
    Other,
    /// The file system does not say: ask `stat`.
    Unknown,
}

/// One name of a directory; borrowed from the walk buffer.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name, any bytes but `/` and NUL.
    pub name: &'a [u8],
    /// Its inode number (of the covered directory, at a mount point).
    pub ino: u64,
    /// Its type, as far as known.
    pub kind: EntryType,
}

/// Memory for `getdents64`: 64 KiB takes about 1,600 names per call.
pub struct WalkBuffer(Vec<MaybeUninit<u8>>);

impl Default for WalkBuffer {
    fn default() -> Self {
        Self(vec![MaybeUninit::uninit(); 64 << 10])
    }
}

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const HOLD_FLAGS: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Set once `openat2` was refused (seccomp, systemd's RestrictSUIDSGID, kernels before 5.6).
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

impl Dir {
    /// Opens the directory at an absolute or relative `path`; the last component must not be a symlink.
    ///
    /// # Errors
    /// `ENOTDIR` or `ELOOP` when the last component is a symlink or no directory; the kernel's errno otherwise.
    pub fn open(path: &Path) -> Result<Self, SysError> {
        let fd = rfs::open(path, DIR_FLAGS, Mode::empty())
            .map_err(ctx("open directory", path.as_os_str().as_bytes()))?;
        Ok(Self { fd, was_read: false })
    }

    /// Takes a directory descriptor that was opened for reading elsewhere.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, was_read: false }
    }

    /// Opens the directory `name`: not through a symlink, not across a mount point.
    ///
    /// # Errors
    /// `EXDEV` at a mount point, `ENOTDIR`/`ELOOP` where `name` is something else by now.
    pub fn open_dir(&self, name: &[u8]) -> Result<Self, SysError> {
        self.open_as(name, DIR_FLAGS)
    }

    /// Holds the directory `name` only to act on names in it: it can be neither listed nor changed itself, and
    /// on a mirror it costs one look-up instead of an open.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn hold_dir(&self, name: &[u8]) -> Result<Self, SysError> {
        self.open_as(name, HOLD_FLAGS)
    }

    fn open_as(&self, name: &[u8], flags: OFlags) -> Result<Self, SysError> {
        let component = one(name)?;
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            match rfs::openat2(&self.fd, component, flags, Mode::empty(), within) {
                Ok(fd) => return Ok(Self { fd, was_read: false }),
                // EPERM too: some seccomp profiles answer that for unknown calls. The walk below then decides.
                Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
                Err(errno) => return Err(SysError::new("open directory", name, errno)),
            }
        }
        let fd = rfs::openat(&self.fd, component, DIR_FLAGS, Mode::empty())
            .map_err(ctx("open directory", name))?;
        let dir = Self { fd, was_read: false };
        let (here, there) = (self.stat_self()?, dir.stat_self()?);
        if here.mount != there.mount || here.dev != there.dev {
            return Err(SysError::new("open directory", name, Errno::XDEV));
        }
        Ok(dir)
    }

    /// Opens the directory at `path` below this one, component by component. An empty path is this directory.
    ///
    /// # Errors
    /// As [`Dir::open_dir`], for the first component that fails.
    pub fn open_below<'a>(&self, path: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SysError> {
        let mut at = self.reopen()?;
        for name in path {
            at = at.open_dir(name)?;
        }
        Ok(at)
    }

    /// A second descriptor of the same directory, with its own read position.
    ///
    /// # Errors
    /// The kernel's errno, `EMFILE` first of all.
    pub fn reopen(&self) -> Result<Self, SysError> {
        let fd = rfs::openat(&self.fd, ".", DIR_FLAGS, Mode::empty()).map_err(ctx("open directory", b"."))?;
        Ok(Self { fd, was_read: false })
    }

    /// `statx` of the directory itself.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn stat_self(&self) -> Result<Stat, SysError> {
        let stx = rfs::statx(&self.fd, "", AtFlags::EMPTY_PATH, WANTED).map_err(ctx("stat", b"."))?;
        Ok(Stat::from(&stx))
    }

    /// `statx` of `name` itself, symlinks not followed.
    ///
    /// # Errors
    /// `ENOENT` when there is no such name (any more).
    pub fn stat(&self, name: &[u8]) -> Result<Stat, SysError> {
        let stx = rfs::statx(&self.fd, one(name)?, LOOK, WANTED).map_err(ctx("stat", name))?;
        Ok(Stat::from(&stx))
    }

    /// As [`Dir::stat`], without waiting for a file server: what the kernel knows is enough. On a local file system
    /// that is everything; of a FUSE or network file system mounted on `name` it is at least that it is mounted.
    ///
    /// # Errors
    /// As [`Dir::stat`].
    pub fn glance(&self, name: &[u8]) -> Result<Stat, SysError> {
        let flags = LOOK.union(AtFlags::STATX_DONT_SYNC);
        let stx = rfs::statx(&self.fd, one(name)?, flags, WANTED).map_err(ctx("stat", name))?;
        Ok(Stat::from(&stx))
    }

    /// True when `name` exists, whatever it is.
    ///
    /// # Errors
    /// Every errno but `ENOENT`.
    pub fn exists(&self, name: &[u8]) -> Result<bool, SysError> {
        match self.stat(name) {
            Ok(_) => Ok(true),
            Err(error) if error.errno == Errno::NOENT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` for every name, without `.` and `..`, from the start of the directory.
    ///
    /// # Errors
    /// Of `getdents64`; names seen before it were reported.
    pub fn read(&self, buffer: &mut WalkBuffer, each: impl FnMut(DirEntry<'_>)) -> Result<(), SysError> {
        self.reopen()?.read_through(buffer, each)
    }

    /// As [`Dir::read`], with the read position of this descriptor: one open and close less.
    ///
    /// # Errors
    /// As [`Dir::read`].
    pub fn read_through(
        &mut self,
        buffer: &mut WalkBuffer,
        mut each: impl FnMut(DirEntry<'_>),
    ) -> Result<(), SysError> {
        if std::mem::replace(&mut self.was_read, true) {
            rfs::seek(&self.fd, rfs::SeekFrom::Start(0)).map_err(ctx("read directory", b"."))?;
        }
        let mut entries = RawDir::new(&self.fd, &mut buffer.0);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(ctx("read directory", b"."))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                rfs::FileType::Directory => EntryType::Dir,
                rfs::FileType::RegularFile => EntryType::File,
                rfs::FileType::Unknown => EntryType::Unknown,
                _ => EntryType::Other,
            };
            each(DirEntry { name, ino: entry.ino(), kind });
        }
        Ok(())
    }

    /// All names, sorted as bytes. For directories of ours; a container's may be too large to hold.
    ///
    /// # Errors
    /// As [`Dir::read`].
    pub fn names(&self) -> Result<Vec<Vec<u8>>, SysError> {
        let mut names = Vec::new();
        self.read(&mut WalkBuffer::default(), |entry| names.push(entry.name.to_vec()))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Opens the regular file `name` for reading. A FIFO or device that took the name meanwhile is not opened
    /// for reading: the type is decided on an `O_PATH` descriptor first.
    ///
    /// # Errors
    /// `EINVAL` when it is no regular file, `ELOOP` for a symlink.
    pub fn open_file(&self, name: &[u8]) -> Result<(OwnedFd, Stat), SysError> {
        let failed = |errno| SysError::new("open for reading", name, errno);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = rfs::openat(&self.fd, one(name)?, flags, Mode::empty()).map_err(failed)?;
        let stx = rfs::statx(&path, "", AtFlags::EMPTY_PATH, WANTED).map_err(failed)?;
        let stat = Stat::from(&stx);
        match stat.kind {
            crate::FileKind::File => {}
            crate::FileKind::Symlink => return Err(failed(Errno::LOOP)),
            _ => return Err(failed(Errno::INVAL)),
        }
        // Through the link in /proc the very inode just looked at is opened, whatever the name means by now.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rfs::open(crate::file::proc_path(path.as_fd()), flags, Mode::empty()).map_err(failed)?;
        Ok((fd, stat))
    }

    /// Creates `name` for writing; fails if it exists.
    ///
    /// # Errors
    /// `EEXIST`; `ENOSPC`, `EROFS`, `ENOTCONN`, `ESTALE` (directory removed) from the file system.
    pub fn create(&self, name: &[u8], mode: u32) -> Result<OwnedFd, SysError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rfs::openat(&self.fd, one(name)?, flags, Mode::from_raw_mode(mode)).map_err(ctx("create", name))
    }

    /// Opens the regular file `name`, in a directory of ours, for reading and writing.
    ///
    /// # Errors
    /// `EINVAL` when it is no regular file, `ELOOP` for a symlink, `ENOENT`.
    pub fn open_to_change(&self, name: &[u8]) -> Result<(OwnedFd, Stat), SysError> {
        let failed = |errno| SysError::new("open for writing", name, errno);
        // A FIFO without a reader and a device would make the open wait or act: without blocking neither does.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(&self.fd, one(name)?, flags, Mode::empty()).map_err(failed)?;
        let stat = crate::file::stat(&fd, name)?;
        if stat.kind != crate::FileKind::File {
            return Err(failed(Errno::INVAL));
        }
        Ok((fd, stat))
    }

    /// Makes the directory `name`.
    ///
    /// # Errors
    /// As [`Dir::create`].
    pub fn mkdir(&self, name: &[u8], mode: u32) -> Result<(), SysError> {
        rfs::mkdirat(&self.fd, one(name)?, Mode::from_raw_mode(mode)).map_err(ctx("mkdir", name))
    }

    /// Makes the symlink `name` with `target` as its text.
    ///
    /// # Errors
    /// As [`Dir::create`].
    pub fn symlink(&self, target: &[u8], name: &[u8]) -> Result<(), SysError> {
        rfs::symlinkat(OsStr::from_bytes(target), &self.fd, one(name)?).map_err(ctx("symlink", name))
    }

    /// Makes the named pipe `name`.
    ///
    /// # Errors
    /// As [`Dir::create`].
    pub fn mkfifo(&self, name: &[u8], mode: u32) -> Result<(), SysError> {
        rfs::mknodat(&self.fd, one(name)?, rfs::FileType::Fifo, Mode::from_raw_mode(mode), 0)
            .map_err(ctx("mkfifo", name))
    }

    /// Text of the symlink `name`.
    ///
    /// # Errors
    /// `EINVAL` when it is no symlink.
    pub fn readlink(&self, name: &[u8]) -> Result<Vec<u8>, SysError> {
        let text = rfs::readlinkat(&self.fd, one(name)?, Vec::new()).map_err(ctx("readlink", name))?;
        Ok(text.into_bytes())
    }

    /// Links the inode at `from` in `self` as `to_name` in `to`; never replaces anything.
    ///
    /// # Errors
    /// `EEXIST` when `to_name` is taken: the compare-and-set of the ledger.
    pub fn link(&self, from: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), SysError> {
        rfs::linkat(&self.fd, one(from)?, &to.fd, one(to_name)?, AtFlags::empty())
            .map_err(ctx("link", to_name))
    }

    /// Renames `from` in `self` to `to_name` in `to`, replacing a file or an empty directory there.
    ///
    /// # Errors
    /// `ENOENT`/`ESTALE` when a leg is gone: in the ledger's directories that means fenced.
    pub fn rename(&self, from: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), SysError> {
        rfs::renameat(&self.fd, one(from)?, &to.fd, one(to_name)?).map_err(ctx("rename", from))
    }

    /// Exchanges two names atomically; not on GlusterFS (`EINVAL`).
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn exchange(&self, from: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), SysError> {
        rfs::renameat_with(&self.fd, one(from)?, &to.fd, one(to_name)?, rfs::RenameFlags::EXCHANGE)
            .map_err(ctx("exchange", from))
    }

    /// Removes the name of a file.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn unlink(&self, name: &[u8]) -> Result<(), SysError> {
        rfs::unlinkat(&self.fd, one(name)?, AtFlags::empty()).map_err(ctx("unlink", name))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn rmdir(&self, name: &[u8]) -> Result<(), SysError> {
        rfs::unlinkat(&self.fd, one(name)?, AtFlags::REMOVEDIR).map_err(ctx("rmdir", name))
    }

    /// Removes `name` with everything below it, without recursion and without following or crossing anything.
    /// What is gone already is no error. Returns how many names were removed.
    ///
    /// # Errors
    /// The first that is not "gone already"; what was removed until then stays removed.
    pub fn remove_tree(&self, name: &[u8]) -> Result<u64, SysError> {
        let mut removed = 0;
        match self.unlink(name) {
            Ok(()) => return Ok(1),
            Err(e) if e.errno == Errno::NOENT => return Ok(0),
            // EPERM is what POSIX and some file systems answer for a directory; EISDIR is Linux's word.
            Err(e) if e.errno == Errno::ISDIR || e.errno == Errno::PERM => {}
            Err(e) => return Err(e),
        }
        let mut stack = vec![(self.open_writable(name)?, name.to_vec())];
        while let Some((dir, _)) = stack.last() {
            let mut deeper = None;
            for child in dir.names()? {
                match dir.unlink(&child) {
                    Ok(()) => removed += 1,
                    Err(e) if e.errno == Errno::NOENT => {}
                    Err(e) if e.errno == Errno::ISDIR || e.errno == Errno::PERM => {
                        deeper = Some((dir.open_writable(&child)?, child));
                        break;
                    }
                    Err(e) => return Err(e),
                }
            }
            if let Some(deeper) = deeper {
                stack.push(deeper);
                continue;
            }
            let (_, done) = stack.pop().unwrap_or_else(|| unreachable!("the loop holds the last element"));
            let parent = stack.last().map_or(self, |(dir, _)| dir);
            match parent.rmdir(&done) {
                Ok(()) => removed += 1,
                Err(e) if e.errno == Errno::NOENT => {}
                Err(e) => return Err(e),
            }
        }
        Ok(removed)
    }

    /// Opens a directory whose content is to be removed, giving ourselves the right to it first where its
    /// mode (0555, 0000) would stop an ordinary user.
    fn open_writable(&self, name: &[u8]) -> Result<Dir, SysError> {
        let stat = self.stat(name)?;
        if stat.mode & 0o700 != 0o700
            && stat.kind == crate::FileKind::Dir
            && !rustix::process::geteuid().is_root()
        {
            let _ = rfs::chmodat(&self.fd, one(name)?, Mode::RWXU, AtFlags::empty());
        }
        self.open_dir(name)
    }
}

/// Sets the modification time of the directory `name` in `dir`; of nothing else that may have that name by now.
///
/// # Errors
/// The kernel's errno; `ENOTDIR` when it is no directory.
pub fn set_dir_times(dir: &Dir, name: &[u8], mtime: crate::Time) -> Result<(), SysError> {
    let held = dir.hold_dir(name)?;
    rfs::utimensat(&held.fd, "", &crate::meta::timestamps(mtime), AtFlags::EMPTY_PATH)
        .map_err(ctx("set times of", name))
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets only single components through: what contains a slash would be resolved as a path, symlinks and all.
pub(crate) fn one(name: &[u8]) -> Result<&OsStr, SysError> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(SysError::new("use as one name", name, Errno::INVAL));
    }
    Ok(OsStr::from_bytes(name))
}
