//! Pure: what a flight wants done next.

use super::state::{AfterCut, BaseFile, Flight, Slot, Stage, Target};
use super::words::{Act, Block, COPY_RANGE_MAX, Poll};
use crate::error::CopyError;
use crate::hash::{BLOCK, Place};

impl Flight {
    /// The next act; `room` says whether there is a buffer for another block.
    pub fn poll(&mut self, room: bool) -> Poll {
        let poll = self.next(room);
        if matches!(poll, Poll::Act(_)) {
            self.busy += 1;
        }
        poll
    }

    pub(super) fn next(&mut self, room: bool) -> Poll {
        if self.stage == Stage::Over {
            return Poll::Over;
        }
        if self.failure.is_some() {
            return self.give_up();
        }
        match self.stage {
            Stage::Start => self.enter(Stage::Opening, Act::Open),
            Stage::Cleaning if self.busy == 0 => Poll::Act(Act::Clean),
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
    pub(super) fn give_up(&mut self) -> Poll {
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

    pub(super) fn enter(&mut self, stage: Stage, act: Act) -> Poll {
        self.stage = stage;
        Poll::Act(act)
    }

    pub(super) fn over(&mut self) -> Poll {
        self.stage = Stage::Over;
        Poll::Over
    }

    /// Permission bits to create the target with: those that need no chmod later, which the special bits always do.
    pub fn create_mode(&self) -> u32 {
        self.source.map_or(0o600, |stat| stat.mode & 0o777)
    }

    /// The main stage: whatever can be started beside what is under way.
    pub(super) fn carry(&mut self, room: bool) -> Poll {
        if self.plan.write {
            match self.target {
                Target::Absent => {
                    self.target = Target::Creating;
                    return Poll::Act(Act::Create { mode: self.create_mode() });
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
    pub(super) fn moved(&mut self, room: bool) -> Poll {
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
    pub(super) fn arrived(&mut self) {
        self.stage = match self.last {
            // A small file was looked at right after it was loaded.
            Some(_) => self.dressed_or_over(),
            None => Stage::Looking,
        };
    }

    pub(super) fn dressed_or_over(&self) -> Stage {
        if self.plan.write { Stage::Dressing } else { Stage::Over }
    }

    pub(super) fn next_write(&mut self) -> Option<Act> {
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
    pub(super) fn next_range(&mut self) -> Option<Act> {
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
    pub(super) fn next_of_slots(&mut self) -> Option<Act> {
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
    pub(super) fn next_of_source(&mut self, room: bool) -> Option<Poll> {
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

    pub(super) fn blocks(&self) -> u64 {
        self.source.map_or(0, |stat| self.count(stat.size))
    }

    pub(super) fn count(&self, size: u64) -> u64 {
        size.div_ceil(self.plan.unit).max(1)
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.source.is_some_and(|stat| stat.allocated < stat.size)
    }
}
