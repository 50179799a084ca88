//! One cycle from end to end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Cut, Entry, Generation, Leaves, LogHeader, Op, RelPath, Totals};
use sys::Dir;

use super::emit::{Emit, Outs};
use super::entries::now;
use super::guard::DeletionLimit;
use super::listing::Fingerprint;
use super::look::{self, Changes, Eyes, Found, InodeKey, Start};
use super::names::{self, Covered, Names};
use super::plan::{Again, Find, Plan};
use super::silent::Silent;
use super::stage::{Around, Progress, Staged, stage};
use crate::config::Excludes;
use crate::error::{Error, Result, on_mirror};
use crate::index::{IndexError, Quick, ROOT, View};
use crate::lane::Lane;
use crate::ledger::{LogFile, Publish, Tenure};
use crate::volume::Volume;

/// Times a cycle begins anew because what it was about to rename went away; then it renames nothing.
const RACES_MAX: usize = 2;

/// How durable a generation is when it is called sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// fsynced on every brick that is up.
    Fsync,
    /// Acknowledged by every brick that is up, not fsynced: survives the loss of a host, not of all at once.
    Replicated,
}

/// What a user may set.
#[derive(Clone, Debug)]
pub struct CycleOptions {
    /// How durable.
    pub durability: Durability,
    /// How much may be deleted.
    pub limit: DeletionLimit,
    /// Copy engine.
    pub engine: transfer::Engine,
    /// Files in flight.
    pub in_flight: usize,
    /// Threads that walk the volume.
    pub walkers: usize,
    /// What is left out.
    pub excludes: Excludes,
    /// How fast the mirror may be written to; shared with whoever changes that.
    pub limits: Arc<transfer::Limits>,
    /// Stage everything anew, whatever the index says, and replace the whole mirror.
    pub full: bool,
}

/// What one cycle did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CycleReport {
    /// The generation that the mirror holds now.
    pub generation: Generation,
    /// Whether this cycle made it.
    pub published: bool,
    /// How it relates to the volume.
    pub cut: Cut,
    /// Names staged.
    pub staged: u64,
    /// Bytes of content sent to the mirror.
    pub bytes_sent: u64,
    /// Renames carried out as renames.
    pub moved: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Names in the volume that were looked at.
    pub looked_at: u64,
    /// Files that an earlier, interrupted run had staged already.
    pub resumed: u64,
    /// Sums over the generation.
    pub totals: Totals,
    /// Why deletions are halted.
    pub halted: Option<String>,
    /// What was not carried out because deletions are halted: to be looked at again in every cycle until they are not.
    #[serde(skip)]
    pub withheld: Vec<RelPath>,
    /// What changed under the cycle's hands: to be looked at once more.
    #[serde(skip)]
    pub again: Again,
    /// Directories with names to look at that were renamed meanwhile: what was said of them is to be said again.
    #[serde(skip)]
    pub astray: Vec<RelPath>,
    /// True when the index is another than before.
    #[serde(skip)]
    pub noted: bool,
    /// Inodes whose times tell from now on, although they are mapped.
    #[serde(skip)]
    pub cleaned: HashSet<u64>,
    /// True when the mirror's mount keeps no ACLs: they are in the ledger alone.
    pub acls_in_ledger_only: bool,
    /// Seconds for the look, the staging, seal and publish.
    pub seconds: Phases,
}

/// How long each phase took, in seconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Phases {
    /// Comparing volume and index.
    pub look: f64,
    /// Copying.
    pub stage: f64,
    /// Second look, log, seal.
    pub seal: f64,
    /// Renames and HEAD.
    pub publish: f64,
}

impl CycleReport {
    /// The report of several cycles of one run: what was done adds up, the state is that of the last.
    pub fn joined(before: Option<CycleReport>, last: CycleReport) -> CycleReport {
        let Some(before) = before else { return last };
        CycleReport {
            published: before.published || last.published,
            staged: before.staged + last.staged,
            bytes_sent: before.bytes_sent + last.bytes_sent,
            moved: before.moved + last.moved,
            deleted: before.deleted + last.deleted,
            resumed: before.resumed + last.resumed,
            acls_in_ledger_only: before.acls_in_ledger_only || last.acls_in_ledger_only,
            seconds: Phases {
                look: before.seconds.look + last.seconds.look,
                stage: before.seconds.stage + last.seconds.stage,
                seal: before.seconds.seal + last.seconds.seal,
                publish: before.seconds.publish + last.seconds.publish,
            },
            ..last
        }
    }
}

