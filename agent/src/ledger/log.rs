//! Redo logs as local files: written here first, read back checked, carried to and from the ledger.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use proto::log::{LogReader, LogRecord, LogWriter};
use proto::{Cut, FrameError, Generation, LogHeader, LogTrailer, Op, Time, Totals, names};
use sys::Errno;

use super::epoch::Tenure;
use super::open::Ledger;
use crate::error::{Error, Result, on_mirror, on_state};

/// Pieces in which logs travel: large writes are ten times cheaper on GlusterFS than small ones.
const PIECE_BYTES: usize = 1 << 20;

/// A log being written to a local file.
pub struct LogFile {
    path: PathBuf,
    file: File,
    writer: LogWriter,
    header: LogHeader,
    buffer: Vec<u8>,
}

impl LogFile {
    /// Starts the log of `header.generation` in a fresh file at `path`.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn start(path: &Path, header: LogHeader) -> Result<Self> {
        let file = File::create(path).map_err(on_state("create", path))?;
        let mut buffer = Vec::with_capacity(PIECE_BYTES + 4096);
        let writer = LogWriter::start(&header, &mut buffer).map_err(too_large)?;
        Ok(Self { path: path.to_owned(), file, writer, header, buffer })
    }

    /// Appends one operation.
    ///
    /// # Errors
    /// [`Error::State`] when the local disk is full; [`Error::LedgerFile`] when the record is too large.
    pub fn op(&mut self, op: &Op) -> Result<()> {
        self.writer.op(op, &mut self.buffer).map_err(too_large)?;
        if self.buffer.len() >= PIECE_BYTES { self.drain() } else { Ok(()) }
    }

    fn drain(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer).map_err(on_state("write", &self.path))?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the log.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn finish(
        mut self,
        cut: Cut,
        totals: Totals,
        halted: Option<String>,
        sealed: Time,
    ) -> Result<LocalLog> {
        let writer = std::mem::replace(
            &mut self.writer,
            LogWriter::start(&self.header, &mut Vec::new()).map_err(too_large)?,
        );
        let trailer = writer.finish(cut, totals, halted, sealed, &mut self.buffer).map_err(too_large)?;
        self.drain()?;
        Ok(LocalLog { path: self.path, header: self.header, trailer })
    }
}

fn too_large(source: FrameError) -> Error {
    Error::LedgerFile { file: "a record of the redo log".to_owned(), source }
}

/// A complete log in a local file, every frame and the hash of the whole checked.
pub struct LocalLog {
    path: PathBuf,
    /// Its header.
    pub header: LogHeader,
    /// Its trailer.
    pub trailer: LogTrailer,
}

impl LocalLog {
    /// Calls `each` for every operation, in order.
    ///
    /// # Errors
    /// [`Error::State`], or what `each` returns.
    pub fn ops(&self, mut each: impl FnMut(Op) -> Result<()>) -> Result<()> {
        let file = File::open(&self.path).map_err(on_state("open", &self.path))?;
        read_records(file, &self.path.display().to_string(), |record| match record {
            LogRecord::Op(op) => each(op),
            LogRecord::Header(_) | LogRecord::Trailer(_) => Ok(()),
        })
    }
}

/// Reads records from `source` to the trailer. `name` is for errors.
fn read_records(
    mut source: impl Read,
    name: &str,
    mut each: impl FnMut(LogRecord) -> Result<()>,
) -> Result<()> {
    let damaged = |source| Error::LedgerFile { file: name.to_owned(), source };
    let mut reader = LogReader::default();
    let mut buffer: Vec<u8> = Vec::with_capacity(2 * PIECE_BYTES);
    let mut at = 0;
    loop {
        match reader.next(&buffer[at..]) {
            Ok((record, used)) => {
                at += used;
                each(record)?;
                if reader.is_complete() {
                    return Ok(());
                }
            }
            Err(FrameError::Truncated) => {
                buffer.drain(..at);
                at = 0;
                let had = buffer.len();
                let mut piece = (&mut source).take(PIECE_BYTES as u64);
                piece
                    .read_to_end(&mut buffer)
                    .map_err(|source| Error::State { act: format!("read {name}"), source })?;
                if buffer.len() == had {
                    return Err(damaged(FrameError::Truncated));
                }
            }
            Err(error) => return Err(damaged(error)),
        }
    }
}

