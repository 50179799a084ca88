//! From a task to a job of the engine.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use proto::{Body, RelPath};
use sys::{Dir, Owner};
use transfer::{CopyJob, Durability, How, Identity, Job};

use crate::cycle::acts::{self};
use crate::cycle::links::Place;
use crate::cycle::look::inode_key;
use crate::cycle::tail;

use super::stager::Stager;
use super::take::DELTA_MIN;
use super::words::{Dest, Doing, Item, Task};

impl Stager<'_> {
    pub(super) fn start(&mut self, task: Task) -> Option<(u64, Job)> {
        let (doing, job) = match task {
            Task::Open(item) => {
                let (source, target) = (self.source(&item)?, self.target(&item));
                let owner = self.create_as(&item);
                let leftover = self.resume.is_active().then(|| self.filled_in(&item.path));
                let expect = inode_key(&item.stat);
                let call = move || -> Box<dyn Any + Send> {
                    Box::new(acts::open_tree(&source, &target, owner, leftover.as_ref(), expect))
                };
                (Doing::Open(item), Job::Call(Box::new(call)))
            }
            Task::File(item) => {
                if let Some(entry) = self.left_by_earlier_run(&item) {
                    self.resumed(item, entry);
                    return None;
                }
                let how = self.how(&item);
                let job = self.copy_job(&item, how)?;
                (Doing::Copy(item), job)
            }
            Task::Check(check) => {
                let Some(job) = self.copy_job(&check.item, How::HashOnly) else {
                    self.not_moved(check.then);
                    return None;
                };
                (Doing::Check(check), job)
            }
            Task::Tail(tail) => {
                let (source, target) = (self.source(&tail.item)?, self.around.tenure.stage.clone());
                let stat = &tail.item.stat;
                let identity = Identity { ino: stat.ino, dev: stat.dev };
                let (old, writers) = (tail.old.clone(), self.around.silent.writers(stat.ino));
                let target = (target, proto::names::staged(tail.name).into());
                let sync = self.around.durability == Durability::PerFile;
                let limits = self.around.options.limits.clone();
                let call = move || -> Box<dyn Any + Send> {
                    Box::new(tail::stage(&source, identity, writers, &old, &target, sync, &limits))
                };
                (Doing::Tail(tail), Job::Call(Box::new(call)))
            }
            Task::Special(item) => {
                let (source, target) = (self.source(&item)?, self.target(&item));
                let (stat, owner) = (item.stat, self.create_as(&item));
                let leftover = self.resume.is_active();
                let call = move || -> Box<dyn Any + Send> {
                    Box::new(acts::make_special(&source, &target, &stat, owner, leftover))
                };
                (Doing::Make(item), Job::Call(Box::new(call)))
            }
            Task::Link(item, place, entry) => {
                let target = self.target(&item);
                let from = match &place {
                    Place::Mirror(path) => match self.mirror_dirs.parent(path) {
                        Ok((dir, name)) => acts::LinkFrom::Held(dir, name.into_owned().into()),
                        Err(e) => {
                            self.fail(format!("find {path} in the mirror"), e);
                            return None;
                        }
                    },
                    Place::Stage(components) => {
                        acts::LinkFrom::Stage(self.around.tenure.stage.clone(), components.clone())
                    }
                };
                let leftover = self.resume.is_active();
                let call = move || -> Box<dyn Any + Send> { Box::new(acts::link(&from, &target, leftover)) };
                (Doing::Link(item, entry), Job::Call(Box::new(call)))
            }
        };
        self.next_tag += 1;
        self.doing.insert(self.next_tag, doing);
        Some((self.next_tag, job))
    }

    /// Names in a new directory that renames bring.
    fn filled_in(&self, dir: &RelPath) -> HashSet<Box<[u8]>> {
        let split = self.filled.iter().filter_map(|path| path.split_last());
        split.filter(|(parent, _)| parent == dir).map(|(_, name)| Box::from(name)).collect()
    }

    /// Directory and name in the volume; nothing if the directory is gone, and then the item is dropped.
    pub(super) fn source(&mut self, item: &Item) -> Option<(Arc<Dir>, Box<[u8]>)> {
        let name: Box<[u8]> = match item.path.split_last() {
            Some((_, name)) => name.into(),
            // The root of the volume: acts open it by an empty name.
            None => return Some((self.around.volume.root.clone(), Box::default())),
        };
        if let Dest::Tree(id) = item.dest {
            let source = self.trees.get(&id)?.source.clone();
            return Some((source, name));
        }
        let (parent, _) = item.path.split_last()?;
        if let Some((path, dir)) = &self.volume_dir
            && *path == parent
        {
            return Some((dir.clone(), name));
        }
        match self.around.volume.root.open_below(parent.components()) {
            Ok(dir) => {
                let dir = Arc::new(dir);
                self.volume_dir = Some((parent, dir.clone()));
                Some((dir, name))
            }
            Err(e) => {
                self.source_failed(item, &e);
                None
            }
        }
    }

    pub(super) fn target(&self, item: &Item) -> (Arc<Dir>, Box<[u8]>) {
        match &item.dest {
            Dest::Flat(name) => (self.around.tenure.stage.clone(), proto::names::staged(*name).into()),
            Dest::Tree(id) => {
                let stage = self.trees.get(id).map(|tree| tree.stage.clone());
                let name = item.path.split_last().map_or_else(Box::default, |(_, name)| name.into());
                (stage.unwrap_or_else(|| self.around.tenure.stage.clone()), name)
            }
        }
    }

    pub(super) fn place(&self, item: &Item) -> Vec<Box<[u8]>> {
        match &item.dest {
            Dest::Flat(name) => vec![proto::names::staged(*name).into()],
            Dest::Tree(id) => {
                let mut place = self.trees.get(id).map(|tree| tree.place.clone()).unwrap_or_default();
                place.extend(item.path.split_last().map(|(_, name)| Box::from(name)));
                place
            }
        }
    }

    /// Blocks that the mirror has are copied from there only where that stays in the file system: a FUSE mount would
    /// read them over the network and send them back.
    pub(super) fn how(&mut self, item: &Item) -> How {
        let Some((old, entry)) = &item.old else { return How::Whole };
        if self.around.ledger.root.pinned().kind().is_fuse() {
            return How::Whole;
        }
        let Body::File(body) = &entry.body else { return How::Whole };
        if body.size < DELTA_MIN || item.stat.size < DELTA_MIN || body.blocks.is_empty() {
            return How::Whole;
        }
        match self.mirror_dirs.parent(old) {
            Ok((dir, name)) => How::Delta {
                base: (dir, name.into_owned().into()),
                base_size: body.size,
                base_blocks: body.blocks.clone().into(),
            },
            Err(_) => How::Whole,
        }
    }

    /// Whom something is created as, so that it needs no chown: its owner, where they may create. That is in a
    /// directory of theirs.
    pub(super) fn create_as(&self, item: &Item) -> Option<Owner> {
        let owner = Owner { uid: item.stat.uid, gid: item.stat.gid };
        if !self.is_root || (owner.uid, owner.gid) == (0, 0) {
            return None;
        }
        let above = match &item.dest {
            Dest::Flat(_) => 0,
            Dest::Tree(id) => self.trees.get(id)?.made_as.uid,
        };
        (owner.uid == 0 || owner.uid == above).then_some(owner)
    }

    pub(super) fn copy_job(&mut self, item: &Item, how: How) -> Option<Job> {
        let source = self.source(item)?;
        Some(Job::Copy(Box::new(CopyJob {
            source,
            expect: Identity { ino: item.stat.ino, dev: item.stat.dev },
            target: self.target(item),
            create_as: self.create_as(item),
            replace_leftover: self.resume.is_active(),
            how,
            writers: self.around.silent.writers(item.stat.ino),
            durability: self.around.durability,
        })))
    }

    /// A directory with nothing pending gets its metadata, last of all: names made in it moved its times.
    pub(super) fn close(&mut self) -> Option<(u64, Job)> {
        let id = self.finish.pop()?;
        let tree = self.trees.get(&id)?;
        let (stage, entry, made_as) = (tree.stage.clone(), tree.entry.clone(), tree.made_as);
        let is_root = tree.path.is_root();
        let call = move || -> Box<dyn Any + Send> {
            Box::new(acts::close_tree(&stage, &crate::ledger::meta_of(&entry), made_as, is_root))
        };
        self.next_tag += 1;
        self.doing.insert(self.next_tag, Doing::Close(id));
        Some((self.next_tag, Job::Call(Box::new(call))))
    }
}
