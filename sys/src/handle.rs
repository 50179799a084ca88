//! File handles: names of inodes that survive renames, restarts and memory pressure, and never come to mean another one.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Errno, SysError};
use crate::stat::Stat;

/// Longest handle that the kernel makes (`MAX_HANDLE_SZ`, linux/exportfs.h).
pub const HANDLE_MAX: usize = 128;

/// An inode of one file system, as the kernel names it. Two handles of one inode are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    /// File system, as fanotify and `statfs` call it.
    pub fsid: [u8; 8],
    /// How `bytes` are to be read; the file system's own business.
    pub kind: i32,
    /// Up to [`HANDLE_MAX`] bytes.
    pub bytes: Box<[u8]>,
}

/// Layouts whose inode number can be read without asking the kernel (linux/exportfs.h, fs/xfs, fs/btrfs).
const INO32_GEN: i32 = 0x01;
const XFS_INO64_GEN: i32 = 0x81;
const BTRFS: i32 = 0x4d;

impl Handle {
    /// The handle of an open inode; `fsid` is the one its events carry.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system gives none (overlayfs without `nfs_export`, most FUSE ones).
    pub fn of(fd: impl AsFd, fsid: [u8; 8]) -> Result<Self, SysError> {
        let mut raw = RawHandle::default();
        raw.head.handle_bytes = HANDLE_MAX as u32;
        let mut mount = 0;
        // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor itself; `raw` is a header that says how many bytes
        // follow it and has them; both outlive the call.
        let result = unsafe {
            libc::name_to_handle_at(
                fd.as_fd().as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if result != 0 {
            return Err(SysError::new("get the handle of", b".", last_errno()));
        }
        let len = (raw.head.handle_bytes as usize).min(HANDLE_MAX);
        Ok(Self { fsid, kind: raw.head.handle_type, bytes: raw.bytes[..len].into() })
    }

    /// Opens the inode as `O_PATH`: it can be looked at and, if a directory, used as a place, but not read. `mount` is
    /// any open file of the same file system. Needs `CAP_DAC_READ_SEARCH`.
    ///
    /// # Errors
    /// `ESTALE` when the inode is gone.
    pub fn hold(&self, mount: impl AsFd) -> Result<OwnedFd, SysError> {
        if self.bytes.len() > HANDLE_MAX {
            return Err(SysError::new("open by handle", b".", Errno::INVAL));
        }
        let mut raw = RawHandle::default();
        raw.head.handle_bytes = self.bytes.len() as u32;
        raw.head.handle_type = self.kind;
        raw.bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        // SAFETY: `raw` holds as many bytes behind its header as the header says, and outlives the call.
        let fd = unsafe { libc::open_by_handle_at(mount.as_fd().as_raw_fd(), (&raw mut raw).cast(), flags) };
        if fd < 0 {
            return Err(SysError::new("open by handle", b".", last_errno()));
        }
        // SAFETY: a descriptor that the kernel just made for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The inode number, where the layout is known; a hint for filters, never a proof.
    pub fn ino(&self) -> Option<u64> {
        let u32_at = |at: usize| Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_ne_bytes(self.bytes.get(at..at + 8)?.try_into().ok()?));
        match self.kind {
            INO32_GEN => u32_at(0).map(u64::from),
            XFS_INO64_GEN | BTRFS => u64_at(0),
            _ => None,
        }
    }
}

/// `statx` of a descriptor made by [`Handle::hold`].
///
/// # Errors
/// The kernel's errno.
pub fn stat(fd: impl AsFd) -> Result<Stat, SysError> {
    crate::file::stat(fd, b".")
}

/// Where a held inode is now: its path as the kernel prints it, with the mount it was opened through. A directory that
/// was removed has none.
///
/// # Errors
/// `ENOENT` for a removed one.
pub fn path_of(fd: impl AsFd) -> Result<Vec<u8>, SysError> {
    let link = crate::file::proc_path(fd.as_fd());
    let text =
        rustix::fs::readlink(&link, Vec::new()).map_err(crate::error::ctx("find the path of", b"."))?;
    let path = text.into_bytes();
    // The kernel appends this to what has no name any more; a name that ends so is told by asking for the link count.
    let removed = path.ends_with(b" (deleted)") && crate::file::stat(fd, b".")?.nlink == 0;
    if removed { Err(SysError::new("find the path of", b".", Errno::NOENT)) } else { Ok(path) }
}

/// File system id of an open file, as events carry it.
///
/// # Errors
/// The kernel's errno.
pub fn fsid(fd: impl AsFd) -> Result<[u8; 8], SysError> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the whole struct or fails.
    let result = unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), stat.as_mut_ptr()) };
    if result != 0 {
        return Err(SysError::new("statfs", b".", last_errno()));
    }
    // SAFETY: filled, as the call succeeded. Assumption: `fsid_t` is two 32-bit words, as statfs(2) says.
    let id: [u8; 8] = unsafe { std::mem::transmute_copy(&stat.assume_init().f_fsid) };
    Ok(id)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `struct file_handle` with room for the largest.
#[repr(C)]
struct RawHandle {
    head: Head,
    bytes: [u8; HANDLE_MAX],
}

#[repr(C)]
struct Head {
    handle_bytes: u32,
    handle_type: i32,
}

impl Default for RawHandle {
    fn default() -> Self {
        Self { head: Head { handle_bytes: 0, handle_type: 0 }, bytes: [0; HANDLE_MAX] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_follows_its_directory_and_dies_with_it() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("REQUIRE_ALL").is_none(), "root is required");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let at = tempfile::tempdir().unwrap();
        let dir = at.path().join("a (deleted)");
        std::fs::create_dir(&dir).unwrap();
        let root = std::fs::File::open(at.path()).unwrap();
        let fsid = fsid(&root).unwrap();
        let file = std::fs::File::open(&dir).unwrap();
        let handle = match Handle::of(&file, fsid) {
            Ok(handle) => handle,
            Err(e) if e.errno == Errno::OPNOTSUPP => {
                eprintln!("SKIPPED: {e}");
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let held = handle.hold(&root).unwrap();
        let ino = stat(&held).unwrap().ino;
        assert!(handle.ino().is_none_or(|read| read == ino), "{:?} is not {ino}", handle.ino());
        assert!(path_of(&held).unwrap().ends_with(b"/a (deleted)"));
        std::fs::rename(&dir, at.path().join("b")).unwrap();
        assert!(path_of(handle.hold(&root).unwrap()).unwrap().ends_with(b"/b"));
        std::fs::remove_dir(at.path().join("b")).unwrap();
        assert_eq!(path_of(&held).unwrap_err().errno, Errno::NOENT);
        drop((held, file));
        assert_eq!(handle.hold(&root).unwrap_err().errno, Errno::STALE);
    }
}