/// A lane being written.
pub struct Cycle<'a> {
    /// The lane.
    pub lane: &'a mut Lane,
    /// The right to write it.
    pub tenure: &'a Tenure,
    /// What is replicated.
    pub volume: &'a Volume,
    /// Settings.
    pub options: &'a CycleOptions,
    /// Counters for a display.
    pub progress: &'a Progress,
    /// What is looked at.
    pub scope: Scope<'a>,
    /// What may be written to without an event.
    pub silent: &'a Silent,
    /// Who knows what is touched meanwhile; without it a second walk tells.
    pub watch: Option<&'a mut dyn Watch>,
}

/// What a cycle looks at.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All of the volume.
    Whole,
    /// These names, and what hangs on them.
    Names(&'a Names),
}

/// Of some inodes, path and entry of each name that a cycle has staged.
pub type Made<'a> = &'a mut dyn FnMut(&HashSet<u64>) -> Result<Vec<(RelPath, Entry)>>;

/// Knows what happens in a volume while a cycle works on it.
pub trait Watch {
    /// True when anything in the volume was touched since the cycle's names were taken, up to this moment, or when that
    /// cannot be said. What this cycle has staged is asked for with `made`.
    ///
    /// # Errors
    /// What was touched cannot be said any more.
    fn was_touched(&mut self, made: Made<'_>) -> Result<bool>;

    /// The look is over: so many bytes are to be read, if that is known.
    fn planned(&mut self, _bytes: Option<u64>) {}

    /// All is read: what the volume does from here on is for the next cycle.
    fn has_read(&mut self) {}
}

impl Cycle<'_> {
    /// Runs one cycle: afterwards the mirror holds a generation made from the volume as it was meanwhile, or,
    /// on an error, the generation it held before.
    ///
    /// # Errors
    /// Any [`Error`]; nothing half-done is visible, and the next run goes on from what was staged.
    pub fn run(&mut self) -> Result<CycleReport> {
        for _ in 0..RACES_MAX {
            match self.attempt(Find::Renames) {
                Err(Error::Raced { path }) => tracing::debug!(%path, "raced by the volume; looking again"),
                other => return other,
            }
        }
        self.attempt(Find::Nothing)
    }

