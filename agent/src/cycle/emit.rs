//! Writing the redo log of a cycle, in the order it is carried out, and applying it to the index on the way.

use std::collections::HashSet;

use proto::{Leaves, Op, RelPath, StagedName};

use super::stage::Staged;
use crate::error::Result;
use crate::ledger::LogFile;

pub(super) struct Outs {
    pub(super) run: u64,
    pub(super) next: u64,
    pub(super) list: Vec<(RelPath, Leaves)>,
}

impl Outs {
    /// Names in the trash have numbers of their own, above those of the stage.
    const FIRST: u64 = 1 << 40;

    pub(super) fn trash(&mut self, paths: Vec<RelPath>) {
        for path in paths {
            self.next += 1;
            self.list.push((path, Leaves::Trash(StagedName { run: self.run, n: Self::FIRST + self.next })));
        }
    }
}

pub(super) struct Emit<'a> {
    pub(super) log: &'a mut LogFile,
    pub(super) applying: &'a mut crate::index::Applying,
    pub(super) batch: Vec<Op>,
}

impl Emit<'_> {
    pub(super) fn op(&mut self, op: Op) -> Result<()> {
        self.log.op(&op)?;
        self.batch.push(op);
        if self.batch.len() >= 4096 { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.applying.ops(&self.batch)?;
        self.batch.clear();
        Ok(())
    }

    /// Installs, outermost first. Without renames what was staged has no order among itself; with them a new
    /// directory may hold a renamed one that holds a new one, and one pass per depth sorts that out.
    pub(super) fn installs(&mut self, staged: &mut Staged, with_moves: bool) -> Result<()> {
        let (installs, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut staged.ops).into_iter().partition(|op| matches!(op, Op::Install { .. }));
        if !with_moves {
            staged.spool.replay(|op| self.op(op))?;
        } else {
            let mut roots: HashSet<RelPath> = HashSet::new();
            staged.spool.replay(|op| {
                if let Op::Install { path, .. } = &op {
                    roots.insert(path.clone());
                }
                Ok(())
            })?;
            let mut depths: Vec<usize> =
                roots.iter().chain(installs.iter().map(Op::path)).map(RelPath::depth).collect();
            depths.sort_unstable();
            depths.dedup();
            for depth in depths {
                for op in installs.iter().filter(|op| op.path().depth() == depth) {
                    self.op(op.clone())?;
                }
                staged.spool.replay(|op| {
                    if root_depth(op.path(), &roots) == Some(depth) { self.op(op) } else { Ok(()) }
                })?;
            }
        }
        for op in others {
            self.op(op)?;
        }
        Ok(())
    }
}

/// Depth of the installed name that brings `path` with it.
fn root_depth(path: &RelPath, roots: &HashSet<RelPath>) -> Option<usize> {
    let mut at = path.clone();
    loop {
        if roots.contains(&at) {
            return Some(at.depth());
        }
        at = at.split_last()?.0;
    }
}
