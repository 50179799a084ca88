//! From the kernel's queue to the dirty sets of the lanes.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sys::fanotify::{Event, Events, Group, Mask, Place, Queue, handle};
use sys::{Dir, Errno, SysError};

use super::dirty::{Dirty, Gap, Key};

/// Waited behind the first event of a quiet time, so that the kernel can merge what belongs together: 100,000 small files are
/// 100,000 events instead of 200,000, and the writer is slowed by 10 to 20 % instead of 50.
const GATHER: Duration = Duration::from_millis(5);

/// How often the reading thread shows that it lives when there is nothing to read.
const BEAT: Duration = Duration::from_secs(1);

/// Bytes of one read.
const READ_BYTES: usize = 256 << 10;

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
    /// Rung when something was touched.
    bell: crossbeam::channel::Sender<()>,
    heard: crossbeam::channel::Receiver<()>,
}

#[derive(Default)]
struct State {
    dirty: Dirty,
    /// Inodes of the volume that have names outside it too, or had: writes through those are events of other places.
    linked: HashSet<u64>,
}

impl Target {
    /// Takes out what is to be looked at.
    pub fn take(&self) -> Dirty {
        self.lock().dirty.take()
    }

    /// Looks at what is to be looked at.
    pub fn peek<T>(&self, look: impl FnOnce(&Dirty) -> T) -> T {
        look(&self.lock().dirty)
    }

    /// Puts back what could not be done.
    pub fn put_back(&self, taken: Dirty) {
        self.lock().dirty.put_back(taken);
    }

    /// Asks for a look at all of the volume.
    pub fn gap(&self, gap: Gap) {
        self.lock().dirty.gap(gap, Instant::now());
        self.ring();
    }

    /// Says which inodes are linked.
    pub fn set_linked(&self, linked: HashSet<u64>) {
        self.lock().linked = linked;
    }

    /// Receives when something was touched.
    pub fn bell(&self) -> &crossbeam::channel::Receiver<()> {
        &self.heard
    }

    pub(super) fn root(&self) -> &Dir {
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
    began: Began,
    inner: Mutex<Inner>,
    stop: AtomicBool,
    /// Ends the wait of the reading thread when it is closed or written to.
    wake: OwnedFd,
    woken: OwnedFd,
    /// One event in so many is dropped: only a test of the checker sets it.
    drop_every: AtomicU64,
    seen: AtomicU64,
    opened: Instant,
    /// When the reading thread came round last, in milliseconds since `opened`.
    beat: AtomicU64,
}

/// When a group began to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Began {
    /// When this process opened it.
    Now,
    /// In a process before this one.
    Before,
}

struct Inner {
    targets: Vec<Arc<Target>>,
    sides: HashMap<Key, Side>,
    buffer: Vec<u8>,
}

/// Where a directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Outside,
    In(usize),
}

