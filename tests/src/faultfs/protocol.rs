//! The words of the control socket: one JSON value per line, one reply per request.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A kind of filesystem request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the FUSE request of that name")]
pub enum Op {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Read,
    Write,
    Flush,
    Fsync,
    Fsyncdir,
    Opendir,
    Readdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Access,
    Create,
    Fallocate,
    Lseek,
    CopyFileRange,
}

impl Op {
    /// Every kind, for tests that go through all of them.
    pub const ALL: [Op; 29] = [
        Op::Lookup,
        Op::Getattr,
        Op::Setattr,
        Op::Readlink,
        Op::Mknod,
        Op::Mkdir,
        Op::Unlink,
        Op::Rmdir,
        Op::Symlink,
        Op::Rename,
        Op::Link,
        Op::Open,
        Op::Read,
        Op::Write,
        Op::Flush,
        Op::Fsync,
        Op::Fsyncdir,
        Op::Opendir,
        Op::Readdir,
        Op::Statfs,
        Op::Setxattr,
        Op::Getxattr,
        Op::Listxattr,
        Op::Removexattr,
        Op::Access,
        Op::Create,
        Op::Fallocate,
        Op::Lseek,
        Op::CopyFileRange,
    ];

    /// Whether requests of this kind are numbered as crash points.
    pub fn mutates(self) -> bool {
        match self {
            Op::Setattr
            | Op::Mknod
            | Op::Mkdir
            | Op::Unlink
            | Op::Rmdir
            | Op::Symlink
            | Op::Rename
            | Op::Link
            | Op::Write
            | Op::Fsync
            | Op::Setxattr
            | Op::Removexattr
            | Op::Create
            | Op::Fallocate
            | Op::CopyFileRange => true,
            Op::Lookup
            | Op::Getattr
            | Op::Readlink
            | Op::Open
            | Op::Read
            | Op::Flush
            | Op::Fsyncdir
            | Op::Opendir
            | Op::Readdir
            | Op::Statfs
            | Op::Getxattr
            | Op::Listxattr
            | Op::Access
            | Op::Lseek => false,
        }
    }
}

/// Which requests a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// All of them.
    Any,
    /// Those numbered as crash points.
    Mutating,
    /// One kind.
    Op(Op),
}

impl Match {
    /// Whether requests of this kind are meant.
    pub fn covers(self, op: Op) -> bool {
        match self {
            Match::Any => true,
            Match::Mutating => op.mutates(),
            Match::Op(only) => only == op,
        }
    }
}

impl From<Op> for Match {
    fn from(op: Op) -> Match {
        Match::Op(op)
    }
}

/// What a rule does to the request that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answers with this errno and does nothing. A failed fsync also forgets the file's unsynced bytes for good.
    ///
    /// ESTALE of a path call is tried once more by the kernel itself: use [`Rule::every`] for the caller to see it.
    /// ENOSYS makes the kernel give up that kind of request for the life of the mount.
    Fail(i32),
    /// Reads or writes at most so many bytes.
    Short(u32),
    /// Holds the request back for so many milliseconds.
    Delay(u64),
    /// Holds the request back until [`Request::Release`], for at most [`STALL_MAX`](super::STALL_MAX).
    Stall,
    /// Flips one bit in the bytes read.
    Corrupt,
    /// Answers an fsync with success without making anything durable.
    Lie,
}

/// A fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Kinds of request.
    pub op: Match,
    /// Only requests with one path containing this text; relative to the mountpoint, no leading slash.
    pub path_contains: Option<String>,
    /// Strikes at this matching request, counted from 1 since the rule was set.
    pub nth: u64,
    /// Also strikes at every later one.
    pub every: bool,
    /// The fault.
    pub action: Action,
}

impl Rule {
    /// A rule that strikes once, at the next matching request.
    pub fn new(op: impl Into<Match>, action: Action) -> Rule {
        Rule { op: op.into(), path_contains: None, nth: 1, every: false, action }
    }

