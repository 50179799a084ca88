//! The few calls of the writer, behind a trait: io_uring where it is to be had, plain calls as fallback and oracle.

use std::fs::File;
use std::os::unix::fs::FileExt;

use sys::Errno;

/// How a segment is written.
pub(super) trait JournalIo {
    /// Goes over to another segment; the one before is closed.
    fn adopt(&mut self, file: File);

    /// Writes all bytes at `offset`; the buffer comes back in any case.
    fn write(&mut self, bytes: Vec<u8>, offset: u64) -> (Result<(), Errno>, Vec<u8>);

    /// fdatasync. Never tried again after an error: the kernel may have dropped what was dirty.
    fn sync(&mut self) -> Result<(), Errno>;
}

/// Which calls write the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// io_uring where this kernel lets us, else plain ones.
    Best,
    /// io_uring, or plain ones with a warning if it cannot be set up.
    Ring,
    /// Plain ones.
    Plain,
}

/// Positioned writes of the standard library.
#[derive(Default)]
pub(super) struct PlainIo {
    file: Option<File>,
}

impl JournalIo for PlainIo {
    fn adopt(&mut self, file: File) {
        self.file = Some(file);
    }

    fn write(&mut self, bytes: Vec<u8>, offset: u64) -> (Result<(), Errno>, Vec<u8>) {
        let Some(file) = &self.file else { return (Err(Errno::BADF), bytes) };
        (file.write_all_at(&bytes, offset).map_err(|e| errno_of(&e)), bytes)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        self.file.as_ref().ok_or(Errno::BADF)?.sync_data().map_err(|e| errno_of(&e))
    }
}

/// The errno of an error of the standard library; a write that made no progress has none and counts as `EIO`.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
