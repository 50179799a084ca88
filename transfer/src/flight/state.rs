//! Pure: what is known of one file on its way.

use std::collections::VecDeque;

use sys::Stat;
use sys::meta::AclsKept;

use super::words::{Landed, Plan};
use crate::error::CopyError;
use crate::hash::{BLOCK, ContentHash, Hash};

/// One file on its way.
#[derive(Debug)]
pub struct Flight {
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    /// Acts given out and not reported back.
    pub(super) busy: usize,
    pub(super) failure: Option<CopyError>,
    pub(super) target: Target,
    pub(super) base: BaseFile,
    /// The source as the present try took it.
    pub(super) source: Option<Stat>,
    pub(super) tries: u32,
    /// The source ended early: this try is lost, unless it is the last.
    pub(super) stale: bool,
    /// The base turned out to be useless: go through the source again without it.
    pub(super) redo: bool,
    pub(super) slots: Vec<Slot>,
    pub(super) next_block: u64,
    /// Next data of a sparse source, from the last NextData; `(size, size)` when there is none.
    pub(super) data: Option<(u64, u64)>,
    pub(super) mapping: bool,
    pub(super) values: Vec<Hash>,
    pub(super) held: Vec<Option<Hash>>,
    pub(super) ranges: VecDeque<Range>,
    pub(super) copying: Option<Range>,
    /// End of what was written to the target, at most its size.
    pub(super) reach: u64,
    pub(super) sent: u64,
    pub(super) again: u32,
    pub(super) acls: AclsKept,
    pub(super) last: Option<Stat>,
    pub(super) changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Start,
    Opening,
    Cleaning,
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
pub(super) enum AfterCut {
    Move,
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Absent,
    Creating,
    InTheWay,
    Clearing,
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BaseFile {
    Unused,
    Closed,
    Opening,
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Free,
    Reading { block: u64, len: usize, filled: usize, out: bool },
    Read { block: u64, len: usize, filled: Option<usize> },
    Hashing { block: u64, len: usize },
    Writing { block: u64, runs: VecDeque<(usize, usize)>, out: bool },
}

/// A stretch to be copied from the base, and the blocks that are complete when it is.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) completes: Vec<u64>,
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
}
