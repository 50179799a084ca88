//! Publishing: carrying a sealed log into the mirror, now or after a crash.
//!
//! The order, and what makes each step safe to repeat:
//!
//! | step | done already when |
//! |---|---|
//! | outs, deepest first | the name in `trash.N` or `stage.N` exists, or the marker `outs-done.<g>` does |
//! | marker, if an out went to the stage | it exists |
//! | installs, outermost first | the name in `stage.N` is gone and the mirror has the path |
//! | large files that grow: out, written to, back | (again: the same bytes at the same place) |
//! | directory metadata | (set again) |
//! | HEAD: written in `stage.N`, fsynced, renamed | it names this generation |
//! | storage barrier | (again) |
//!
//! The marker is needed because a moved thing leaves no trace in the stage once it is installed: without it a
//! repeated publish would take out what it had just put in. Nothing in `trash.N` is removed before HEAD has
//! moved, so the first rule holds throughout.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use proto::{
    DirWork, Epoch, FrameKind, Generation, Head, Leaves, Op, RelPath, Source, StagedName, frame, names,
};
use sys::{Dir, Errno, Meta, SysError};
use transfer::Cost;

use super::epoch::Tenure;
use super::log::LocalLog;
use super::mirror::MirrorDirs;
use super::open::{Ledger, write_small};
use crate::error::{Error, Result, on_mirror};

/// Threads that install at once. Renames in different directories gain from company, those in one do not.
const PUBLISH_THREADS: usize = 16;

/// Whether the log is being published by its writer or finished after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// By its writer, straight after the seal: every staged name must be there.
    Fresh,
    /// Again: any prefix of the work may be done.
    Again,
}

#[derive(Default)]
struct Work {
    outs: Vec<(RelPath, Leaves)>,
    installs: Vec<(RelPath, StagedName, Source)>,
    grows: Vec<Grow>,
    dirs: Vec<(RelPath, DirWork, Meta)>,
}

/// A large file that keeps what it has.
struct Grow {
    path: RelPath,
    via: StagedName,
    from: u64,
    size: u64,
    tail: Option<StagedName>,
    meta: Meta,
}

/// A file that grows and its end, both open, with room for the one behind the other.
struct Ready {
    file: OwnedFd,
    tail: Option<(OwnedFd, Vec<u8>)>,
}

/// Pieces in which a tail is carried: large writes are ten times cheaper on GlusterFS than small ones.
const PIECE_BYTES: usize = 1 << 20;

impl Ledger {
    /// Publishes a sealed log and moves HEAD to it. Safe to repeat from any point.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another epoch took over; [`Error::LedgerState`] when the mirror was changed by
    /// hand; [`Error::Mirror`]: run it again when the mirror works.
    pub fn publish(&self, tenure: &Tenure, log: &LocalLog, mode: Publish, now: proto::Time) -> Result<Head> {
        let generation = log.header.generation;
        let mut work = Work::default();
        log.ops(|op| {
            match op {
                Op::Out { path, to } => work.outs.push((path, to)),
                Op::Install { path, staged, source, .. } => work.installs.push((path, staged, source)),
                Op::Grow { path, via, from, tail, entry } => {
                    let (size, meta) = (entry.size(), meta_of(&entry));
                    work.grows.push(Grow { path, via, from, size, tail, meta });
                }
                Op::Dir { path, work: what, entry } => work.dirs.push((path, what, meta_of(&entry))),
                Op::Below { .. } | Op::Except { .. } | Op::Clear { .. } | Op::Facts { .. } => {}
            }
            Ok(())
        })?;
        let publisher = Publisher { ledger: self, tenure, generation, mode };
        publisher.outs(&mut work)?;
        publisher.installs(&mut work)?;
        publisher.grows(&work)?;
        if mode == Publish::Again {
            // An install that a successor did looks like one done before; metadata must not follow it.
            self.still_working(tenure.epoch)?;
        }
        publisher.dirs(&mut work)?;
        let head = publisher.head(log, now)?;
        publisher.forget_tails(&work);
        Ok(head)
    }

