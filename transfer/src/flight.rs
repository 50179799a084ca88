//! Pure decisions: how one file gets copied. No I/O, no clock; it says what to do next and is told what came of it.
//!
//! ```text
//!            ┌───────── changed, at most 3 times ─────────┐
//! Start → Opening → Moving → Cutting → Looking → Dressing → Syncing → Closing → Over
//!            │         (create, read, hash, copy, write                  ▲
//!            │          run beside each other)            any failure ───┴→ Unlinking → Over
//!            └ failed → Over
//! ```
//! The content travels in blocks of [`Plan::unit`] bytes: each is read, hashed, compared and written by itself, and
//! up to [`Plan::slots`] of them are on their way at once. What the target is known to hold (`held`) is kept per
//! block, so that a second try after a change sends only the blocks that differ.

use std::collections::VecDeque;
use std::sync::Arc;

use sys::meta::AclsKept;
use sys::{Errno, Stat, SysError};

use crate::error::CopyError;
use crate::hash::{BLOCK, ContentHash, Hash, Place, block_count};

/// Tries after the first, when the source changed while it was read.
const RETRIES: u32 = 3;

/// Longest stretch copied inside the file system by one call: long enough that the call's own cost vanishes, short
/// enough that copying starts while the rest is still being compared.
const COPY_RANGE_MAX: u64 = 64 << 20;

/// EAGAIN and EINTR in a row before they count as an error.
const AGAIN_MAX: u32 = 1000;

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
    fn is_usable(&self) -> bool {
        self.blocks.len() > 1 && self.blocks.len() as u64 == block_count(self.size)
    }
}

/// Something to be done for a flight. At most one of each kind is under way at a time, and one per slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Open the source, check its identity, stat it, read its attributes; load it whole if it is small.
    Open,
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

