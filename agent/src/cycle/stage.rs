//! Staging: everything a generation brings is made in `stage.N`, hashed on the way; the mirror is only read.
//!
//! The stager feeds the copy engine and takes its outcomes. New directories are walked here, while they are
//! copied, so that a first copy of any size needs memory only for what is in flight.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::{Body, Entry, ExceptionClass, Op, RelPath, Source, StagedName};
use sys::meta::{AclsKept, MadeAs};
use sys::{Dir, FileKind, Owner, Stat, SysError};
use transfer::{Copied, CopyError, CopyJob, Durability, Feed, How, Identity, Job, Next, Outcome};

use super::acts::{self, ActError, Made, Opened};
use super::entries;
use super::exceptions::Exceptions;
use super::links::{Groups, Place, Role};
use super::listing::Fingerprint;
use super::look::{Found, InodeKey, LinkName, Refusal, inode_key, refuse};
use super::plan::{Move, Plan};
use super::resume::Resume;
use super::spool::Spool;
use super::tail;
use crate::error::{Error, Result};
use crate::index::{Quick, View};
use crate::ledger::{Ledger, MirrorDirs, Tenure};
use crate::volume::Volume;

/// Files up to this size are sent whole when they changed: finding out what changed costs as much.
const DELTA_MIN: u64 = 4 << 20;

/// A tail may be this part of what the mirror has.
const TAIL_SHARE: u64 = 4;

/// Names between two flushes of the record: one small local write per so many copies.
const FLUSH_EVERY: u64 = 32;

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
struct TreeDir {
    path: RelPath,
    source: Arc<Dir>,
    stage: Arc<Dir>,
    made_as: MadeAs,
    /// Components below the stage.
    place: Vec<Box<[u8]>>,
    entry: Entry,
    parent: Option<u64>,
    /// Names in it that are not done.
    pending: usize,
    /// Names that an earlier run left in it.
    there: HashSet<Box<[u8]>>,
}

enum Task {
    Open(Item),
    File(Item),
    Special(Item),
    Link(Item, Place, Box<Entry>),
    Check(Box<Check>),
    Tail(Box<Tail>),
}

/// A large file of which the mirror may have the beginning: then only what is behind that is staged.
struct Tail {
    item: Item,
    /// What the mirror has.
    old: Arc<Entry>,
    /// The end, in the stage.
    name: StagedName,
}

/// A file whose content has to be compared with what the mirror has.
struct Check {
    item: Item,
    old: Arc<Entry>,
    then: Then,
}

/// What equal content means.
enum Then {
    /// The mirror is right, only facts changed.
    Facts,

    /// The mirror is right for the whole group: these names too.
    Group(InodeKey, Vec<(RelPath, Arc<Entry>)>),
    /// It is a rename.
    Move(RelPath),
}

enum Doing {
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
}

/// Stages everything in `plan`.
///
/// # Errors
/// The first failure on the mirror's side: nothing may be sealed. What failed in the volume is in `exceptions`.
pub fn stage(around: &Around<'_>, plan: Plan, spool: Spool, resume: Resume) -> Result<Staged> {
    let mut stager = Stager::new(around, spool, resume);
    stager.take(plan)?;
    if stager.ready.is_empty() {
        return Ok(stager.staged);
    }
    let result = transfer::run(&mut stager, &around.options, around.engine);
    if let Some(error) = stager.failed.take() {
        return Err(error);
    }
    result.map_err(|e| Error::Engine(e.to_string()))?;
    Ok(stager.staged)
}

struct Stager<'a> {
    around: &'a Around<'a>,
    is_root: bool,
    staged: Staged,
    resume: Resume,
    ready: Vec<Task>,
    doing: HashMap<u64, Doing>,
    next_tag: u64,
    next_name: u64,
    trees: HashMap<u64, TreeDir>,
    next_tree: u64,
    /// Directories whose last name is done.
    finish: Vec<u64>,
    groups: Groups,
    /// Paths inside new directories that a rename fills.
    filled: HashSet<RelPath>,
    /// The volume directory of the last flat item.
    volume_dir: Option<(RelPath, Arc<Dir>)>,
    mirror_dirs: MirrorDirs<'a>,
    mount: (u64, (u32, u32)),
    failed: Option<Error>,
}