    /// Empties `trash.N` and what publishing left in `stage.N`. Only after HEAD has moved.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::Mirror`]; what is left is removed the next time.
    pub fn empty_trash(&self, tenure: &Tenure) -> Result<u64> {
        let failed = |e| self.fenced_or(tenure.epoch, on_mirror(|| "empty the trash".to_owned())(e));
        let mut removed = 0;
        for name in tenure.trash.names().map_err(failed)? {
            let gone = tenure.trash.remove_tree(&name).map_err(failed)?;
            // How many they are is known afterwards: what comes next waits for it.
            self.limits.wait(Cost::ops(gone));
            removed += gone;
        }
        Ok(removed)
    }
}

/// Finishes every sealed generation above HEAD, for the holder of epoch `ours`. Returns the newest HEAD. `scratch`
/// is a local file to use.
///
/// # Errors
/// As [`Ledger::publish`]; [`Error::Fenced`] when a later epoch sealed meanwhile; [`Error::LedgerFile`] when a sealed
/// log is damaged.
pub fn roll_forward(ledger: &Ledger, ours: Epoch, scratch: &Path, now: proto::Time) -> Result<Option<Head>> {
    let mut head = ledger.head()?;
    loop {
        let next = head.as_ref().map_or(Generation(1), |head| head.generation.next());
        if !ledger.is_sealed(next)? {
            return Ok(head);
        }
        let log = ledger.fetch(next, scratch)?;
        if let Some(head) = &head
            && log.header.previous != head.log_hash
        {
            return Err(Error::LedgerState(format!(
                "commit/{next} does not follow the log of generation {}: the ledger was tampered with",
                head.generation
            )));
        }
        let by = log.header.epoch;
        if by > ours {
            // The directories of a successor are not ours to publish from, and its HEAD not ours to move.
            let ahead =
                Error::LedgerState(format!("generation {next} is of epoch {by}, which nobody claimed"));
            return Err(ledger.fenced_or(ours, ahead));
        }
        if head.is_none() && by < ours && ledger.working(&names::stage(by))?.is_none() {
            // A first seal that arrived after the take-over: with no generation before it there was no barrier in its
            // way, and what it would install is gone. Nothing of it was ever in the mirror, and nobody could read it.
            ledger.void_first()?;
            return Ok(None);
        }
        let tenure = ledger.tenure_left(by)?;
        head = Some(ledger.publish(&tenure, &log, Publish::Again, now)?);
    }
}

struct Publisher<'a> {
    ledger: &'a Ledger,
    tenure: &'a Tenure,
    generation: Generation,
    mode: Publish,
}

