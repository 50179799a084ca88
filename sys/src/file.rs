//! Reading and writing open files, with EINTR and short results handled here and nowhere else.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs as rfs;

use crate::error::{Errno, SysError, ctx};
use crate::stat::{Stat, WANTED};

/// Name of an open descriptor in /proc, for the few calls that take only paths.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// `statx` of an open file.
///
/// # Errors
/// The kernel's errno.
pub fn stat(fd: impl AsFd, object: &[u8]) -> Result<Stat, SysError> {
    let stx = rfs::statx(fd, "", rfs::AtFlags::EMPTY_PATH, WANTED).map_err(ctx("stat", object))?;
    Ok(Stat::from(&stx))
}

/// Reads until `buffer` is full or the file ends; returns how much was read.
///
/// # Errors
/// The kernel's errno, EINTR never.
pub fn read_at(fd: impl AsFd, buffer: &mut [u8], offset: u64, object: &[u8]) -> Result<usize, SysError> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd.as_fd(), &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("read", object, errno)),
        }
    }
    Ok(done)
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// The kernel's errno, EINTR never; `EIO` when the file system takes zero bytes without an error.
pub fn write_at(fd: impl AsFd, bytes: &[u8], offset: u64, object: &[u8]) -> Result<(), SysError> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(fd.as_fd(), &bytes[done..], offset + done as u64) {
            // No progress and no error would loop for ever.
            Ok(0) => return Err(SysError::new("write", object, Errno::IO)),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("write", object, errno)),
        }
    }
    Ok(())
}

/// Reads a whole small file; `limit` bounds what a hostile one can make us allocate.
///
/// # Errors
/// `EFBIG` above the limit.
pub fn read_all(fd: impl AsFd, limit: usize, object: &[u8]) -> Result<Vec<u8>, SysError> {
    let size = stat(&fd, object)?.size;
    if size > limit as u64 {
        return Err(SysError::new("read", object, Errno::FBIG));
    }
    let mut bytes = vec![0; size as usize];
    let n = read_at(&fd, &mut bytes, 0, object)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// fsync. Never retried: after a failure the kernel may have dropped what was dirty.
///
/// # Errors
/// The kernel's errno; the file's content is then unknown and the file must be thrown away.
pub fn sync(fd: impl AsFd, object: &[u8]) -> Result<(), SysError> {
    rfs::fsync(fd).map_err(ctx("fsync", object))
}

/// File systems whose own `sync_file_range` was seen to write-protect what it writes: ext4 (and its elders), xfs, btrfs.
const WRITE_PROTECTING: [u32; 3] = [0xef53, 0x5846_5342, 0x9123_683e];
/// File systems that never write back: tmpfs, ramfs, hugetlbfs.
const IN_MEMORY: [u32; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];

/// Writes the dirty pages of an open file back, which write-protects them in every mapping of it: the next store
/// through one faults, and the fault moves the change time. Without it a store to a page that is dirty already leaves
/// no trace. 11 to 25 µs on ext4, xfs and btrfs; an fdatasync elsewhere, for overlayfs answers `sync_file_range`
/// with success and does nothing.
///
/// # Errors
/// The kernel's errno: what the pages are is not known.
pub fn clean(fd: impl AsFd, object: &[u8]) -> Result<(), SysError> {
    if WRITE_PROTECTING.contains(&magic(&fd, object)?) {
        // All three: only then the kernel waits for pages that others are about to write, instead of leaving them out.
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: takes numbers only.
        let result = unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), 0, 0, flags) };
        if result == 0 {
            return Ok(());
        }
    }
    rfs::fdatasync(fd).map_err(ctx("write back", object))
}

/// False on a file system that keeps its files in memory alone: nothing ever cleans a page there, so a mapped file may
/// change at any time and its times do not tell.
///
/// # Errors
/// The kernel's errno.
pub fn writes_back(fd: impl AsFd, object: &[u8]) -> Result<bool, SysError> {
    Ok(!IN_MEMORY.contains(&magic(fd, object)?))
}

/// `f_type`: a magic number of 32 bits, sign-extended on some architectures.
fn magic(fd: impl AsFd, object: &[u8]) -> Result<u32, SysError> {
    Ok(rfs::fstatfs(fd).map_err(ctx("statfs", object))?.f_type as u32)
}

/// Closes a descriptor and tells what the kernel says of it. GlusterFS reports a lost write here, once, unless a
/// failed fsync reported it before. The descriptor is gone in any case: never repeated.
///
/// # Errors
/// The kernel's errno; what was written through the descriptor is then unknown.
pub fn close(fd: OwnedFd, object: &[u8]) -> Result<(), SysError> {
    nix::unistd::close(fd)
        .map_err(|errno| SysError::new("close", object, Errno::from_raw_os_error(errno as i32)))
}

/// Makes everything written to the file system of `fd` durable and reports write-back errors (kernel 5.8 on).
/// Local file systems only: a FUSE server is not asked.
///
/// # Errors
/// The kernel's errno.
pub fn sync_filesystem(fd: impl AsFd, object: &[u8]) -> Result<(), SysError> {
    rfs::syncfs(fd).map_err(ctx("syncfs", object))
}

/// Sets the size.
///
/// # Errors
/// The kernel's errno.
pub fn truncate(fd: impl AsFd, size: u64, object: &[u8]) -> Result<(), SysError> {
    loop {
        match rfs::ftruncate(&fd, size) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("truncate", object, errno)),
        }
    }
}

