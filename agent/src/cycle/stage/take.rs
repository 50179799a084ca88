//! From the plan to tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::{Body, Entry, Op, RelPath, Source};
use sys::FileKind;

use crate::cycle::entries;
use crate::cycle::links::{Place, Role};
use crate::cycle::look::{Found, InodeKey, LinkName, inode_key};
use crate::cycle::plan::{Move, Plan};
use crate::error::Result;
use crate::index::Quick;

use super::stager::Stager;
use super::words::{Check, Dest, Item, Tail, Task, Then};

/// Files up to this size are sent whole when they changed: finding out what changed costs as much.
pub(super) const DELTA_MIN: u64 = 4 << 20;

/// A tail may be this part of what the mirror has.
const TAIL_SHARE: u64 = 4;

impl Stager<'_> {
    /// Turns the plan into tasks.
    pub(super) fn take(&mut self, plan: Plan) -> Result<()> {
        for refusal in plan.rest.refused {
            self.staged.exceptions.refuse(refusal);
        }
        self.filled = plan.moves.iter().map(|this| this.found.path.clone()).collect();
        for (key, names) in plan.rest.links {
            self.group(key, names)?;
        }
        for (found, quick) in plan.changed {
            self.changed(found, quick)?;
        }
        for this in plan.moves {
            self.moved(this)?;
        }
        for found in plan.new {
            let dest = self.flat(&found.path);
            self.add(found_item(found, dest, None));
        }
        Ok(())
    }

    /// A name of its own in the stage: the one a killed run gave it, if that is still good.
    pub(super) fn flat(&mut self, path: &RelPath) -> Dest {
        match self.resume.root(path) {
            Some(name) => Dest::Flat(name),
            None => Dest::Flat(self.name()),
        }
    }

    pub(super) fn add(&mut self, item: Item) {
        let counts = &self.around.progress;
        counts.entries_known.fetch_add(1, Ordering::Relaxed);
        if item.stat.kind == FileKind::File {
            counts.bytes_known.fetch_add(item.stat.size, Ordering::Relaxed);
        }
        if item.stat.kind == FileKind::Dir {
            self.ready.push(Task::Open(item));
        } else if item.stat.nlink > 1 {
            match self.groups.join(inode_key(&item.stat), item) {
                Role::Lead(item) => self.ready.push(content(*item)),
                Role::Link(item, place, entry) => self.ready.push(Task::Link(*item, place, entry)),
                Role::Wait => {}
            }
        } else {
            self.ready.push(content(item));
        }
    }

    pub(super) fn old_entry(&self, path: &RelPath) -> Result<Option<Arc<Entry>>> {
        Ok(self.around.view.entry(path)?.map(Arc::new))
    }

    pub(super) fn changed(&mut self, found: Found, quick: Quick) -> Result<()> {
        let old = self.old_entry(&found.old)?;
        let dest = Dest::Flat(self.name());
        let is_file = found.stat.kind == FileKind::File;
        match (quick, old) {
            (_, Some(old)) if may_grow(&found, &old) => {
                let name = self.name();
                let item = found_item(found, dest, Some(old.clone()));
                self.ready.push(Task::Tail(Box::new(Tail { item, old, name })));
            }
            (Quick::Touched, Some(old)) if is_file => {
                let item = found_item(found, dest, Some(old.clone()));
                self.ready.push(Task::Check(Box::new(Check { item, old, then: Then::Facts })));
            }
            (Quick::Touched, Some(old)) => {
                let item = found_item(found, dest, Some(old.clone()));
                match self.special_entry(&item) {
                    Some(entry) if entry.same_in_mirror(&old) => {
                        self.staged.ops.push(Op::Facts { path: item.path, entry });
                    }
                    _ => self.add(item),
                }
            }
            (_, old) => self.add(found_item(found, dest, old)),
        }
        Ok(())
    }

    /// Entry of a symlink or FIFO as the volume has it now; nothing if it cannot be read.
    pub(super) fn special_entry(&mut self, item: &Item) -> Option<Entry> {
        let (dir, name) = self.source(item)?;
        let (body, xattrs) = match item.stat.kind {
            FileKind::Symlink => (Body::Symlink(dir.readlink(&name).ok()?), Vec::new()),
            _ => (Body::Fifo, sys::meta::read_fifo_xattrs(&dir, &name).ok()?.kept),
        };
        Some(entries::entry(body, &item.stat, xattrs, false))
    }

    pub(super) fn moved(&mut self, this: Move) -> Result<()> {
        let Some(old) = self.old_entry(&this.old)? else { return Ok(()) };
        if let Some((_, entry, xattrs)) = this.dir {
            self.left_out(&this.found.path, &xattrs.left_out);
            self.rename(this.old, this.found.path, entry, &old);
            return Ok(());
        }
        let dest = Dest::Flat(self.name());
        let item = found_item(this.found, dest, Some(old.clone()));
        self.ready.push(Task::Check(Box::new(Check { item, old, then: Then::Move(this.old) })));
        Ok(())
    }

    pub(super) fn rename(&mut self, old: RelPath, path: RelPath, entry: Entry, was: &Entry) {
        let staged = self.name();
        if entry.is_dir() && !entry.same_in_mirror(was) {
            let work = dir_work(&entry, was);
            self.staged.ops.push(Op::Dir { path: path.clone(), entry: entry.clone(), work });
        }
        self.staged.installed.push(path.clone());
        self.staged.moved.push((old, staged));
        self.staged.ops.push(Op::Install { path, staged, entry, source: Source::Moved });
    }

    /// True when the mirror has two names of one inode. Linking it once more would not be seen: a rename of one link of an
    /// inode onto another does nothing, and leaves what was staged.
    fn is_one_in_mirror(&mut self, one: &RelPath, other: &RelPath) -> bool {
        let mut inode = |path| {
            let (dir, name) = self.mirror_dirs.parent(path).ok()?;
            dir.stat(&name).ok().map(|stat| stat.ino)
        };
        let (one, other) = (inode(one), inode(other));
        one.is_some() && one == other
    }

    /// One inode with several names that were there before or are new, below directories that are not new.
    pub(super) fn group(&mut self, key: InodeKey, mut names: Vec<LinkName>) -> Result<()> {
        names.sort_by(|a, b| a.found.path.cmp(&b.found.path));
        if let Some(same) = names.iter().position(|name| name.quick == Some(Quick::Same)) {
            let leader = names.remove(same).found;
            let Some(entry) = self.old_entry(&leader.old)? else { return Ok(()) };
            // Others that are the same are links of it in the mirror already; where nothing is to be done, that is not
            // even asked.
            let is_idle = names.iter().all(|name| name.quick == Some(Quick::Same));
            names.retain(|name| {
                name.quick != Some(Quick::Same) || !(is_idle || self.are_linked(&leader.old, &name.found.old))
            });
            self.groups.ready(key, Place::Mirror(leader.old), &entry);
        } else if !names.iter().any(|name| name.quick == Some(Quick::Changed))
            && names.iter().all(|name| name.found.stat.kind == FileKind::File)
            && let Some(first) = names.iter().position(|name| name.quick == Some(Quick::Touched))
        {
            let leader = names.remove(first);
            let Some(old) = self.old_entry(&leader.found.old)? else { return Ok(()) };
            let mut with = Vec::new();
            self.groups.pending(key);
            for name in names {
                // Names of the leader's old inode are links of it in the mirror. They wait like the others: if the
                // content turns out to differ, they are made anew. So are those of which that is not certain.
                let is_doubtful = name.racy || leader.racy;
                if (!is_doubtful || self.is_one_in_mirror(&name.found.old, &leader.found.old))
                    && name.row.is_some()
                    && name.row == leader.row
                    && self.are_linked(&leader.found.old, &name.found.old)
                    && let Some(entry) = self.old_entry(&name.found.old)?
                {
                    with.push((name.found.path.clone(), entry));
                }
                let dest = Dest::Flat(self.name());
                let _waits = self.groups.join(key, found_item(name.found, dest, None));
            }
            let dest = Dest::Flat(self.name());
            let item = found_item(leader.found, dest, Some(old.clone()));
            self.ready.push(Task::Check(Box::new(Check { item, old, then: Then::Group(key, with) })));
            return Ok(());
        }
        for name in names {
            let old = if name.quick.is_some() { self.old_entry(&name.found.old)? } else { None };
            let dest = Dest::Flat(self.name());
            self.add(found_item(name.found, dest, old));
        }
        Ok(())
    }
}