impl Publisher<'_> {
    fn outs(&self, work: &mut Work) -> Result<()> {
        let moves = work.outs.iter().any(|(_, to)| matches!(to, Leaves::Stage(_)));
        let marker = names::outs_done(self.generation);
        let act = || "mark the outs as done".to_owned();
        if moves
            && self.mode == Publish::Again
            && self.tenure.stage.exists(&marker).map_err(on_mirror(act))?
        {
            return Ok(());
        }
        by_depth(
            &mut work.outs,
            |(path, _)| path,
            Order::DeepestFirst,
            |level| parallel(level, |dirs, (path, to)| self.out(dirs, path, *to), self.ledger),
        )?;
        if moves {
            match write_small(&self.tenure.stage, &marker, b"") {
                Err(e) if e.errno != Errno::EXIST => return Err(self.failed(e, act())),
                _ => {}
            }
        }
        Ok(())
    }

    fn out(&self, dirs: &mut MirrorDirs<'_>, path: &RelPath, to: Leaves) -> Result<()> {
        let (place, name) = match to {
            Leaves::Trash(name) => (&self.tenure.trash, names::staged(name)),
            Leaves::Stage(name) => (&self.tenure.stage, names::staged(name)),
        };
        let act = || format!("take {path} out of the mirror");
        if self.mode == Publish::Again && place.exists(&name).map_err(on_mirror(act))? {
            return Ok(());
        }
        self.ledger.limits.wait(Cost::ops(1));
        let moved = dirs.parent(path).and_then(|(parent, leaf)| parent.rename(&leaf, place, &name));
        match moved {
            Ok(()) => Ok(()),
            Err(e) if e.is_gone() => {
                if place.exists(&name).map_err(on_mirror(act))? {
                    return Ok(());
                }
                Err(self.ledger.fenced_or(self.tenure.epoch, self.meddled(path)))
            }
            Err(e) => Err(self.failed(e, act())),
        }
    }

    fn installs(&self, work: &mut Work) -> Result<()> {
        by_depth(
            &mut work.installs,
            |(path, ..)| path,
            Order::OutermostFirst,
            |level| parallel(level, |dirs, (path, staged, _)| self.install(dirs, path, *staged), self.ledger),
        )
    }

    fn install(&self, dirs: &mut MirrorDirs<'_>, path: &RelPath, staged: StagedName) -> Result<()> {
        let name = names::staged(staged);
        let act = || format!("install {path} into the mirror");
        let stage: &Dir = &self.tenure.stage;
        self.ledger.limits.wait(Cost::ops(1));
        let target = dirs.parent(path);
        let installed = match &target {
            Ok((parent, leaf)) => stage.rename(&name, parent, leaf),
            Err(e) => Err(e.clone()),
        };
        match installed {
            Ok(()) => Ok(()),
            Err(e) if e.is_gone() => {
                let staged_is_there = match stage.exists(&name) {
                    Ok(there) => there,
                    Err(e) if e.is_gone() => false,
                    Err(e) => return Err(self.failed(e, act())),
                };
                let in_mirror = match &target {
                    Ok((parent, leaf)) => parent.exists(leaf).unwrap_or(false),
                    Err(_) => false,
                };
                if self.mode == Publish::Again && !staged_is_there && in_mirror {
                    return Ok(());
                }
                Err(self.ledger.fenced_or(self.tenure.epoch, self.meddled(path)))
            }
            Err(e) => Err(self.failed(e, act())),
        }
    }

    fn grows(&self, work: &Work) -> Result<()> {
        if work.grows.is_empty() {
            return Ok(());
        }
        // Renames cannot survive a loss of power that the seal did not, written data could: the seal first.
        self.ledger
            .storage_barrier()
            .map_err(on_mirror(|| format!("make generation {} durable", self.generation)))?;
        parallel(&work.grows, |dirs, grow| self.grow(dirs, grow), self.ledger)
    }

    /// Out of the mirror, written to, back. Done twice it gives the same.
    fn grow(&self, dirs: &mut MirrorDirs<'_>, grow: &Grow) -> Result<()> {
        let (path, name) = (&grow.path, names::staged(grow.via));
        let act = || format!("make {path} in the mirror grow");
        let stage: &Dir = &self.tenure.stage;
        // Waited for before the file leaves the mirror: out, opened, copied, times, fsync, closed, back.
        self.ledger.limits.wait(Cost::ops(7));
        let target = dirs.parent(path);
        let left = self.mode == Publish::Again && stage.exists(&name).map_err(on_mirror(act))?;
        if !left {
            let out = match &target {
                Ok((parent, leaf)) => parent.rename(leaf, stage, &name),
                Err(e) => Err(e.clone()),
            };
            match out {
                Ok(()) => {}
                Err(e) if e.is_gone() => {
                    return Err(self.ledger.fenced_or(self.tenure.epoch, self.meddled(path)));
                }
                Err(e) => return Err(self.failed(e, act())),
            }
        }
        let back = || match &target {
            Ok((parent, leaf)) => stage.rename(&name, parent, leaf),
            Err(e) => Err(e.clone()),
        };
        match self.ready(grow, &name) {
            Ok(Some(ready)) => {
                // Behind the first byte there is no way back: a writer that was replaced may hold what its successor
                // has published by now, and must never cut it. What fails here is gone on with by the next try.
                self.fill(grow, &name, ready).and_then(|()| back()).map_err(|e| self.failed(e, act()))
            }
            not_ready => {
                // Nothing was written: the plain tree gets the file back as it was.
                let _ = back();
                match not_ready {
                    Err(e) => Err(self.failed(e, act())),
                    Ok(_) => Err(self.ledger.fenced_or(self.tenure.epoch, self.meddled(path))),
                }
            }
        }
    }

    /// All that can be refused before the first byte is written: the file, its end and the room for it. Nothing when the
    /// file is not one that can grow as the log says.
    fn ready(&self, grow: &Grow, name: &[u8]) -> std::result::Result<Option<Ready>, SysError> {
        let stage: &Dir = &self.tenure.stage;
        let (mut file, stat) = stage.open_to_change(name)?;
        if stat.size < grow.from || stat.size > grow.size {
            return Ok(None);
        }
        let tail = match grow.tail.map(names::staged) {
            Some(tail) => Some((stage.open_file(&tail)?.0, tail)),
            None => None,
        };
        if stat.nlink > 1 {
            // Somebody linked it from the mirror, to keep it as it is (`cp -al`): it gets an inode of its own.
            file = self.copy(grow, name)?;
        }
        if grow.size > grow.from {
            sys::file::reserve(&file, grow.from, grow.size - grow.from, name)?;
        }
        Ok(Some(Ready { file, tail }))
    }

    /// Writes the tail behind what the file has.
    fn fill(&self, grow: &Grow, name: &[u8], ready: Ready) -> std::result::Result<(), SysError> {
        let Ready { file, tail } = ready;
        if let Some((tail, tail_name)) = &tail {
            carry((tail, tail_name, 0), (&file, name, grow.from), grow.size - grow.from)?;
        }
        sys::meta::reapply(file.as_fd(), &grow.meta, name)?;
        sys::file::sync(&file, name)?;
        // Closed before it goes back: nothing of it is under way when another epoch may see it.
        sys::file::close(file, name)
    }

    /// What the file had, in a new file that takes its name in the stage.
    fn copy(&self, grow: &Grow, name: &[u8]) -> std::result::Result<OwnedFd, SysError> {
        let stage: &Dir = &self.tenure.stage;
        let fresh = [name, b".copy"].concat();
        match stage.unlink(&fresh) {
            Err(e) if e.errno != Errno::NOENT => return Err(e),
            _ => {}
        }
        let (from, _) = stage.open_file(name)?;
        let to = stage.create(&fresh, 0o600)?;
        carry((&from, name, 0), (&to, &fresh, 0), grow.from)?;
        // It takes the place of the only copy that the mirror has.
        sys::file::sync(&to, &fresh)?;
        stage.rename(&fresh, stage, name)?;
        Ok(to)
    }

    /// Only after HEAD has moved; what is left is removed by the next cycle.
    fn forget_tails(&self, work: &Work) {
        for tail in work.grows.iter().filter_map(|grow| grow.tail) {
            let _ = self.tenure.stage.unlink(&names::staged(tail));
        }
    }

    fn dirs(&self, work: &mut Work) -> Result<()> {
        work.dirs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        parallel(&work.dirs, |dirs, (path, what, meta)| self.dir(dirs, path, *what, meta), self.ledger)
    }

    fn dir(&self, dirs: &mut MirrorDirs<'_>, path: &RelPath, what: DirWork, meta: &Meta) -> Result<()> {
        // The mirror's own directory stays root's alone (0700): what lies in it may be setuid. The manifest
        // holds what the volume's root looks like.
        if path.is_root() {
            return Ok(());
        }
        let set = |dirs: &mut MirrorDirs<'_>| -> std::result::Result<(), SysError> {
            let (parent, leaf) = dirs.parent(path)?;
            match what {
                DirWork::Times => sys::dir::set_dir_times(&parent, &leaf, meta.mtime),
                DirWork::All => {
                    let dir = parent.open_dir(&leaf)?;
                    sys::meta::reapply(dir.as_fd(), meta, &leaf).map(|_| ())
                }
            }
        };
        self.ledger.limits.wait(Cost::ops(1));
        match set(dirs) {
            Ok(()) => Ok(()),
            Err(e) if e.is_gone() || e.errno == Errno::NOTDIR => {
                Err(self.ledger.fenced_or(self.tenure.epoch, self.meddled(path)))
            }
            Err(e) => Err(self.failed(e, format!("set metadata of {path} in the mirror"))),
        }
    }

    fn head(&self, log: &LocalLog, now: proto::Time) -> Result<Head> {
        let act = || format!("move HEAD to generation {}", self.generation);
        let manifest = self.ledger.head()?.map_or(Generation(0), |head| head.manifest);
        let head = Head {
            generation: self.generation,
            epoch: log.header.epoch,
            log_hash: log.trailer.hash,
            manifest,
            cut: log.trailer.cut,
            totals: log.trailer.totals,
            halted: log.trailer.halted.clone(),
            sealed: log.trailer.sealed,
            published: now,
        };
        let bytes = frame::encode_file(FrameKind::Head, &head)
            .map_err(|source| Error::LedgerFile { file: "HEAD".to_owned(), source })?;
        let tmp =
            format!("head.{}.{:016x}", self.generation, u64::from_le_bytes(sys::host::random())).into_bytes();
        let moved = write_small(&self.tenure.stage, &tmp, &bytes)
            .and_then(|()| self.tenure.stage.rename(&tmp, &self.ledger.dir, names::HEAD));
        if let Err(e) = moved {
            return Err(self.failed(e, act()));
        }
        self.ledger.storage_barrier().map_err(on_mirror(act))?;
        let _ = self.tenure.stage.unlink(&names::outs_done(self.generation));
        Ok(head)
    }

    /// Whatever the errno: a successor may have made something else of the path.
    fn failed(&self, source: SysError, act: String) -> Error {
        self.ledger.fenced_or(self.tenure.epoch, on_mirror(|| act)(source))
    }

    fn meddled(&self, path: &RelPath) -> Error {
        Error::LedgerState(format!(
            "generation {} cannot be published: {path} is not in the mirror as the ledger says; somebody changed \
             the mirror by hand. `tidegate verify` lists what differs; `tidegate sync --full` makes it anew",
            self.generation
        ))
    }
}

