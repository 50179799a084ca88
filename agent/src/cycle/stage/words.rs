//! What is staged, what is under way, and what staging leaves behind.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use proto::{Entry, Op, RelPath, StagedName};
use sys::meta::MadeAs;
use sys::{Dir, Stat};
use transfer::Durability;

use crate::config::Excludes;
use crate::cycle::exceptions::Exceptions;
use crate::cycle::links::Place;
use crate::cycle::listing::Fingerprint;
use crate::cycle::look::InodeKey;
use crate::cycle::plan::Again;
use crate::cycle::silent::Silent;
use crate::cycle::spool::Spool;
use crate::index::View;
use crate::ledger::{Ledger, Tenure};
use crate::volume::Volume;

/// Counters of a running stage, for a progress display.
#[derive(Default)]
pub struct Progress {
    /// Names done.
    pub entries: AtomicU64,
    /// Bytes of content done.
    pub bytes: AtomicU64,
    /// Names known so far.
    pub entries_known: AtomicU64,
    /// Bytes known so far.
    pub bytes_known: AtomicU64,
    /// Set to have nothing more begun: the cycle ends with [`crate::Error::Stopped`].
    pub stop: AtomicBool,
}

/// Where something staged goes.
#[derive(Clone, Debug)]
pub enum Dest {
    /// Straight into the stage, to be installed by a rename of its own.
    Flat(StagedName),
    /// Into a directory that is being staged.
    Tree(u64),
}

/// One name to stage.
#[derive(Clone, Debug)]
pub struct Item {
    /// In the volume and in the new generation.
    pub path: RelPath,
    /// What the walk saw.
    pub stat: Stat,
    /// Inode of its directory, for the fingerprint.
    pub parent: u64,
    /// Where it goes.
    pub dest: Dest,
    /// Path and entry the mirror has now, if the content may be taken from there.
    pub old: Option<(RelPath, Arc<Entry>)>,
}

/// A directory being staged.
pub(super) struct TreeDir {
    pub(super) path: RelPath,
    pub(super) source: Arc<Dir>,
    pub(super) stage: Arc<Dir>,
    pub(super) made_as: MadeAs,
    /// Components below the stage.
    pub(super) place: Vec<Box<[u8]>>,
    pub(super) entry: Entry,
    pub(super) parent: Option<u64>,
    /// Names in it that are not done.
    pub(super) pending: usize,
    /// Names that an earlier run left in it.
    pub(super) there: HashSet<Box<[u8]>>,
}

pub(super) enum Task {
    Open(Item),
    File(Item),
    Special(Item),
    Link(Item, Place, Box<Entry>),
    Check(Box<Check>),
    Tail(Box<Tail>),
}

/// A large file of which the mirror may have the beginning: then only what is behind that is staged.
pub(super) struct Tail {
    pub(super) item: Item,
    /// What the mirror has.
    pub(super) old: Arc<Entry>,
    /// The end, in the stage.
    pub(super) name: StagedName,
}

/// A file whose content has to be compared with what the mirror has.
pub(super) struct Check {
    pub(super) item: Item,
    pub(super) old: Arc<Entry>,
    pub(super) then: Then,
}

/// What equal content means.
pub(super) enum Then {
    /// The mirror is right, only facts changed.
    Facts,

    /// The mirror is right for the whole group: these names too.
    Group(InodeKey, Vec<(RelPath, Arc<Entry>)>),
    /// It is a rename.
    Move(RelPath),
}

pub(super) enum Doing {
    Open(Item),
    Close(u64),
    Copy(Item),
    Make(Item),
    Link(Item, Box<Entry>),
    Check(Box<Check>),
    Tail(Box<Tail>),
}

/// What staging leaves behind for the log.
pub struct Staged {
    /// Installs and what comes with them, in order.
    pub spool: Spool,
    /// Things taken out of the mirror because they have another name now: old path, staged name.
    pub moved: Vec<(RelPath, StagedName)>,
    /// Installs of those, and facts.
    pub ops: Vec<Op>,
    /// Deletions that turned out to be necessary: a rename that was none.
    pub deletes: Vec<RelPath>,
    /// Paths whose directory in the mirror is touched by an install.
    pub installed: Vec<RelPath>,
    /// Every path replicated flat, for clearing exceptions.
    pub replicated: HashSet<RelPath>,
    /// What was refused.
    pub exceptions: Exceptions,
    /// Sum over what was really copied.
    pub fingerprint: Fingerprint,
    /// True when a file changed while it was read, every time.
    pub torn: bool,
    /// The mount refused to keep ACLs.
    pub acls_lost: bool,
    /// Paths that changed meanwhile.
    pub again: Again,
    /// Inodes that were read with their pages cleaned: from then on their times tell.
    pub cleaned: HashSet<u64>,
    /// Bytes of content sent to the mirror.
    pub bytes_sent: u64,
    /// Names staged.
    pub entries: u64,
    /// Of these, files that an earlier run had staged.
    pub resumed: u64,
}

/// What staging needs from around it.
pub struct Around<'a> {
    pub volume: &'a Volume,
    pub view: &'a View,
    pub ledger: &'a Ledger,
    pub tenure: &'a Tenure,
    pub run: u64,
    pub durability: Durability,
    pub engine: transfer::Engine,
    pub options: transfer::Options,
    pub progress: &'a Progress,
    /// What is left out.
    pub excludes: &'a Excludes,
    pub silent: &'a Silent,
}