impl Ledger {
    /// Seals: writes the log into the stage, fsyncs it, and links it to its number. The link is the commit
    /// point: an error before it leaves the last generation the last.
    ///
    /// # Errors
    /// [`Error::GenerationTaken`] when another writer has the number; [`Error::Fenced`]; [`Error::Mirror`].
    pub fn seal(&self, tenure: &Tenure, log: &LocalLog) -> Result<()> {
        let generation = log.header.generation;
        let failed = |source: sys::SysError| {
            let gone = source.is_gone();
            let error = on_mirror(|| format!("seal generation {generation}"))(source);
            if gone { self.fenced_or(tenure.epoch, error) } else { error }
        };
        let tmp = format!("log.{generation}.{:016x}", u64::from_le_bytes(sys::host::random())).into_bytes();
        let to = tenure.stage.create(&tmp, 0o600).map_err(failed)?;
        let copied = copy_out(&log.path, &to, &tmp);
        let sealed = copied.and_then(|()| {
            sys::file::sync(&to, &tmp).map_err(failed)?;
            sys::file::close(to, &tmp).map_err(failed)?;
            match tenure.stage.link(&tmp, &self.commit, &names::generation(generation)) {
                Err(e) if e.errno == Errno::EXIST => Err(Error::GenerationTaken(generation)),
                other => other.map_err(failed),
            }
        });
        let _ = tenure.stage.unlink(&tmp);
        sealed
    }

    /// Fetches a sealed log into the local file `path`, checked as it comes.
    ///
    /// # Errors
    /// [`Error::LedgerFile`] when it is damaged or not what its name says; [`Error::Mirror`].
    pub fn fetch(&self, generation: Generation, path: &Path) -> Result<LocalLog> {
        let name = names::generation(generation);
        let file = format!("commit/{generation}");
        let (fd, _) = self.commit.open_file(&name).map_err(on_mirror(|| format!("open {file}")))?;
        let mut out = File::create(path).map_err(on_state("create", path))?;
        let (mut header, mut trailer) = (None, None);
        let source = Tee { from: BufReader::with_capacity(PIECE_BYTES, File::from(fd)), to: &mut out };
        read_records(source, &file, |record| {
            match record {
                LogRecord::Header(h) => header = Some(h),
                LogRecord::Trailer(t) => trailer = Some(t),
                LogRecord::Op(_) => {}
            }
            Ok(())
        })?;
        let (Some(header), Some(trailer)) = (header, trailer) else {
            return Err(Error::LedgerFile { file, source: FrameError::Truncated });
        };
        if header.generation != generation || header.lane != self.lane.id {
            let why = format!("it is generation {} of lane {}", header.generation, header.lane);
            return Err(Error::LedgerFile { file, source: FrameError::Inconsistent(why) });
        }
        Ok(LocalLog { path: path.to_owned(), header, trailer })
    }
}

/// Copies a local log into an open file of the stage.
fn copy_out(path: &Path, to: &std::os::fd::OwnedFd, object: &[u8]) -> Result<()> {
    let mut from = File::open(path).map_err(on_state("open", path))?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        let n = from.read(&mut piece).map_err(on_state("read", path))?;
        if n == 0 {
            return Ok(());
        }
        sys::file::write_at(to, &piece[..n], offset, object)
            .map_err(on_mirror(|| "write the redo log".to_owned()))?;
        offset += n as u64;
    }
}

/// Reads from one file and writes the same bytes to another.
struct Tee<'a, R> {
    from: R,
    to: &'a mut File,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buf)?;
        self.to.write_all(&buf[..n])?;
        Ok(n)
    }
}