/// Makes sure that a later write to `len` bytes at `offset` finds room, as far as the file system can promise that. Size
/// and content stay as they are.
///
/// # Errors
/// The kernel's errno, `ENOSPC` and `EDQUOT` first of all, EINTR never. A file system that cannot reserve is no error.
pub fn reserve(fd: impl AsFd, offset: u64, len: u64, object: &[u8]) -> Result<(), SysError> {
    loop {
        match rfs::fallocate(&fd, rfs::FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("reserve room in", object, errno)),
        }
    }
}

/// Copies `len` bytes inside one file system without their passing through this process: brick-side on
/// GlusterFS. Returns how much was copied; short where the source ends.
///
/// # Errors
/// `EXDEV`, `EOPNOTSUPP`, `EINVAL`: not to be had here, copy by hand. Others as they are.
pub fn copy_range(
    from: impl AsFd,
    to: impl AsFd,
    offset: u64,
    len: u64,
    object: &[u8],
) -> Result<u64, SysError> {
    let (mut at_in, mut at_out) = (offset, offset);
    while at_in < offset + len {
        let want = usize::try_from(offset + len - at_in).unwrap_or(usize::MAX).min(1 << 30);
        match rfs::copy_file_range(&from, Some(&mut at_in), &to, Some(&mut at_out), want) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("copy_file_range", object, errno)),
        }
    }
    Ok(at_in - offset)
}

/// The next stretch of data at or after `offset`: `(start, end)`, or nothing up to the end of the file.
/// A file system that knows no holes says that all is data.
///
/// # Errors
/// The kernel's errno.
pub fn next_data(
    fd: impl AsFd,
    offset: u64,
    size: u64,
    object: &[u8],
) -> Result<Option<(u64, u64)>, SysError> {
    if offset >= size {
        return Ok(None);
    }
    let start = match rfs::seek(&fd, rfs::SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(errno) => return Err(SysError::new("seek", object, errno)),
    };
    let end = match rfs::seek(&fd, rfs::SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(SysError::new("seek", object, errno)),
    };
    Ok((start < size).then_some((start, end)))
}

/// A pipe: its end for reading, its end for writing. To wake who waits for descriptors.
///
/// # Errors
/// `EMFILE`.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), SysError> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    rustix::pipe::pipe_with(flags).map_err(ctx("pipe", b""))
}

/// Memory of `len` bytes with a descriptor, which nobody can make shorter or longer any more.
///
/// # Errors
/// `EMFILE`, `ENOMEM`.
pub fn memory(name: &std::ffi::CStr, len: u64) -> Result<OwnedFd, SysError> {
    let failed = |errno| SysError::new("make memory called", name.to_bytes(), errno);
    let flags = rfs::MemfdFlags::CLOEXEC | rfs::MemfdFlags::ALLOW_SEALING;
    let fd = rfs::memfd_create(name, flags).map_err(failed)?;
    rfs::ftruncate(&fd, len).map_err(failed)?;
    rfs::fcntl_add_seals(&fd, memory_seals()).map_err(failed)?;
    Ok(fd)
}

/// Makes sure that `fd` is such memory: a mapping of it can be used without fear of a signal.
///
/// # Errors
/// `EINVAL` when it is not.
pub fn check_memory(fd: &OwnedFd, len: u64) -> Result<(), SysError> {
    let is_it = rfs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(memory_seals()))
        && stat(fd, b"memory").is_ok_and(|stat| stat.size == len);
    if is_it { Ok(()) } else { Err(SysError::new("take over", b"memory", Errno::INVAL)) }
}

fn memory_seals() -> rfs::SealFlags {
    rfs::SealFlags::SHRINK | rfs::SealFlags::GROW | rfs::SealFlags::SEAL
}

/// Puts one byte into a pipe, if there is room: enough to wake.
pub fn write_pipe(fd: impl AsFd) -> Result<(), SysError> {
    match rustix::io::write(fd, b"!") {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(SysError::new("wake", b"", errno)),
    }
}

/// Tells the kernel that the file is read once, from front to back.
pub fn read_ahead(fd: impl AsFd) {
    let _ = rfs::fadvise(fd, 0, None, rfs::Advice::Sequential);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::SharedMap;

    /// Change time before a store, between two stores to one page, and after another.
    fn ctimes(clean_between: bool) -> Option<[crate::stat::Time; 3]> {
        let at = tempfile::tempdir().unwrap();
        let file = std::fs::File::create_new(at.path().join("f")).unwrap();
        if !WRITE_PROTECTING.contains(&magic(&file, b"f").unwrap()) {
            return None;
        }
        drop(file);
        let file = std::fs::File::options().read(true).write(true).open(at.path().join("f")).unwrap();
        file.set_len(8192).unwrap();
        let mut map = SharedMap::of(&file, 8192).unwrap();
        let ctime = || stat(&file, b"f").unwrap().ctime;
        map.write(100, b"one");
        let first = ctime();
        if clean_between {
            clean(&file, b"f").unwrap();
        }
        let between = ctime();
        map.write(200, b"two");
        Some([first, between, ctime()])
    }

    #[test]
    fn a_store_to_a_cleaned_page_moves_the_change_time() {
        let Some([first, between, last]) = ctimes(true) else {
            eprintln!("SKIPPED: the temporary directory is not on ext4, xfs or btrfs");
            return;
        };
        assert_eq!(first, between, "cleaning itself is no change");
        assert_ne!(between, last, "a store was not seen");
        // What the cleaning is for: without it the second store leaves no trace.
        let [first, _, last] = ctimes(false).unwrap();
        assert_eq!(first, last);
    }
}
