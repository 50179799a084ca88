//! Pure: what a flight makes of what was done.

use sys::{Errno, Stat, SysError};

use super::state::{AfterCut, BaseFile, Flight, Range, Slot, Stage, Target};
use super::words::{COPY_RANGE_MAX, Did, Hashed, Opened, same};
use crate::error::CopyError;
use crate::hash::{BLOCK, Hash};

/// Tries after the first, when the source changed while it was read.
const RETRIES: u32 = 3;

/// EAGAIN and EINTR in a row before they count as an error.
const AGAIN_MAX: u32 = 1000;

impl Flight {
    /// Takes in what came of an act.
    pub fn did(&mut self, did: Did) {
        self.busy = self.busy.saturating_sub(1);
        match did {
            Did::Open(Ok(opened)) => self.opened(opened),
            Did::Open(Err(error)) => self.fail(error),
            Did::Clean(Ok(())) => self.stage = Stage::Moving,
            Did::Clean(Err(error)) => self.fail(CopyError::Source(error)),
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
    pub(super) fn fail(&mut self, error: CopyError) {
        match (&self.failure, &error) {
            (None, _) | (Some(CopyError::Source(_) | CopyError::Replaced), CopyError::Target(_)) => {
                self.failure = Some(error);
            }
            _ => {}
        }
    }

    pub(super) fn fail_target(&mut self, error: SysError) {
        self.fail(CopyError::Target(error));
    }

    pub(super) fn opened(&mut self, opened: Opened) {
        self.restart(opened.stat);
        let Some(loaded) = opened.loaded else { return };
        if !same(&opened.stat, &loaded.after) {
            self.tries += 1;
            self.restart(loaded.after);
            return;
        }
        self.last = Some(loaded.after);
        // Cleaned when it was loaded.
        self.stage = Stage::Moving;
        self.next_block = 1;
        self.slots[0] = Slot::Hashing { block: 0, len: opened.stat.size as usize };
        self.did_hash(0, loaded.hashed);
    }

    /// Begins a try with the source as `stat` says it is.
    pub(super) fn restart(&mut self, stat: Stat) {
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
        self.stage = self.cleaned_or_moving();
    }

    fn cleaned_or_moving(&self) -> Stage {
        if self.plan.clean { Stage::Cleaning } else { Stage::Moving }
    }

    pub(super) fn created(&mut self, result: Result<(), SysError>) {
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
    pub(super) fn no_base(&mut self, error: SysError) {
        if !means_unusable(error.errno) {
            return self.fail_target(error);
        }
        self.base = BaseFile::Unused;
        self.ranges.clear();
        self.copying = None;
        self.redo = true;
    }

    pub(super) fn copied_range(&mut self, result: Result<u64, SysError>) {
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

    pub(super) fn hold(&mut self, block: u64) {
        let value = self.values.get(block as usize).copied();
        if let Some(held) = self.held.get_mut(block as usize) {
            *held = value;
        }
    }

    pub(super) fn mapped(&mut self, result: Result<Option<(u64, u64)>, SysError>) {
        self.mapping = false;
        let size = self.source.map_or(0, |stat| stat.size);
        match result {
            Ok(Some((start, end))) if end > start => self.data = Some((start, end)),
            // No data up to the end: one hole as long as the rest.
            Ok(_) => self.data = Some((size, u64::MAX)),
            Err(error) => self.fail(CopyError::Source(error)),
        }
    }

    pub(super) fn did_read(&mut self, slot: usize, result: Result<usize, SysError>) {
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
            Ok(n) if filled + n >= len => {
                self.again = 0;
                Slot::Read { block, len, filled: Some(len) }
            }
            Ok(n) => Slot::Reading { block, len, filled: filled + n, out: false },
            Err(error) if self.may_try_again(error.errno) => Slot::Reading { block, len, filled, out: false },
            Err(error) => {
                self.fail(CopyError::Source(error));
                Slot::Free
            }
        };
        self.slots[slot] = state;
    }

    pub(super) fn may_try_again(&mut self, errno: Errno) -> bool {
        self.again += 1;
        matches!(errno, Errno::INTR | Errno::AGAIN) && self.again <= AGAIN_MAX
    }

    /// Decides what becomes of a block whose value is known.
    pub(super) fn did_hash(&mut self, slot: usize, hashed: Hashed) {
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

    pub(super) fn equals_base(&self, block: u64, value: Hash) -> bool {
        self.base != BaseFile::Unused
            && self.plan.base.as_ref().is_some_and(|base| base.blocks.get(block as usize) == Some(&value))
    }

    pub(super) fn take_from_base(&mut self, block: u64, runs: &[(usize, usize)]) {
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

    pub(super) fn did_write(&mut self, slot: usize, result: Result<usize, SysError>) {
        let Some(Slot::Writing { block, mut runs, out: true }) = self.slots.get(slot).cloned() else {
            return;
        };
        let block_start = block * self.plan.unit;
        self.slots[slot] = Slot::Free;
        match result {
            // No progress and no error would loop for ever.
            Ok(0) => return self.fail_target(SysError::new("write", b"", Errno::IO)),
            Ok(n) => {
                self.again = 0;
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

    pub(super) fn cut(&mut self) {
        let Stage::Cutting { to, then } = self.stage else { return };
        self.reach = to;
        // What was cut off is no longer held, even if the source grows back.
        let kept = if to == 0 { 0 } else { self.count(to) as usize };
        self.held.iter_mut().skip(kept).for_each(|held| *held = None);
        match then {
            AfterCut::Move => self.stage = self.cleaned_or_moving(),
            AfterCut::Look => self.arrived(),
        }
    }

    /// Holes may have come where the target has data; without holes, what is held can stay.
    pub(super) fn cut_if_sparse(&mut self) {
        if self.failure.is_none() && self.plan.write && self.is_sparse() {
            self.stage = Stage::Cutting { to: 0, then: AfterCut::Move };
        }
    }

    /// Compares the source with what it was before this try.
    pub(super) fn looked(&mut self, now: Stat) {
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
