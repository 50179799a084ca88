//! Which directories of the mirror get metadata in a cycle.

use std::collections::{BTreeMap, HashSet};

use proto::{DirWork, Entry, Leaves, Op, RelPath, StagedName};
use sys::Errno;

use super::emit::Outs;
use super::entries;
use super::look::{self, InodeKey};
use super::run::Cycle;
use super::stage::{Staged, dir_work};
use crate::error::Result;
use crate::index::View;

impl Cycle<'_> {
    /// Directories of the mirror that need metadata: changed in the volume, or touched by installs and outs.
    pub(super) fn dir_ops(
        &self,
        view: &View,
        staged: &mut Staged,
        outs: &Outs,
        moves: &[(RelPath, StagedName)],
        changed: Vec<(RelPath, RelPath, InodeKey)>,
    ) -> Result<Vec<Op>> {
        let moved: BTreeMap<RelPath, RelPath> = staged
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Install { path, staged, .. } => {
                    moves.iter().find(|(_, name)| name == staged).map(|(old, _)| (old.clone(), path.clone()))
                }
                _ => None,
            })
            .collect();
        let mut touched: HashSet<RelPath> = HashSet::new();
        touched
            .extend(staged.installed.iter().filter_map(|path| path.split_last().map(|(parent, _)| parent)));
        for (old, _) in &outs.list {
            if let Some((parent, _)) = old.split_last()
                && let Some(new) = relocate(&parent, &moved, &outs.list)
            {
                touched.insert(new);
            }
        }
        let mut ops = Vec::new();
        let mut done = HashSet::new();
        for (path, old, key) in changed {
            let entry = match self.dir_entry(&path) {
                Ok((entry, _)) if (entry.origin.ino, entry.origin.btime) == key => entry,
                // It is something else by now: the next cycle sees it. Were that one remembered, it would be taken for
                // the one whose content was compared.
                Ok(_) => continue,
                Err(e) if e.is_gone() || [Errno::NOTDIR, Errno::LOOP].contains(&e.errno) => continue,
                Err(e) => {
                    let what = "attributes of the directory cannot be read";
                    staged.exceptions.refuse(look::unreadable(&path, what, &e));
                    continue;
                }
            };
            done.insert(path.clone());
            let was = view.entry(&old)?;
            match was {
                Some(was) if entry.same_in_mirror(&was) && !touched.contains(&path) => {
                    ops.push(Op::Facts { path, entry });
                }
                Some(was) => {
                    let work = dir_work(&entry, &was);
                    ops.push(Op::Dir { path, entry, work });
                }
                None => ops.push(Op::Dir { path, entry, work: DirWork::All }),
            }
        }
        done.extend(staged.ops.iter().filter_map(|op| match op {
            Op::Dir { path, .. } => Some(path.clone()),
            _ => None,
        }));
        touched.retain(|path| !done.contains(path));
        // New in this generation, whatever had its name before; and something comes into it after it was staged: as it was
        // when it was staged.
        staged.spool.replay(|op| {
            if let Op::Install { path, entry, .. } | Op::Below { path, entry } = op
                && entry.is_dir()
                && touched.remove(&path)
            {
                ops.push(Op::Dir { path, entry, work: DirWork::Times });
            }
            Ok(())
        })?;
        for path in touched {
            // Where the index has it, seen from the new generation backwards.
            let old = moved
                .iter()
                .filter(|(_, new)| path.is_within(new))
                .max_by_key(|(_, new)| new.depth())
                .and_then(|(old, new)| path.rebase(new, old))
                .unwrap_or_else(|| path.clone());
            if let Some(entry) = view.entry(&old)?.filter(Entry::is_dir) {
                ops.push(Op::Dir { path, entry, work: DirWork::Times });
            }
        }
        ops.sort_by(|a, b| a.path().cmp(b.path()));
        Ok(ops)
    }

    fn dir_entry(&self, path: &RelPath) -> Result<(Entry, sys::meta::XattrsRead), sys::SysError> {
        let dir = self.volume.root.open_below(path.components())?;
        entries::of_dir(&dir)
    }
}

/// Where an old path is in the new generation; nothing if it is gone.
fn relocate(
    old: &RelPath,
    moved: &BTreeMap<RelPath, RelPath>,
    outs: &[(RelPath, Leaves)],
) -> Option<RelPath> {
    let nearest_move =
        moved.iter().filter(|(from, _)| old.is_within(from)).max_by_key(|(from, _)| from.depth());
    let nearest_trash = outs
        .iter()
        .filter(|(path, to)| matches!(to, Leaves::Trash(_)) && old.is_within(path))
        .map(|(path, _)| path.depth())
        .max();
    match (nearest_move, nearest_trash) {
        (Some((from, to)), trash) if trash.is_none_or(|depth| depth < from.depth()) => old.rebase(from, to),
        (_, Some(_)) => None,
        (Some(_), None) | (None, None) => Some(old.clone()),
    }
}