    /// Strikes at the `nth` matching request, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Rule {
        self.nth = nth;
        self
    }

    /// Keeps striking.
    #[must_use]
    pub fn every(mut self) -> Rule {
        self.every = true;
        self
    }

    /// Only on paths containing `text`.
    #[must_use]
    pub fn path(mut self, text: impl Into<String>) -> Rule {
        self.path_contains = Some(text.into());
        self
    }
}

/// What of the request at the crash point is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Nothing.
    Before,
    /// All of it, but the caller never learns.
    After,
    /// The first half of the bytes of a write or copy; nothing of any other request.
    Torn,
}

/// What a reboot finds on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Survive {
    /// All that was done.
    Everything,
    /// All metadata, and of each file only the bytes of its last fsync: the empty file after a rename.
    AllMetadataNoData,
    /// The state of the last fsync of any file, each file with the bytes of its own last fsync.
    OnlySynced,
    /// A cut of the metadata somewhere after the last fsync, and for each file a fate of its own.
    Seeded(u64),
}

/// A request to the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Dies at a mutating request, numbered from 1 since the last reboot, restore or reset.
    CrashAt {
        /// The request's number.
        point: u64,
        /// What is still done of it.
        when: When,
    },
    /// Dies now, as at a crash point.
    Crash,
    /// Comes back with what survived; counters, trace and faults start afresh.
    Reboot {
        /// What survived.
        survive: Survive,
    },
    /// Adds a fault.
    Inject(Rule),
    /// Lets go of all stalled requests.
    Release,
    /// Waits until at least so many requests are stalled.
    AwaitStalled {
        /// How many.
        count: u32,
        /// How long at most.
        timeout_ms: u64,
    },
    /// ENOSPC for writes that would store more than so many bytes, in whole pages.
    Full {
        /// The bound; `None` lifts it.
        bytes: Option<u64>,
    },
    /// Whether ACLs are kept or refused with EOPNOTSUPP, as on a mount without `acl`; survives reboots.
    Acl {
        /// Kept.
        on: bool,
    },
    /// Removes all rules, the crash point and the space limit.
    ClearFaults,
    /// Restarts trace, counts and numbering at zero.
    ClearTrace,
    /// Removes a tree without the kernel or any open descriptor knowing, as another client would.
    RemoveBehind {
        /// Relative to the mountpoint.
        path: String,
    },
    /// Lists the mutating requests so far.
    Trace,
    /// Counts requests by kind.
    Counts,
    /// Says how things are.
    Status,
    /// Starts over with an empty tree, all faults removed.
    Reset,
    /// Keeps the tree as it is now under a name; changes nothing.
    Snapshot {
        /// The name.
        name: String,
    },
    /// Starts over with a kept tree, all of it durable, all faults removed.
    Restore {
        /// The name.
        name: String,
    },
    /// Unmounts and exits.
    Quit,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// Refused, with the reason.
    Refused(String),
    /// The trace.
    Trace(Vec<TraceEntry>),
    /// The counts.
    Counts(BTreeMap<Op, u64>),
    /// The state.
    Status(Status),
}

/// One mutating request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// Its number, from 1.
    pub n: u64,
    /// Its kind.
    pub op: Op,
    /// Paths relative to the mountpoint, two for a rename or link; bytes that are not UTF-8 are replaced.
    pub paths: Vec<String>,
    /// Where in the file.
    pub offset: Option<u64>,
    /// How many bytes; for a setattr the new length.
    pub len: Option<u64>,
    /// How it failed; 0 for success.
    pub errno: i32,
}

/// How things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Every request fails with ENOTCONN until a reboot.
    pub dead: bool,
    /// Mutating requests so far.
    pub mutations: u64,
    /// Requests held back now.
    pub stalled: u32,
    /// Times a rule struck since the last reboot, restore, reset or clearing of faults.
    pub struck: u64,
    /// Bytes stored in regular files.
    pub stored: u64,
}

/// Sends one value.
///
/// # Errors
/// When the other side is gone.
pub fn send<T: Serialize>(out: &mut impl Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// Receives one value, `None` at the end of the stream.
///
/// # Errors
/// When the stream fails or says something else.
pub fn receive<T: DeserializeOwned>(input: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
