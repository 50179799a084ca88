//! What is noted in a journal: what was seen, never what was meant to be done about it.

use std::fmt;

use crate::codec::{self, Decode, Encode};
use crate::entry::Time;
use crate::frame::{self, FrameKind};
use crate::ids::{Cut, Generation};
use crate::path::{Escaped, RelPath};

/// Longest file handle: `MAX_HANDLE_SZ` of Linux.
pub const HANDLE_BYTES_MAX: usize = 128;

/// Longest name of one directory entry: `NAME_MAX` of Linux.
pub const NAME_BYTES_MAX: usize = 255;

/// Hints of one record. With the greatest handles and names they take 410 KiB.
pub const HINTS_MAX: usize = 1024;

/// Files of one list of open ones, as large each as a hint.
pub const OPEN_FILES_MAX: usize = 2048;

/// Longest reason of a quarantined path, in bytes.
pub const REASON_BYTES_MAX: usize = 4096;

/// Largest body of a record: every record within the bounds above fits, and a forged length costs little.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// What a hint or an open file takes at most: names, handle, and the lengths before them.
const HINT_BYTES_MAX: usize = 1 + (8 + 5 + 3 + HANDLE_BYTES_MAX) + 3 + NAME_BYTES_MAX;
const _: () = assert!(HINTS_MAX * HINT_BYTES_MAX + 64 <= RECORD_BYTES_MAX);
const _: () = assert!(OPEN_FILES_MAX * HINT_BYTES_MAX + 64 <= RECORD_BYTES_MAX);
const _: () = assert!(crate::path::PATH_BYTES_MAX + REASON_BYTES_MAX + 64 <= RECORD_BYTES_MAX);

/// Number of a note within the journal of a lane: grows by one with each, and with each hint of a batch. The first
/// is 1; 0 stands for "none yet".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The number `count` further on; nothing at the end of all numbers, which only forged bytes reach.
    pub fn checked_add(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).map(Self)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the kernel calls an inode, good across renames and mounts: file system, type of the handle, its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Handle {
    /// `f_fsid` of the file system.
    pub fsid: [u8; 8],
    /// Type of the handle, as the file system chose it.
    pub kind: i32,
    /// The handle, at most [`HANDLE_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

impl fmt::Display for Handle {
    /// Hex digits, for people to compare: `0123456789abcdef:1:08000000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fsid.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ":{}:", self.kind)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Handle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The handle of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize)]
#[serde(transparent)]
pub struct DirHandle(pub Handle);

/// Where to look again. Doing it twice, or in another order, is harmless. Variant numbers are part of the format:
/// append only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hint {
    /// At this name in this directory.
    Name {
        /// The directory.
        dir: DirHandle,
        /// One name, not a path; `.` is the directory itself.
        #[serde(serialize_with = "escaped")]
        name: Vec<u8>,
    },
    /// At whatever names this inode has.
    Object {
        /// The inode.
        handle: Handle,
    },
    /// At everything below this directory.
    Tree {
        /// The directory.
        dir: DirHandle,
    },
    /// At the whole volume.
    Whole,
}

/// Why changes may have been missed. Variant numbers are part of the format: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapCause {
    /// The kernel's queue was full.
    QueueOverflow,
    /// Nobody listened.
    AgentDown,
    /// The host stopped without warning: content of files that were open for writing has to be compared.
    UncleanStop,
    /// The journal was damaged, or a part of it was missing.
    DamagedJournal,
    /// The descriptor of the kernel's queue was lost.
    LostDescriptor,
    /// The kernel said something that this program does not know.
    UnknownRecord,
    /// Capture cannot be had on this file system.
    NoCapture,
    /// The journal reached its greatest size and was dropped.
    JournalFull,
    /// The journal could not be written for a while.
    JournalFailed,
}

/// A file that was open for writing, or mapped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize)]
pub struct OpenFile {
    /// Directory it was found in.
    pub dir: DirHandle,
    /// Its name there.
    #[serde(serialize_with = "escaped")]
    pub name: Vec<u8>,
}

/// Whether a list of open files holds all of them. Variant numbers are part of the format: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listed {
    /// All that were found.
    All,
    /// There were more than a record holds: no file is known to have been closed.
    TooMany,
}

