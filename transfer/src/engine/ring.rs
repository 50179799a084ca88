//! Shell: one thread drives all flights through io_uring; what has no opcode, and hashing, runs on the pool.
//!
//! The descriptors of a flight are shared (`Arc`) with the operations that use them. The last owner is always the
//! flight itself, which closes the target through the ring and gives the others to the pool where a close may hang.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use sys::meta::XattrsRead;
use sys::uring::{Punt, Reply, Request, Ring};
use sys::{Errno, Stat, SysError};

use super::{ABORT_POLL, CALL, CallResult, cost, cut, make_call, outcome, plan, pull, unit};
use crate::acts::{self, Source};
use crate::buffers::Buffers;
use crate::error::{CopyError, EngineError};
use crate::flight::{Act, Did, Flight, Hashed, Poll};
use crate::job::{CopyJob, Feed, How, Job, Options, Outcome, Side, Stats};
use crate::pool::Pool;
use crate::throttle::Cost;
use crate::window::Window;

/// Blocks of one file on their way at once: one is read while one is hashed and two are written.
const SLOTS: usize = 4;

/// Blocks up to this size are hashed where they are: handing them over would take longer.
const HASH_HERE_MAX: usize = 8 << 10;

pub fn run(feed: &mut dyn Feed, options: &Options) -> Result<Stats, EngineError> {
    let mut engine = RingEngine::new(options)?;
    let mut window = Window::new(options.in_flight);
    loop {
        while let Some((tag, job)) = pull(feed, &mut window) {
            match job {
                Job::Copy(job) => engine.start(tag, *job)?,
                Job::Call(call) => engine.pace(Paced::Call(tag, call))?,
            }
        }
        let mut moved = false;
        while let Some((tag, outcome)) = engine.finished.pop_front() {
            moved = true;
            window.finished();
            match outcome {
                Some(outcome) => {
                    engine.stats.count(&outcome);
                    feed.done(tag, outcome);
                }
                None => {
                    engine.call_panicked = true;
                    window.end();
                }
            }
        }
        if window.is_over() {
            return if engine.call_panicked { Err(EngineError::CallPanicked) } else { Ok(engine.stats) };
        }
        if window.is_starved() {
            return Err(EngineError::Starved);
        }
        if !moved && !engine.advance()? {
            engine.wait()?;
            if feed.abort() {
                window.end();
            }
        }
    }
}

struct RingEngine {
    ring: Ring,
    pool: Pool<Message>,
    buffers: Buffers,
    aloft: Vec<Option<Aloft>>,
    free: Vec<usize>,
    /// Flights that wait for a buffer.
    hungry: VecDeque<usize>,
    /// What waits for the limits, first come, first served.
    paced: VecDeque<Paced>,
    /// When the first of these may go.
    paced_until: Option<Instant>,
    /// To be reported; `None` for a call that panicked.
    finished: VecDeque<(u64, Option<Outcome>)>,
    call_panicked: bool,
    stats: Stats,
    options: Options,
    source_punt: Punt,
    target_punt: Punt,
}

/// A flight and what it holds.
struct Aloft {
    tag: u64,
    flight: Flight,
    job: Arc<CopyJob>,
    /// Taken away when the file system refuses it.
    create_as: Option<sys::Owner>,
    source: Option<Arc<OwnedFd>>,
    target: Option<Arc<OwnedFd>>,
    base: Option<Arc<OwnedFd>>,
    xattrs: Arc<XattrsRead>,
    buffers: [Option<Vec<u8>>; SLOTS],
    hungry: bool,
}

/// What the pool tells.
enum Message {
    Opened(usize, Result<Source, CopyError>, Vec<u8>),
    BaseOpened(usize, Result<OwnedFd, SysError>),
    Hashed { flight: usize, slot: usize, hashed: Hashed, buffer: Option<Vec<u8>> },
    Looked(usize, Result<(Stat, Option<XattrsRead>), SysError>),
    Did(usize, Did),
    Called(u64, CallResult),
    Nothing,
}

/// Something that costs the target something.
enum Paced {
    Act(usize, Act),
    Call(u64, Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>),
}

