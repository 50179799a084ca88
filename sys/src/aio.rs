//! The kernel's old asynchronous I/O, `io_submit(2)`, as databases use it. The product does not; its tests do, for fanotify
//! tells nothing of what is written so.

use std::os::fd::{AsFd, AsRawFd};

use crate::error::{Errno, SysError};

/// Bytes of a [`Page`].
pub const PAGE: usize = 4096;

/// A page of memory, aligned for `O_DIRECT`.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE]);

/// A context with one request under way at most.
#[derive(Debug)]
pub struct Aio {
    context: libc::c_ulong,
}

/// `struct iocb` of linux/aio_abi.h on a little-endian machine.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Default)]
struct IoEvent {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

const IOCB_CMD_PWRITE: u16 = 1;

impl Aio {
    /// A context.
    ///
    /// # Errors
    /// `ENOSYS` in a kernel without it; `EAGAIN` above `fs.aio-max-nr`.
    pub fn new() -> Result<Self, SysError> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel stores one word into `context`, which outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) };
        if result == 0 { Ok(Self { context }) } else { Err(failed("io_setup")) }
    }

    /// Writes a page at `offset` and waits until that is done.
    ///
    /// # Errors
    /// The kernel's errno; `EIO` for a short write.
    pub fn write(&mut self, fd: impl AsFd, page: &Page, offset: u64) -> Result<(), SysError> {
        let mut request = Iocb {
            opcode: IOCB_CMD_PWRITE,
            fd: fd.as_fd().as_raw_fd() as u32,
            buffer: page.0.as_ptr() as u64,
            bytes: PAGE as u64,
            offset: offset as i64,
            ..Iocb::default()
        };
        let mut requests = [&raw mut request];
        // SAFETY: one request; it, the page and the descriptor outlive it, as its end is waited for below.
        let submitted = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, requests.as_mut_ptr()) };
        if submitted != 1 {
            return Err(failed("io_submit"));
        }
        let mut event = IoEvent::default();
        loop {
            let no_limit = std::ptr::null_mut::<libc::timespec>();
            // SAFETY: room for one event, which is what is asked for.
            let got = unsafe {
                libc::syscall(libc::SYS_io_getevents, self.context, 1, 1, &raw mut event, no_limit)
            };
            match (got, event.result) {
                (1, n) if n == PAGE as i64 => return Ok(()),
                (1, n) if n < 0 => {
                    return Err(SysError::new("write", b"", Errno::from_raw_os_error(-n as i32)));
                }
                (1, _) => return Err(SysError::new("write", b"", Errno::IO)),
                _ => {
                    let error = failed("io_getevents");
                    // Any other is a context that is not one: the request cannot be waited for, nor can it exist.
                    if error.errno != Errno::INTR {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: takes a number; waits for what is under way, which is nothing.
        unsafe {
            libc::syscall(libc::SYS_io_destroy, self.context);
        }
    }
}

fn failed(op: &'static str) -> SysError {
    SysError::new(op, b"", Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_where_it_belongs() {
        let mut file = tempfile::tempfile().unwrap();
        let mut aio = Aio::new().unwrap();
        aio.write(&file, &Page([7; PAGE]), 4096).unwrap();
        aio.write(&file, &Page([8; PAGE]), 0).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(bytes, [[8; PAGE], [7; PAGE]].concat());
        let read_only = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(aio.write(&read_only, &Page([0; PAGE]), 0).unwrap_err().errno, Errno::BADF);
    }
}
