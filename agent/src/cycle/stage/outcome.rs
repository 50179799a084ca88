//! What the engine reports, and what becomes of it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use proto::{Body, Entry, ExceptionClass, Op, RelPath, Source};
use sys::meta::AclsKept;
use sys::{FileKind, SysError};
use transfer::{Copied, CopyError, Writers};

use crate::cycle::acts::{ActError, Made, Opened};
use crate::cycle::entries;
use crate::cycle::links::Place;
use crate::cycle::look::{Policy, Refusal, inode_key};
use crate::error::{Error, Result};

use super::stager::Stager;
use super::take::content;
use super::words::{Check, Dest, Item, Tail, Task, Then, TreeDir};

/// Names between two flushes of the record: one small local write per so many copies.
const FLUSH_EVERY: u64 = 32;

impl Stager<'_> {
    pub(super) fn copied(&mut self, item: Item, outcome: Result<Copied, CopyError>) {
        match outcome {
            Ok(copied) => {
                self.note(&item, &copied);
                self.staged.bytes_sent += copied.bytes_sent;
                let racy = was_linked(&item, &copied.stat);
                let entry = entries::of_copied(&copied, self.around.silent.begun, racy);
                self.content_staged(item, entry);
            }
            Err(CopyError::Target(e)) => self.fail(format!("stage {}", item.path), e),
            Err(CopyError::Replaced) => self.vanished(&item),
            Err(CopyError::Source(e)) => self.source_failed(&item, &e),
        }
    }

    /// Corrects the fingerprint by what was really read, and remembers what was left out.
    pub(super) fn note(&mut self, item: &Item, copied: &Copied) {
        if let Some((_, name)) = item.path.split_last() {
            self.staged.fingerprint.subtract(item.parent, name, &item.stat);
            self.staged.fingerprint.add(item.parent, name, &copied.stat);
        }
        self.staged.torn |= copied.stat_changed_during_copy || was_linked(item, &copied.stat);
        let ino = copied.stat.ino;
        if self.around.silent.writers(ino) == Writers::Mapped && !copied.stat_changed_during_copy {
            self.staged.cleaned.insert(ino);
        }
        self.staged.acls_lost |= copied.acls == AclsKept::NotSupported;
        self.left_out(&item.path, &copied.xattrs.left_out);
        self.around.progress.bytes.fetch_add(copied.size, Ordering::Relaxed);
    }

    /// The entry of a file that an earlier, killed run staged and that the volume still has unchanged.
    pub(super) fn left_by_earlier_run(&self, item: &Item) -> Option<Entry> {
        let mapped = self.around.silent.writers(item.stat.ino) == Writers::Mapped;
        if !self.resume.is_active() || item.stat.nlink > 1 || mapped {
            return None;
        }
        if let Dest::Tree(id) = &item.dest {
            let (_, name) = item.path.split_last()?;
            if !self.trees.get(id)?.there.contains(name) {
                return None;
            }
        }
        self.resume.file(item)
    }

    pub(super) fn resumed(&mut self, item: Item, entry: Entry) {
        self.staged.resumed += 1;
        self.around.progress.bytes.fetch_add(item.stat.size, Ordering::Relaxed);
        self.content_staged(item, entry);
    }

    pub(super) fn content_staged(&mut self, item: Item, entry: Entry) {
        if item.stat.nlink > 1 {
            if let Err(error) = self.check_names(&item) {
                self.failed.get_or_insert(error);
            }
            let place = Place::Stage(self.place(&item));
            for waiting in self.groups.ready(inode_key(&item.stat), place.clone(), &entry) {
                self.ready.push(Task::Link(waiting, place.clone(), Box::new(entry.clone())));
            }
        }
        self.done_item(item, entry);
    }

    /// Names that the mirror has of an inode and that were not looked at in this cycle, as it was met inside a new
    /// directory, or linked a moment ago: they are not links of what is staged now. The next cycle brings them together.
    fn check_names(&mut self, item: &Item) -> Result<()> {
        let key = inode_key(&item.stat);
        for path in self.around.view.names_of(key.0)? {
            if path == item.path || self.groups.has(key, &path) {
                continue;
            }
            let there = path.split_last().and_then(|(parent, name)| {
                self.around.volume.root.open_below(parent.components()).ok()?.glance(name).ok()
            });
            // One that is not there may have another name that the index does not know: so that one is asked for again, too.
            if there.is_none_or(|stat| inode_key(&stat) == key) {
                self.staged.again.inodes.insert(key.0);
                self.staged.torn = true;
            }
        }
        Ok(())
    }

    /// A name is staged: records it, and finishes its directory if it was the last.
    pub(super) fn done_item(&mut self, item: Item, entry: Entry) {
        self.around.progress.entries.fetch_add(1, Ordering::Relaxed);
        self.staged.entries += 1;
        let op = match item.dest {
            Dest::Flat(staged) => {
                self.staged.installed.push(item.path.clone());
                self.staged.replicated.insert(item.path.clone());
                Op::Install { path: item.path, staged, entry, source: Source::Fresh }
            }
            Dest::Tree(_) => Op::Below { path: item.path, entry },
        };
        let recorded = self.staged.spool.push(&op).and_then(|()| {
            // What a killed run had staged is worth only what it had recorded.
            if self.staged.entries.is_multiple_of(FLUSH_EVERY) { self.staged.spool.flush() } else { Ok(()) }
        });
        if let Err(error) = recorded {
            self.failed.get_or_insert(error);
        }
        if let Dest::Tree(id) = item.dest {
            self.child_done(id);
        }
    }

    pub(super) fn child_done(&mut self, id: u64) {
        if let Some(tree) = self.trees.get_mut(&id) {
            tree.pending -= 1;
            if tree.pending == 0 {
                self.finish.push(id);
            }
        }
    }

    pub(super) fn opened(&mut self, item: Item, result: Result<Opened, ActError>) {
        let opened = match result {
            Ok(opened) => opened,
            Err(ActError::Target(e)) => return self.fail(format!("stage {}", item.path), e),
            Err(ActError::Source(e)) => return self.source_failed(&item, &e),
        };
        if let Some((_, name)) = item.path.split_last() {
            self.staged.fingerprint.subtract(item.parent, name, &item.stat);
            self.staged.fingerprint.add(item.parent, name, &opened.listing.stat);
        }
        self.left_out(&item.path, &opened.xattrs.left_out);
        let entry = entries::entry(Body::Dir, &opened.listing.stat, opened.xattrs.kept, false);
        let parent = match item.dest {
            Dest::Tree(id) => Some(id),
            Dest::Flat(_) => None,
        };
        self.next_tree += 1;
        let id = self.next_tree;
        let ino = opened.listing.stat.ino;
        let mut children = Vec::new();
        let policy = Policy { mount: self.mount, excludes: self.around.excludes };
        for (name, stat) in opened.listing.names {
            self.staged.fingerprint.add(ino, &name, &stat);
            let path = item.path.join(&name);
            if self.filled.contains(&path) {
                continue;
            }
            if let Some(refusal) = policy.refuse(&path, &stat) {
                self.staged.exceptions.refuse(refusal);
                continue;
            }
            children.push(Item { path, stat, parent: ino, dest: Dest::Tree(id), old: None });
        }
        let place = self.place(&item);
        let tree = TreeDir {
            path: item.path.clone(),
            source: opened.source,
            stage: opened.stage,
            made_as: opened.made_as,
            place,
            entry: entry.clone(),
            parent,
            pending: children.len(),
            there: opened.there,
        };
        self.trees.insert(id, tree);
        if children.is_empty() {
            self.finish.push(id);
        }
        // Its record comes before those of what it holds; it is finished when they are.
        let op = match item.dest {
            Dest::Flat(staged) => {
                self.staged.installed.push(item.path.clone());
                Op::Install { path: item.path, staged, entry, source: Source::Fresh }
            }
            Dest::Tree(_) => Op::Below { path: item.path, entry },
        };
        if let Err(error) = self.staged.spool.push(&op) {
            self.failed.get_or_insert(error);
        }
        // Directories first into the stack, so that files of this directory come out before them and the
        // number of open directories stays near the depth of the tree.
        let (dirs, files): (Vec<_>, Vec<_>) =
            children.into_iter().partition(|c| c.stat.kind == FileKind::Dir);
        for child in dirs.into_iter().chain(files) {
            self.add(child);
        }
    }

    pub(super) fn closed(&mut self, id: u64, result: Result<AclsKept, SysError>) {
        let Some(tree) = self.trees.remove(&id) else { return };
        match result {
            Ok(acls) => self.staged.acls_lost |= acls == AclsKept::NotSupported,
            Err(e) => return self.fail(format!("finish {} in the stage", tree.path), e),
        }
        self.around.progress.entries.fetch_add(1, Ordering::Relaxed);
        self.staged.entries += 1;
        if let Some(parent) = tree.parent {
            self.child_done(parent);
        }
    }

    pub(super) fn made(&mut self, item: Item, result: Result<Made, ActError>) {
        match result {
            Ok(Made { body, stat, xattrs, acls }) => {
                if let Some((_, name)) = item.path.split_last() {
                    self.staged.fingerprint.subtract(item.parent, name, &item.stat);
                    self.staged.fingerprint.add(item.parent, name, &stat);
                }
                self.left_out(&item.path, &xattrs.left_out);
                self.staged.acls_lost |= acls == AclsKept::NotSupported;
                let racy = was_linked(&item, &stat);
                self.staged.torn |= racy;
                let entry = entries::entry(body, &stat, xattrs.kept, racy);
                self.content_staged(item, entry);
            }
            Err(ActError::Target(e)) => self.fail(format!("stage {}", item.path), e),
            Err(ActError::Source(e)) => self.source_failed(&item, &e),
        }
    }

    pub(super) fn linked(&mut self, item: Item, entry: Entry, result: Result<(), SysError>) {
        match result {
            Ok(()) => {
                self.around.progress.bytes.fetch_add(item.stat.size, Ordering::Relaxed);
                self.done_item(item, entry);
            }
            Err(e) => self.fail(format!("link {} in the stage", item.path), e),
        }
    }

    pub(super) fn checked(&mut self, check: Check, outcome: Result<Copied, CopyError>) {
        let Check { item, old, then } = check;
        let copied = match outcome {
            Ok(copied) => copied,
            Err(CopyError::Target(e)) => return self.fail(format!("read {}", item.path), e),
            Err(CopyError::Replaced) => {
                self.not_moved(then);
                return self.vanished(&item);
            }
            Err(CopyError::Source(e)) => {
                self.not_moved(then);
                return self.source_failed(&item, &e);
            }
        };
        let racy = was_linked(&item, &copied.stat);
        let entry = entries::of_copied(&copied, self.around.silent.begun, racy);
        if !entry.same_in_mirror(&old) {
            self.not_moved(then);
            // Content or metadata differ: it is staged anew, from the mirror's own blocks where that helps.
            self.ready.push(Task::File(item));
            return;
        }
        self.note(&item, &copied);
        match then {
            Then::Facts => {
                self.around.progress.entries.fetch_add(1, Ordering::Relaxed);
                self.staged.ops.push(Op::Facts { path: item.path, entry });
            }
            Then::Move(old_path) => {
                self.around.progress.entries.fetch_add(1, Ordering::Relaxed);
                self.rename(old_path, item.path, entry, &old);
            }
            Then::Group(key, with) => {
                let place = Place::Mirror(item.old.map_or_else(|| item.path.clone(), |(path, _)| path));
                let known: HashSet<RelPath> = with.iter().map(|(path, _)| path.clone()).collect();
                for waiting in self.groups.ready(key, place.clone(), &entry) {
                    if !known.contains(&waiting.path) {
                        self.ready.push(Task::Link(waiting, place.clone(), Box::new(entry.clone())));
                    }
                }
                for path in known {
                    self.staged.ops.push(Op::Facts { path, entry: entry.clone() });
                }
                self.staged.ops.push(Op::Facts { path: item.path, entry });
            }
        }
    }

    /// A rename that is none: what it was to take away is gone from its place nevertheless.
    pub(super) fn not_moved(&mut self, then: Then) {
        if let Then::Move(old) = then {
            self.staged.deletes.push(old);
        }
    }

    pub(super) fn tail_staged(&mut self, tail: Tail, result: Result<Option<Copied>, ActError>) {
        let Tail { item, old, name } = tail;
        let copied = match result {
            Ok(Some(copied)) => copied,
            // The mirror does not have its beginning: all of it, then.
            Ok(None) => return self.ready.push(Task::File(item)),
            Err(ActError::Target(e)) => return self.fail(format!("stage the end of {}", item.path), e),
            Err(ActError::Source(e)) => return self.source_failed(&item, &e),
        };
        self.note(&item, &copied);
        self.around.progress.entries.fetch_add(1, Ordering::Relaxed);
        let racy = was_linked(&item, &copied.stat);
        let entry = entries::of_copied(&copied, self.around.silent.begun, racy);
        let path = item.path;
        if entry.same_in_mirror(&old) {
            return self.staged.ops.push(Op::Facts { path, entry });
        }
        self.staged.entries += 1;
        self.staged.bytes_sent += copied.bytes_sent;
        self.staged.installed.push(path.clone());
        self.staged.replicated.insert(path.clone());
        let (via, from) = (self.name(), old.size());
        let tail = (entry.size() > from).then_some(name);
        self.staged.ops.push(Op::Grow { path, via, from, tail, entry });
    }

    /// The name is gone or is something else by now. The second look says so, and the next cycle sees it.
    pub(super) fn vanished(&mut self, item: &Item) {
        self.staged.torn = true;
        self.staged.again.add(item.path.clone(), item.stat.kind);
        self.drop_item(item);
    }

    pub(super) fn source_failed(&mut self, item: &Item, error: &SysError) {
        if error.is_gone() || [sys::Errno::NOTDIR, sys::Errno::LOOP].contains(&error.errno) {
            return self.vanished(item);
        }
        let what =
            if item.stat.kind == FileKind::Dir { "directory cannot be read" } else { "cannot be read" };
        self.staged.exceptions.refuse(crate::cycle::look::unreadable(&item.path, what, error));
        self.drop_item(item);
    }

    pub(super) fn drop_item(&mut self, item: &Item) {
        if item.stat.kind == FileKind::Dir && self.filled.iter().any(|path| path.is_within(&item.path)) {
            // Renames were to bring things into it, and they have left where they were.
            self.failed.get_or_insert(Error::Raced { path: item.path.clone() });
        }
        if item.stat.kind != FileKind::Dir
            && item.stat.nlink > 1
            && let Some(next) = self.groups.failed(inode_key(&item.stat))
        {
            self.ready.push(content(next));
        }
        if let Dest::Tree(id) = item.dest {
            self.remove_leftover(id, item);
            self.child_done(id);
        }
    }

    /// What an earlier run staged of something that is not staged now would be published with its directory.
    fn remove_leftover(&mut self, id: u64, item: &Item) {
        let Some(tree) = self.trees.get(&id) else { return };
        let Some((_, name)) = item.path.split_last() else { return };
        if tree.there.contains(name)
            && let Err(e) = tree.stage.remove_tree(name)
            && e.errno != sys::Errno::NOENT
        {
            self.fail(format!("remove what is left of {}", item.path), e);
        }
    }

    pub(super) fn fail(&mut self, act: String, source: SysError) {
        let gone = source.is_gone();
        let error = Error::Mirror { act, source };
        let error = if gone { self.around.ledger.fenced_or(self.around.tenure.epoch, error) } else { error };
        self.failed.get_or_insert(error);
    }

    pub(super) fn left_out(&mut self, path: &RelPath, attributes: &[Vec<u8>]) {
        if attributes.is_empty() {
            return;
        }
        let names: Vec<String> = attributes.iter().map(|n| proto::path::Escaped(n).to_string()).collect();
        self.staged.exceptions.refuse(Refusal {
            path: path.clone(),
            class: ExceptionClass::LeftOut,
            reason: format!("{}{}", crate::cycle::exceptions::ATTRIBUTES, names.join(", ")),
            errno: 0,
        });
    }
}

/// True when a file got another name after it was looked at: that name may have been staged as a file of its own, and
/// what the index says of both must not be believed the next time. (The story: a link that was made while a first copy
/// ran stayed two files in the mirror for good, for both rows said the same inode, unchanged.)
fn was_linked(item: &Item, now: &sys::Stat) -> bool {
    item.stat.nlink == 1 && now.nlink > 1
}
