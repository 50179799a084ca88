//! From the kernel's queue to the dirty sets of the lanes.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sys::fanotify::{Event, Events, Group, Marks, Mask, Place, Queue, handle};
use sys::{Dir, Errno, SysError};

use proto::{Hint, Note};

use super::dirty::{Dirty, Gap, Key};
use super::notes;
use super::open_files::OpenFiles;
use super::spool::{Left, READ_BYTES, Spool};
use crate::journal::{Appender, Ticket, Want};

/// Waited behind the first event of a quiet time, so that the kernel can merge what belongs together: 100,000 small files are
/// 100,000 events instead of 200,000, and the writer is slowed by 10 to 20 % instead of 50.
const GATHER: Duration = Duration::from_millis(5);

/// How often the reading thread shows that it lives when there is nothing to read.
const BEAT: Duration = Duration::from_secs(1);

/// How long the end of the process waits for whoever reads the queue.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Directories whose side is remembered; beyond that the memory starts anew.
const SIDES_MAX: usize = 1 << 20;

/// Events that speak of what is in an object rather than of its name.
const CONTENT: Mask = Mask::MODIFY.with(Mask::CLOSE_WRITE).with(Mask::ATTRIB);

/// Why changes of a volume cannot be captured.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// The kernel lets only a privileged process watch a file system.
    #[error("capturing changes needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH")]
    Privilege,
    /// The kernel is too old.
    #[error("capturing changes needs Linux 5.9 or newer")]
    Kernel,
    /// This file system cannot be watched.
    #[error("{0}")]
    FileSystem(String),
}

/// A volume to be watched, and what was touched in it.
pub struct Target {
    root: Arc<Dir>,
    fsid: [u8; 8],
    state: Mutex<State>,
    /// Where it is noted too, for the next run.
    journal: Option<Appender>,
    /// Rung when something was touched.
    bell: crossbeam::channel::Sender<()>,
    heard: crossbeam::channel::Receiver<()>,
}

#[derive(Default)]
struct State {
    dirty: Dirty,
    /// What was taken in since the journal was told.
    notes: Vec<Hint>,
    /// Inodes of the volume that have names outside it too, or had: writes through those are events of other places.
    linked: HashSet<u64>,
    /// Inodes that were written to in other places since the last [`Target::take`]. One of them may turn out to be linked:
    /// its name came into the volume, or its file was looked at, before that.
    elsewhere: HashMap<u64, Key>,
    /// There were too many to be kept.
    elsewhere_lost: bool,
    relinked: Relinked,
    /// What is queued was done while nobody kept account of links: of everything that is written to elsewhere it has to be
    /// asked whether it is in the volume, until the next [`Target::take`].
    forgotten: bool,
}

/// With what a volume begins.
pub struct Begin {
    /// What is to be looked at first.
    pub dirty: Dirty,
    /// Where everything is noted.
    pub journal: Option<Appender>,
    /// What is not in `dirty` is in the queue of a group that [goes on](Capture::goes_on).
    pub goes_on: bool,
}

impl Begin {
    /// Nothing is known of what was before.
    pub fn unknown(journal: Option<Appender>) -> Self {
        let mut dirty = Dirty::default();
        dirty.gap(Gap::Start, Instant::now());
        Self { dirty, journal, goes_on: false }
    }
}

/// Inodes whose link count changed, wherever they are. Who holds one open under a name that was outside the volume, and is
/// gone, can write to it still, and the events speak of that name.
#[derive(Default)]
struct Relinked {
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Relinked {
    /// Half of the inodes that are remembered; the oldest are forgotten.
    const HALF: usize = 1 << 19;

    fn insert(&mut self, ino: u64) {
        if self.young.len() >= Self::HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(ino);
    }

    fn contains(&self, ino: u64) -> bool {
        self.young.contains(&ino) || self.old.contains(&ino)
    }
}

/// Inodes kept in `elsewhere`.
const ELSEWHERE_MAX: usize = 100_000;

impl Target {
    /// Takes out what is to be looked at. What came after the last [`Capture::drain`] is not noted in the journal yet.
    pub fn take(&self) -> Dirty {
        let mut state = self.lock();
        // Whatever is looked at from now on is looked at after these were written to.
        state.elsewhere.clear();
        state.elsewhere_lost = false;
        state.forgotten = false;
        state.dirty.take()
    }