    fn attempt(&mut self, find: Find) -> Result<CycleReport> {
        self.volume.still_there()?;
        let started = Instant::now();
        let view = self.lane.index.view()?;
        let (plan, covered) = self.plan(&view, find)?;
        if let Some(watch) = &mut self.watch {
            watch.planned(plan.bytes());
        }
        let looked = started.elapsed();

        let looked_at = plan.rest.names;
        let (halted, withheld) = (plan.halted.clone(), plan.withheld.clone());
        let deleted = plan.deleted_entries;
        let deletes: Vec<RelPath> = plan.deletes.iter().map(|m| m.old.clone()).collect();
        let dirs: Vec<(RelPath, RelPath, InodeKey)> =
            plan.dirs.iter().map(|d| (d.path.clone(), d.old.clone(), look::inode_key(&d.stat))).collect();
        let seen = plan.rest.fingerprint;
        let mut again = plan.again.clone();
        let nothing = plan.is_empty() && plan.rest.links_unchanged() && !self.options.full;
        if nothing && self.is_said_already(&view, &plan, covered.as_ref())? {
            // The mirror is not touched, not even to look at it.
            return Ok(self.idle(&view, looked_at, looked));
        }
        self.lane.ledger.root.pinned().still_there()?;
        self.own()?;

        let run = u64::from_le_bytes(sys::host::random());
        let (spool, resume) = self.spool(nothing)?;
        let around = Around {
            volume: self.volume,
            view: &view,
            ledger: &self.lane.ledger,
            tenure: self.tenure,
            run,
            durability: self.file_durability(),
            engine: self.options.engine,
            options: self.transfer_options(),
            excludes: &self.options.excludes,
            progress: self.progress,
            silent: self.silent,
        };
        let started = Instant::now();
        let mut staged = stage(&around, plan, spool, resume)?;
        again.append(std::mem::take(&mut staged.again));
        let stage_time = started.elapsed();

        let started = Instant::now();
        let mut outs = Outs { run, next: 0, list: Vec::new() };
        outs.trash(deletes);
        outs.trash(std::mem::take(&mut staged.deletes));
        let replaced = self.replaced_root(&mut outs)?;
        let moves = std::mem::take(&mut staged.moved);
        for (old, name) in &moves {
            outs.list.push((old.clone(), Leaves::Stage(*name)));
        }
        let dir_ops = self.dir_ops(&view, &mut staged, &outs, &moves, dirs)?;
        let exceptions = staged.exceptions.ops(
            &view,
            &self.volume.root,
            |path| staged.replicated.contains(path),
            |path| covered.as_ref().is_none_or(|covered| covered.has(path)),
        )?;
        let exceptions = if replaced { self.all_exceptions(&staged) } else { exceptions };

        let (astray, inodes) =
            covered.map_or_else(Default::default, |covered| (covered.astray, covered.inodes));
        again.inodes.extend(inodes);
        let mut report = CycleReport {
            staged: staged.entries,
            bytes_sent: staged.bytes_sent,
            moved: moves.len() as u64,
            deleted,
            resumed: staged.resumed,
            halted: halted.clone(),
            withheld,
            again,
            cleaned: std::mem::take(&mut staged.cleaned),
            astray,
            acls_in_ledger_only: staged.acls_lost,
            ..self.idle(&view, looked_at, looked)
        };
        report.seconds.stage = stage_time.as_secs_f64();
        let only_facts = outs.list.is_empty()
            && staged.spool.len() == 0
            && exceptions.is_empty()
            && moves.is_empty()
            && staged.ops.iter().all(|op| matches!(op, Op::Facts { .. }))
            && dir_ops.iter().all(|op| matches!(op, Op::Facts { .. }))
            && halted == self.lane.head.as_ref().and_then(|head| head.halted.clone())
            && self.lane.head.is_some();
        if only_facts {
            self.remember_facts(&staged.ops, &dir_ops).map_err(raced)?;
            report.noted = true;
            self.forget_spools()?;
            return Ok(report);
        }

        let cut = if self.is_exact(seen, &mut staged)? { Cut::Exact } else { Cut::Fuzzy };
        if let Some(watch) = &mut self.watch {
            watch.has_read();
        }
        self.volume.still_there()?;
        self.lane.ledger.root.pinned().still_there()?;

        let generation = view.position().generation.next();
        let header = LogHeader {
            lane: self.lane.ledger.lane.id,
            generation,
            epoch: self.tenure.epoch,
            node: self.lane.node,
            previous: view.position().log_hash,
            volume: self.volume.id(),
        };
        let mut log = LogFile::start(&self.lane.dir.file("next.log"), header)?;
        let mut applying = self.lane.index.apply()?;
        {
            let mut emit = Emit { log: &mut log, applying: &mut applying, batch: Vec::new() };
            outs.list.sort_by(|a, b| b.0.depth().cmp(&a.0.depth()).then_with(|| a.0.cmp(&b.0)));
            for (path, to) in std::mem::take(&mut outs.list) {
                emit.op(Op::Out { path, to }).map_err(raced)?;
            }
            emit.installs(&mut staged, !moves.is_empty()).map_err(raced)?;
            for op in dir_ops.into_iter().chain(exceptions) {
                emit.op(op).map_err(raced)?;
            }
            emit.flush().map_err(raced)?;
        }
        let totals = applying.totals();
        let log = log.finish(cut, totals, halted, now())?;
        if self.syncs_whole_filesystem() {
            sys::file::sync_filesystem(self.tenure.stage.as_ref(), b"stage")
                .map_err(on_mirror(|| "make the stage durable".to_owned()))?;
        }
        self.own()?;
        self.lane.ledger.seal(self.tenure, &log)?;
        let sealed = started.elapsed();

        let started = Instant::now();
        let head = self.lane.ledger.publish(self.tenure, &log, Publish::Fresh, now())?;
        applying.commit(generation, log.trailer.hash, self.volume.id())?;
        self.forget_spools()?;
        report.generation = generation;
        report.published = true;
        report.noted = true;
        report.cut = cut;
        report.totals = totals;
        report.seconds.seal = sealed.as_secs_f64();
        report.seconds.publish = started.elapsed().as_secs_f64();
        self.lane.head = Some(head);
        Ok(report)
    }

