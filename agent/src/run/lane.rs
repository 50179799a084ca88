//! The thread of one lane. It may hang on its mirror for as long as that hangs; nobody waits for it without a limit.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, after, bounded, never, select};
use proto::journal::{BootId, GapCause};
use proto::{Generation, LaneName, Note, Time, Totals};

use super::core::{Core, Effect, Input, Span, Timing};
use super::status::{Phase, Snapshot};
use super::worker::{Memory, Retry, Watched, Worker};
use crate::capture::{Begin, Capture, Dirty, Gap, take_in};
use crate::config::{EngineChoice, Every, LaneConfig};
use crate::cut::Cuts;
use crate::cycle::{CycleOptions, CycleReport, Progress};
use crate::error::{Error, Result};
use crate::index::{Shelf, View};
use crate::journal::{Boot, Calls, Health, Journal, Limits, Opening, Past, Replay, Stop, Want};
use crate::lane::{Lane, Ownership};
use crate::state::StateDir;
use crate::volume::Volume;

/// File in the lane's part of the state directory: see `begun_with`.
const BEGUN_WITH: &str = "begun-with";

/// How often a lane that waits for the others looks whether it is to end.
const ARRIVAL_LOOK: Duration = Duration::from_millis(50);

/// Commands that may wait for a lane's thread.
const COMMANDS_MAX: usize = 64;

/// Time after which an idle lane proves that it is in sync still.
const BARRIER: Duration = Duration::from_secs(3);

/// How long the journal may take to be closed.
const JOURNAL_LIMIT: Duration = Duration::from_secs(2);

/// Asked of a lane.
pub enum Command {
    /// No cycles until resumed; what is touched meanwhile is kept.
    Pause,
    /// Cycles again.
    Resume,
    /// Bring everything that was touched up to this moment into the mirror, and say so.
    Flush(Instant, Sender<Flushed>),
    /// Publish the deletions that are withheld.
    Approve(Sender<Flushed>),
}

/// How a flush ended.
#[derive(Clone, Debug)]
pub enum Flushed {
    /// Everything from before is in the mirror or in the quarantine.
    Done {
        /// The generation that has it.
        generation: Generation,
        /// How long that took.
        lag: Duration,
    },
    /// It is not, and why.
    Failed(String),
}

/// A lane as the rest of the agent knows it.
pub struct LaneHandle {
    /// As configured.
    pub config: LaneConfig,
    commands: Sender<Command>,
    snapshot: Arc<Mutex<Snapshot>>,
    progress: Arc<Progress>,
    limits: Arc<transfer::Limits>,
    index: Shelf,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: std::thread::JoinHandle<()>,
}

impl LaneHandle {
    /// Starts the thread of a lane.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        config: LaneConfig,
        capture: std::result::Result<Arc<Capture>, String>,
        state: Arc<StateDir>,
    ) -> std::io::Result<Self> {
        let now = Instant::now();
        let snapshot = Arc::new(Mutex::new(Snapshot {
            name: config.name.clone(),
            volume: config.volume.to_string(),
            mirror: config.mirror.display().to_string(),
            phase: Phase::Opening,
            since: now,
            as_of: None,
            alert_after: config.settings.alert_after,
            waiting: 0,
            gap: None,
            not_captured: None,
            generation: Generation(0),
            cut: None,
            totals: Totals::default(),
            halted: None,
            error: None,
            journal: None,
            next_try: None,
            published: 0,
        }));
        let (commands, received) = bounded(COMMANDS_MAX);
        let (stop, stopped) = bounded(0);
        let progress = Arc::new(Progress::default());
        let limits = Arc::new(transfer::Limits::new(config.settings.rates()));
        let index = Shelf::default();
        let mut this = Thread {
            config: config.clone(),
            capture,
            state,
            snapshot: snapshot.clone(),
            progress: progress.clone(),
            limits: limits.clone(),
            index: index.clone(),
            commands: received,
            stopped,
            worker: None,
            watched: None,
            journal: None,
            begun: Begun::Not(PathBuf::new()),
            memory: Memory::default(),
            doubted_since: None,
            flushes: Vec::new(),
            approvals: Vec::new(),
            paused: false,
        };
        let name = format!("lane {}", config.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || this.run())?;
        Ok(Self { config, commands, snapshot, progress, limits, index, stop: Some(stop), thread })
    }

    /// What it said last.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.snapshot).clone()
    }

    /// Where its index is while it is open.
    pub fn index(&self) -> Shelf {
        self.index.clone()
    }

    /// Asks something of it.
    ///
    /// # Errors
    /// Its thread does not take anything any more: it hangs, and enough waits for it already.
    pub fn ask(&self, command: Command) -> std::result::Result<(), String> {
        self.commands.try_send(command).map_err(|_| {
            format!(
                "{} does not answer: it is in a cycle that does not end (tidegate status tells more)",
                self.config.name
            )
        })
    }

    /// Takes over what `config` says, if that needs no new thread: limits are in force from now on, for the cycle under
    /// way as well. False when more than that is different.
    pub fn adopt(&mut self, config: &LaneConfig) -> bool {
        if !self.config.differs_in_limits_alone(config) {
            return false;
        }
        if self.config.settings.rates() != config.settings.rates() {
            self.limits.set(config.settings.rates());
        }
        self.config = config.clone();
        true
    }

    /// Tells the thread to end; a cycle under way begins nothing more.
    pub fn stop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.stop = None;
    }

    /// True when the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is said in the state directory that a later start may go on.