    /// Looks at what is to be looked at.
    pub fn peek<T>(&self, look: impl FnOnce(&Dirty) -> T) -> T {
        look(&self.lock().dirty)
    }

    /// Puts back what could not be done.
    pub fn put_back(&self, taken: Dirty) {
        self.lock().dirty.put_back(taken);
    }

    /// Puts back a part of what was taken out, though the rest was done: the journal hears of it again.
    pub fn put_back_part(&self, part: Dirty) {
        if let Some(journal) = &self.journal {
            notes::append(journal, notes::all(&part));
        }
        self.put_back(part);
    }

    /// Asks for a look at all of the volume.
    pub fn gap(&self, gap: Gap) {
        self.lock().dirty.gap(gap, Instant::now());
        if let Some(journal) = &self.journal {
            let _ = journal.append(crate::cycle::now(), vec![notes::gap(gap)], Want::Written);
        }
        self.ring();
    }

    /// Tells the journal what was taken in.
    fn note(&self) {
        let hints = std::mem::take(&mut self.lock().notes);
        if let Some(journal) = &self.journal {
            notes::append(journal, hints);
        }
    }

    /// Waits until all that the journal was told would outlive this process. False when something is lost.
    fn is_noted(&self) -> bool {
        let Some(journal) = &self.journal else { return true };
        let all = journal.append(crate::cycle::now(), Vec::new(), Want::Written);
        all.is_ok_and(|mut ticket| ticket.written().is_ok())
    }

    /// These are open for writing now, by whatever names: who holds one may have opened it by a name that was outside the
    /// volume and is gone, before there was this process to see that.
    pub fn held(&self, inodes: impl IntoIterator<Item = u64>) {
        let mut state = self.lock();
        inodes.into_iter().for_each(|ino| state.relinked.insert(ino));
    }

    /// Says which inodes are linked, after a cycle. Those that were not known to be, and were written to elsewhere since
    /// its names were taken, are to be looked at again.
    pub fn set_linked(&self, linked: HashSet<u64>) {
        let mut state = self.lock();
        let state = &mut *state;
        let (now, mut is_lost) = (Instant::now(), false);
        for ino in linked.difference(&state.linked) {
            is_lost |= state.elsewhere_lost;
            if let Some(key) = state.elsewhere.get(ino) {
                state.dirty.object(key, now);
            }
        }
        if is_lost {
            state.dirty.gap(Gap::TooMany, now);
        }
        state.linked = linked;
    }

    /// Receives when something was touched.
    pub fn bell(&self) -> &crossbeam::channel::Receiver<()> {
        &self.heard
    }

    /// Root of the volume.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    fn ring(&self) {
        // One is enough: who hears it looks at all there is.
        let _ = self.bell.try_send(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One group of the kernel, for all volumes of an agent.
pub struct Capture {
    group: Group,
    inner: Mutex<Inner>,
    stop: AtomicBool,
    /// Ends the wait of the reading thread when it is closed or written to.
    wake: OwnedFd,
    woken: OwnedFd,
    /// One event in so many is dropped: only a test of the checker sets it.
    drop_every: AtomicU64,
    seen: AtomicU64,
    /// The group was held for us, with no hole in what its readers noted.
    is_whole: bool,
    /// Nothing was taken out of the queue by this process yet.
    unread: AtomicBool,
    /// What this process calls itself in the spool.
    reader: u64,
    /// What the one before called itself.
    predecessor: u64,
    /// What was watched when the group was taken over.
    marks: Marks,
    /// Nothing is read any more: what comes is for the next process.
    closed: AtomicBool,
    awaited: Mutex<usize>,
    arrived: Condvar,
    opened: Instant,
    /// When the reading thread came round last, in milliseconds since `opened`.
    beat: AtomicU64,
    open_files: Arc<OpenFiles>,
}

struct Inner {
    targets: Vec<Arc<Target>>,
    sides: HashMap<Key, Side>,
    buffer: Vec<u8>,
    spool: Option<Spool>,
    /// A volume got a gap since the spool was told that all is noted.
    has_gap: Cell<bool>,
}

/// Where a directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Outside,
    In(usize),
}

impl Capture {
    /// How long the first lanes wait for the others before a kept queue is read.
    pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

