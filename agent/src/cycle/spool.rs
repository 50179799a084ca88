//! Operations set aside on the local disk while a cycle stages, so that memory does not grow with the tree.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use proto::{FrameError, FrameKind, Op, frame};

use crate::error::{Error, Result, on_state};

/// An append-only file of operations. Also what a killed first copy is continued from: a record is written only
/// when what it speaks of is staged and safe.
pub struct Spool {
    path: PathBuf,
    out: BufWriter<File>,
    scratch: Vec<u8>,
    records: u64,
}

impl Spool {
    /// Starts an empty spool.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn create(path: &Path) -> Result<Self> {
        let out = BufWriter::with_capacity(64 << 10, File::create(path).map_err(on_state("create", path))?);
        Ok(Self { path: path.to_owned(), out, scratch: Vec::new(), records: 0 })
    }

    /// Appends one operation.
    ///
    /// # Errors
    /// [`Error::State`] when the local disk is full.
    pub fn push(&mut self, op: &Op) -> Result<()> {
        self.scratch.clear();
        let body = proto::codec::encode(op)
            .map_err(|e| Error::LedgerFile { file: format!("record of {}", op.path()), source: e.into() })?;
        frame::put(&mut self.scratch, FrameKind::LogOp, &body);
        self.out.write_all(&self.scratch).map_err(on_state("write", &self.path))?;
        self.records += 1;
        Ok(())
    }

    /// How many operations it holds.
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Hands what is buffered to the kernel: from then on it survives the death of this process.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(on_state("write", &self.path))
    }

    /// Calls `each` for every operation, in order.
    ///
    /// # Errors
    /// [`Error::State`], or what `each` returns.
    pub fn replay(&mut self, each: impl FnMut(Op) -> Result<()>) -> Result<()> {
        self.flush()?;
        let read = read(&self.path, each)?;
        if read != self.records {
            return Err(Error::State {
                act: format!("read back {}: {read} of {} records", self.path.display(), self.records),
                source: std::io::ErrorKind::InvalidData.into(),
            });
        }
        Ok(())
    }
}

/// Reads the operations of a spool up to its end or to the first that is not whole: a killed process leaves a
/// torn tail. Returns how many there were.
///
/// # Errors
/// [`Error::State`], or what `each` returns.
pub fn read(path: &Path, mut each: impl FnMut(Op) -> Result<()>) -> Result<u64> {
    let file = File::open(path).map_err(on_state("open", path))?;
    let mut source = BufReader::with_capacity(1 << 20, file);
    let mut buffer = Vec::new();
    let (mut at, mut records) = (0, 0);
    loop {
        match frame::take(&buffer[at..]) {
            Ok(found) => {
                let Ok(op) = proto::codec::decode::<Op>(found.body) else { return Ok(records) };
                at += found.len;
                records += 1;
                each(op)?;
            }
            Err(FrameError::Truncated) => {
                buffer.drain(..at);
                at = 0;
                let had = buffer.len();
                (&mut source).take(1 << 20).read_to_end(&mut buffer).map_err(on_state("read", path))?;
                if buffer.len() == had {
                    return Ok(records);
                }
            }
            Err(_) => return Ok(records),
        }
    }
}
