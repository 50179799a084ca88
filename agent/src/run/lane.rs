//! The thread of one lane. It may hang on its mirror for as long as that hangs; nobody waits for it without a limit.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, after, bounded, never, select};
use proto::{Generation, LaneName, Totals};
use transfer::Limits;

use super::core::{Core, Effect, Input, Span, Timing};
use super::status::{Phase, Snapshot};
use super::worker::{Retry, Watched, Worker};
use crate::capture::{Capture, Gap};
use crate::config::{EngineChoice, Every, LaneConfig};
use crate::cut::Cuts;
use crate::cycle::{CycleOptions, CycleReport, Progress};
use crate::error::{Error, Result};
use crate::lane::{Lane, Ownership};
use crate::state::StateDir;

/// Commands that may wait for a lane's thread.
const COMMANDS_MAX: usize = 64;

/// Time after which an idle lane proves that it is in sync still.
const BARRIER: Duration = Duration::from_secs(3);

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
    limits: Arc<Limits>,
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
            next_try: None,
            published: 0,
        }));
        let (commands, received) = bounded(COMMANDS_MAX);
        let (stop, stopped) = bounded(0);
        let progress = Arc::new(Progress::default());
        let limits = Arc::new(Limits::new(config.settings.rates()));
        let mut this = Thread {
            config: config.clone(),
            capture,
            state,
            snapshot: snapshot.clone(),
            progress: progress.clone(),
            limits: limits.clone(),
            commands: received,
            stopped,
            worker: None,
            flushes: Vec::new(),
            approvals: Vec::new(),
            paused: false,
        };
        let name = format!("lane {}", config.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || this.run())?;
        Ok(Self { config, commands, snapshot, progress, limits, stop: Some(stop), thread })
    }

    /// What it said last.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.snapshot).clone()
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

struct Thread {
    config: LaneConfig,
    capture: std::result::Result<Arc<Capture>, String>,
    state: Arc<StateDir>,
    snapshot: Arc<Mutex<Snapshot>>,
    progress: Arc<Progress>,
    limits: Arc<Limits>,
    commands: Receiver<Command>,
    stopped: Receiver<()>,
    worker: Option<Worker>,
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
        let mut core = self.open_until_it_works();
        while let Some(core) = &mut core {
            self.tell(core);
            match self.wait(core.poll_timeout()) {
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
        if let (Some(worker), Ok(capture)) = (&self.worker, &self.capture)
            && let Watched::Captured { target, .. } = &worker.watched
        {
            capture.forget(target);
        }
        self.worker = None;
        self.phase(Phase::Stopped);
    }

    /// Nothing when told to stop before.
    fn open_until_it_works(&mut self) -> Option<Core> {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            match self.open() {
                Ok((worker, timing, not_captured)) => {
                    let mut snapshot = lock(&self.snapshot);
                    snapshot.not_captured = not_captured;
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
                    let mut core = Core::new(timing, begun);
                    if self.paused {
                        core.handle(Input::Pause, begun);
                    }
                    return Some(core);
                }
                Err(error) => {
                    let pause = super::core::back_off(failures);
                    failures += 1;
                    self.failed(&error, Instant::now() + pause);
                    loop {
                        match self.wait(Some(Instant::now() + pause)) {
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

    fn open(&self) -> Result<(Worker, Timing, Option<String>)> {
        let settings = &self.config.settings;
        let volume = crate::cli::open_volume(&self.config.volume.to_string())?;
        crate::cli::apart(&volume.path, &self.config.mirror)?;
        let (mut lane, tenure) = Lane::open_writer(&self.state, &self.config.mirror, Ownership::Ours)?;
        let watched = match &self.capture {
            Ok(capture) => match capture.watch(volume.root.clone()) {
                Ok(target) => Ok(Watched::Captured { capture: capture.clone(), target }),
                Err(why) => Err(why.to_string()),
            },
            Err(why) => Err(why.clone()),
        };
        let is_captured = watched.is_ok();
        let timing = Timing {
            quiet: settings.quiet,
            max_age: settings.max_age,
            safety: match settings.reconcile {
                Every::Interval(every) if is_captured => Some(every),
                _ => None,
            },
            walk: (!is_captured).then_some(settings.fallback_interval),
            barrier: BARRIER,
        };
        let (watched, not_captured) = match watched {
            Ok(watched) => (watched, None),
            Err(why) => {
                tracing::warn!(lane = %self.config.name, %why, "changes are not captured: the volume is walked every {:?}",
                    settings.fallback_interval);
                (Watched::Walked, Some(why))
            }
        };
        lane.ledger.limits = self.limits.clone();
        let options = self.options(lane.ledger.root.pinned().kind().may_hang());
        let mut worker = Worker::new(lane, tenure, volume, options, watched, settings.delete_window)?;
        worker.progress = self.progress.clone();
        worker.cuts = Cuts::of(&self.config, &worker.volume.path);
        Ok((worker, timing, not_captured))
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
        let bell = match self.worker.as_ref().map(|worker| &worker.watched) {
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
        let Some(Watched::Captured { target, .. }) = self.worker.as_ref().map(|worker| &worker.watched)
        else {
            return None;
        };
        target.peek(|dirty| Some(Span { oldest: dirty.oldest()?, newest: dirty.newest()? }))
    }

    fn asked(&mut self, command: Command, core: &mut Core) {
        let now = Instant::now();
        match command {
            Command::Pause => core.handle(Input::Pause, now),
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
        let Some(worker) = &mut self.worker else { return Input::Failed };
        if whole && let Watched::Captured { target, .. } = &worker.watched {
            target.gap(Gap::Safety);
        }
        let retry = if retry { Retry::Yes } else { Retry::No };
        set_phase(&self.snapshot, Phase::Cycling);
        let result = if approve { worker.approve(as_of) } else { worker.cycle(retry, as_of) };
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
                        let is_partial = !report.astray.is_empty() || !report.withheld.is_empty();
                        (is_partial, report.totals.quarantined > 0)
                    }
                    None => {
                        (false, worker.lane.head.as_ref().is_some_and(|head| head.totals.quarantined > 0))
                    }
                };
                if let Err(error) = worker.empty_trash_if(report.is_some_and(|report| report.published)) {
                    tracing::warn!(lane = %self.config.name, error = %Chain(&error), "the trash is emptied the next time");
                }
                Input::Done { as_of, is_partial, is_quarantined }
            }
            Err(error) => {
                let next = Instant::now() + super::core::back_off(core.failures());
                self.failed(&error, next);
                let why = Chain(&error).to_string();
                for (_, reply) in self.flushes.drain(..) {
                    let _ = reply.send(Flushed::Failed(why.clone()));
                }
                for reply in self.approvals.drain(..) {
                    let _ = reply.send(Flushed::Failed(why.clone()));
                }
                Input::Failed
            }
        }
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
        if snapshot.error.as_ref() != Some(&text) {
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
        if let Some(Watched::Captured { target, .. }) = self.worker.as_ref().map(|worker| &worker.watched) {
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
