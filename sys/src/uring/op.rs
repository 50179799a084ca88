//! The operations: what each one owns, how it looks to the kernel, and what its result means.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::dir::{Dir, one};
use crate::error::{Errno, SysError};
use crate::owner::Owner;

/// One operation, with everything the kernel needs to find in memory until it is complete.
#[derive(Debug)]
pub enum Request {
    /// Creates a file exclusively, for reading and writing. Made by [`Request::create`].
    Create {
        /// Where.
        dir: Arc<Dir>,
        /// One component.
        name: CString,
        /// Permission bits.
        mode: u32,
        /// Owner it is created as; the process itself if none.
        owner: Option<Owner>,
    },
    /// Reads into `buffer[at..at + len]`; may read less.
    Read {
        /// The file.
        fd: Arc<OwnedFd>,
        /// Comes back with the reply.
        buffer: Vec<u8>,
        /// Where in the buffer.
        at: usize,
        /// How much at most.
        len: usize,
        /// Where in the file.
        offset: u64,
    },
    /// Writes `buffer[at..at + len]`; may write less.
    Write {
        /// The file.
        fd: Arc<OwnedFd>,
        /// Comes back with the reply.
        buffer: Vec<u8>,
        /// Where in the buffer.
        at: usize,
        /// How much at most.
        len: usize,
        /// Where in the file.
        offset: u64,
    },
    /// fsync.
    Sync {
        /// The file.
        fd: Arc<OwnedFd>,
    },
    /// ftruncate; needs [`Ring::can_truncate`](super::Ring::can_truncate).
    Truncate {
        /// The file.
        fd: Arc<OwnedFd>,
        /// The new size.
        size: u64,
    },
    /// Closes; the descriptor is gone whatever the reply says.
    Close {
        /// The file.
        fd: OwnedFd,
    },
}

/// Where an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Punt {
    /// At once inside the submitting call, if the kernel thinks that it will not block. On a network mount it errs.
    KernelDecides,
    /// Always on a worker thread of the kernel.
    Always,
}

/// What came of a request. Errnos are positive.
#[derive(Debug)]
pub enum Reply {
    /// The new file.
    Created(Result<OwnedFd, Errno>),
    /// The buffer, and how much was read; 0 at the end of the file.
    Read(Vec<u8>, Result<usize, Errno>),
    /// The buffer, and how much was written.
    Written(Vec<u8>, Result<usize, Errno>),
    /// Of `Sync`.
    Synced(Result<(), Errno>),
    /// Of `Truncate`.
    Truncated(Result<(), Errno>),
    /// Of `Close`.
    Closed(Result<(), Errno>),
}

/// What stays in the ring until the completion comes.
#[derive(Debug)]
pub(super) enum Parked {
    /// The request as it came; its heap memory does not move with it.
    Owned(Request),
    /// A close: the number belongs to the kernel alone.
    Closing,
}

impl Request {
    /// A request to create the file `name` in `dir`.
    ///
    /// # Errors
    /// `EINVAL` when `name` is not a single component.
    pub fn create(dir: Arc<Dir>, name: &[u8], mode: u32, owner: Option<Owner>) -> Result<Self, SysError> {
        one(name)?;
        let name = CString::new(name).map_err(|_| SysError::new("use as one name", name, Errno::INVAL))?;
        Ok(Self::Create { dir, name, mode, owner })
    }

    /// The kernel's form of the request, and what must be kept until its completion.
    ///
    /// The entry points into the heap memory of what is kept. Ranges are clamped to the buffer here, so that no
    /// caller can make the kernel reach beyond it.
    pub(super) fn into_entry(mut self) -> (squeue::Entry, Parked) {
        let entry = match &mut self {
            Request::Create { dir, name, mode, .. } => opcode::OpenAt::new(raw(dir.as_ref()), name.as_ptr())
                .flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .mode(*mode)
                .build(),
            Request::Read { fd, buffer, at, len, offset } => {
                let (at, len) = clamp(buffer, *at, *len);
                // The kernel writes through this pointer while the ring alone owns the buffer.
                opcode::Read::new(raw(fd.as_ref()), buffer[at..].as_mut_ptr(), len).offset(*offset).build()
            }
            Request::Write { fd, buffer, at, len, offset } => {
                let (at, len) = clamp(buffer, *at, *len);
                opcode::Write::new(raw(fd.as_ref()), buffer[at..].as_ptr(), len).offset(*offset).build()
            }
            Request::Sync { fd } => opcode::Fsync::new(raw(fd.as_ref())).build(),
            Request::Truncate { fd, size } => opcode::Ftruncate::new(raw(fd.as_ref()), *size).build(),
            Request::Close { fd } => opcode::Close::new(raw(&*fd)).build(),
        };
        match self {
            Request::Close { fd } => {
                // From here on the kernel closes it; if the ring dies first, the descriptor is lost, never reused.
                let _: RawFd = fd.into_raw_fd();
                (entry, Parked::Closing)
            }
            request => (entry, Parked::Owned(request)),
        }
    }
}

impl Parked {
    /// The reply of a completion with this result (negative: an errno).
    pub(super) fn into_reply(self, result: i32) -> Reply {
        let number = || usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
        let nothing = || number().map(|_| ());
        match self {
            Parked::Closing => Reply::Closed(nothing()),
            Parked::Owned(request) => match request {
                Request::Create { .. } => Reply::Created(nothing().map(|()| {
                    // SAFETY: a non-negative result of OPENAT is a descriptor that the kernel just made for this
                    // process, and nobody else has seen its number.
                    unsafe { OwnedFd::from_raw_fd(result) }
                })),
                Request::Read { buffer, .. } => Reply::Read(buffer, number()),
                Request::Write { buffer, .. } => Reply::Written(buffer, number()),
                Request::Sync { .. } => Reply::Synced(nothing()),
                Request::Truncate { .. } => Reply::Truncated(nothing()),
                Request::Close { .. } => Reply::Closed(nothing()),
            },
        }
    }
}

fn raw(fd: &impl AsFd) -> types::Fd {
    types::Fd(fd.as_fd().as_raw_fd())
}

fn clamp(buffer: &[u8], at: usize, len: usize) -> (usize, u32) {
    let at = at.min(buffer.len());
    let len = len.min(buffer.len() - at);
    (at, u32::try_from(len).unwrap_or(u32::MAX))
}
