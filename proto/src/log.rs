//! The redo log of a generation (`commit/<g>`) and, in the same frames, the manifest (`manifest/<g>`).
//!
//! A log is `LogHeader`, any number of [`Op`], `LogTrailer`. Carried out in order on generation g−1 its
//! operations give generation g: everything that leaves a name first (outs, deepest first, old paths), then
//! everything that takes one (installs, outermost first, new paths), then files that grow, then metadata of
//! directories.

use crate::codec::{Decode, Encode};
use crate::entry::{Entry, Time};
use crate::frame::{self, FrameError, FrameKind};
use crate::ids::{Cut, Epoch, Generation, LaneId, NodeId, StagedName};
use crate::path::RelPath;

/// First record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LogHeader {
    /// Lane the log belongs to.
    pub lane: LaneId,
    /// Generation it makes.
    pub generation: Generation,
    /// Epoch of the writer; its `stage.N` holds what is installed.
    pub epoch: Epoch,
    /// Installation that wrote it.
    pub node: NodeId,
    /// Hash of the previous generation's log (its trailer's `hash`); zeros for the first.
    pub previous: [u8; 32],
    /// Inode number and birth time of the volume's root: facts of `Origin` count only for the same volume.
    pub volume: (u64, Option<Time>),
}

/// One operation, or in a manifest one entry. Variant numbers are part of the format: append only.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Takes what is at `path` out of the mirror: into `trash.N` for good, or into `stage.N` to be installed
    /// elsewhere by this log.
    Out {
        /// Path in the old generation.
        path: RelPath,
        /// Where it goes.
        to: Leaves,
    },
    /// Renames `staged` to `path`, replacing a file that is there.
    Install {
        /// Path in the new generation.
        path: RelPath,
        /// Name in `stage.N`.
        staged: StagedName,
        /// What it is.
        entry: Entry,
        /// Whether this log took it out of the mirror before.
        source: Source,
    },
    /// Something below a directory that an `Install` above brings with it: nothing to do in the mirror.
    Below {
        /// Path in the new generation.
        path: RelPath,
        /// What it is.
        entry: Entry,
    },
    /// Gives an existing directory its metadata (its times at least: installs below it changed them).
    Dir {
        /// Path in the new generation.
        path: RelPath,
        /// What it is from now on.
        entry: Entry,
        /// How much of it has to be set.
        work: DirWork,
    },
    /// A path that is not, or not currently, replicated.
    Except {
        /// Path in the volume.
        path: RelPath,
        /// Why.
        exception: Exception,
    },
    /// `path` is no longer an exception.
    Clear {
        /// Path in the volume.
        path: RelPath,
    },
    /// The mirror is as it was; only what the volume says of the inode changed.
    Facts {
        /// Path.
        path: RelPath,
        /// What it is from now on.
        entry: Entry,
    },
    /// A large file keeps its first `from` bytes: it is taken into `stage.N`, gets what is behind them and its
    /// metadata, and goes back. In the mirror itself it is never written to.
    Grow {
        /// Path in the new generation.
        path: RelPath,
        /// Its name in `stage.N` meanwhile.
        via: StagedName,
        /// Its size in the old generation.
        from: u64,
        /// What is behind that, a file of its own in `stage.N`; none when only metadata changed.
        tail: Option<StagedName>,
        /// What it is from now on.
        entry: Entry,
    },
}

/// Where an `Out` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Leaves {
    /// Deleted: to `trash.N` under this name.
    Trash(StagedName),
    /// Moved: to `stage.N` under this name, until an `Install` of the same log picks it up.
    Stage(StagedName),
}

/// Where an `Install` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Source {
    /// Copied from the volume.
    Fresh,
    /// Taken out of the mirror by an `Out` of this log; what lies below comes along.
    Moved,
}

/// What an `Op::Dir` has to set in the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DirWork {
    /// Only the times: installs and outs below moved them.
    Times,
    /// Owner, attributes, mode and times.
    All,
}

/// Why a path is not, or not currently, in the mirror as it is in the volume.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Exception {
    /// Quarantined or left out.
    pub class: ExceptionClass,
    /// What happened, for people.
    pub reason: String,
    /// Errno, or 0.
    pub errno: i32,
    /// When it was first seen.
    pub since: Time,
}

/// Kind of exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExceptionClass {
    /// Should be replicated and could not be: retried every cycle, exit code 5.
    Quarantined,
    /// Not replicated by policy: sockets, devices, other mounts, attributes outside the allow-list.
    LeftOut,
}

/// Sums over a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Totals {
    /// Directories, the root not counted.
    pub dirs: u64,
    /// Names of regular files.
    pub files: u64,
    /// Symlinks and FIFOs.
    pub others: u64,
    /// Sum of logical sizes over names of regular files.
    pub bytes: u64,
    /// Paths in quarantine.
    pub quarantined: u64,
    /// Paths left out by policy.
    pub left_out: u64,
}

/// Last record of a log: makes it complete.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LogTrailer {
    /// Number of operations.
    pub ops: u64,
    /// BLAKE3 of all bytes before the trailer's frame.
    pub hash: [u8; 32],
    /// How the generation relates to the volume.
    pub cut: Cut,
    /// Sums over the whole generation after this log.
    pub totals: Totals,
    /// Why deletions are halted, if they are.
    pub halted: Option<String>,
    /// When it was sealed, by the writer's wall clock: for people only.
    pub sealed: Time,
}

