//! The stager: tasks that wait, jobs under way, directories that are open.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::{RelPath, StagedName};
use sys::Dir;
use transfer::{Feed, Next, Outcome};

use crate::cycle::exceptions::Exceptions;
use crate::cycle::links::Groups;
use crate::cycle::listing::Fingerprint;
use crate::cycle::plan::{Again, Plan};
use crate::cycle::resume::Resume;
use crate::cycle::spool::Spool;
use crate::error::{Error, Result};
use crate::ledger::MirrorDirs;

use super::words::{Around, Doing, Staged, Task, TreeDir};

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

pub(super) struct Stager<'a> {
    pub(super) around: &'a Around<'a>,
    pub(super) is_root: bool,
    pub(super) staged: Staged,
    pub(super) resume: Resume,
    pub(super) ready: Vec<Task>,
    pub(super) doing: HashMap<u64, Doing>,
    pub(super) next_tag: u64,
    pub(super) next_name: u64,
    pub(super) trees: HashMap<u64, TreeDir>,
    pub(super) next_tree: u64,
    /// Directories whose last name is done.
    pub(super) finish: Vec<u64>,
    pub(super) groups: Groups,
    /// Paths inside new directories that a rename fills.
    pub(super) filled: HashSet<RelPath>,
    /// The volume directory of the last flat item.
    pub(super) volume_dir: Option<(RelPath, Arc<Dir>)>,
    pub(super) mirror_dirs: MirrorDirs<'a>,
    pub(super) mount: (u64, (u32, u32)),
    pub(super) failed: Option<Error>,
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
            cleaned: HashSet::new(),
            again: Again::default(),
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

    pub(super) fn name(&mut self) -> StagedName {
        self.next_name += 1;
        StagedName { run: self.around.run, n: self.next_name }
    }
}

impl Feed for Stager<'_> {
    fn next(&mut self) -> Next {
        if self.around.progress.stop.load(Ordering::Relaxed) {
            self.failed.get_or_insert(Error::Stopped);
        }
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
        self.failed.is_some() || self.around.progress.stop.load(Ordering::Relaxed)
    }
}