impl Ledger {
    /// Makes all renames so far durable. On a FUSE mount: fsync of a small regular file, which carries the
    /// journal of each brick's file system with it; a directory fsync does nothing on GlusterFS. Locally: the
    /// file system is asked itself, because not every one orders renames by a file's fsync.
    pub(super) fn storage_barrier(&self) -> std::result::Result<(), SysError> {
        if self.root.pinned().kind().is_fuse() {
            let (fd, _) = self.dir.open_file(names::HEAD)?;
            sys::file::sync(&fd, names::HEAD)
        } else {
            sys::file::sync_filesystem(self.dir.as_ref(), names::HEAD)
        }
    }
}

/// Metadata of an entry as the kernel takes it.
pub fn meta_of(entry: &proto::Entry) -> Meta {
    Meta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: sys::Time { sec: entry.mtime.sec, nsec: entry.mtime.nsec },
        xattrs: entry.xattrs.clone(),
    }
}

/// A file, its name for messages, and where in it.
type At<'a> = (&'a OwnedFd, &'a [u8], u64);

/// Copies `len` bytes in large pieces.
fn carry(from: At<'_>, to: At<'_>, len: u64) -> std::result::Result<(), SysError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < len {
        let want = PIECE_BYTES.min(usize::try_from(len - done).unwrap_or(PIECE_BYTES));
        if sys::file::read_at(from.0, &mut piece[..want], from.2 + done, from.1)? < want {
            return Err(SysError::new("read the whole of", from.1, Errno::IO));
        }
        sys::file::write_at(to.0, &piece[..want], to.2 + done, to.1)?;
        done += want as u64;
    }
    Ok(())
}