    /// True when a look at names found nothing that HEAD does not say.
    fn is_said_already(&self, view: &View, plan: &Plan, covered: Option<&Covered>) -> Result<bool> {
        let (Some(covered), Some(head)) = (covered, &self.lane.head) else { return Ok(false) };
        Ok(plan.rest.refused.is_empty()
            && plan.halted == head.halted
            && plan.again.is_empty()
            && covered.astray.is_empty()
            && !view.exceptions()?.iter().any(|(path, _)| covered.has(path)))
    }

    /// The report of a cycle that had nothing to do.
    fn idle(&self, view: &View, looked_at: u64, looked: Duration) -> CycleReport {
        let head = self.lane.head.as_ref();
        CycleReport {
            generation: view.position().generation,
            published: false,
            cut: head.map_or(Cut::Exact, |head| head.cut),
            staged: 0,
            bytes_sent: 0,
            moved: 0,
            deleted: 0,
            looked_at,
            resumed: 0,
            totals: view.position().totals,
            halted: head.and_then(|head| head.halted.clone()),
            withheld: Vec::new(),
            again: Again::default(),
            astray: Vec::new(),
            noted: false,
            cleaned: HashSet::new(),
            acls_in_ledger_only: false,
            seconds: Phases { look: looked.as_secs_f64(), ..Phases::default() },
        }
    }

    /// True when what was staged is the volume as it was at one instant: nothing moved between the looks.
    fn is_exact(&mut self, seen: Fingerprint, staged: &mut Staged) -> Result<bool> {
        if staged.torn {
            return Ok(false);
        }
        if let Some(watch) = &mut self.watch {
            return Ok(!watch.was_touched(&mut |inodes| made(staged, inodes))?);
        }
        let mut first = seen;
        first.merge(staged.fingerprint);
        Ok(first == look::fingerprint(&self.volume.root, &self.options.excludes, self.options.walkers)?)
    }

    /// Refuses to go on when a newer epoch exists.
    fn own(&self) -> Result<()> {
        match self.lane.ledger.newest_epoch()? {
            Some(newest) if newest.epoch > self.tenure.epoch => {
                Err(Error::Fenced { ours: self.tenure.epoch, theirs: newest.epoch, host: newest.host })
            }
            _ => Ok(()),
        }
    }

    fn plan(&self, view: &View, find: Find) -> Result<(Plan, Option<Covered>)> {
        let fresh = view.position().generation == Generation(0) || self.options.full;
        if fresh && !self.lane.ledger.root.pinned().is_mount_root() {
            return Ok((whole(self.volume), None));
        }
        match self.scope {
            Scope::Names(names) if !fresh && view.position().volume == self.volume.id() => {
                let eyes = Eyes { options: self.options, silent: self.silent };
                let (changes, covered) = names::look_at(view, self.volume, names, eyes)?;
                let mut plan = Plan::make(view, &self.volume.root, changes, eyes, find)?;
                names::complete(view, self.volume, &mut plan)?;
                Ok((plan, Some(covered)))
            }
            // What the index knows of inodes is of another volume, or there is nothing yet: all of it is looked at.
            _ => Ok((make_plan(view, self.volume, self.options, self.silent, find)?, None)),
        }
    }

    /// With `full`, the old mirror leaves in one piece.
    fn replaced_root(&self, outs: &mut Outs) -> Result<bool> {
        let replaces = self.options.full
            && self.lane.head.is_some()
            && !self.lane.ledger.root.pinned().is_mount_root()
            && self.lane.ledger.root.open()?.is_some();
        if replaces {
            outs.list.clear();
            outs.trash(vec![RelPath::root()]);
        }
        Ok(replaces)
    }

    fn all_exceptions(&self, staged: &Staged) -> Vec<Op> {
        staged
            .exceptions
            .refused()
            .map(|refusal| Op::Except {
                path: refusal.path.clone(),
                exception: proto::Exception {
                    class: refusal.class,
                    reason: refusal.reason.clone(),
                    errno: refusal.errno,
                    since: now(),
                },
            })
            .collect()
    }