/// One file on its way.
#[derive(Debug)]
pub struct Flight {
    plan: Plan,
    stage: Stage,
    /// Acts given out and not reported back.
    busy: usize,
    failure: Option<CopyError>,
    target: Target,
    base: BaseFile,
    /// The source as the present try took it.
    source: Option<Stat>,
    tries: u32,
    /// The source ended early: this try is lost, unless it is the last.
    stale: bool,
    /// The base turned out to be useless: go through the source again without it.
    redo: bool,
    slots: Vec<Slot>,
    next_block: u64,
    /// Next data of a sparse source, from the last NextData; `(size, size)` when there is none.
    data: Option<(u64, u64)>,
    mapping: bool,
    values: Vec<Hash>,
    held: Vec<Option<Hash>>,
    ranges: VecDeque<Range>,
    copying: Option<Range>,
    /// End of what was written to the target, at most its size.
    reach: u64,
    sent: u64,
    again: u32,
    acls: AclsKept,
    last: Option<Stat>,
    changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Opening,
    Moving,
    /// Setting the size: to zero before another try of a sparse file, or to its end.
    Cutting {
        to: u64,
        then: AfterCut,
    },
    Looking,
    Dressing,
    Syncing,
    Closing,
    Unlinking,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterCut {
    Move,
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Absent,
    Creating,
    InTheWay,
    Clearing,
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BaseFile {
    Unused,
    Closed,
    Opening,
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    Reading { block: u64, len: usize, filled: usize, out: bool },
    Read { block: u64, len: usize, filled: Option<usize> },
    Hashing { block: u64, len: usize },
    Writing { block: u64, runs: VecDeque<(usize, usize)>, out: bool },
}

/// A stretch to be copied from the base; `block` is set where it completes a block.
#[derive(Clone, Debug)]
struct Range {
    offset: u64,
    len: u64,
    completes: Vec<u64>,
}

impl Flight {
    /// A flight that has not begun.
    pub fn new(plan: Plan) -> Self {
        let base = match &plan.base {
            Some(base) if plan.write && plan.unit == BLOCK && base.is_usable() => BaseFile::Closed,
            _ => BaseFile::Unused,
        };
        Self {
            slots: vec![Slot::Free; plan.slots.max(1)],
            plan,
            stage: Stage::Start,
            busy: 0,
            failure: None,
            target: Target::Absent,
            base,
            source: None,
            tries: 0,
            stale: false,
            redo: false,
            next_block: 0,
            data: None,
            mapping: false,
            values: Vec::new(),
            held: Vec::new(),
            ranges: VecDeque::new(),
            copying: None,
            reach: 0,
            sent: 0,
            again: 0,
            acls: AclsKept::All,
            last: None,
            changed: false,
        }
    }

    /// True while the slot needs no buffer.
    pub fn is_free(&self, slot: usize) -> bool {
        self.slots.get(slot).is_none_or(|slot| *slot == Slot::Free)
    }

    /// How it ended; `None` before [`Poll::Over`].
    pub fn outcome(self) -> Option<Result<Landed, CopyError>> {
        if self.stage != Stage::Over {
            return None;
        }
        if let Some(failure) = self.failure {
            return Some(Err(failure));
        }
        let (size, stat) = (self.source?.size, self.last?);
        let hash = ContentHash::from_pieces(self.values, self.plan.unit);
        Some(Ok(Landed { stat, changed: self.changed, size, hash, acls: self.acls, sent: self.sent }))
    }

    /// The next act; `room` says whether there is a buffer for another block.
    pub fn poll(&mut self, room: bool) -> Poll {
        let poll = self.next(room);
        if matches!(poll, Poll::Act(_)) {
            self.busy += 1;
        }
        poll
    }

    fn next(&mut self, room: bool) -> Poll {
        if self.stage == Stage::Over {
            return Poll::Over;
        }
        if self.failure.is_some() {
            return self.give_up();
        }
        match self.stage {
            Stage::Start => self.enter(Stage::Opening, Act::Open),
            Stage::Moving => self.carry(room),
            Stage::Cutting { to, .. } if self.busy == 0 => Poll::Act(Act::Truncate { size: to }),
            Stage::Looking if self.busy == 0 => match self.source {
                Some(known) => Poll::Act(Act::Look { known }),
                None => self.over(),
            },
            Stage::Dressing if self.busy == 0 => match self.last {
                Some(stat) => Poll::Act(Act::Dress { stat }),
                None => self.over(),
            },
            Stage::Syncing if self.busy == 0 => Poll::Act(Act::Sync),
            Stage::Closing if self.busy == 0 => Poll::Act(Act::Close),
            _ => Poll::Wait,
        }
    }

    /// After a failure: let all acts come back, close what is open, and leave nothing half-made behind a source
    /// that could not be read: its directory may be published.
    fn give_up(&mut self) -> Poll {
        if self.busy > 0 {
            return Poll::Wait;
        }
        let ours = !matches!(self.failure, Some(CopyError::Target(_)));
        match self.target {
            Target::Open => self.enter(Stage::Closing, Act::Close),
            Target::Closed if ours && self.stage != Stage::Unlinking => {
                self.enter(Stage::Unlinking, Act::Unlink)
            }
            _ => self.over(),
        }
    }

    fn enter(&mut self, stage: Stage, act: Act) -> Poll {
        self.stage = stage;
        Poll::Act(act)
    }

    fn over(&mut self) -> Poll {
        self.stage = Stage::Over;
        Poll::Over
    }

    /// The main stage: whatever can be started beside what is under way.
    fn carry(&mut self, room: bool) -> Poll {
        if self.plan.write {
            match self.target {
                Target::Absent => {
                    self.target = Target::Creating;
                    let mode = self.source.map_or(0o600, |stat| stat.mode & 0o777);
                    return Poll::Act(Act::Create { mode });
                }
                Target::InTheWay => {
                    self.target = Target::Clearing;
                    return Poll::Act(Act::Clear);
                }
                Target::Open => {
                    if let Some(act) = self.next_write().or_else(|| self.next_range()) {
                        return Poll::Act(act);
                    }
                }
                Target::Creating | Target::Clearing | Target::Closed => {}
            }
        }
        if let Some(act) = self.next_of_slots() {
            return Poll::Act(act);
        }
        match self.next_of_source(room) {
            Some(Poll::Wait) | None => {}
            Some(poll) => return poll,
        }
        if self.busy > 0 {
            return Poll::Wait;
        }
        self.moved(room)
    }

    /// Everything that was started came back and nothing more can be started: the try is at its end.
    fn moved(&mut self, room: bool) -> Poll {
        let Some(source) = self.source else { return self.over() };
        if self.redo {
            self.redo = false;
            self.restart(source);
            self.cut_if_sparse();
        } else if self.stale {
            self.stage = Stage::Looking;
        } else if self.plan.write && self.reach != source.size {
            self.stage = Stage::Cutting { to: source.size, then: AfterCut::Look };
        } else {
            self.arrived();
        }
        self.next(room)
    }

    /// The content is complete: look whether it is still that of the source.
    fn arrived(&mut self) {
        self.stage = match self.last {
            // A small file was looked at right after it was loaded.
            Some(_) => self.dressed_or_over(),
            None => Stage::Looking,
        };
    }

    fn dressed_or_over(&self) -> Stage {
        if self.plan.write { Stage::Dressing } else { Stage::Over }
    }

    fn next_write(&mut self) -> Option<Act> {
        let unit = self.plan.unit;
        for (slot, state) in self.slots.iter_mut().enumerate() {
            if let Slot::Writing { block, runs, out: out @ false } = state
                && let Some(&(at, len)) = runs.front()
            {
                *out = true;
                return Some(Act::Write { slot, at, len, offset: *block * unit + at as u64 });
            }
        }
        None
    }

    /// A stretch of the base is copied as soon as it cannot grow any more.
    fn next_range(&mut self) -> Option<Act> {
        if self.copying.is_some() || self.redo || self.stale {
            return None;
        }
        let first = self.ranges.front()?;
        let all_compared =
            self.next_block >= self.blocks() && self.slots.iter().all(|slot| *slot == Slot::Free);
        if self.ranges.len() == 1 && first.len + BLOCK <= COPY_RANGE_MAX && !all_compared {
            return None;
        }
        match self.base {
            BaseFile::Closed => {
                self.base = BaseFile::Opening;
                Some(Act::OpenBase)
            }
            BaseFile::Open => {
                self.copying = self.ranges.pop_front();
                self.copying.as_ref().map(|range| Act::CopyRange { offset: range.offset, len: range.len })
            }
            BaseFile::Opening | BaseFile::Unused => None,
        }
    }

    /// Reads that came short are continued, full blocks hashed.
    fn next_of_slots(&mut self) -> Option<Act> {
        let (sparse, unit) = (self.is_sparse(), self.plan.unit);
        let place = if self.blocks() == 1 { Place::Only } else { Place::OneOfMany };
        for (slot, state) in self.slots.iter_mut().enumerate() {
            match *state {
                Slot::Reading { block, len, filled, out: false } => {
                    *state = Slot::Reading { block, len, filled, out: true };
                    let offset = block * unit + filled as u64;
                    return Some(Act::Read { slot, at: filled, len: len - filled, offset, block_len: len });
                }
                Slot::Read { block, len, filled } => {
                    *state = Slot::Hashing { block, len };
                    return Some(Act::Hash {
                        slot,
                        block: Block { offset: block * unit, len, filled, place, sparse },
                    });
                }
                _ => {}
            }
        }
        None
    }

    /// Takes up the next block of the source.
    fn next_of_source(&mut self, room: bool) -> Option<Poll> {
        if self.next_block >= self.blocks() || self.stale || self.redo {
            return None;
        }
        let slot = self.slots.iter().position(|slot| *slot == Slot::Free)?;
        let size = self.source?.size;
        let block = self.next_block;
        let start = block * self.plan.unit;
        let len = usize::try_from((size - start).min(self.plan.unit)).ok()?;
        if self.is_sparse() && size > 0 {
            match self.data {
                Some((_, end)) if end > start => {}
                _ if self.mapping => return Some(Poll::Wait),
                _ => {
                    self.mapping = true;
                    return Some(Poll::Act(Act::NextData { offset: start, size }));
                }
            }
        }
        let hole =
            len == 0 || (self.is_sparse() && self.data.is_some_and(|(from, _)| from >= start + len as u64));
        if !hole && !room {
            return Some(Poll::NeedsRoom);
        }
        self.next_block += 1;
        self.slots[slot] = if hole {
            Slot::Read { block, len, filled: None }
        } else {
            Slot::Reading { block, len, filled: 0, out: false }
        };
        self.next_of_slots().map(Poll::Act)
    }

    fn blocks(&self) -> u64 {
        self.source.map_or(0, |stat| self.count(stat.size))
    }

    fn count(&self, size: u64) -> u64 {
        size.div_ceil(self.plan.unit).max(1)
    }

    fn is_sparse(&self) -> bool {
        self.source.is_some_and(|stat| stat.allocated < stat.size)
    }

    /// Takes in what came of an act.
    pub fn did(&mut self, did: Did) {
        self.busy = self.busy.saturating_sub(1);
        match did {
            Did::Open(Ok(opened)) => self.opened(opened),
            Did::Open(Err(error)) => self.fail(error),
            Did::Create(result) => self.created(result),
            Did::Clear(Ok(())) => self.target = Target::Absent,
            Did::Clear(Err(error)) if error.errno == Errno::NOENT => self.target = Target::Absent,
            Did::Clear(Err(error)) => self.fail_target(error),
            Did::OpenBase(Ok(())) => self.base = BaseFile::Open,
            Did::OpenBase(Err(error)) => self.no_base(error),
            Did::CopyRange(result) => self.copied_range(result),
            Did::NextData(result) => self.mapped(result),
            Did::Read(slot, result) => self.did_read(slot, result),
            Did::Hash(slot, hashed) => self.did_hash(slot, hashed),
            Did::Write(slot, result) => self.did_write(slot, result),
            Did::Truncate(Ok(())) => self.cut(),
            Did::Truncate(Err(error)) => self.fail_target(error),
            Did::Look(Ok(now)) => self.looked(now),
            Did::Look(Err(error)) => self.fail(CopyError::Source(error)),
            Did::Dress(Ok(acls)) => {
                self.acls = acls;
                self.stage = if self.plan.sync { Stage::Syncing } else { Stage::Closing };
            }
            Did::Dress(Err(error)) | Did::Sync(Err(error)) => self.fail_target(error),
            Did::Sync(Ok(())) => self.stage = Stage::Closing,
            Did::Close(result) => {
                self.target = Target::Closed;
                match result {
                    Err(error) => self.fail_target(error),
                    Ok(()) if self.failure.is_none() => self.stage = Stage::Over,
                    Ok(()) => {}
                }
            }
            Did::Unlink(Ok(())) => {}
            Did::Unlink(Err(error)) if error.errno == Errno::NOENT => {}
            // What is left lies in a directory that may be published: that is the target's failure.
            Did::Unlink(Err(error)) => self.failure = Some(CopyError::Target(error)),
        }
    }

    /// The first failure is the one reported, but one of the target outweighs one of the source.
    fn fail(&mut self, error: CopyError) {
        match (&self.failure, &error) {
            (None, _) | (Some(CopyError::Source(_) | CopyError::Replaced), CopyError::Target(_)) => {
                self.failure = Some(error);
            }
            _ => {}
        }
    }

    fn fail_target(&mut self, error: SysError) {
        self.fail(CopyError::Target(error));
    }

    fn opened(&mut self, opened: Opened) {
        self.restart(opened.stat);
        let Some(loaded) = opened.loaded else { return };
        if !same(&opened.stat, &loaded.after) {
            self.tries += 1;
            self.restart(loaded.after);
            return;
        }
        self.last = Some(loaded.after);
        self.next_block = 1;
        self.slots[0] = Slot::Hashing { block: 0, len: opened.stat.size as usize };
        self.did_hash(0, loaded.hashed);
    }

    /// Begins a try with the source as `stat` says it is.
    fn restart(&mut self, stat: Stat) {
        if stat.size > self.plan.size_limit {
            return self.fail(CopyError::Source(SysError::new("take in", b"", Errno::FBIG)));
        }
        let blocks = self.count(stat.size) as usize;
        self.source = Some(stat);
        self.last = None;
        self.stale = false;
        self.next_block = 0;
        self.data = None;
        self.values = vec![[0; 32]; blocks];
        if self.plan.write && self.held.len() < blocks {
            self.held.resize(blocks, None);
        }
        self.ranges.clear();
        self.stage = Stage::Moving;
    }

    fn created(&mut self, result: Result<(), SysError>) {
        match result {
            Ok(()) => self.target = Target::Open,
            Err(error) if error.errno == Errno::EXIST && self.plan.replace_leftover => {
                self.plan.replace_leftover = false;
                self.target = Target::InTheWay;
            }
            Err(error) => {
                self.target = Target::Absent;
                self.fail_target(error);
            }
        }
    }

    /// The base is of no use. What the target holds already stays; the rest is read and sent.
    fn no_base(&mut self, error: SysError) {
        if !means_unusable(error.errno) {
            return self.fail_target(error);
        }
        self.base = BaseFile::Unused;
        self.ranges.clear();
        self.copying = None;
        self.redo = true;
    }

    fn copied_range(&mut self, result: Result<u64, SysError>) {
        let copied = match result {
            Ok(copied) => copied,
            Err(error) => return self.no_base(error),
        };
        let Some(range) = self.copying.take() else { return };
        if copied == 0 {
            return self.no_base(SysError::new("copy_file_range", b"", Errno::INVAL));
        }
        let copied = copied.min(range.len);
        self.reach = self.reach.max(range.offset + copied);
        if copied < range.len {
            let rest =
                Range { offset: range.offset + copied, len: range.len - copied, completes: range.completes };
            return self.ranges.push_front(rest);
        }
        for block in range.completes {
            self.hold(block);
        }
    }

    fn hold(&mut self, block: u64) {
        let value = self.values.get(block as usize).copied();
        if let Some(held) = self.held.get_mut(block as usize) {
            *held = value;
        }
    }

    fn mapped(&mut self, result: Result<Option<(u64, u64)>, SysError>) {
        self.mapping = false;
        let size = self.source.map_or(0, |stat| stat.size);
        match result {
            Ok(Some((start, end))) if end > start => self.data = Some((start, end)),
            // No data up to the end: one hole as long as the rest.
            Ok(_) => self.data = Some((size, u64::MAX)),
            Err(error) => self.fail(CopyError::Source(error)),
        }
    }

    fn did_read(&mut self, slot: usize, result: Result<usize, SysError>) {
        let last_try = self.tries >= RETRIES;
        let Some(Slot::Reading { block, len, filled, out: true }) = self.slots.get(slot).cloned() else {
            return;
        };
        let state = match result {
            Ok(0) if !last_try => {
                self.stale = true;
                Slot::Free
            }
            // It shrinks all the time: take what was read, and zeros for the rest of the size it had.
            Ok(0) => {
                self.changed = true;
                Slot::Read { block, len, filled: Some(filled) }
            }
            Ok(n) if filled + n >= len => Slot::Read { block, len, filled: Some(len) },
            Ok(n) => Slot::Reading { block, len, filled: filled + n, out: false },
            Err(error) if self.may_try_again(error.errno) => Slot::Reading { block, len, filled, out: false },
            Err(error) => {
                self.fail(CopyError::Source(error));
                Slot::Free
            }
        };
        self.slots[slot] = state;
    }

    fn may_try_again(&mut self, errno: Errno) -> bool {
        self.again += 1;
        matches!(errno, Errno::INTR | Errno::AGAIN) && self.again <= AGAIN_MAX
    }

    /// Decides what becomes of a block whose value is known.
    fn did_hash(&mut self, slot: usize, hashed: Hashed) {
        let Some(&Slot::Hashing { block, len }) = self.slots.get(slot) else { return };
        let index = block as usize;
        if let Some(value) = self.values.get_mut(index) {
            *value = hashed.value;
        }
        self.slots[slot] = Slot::Free;
        if !self.plan.write || self.held.get(index).copied().flatten() == Some(hashed.value) {
            return;
        }
        // Holes are left out only where the target is known to be zero: a sparse file begins each try at size 0.
        let runs = hashed.runs;
        if runs.is_empty() || len == 0 {
            return self.hold(block);
        }
        if self.equals_base(block, hashed.value) {
            return self.take_from_base(block, &runs);
        }
        self.slots[slot] = Slot::Writing { block, runs: runs.into(), out: false };
    }

    fn equals_base(&self, block: u64, value: Hash) -> bool {
        self.base != BaseFile::Unused
            && self.plan.base.as_ref().is_some_and(|base| base.blocks.get(block as usize) == Some(&value))
    }

    fn take_from_base(&mut self, block: u64, runs: &[(usize, usize)]) {
        for &(at, len) in runs {
            let (offset, len) = (block * BLOCK + at as u64, len as u64);
            match self.ranges.back_mut() {
                Some(last) if last.offset + last.len == offset && last.len + len <= COPY_RANGE_MAX => {
                    last.len += len
                }
                _ => self.ranges.push_back(Range { offset, len, completes: Vec::new() }),
            }
        }
        if let Some(last) = self.ranges.back_mut() {
            last.completes.push(block);
        }
    }

    fn did_write(&mut self, slot: usize, result: Result<usize, SysError>) {
        let Some(Slot::Writing { block, mut runs, out: true }) = self.slots.get(slot).cloned() else {
            return;
        };
        let block_start = block * self.plan.unit;
        self.slots[slot] = Slot::Free;
        match result {
            // No progress and no error would loop for ever.
            Ok(0) => return self.fail_target(SysError::new("write", b"", Errno::IO)),
            Ok(n) => {
                self.sent += n as u64;
                if let Some((at, len)) = runs.pop_front() {
                    let n = n.min(len);
                    self.reach = self.reach.max(block_start + (at + n) as u64);
                    if n < len {
                        runs.push_front((at + n, len - n));
                    }
                }
            }
            Err(error) if self.may_try_again(error.errno) => {}
            Err(error) => return self.fail_target(error),
        }
        if runs.is_empty() {
            return self.hold(block);
        }
        self.slots[slot] = Slot::Writing { block, runs, out: false };
    }

    fn cut(&mut self) {
        let Stage::Cutting { to, then } = self.stage else { return };
        self.reach = to;
        // What was cut off is no longer held, even if the source grows back.
        let kept = if to == 0 { 0 } else { self.count(to) as usize };
        self.held.iter_mut().skip(kept).for_each(|held| *held = None);
        match then {
            AfterCut::Move => self.stage = Stage::Moving,
            AfterCut::Look => self.arrived(),
        }
    }

    /// Holes may have come where the target has data; without holes, what is held can stay.
    fn cut_if_sparse(&mut self) {
        if self.failure.is_none() && self.plan.write && self.is_sparse() {
            self.stage = Stage::Cutting { to: 0, then: AfterCut::Move };
        }
    }

    /// Compares the source with what it was before this try.
    fn looked(&mut self, now: Stat) {
        let still = self.source.is_some_and(|before| same(&before, &now)) && !self.stale;
        if still || self.tries >= RETRIES {
            self.changed |= !still;
            self.last = Some(now);
            self.stage = self.dressed_or_over();
            return;
        }
        self.tries += 1;
        self.restart(now);
        self.cut_if_sparse();
    }
}

/// True when nothing that we look at happened to the file between two stats.
pub fn same(a: &Stat, b: &Stat) -> bool {
    a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime && a.ino == b.ino
}

/// Errors of the base and of copying inside the file system that only mean: send it instead.
fn means_unusable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::XDEV
            | Errno::OPNOTSUPP
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::PERM
            | Errno::TXTBSY
            | Errno::STALE
            | Errno::NOENT
            | Errno::LOOP
    )
}