    /// Opens a group that watches nothing yet.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn open(queue: Queue) -> Result<Arc<Self>, Unavailable> {
        let group = Group::open(queue).map_err(|e| match e.errno {
            Errno::PERM => Unavailable::Privilege,
            Errno::NOSYS | Errno::INVAL => Unavailable::Kernel,
            _ => Unavailable::FileSystem(e.to_string()),
        })?;
        Self::on(group, None, false)
    }

    /// As [`Capture::open`], with what is read kept in `spool` until it is noted.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn open_with(queue: Queue, spool: Spool) -> Result<Arc<Self>, Unavailable> {
        let this = Self::open(queue)?;
        this.lock().spool = Some(spool);
        Ok(this)
    }

    /// Goes on with a group that somebody kept for us, with all that was queued meanwhile and the memory that its reader had.
    /// Nothing is read until as many volumes as are `awaited` [have arrived](Capture::arrived): what is read before a volume
    /// is watched is nobody's.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn adopt(group: Group, spool: Spool, awaited: usize) -> Result<Arc<Self>, Unavailable> {
        let goes_on = spool.left() != Left::Lost;
        let this = Self::on(group, Some(spool), goes_on)?;
        *this.awaited.lock().unwrap_or_else(PoisonError::into_inner) = if goes_on { awaited } else { 0 };
        Ok(this)
    }

    /// One of the volumes that are awaited is watched, or cannot be yet.
    pub fn arrived(&self) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        *awaited = awaited.saturating_sub(1);
        self.arrived.notify_all();
    }

    /// Waits until all have arrived, `limit` at most; true when they have.
    pub fn wait_for_all(&self, limit: Duration) -> bool {
        let awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.arrived.wait_timeout_while(awaited, limit, |awaited| *awaited > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    fn on(group: Group, spool: Option<Spool>, goes_on: bool) -> Result<Arc<Self>, Unavailable> {
        let (woken, wake) = rustix_pipe()?;
        let (marks, predecessor) = (group.marks(), spool.as_ref().map_or(0, Spool::reader));
        let inner = Inner {
            targets: Vec::new(),
            sides: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            spool,
            has_gap: Cell::new(false),
        };
        Ok(Arc::new(Self {
            group,
            inner: Mutex::new(inner),
            stop: AtomicBool::new(false),
            wake,
            woken,
            drop_every: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            is_whole: goes_on,
            unread: AtomicBool::new(true),
            reader: u64::from_le_bytes(sys::host::random()).max(1),
            predecessor,
            marks,
            closed: AtomicBool::new(false),
            awaited: Mutex::new(0),
            arrived: Condvar::new(),
            opened: Instant::now(),
            beat: AtomicU64::new(0),
            open_files: OpenFiles::start(),
        }))
    }

    /// Watches the volume at `root`, which begins with what `begin` says.
    ///
    /// # Errors
    /// [`Unavailable::FileSystem`].
    pub fn watch(&self, root: Arc<Dir>, begin: Begin) -> Result<Arc<Target>, Unavailable> {
        let refused = |e: SysError| Unavailable::FileSystem(why_not(&e));
        let fsid = sys::handle::fsid(root.as_ref()).map_err(refused)?;
        // Handles have to lead back, or events would speak of places that cannot be found.
        let own = sys::Handle::of(root.as_ref(), fsid).map_err(refused)?;
        own.hold(root.as_ref()).map_err(|e| match e.errno {
            Errno::PERM => Unavailable::Privilege,
            _ => refused(e),
        })?;
        self.group.mark(root.as_ref()).map_err(refused)?;
        let (bell, heard) = crossbeam::channel::bounded(1);
        let mut inner = self.lock();
        let Begin { mut dirty, journal, goes_on } = begin;
        if goes_on && !self.goes_on() {
            dirty.gap(Gap::Start, Instant::now());
        }
        let state = Mutex::new(State { dirty, forgotten: goes_on, ..State::default() });
        let target = Arc::new(Target { root, fsid, state, journal, bell, heard });
        inner.targets.push(target.clone());
        inner.sides.clear();
        target.ring();
        Ok(target)
    }

    /// Stops telling `target` anything.
    pub fn forget(&self, target: &Arc<Target>) {
        let mut inner = self.lock();
        inner.targets.retain(|other| !Arc::ptr_eq(other, target));
        inner.sides.clear();
    }

    /// Reads until [`Capture::stop`] is called: the work of a thread of its own.
    ///
    /// # Errors
    /// The kernel refuses to be read: everything from now on is a gap.
    pub fn run(&self) -> Result<(), SysError> {
        self.wait_for_all(Self::ARRIVAL_LIMIT);
        while !self.stop.load(Ordering::Acquire) {
            self.beat.store(self.opened.elapsed().as_millis() as u64, Ordering::Release);
            let has_events = self.group.wait(&self.woken, Some(BEAT))?;
            if has_events && !self.stop.load(Ordering::Acquire) {
                std::thread::sleep(GATHER);
                match self.drain() {
                    Err(_) if self.closed.load(Ordering::Acquire) => break,
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// False when the reading thread has not come round for a while.
    pub fn is_alive(&self) -> bool {
        let beat = Duration::from_millis(self.beat.load(Ordering::Acquire));
        self.opened.elapsed().saturating_sub(beat) < 20 * BEAT
    }

    /// Leaves what is queued, and what comes, for the process that gets the group next.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.stop();
        // Whoever is at it is waited for, but not for a disk that hangs: what is in hand then is in the spool.
        let end = Instant::now() + CLOSE_LIMIT;
        while self.inner.try_lock().is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// True when what comes is left for the next process.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends [`Capture::run`].
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = sys::file::write_pipe(&self.wake);
    }

    /// Takes in all that was queued when this was called: afterwards every call that had returned before is in a dirty set,
    /// for the kernel queues an event before the call that causes it returns.
    ///
    /// # Errors
    /// The kernel's errno; a lost event is a gap instead.
    pub fn drain(&self) -> Result<(), SysError> {
        self.drain_locked(&mut self.lock())
    }

    /// As [`Capture::drain`], and takes out what `target` has then. The ticket is for a note in the journal behind all that
    /// was taken and before all that comes; nothing when there is no journal, or nothing was taken.
    ///
    /// # Errors
    /// As [`Capture::drain`].
    pub fn take(&self, target: &Target) -> Result<(Dirty, Option<Ticket>), SysError> {
        let mut inner = self.lock();
        self.drain_locked(&mut inner)?;
        let taken = target.take();
        let journal = target.journal.as_ref().filter(|_| !taken.is_empty());
        let ticket = journal.and_then(|journal| {
            let token = u64::from_le_bytes(sys::host::random());
            journal.append(crate::cycle::now(), vec![Note::Barrier { token }], Want::Written).ok()
        });
        drop(inner);
        Ok((taken, ticket))
    }

    fn drain_locked(&self, inner: &mut Inner) -> Result<(), SysError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SysError::new("read events of an agent that ends", b".", Errno::CANCELED));
        }
        let wanted = self.group.queued()?;
        if self.unread.swap(false, Ordering::AcqRel) {
            let left = inner.spool.as_ref().map(Spool::left);
            if let (Some(Left::Events(events)), true) = (left, self.is_whole) {
                inner.take_in(&events, |_| false);
            }
            if let Some(spool) = &mut inner.spool {
                spool.set_reader(self.reader);
            }
        }
        let mut taken = 0;
        while taken < wanted {
            let mut buffer = std::mem::take(&mut inner.buffer);
            let read = match &mut inner.spool {
                Some(spool) => spool.read(&self.group, &mut buffer),
                None => self.group.read(&mut buffer),
            };
            let taken_in = read.map(|n| (n, inner.take_in(&buffer[..n], |event| self.loses(event))));
            inner.buffer = buffer;
            match taken_in {
                Ok((0, _)) => break,
                Ok((_, count)) => taken += count,
                Err(e) if e.errno == Errno::NOMEM => {
                    inner.gap(Gap::QueueOverflow);
                    inner.noted(&[]);
                    break;
                }
                Err(e) => {
                    if let Some(spool) = &mut inner.spool {
                        spool.noted(false);
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn loses(&self, event: &Event<'_>) -> bool {
        let every = self.drop_every.load(Ordering::Relaxed);
        every > 0 && event.at.is_some() && self.seen.fetch_add(1, Ordering::Relaxed) % every == every - 1
    }

    /// Loses one event in `every`, as a broken capture would: for the test that shows that losses are found.
    pub fn lose_one_in(&self, every: u64) {
        self.drop_every.store(every, Ordering::Relaxed);
    }

    /// True when the group was held for us while no agent ran, and whatever happened meanwhile is in its queue still.
    pub fn goes_on(&self) -> bool {
        self.is_whole && self.unread.load(Ordering::Acquire)
    }

    /// True when moreover the file system of `root` was watched all the time: one that was unmounted has lost its mark.
    pub fn goes_on_at(&self, root: &Dir) -> bool {
        self.goes_on() && self.marks.has(root)
    }

    /// By what a later start knows that nobody but this process has read the queue: a number for this process; nothing when
    /// the queue ends with it.
    pub fn reader(&self) -> Option<u64> {
        self.lock().spool.as_ref().map(|_| self.reader)
    }

    /// The same of the last process that read it; 0 for none.
    pub fn predecessor(&self) -> u64 {
        self.predecessor
    }

    /// Who has what open for writing, on all of the host.
    pub fn open_files(&self) -> Arc<OpenFiles> {
        self.open_files.clone()
    }

    /// The group, to be held by somebody who outlives this process.
    pub fn group(&self) -> &Group {
        &self.group
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns how many events there were.
    fn take_in(&mut self, bytes: &[u8], lose: impl Fn(&Event<'_>) -> bool) -> u64 {
        let mut count = 0;
        let now = Instant::now();
        let mut touched = vec![false; self.targets.len()];
        for event in Events::new(bytes) {
            count += 1;
            match event {
                Ok(event) if lose(&event) => {}
                Ok(event) => self.event(&event, now, &mut touched),
                Err(error) => {
                    tracing::warn!(%error, "the kernel's events cannot be understood; everything is looked at");
                    self.gap(Gap::UnknownRecord);
                }
            }
        }
        for (target, _) in self.targets.iter().zip(&touched).filter(|(_, touched)| **touched) {
            target.note();
            target.ring();
        }
        self.noted(&touched);
        count
    }

    /// Tells the spool that what it holds is noted, when it is.
    fn noted(&mut self, touched: &[bool]) {
        let Some(spool) = &mut self.spool else { return };
        // A journal that could not be written is asked again by everyone: its gap is in it as soon as it answers.
        let has_gap = self.has_gap.take() || spool.is_lost();
        let concerns = |at: usize| has_gap || touched.get(at).is_some_and(|touched| *touched);
        let mut concerned = self.targets.iter().enumerate().filter(|(at, _)| concerns(*at));
        spool.noted(concerned.all(|(_, target)| target.is_noted()));
    }

    fn gap(&self, gap: Gap) {
        self.has_gap.set(true);
        self.targets.iter().for_each(|target| target.gap(gap));
    }

    fn event(&mut self, event: &Event<'_>, now: Instant, touched: &mut [bool]) {
        if event.mask.any(Mask::OVERFLOW) {
            return self.gap(Gap::QueueOverflow);
        }
        if event.unknown {
            return self.gap(Gap::UnknownRecord);
        }
        let content = event.object.filter(|_| event.mask.any(CONTENT));
        let mut sides = [None, None];
        for (side, place) in sides.iter_mut().zip([&event.at, &event.to]) {
            let Some(place) = place else { continue };
            *side = self.side(place);
            if let Some(Side::In(at)) = *side {
                touched[at] = true;
                let mut state = self.targets[at].lock();
                if state.dirty.name(place.key, place.name, content, now) && self.targets[at].journal.is_some()
                {
                    state.notes.push(notes::name(place.key, place.name));
                    state.notes.extend(content.map(notes::object));
                }
            }
        }
        if event.to.is_some() && event.mask.any(Mask::ONDIR) && sides[0] != sides[1] {
            // A directory changed sides, and all below it: their handles say nothing of that.
            self.sides.clear();
        }
        self.arrived(event, sides, now);
        if let Some(object) = content {
            // Of a directory that is gone it cannot be said any more where it was.
            let is_nameless = event.at.is_none() || sides[0].is_none();
            let lane = sides[0].and_then(|side| match side {
                Side::In(at) => Some(at),
                Side::Outside => None,
            });
            self.elsewhere(object, is_nameless, lane, now, touched);
        }
    }

    /// A directory that came into a volume: what was done in it before may have been done outside, and nobody remembers
    /// that. Where it came from cannot be told for sure, for its old place may have come in itself since.
    fn arrived(&self, event: &Event<'_>, sides: [Option<Side>; 2], now: Instant) {
        if !event.mask.any(Mask::ONDIR) {
            return;
        }
        let (to, object) = match (event.to.is_some(), event.mask.any(Mask::MOVED_TO)) {
            (true, _) => (sides[1], event.object),
            // Where it came from is another event.
            (false, true) => (sides[0], event.object),
            _ => return,
        };
        if let Some(Side::In(at)) = to {
            match object {
                Some(object) => {
                    let mut state = self.targets[at].lock();
                    state.dirty.arrived(object, now);
                    if self.targets[at].journal.is_some() {
                        state.notes.push(notes::tree(object));
                    }
                }
                None => self.targets[at].gap(Gap::Arrived),
            }
        }
    }

    /// An object was touched by a name that is in no volume, or by none: it may have another that is.
    ///
    /// Without any name it is a change of the link count, and the only one that is told of a file of the volume that got its
    /// second name elsewhere.
    ///
    /// A name in one `lane` may be one of several, and the others in another.
    fn elsewhere(
        &self,
        object: &[u8],
        is_nameless: bool,
        lane: Option<usize>,
        now: Instant,
        touched: &mut [bool],
    ) {
        // Each file that is deleted anywhere on the file system is such a change: one that is gone has no name in a volume
        // either, and nobody has it open.
        if is_nameless
            && let Some(target) = self.targets.iter().find(|target| object.starts_with(&target.fsid))
            && handle(object).hold(target.root.as_ref()).is_err_and(|e| e.errno == Errno::STALE)
        {
            return;
        }
        let mut ino = None;
        for (at, target) in self.targets.iter().enumerate() {
            if lane == Some(at) || !object.starts_with(&target.fsid) {
                continue;
            }
            let mut state = target.lock();
            let ino = *ino.get_or_insert_with(|| handle(object).ino());
            if let (true, Some(ino)) = (is_nameless, ino) {
                state.relinked.insert(ino);
            }
            let is_known = |ino| state.linked.contains(&ino) || state.relinked.contains(ino);
            if is_nameless || state.forgotten || ino.is_none_or(is_known) {
                if state.dirty.object(object, now) && target.journal.is_some() {
                    state.notes.push(notes::object(object));
                }
                touched[at] = true;
            } else if let (Some(ino), None) = (ino, lane) {
                state.elsewhere_lost |= state.elsewhere.len() >= ELSEWHERE_MAX;
                if !state.elsewhere_lost {
                    state.elsewhere.insert(ino, object.into());
                }
            }
        }
    }

    /// Which volume a directory is in. Nothing when it is gone: then its own name was touched too.
    fn side(&mut self, place: &Place<'_>) -> Option<Side> {
        if let Some(side) = self.sides.get(place.key) {
            return Some(*side);
        }
        let side = match self.find(place) {
            Ok(side) => side,
            Err(e) if e.is_gone() => return None,
            Err(error) => {
                tracing::warn!(%error, "a directory cannot be found by its handle; everything is looked at");
                self.gap(Gap::LostHandle);
                return None;
            }
        };
        if self.sides.len() >= SIDES_MAX {
            self.sides.clear();
        }
        self.sides.insert(place.key.into(), side);
        Some(side)
    }

    fn find(&self, place: &Place<'_>) -> Result<Side, SysError> {
        let mut path: Option<Vec<u8>> = None;
        for (at, target) in self.targets.iter().enumerate() {
            if !place.key.starts_with(&target.fsid) {
                continue;
            }
            // Any file of the file system will do to open it; where it is depends on through which mount.
            let held = place.dir().hold(target.root.as_ref())?;
            let here = sys::handle::path_of(&held)?;
            let root = sys::handle::path_of(target.root.as_fd())?;
            if super::resolve::below(&root, &here).is_some() {
                return Ok(Side::In(at));
            }
            path.get_or_insert(here);
        }
        Ok(Side::Outside)
    }
}

fn why_not(error: &SysError) -> String {
    match error.errno {
        Errno::XDEV => {
            "this is a subvolume of btrfs: only the whole file system can be watched, through a mount of \
                        its top (subvolid=5)"
                .to_owned()
        }
        Errno::OPNOTSUPP => "this file system (overlayfs?) cannot be watched as a whole".to_owned(),
        Errno::NODEV => "a network or FUSE file system tells nobody what others change".to_owned(),
        _ => error.to_string(),
    }
}

fn rustix_pipe() -> Result<(OwnedFd, OwnedFd), Unavailable> {
    sys::file::pipe().map_err(|e| Unavailable::FileSystem(e.to_string()))
}