/// Writes a log into memory; the shell takes the bytes away as they come.
pub struct LogWriter {
    hasher: blake3::Hasher,
    ops: u64,
}

impl LogWriter {
    /// Starts a log: appends the header to `out`.
    ///
    /// # Errors
    /// [`FrameError::Body`] when a record is too large.
    pub fn start(header: &LogHeader, out: &mut Vec<u8>) -> Result<Self, FrameError> {
        let mut writer = Self { hasher: blake3::Hasher::new(), ops: 0 };
        writer.frame(FrameKind::LogHeader, &crate::codec::encode(header)?, out);
        Ok(writer)
    }

    /// Appends one operation to `out`.
    ///
    /// # Errors
    /// [`FrameError::Body`] when the record is too large, [`FrameError::Inconsistent`] when a reader would refuse
    /// its path: a log that cannot be read must never be sealed. `out` is unchanged.
    pub fn op(&mut self, op: &Op, out: &mut Vec<u8>) -> Result<(), FrameError> {
        if !op.path().is_sound() {
            let len = op.path().as_bytes().len();
            return Err(FrameError::Inconsistent(format!(
                "a path of {len} bytes that no reader would accept"
            )));
        }
        self.frame(FrameKind::LogOp, &crate::codec::encode(op)?, out);
        self.ops += 1;
        Ok(())
    }

    /// Appends the trailer to `out`; returns it.
    ///
    /// # Errors
    /// [`FrameError::Body`].
    pub fn finish(
        self,
        cut: Cut,
        totals: Totals,
        halted: Option<String>,
        sealed: Time,
        out: &mut Vec<u8>,
    ) -> Result<LogTrailer, FrameError> {
        let hash = *self.hasher.finalize().as_bytes();
        let trailer = LogTrailer { ops: self.ops, hash, cut, totals, halted, sealed };
        frame::put(out, FrameKind::LogTrailer, &crate::codec::encode(&trailer)?);
        Ok(trailer)
    }

    fn frame(&mut self, kind: FrameKind, body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        frame::put(out, kind, body);
        self.hasher.update(&out[start..]);
    }
}

/// One record of a log as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// First.
    Header(LogHeader),
    /// In between.
    Op(Op),
    /// Last; counts and hash were compared with what was read.
    Trailer(LogTrailer),
}

/// Reads a log piece by piece, checking order, counts and hash. Feed it bytes; it says how many it used.
pub struct LogReader {
    hasher: blake3::Hasher,
    ops: u64,
    state: ReaderState,
}

#[derive(PartialEq, Eq)]
enum ReaderState {
    Start,
    Ops,
    Done,
}

impl Default for LogReader {
    fn default() -> Self {
        Self { hasher: blake3::Hasher::new(), ops: 0, state: ReaderState::Start }
    }
}

impl LogReader {
    /// Takes the next record from the start of `bytes`: the record and its length in bytes.
    ///
    /// # Errors
    /// [`FrameError::Truncated`]: give more bytes, if there are any. The others are final.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(LogRecord, usize), FrameError> {
        let frame = frame::take(bytes)?;
        let unexpected = FrameError::Kind(frame.kind);
        let record = match (&self.state, frame.kind) {
            (ReaderState::Start, k) if k == FrameKind::LogHeader as u8 => {
                self.state = ReaderState::Ops;
                LogRecord::Header(crate::codec::decode(frame.body)?)
            }
            (ReaderState::Ops, k) if k == FrameKind::LogOp as u8 => {
                let op: Op = crate::codec::decode(frame.body)?;
                if !op.path().is_sound() {
                    return Err(FrameError::Inconsistent("a path that leaves the mirror".to_owned()));
                }
                self.ops += 1;
                LogRecord::Op(op)
            }
            (ReaderState::Ops, k) if k == FrameKind::LogTrailer as u8 => {
                let trailer: LogTrailer = crate::codec::decode(frame.body)?;
                if trailer.ops != self.ops {
                    return Err(FrameError::Inconsistent(format!(
                        "{} operations where the trailer counts {}",
                        self.ops, trailer.ops
                    )));
                }
                if trailer.hash != *self.hasher.finalize().as_bytes() {
                    return Err(FrameError::Inconsistent(
                        "hash of the log does not match its trailer".to_owned(),
                    ));
                }
                self.state = ReaderState::Done;
                LogRecord::Trailer(trailer)
            }
            _ => return Err(unexpected),
        };
        if self.state != ReaderState::Done {
            self.hasher.update(&bytes[..frame.len]);
        }
        Ok((record, frame.len))
    }

    /// True once the trailer was read.
    pub fn is_complete(&self) -> bool {
        self.state == ReaderState::Done
    }
}

impl Op {
    /// The path the operation is about.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Out { path, .. }
            | Self::Install { path, .. }
            | Self::Below { path, .. }
            | Self::Dir { path, .. }
            | Self::Except { path, .. }
            | Self::Clear { path }
            | Self::Facts { path, .. }
            | Self::Grow { path, .. } => path,
        }
    }
}
