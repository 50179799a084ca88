//! One cycle from end to end.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use proto::{Cut, DirWork, Entry, Generation, Leaves, LogHeader, Op, RelPath, StagedName, Totals};
use sys::{Dir, Errno};

use super::entries::{self, now};
use super::guard::DeletionLimit;
use super::look::{self, Changes, Found, Start};
use super::plan::Plan;
use super::resume::Resume;
use super::spool::Spool;
use super::stage::{Around, Progress, Staged, dir_work, stage};
use crate::error::{Error, Result, on_mirror};
use crate::index::{Quick, ROOT, View};
use crate::lane::Lane;
use crate::ledger::{LogFile, Publish, Tenure};
use crate::volume::Volume;

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
}

impl Cycle<'_> {
    /// Runs one cycle: afterwards the mirror holds a generation made from the volume as it was meanwhile, or,
    /// on an error, the generation it held before.
    ///
    /// # Errors
    /// Any [`Error`]; nothing half-done is visible, and the next run goes on from what was staged.
    pub fn run(&mut self) -> Result<CycleReport> {
        self.volume.still_there()?;
        self.lane.ledger.root.pinned().still_there()?;
        self.own()?;
        let started = Instant::now();
        let view = self.lane.index.view()?;
        let plan = self.plan(&view)?;
        let looked = started.elapsed();

        let looked_at = plan.rest.names;
        let halted = plan.halted.clone();
        let deleted = plan.deleted_entries;
        let deletes: Vec<RelPath> = plan.deletes.iter().map(|m| m.old.clone()).collect();
        let dirs: Vec<(RelPath, RelPath)> =
            plan.dirs.iter().map(|d| (d.path.clone(), d.old.clone())).collect();
        let seen = plan.rest.fingerprint;
        let nothing = plan.is_empty() && plan.rest.links_unchanged() && !self.options.full;

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
            progress: self.progress,
        };
        let started = Instant::now();
        let mut staged = stage(&around, plan, spool, resume)?;
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
        let exceptions =
            staged.exceptions.ops(&view, &self.volume.root, |path| staged.replicated.contains(path))?;
        let exceptions = if replaced { self.all_exceptions(&staged) } else { exceptions };

        let mut report = CycleReport {
            generation: view.position().generation,
            published: false,
            cut: self.lane.head.as_ref().map_or(Cut::Exact, |head| head.cut),
            staged: staged.entries,
            bytes_sent: staged.bytes_sent,
            moved: moves.len() as u64,
            deleted,
            looked_at,
            resumed: staged.resumed,
            totals: view.position().totals,
            halted: halted.clone(),
            acls_in_ledger_only: staged.acls_lost,
            seconds: Phases {
                look: looked.as_secs_f64(),
                stage: stage_time.as_secs_f64(),
                ..Phases::default()
            },
        };
        let only_facts = outs.list.is_empty()
            && staged.spool.len() == 0
            && exceptions.is_empty()
            && moves.is_empty()
            && staged.ops.iter().all(|op| matches!(op, Op::Facts { .. }))
            && dir_ops.iter().all(|op| matches!(op, Op::Facts { .. }))
            && halted == self.lane.head.as_ref().and_then(|head| head.halted.clone())
            && self.lane.head.is_some();
        if only_facts {
            self.remember_facts(&view, &staged.ops, &dir_ops)?;
            self.forget_spools()?;
            return Ok(report);
        }

        let mut second = look::fingerprint(&self.volume.root, self.options.walkers)?;
        let mut first = seen;
        first.merge(staged.fingerprint);
        if staged.torn {
            // Something was seen to change; equal sums would be chance.
            second = super::listing::Fingerprint::default();
        }
        let cut = if first == second { Cut::Exact } else { Cut::Fuzzy };
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
                emit.op(Op::Out { path, to })?;
            }
            emit.installs(&mut staged, !moves.is_empty())?;
            for op in dir_ops.into_iter().chain(exceptions) {
                emit.op(op)?;
            }
            emit.flush()?;
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
        report.cut = cut;
        report.totals = totals;
        report.seconds.seal = sealed.as_secs_f64();
        report.seconds.publish = started.elapsed().as_secs_f64();
        self.lane.head = Some(head);
        Ok(report)
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

    fn plan(&self, view: &View) -> Result<Plan> {
        let fresh = view.position().generation == Generation(0) || self.options.full;
        if fresh && !self.lane.ledger.root.pinned().is_mount_root() {
            return Ok(whole(self.volume));
        }
        make_plan(view, self.volume, self.options)
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

    /// Directories of the mirror that need metadata: changed in the volume, or touched by installs and outs.
    fn dir_ops(
        &self,
        view: &View,
        staged: &mut Staged,
        outs: &Outs,
        moves: &[(RelPath, StagedName)],
        changed: Vec<(RelPath, RelPath)>,
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
        for (path, old) in changed {
            let entry = match self.dir_entry(&path) {
                Ok((entry, _)) => entry,
                // It is something else by now: the next cycle sees it.
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
        for path in touched {
            if done.contains(&path) {
                continue;
            }
            // Where the index has it, seen from the new generation backwards.
            let old = moved
                .iter()
                .filter(|(_, new)| path.is_within(new))
                .max_by_key(|(_, new)| new.depth())
                .and_then(|(old, new)| path.rebase(new, old))
                .unwrap_or_else(|| path.clone());
            let entry = match view.entry(&old)? {
                Some(entry) if entry.is_dir() => entry,
                // New in this generation, and a rename came into it after it was staged.
                _ => match self.dir_entry(&path) {
                    Ok((entry, _)) => entry,
                    Err(_) => continue,
                },
            };
            ops.push(Op::Dir { path, entry, work: DirWork::Times });
        }
        ops.sort_by(|a, b| a.path().cmp(b.path()));
        Ok(ops)
    }

    fn dir_entry(&self, path: &RelPath) -> Result<(Entry, sys::meta::XattrsRead), sys::SysError> {
        let dir = self.volume.root.open_below(path.components())?;
        entries::of_dir(&dir)
    }

    fn remember_facts(&self, view: &View, ops: &[Op], dir_ops: &[Op]) -> Result<()> {
        if ops.is_empty() && dir_ops.is_empty() {
            return Ok(());
        }
        let _ = view;
        let mut applying = self.lane.index.apply()?;
        applying.ops(ops)?;
        applying.ops(dir_ops)?;
        applying.commit_local()?;
        Ok(())
    }

    /// Where this run records what it staged, and what an earlier one left. A record is good for the same
    /// epoch and base generation; where files are not fsynced one by one, only for the same boot.
    fn spool(&self, nothing: bool) -> Result<(Spool, Resume)> {
        let kept = match self.file_durability() {
            transfer::Durability::PerFile => "durable".to_owned(),
            transfer::Durability::Replicated | transfer::Durability::Deferred => boot_id(),
        };
        let base = self.lane.head.as_ref().map_or(Generation(0), |head| head.generation);
        let name = format!("spool-{}-{base}-{kept}", self.tenure.epoch);
        let path = self.lane.dir.file(&name);
        let mut earlier: Option<PathBuf> = None;
        for old in self.lane.dir.files("spool-")? {
            let old_name = old.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if old_name.trim_end_matches(".earlier") == name && !self.options.full {
                let aside = self.lane.dir.file(&format!("{name}.earlier"));
                if old != aside {
                    append(&old, &aside)?;
                }
                earlier = Some(aside);
            } else {
                let _ = std::fs::remove_file(&old);
            }
        }
        // With nothing to do the mirror's side is left alone: leftovers wait for the next real cycle.
        let resume = if nothing && earlier.is_none() {
            Resume::default()
        } else {
            Resume::load(earlier.as_deref(), self.tenure)?
        };
        Ok((Spool::create(&path)?, resume))
    }

    fn forget_spools(&self) -> Result<()> {
        for old in self.lane.dir.files("spool-")? {
            let _ = std::fs::remove_file(old);
        }
        let _ = std::fs::remove_file(self.lane.dir.file("next.log"));
        Ok(())
    }

    fn is_fuse(&self) -> bool {
        self.lane.ledger.root.pinned().kind().is_fuse()
    }

    fn file_durability(&self) -> transfer::Durability {
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
            target: if self.is_fuse() { transfer::Side::MayHang } else { transfer::Side::Local },
            ..transfer::Options::default()
        }
    }
}

/// What would be done, without doing it.
///
/// # Errors
/// As [`Cycle::run`].
pub fn preview(view: &View, volume: &Volume, options: &CycleOptions) -> Result<Plan> {
    if view.position().generation == Generation(0) {
        Ok(whole(volume))
    } else {
        make_plan(view, volume, options)
    }
}

/// The plan of a first copy: the root is a new directory.
fn whole(volume: &Volume) -> Plan {
    let root = Found { path: RelPath::root(), old: RelPath::root(), stat: volume.stat, parent: 0 };
    Plan { new: vec![root], ..Plan::default() }
}

fn make_plan(view: &View, volume: &Volume, options: &CycleOptions) -> Result<Plan> {
    let start = Start { dir: volume.root.clone(), path: RelPath::root(), old: RelPath::root(), id: ROOT };
    let mut changes: Changes = look::look(view, start, options.walkers)?;
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
    if !is_same {
        changes.dirs.push(Found { path: RelPath::root(), old: RelPath::root(), stat, parent: 0 });
    }
    Plan::make(view, &root, changes, &options.limit, options.walkers)
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

struct Outs {
    run: u64,
    next: u64,
    list: Vec<(RelPath, Leaves)>,
}

impl Outs {
    /// Names in the trash have numbers of their own, above those of the stage.
    const FIRST: u64 = 1 << 40;

    fn trash(&mut self, paths: Vec<RelPath>) {
        for path in paths {
            self.next += 1;
            self.list.push((path, Leaves::Trash(StagedName { run: self.run, n: Self::FIRST + self.next })));
        }
    }
}

struct Emit<'a> {
    log: &'a mut LogFile,
    applying: &'a mut crate::index::Applying,
    batch: Vec<Op>,
}

impl Emit<'_> {
    fn op(&mut self, op: Op) -> Result<()> {
        self.log.op(&op)?;
        self.batch.push(op);
        if self.batch.len() >= 4096 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.applying.ops(&self.batch)?;
        self.batch.clear();
        Ok(())
    }

    /// Installs, outermost first. Without renames what was staged has no order among itself; with them a new
    /// directory may hold a renamed one that holds a new one, and one pass per depth sorts that out.
    fn installs(&mut self, staged: &mut Staged, with_moves: bool) -> Result<()> {
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

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn append(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    use crate::error::on_state;
    if !to.exists() {
        return std::fs::rename(from, to).map_err(on_state("rename", from));
    }
    // Records of the older run come first; whole frames only, or the newer ones could not be read.
    let joined = to.with_extension("joined");
    let mut spool = Spool::create(&joined)?;
    for path in [to, from] {
        super::spool::read(path, |op| spool.push(&op))?;
    }
    spool.flush()?;
    std::fs::rename(&joined, to).map_err(on_state("rename", &joined))?;
    std::fs::remove_file(from).map_err(on_state("remove", from))
}
