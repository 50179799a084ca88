//! A notification group: opened, put on file systems, read.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::parse::{METADATA_BYTES, Mask};
use crate::error::{Errno, SysError};
use crate::map::SharedMap;

/// Identify directories and objects by handle, and tell names: `FAN_REPORT_DFID_NAME_TARGET`, since Linux 5.17.
const TARGETS: u32 =
    libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME | libc::FAN_REPORT_FID | libc::FAN_REPORT_TARGET_FID;
/// The same without the object of a name that is made or removed: since Linux 5.9.
const NAMES: u32 = libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME | libc::FAN_REPORT_FID;

const BASE: u32 = libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_CLASS_NOTIF | libc::FAN_UNLIMITED_MARKS;

/// What is asked for on a file system. Opens and reads are not: they would cost every reader.
const WANTED: Mask = Mask::MODIFY
    .with(Mask::CLOSE_WRITE)
    .with(Mask::ATTRIB)
    .with(Mask::CREATE)
    .with(Mask::DELETE)
    .with(Mask::ONDIR);

/// Ways in which a kernel can tell what was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Objects by their handles, without a name: since Linux 5.1.
    Objects,
    /// Directories by their handles, with the name: since Linux 5.9. Without it there is no capture.
    Names,
    /// The object of a name that is made or removed as well: since Linux 5.17.
    Targets,
}

impl Mode {
    /// All of them, the poorest first.
    pub const ALL: [Mode; 3] = [Mode::Objects, Mode::Names, Mode::Targets];

    /// As fanotify(7) calls it, without what all have in common.
    pub fn word(self) -> &'static str {
        match self {
            Self::Objects => "FID",
            Self::Names => "DFID_NAME",
            Self::Targets => "DFID_NAME_TARGET",
        }
    }

    fn flags(self) -> u32 {
        match self {
            Self::Objects => libc::FAN_REPORT_FID,
            Self::Names => NAMES,
            Self::Targets => TARGETS,
        }
    }
}

/// A group. Lives as long as any copy of its descriptor, with all that is queued.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

/// How a file system is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Renames come as one event with both names.
    Whole,
    /// Renames come as two events (kernels before 5.17): nothing pairs them but the inode.
    Halves,
}

/// How much the queue may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// As much as there is memory for: 133 bytes an event.
    Unlimited,
    /// `/proc/sys/fs/fanotify/max_queued_events`; then events are lost, and the last one says so.
    Limited,
}

impl Group {
    /// Opens a group with the best flags this kernel knows.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`; `ENOSYS` or `EINVAL` where the kernel is older than 5.9.
    pub fn open(queue: Queue) -> Result<Self, SysError> {
        let queue = if queue == Queue::Unlimited { libc::FAN_UNLIMITED_QUEUE } else { 0 };
        match init(BASE | queue | TARGETS) {
            Err(e) if e.errno == Errno::INVAL => init(BASE | queue | NAMES),
            other => other,
        }
    }

    /// Tries whether this kernel opens a group of this mode for us.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` or `ENOSYS` where the kernel is older; `EMFILE` when the user has too many.
    pub fn try_mode(mode: Mode) -> Result<(), Errno> {
        init(BASE | mode.flags()).map(drop).map_err(|e| e.errno)
    }

    /// Takes a group that somebody held for us.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Watches the whole file system that `root` lies on. Doing it again changes nothing.
    ///
    /// # Errors
    /// `EXDEV` on a subvolume of btrfs that is not its top; `EOPNOTSUPP` on overlayfs; `ENODEV` on FUSE.
    pub fn mark(&self, root: impl AsFd) -> Result<Marked, SysError> {
        let root = root.as_fd();
        match self.change(root, libc::FAN_MARK_ADD, WANTED.with(Mask::RENAME)) {
            Ok(()) => Ok(Marked::Whole),
            Err(e) if e.errno == Errno::INVAL => {
                let halves = WANTED.with(Mask::MOVED_FROM).with(Mask::MOVED_TO);
                self.change(root, libc::FAN_MARK_ADD, halves).map(|()| Marked::Halves)
            }
            Err(e) => Err(e),
        }
    }

    /// The file systems that are watched now, for all that [`Group::mark`] asks for. None where that cannot be said.
    pub fn marks(&self) -> Marks {
        let number = self.fd.as_raw_fd();
        let lines = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{number}")).unwrap_or_default();
        Marks(lines.lines().filter_map(marked).collect())
    }

