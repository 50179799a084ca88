//! Pure: the words between a flight and the engine that carries it.

use std::sync::Arc;

use sys::meta::AclsKept;
use sys::{Stat, SysError};

use crate::error::CopyError;
use crate::hash::{ContentHash, Hash, Place, block_count};

/// Longest stretch copied inside the file system by one call: long enough that the call's own cost vanishes, short
/// enough that copying starts while the rest is still being compared.
pub(super) const COPY_RANGE_MAX: u64 = 64 << 20;

/// What is asked of one flight.
#[derive(Clone, Debug)]
pub struct Plan {
    /// False: hash only.
    pub write: bool,
    /// A file whose equal blocks need not be sent.
    pub base: Option<Base>,
    /// Remove an existing target name once.
    pub replace_leftover: bool,
    /// fsync before close.
    pub sync: bool,
    /// Write back the source's dirty pages after each look at it and before it is read.
    pub clean: bool,
    /// Bytes of a block on its way: a power of two. A base is used only with [`BLOCK`], the unit of its hashes.
    pub unit: u64,
    /// Blocks on their way at once, at least 1.
    pub slots: usize,
    /// Larger sources are refused.
    pub size_limit: u64,
}

/// A file inside the target's file system that content may be copied from.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its size.
    pub size: u64,
    /// Values of its blocks.
    pub blocks: Arc<[Hash]>,
}

impl Base {
    pub(super) fn is_usable(&self) -> bool {
        self.blocks.len() > 1 && self.blocks.len() as u64 == block_count(self.size)
    }
}

/// Something to be done for a flight. At most one of each kind is under way at a time, and one per slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open the source, check its identity, stat it, read its attributes; load it whole if it is small, cleaned
    /// first where that is wanted.
    Open,
    /// Write back the dirty pages of the source.
    Clean,
    /// Create the target.
    Create { mode: u32 },
    /// Remove what has the target's name.
    Clear,
    /// Open the base.
    OpenBase,
    /// Copy from the base to the target.
    CopyRange { offset: u64, len: u64 },
    /// Find the next data of the source.
    NextData { offset: u64, size: u64 },
    /// Read into the slot's buffer at `at`. With `at` 0 the slot gets a buffer of `block_len` first.
    Read { slot: usize, at: usize, len: usize, offset: u64, block_len: usize },
    /// Hash the slot's block.
    Hash { slot: usize, block: Block },
    /// Write from the slot's buffer at `at`.
    Write { slot: usize, at: usize, len: usize, offset: u64 },
    /// Set the size of the target.
    Truncate { size: u64 },
    /// Stat the source again; read its attributes again if it is not as in `known`.
    Look { known: Stat },
    /// Give the target its metadata.
    Dress { stat: Stat },
    /// fsync the target.
    Sync,
    /// Close the target.
    Close,
    /// Remove the target of a flight that failed on the source side.
    Unlink,
}

/// A block to be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub len: usize,
    /// How much of it is in the buffer, the rest is zeros; `None` when it has no buffer and all is zeros.
    pub filled: Option<usize>,
    /// Whether it is the only one.
    pub place: Place,
    /// Whether to look for holes: without, all of it is one run.
    pub sparse: bool,
}

/// A hashed block and the stretches of it that are not zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Its value.
    pub value: Hash,
    /// Stretches `(at, len)` to be written.
    pub runs: Vec<(usize, usize)>,
}

/// What [`Act::Open`] found.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The source before it was read.
    pub stat: Stat,
    /// Its whole content, in slot 0, if it was small enough.
    pub loaded: Option<Loaded>,
}

/// A small file that was read in one go.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its only block.
    pub hashed: Hashed,
    /// The source after it was read.
    pub after: Stat,
}

/// What came of an act.
#[derive(Debug)]
pub enum Did {
    /// Of [`Act::Open`].
    Open(Result<Opened, CopyError>),
    /// Of [`Act::Clean`].
    Clean(Result<(), SysError>),
    /// Of [`Act::Create`].
    Create(Result<(), SysError>),
    /// Of [`Act::Clear`].
    Clear(Result<(), SysError>),
    /// Of [`Act::OpenBase`].
    OpenBase(Result<(), SysError>),
    /// Of [`Act::CopyRange`]: how much.
    CopyRange(Result<u64, SysError>),
    /// Of [`Act::NextData`]: start and end.
    NextData(Result<Option<(u64, u64)>, SysError>),
    /// Of [`Act::Read`]: how much, 0 at the end of the file.
    Read(usize, Result<usize, SysError>),
    /// Of [`Act::Hash`].
    Hash(usize, Hashed),
    /// Of [`Act::Write`]: how much.
    Write(usize, Result<usize, SysError>),
    /// Of [`Act::Truncate`].
    Truncate(Result<(), SysError>),
    /// Of [`Act::Look`].
    Look(Result<Stat, SysError>),
    /// Of [`Act::Dress`].
    Dress(Result<AclsKept, SysError>),
    /// Of [`Act::Sync`].
    Sync(Result<(), SysError>),
    /// Of [`Act::Close`].
    Close(Result<(), SysError>),
    /// Of [`Act::Unlink`].
    Unlink(Result<(), SysError>),
}

/// Answer of [`Flight::poll`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an act dropped here leaves its flight waiting for ever"]
pub enum Poll {
    /// Do this, and poll again.
    Act(Act),
    /// Would read on, but was told that there is no room.
    NeedsRoom,
    /// Nothing until something under way is done.
    Wait,
    /// All is done and closed.
    Over,
}

/// A flight that came to its end.
#[derive(Clone, Debug)]
pub struct Landed {
    /// The source after reading.
    pub stat: Stat,
    /// It never stood still.
    pub changed: bool,
    /// Bytes of content.
    pub size: u64,
    /// Their hash.
    pub hash: ContentHash,
    /// Whether ACLs were kept.
    pub acls: AclsKept,
    /// Bytes written by us.
    pub sent: u64,
}

/// True when nothing that we look at happened to the file between two stats.
pub fn same(a: &Stat, b: &Stat) -> bool {
    a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime && a.ino == b.ino
}