enum Begun {
    Not(PathBuf),
    Yes(PathBuf),
}

struct Thread {
    config: LaneConfig,
    capture: std::result::Result<Arc<Capture>, String>,
    state: Arc<StateDir>,
    snapshot: Arc<Mutex<Snapshot>>,
    progress: Arc<Progress>,
    limits: Arc<transfer::Limits>,
    index: Shelf,
    commands: Receiver<Command>,
    stopped: Receiver<()>,
    /// Nothing while volume or mirror are not open.
    worker: Option<Worker>,
    /// How the volume is watched, from the first time it was open.
    watched: Option<Watched>,
    journal: Option<Journal>,
    begun: Begun,
    /// What the last worker had in mind.
    memory: Memory,
    /// From when on times say nothing, until a worker has compared contents.
    doubted_since: Option<Time>,
    flushes: Vec<(Instant, Sender<Flushed>)>,
    approvals: Vec<Sender<Flushed>>,
    /// Asked for before the lane was open.
    paused: bool,
}

/// Why a thread looked up.
enum Woken {
    Stopped,
    Asked(Command),
    Due,
}

impl Thread {
    fn run(&mut self) {
        // Who writes to the volume goes first. The thread that captures does not give way: the queue would grow.
        if let Err(errno) = sys::host::give_way() {
            tracing::debug!(lane = %self.config.name, %errno, "the lane does not give way to others");
        }
        let mut core = self.open_until_it_works();
        while let Some(core) = &mut core {
            self.tell(core);
            let journal = self.tend_journal();
            match self.wait(core.poll_timeout().into_iter().chain(journal).min()) {
                Woken::Stopped => break,
                Woken::Asked(command) => self.asked(command, core),
                Woken::Due => {}
            }
            core.handle(Input::Touched(self.touched()), Instant::now());
            while let Some(effect) = core.poll_effect(Instant::now()) {
                let input = self.execute(effect, core);
                core.handle(input, Instant::now());
                core.handle(Input::Touched(self.touched()), Instant::now());
                self.answer(core);
                self.tell(core);
                if self.stopped.try_recv().is_err_and(|e| e.is_disconnected()) {
                    break;
                }
            }
        }
        if let Some(Watched::Captured { capture, target }) = &self.watched {
            if let (Begun::Yes(path), false) = (&self.begun, capture.is_closed()) {
                // What is read from now on is nobody's.
                let _ = std::fs::remove_file(path);
            }
            capture.forget(target);
        }
        self.worker = None;
        if let Some(journal) = self.journal.take() {
            let end = Instant::now() + JOURNAL_LIMIT;
            if let Err(error) = journal.close(crate::cycle::now(), end) {
                tracing::warn!(lane = %self.config.name, %error, "the journal was not closed: the next start may walk");
            }
        }
        self.phase(Phase::Stopped);
    }