    /// Watches nothing any more. What is queued stays so until the last copy of the descriptor is closed; nothing is added.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn let_go(&self) -> Result<(), SysError> {
        let flags = libc::FAN_MARK_FLUSH | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: no path is given; nothing is kept by the call.
        let result =
            unsafe { libc::fanotify_mark(self.fd.as_raw_fd(), flags, 0, libc::AT_FDCWD, std::ptr::null()) };
        if result == 0 { Ok(()) } else { Err(SysError::new("watch nothing any more", b"", last_errno())) }
    }

    fn change(&self, root: BorrowedFd<'_>, what: u32, mask: Mask) -> Result<(), SysError> {
        let flags = what | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: no path is given, so the descriptor itself is meant; nothing is kept by the call.
        let result = unsafe {
            libc::fanotify_mark(self.fd.as_raw_fd(), flags, mask.0, root.as_raw_fd(), std::ptr::null())
        };
        if result == 0 { Ok(()) } else { Err(SysError::new("watch the file system of", b".", last_errno())) }
    }

    /// Reads what is queued, as much as fits; 0 when nothing is.
    ///
    /// # Errors
    /// `EINVAL` when `buffer` is too small for the next event (about 700 bytes at most); `ENOMEM`: events may be lost.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, SysError> {
        Self::retried(|| rustix::io::read(&self.fd, &mut *buffer))
    }

    /// As [`Group::read`], into shared memory from `offset`.
    ///
    /// # Errors
    /// As there.
    pub fn read_shared(&self, map: &mut SharedMap, offset: usize, len: usize) -> Result<usize, SysError> {
        Self::retried(|| map.read_from(&self.fd, offset, len))
    }

    fn retried(mut read: impl FnMut() -> Result<usize, Errno>) -> Result<usize, SysError> {
        loop {
            match read() {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                Err(errno) => return Err(SysError::new("read events", b".", errno)),
            }
        }
    }

    /// Events that are queued now: what was done before this call is among them.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn queued(&self) -> Result<u64, SysError> {
        let bytes = rustix::io::ioctl_fionread(&self.fd);
        // Only the fixed part of each event is counted, whatever a read would give (`fanotify_ioctl`, fs/notify).
        bytes
            .map(|bytes| bytes / METADATA_BYTES as u64)
            .map_err(|errno| SysError::new("look at the queue", b".", errno))
    }

    /// Waits until something is queued or `wake` can be read; false after `limit`.
    ///
    /// # Errors
    /// The kernel's errno, EINTR never.
    pub fn wait(&self, wake: impl AsFd, limit: Option<Duration>) -> Result<bool, SysError> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = limit
            .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        let wake = wake.as_fd();
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::from_borrowed_fd(wake, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(SysError::new("wait for events", b".", errno)),
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Superblocks that a group watched at one moment.
#[derive(Clone, Debug, Default)]
pub struct Marks(Vec<u64>);

impl Marks {
    /// True when the file system that `root` lies on is among them.
    pub fn has(&self, root: impl AsFd) -> bool {
        /// How the kernel packs a device (`MKDEV`, linux/kdev_t.h).
        const MINOR_BITS: u32 = 20;
        let mounts = crate::mount::read_mountinfo().unwrap_or_default();
        let mount = crate::file::stat(root, b".").ok().map(|stat| stat.mount);
        let device = mount.and_then(|id| crate::mount::by_id(&mounts, id)).map(|mount| mount.dev);
        let packed = device.map(|(major, minor)| u64::from(major) << MINOR_BITS | u64::from(minor));
        packed.is_some_and(|packed| self.0.contains(&packed))
    }
}

/// The superblock of a line of `fdinfo` (proc_pid_fdinfo(5)), if it is a mark with all events of [`Group::mark`].
fn marked(line: &str) -> Option<u64> {
    let fields = line.strip_prefix("fanotify ")?;
    let field = |name: &str| {
        let text = fields.split(' ').find_map(|field| field.strip_prefix(name))?;
        u64::from_str_radix(text, 16).ok()
    };
    let wanted = WANTED.with(Mask::RENAME).0;
    field("sdev:").filter(|_| field("mask:").is_some_and(|mask| mask & wanted == wanted))
}

fn init(flags: u32) -> Result<Group, SysError> {
    let file_flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as u32;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::fanotify_init(flags, file_flags) };
    if fd < 0 {
        return Err(SysError::new("open a fanotify group", b"", last_errno()));
    }
    // SAFETY: a descriptor that the kernel just made for us.
    Ok(Group { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