enum Order {
    DeepestFirst,
    OutermostFirst,
}

/// Sorts by depth, then path, and hands over one depth at a time.
fn by_depth<T>(
    items: &mut [T],
    path: impl Fn(&T) -> &RelPath,
    order: Order,
    mut each: impl FnMut(&[T]) -> Result<()>,
) -> Result<()> {
    items.sort_by(|a, b| {
        let (a, b) = (path(a), path(b));
        let depth = match order {
            Order::DeepestFirst => b.depth().cmp(&a.depth()),
            Order::OutermostFirst => a.depth().cmp(&b.depth()),
        };
        depth.then_with(|| a.cmp(b))
    });
    items.chunk_by(|a, b| path(a).depth() == path(b).depth()).try_for_each(&mut each)
}

/// Does `act` for every item, in contiguous runs on a few threads so that each thread's directory cache pays.
/// The first error stops the others at their next item.
fn parallel<T: Sync>(
    items: &[T],
    act: impl Fn(&mut MirrorDirs<'_>, &T) -> Result<()> + Sync,
    ledger: &Ledger,
) -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    // Below this, starting threads costs more than it saves.
    const RUN_MIN: usize = 2;
    let threads = PUBLISH_THREADS.min(items.len() / RUN_MIN).max(1);
    if threads == 1 {
        let mut dirs = MirrorDirs::new(&ledger.root);
        return items.iter().try_for_each(|item| act(&mut dirs, item));
    }
    let stop = AtomicBool::new(false);
    let run = |items: &[T]| {
        let mut dirs = MirrorDirs::new(&ledger.root);
        for item in items {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = act(&mut dirs, item) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let run = &run;
        let workers: Vec<_> = items
            .chunks(items.len().div_ceil(threads))
            .map(|items| scope.spawn(move || run(items)))
            .collect();
        let mut result = Ok(());
        for worker in workers {
            let this = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(this);
        }
        result
    })
}
