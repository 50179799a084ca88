//! The one module that names `tokio_uring`. It submits only when its thread parks, and its runtime ends only when every
//! operation did: hence a thread of its own, one operation at a time, and the local disk alone.

use std::fs::File;

use sys::Errno;
use tokio_uring::Runtime;

use super::io::{JournalIo, errno_of};

/// Entries of the ring: one operation is in flight at a time, and the wake-ups of the runtime.
const ENTRIES: u32 = 8;

/// Writes through a ring of its own.
pub(super) struct RingIo {
    // Before the runtime: its descriptor is closed while there is one.
    file: Option<tokio_uring::fs::File>,
    runtime: Runtime,
}

impl RingIo {
    /// Sets up the ring, on the thread that will use it.
    ///
    /// # Errors
    /// The kernel's errno.
    pub(super) fn new() -> Result<Self, Errno> {
        // `tokio_uring::start` panics where this returns an error.
        let runtime = Runtime::new(tokio_uring::builder().entries(ENTRIES)).map_err(|e| errno_of(&e))?;
        Ok(Self { file: None, runtime })
    }
}

impl JournalIo for RingIo {
    fn adopt(&mut self, file: File) {
        self.file = Some(tokio_uring::fs::File::from_std(file));
    }

    fn write(&mut self, bytes: Vec<u8>, offset: u64) -> (Result<(), Errno>, Vec<u8>) {
        let Some(file) = &self.file else { return (Err(Errno::BADF), bytes) };
        let (result, bytes) = self.runtime.block_on(file.write_all_at(bytes, offset));
        (result.map_err(|e| errno_of(&e)), bytes)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        self.runtime.block_on(file.sync_data()).map_err(|e| errno_of(&e))
    }
}