    /// Tries a journal again that could not be written; when that is to be done next.
    fn tend_journal(&mut self) -> Option<Instant> {
        let journal = self.journal.as_mut()?;
        let health = journal.tick(Instant::now(), crate::cycle::now());
        if let Health::Failing { errno } = health {
            let text = format!("the journal cannot be written: {errno}");
            let mut snapshot = lock(&self.snapshot);
            if snapshot.journal.as_ref() != Some(&text) {
                tracing::warn!(lane = %self.config.name, %errno, "the journal cannot be written: the next start will walk");
            }
            snapshot.journal = Some(text);
            return journal.wake_at();
        }
        lock(&self.snapshot).journal = None;
        None
    }

    /// Nothing when told to stop before.
    fn open_until_it_works(&mut self) -> Option<Core> {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let opened = self.open();
            if failures == 0 {
                self.arrive();
            }
            match opened {
                Ok(()) => {
                    let mut core = Core::new(self.timing(), begun);
                    if self.paused {
                        core.handle(Input::Pause, begun);
                    }
                    return Some(core);
                }
                Err(error) => {
                    let pause = super::core::back_off(failures);
                    failures += 1;
                    // Once: who asks again and again must not put it off.
                    let due = Instant::now() + pause;
                    self.failed(&error, due);
                    loop {
                        match self.wait(Some(due)) {
                            Woken::Stopped => return None,
                            Woken::Due => break,
                            Woken::Asked(Command::Pause) => self.paused = true,
                            Woken::Asked(Command::Resume) => {
                                self.paused = false;
                                break;
                            }
                            Woken::Asked(Command::Flush(_, reply) | Command::Approve(reply)) => {
                                let _ = reply.send(Flushed::Failed(Chain(&error).to_string()));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Waits for the other lanes: what is read from a kept queue before a lane is watched is lost for it.
    fn arrive(&self) {
        let Ok(capture) = &self.capture else { return };
        capture.arrived();
        let end = Instant::now() + Capture::ARRIVAL_LIMIT;
        while !capture.wait_for_all(ARRIVAL_LOOK) && Instant::now() < end {
            if self.stopped.try_recv().is_err_and(|e| e.is_disconnected()) {
                break;
            }
        }
    }

    /// Opens volume and mirror. What is captured already stays so, with all that waits to be looked at.
    fn open(&mut self) -> Result<()> {
        let volume = crate::cli::open_volume(&self.config.volume.to_string())?;
        crate::cli::apart(&volume.path, &self.config.mirror)?;
        let (mut lane, tenure) = Lane::open_writer(&self.state, &self.config.mirror, Ownership::Ours)?;
        lane.ledger.limits = self.limits.clone();
        let watched = self.watch(&lane, &volume)?;
        let options = self.options(lane.ledger.root.pinned().kind().may_hang());
        let window = self.config.settings.delete_window;
        let mut worker = Worker::new(lane, tenure, volume, options, watched, window)?;
        worker.lane.lend(&self.index);
        worker.progress = self.progress.clone();
        worker.journal = self.journal.as_ref().map(Journal::appender);
        worker.cuts = Cuts::of(&self.config, &worker.volume.path);
        worker.doubted_since = self.doubted_since;
        worker.memory = std::mem::take(&mut self.memory);
        let mut snapshot = lock(&self.snapshot);
        snapshot.error = None;
        snapshot.next_try = None;
        if let Some(head) = &worker.lane.head {
            snapshot.generation = head.generation;
            snapshot.cut = Some(head.cut);
            snapshot.totals = head.totals;
            snapshot.halted.clone_from(&head.halted);
        }
        drop(snapshot);
        self.worker = Some(worker);
        Ok(())
    }

    /// How the volume is watched: as before, if it is the one that was watched.
    fn watch(&mut self, lane: &Lane, volume: &Volume) -> Result<Watched> {
        if let Some(Watched::Captured { capture, target }) = &self.watched {
            let is_it = target.root().stat_self().is_ok_and(|stat| {
                (stat.ino, stat.dev, stat.mount) == (volume.stat.ino, volume.stat.dev, volume.stat.mount)
            });
            if is_it {
                if lane.head.as_ref().is_some_and(|head| head.halted.is_some()) {
                    // What is withheld was known to the worker that is gone.
                    target.gap(Gap::Journal);
                }
                return Ok(Watched::Captured { capture: capture.clone(), target: target.clone() });
            }
            capture.forget(target);
            self.watched = None;
        }
        // From here until everything was looked at, what is noted and queued is not all.
        let begun = lane.dir.file(BEGUN_WITH);
        let was_begun_with = std::fs::read_to_string(&begun).unwrap_or_default();
        match std::fs::remove_file(&begun) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::State { act: format!("remove {}", begun.display()), source: error });
            }
            _ => self.begun = Begun::Not(begun),
        }
        let (journal, dirty) = match self.journal.take() {
            Some(journal) => (journal, None),
            None => {
                let (journal, replay) = open_journal(lane)?;
                let dirty = self.begin(lane, volume, &replay, &was_begun_with);
                self.doubted_since = doubted_since(&replay);
                if dirty.whole().is_some() {
                    // Noted before anything else: should this run die before it has looked, the next must look too.
                    let gap = Note::Gap(match (replay.boot, replay.stop) {
                        (Boot::Other, Stop::Unclean | Stop::Unknown) => GapCause::UncleanStop,
                        (Boot::Same, _) => GapCause::LostDescriptor,
                        _ => GapCause::AgentDown,
                    });
                    let noted = journal.appender().append(crate::cycle::now(), vec![gap], Want::Written);
                    // One that cannot be written notes a gap of its own as soon as it can.
                    let _ = noted.map(|mut ticket| ticket.written());
                }
                (journal, Some(dirty))
            }
        };
        let appender = Some(journal.appender());
        self.journal = Some(journal);
        let begin = match dirty {
            Some(dirty) => Begin { goes_on: dirty.whole().is_none(), dirty, journal: appender },
            None => Begin::unknown(appender),
        };
        let watched = match &self.capture {
            Ok(capture) => match capture.watch(volume.root.clone(), begin) {
                Ok(target) => Ok(Watched::Captured { capture: capture.clone(), target }),
                Err(why) => Err(why.to_string()),
            },
            Err(why) => Err(why.clone()),
        };
        let (watched, not_captured) = match watched {
            Ok(watched) => (watched, None),
            Err(why) => {
                tracing::warn!(lane = %self.config.name, %why, "changes are not captured: the volume is walked every {:?}",
                    self.config.settings.fallback_interval);
                (Watched::Walked, Some(why))
            }
        };
        if let Watched::Captured { target, .. } = &watched
            && target.peek(|dirty| dirty.whole().is_none())
        {
            self.has_begun();
        }
        lock(&self.snapshot).not_captured = not_captured;
        self.watched = Some(watched.clone());
        Ok(watched)
    }

    /// Says, in the state directory, that whatever is not in the mirror is noted or queued: from a look at everything on, for
    /// as long as nobody but this process reads the queue.
    fn has_begun(&mut self) {
        let Begun::Not(path) = &self.begun else { return };
        let Ok(capture) = &self.capture else { return };
        let Some(reader) = capture.reader() else { return };
        match std::fs::write(path, self.begun_with(reader)) {
            Ok(()) => self.begun = Begun::Yes(path.clone()),
            Err(error) => tracing::warn!(lane = %self.config.name, %error, "the next start will walk"),
        }
    }

    /// Who reads the queue, and what decides what is replicated besides the volume: a start with another needs a look at
    /// everything.
    fn begun_with(&self, reader: u64) -> String {
        let mut text = format!("{}\nreader {reader:016x}\n", env!("CARGO_PKG_VERSION"));
        self.config.settings.excludes.patterns().for_each(|pattern| text += &format!("exclude {pattern}\n"));
        text
    }

    fn timing(&self) -> Timing {
        let settings = &self.config.settings;
        let is_captured = matches!(self.watched, Some(Watched::Captured { .. }));
        Timing {
            quiet: settings.quiet,
            max_age: settings.max_age,
            safety: match settings.reconcile {
                Every::Interval(every) if is_captured => Some(every),
                _ => None,
            },
            walk: (!is_captured).then_some(settings.fallback_interval),
            barrier: BARRIER,
        }
    }

    /// What is to be looked at first: what the journal says, if that is all there is to know; else everything.
    fn begin(&self, lane: &Lane, volume: &Volume, replay: &Replay, was_begun_with: &str) -> Dirty {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        let view = lane.index.view();
        let knows_all = self.capture.as_ref().is_ok_and(|capture| {
            capture.goes_on_at(&volume.root) && was_begun_with == self.begun_with(capture.predecessor())
        }) && replay.boot == Boot::Same
            && replay.gaps.is_empty()
            && replay.published.is_some()
            && lane.head.as_ref().is_some_and(|head| head.halted.is_none())
            && view.as_ref().is_ok_and(|view| view.position().volume == volume.id());
        let linked = view.map_err(Error::from).and_then(|view| linked(&view, volume, &mut dirty, now));
        if !knows_all || linked.is_err() {
            dirty.gap(Gap::Start, now);
            return dirty;
        }
        for record in &replay.records {
            match &record.note {
                Note::Hint(hint) => take_in(&mut dirty, hint, now),
                Note::Hints(hints) => hints.iter().for_each(|hint| take_in(&mut dirty, hint, now)),
                Note::Gap(_) => dirty.gap(Gap::Journal, now),
                _ => {}
            }
        }
        tracing::info!(lane = %self.config.name, names = dirty.len(), "goes on from its journal, without a walk");
        dirty
    }

    fn options(&self, may_hang: bool) -> CycleOptions {
        let settings = &self.config.settings;
        let engine = match settings.engine {
            EngineChoice::Plain => transfer::Engine::Plain,
            EngineChoice::Ring => transfer::Engine::Ring,
            EngineChoice::Auto => {
                let target = if may_hang { transfer::Side::MayHang } else { transfer::Side::Local };
                let options = transfer::Options { target, ..transfer::Options::default() };
                let (engine, why_not) = transfer::Engine::pick_for(&options);
                if let Some(why_not) = why_not {
                    tracing::warn!(lane = %self.config.name, %why_not, "copying without io_uring");
                }
                engine
            }
        };
        CycleOptions {
            durability: settings.durability,
            limit: settings.limit,
            engine,
            in_flight: settings.in_flight,
            excludes: settings.excludes.clone(),
            walkers: std::thread::available_parallelism().map_or(2, |n| n.get().min(8)),
            limits: self.limits.clone(),
            full: false,
        }
    }

    fn wait(&self, due: Option<Instant>) -> Woken {
        let bell = match &self.watched {
            Some(Watched::Captured { target, .. }) => target.bell().clone(),
            _ => never(),
        };
        let due = due.map_or_else(never, |due| after(due.saturating_duration_since(Instant::now())));
        select! {
            recv(self.stopped) -> _ => Woken::Stopped,
            recv(self.commands) -> command => command.map_or(Woken::Stopped, Woken::Asked),
            recv(bell) -> _ => Woken::Due,
            recv(due) -> _ => Woken::Due,
        }
    }

    fn touched(&self) -> Option<Span> {
        let Some(Watched::Captured { target, .. }) = &self.watched else { return None };
        target.peek(|dirty| Some(Span { oldest: dirty.oldest()?, newest: dirty.newest()? }))
    }

    fn asked(&mut self, command: Command, core: &mut Core) {
        let now = Instant::now();
        match command {
            Command::Pause => {
                core.handle(Input::Pause, now);
                let why = format!("{0} was paused: tidegate resume {0}", self.config.name);
                for (_, reply) in self.flushes.drain(..) {
                    let _ = reply.send(Flushed::Failed(why.clone()));
                }
            }
            Command::Resume => core.handle(Input::Resume, now),
            Command::Flush(at, reply) => {
                if core.is_paused() {
                    let _ = reply.send(Flushed::Failed(format!(
                        "{0} is paused: tidegate resume {0}",
                        self.config.name
                    )));
                    return;
                }
                self.flushes.push((at, reply));
                core.handle(Input::Flush, now);
            }
            Command::Approve(reply) => {
                self.approvals.push(reply);
                core.handle(Input::Approve, now);
            }
        }
    }

    fn execute(&mut self, effect: Effect, core: &Core) -> Input {
        let Effect::Cycle { retry, whole, approve } = effect;
        let as_of = Instant::now();
        let is_asked = approve || !self.flushes.is_empty() || self.touched().is_some();
        if self.worker.is_none()
            && let Err(error) = self.open()
        {
            return self.cannot_go_on(&error, core);
        }
        let Some(worker) = &mut self.worker else { return Input::Failed };
        if whole && let Watched::Captured { target, .. } = &worker.watched {
            target.gap(Gap::Safety);
        }
        let retry = if retry { Retry::Yes } else { Retry::No };
        set_phase(&self.snapshot, Phase::Cycling);
        // A barrier of a lane at rest need not have a scan of its own; it is as old as the one that it shares.
        worker.scan_age = if is_asked { Duration::ZERO } else { BARRIER };
        let result = if approve { worker.approve(as_of) } else { worker.cycle(retry, as_of) };
        let as_of = as_of.min(worker.polled);
        self.doubted_since = worker.doubted_since;
        match result {
            Ok(report) => {
                let mut snapshot = lock(&self.snapshot);
                snapshot.error = None;
                snapshot.next_try = None;
                if let Some(report) = &report {
                    snapshot.take_in(report);
                }
                drop(snapshot);
                if let Some(report) = &report {
                    say(&self.config.name, report, whole);
                }
                let (is_partial, is_quarantined) = match &report {
                    Some(report) => {
                        let is_partial = !report.astray.is_empty()
                            || !report.withheld.is_empty()
                            || !report.again.is_empty();
                        (is_partial, report.totals.quarantined > 0)
                    }
                    None => {
                        (false, worker.lane.head.as_ref().is_some_and(|head| head.totals.quarantined > 0))
                    }
                };
                let is_idle = report.is_none();
                if let Err(error) = worker.empty_trash_if(report.is_some_and(|report| report.published)) {
                    tracing::warn!(lane = %self.config.name, error = %Chain(&error), "the trash is emptied the next time");
                }
                if !is_partial {
                    self.has_begun();
                }
                Input::Done { as_of, is_partial, is_quarantined, is_idle }
            }
            Err(error) => self.cannot_go_on(&error, core),
        }
    }

    /// What failed is opened anew the next time: the mount, or the volume, may be another one by then.
    fn cannot_go_on(&mut self, error: &Error, core: &Core) -> Input {
        if let Some(worker) = self.worker.take() {
            self.memory = worker.memory;
        }
        self.failed(error, Instant::now() + super::core::back_off(core.failures()));
        let why = Chain(error).to_string();
        let waiting = self.flushes.drain(..).map(|(_, reply)| reply).chain(self.approvals.drain(..));
        for reply in waiting {
            let _ = reply.send(Flushed::Failed(why.clone()));
        }
        Input::Failed
    }

    /// Answers those whose wish is fulfilled.
    fn answer(&mut self, core: &Core) {
        let (generation, halted) = {
            let snapshot = lock(&self.snapshot);
            (snapshot.generation, snapshot.halted.clone())
        };
        let now = Instant::now();
        let as_of = core.as_of();
        let mut wait = Vec::new();
        for (at, reply) in self.flushes.drain(..) {
            if as_of.is_some_and(|as_of| as_of >= at) {
                let lag = now.saturating_duration_since(at);
                let _ = reply.send(Flushed::Done { generation, lag });
            } else if let Some(why) = &halted {
                let _ = reply.send(Flushed::Failed(format!(
                    "deletions are halted: {why}. If they are meant: tidegate approve {}",
                    self.config.name
                )));
            } else {
                wait.push((at, reply));
            }
        }
        self.flushes = wait;
        for reply in self.approvals.drain(..) {
            let _ = reply.send(match &halted {
                None => Flushed::Done { generation, lag: Duration::ZERO },
                Some(why) => Flushed::Failed(format!("deletions are halted still: {why}")),
            });
        }
    }

    fn failed(&self, error: &Error, next: Instant) {
        let mut snapshot = lock(&self.snapshot);
        let text = Chain(error).to_string();
        // The same error every minute is one line in the log.
        if snapshot.error.as_ref() != Some(&text) && !matches!(error, Error::Stopped) {
            tracing::error!(lane = %self.config.name, error = %text, "the lane cannot go on; it is tried again");
        }
        snapshot.error = Some(text);
        snapshot.next_try = Some(next);
        drop(snapshot);
        self.phase(Phase::Failing);
    }

    /// Brings what others may read up to date.
    fn tell(&self, core: &Core) {
        let mut snapshot = lock(&self.snapshot);
        snapshot.as_of = core.as_of();
        if let Some(Watched::Captured { target, .. }) = &self.watched {
            (snapshot.waiting, snapshot.gap) =
                target.peek(|dirty| (dirty.len(), dirty.whole().map(|gap| gap.to_string())));
        }
        drop(snapshot);
        self.phase(match (core.is_paused(), core.failures()) {
            (true, _) => Phase::Paused,
            (false, 0) => Phase::Resting,
            (false, _) => Phase::Failing,
        });
    }

    fn phase(&self, phase: Phase) {
        set_phase(&self.snapshot, phase);
    }
}

fn say(lane: &LaneName, report: &CycleReport, is_safety: bool) {
    if report.published {
        let seconds = &report.seconds;
        tracing::info!(%lane, generation = %report.generation, cut = %report.cut, staged = report.staged,
            bytes = report.bytes_sent, moved = report.moved,
                deleted = if report.halted.is_some() { 0 } else { report.deleted },
            seconds = seconds.look + seconds.stage + seconds.seal + seconds.publish, "published");
        if is_safety {
            tracing::warn!(%lane, generation = %report.generation, "the safety walk found changes: some may have \
                come while it walked; if this repeats on an idle volume, capture misses something");
        }
    }
    if let Some(why) = &report.halted {
        tracing::warn!(%lane, %why, "deletions are halted; if they are meant: tidegate approve {lane}");
    }
}

/// From when on the times of files may have outlived their content, after a stop of the host that was no clean one: what had
/// changed and was not written back when the host stopped is as it was before, with times of which nothing tells that.
fn doubted_since(replay: &Replay) -> Option<Time> {
    let is_unclean = (replay.boot == Boot::Other && replay.stop != Stop::Clean)
        || replay.gaps.contains(&GapCause::UncleanStop)
        || replay.records.iter().any(|record| record.note == Note::Gap(GapCause::UncleanStop));
    let since =
        replay.published_at.map_or(i64::MIN, |at| at.sec.saturating_sub(sys::host::write_back_seconds()));
    is_unclean.then_some(Time { sec: since, nsec: 0 })
}

/// Files with several names: who wrote to one by a name outside the volume, a moment before its link was known to the last
/// process, was noted by nobody.
fn linked(view: &View, volume: &Volume, dirty: &mut Dirty, now: Instant) -> Result<()> {
    let fsid = sys::handle::fsid(volume.root.as_ref());
    let fsid = fsid.map_err(|e| Error::Volume { path: volume.given.clone(), why: e.to_string() })?;
    for ino in view.linked()? {
        let names = view.names_of(ino?)?;
        let Some((parent, name)) = names.first().and_then(|path| path.split_last()) else { continue };
        // One that is not where it was: the event that took it away is in the queue.
        let Ok(dir) = volume.root.open_below(parent.components()) else { continue };
        if let Ok(handle) = sys::Handle::of(&dir, fsid) {
            dirty.name(&sys::fanotify::key(&handle), name, None, now);
        }
    }
    Ok(())
}

/// Opens the journal of a lane, beside its index.
fn open_journal(lane: &Lane) -> Result<(Journal, Replay)> {
    let opening = Opening {
        lane: lane.ledger.lane.id,
        boot: BootId(sys::host::boot_id()),
        past: if lane.head.is_some() { Past::Known } else { Past::New },
        calls: Calls::Best,
        limits: Limits::default(),
    };
    Journal::open(&lane.dir.file("journal"), &opening, crate::cycle::now())
        .map_err(|e| Error::Agent(Chain(&e).to_string()))
}

fn set_phase(snapshot: &Mutex<Snapshot>, phase: Phase) {
    let mut snapshot = lock(snapshot);
    if snapshot.phase != phase {
        snapshot.phase = phase;
        snapshot.since = Instant::now();
    }
}

/// An error with all its causes.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        f.write_str(&text)
    }
}