    fn remember_facts(&self, ops: &[Op], dir_ops: &[Op]) -> Result<()> {
        if ops.is_empty() && dir_ops.is_empty() {
            return Ok(());
        }
        let mut applying = self.lane.index.apply()?;
        applying.ops(ops)?;
        applying.ops(dir_ops)?;
        applying.commit_local()?;
        Ok(())
    }

    fn is_fuse(&self) -> bool {
        self.lane.ledger.root.pinned().kind().is_fuse()
    }

    pub(super) fn file_durability(&self) -> transfer::Durability {
        match (self.options.durability, self.is_fuse()) {
            (Durability::Replicated, _) => transfer::Durability::Replicated,
            (Durability::Fsync, true) => transfer::Durability::PerFile,
            // One syncfs is cheaper than an fsync per file, and reports write-back errors just the same.
            (Durability::Fsync, false) => transfer::Durability::Deferred,
        }
    }

    fn syncs_whole_filesystem(&self) -> bool {
        self.options.durability == Durability::Fsync && !self.is_fuse()
    }

    fn transfer_options(&self) -> transfer::Options {
        transfer::Options {
            in_flight: self.options.in_flight,
            limits: self.options.limits.clone(),
            target: if self.is_fuse() { transfer::Side::MayHang } else { transfer::Side::Local },
            ..transfer::Options::default()
        }
    }
}

/// The plan was made of the very index that it does not fit: it contradicts itself, for the volume changed meanwhile.
fn raced(error: Error) -> Error {
    match error {
        Error::Index(IndexError::Diverged { path, .. }) => Error::Raced { path },
        error => error,
    }
}

/// Path and entry of each staged name of these inodes.
fn made(staged: &mut Staged, inodes: &HashSet<u64>) -> Result<Vec<(RelPath, Entry)>> {
    let mut found = Vec::new();
    let mut take = |op: &Op| {
        if let Op::Install { path, entry, .. }
        | Op::Below { path, entry }
        | Op::Facts { path, entry }
        | Op::Grow { path, entry, .. } = op
            && inodes.contains(&entry.origin.ino)
        {
            found.push((path.clone(), entry.clone()));
        }
    };
    staged.ops.iter().for_each(&mut take);
    staged.spool.replay(|op| {
        take(&op);
        Ok(())
    })?;
    Ok(found)
}

/// What would be done, without doing it.
///
/// # Errors
/// As [`Cycle::run`].
pub fn preview(view: &View, volume: &Volume, options: &CycleOptions) -> Result<Plan> {
    if view.position().generation == Generation(0) {
        Ok(whole(volume))
    } else {
        make_plan(view, volume, options, &Silent::nothing(), Find::Renames)
    }
}

/// The plan of a first copy: the root is a new directory.
fn whole(volume: &Volume) -> Plan {
    let root = Found { path: RelPath::root(), old: RelPath::root(), stat: volume.stat, parent: 0 };
    Plan { new: vec![root], ..Plan::default() }
}

fn make_plan(
    view: &View,
    volume: &Volume,
    options: &CycleOptions,
    silent: &Silent,
    find: Find,
) -> Result<Plan> {
    let start = Start { dir: volume.root.clone(), path: RelPath::root(), old: RelPath::root(), id: ROOT };
    let eyes = Eyes { options, silent };
    let mut changes: Changes = look::look(view, start, &look::Claimed::new(), eyes)?;
    let root: Arc<Dir> = volume.root.clone();
    let stat =
        root.stat_self().map_err(|e| Error::Volume { path: volume.given.clone(), why: e.to_string() })?;
    let is_same = match view.entry(&RelPath::root())? {
        Some(entry) => {
            let facts = crate::index::facts_of(&entry);
            facts.compare(&stat) == Quick::Same
        }
        None => false,
    };
    changes.is_empty_volume = changes.names == 0;
    if !is_same {
        changes.dirs.push(Found { path: RelPath::root(), old: RelPath::root(), stat, parent: 0 });
    }
    Plan::make(view, &root, changes, eyes, find)
}