impl Stager<'_> {
    /// Whether two names of one inode are one in the mirror too. Mostly they are; but one may have been staged when the
    /// other was not looked at, for it was linked in that very moment. Asked only where there is something to do.
    fn are_linked(&mut self, a: &RelPath, b: &RelPath) -> bool {
        let mut ino = |path: &RelPath| {
            let (dir, name) = self.mirror_dirs.parent(path).ok()?;
            let stat = dir.stat(&name).ok()?;
            Some((stat.dev, stat.ino))
        };
        ino(a).is_some_and(|one| ino(b) == Some(one))
    }
}

/// The task that makes one name with content of its own.
pub(super) fn content(item: Item) -> Task {
    if item.stat.kind == FileKind::File { Task::File(item) } else { Task::Special(item) }
}

/// Whether the mirror's own file may be kept and grow: a large one of one name and without holes, the same inode, not
/// smaller, and with little behind what it had (a tail is written twice).
fn may_grow(found: &Found, old: &Entry) -> bool {
    let Body::File(body) = &old.body else { return false };
    let stat = &found.stat;
    stat.kind == FileKind::File
        && body.size >= DELTA_MIN
        && !body.blocks.is_empty()
        && stat.size >= body.size
        && stat.size - body.size <= body.size / TAIL_SHARE
        && stat.ino == old.origin.ino
        && stat.nlink == 1
        && !old.linked
        && stat.allocated >= stat.size
        && found.path == found.old
}

fn found_item(found: Found, dest: Dest, old: Option<Arc<Entry>>) -> Item {
    let old = old.map(|entry| (found.old, entry));
    Item { path: found.path, stat: found.stat, parent: found.parent, dest, old }
}

/// How much of a directory has to be set, given what the mirror has.
pub fn dir_work(entry: &Entry, was: &Entry) -> proto::DirWork {
    let same =
        entry.mode == was.mode && entry.uid == was.uid && entry.gid == was.gid && entry.xattrs == was.xattrs;
    if same { proto::DirWork::Times } else { proto::DirWork::All }
}