/// What is noted. Variant numbers are part of the format: append only.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// Somewhere to look again.
    Hint(Hint),
    /// Several of them; each has a number of its own, the record has that of the first.
    Hints(Vec<Hint>),
    /// Changes may have been missed before this.
    Gap(GapCause),
    /// The files open for writing now: the list that counts is the last one.
    Writing {
        /// The files.
        files: Vec<OpenFile>,
        /// Whether these are all.
        listed: Listed,
    },
    /// A generation was made from the notes up to `upto`.
    Cut {
        /// The last note that it takes in.
        upto: Seq,
        /// How it relates to the volume.
        cut: Cut,
    },
    /// It was sealed.
    Sealed {
        /// The last note that it takes in.
        upto: Seq,
        /// Its number.
        generation: Generation,
    },
    /// All that the notes up to `upto` speak of is in the mirror or in quarantine: they are done with.
    Published {
        /// The cursor.
        upto: Seq,
        /// Generation the mirror holds.
        generation: Generation,
    },
    /// A path could not be replicated.
    Quarantined {
        /// Path in the volume.
        path: RelPath,
        /// Errno, or 0.
        errno: i32,
        /// What happened, for people.
        reason: String,
    },
    /// A token passed through the queue: all that happened before it is noted before it.
    Barrier {
        /// The token.
        token: u64,
    },
    /// Replication was paused by somebody.
    Paused,
    /// And goes on.
    Resumed,
    /// The agent stopped in order: nothing is missing before this.
    CleanStop,
}

/// One note with its number and time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct JournalRecord {
    /// Number of the note, or of the first hint of a batch.
    pub seq: Seq,
    /// When it was seen, by the wall clock of the host: for people, and for the age of what waits.
    #[serde(serialize_with = "seconds")]
    pub at: Time,
    /// What.
    pub note: Note,
}

impl JournalRecord {
    /// The number behind this record; nothing at the end of all numbers.
    pub fn next(&self) -> Option<Seq> {
        self.seq.checked_add(self.note.numbers())
    }

    /// Checks the bounds that a reader holds it to.
    ///
    /// # Errors
    /// [`BadNote`].
    pub fn check(&self) -> Result<(), BadNote> {
        self.note.check()?;
        self.next().ok_or(BadNote::Numbers)?;
        match self.note {
            Note::Cut { upto, .. } | Note::Sealed { upto, .. } | Note::Published { upto, .. }
                if upto >= self.seq =>
            {
                Err(BadNote::Ahead { seq: self.seq, upto })
            }
            _ => Ok(()),
        }
    }
}

/// Why a note can be in no journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNote {
    /// A handle that no kernel makes.
    #[error("a handle of {0} bytes")]
    Handle(usize),
    /// A name that no directory has.
    #[error("{:?} is not a name in a directory", Escaped(.0).to_string())]
    Name(Vec<u8>),
    /// A batch of none, or of too many.
    #[error("{0} hints in one record, where 1 to {HINTS_MAX} may be")]
    Hints(usize),
    /// Too long a list.
    #[error("{0} open files in one record, where {OPEN_FILES_MAX} may be")]
    OpenFiles(usize),
    /// A path that leaves the volume.
    #[error("a path of {0} bytes that no reader would accept")]
    Path(usize),
    /// Too long a reason.
    #[error("a reason of {0} bytes")]
    Reason(usize),
    /// A cursor that is ahead of the note itself.
    #[error("note {seq} cannot speak of all up to note {upto}")]
    Ahead {
        /// The note.
        seq: Seq,
        /// What it speaks of.
        upto: Seq,
    },
    /// All numbers are used.
    #[error("no number is left for it")]
    Numbers,
    /// It cannot be encoded.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
}

impl Note {
    /// How many numbers it takes.
    pub fn numbers(&self) -> u64 {
        match self {
            Self::Hints(hints) => hints.len() as u64,
            Self::Hint(_)
            | Self::Gap(_)
            | Self::Writing { .. }
            | Self::Cut { .. }
            | Self::Sealed { .. }
            | Self::Published { .. }
            | Self::Quarantined { .. }
            | Self::Barrier { .. }
            | Self::Paused
            | Self::Resumed
            | Self::CleanStop => 1,
        }
    }

    /// Checks the bounds that a reader holds it to.
    ///
    /// # Errors
    /// [`BadNote`].
    pub fn check(&self) -> Result<(), BadNote> {
        match self {
            Self::Hint(hint) => check_hint(hint),
            Self::Hints(hints) if hints.is_empty() || hints.len() > HINTS_MAX => {
                Err(BadNote::Hints(hints.len()))
            }
            Self::Hints(hints) => hints.iter().try_for_each(check_hint),
            Self::Writing { files, .. } if files.len() > OPEN_FILES_MAX => {
                Err(BadNote::OpenFiles(files.len()))
            }
            Self::Writing { files, .. } => files
                .iter()
                .try_for_each(|file| check_handle(&file.dir.0).and_then(|()| check_name(&file.name))),
            Self::Quarantined { path, reason, .. } => {
                if !path.is_sound() {
                    Err(BadNote::Path(path.as_bytes().len()))
                } else if reason.len() > REASON_BYTES_MAX {
                    Err(BadNote::Reason(reason.len()))
                } else {
                    Ok(())
                }
            }
            Self::Gap(_)
            | Self::Cut { .. }
            | Self::Sealed { .. }
            | Self::Published { .. }
            | Self::Barrier { .. }
            | Self::Paused
            | Self::Resumed
            | Self::CleanStop => Ok(()),
        }
    }
}

