//! The words between the engine and its caller.

use std::any::Any;
use std::sync::Arc;

use sys::meta::{AclsKept, XattrsRead};
use sys::{Dir, Owner, Stat};

use crate::error::CopyError;
use crate::hash::{ContentHash, Hash};
use crate::limits::Limits;

/// What is to be done next. The caller feeds and the engine pulls, so memory stays bounded by the window.
pub trait Feed {
    /// The next job; called only while the window has room.
    fn next(&mut self) -> Next;
    /// Takes the outcome of one job; on the thread that called [`run`](crate::run), in any order.
    fn done(&mut self, tag: u64, outcome: Outcome);
    /// Polled a few times a second and after each outcome: true stops the pulling. What is in flight is still
    /// finished and reported.
    fn abort(&self) -> bool {
        false
    }
}

/// Answer of [`Feed::next`].
pub enum Next {
    /// A job, and the number it is reported under.
    Job(u64, Job),
    /// Nothing until something in flight is done.
    Wait,
    /// Nothing any more.
    End,
}

/// One unit of work.
pub enum Job {
    /// Copies or hashes one regular file.
    Copy(Box<CopyJob>),
    /// Any short sequence of blocking calls, run on the pool.
    Call(Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>),
}

/// One regular file to copy.
pub struct CopyJob {
    /// Directory and single name in the source.
    pub source: (Arc<Dir>, Box<[u8]>),
    /// What the walk saw there; another inode means [`CopyError::Replaced`].
    pub expect: Identity,
    /// Directory and single name in our stage; created exclusively. Unused by [`How::HashOnly`].
    pub target: (Arc<Dir>, Box<[u8]>),
    /// Owner the target is created as, where the file system lets them; it saves a chown. It is set afterwards in any
    /// case if it is not right.
    pub create_as: Option<Owner>,
    /// An existing target name is ours from an earlier try: remove it, once, and create again. Else `EEXIST` is an
    /// error of the target.
    pub replace_leftover: bool,
    /// How the content gets there.
    pub how: How,
    /// Who else may be changing the source while it is read.
    pub writers: Writers,
    /// When it must be on disk.
    pub durability: Durability,
}

/// Names one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Inode number.
    pub ino: u64,
    /// Device as `(major, minor)`.
    pub dev: (u32, u32),
}

/// How the content gets to the target.
#[derive(Clone, Debug)]
pub enum How {
    /// Read all, write all (but holes).
    Whole,
    /// Blocks that agree with `base` are copied inside the target's file system, the others are sent. Falls back to
    /// `Whole` where that is not to be had.
    Delta {
        /// Directory and single name of a file that nobody changes meanwhile.
        base: (Arc<Dir>, Box<[u8]>),
        /// Its size.
        base_size: u64,
        /// Its [`ContentHash::blocks`].
        base_blocks: Arc<[Hash]>,
    },
    /// Read and hash, write nothing.
    HashOnly,
}

/// Who may be changing a source without its times telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody: each change moves the times.
    Seen,
    /// Processes that have it mapped: a store to a page that is dirty already moves nothing. So after each look at
    /// the source and before it is read its dirty pages are written back; the next store then moves its times.
    Mapped,
}

/// When a copied file is known to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Each file is fsynced before it is reported.
    PerFile,
    /// Replicas are trusted to hold it: no fsync, errors are learned from close.
    Replicated,
    /// The caller syncs the file system later: no fsync, errors are learned from close and there.
    Deferred,
}

/// What became of one job.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and each lives for a moment")]
pub enum Outcome {
    /// Of a [`Job::Copy`].
    Copied(Result<Copied, CopyError>),
    /// Of a [`Job::Call`]: what it returned.
    Called(Box<dyn Any + Send>),
}

/// A file that was copied (or hashed).
#[derive(Clone, Debug)]
pub struct Copied {
    /// The source after it was read: the metadata given to the target.
    pub stat: Stat,
    /// True when it was changing all the time. `size` and `hash` then describe what was written, and `stat` is
    /// newer than that: the file must be looked at again whatever its times say.
    pub stat_changed_during_copy: bool,
    /// Bytes of content written (or hashed).
    pub size: u64,
    /// Hash of exactly that content.
    pub hash: ContentHash,
    /// Attributes of the source; those in `kept` were given to the target.
    pub xattrs: XattrsRead,
    /// Whether the target's file system kept the ACLs.
    pub acls: AclsKept,
    /// Bytes of content that this process wrote; what was copied inside the file system and holes are not in it.
    pub bytes_sent: u64,
}

/// Whether calls on one side of the copy may stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A local disk: cheap calls are made where they are needed.
    Local,
    /// A network file system that may hang for minutes: nothing is called on the thread that drives the ring.
    MayHang,
}

/// Bounds of one [`run`](crate::run).
#[derive(Clone, Debug)]
pub struct Options {
    /// Jobs in flight.
    pub in_flight: usize,
    /// Most threads for the calls that have no io_uring opcode, and for hashing.
    pub pool_threads: usize,
    /// Most bytes of file content held in memory; at least [`Options::MEMORY_MIN`] is taken.
    pub memory: usize,
    /// Where the source lies.
    pub source: Side,
    /// Where the target lies.
    pub target: Side,
    /// Larger files are refused with `EFBIG`: a sparse file of 8 EiB would be hashed for years, and its block
    /// hashes take 32 bytes of memory per MiB.
    pub size_limit: u64,
    /// How fast the target may be written to, together with all else that holds these limits.
    pub limits: Arc<Limits>,
}

impl Options {
    /// Less than one small buffer per flight and a few blocks makes no sense.
    pub const MEMORY_MIN: usize = 8 << 20;
}

impl Default for Options {
    /// From a local disk to a mount, within 64 MiB of buffers.
    fn default() -> Self {
        Self {
            in_flight: 48,
            pool_threads: 8,
            memory: 64 << 20,
            source: Side::Local,
            target: Side::MayHang,
            size_limit: 4 << 40,
            limits: Arc::default(),
        }
    }
}

/// What one run did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Files copied or hashed.
    pub files: u64,
    /// Files that failed.
    pub failed: u64,
    /// Calls made.
    pub calls: u64,
    /// Bytes of content in the copied files.
    pub bytes: u64,
    /// Bytes of content written by this process.
    pub bytes_sent: u64,
}

impl Stats {
    pub(crate) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Copied(Ok(copied)) => {
                self.files += 1;
                self.bytes += copied.size;
                self.bytes_sent += copied.bytes_sent;
            }
            Outcome::Copied(Err(_)) => self.failed += 1,
            Outcome::Called(_) => self.calls += 1,
        }
    }
}
