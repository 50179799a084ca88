//! What `statx(2)` says of one name, in our own words.

use rustix::fs::{AtFlags, Statx, StatxFlags};

/// A point in time as the file system keeps it: seconds since 1970 (negative before) and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character or block device.
    Device,
}

/// What one `statx` told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Inode number.
    pub ino: u64,
    /// Device number as `(major, minor)`.
    pub dev: (u32, u32),
    /// Id of the mount the name lies on (0 on kernels before 5.8): differs from the parent's at a mount point.
    pub mount: u64,
    /// True where another file system is mounted on this very name.
    pub mount_root: bool,
    /// Type of the inode.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Logical size in bytes.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of content or metadata, set by the kernel alone.
    pub ctime: Time,
    /// Time the inode was made; absent where the file system keeps none. With the inode number it names one
    /// inode for ever: a reused number gets a new birth time.
    pub btime: Option<Time>,
}

pub(crate) const WANTED: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);
/// A look at a name itself: no symlink followed, no automount triggered.
pub(crate) const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// `STATX_ATTR_MOUNT_ROOT`, linux/stat.h.
const ATTR_MOUNT_ROOT: u64 = 0x2000;

impl From<&Statx> for Stat {
    fn from(stx: &Statx) -> Self {
        let time = |t: &rustix::fs::StatxTimestamp| Time { sec: t.tv_sec, nsec: t.tv_nsec };
        let kind = match u32::from(stx.stx_mode) & 0o170000 {
            0o100000 => FileKind::File,
            0o040000 => FileKind::Dir,
            0o120000 => FileKind::Symlink,
            0o010000 => FileKind::Fifo,
            0o140000 => FileKind::Socket,
            _ => FileKind::Device,
        };
        let has_btime = stx.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            ino: stx.stx_ino,
            dev: (stx.stx_dev_major, stx.stx_dev_minor),
            mount: stx.stx_mnt_id,
            mount_root: stx.stx_attributes.bits() & ATTR_MOUNT_ROOT != 0,
            kind,
            mode: u32::from(stx.stx_mode) & 0o7777,
            nlink: stx.stx_nlink,
            uid: stx.stx_uid,
            gid: stx.stx_gid,
            size: stx.stx_size,
            allocated: stx.stx_blocks * 512,
            mtime: time(&stx.stx_mtime),
            ctime: time(&stx.stx_ctime),
            btime: has_btime.then(|| time(&stx.stx_btime)),
        }
    }
}
