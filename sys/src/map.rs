//! A file mapped into memory, shared with everybody who maps or reads it.

use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Errno, SysError};

/// A shared, writable mapping of the beginning of a file. It lives on when the file is closed.
///
/// The memory is shared with other processes, so it is only ever copied from and to; no reference into it is given out.
#[derive(Debug)]
pub struct SharedMap {
    at: *mut libc::c_void,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for SharedMap {}

impl SharedMap {
    /// Maps the first `len` bytes of `file`, which is open for reading and writing and is made at least that long first:
    /// a store behind the end would be a signal.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn of(file: impl AsFd, len: usize) -> Result<Self, SysError> {
        let fd = file.as_fd();
        if crate::file::stat(fd, b"file to map")?.size < len as u64 {
            crate::file::truncate(fd, len as u64, b"file to map")?;
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: no address is asked for, so nothing that is mapped already is replaced.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
            return Err(SysError::new("map", b"file", errno));
        }
        Ok(Self { at, len })
    }

    /// Stores `bytes` at `offset`. Whoever cuts the file shorter meanwhile ends this process.
    ///
    /// # Panics
    /// When they do not fit into the mapping.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: the range lies in the mapping, as just checked, and `bytes` is no part of it: no reference into it exists.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.cast::<u8>().add(offset), bytes.len())
        }
    }

    /// Loads into `bytes` what is at `offset`.
    ///
    /// # Panics
    /// When that reaches beyond the mapping.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.at.cast::<u8>().add(offset), bytes.as_mut_ptr(), bytes.len())
        }
    }

    /// Reads from `fd` into the mapping, `len` bytes at most: what the kernel takes out of a queue is in it at once.
    ///
    /// # Errors
    /// The kernel's errno.
    ///
    /// # Panics
    /// When they do not fit into the mapping.
    pub fn read_from(&mut self, fd: impl AsFd, offset: usize, len: usize) -> Result<usize, Errno> {
        self.check(offset, len);
        // SAFETY: the kernel writes into the range, which lies in the mapping, as just checked; no reference into it exists.
        let n = unsafe { libc::read(fd.as_fd().as_raw_fd(), self.at.cast::<u8>().add(offset).cast(), len) };
        usize::try_from(n)
            .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "beyond the mapping");
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and nothing refers to it any more.
        unsafe {
            libc::munmap(self.at, self.len);
        }
    }
}