impl<'a> Stager<'a> {
    fn new(around: &'a Around<'a>, spool: Spool, resume: Resume) -> Self {
        let staged = Staged {
            spool,
            moved: Vec::new(),
            ops: Vec::new(),
            deletes: Vec::new(),
            installed: Vec::new(),
            replicated: HashSet::new(),
            exceptions: Exceptions::default(),
            fingerprint: Fingerprint::default(),
            torn: false,
            acls_lost: false,
            bytes_sent: 0,
            entries: 0,
            resumed: 0,
        };
        let stat = &around.volume.stat;
        Self {
            around,
            is_root: sys::host::effective_owner().0 == 0,
            staged,
            resume,
            ready: Vec::new(),
            doing: HashMap::new(),
            next_tag: 0,
            next_name: 0,
            trees: HashMap::new(),
            next_tree: 0,
            finish: Vec::new(),
            groups: Groups::default(),
            filled: HashSet::new(),
            volume_dir: None,
            mirror_dirs: MirrorDirs::new(&around.ledger.root),
            mount: (stat.mount, stat.dev),
            failed: None,
        }
    }

    fn name(&mut self) -> StagedName {
        self.next_name += 1;
        StagedName { run: self.around.run, n: self.next_name }
    }

    /// Turns the plan into tasks.
    fn take(&mut self, plan: Plan) -> Result<()> {
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
    fn flat(&mut self, path: &RelPath) -> Dest {
        match self.resume.root(path) {
            Some(name) => Dest::Flat(name),
            None => Dest::Flat(self.name()),
        }
    }

    fn add(&mut self, item: Item) {
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

    fn old_entry(&self, path: &RelPath) -> Result<Option<Arc<Entry>>> {
        Ok(self.around.view.entry(path)?.map(Arc::new))
    }

    fn changed(&mut self, found: Found, quick: Quick) -> Result<()> {
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
    fn special_entry(&mut self, item: &Item) -> Option<Entry> {
        let (dir, name) = self.source(item)?;
        let (body, xattrs) = match item.stat.kind {
            FileKind::Symlink => (Body::Symlink(dir.readlink(&name).ok()?), Vec::new()),
            _ => (Body::Fifo, sys::meta::read_fifo_xattrs(&dir, &name).ok()?.kept),
        };
        Some(entries::entry(body, &item.stat, xattrs, false))
    }

    fn moved(&mut self, this: Move) -> Result<()> {
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

    fn rename(&mut self, old: RelPath, path: RelPath, entry: Entry, was: &Entry) {
        let staged = self.name();
        if entry.is_dir() && !entry.same_in_mirror(was) {
            let work = dir_work(&entry, was);
            self.staged.ops.push(Op::Dir { path: path.clone(), entry: entry.clone(), work });
        }
        self.staged.installed.push(path.clone());
        self.staged.moved.push((old, staged));
        self.staged.ops.push(Op::Install { path, staged, entry, source: Source::Moved });
    }

    /// One inode with several names that were there before or are new, below directories that are not new.
    fn group(&mut self, key: InodeKey, mut names: Vec<LinkName>) -> Result<()> {
        names.sort_by(|a, b| a.found.path.cmp(&b.found.path));
        if let Some(same) = names.iter().position(|name| name.quick == Some(Quick::Same)) {
            let leader = names.remove(same).found;
            let Some(entry) = self.old_entry(&leader.old)? else { return Ok(()) };
            self.groups.ready(key, Place::Mirror(leader.old), &entry);
            // Others that are the same are links of it in the mirror already.
            names.retain(|name| name.quick != Some(Quick::Same));
        } else if !names.iter().any(|name| name.quick == Some(Quick::Changed))
            && names.iter().all(|name| name.found.stat.kind == FileKind::File)
            && let Some(first) = names.iter().position(|name| name.quick == Some(Quick::Touched))
        {
            let leader = names.remove(first);
            let Some(old) = self.old_entry(&leader.found.old)? else { return Ok(()) };
            let mut with = Vec::new();
            let mut others = Vec::new();
            for name in names {
                // Names of the leader's old inode are links of it in the mirror.
                if name.row.is_some() && name.row == leader.row {
                    if let Some(entry) = self.old_entry(&name.found.old)? {
                        with.push((name.found.path.clone(), entry));
                    }
                    let dest = Dest::Flat(self.name());
                    others.push((true, found_item(name.found, dest, None)));
                } else {
                    let dest = Dest::Flat(self.name());
                    others.push((false, found_item(name.found, dest, None)));
                }
            }
            self.groups.pending(key);
            for (known, item) in others {
                // Known names are only needed if the content turns out to differ: they wait in either case.
                let _ = known;
                let _ = self.groups.join(key, item);
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

    fn left_out(&mut self, path: &RelPath, attributes: &[Vec<u8>]) {
        if attributes.is_empty() {
            return;
        }
        let names: Vec<String> = attributes.iter().map(|n| proto::path::Escaped(n).to_string()).collect();
        self.staged.exceptions.refuse(Refusal {
            path: path.clone(),
            class: ExceptionClass::LeftOut,
            reason: format!("{}{}", super::exceptions::ATTRIBUTES, names.join(", ")),
            errno: 0,
        });
    }

    // --- what the engine asks ---

    fn start(&mut self, task: Task) -> Option<(u64, Job)> {
        let (doing, job) = match task {
            Task::Open(item) => {
                let (source, target) = (self.source(&item)?, self.target(&item));
                let (owner, leftover) = (self.create_as(&item), self.resume.is_active());
                let call = move || -> Box<dyn Any + Send> {
                    Box::new(acts::open_tree(&source, &target, owner, leftover))
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
                let job = self.copy_job(&check.item, How::HashOnly)?;
                (Doing::Check(check), job)
            }
            Task::Tail(tail) => {
                let (source, target) = (self.source(&tail.item)?, self.around.tenure.stage.clone());
                let stat = &tail.item.stat;
                let identity = Identity { ino: stat.ino, dev: stat.dev };
                let old = tail.old.clone();
                let target = (target, proto::names::staged(tail.name).into());
                let sync = self.around.durability == Durability::PerFile;
                let call = move || -> Box<dyn Any + Send> {
                    Box::new(tail::stage(&source, identity, &old, &target, sync))
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

    /// Directory and name in the volume; nothing if the directory is gone, and then the item is dropped.
    fn source(&mut self, item: &Item) -> Option<(Arc<Dir>, Box<[u8]>)> {
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

    fn target(&self, item: &Item) -> (Arc<Dir>, Box<[u8]>) {
        match &item.dest {
            Dest::Flat(name) => (self.around.tenure.stage.clone(), proto::names::staged(*name).into()),
            Dest::Tree(id) => {
                let stage = self.trees.get(id).map(|tree| tree.stage.clone());
                let name = item.path.split_last().map_or_else(Box::default, |(_, name)| name.into());
                (stage.unwrap_or_else(|| self.around.tenure.stage.clone()), name)
            }
        }
    }

    fn place(&self, item: &Item) -> Vec<Box<[u8]>> {
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
    fn how(&mut self, item: &Item) -> How {
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
    fn create_as(&self, item: &Item) -> Option<Owner> {
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

    fn copy_job(&mut self, item: &Item, how: How) -> Option<Job> {
        let source = self.source(item)?;
        Some(Job::Copy(Box::new(CopyJob {
            source,
            expect: Identity { ino: item.stat.ino, dev: item.stat.dev },
            target: self.target(item),
            create_as: self.create_as(item),
            replace_leftover: self.resume.is_active(),
            how,
            durability: self.around.durability,
        })))
    }

    // --- what the engine reports ---

    fn copied(&mut self, item: Item, outcome: Result<Copied, CopyError>) {
        match outcome {
            Ok(copied) => {
                self.note(&item, &copied);
                self.staged.bytes_sent += copied.bytes_sent;
                let entry = entries::of_copied(&copied);
                self.content_staged(item, entry);
            }
            Err(CopyError::Target(e)) => self.fail(format!("stage {}", item.path), e),
            Err(CopyError::Replaced) => self.vanished(&item),
            Err(CopyError::Source(e)) => self.source_failed(&item, &e),
        }
    }

    /// Corrects the fingerprint by what was really read, and remembers what was left out.
    fn note(&mut self, item: &Item, copied: &Copied) {
        if let Some((_, name)) = item.path.split_last() {
            self.staged.fingerprint.subtract(item.parent, name, &item.stat);
            self.staged.fingerprint.add(item.parent, name, &copied.stat);
        }
        self.staged.torn |= copied.stat_changed_during_copy;
        self.staged.acls_lost |= copied.acls == AclsKept::NotSupported;
        self.left_out(&item.path, &copied.xattrs.left_out);
        self.around.progress.bytes.fetch_add(copied.size, Ordering::Relaxed);
    }

    /// The entry of a file that an earlier, killed run staged and that the volume still has unchanged.
    fn left_by_earlier_run(&self, item: &Item) -> Option<Entry> {
        if !self.resume.is_active() || item.stat.nlink > 1 {
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

    fn resumed(&mut self, item: Item, entry: Entry) {
        self.staged.resumed += 1;
        self.around.progress.bytes.fetch_add(item.stat.size, Ordering::Relaxed);
        self.content_staged(item, entry);
    }

    fn content_staged(&mut self, item: Item, entry: Entry) {
        if item.stat.nlink > 1 {
            let place = Place::Stage(self.place(&item));
            for waiting in self.groups.ready(inode_key(&item.stat), place.clone(), &entry) {
                self.ready.push(Task::Link(waiting, place.clone(), Box::new(entry.clone())));
            }
        }
        self.done_item(item, entry);
    }

    /// A name is staged: records it, and finishes its directory if it was the last.
    fn done_item(&mut self, item: Item, entry: Entry) {
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

    fn child_done(&mut self, id: u64) {
        if let Some(tree) = self.trees.get_mut(&id) {
            tree.pending -= 1;
            if tree.pending == 0 {
                self.finish.push(id);
            }
        }
    }

    fn opened(&mut self, item: Item, result: Result<Opened, ActError>) {
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
        for (name, stat) in opened.listing.names {
            self.staged.fingerprint.add(ino, &name, &stat);
            let path = item.path.join(&name);
            if self.filled.contains(&path) {
                continue;
            }
            if let Some(refusal) = refuse(&path, &stat, self.mount) {
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

    fn closed(&mut self, id: u64, result: Result<AclsKept, SysError>) {
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

    fn made(&mut self, item: Item, result: Result<Made, ActError>) {
        match result {
            Ok(Made { body, stat, xattrs, acls }) => {
                if let Some((_, name)) = item.path.split_last() {
                    self.staged.fingerprint.subtract(item.parent, name, &item.stat);
                    self.staged.fingerprint.add(item.parent, name, &stat);
                }
                self.left_out(&item.path, &xattrs.left_out);
                self.staged.acls_lost |= acls == AclsKept::NotSupported;
                let entry = entries::entry(body, &stat, xattrs.kept, false);
                self.content_staged(item, entry);
            }
            Err(ActError::Target(e)) => self.fail(format!("stage {}", item.path), e),
            Err(ActError::Source(e)) => self.source_failed(&item, &e),
        }
    }

    fn linked(&mut self, item: Item, entry: Entry, result: Result<(), SysError>) {
        match result {
            Ok(()) => {
                self.around.progress.bytes.fetch_add(item.stat.size, Ordering::Relaxed);
                self.done_item(item, entry);
            }
            Err(e) => self.fail(format!("link {} in the stage", item.path), e),
        }
    }

    fn checked(&mut self, check: Check, outcome: Result<Copied, CopyError>) {
        let Check { item, old, then } = check;
        let copied = match outcome {
            Ok(copied) => copied,
            Err(CopyError::Target(e)) => return self.fail(format!("read {}", item.path), e),
            Err(CopyError::Replaced) => return self.vanished(&item),
            Err(CopyError::Source(e)) => return self.source_failed(&item, &e),
        };
        let entry = entries::of_copied(&copied);
        if !entry.same_in_mirror(&old) {
            if let Then::Move(old) = then {
                self.staged.deletes.push(old);
            }
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

    fn tail_staged(&mut self, tail: Tail, result: Result<Option<Copied>, ActError>) {
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
        let entry = entries::of_copied(&copied);
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
    fn vanished(&mut self, item: &Item) {
        self.staged.torn = true;
        self.drop_item(item);
    }

    fn source_failed(&mut self, item: &Item, error: &SysError) {
        if error.is_gone() || [sys::Errno::NOTDIR, sys::Errno::LOOP].contains(&error.errno) {
            return self.vanished(item);
        }
        let what =
            if item.stat.kind == FileKind::Dir { "directory cannot be read" } else { "cannot be read" };
        self.staged.exceptions.refuse(super::look::unreadable(&item.path, what, error));
        self.drop_item(item);
    }

    fn drop_item(&mut self, item: &Item) {
        if item.stat.kind != FileKind::Dir
            && item.stat.nlink > 1
            && let Some(next) = self.groups.failed(inode_key(&item.stat))
        {
            self.ready.push(content(next));
        }
        if let Dest::Tree(id) = item.dest {
            self.child_done(id);
        }
    }

    fn fail(&mut self, act: String, source: SysError) {
        let gone = source.is_gone();
        let error = Error::Mirror { act, source };
        let error = if gone { self.around.ledger.fenced_or(self.around.tenure.epoch, error) } else { error };
        self.failed.get_or_insert(error);
    }

    /// A directory with nothing pending gets its metadata, last of all: names made in it moved its times.
    fn close(&mut self) -> Option<(u64, Job)> {
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

impl Feed for Stager<'_> {
    fn next(&mut self) -> Next {
        if self.failed.is_some() {
            return if self.doing.is_empty() { Next::End } else { Next::Wait };
        }
        if let Some((tag, job)) = self.close() {
            return Next::Job(tag, job);
        }
        while let Some(task) = self.ready.pop() {
            if let Some((tag, job)) = self.start(task) {
                return Next::Job(tag, job);
            }
            if let Some((tag, job)) = self.close() {
                return Next::Job(tag, job);
            }
        }
        if self.doing.is_empty() { Next::End } else { Next::Wait }
    }

    fn done(&mut self, tag: u64, outcome: Outcome) {
        let Some(doing) = self.doing.remove(&tag) else { return };
        match (doing, outcome) {
            (Doing::Copy(item), Outcome::Copied(result)) => self.copied(item, result),
            (Doing::Check(check), Outcome::Copied(result)) => self.checked(*check, result),
            (Doing::Open(item), Outcome::Called(any)) => match any.downcast() {
                Ok(result) => self.opened(item, *result),
                Err(_) => unreachable!("open_tree returns its own type"),
            },
            (Doing::Close(id), Outcome::Called(any)) => match any.downcast() {
                Ok(result) => self.closed(id, *result),
                Err(_) => unreachable!("close_tree returns its own type"),
            },
            (Doing::Make(item), Outcome::Called(any)) => match any.downcast() {
                Ok(result) => self.made(item, *result),
                Err(_) => unreachable!("make_special returns its own type"),
            },
            (Doing::Link(item, entry), Outcome::Called(any)) => match any.downcast() {
                Ok(result) => self.linked(item, *entry, *result),
                Err(_) => unreachable!("link returns its own type"),
            },
            (Doing::Tail(tail), Outcome::Called(any)) => match any.downcast() {
                Ok(result) => self.tail_staged(*tail, *result),
                Err(_) => unreachable!("tail::stage returns its own type"),
            },
            (Doing::Copy(_) | Doing::Check(_), Outcome::Called(_))
            | (
                Doing::Open(_) | Doing::Close(_) | Doing::Make(_) | Doing::Link(..) | Doing::Tail(_),
                Outcome::Copied(_),
            ) => {
                unreachable!("the engine reports a job as what it was")
            }
        }
    }

    fn abort(&self) -> bool {
        self.failed.is_some()
    }
}

/// The task that makes one name with content of its own.
fn content(item: Item) -> Task {
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