impl RingEngine {
    fn new(options: &Options) -> Result<Self, EngineError> {
        let in_flight = options.in_flight.clamp(1, 4096);
        // The completion queue has twice as many places: one for all that a flight can have under way, so it never
        // overflows.
        let entries = (in_flight * (SLOTS + 2) / 2).next_power_of_two().clamp(64, 16384);
        let workers = in_flight.clamp(4, 64);
        let ring = Ring::new(entries as u32, workers as u32).map_err(EngineError::RingSetup)?;
        let waker = ring.waker();
        let punt = |side| match side {
            Side::Local => Punt::KernelDecides,
            Side::MayHang => Punt::Always,
        };
        Ok(Self {
            pool: Pool::new(options.pool_threads, Some(Arc::new(move || waker.wake()))),
            ring,
            buffers: Buffers::new(options.memory.max(Options::MEMORY_MIN), in_flight, unit(options)),
            aloft: Vec::new(),
            free: Vec::new(),
            hungry: VecDeque::new(),
            paced: VecDeque::new(),
            paced_until: None,
            finished: VecDeque::new(),
            call_panicked: false,
            stats: Stats::default(),
            source_punt: punt(options.source),
            target_punt: punt(options.target),
            options: options.clone(),
        })
    }

    fn start(&mut self, tag: u64, job: CopyJob) -> Result<(), EngineError> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.aloft.push(None);
            self.aloft.len() - 1
        });
        self.aloft[index] = Some(Aloft {
            tag,
            flight: Flight::new(plan(&job, &self.options, SLOTS)),
            create_as: job.create_as,
            job: Arc::new(job),
            source: None,
            target: None,
            base: None,
            xattrs: Arc::default(),
            buffers: [const { None }; SLOTS],
            hungry: false,
        });
        self.drive(index)
    }

    /// Takes in all that is there: messages of the pool and replies of the ring. False when there was nothing.
    fn advance(&mut self) -> Result<bool, EngineError> {
        let mut any = self.go_on_with_paced()?;
        while let Some(message) = self.pool.take() {
            any = true;
            self.heard(message)?;
        }
        self.ring.submit().map_err(EngineError::Ring)?;
        while let Some((token, reply)) = self.ring.take() {
            any = true;
            self.replied(token, reply)?;
        }
        Ok(any)
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        let pool = &self.pool;
        let now = Instant::now();
        let due = self.paced_until.map_or(ABORT_POLL, |until| until.saturating_duration_since(now));
        self.ring.wait(due.min(ABORT_POLL), || pool.has_message()).map_err(EngineError::Ring)
    }

    /// Begins something as soon as the limits allow it. What waits blocks nothing else: replies are taken in meanwhile.
    fn pace(&mut self, paced: Paced) -> Result<(), EngineError> {
        let is_free = matches!(&paced, Paced::Act(_, act) if cost(act) == Cost::FREE);
        if is_free || (self.paced.is_empty() && self.may_go(&paced)) {
            return self.go(paced);
        }
        self.paced.push_back(paced);
        Ok(())
    }

    fn may_go(&mut self, paced: &Paced) -> bool {
        let cost = match paced {
            Paced::Act(_, act) => cost(act),
            Paced::Call(..) => CALL,
        };
        self.paced_until = self.options.limits.take(cost, Instant::now()).err();
        self.paced_until.is_none()
    }

    fn go(&mut self, paced: Paced) -> Result<(), EngineError> {
        match paced {
            Paced::Act(index, act) => match self.begin(index, act)? {
                Some(did) => self.did(index, did),
                None => Ok(()),
            },
            Paced::Call(tag, call) => self.pool.put(move |_| Message::Called(tag, make_call(call))),
        }
    }

    /// Begins what waited and may go by now. False when that was nothing.
    fn go_on_with_paced(&mut self) -> Result<bool, EngineError> {
        let mut any = false;
        while let Some(paced) = self.paced.pop_front() {
            if !self.may_go(&paced) {
                self.paced.push_front(paced);
                break;
            }
            any = true;
            let index = match &paced {
                Paced::Act(index, _) => Some(*index),
                Paced::Call(..) => None,
            };
            self.go(paced)?;
            if let Some(index) = index {
                self.go_on(index)?;
            }
        }
        Ok(any)
    }

    /// Lets a flight do all it can.
    fn drive(&mut self, index: usize) -> Result<(), EngineError> {
        loop {
            let room = self.buffers.has_block();
            let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
            match aloft.flight.poll(room) {
                Poll::Act(act) => {
                    let act = cut(act, &self.options);
                    self.pace(Paced::Act(index, act))?;
                }
                Poll::NeedsRoom => {
                    if !std::mem::replace(&mut aloft.hungry, true) {
                        self.hungry.push_back(index);
                    }
                    return Ok(());
                }
                Poll::Wait => return Ok(()),
                Poll::Over => return self.land(index),
            }
        }
    }

    fn did(&mut self, index: usize, did: Did) -> Result<(), EngineError> {
        let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        aloft.flight.did(did);
        for slot in 0..SLOTS {
            if aloft.flight.is_free(slot)
                && let Some(buffer) = aloft.buffers[slot].take()
            {
                self.buffers.give_back(buffer);
            }
        }
        Ok(())
    }

    /// After a flight took something in: let it go on, and those that wait for a buffer too.
    fn go_on(&mut self, index: usize) -> Result<(), EngineError> {
        self.drive(index)?;
        while self.buffers.has_block()
            && let Some(hungry) = self.hungry.pop_front()
        {
            if let Some(aloft) = self.aloft.get_mut(hungry).and_then(Option::as_mut) {
                aloft.hungry = false;
            }
            self.drive(hungry)?;
        }
        Ok(())
    }

    /// Reports a flight that is over.
    fn land(&mut self, index: usize) -> Result<(), EngineError> {
        let Some(mut aloft) = self.aloft[index].take() else { return Ok(()) };
        self.free.push(index);
        for buffer in aloft.buffers.iter_mut().filter_map(Option::take) {
            self.buffers.give_back(buffer);
        }
        let may_hang = (self.options.source == Side::MayHang).then(|| aloft.source.take()).flatten();
        if may_hang.is_some() || aloft.base.is_some() {
            let files = (may_hang, aloft.base.take());
            self.pool.put(move |_| {
                drop(files);
                Message::Nothing
            })?;
        }
        let xattrs = Arc::try_unwrap(aloft.xattrs).unwrap_or_else(|shared| (*shared).clone());
        let outcome = outcome(&aloft.job, aloft.flight.outcome(), xattrs);
        self.finished.push_back((aloft.tag, Some(outcome)));
        Ok(())
    }

    /// Starts an act; what can be done on the spot is done.
    fn begin(&mut self, index: usize, act: Act) -> Result<Option<Did>, EngineError> {
        let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(None) };
        let job = aloft.job.clone();
        let local = self.options.source == Side::Local;
        // The flight uses a descriptor only between open and close: `lost` is never called.
        let lost = || SysError::new("use", b"", Errno::BADF);
        match act {
            Act::Open => {
                let mut small = self.buffers.small();
                self.pool.put(move |_| {
                    let (dir, name) = &job.source;
                    let opened = acts::open_source(dir, name, job.expect, job.writers, &mut small);
                    Message::Opened(index, opened, small)
                })?;
            }
            Act::Clean => {
                let Some(fd) = aloft.source.clone() else { return Ok(Some(Did::Clean(Err(lost())))) };
                self.pool.put(move |_| {
                    let cleaned = sys::file::clean(&*fd, &job.source.1);
                    drop(fd);
                    Message::Did(index, Did::Clean(cleaned))
                })?;
            }
            Act::Create { mode } => {
                let (dir, name) = &job.target;
                match Request::create(dir.clone(), name, mode, aloft.create_as) {
                    Ok(request) => self.push(index, 0, request, self.target_punt)?,
                    Err(error) => return Ok(Some(Did::Create(Err(error)))),
                }
            }
            Act::Clear => self
                .pool
                .put(move |_| Message::Did(index, Did::Clear(acts::clear(&job.target.0, &job.target.1))))?,
            Act::Unlink => {
                self.pool
                    .put(move |_| Message::Did(index, Did::Unlink(job.target.0.unlink(&job.target.1))))?;
            }
            Act::OpenBase => self.pool.put(move |_| {
                Message::BaseOpened(
                    index,
                    match &job.how {
                        How::Delta { base, .. } => base.0.open_file(&base.1).map(|(fd, _)| fd),
                        How::Whole | How::HashOnly => Err(SysError::new("open base", b"", Errno::NOENT)),
                    },
                )
            })?,
            Act::CopyRange { offset, len } => {
                let (Some(base), Some(target)) = (aloft.base.clone(), aloft.target.clone()) else {
                    return Ok(Some(Did::CopyRange(Err(lost()))));
                };
                self.pool.put(move |_| {
                    let copied = sys::file::copy_range(&*base, &*target, offset, len, &job.target.1);
                    drop((base, target));
                    Message::Did(index, Did::CopyRange(copied))
                })?;
            }
            Act::NextData { offset, size } => {
                let Some(fd) = aloft.source.clone() else { return Ok(Some(Did::NextData(Err(lost())))) };
                let next = move || sys::file::next_data(&*fd, offset, size, &job.source.1);
                if local {
                    return Ok(Some(Did::NextData(next())));
                }
                self.pool.put(move |_| Message::Did(index, Did::NextData(next())))?;
            }
            Act::Read { slot, at, len, offset, .. } => {
                let held = aloft.buffers[slot].take();
                let Some(buffer) =
                    held.filter(|held| held.len() >= at + len).or_else(|| self.buffers.block())
                else {
                    return Ok(Some(Did::Read(slot, Err(SysError::new("find room for", b"", Errno::NOMEM)))));
                };
                let Some(fd) = aloft.source.clone() else { return Ok(Some(Did::Read(slot, Err(lost())))) };
                self.push(index, slot, Request::Read { fd, buffer, at, len, offset }, self.source_punt)?;
            }
            Act::Hash { slot, block } => {
                let mut buffer = aloft.buffers[slot].take();
                if block.len <= HASH_HERE_MAX {
                    let hashed = acts::hash(block, buffer.as_deref_mut());
                    aloft.buffers[slot] = buffer;
                    return Ok(Some(Did::Hash(slot, hashed)));
                }
                self.pool.put(move |_| {
                    let hashed = acts::hash(block, buffer.as_deref_mut());
                    Message::Hashed { flight: index, slot, hashed, buffer }
                })?;
            }
            Act::Write { slot, at, len, offset } => {
                let (Some(fd), Some(buffer)) = (aloft.target.clone(), aloft.buffers[slot].take()) else {
                    return Ok(Some(Did::Write(slot, Err(lost()))));
                };
                self.push(index, slot, Request::Write { fd, buffer, at, len, offset }, self.target_punt)?;
            }
            Act::Truncate { size } => {
                let Some(fd) = aloft.target.clone() else { return Ok(Some(Did::Truncate(Err(lost())))) };
                if self.ring.can_truncate() {
                    self.push(index, 0, Request::Truncate { fd, size }, self.target_punt)?;
                } else {
                    self.pool.put(move |_| {
                        let cut = sys::file::truncate(&*fd, size, &job.target.1);
                        drop(fd);
                        Message::Did(index, Did::Truncate(cut))
                    })?;
                }
            }
            Act::Look { known } => {
                let Some(fd) = aloft.source.clone() else { return Ok(Some(Did::Look(Err(lost())))) };
                if local {
                    let looked = acts::look(&*fd, &known, &job.source.1);
                    return Ok(Some(aloft.looked(looked)));
                }
                self.pool.put(move |_| Message::Looked(index, acts::look(&*fd, &known, &job.source.1)))?;
            }
            Act::Dress { stat } => {
                let Some(fd) = aloft.target.clone() else { return Ok(Some(Did::Dress(Err(lost())))) };
                let (xattrs, base) = (aloft.xattrs.clone(), aloft.base.take());
                self.pool.put(move |_| {
                    let acls = acts::dress(&*fd, &stat, &xattrs, &job.target.1);
                    // Given back before the flight goes on: it must be the only owner when it closes the target.
                    drop((fd, xattrs, base));
                    Message::Did(index, Did::Dress(acls))
                })?;
            }
            Act::Sync => {
                let Some(fd) = aloft.target.clone() else { return Ok(Some(Did::Sync(Err(lost())))) };
                self.push(index, 0, Request::Sync { fd }, self.target_punt)?;
            }
            Act::Close => {
                let Some(fd) = aloft.target.take().and_then(Arc::into_inner) else {
                    return Ok(Some(Did::Close(Err(lost()))));
                };
                self.push(index, 0, Request::Close { fd }, self.target_punt)?;
            }
        }
        Ok(None)
    }

    fn push(&mut self, index: usize, slot: usize, request: Request, punt: Punt) -> Result<(), EngineError> {
        self.ring.push(token(index, slot), request, punt).map_err(EngineError::Ring)
    }

    /// Takes in what the ring says.
    fn replied(&mut self, token: u64, reply: Reply) -> Result<(), EngineError> {
        let (index, slot) = from_token(token);
        let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let (from, to) = (aloft.job.clone(), aloft.job.clone());
        let source = |op| move |errno| SysError::new(op, &from.source.1, errno);
        let target = |op| move |errno| SysError::new(op, &to.target.1, errno);
        let did = match reply {
            Reply::Created(result) => Did::Create(match result {
                Ok(fd) => {
                    aloft.target = Some(Arc::new(fd));
                    Ok(())
                }
                // Not as this owner, then.
                Err(errno) if sys::owner::is_refusal(errno) && aloft.create_as.take().is_some() => {
                    let mode = aloft.flight.create_mode();
                    return match self.begin(index, Act::Create { mode })? {
                        Some(did) => self.did(index, did).and_then(|()| self.go_on(index)),
                        None => Ok(()),
                    };
                }
                Err(errno) => Err(target("create")(errno)),
            }),
            Reply::Read(buffer, result) => {
                aloft.buffers[slot] = Some(buffer);
                Did::Read(slot, result.map_err(source("read")))
            }
            Reply::Written(buffer, result) => {
                aloft.buffers[slot] = Some(buffer);
                Did::Write(slot, result.map_err(target("write")))
            }
            Reply::Synced(result) => Did::Sync(result.map_err(target("fsync"))),
            Reply::Truncated(result) => Did::Truncate(result.map_err(target("truncate"))),
            Reply::Closed(result) => Did::Close(result.map_err(target("close"))),
        };
        self.did(index, did)?;
        self.go_on(index)
    }

    /// Takes in what the pool says.
    fn heard(&mut self, message: Message) -> Result<(), EngineError> {
        let (index, did) = match message {
            Message::Nothing => return Ok(()),
            Message::Called(tag, result) => {
                self.finished.push_back((tag, result.map(Outcome::Called)));
                return Ok(());
            }
            Message::Did(index, did) => (index, did),
            Message::Opened(index, result, small) => {
                let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
                aloft.buffers[0] = Some(small);
                let opened = result.map(|source| {
                    aloft.source = Some(Arc::new(source.fd));
                    aloft.xattrs = Arc::new(source.xattrs);
                    source.opened
                });
                (index, Did::Open(opened))
            }
            Message::BaseOpened(index, result) => {
                let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
                (index, Did::OpenBase(result.map(|fd| aloft.base = Some(Arc::new(fd)))))
            }
            Message::Hashed { flight, slot, hashed, buffer } => {
                let Some(aloft) = self.aloft.get_mut(flight).and_then(Option::as_mut) else { return Ok(()) };
                aloft.buffers[slot] = buffer;
                (flight, Did::Hash(slot, hashed))
            }
            Message::Looked(index, result) => {
                let Some(aloft) = self.aloft.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
                (index, aloft.looked(result))
            }
        };
        self.did(index, did)?;
        self.go_on(index)
    }
}

impl Aloft {
    fn looked(&mut self, result: Result<(Stat, Option<XattrsRead>), SysError>) -> Did {
        Did::Look(result.map(|(stat, xattrs)| {
            if let Some(xattrs) = xattrs {
                self.xattrs = Arc::new(xattrs);
            }
            stat
        }))
    }
}

fn token(index: usize, slot: usize) -> u64 {
    (index * SLOTS + slot) as u64
}

fn from_token(token: u64) -> (usize, usize) {
    (token as usize / SLOTS, token as usize % SLOTS)
}