impl Capture {
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
        Self::on(group, Began::Now)
    }

    /// Goes on with the group that `fd` is, which somebody kept for us with all that was queued meanwhile.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn adopt(fd: OwnedFd) -> Result<Arc<Self>, Unavailable> {
        Self::on(Group::from_fd(fd), Began::Before)
    }

    fn on(group: Group, began: Began) -> Result<Arc<Self>, Unavailable> {
        let (woken, wake) = rustix_pipe()?;
        let inner = Inner { targets: Vec::new(), sides: HashMap::new(), buffer: vec![0; READ_BYTES] };
        Ok(Arc::new(Self {
            group,
            began,
            inner: Mutex::new(inner),
            stop: AtomicBool::new(false),
            wake,
            woken,
            drop_every: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            opened: Instant::now(),
            beat: AtomicU64::new(0),
        }))
    }

    /// Watches the volume at `root`. It begins with a gap, as far as what was touched before is not known.
    ///
    /// # Errors
    /// [`Unavailable::FileSystem`].
    pub fn watch(&self, root: Arc<Dir>) -> Result<Arc<Target>, Unavailable> {
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
        let mut state = State::default();
        if self.has_gap_at_start() {
            state.dirty.gap(Gap::Start, Instant::now());
        }
        let target = Arc::new(Target { root, fsid, state: Mutex::new(state), bell, heard });
        let mut inner = self.lock();
        inner.targets.push(target.clone());
        inner.sides.clear();
        target.ring();
        Ok(target)
    }

    /// Whether what was touched before a volume is watched has to be looked for by a walk. The queue of an adopted group has
    /// no hole, but what was taken out of it before, and is not in the mirror yet, is known to the journal alone; and what
    /// [`Capture::drain`] takes out before the volumes are watched again is nobody's. So until the journal is asked: yes.
    fn has_gap_at_start(&self) -> bool {
        match self.began {
            Began::Now | Began::Before => true,
        }
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
        while !self.stop.load(Ordering::Acquire) {
            self.beat.store(self.opened.elapsed().as_millis() as u64, Ordering::Release);
            let has_events = self.group.wait(&self.woken, Some(BEAT))?;
            if has_events && !self.stop.load(Ordering::Acquire) {
                std::thread::sleep(GATHER);
                self.drain()?;
            }
        }
        Ok(())
    }

    /// False when the reading thread has not come round for a while.
    pub fn is_alive(&self) -> bool {
        let beat = Duration::from_millis(self.beat.load(Ordering::Acquire));
        self.opened.elapsed().saturating_sub(beat) < 20 * BEAT
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
        let mut inner = self.lock();
        let wanted = self.group.queued()?;
        let mut taken = 0;
        while taken < wanted {
            let mut buffer = std::mem::take(&mut inner.buffer);
            let result = self.group.read(&mut buffer);
            let n = match result {
                Ok(n) => n,
                Err(e) if e.errno == Errno::NOMEM => {
                    inner.gap(Gap::QueueOverflow);
                    inner.buffer = buffer;
                    break;
                }
                Err(e) => {
                    inner.buffer = buffer;
                    return Err(e);
                }
            };
            let every = self.drop_every.load(Ordering::Relaxed);
            inner.take_in(&buffer[..n], |event| {
                every > 0
                    && event.at.is_some()
                    && self.seen.fetch_add(1, Ordering::Relaxed) % every == every - 1
            });
            inner.buffer = buffer;
            if n == 0 {
                break;
            }
            taken += n as u64;
        }
        Ok(())
    }

    /// Loses one event in `every`, as a broken capture would: for the test that shows that losses are found.
    pub fn lose_one_in(&self, every: u64) {
        self.drop_every.store(every, Ordering::Relaxed);
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
    fn take_in(&mut self, bytes: &[u8], lose: impl Fn(&Event<'_>) -> bool) {
        let now = Instant::now();
        let mut touched = vec![false; self.targets.len()];
        for event in Events::new(bytes) {
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
            target.ring();
        }
    }

    fn gap(&self, gap: Gap) {
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
                self.targets[at].lock().dirty.name(place.key, place.name, content, now);
            }
        }
        if event.to.is_some() && event.mask.any(Mask::ONDIR) && sides[0] != sides[1] {
            // A directory changed sides, and all below it: their handles say nothing of that.
            self.sides.clear();
        }
        if let (Some(object), false) = (content, matches!(sides[0], Some(Side::In(_)))) {
            self.elsewhere(object, now, touched);
        }
    }

    /// An object was touched by a name that is in no volume, or by none: it may have another that is.
    fn elsewhere(&self, object: &[u8], now: Instant, touched: &mut [bool]) {
        let mut ino = None;
        for (at, target) in self.targets.iter().enumerate() {
            if !object.starts_with(&target.fsid) {
                continue;
            }
            let mut state = target.lock();
            if state.linked.is_empty() {
                continue;
            }
            let ino = *ino.get_or_insert_with(|| handle(object).ino());
            if ino.is_none_or(|ino| state.linked.contains(&ino)) {
                state.dirty.object(object, now);
                touched[at] = true;
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