/// Appends a record as a frame to `out`.
///
/// # Errors
/// [`BadNote`]: a reader would refuse it; `out` is unchanged.
pub fn put_record(out: &mut Vec<u8>, record: &JournalRecord) -> Result<(), BadNote> {
    record.check()?;
    let body = codec::encode(record)?;
    frame::put(out, FrameKind::JournalRecord, &body);
    Ok(())
}

fn check_hint(hint: &Hint) -> Result<(), BadNote> {
    match hint {
        // Its mode, owner or times: there is no other name for the root of a volume.
        Hint::Name { dir, name } if name == b"." => check_handle(&dir.0),
        Hint::Name { dir, name } => check_handle(&dir.0).and_then(|()| check_name(name)),
        Hint::Object { handle } => check_handle(handle),
        Hint::Tree { dir } => check_handle(&dir.0),
        Hint::Whole => Ok(()),
    }
}

fn check_handle(handle: &Handle) -> Result<(), BadNote> {
    if handle.bytes.len() > HANDLE_BYTES_MAX { Err(BadNote::Handle(handle.bytes.len())) } else { Ok(()) }
}

fn check_name(name: &[u8]) -> Result<(), BadNote> {
    let sound = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0);
    if sound { Ok(()) } else { Err(BadNote::Name(name[..name.len().min(NAME_BYTES_MAX)].to_vec())) }
}

/// As the escaped text that people see.
fn escaped<S: serde::Serializer>(name: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Escaped(name))
}

/// As seconds since 1970 with nine decimals, in a string: a JSON number would lose the last ones.
fn seconds<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    let nanos = i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    let sign = if nanos < 0 { "-" } else { "" };
    let size = nanos.unsigned_abs();
    serializer.collect_str(&format_args!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(len: usize) -> Handle {
        Handle { fsid: [1; 8], kind: 1, bytes: vec![7; len] }
    }

    /// The arithmetic above, held against the encoder.
    #[test]
    fn the_largest_records_fit() {
        let dir = DirHandle(Handle { fsid: [255; 8], kind: i32::MIN, bytes: vec![7; HANDLE_BYTES_MAX] });
        let name = vec![b'n'; NAME_BYTES_MAX];
        let hint = Hint::Name { dir: dir.clone(), name: name.clone() };
        let file = OpenFile { dir, name };
        let long = RelPath::new(&vec![b'p'; crate::path::PATH_BYTES_MAX]).unwrap();
        for note in [
            Note::Hints(vec![hint; HINTS_MAX]),
            Note::Writing { files: vec![file; OPEN_FILES_MAX], listed: Listed::TooMany },
            Note::Quarantined { path: long, errno: i32::MIN, reason: "r".repeat(REASON_BYTES_MAX) },
        ] {
            let record = JournalRecord { seq: Seq(u64::MAX / 2), at: Time { sec: i64::MIN, nsec: 1 }, note };
            let mut out = Vec::new();
            put_record(&mut out, &record).unwrap();
            assert!(out.len() <= RECORD_BYTES_MAX, "{} bytes", out.len());
            let frame = frame::take(&out).unwrap();
            assert_eq!(codec::decode::<JournalRecord>(frame.body), Ok(record));
        }
    }

    #[test]
    fn what_no_reader_would_accept_is_not_written() {
        let dir = || DirHandle(handle(8));
        let name = |name: &[u8]| Note::Hint(Hint::Name { dir: dir(), name: name.to_vec() });
        for bad in [
            name(b""),
            name(b".."),
            Note::Writing { files: vec![OpenFile { dir: dir(), name: b".".to_vec() }], listed: Listed::All },
            name(b"a/b"),
            name(b"a\0"),
            name(&[b'x'; 256]),
            Note::Hint(Hint::Object { handle: handle(129) }),
            Note::Hints(vec![]),
            Note::Hints(vec![Hint::Whole; HINTS_MAX + 1]),
            Note::Hints(vec![Hint::Whole, Hint::Tree { dir: DirHandle(handle(129)) }]),
            Note::Writing {
                files: vec![OpenFile { dir: dir(), name: b"f".to_vec() }; OPEN_FILES_MAX + 1],
                listed: Listed::All,
            },
            Note::Quarantined { path: RelPath::root(), errno: 5, reason: "r".repeat(REASON_BYTES_MAX + 1) },
        ] {
            let mut out = vec![9];
            let record = JournalRecord { seq: Seq(1), at: Time::default(), note: bad };
            assert!(put_record(&mut out, &record).is_err(), "{record:?}");
            assert_eq!(out, [9]);
        }
        let note = Note::Published { upto: Seq(5), generation: Generation(1) };
        let ahead = JournalRecord { seq: Seq(5), at: Time::default(), note };
        assert_eq!(put_record(&mut Vec::new(), &ahead), Err(BadNote::Ahead { seq: Seq(5), upto: Seq(5) }));
        let last = JournalRecord { seq: Seq(u64::MAX), at: Time::default(), note: Note::Paused };
        assert_eq!(put_record(&mut Vec::new(), &last), Err(BadNote::Numbers));
    }
}
