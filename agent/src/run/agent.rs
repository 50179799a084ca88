//! The agent: lanes on threads of their own, one thread that reads the kernel's events, one that answers, and the main thread,
//! which waits for signals and never for a mirror.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use proto::LaneName;

use super::lane::{Chain, Command, Flushed, LaneHandle};
use crate::capture::Capture;
use crate::config::Config;
use crate::control::{Acted, AgentStatus, Answer, Ask, AskedPath, Request, Server, serve};
use crate::error::{Error, Exit, Result};
use crate::state::StateDir;

/// How long lanes may take to end: then the agent goes without them.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// How often the main thread looks whether everything is well.
const LOOK: Duration = Duration::from_secs(1);

/// How long whoever asked for a flush or an approval is kept waiting at most.
const FLUSH_LIMIT: Duration = Duration::from_secs(3600);

/// Runs the agent until it is told to end by SIGTERM or SIGINT. SIGHUP reads the configuration again: lanes that are new are
/// begun, lanes that are gone or changed are ended first.
///
/// # Errors
/// [`Error::Config`], [`Error::Agent`], [`Error::State`]; a lane that cannot work says so in its status and is tried again.
pub fn run(config_path: &Path) -> Result<Exit> {
    let config = load(config_path)?;
    let signals = hold_signals()?;
    let state = Arc::new(StateDir::open()?);
    let capture =
        super::stored::capture(&state, config.lanes.iter().filter(|lane| lane.settings.start).count())
            .map_err(|why| why.to_string());
    if let Ok(capture) = &capture {
        read_events(capture)?;
    } else if let Err(why) = &capture {
        tracing::warn!(%why, "changes are not captured: volumes are walked on an interval");
    }
    let group = group_id(config.agent.status_group.as_deref())?;
    let agent = Arc::new(Agent { begun: Instant::now(), capture, state, lanes: Mutex::new(Vec::new()) });
    agent.trust(&config);
    // Who asks from the first moment on waits until there are lanes: nothing to flush would be said to be flushed.
    let mut lanes = agent.lanes();
    let socket = serve(&crate::control::socket_path(), group, agent.clone())?;
    agent.begin(&mut lanes, &config)?;
    drop(lanes);
    tell_systemd(&[sd_notify::NotifyState::Ready]);
    tracing::info!(lanes = config.lanes.len(), "the agent runs");
    loop {
        match next_signal(&signals) {
            Some(Signal::SIGHUP) => agent.reload(config_path),
            Some(_) => break,
            None => agent.look(),
        }
    }
    tell_systemd(&[sd_notify::NotifyState::Stopping]);
    // What comes from here on is in the queue for the next agent, if somebody keeps that.
    if let Ok(capture) = &agent.capture {
        capture.close();
    }
    let all_ended = agent.stop();
    drop(socket);
    if !all_ended {
        // A thread that waits for a dead mount cannot be ended: nothing it still does can be believed to be done.
        tracing::warn!("a lane did not end in time; what it was doing is finished or undone by the next run");
        std::process::exit(Exit::InSync as i32);
    }
    Ok(Exit::InSync)
}

fn load(path: &Path) -> Result<Config> {
    let (config, report) = Config::load(path)?;
    if !report.problems.is_empty() {
        tracing::warn!("{report}");
    }
    Ok(config)
}

/// All signals that mean something go to the main thread; to be called before there are others.
fn hold_signals() -> Result<SignalFd> {
    let failed = |errno: nix::errno::Errno| Error::Agent(format!("wait for signals: {errno}"));
    let mut set = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
    set.thread_block().map_err(failed)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// The next signal, or nothing after [`LOOK`].
fn next_signal(signals: &SignalFd) -> Option<Signal> {
    if !sys::host::wait_readable(signals, LOOK) {
        return None;
    }
    let info = signals.read_signal().ok().flatten()?;
    Signal::try_from(info.ssi_signo as i32).ok()
}

fn read_events(capture: &Arc<Capture>) -> Result<()> {
    let reader = capture.clone();
    let read = move || {
        if let Err(error) = reader.run() {
            tracing::error!(error = %Chain(&error), "the kernel's events cannot be read any more: the agent ends");
            // Nothing would be captured from here on, and nothing would say so: a supervisor starts it anew, and
            // with the spool told that something was lost everything is looked at.
            std::process::exit(Exit::Failed as i32);
        }
    };
    let spawned = std::thread::Builder::new().name("capture".to_owned()).spawn(read);
    spawned.map(|_| ()).map_err(|e| Error::Agent(format!("start a thread: {e}")))
}

fn group_id(name: Option<&str>) -> Result<Option<u32>> {
    let Some(name) = name else { return Ok(None) };
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
        Ok(None) => {
            Err(Error::Agent(format!("there is no group {name} (status_group in the configuration)")))
        }
        Err(errno) => Err(Error::Agent(format!("look for the group {name}: {errno}"))),
    }
}

fn tell_systemd(states: &[sd_notify::NotifyState<'_>]) {
    // Nobody listens when it was started by hand.
    let _ = sd_notify::notify(states);
}

struct Agent {
    begun: Instant,
    capture: std::result::Result<Arc<Capture>, String>,
    state: Arc<StateDir>,
    lanes: Mutex<Vec<LaneHandle>>,
}

impl Agent {
    fn lanes(&self) -> MutexGuard<'_, Vec<LaneHandle>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trust(&self, config: &Config) {
        if let Ok(capture) = &self.capture {
            capture.open_files().set_harmless(config.agent.not_writers.clone());
        }
    }

    /// Begins what the configuration has and does not run yet.
    fn apply(&self, config: &Config) -> Result<()> {
        self.begin(&mut self.lanes(), config)
    }

    fn begin(&self, lanes: &mut Vec<LaneHandle>, config: &Config) -> Result<()> {
        let running: BTreeSet<String> = lanes.iter().map(|lane| lane.config.name.to_string()).collect();
        for lane in config.lanes.iter().filter(|lane| lane.settings.start) {
            if !running.contains(&lane.name.to_string()) {
                let started = LaneHandle::start(lane.clone(), self.capture.clone(), self.state.clone());
                lanes.push(started.map_err(|e| Error::Agent(format!("start {}: {e}", lane.name)))?);
            }
        }
        lanes.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        Ok(())
    }

    fn reload(&self, path: &Path) {
        tell_systemd(&reloading());
        match load(path) {
            Ok(config) => {
                self.trust(&config);
                let stays = |lane: &mut LaneHandle| {
                    config.lanes.iter().any(|other| other.settings.start && lane.adopt(other))
                };
                let mut gone = Vec::new();
                self.lanes().retain_mut(|lane| {
                    let stay = stays(lane);
                    if !stay {
                        lane.stop();
                        gone.push(lane.config.name.clone());
                    }
                    stay
                });
                // A changed lane is begun anew when the old thread has let go of it: its lock says so, and it is tried until then.
                match self.apply(&config) {
                    Ok(()) => tracing::info!(
                        lanes = config.lanes.len(),
                        ended = gone.len(),
                        "the configuration was read again"
                    ),
                    Err(error) => {
                        tracing::error!(error = %Chain(&error), "the configuration was read again, but not all of it works")
                    }
                }
            }
            Err(error) => {
                tracing::error!(
                    "the configuration was not read again, the old one stays in force: {}",
                    Chain(&error)
                );
            }
        }
        tell_systemd(&[sd_notify::NotifyState::Ready]);
    }

    /// Feeds systemd's watchdog, as long as every thread that must not hang goes on.
    fn look(&self) {
        let is_well = self.capture.as_ref().map_or(true, |capture| capture.is_alive());
        if is_well && self.lanes().iter().all(|lane| !lane.has_ended()) {
            tell_systemd(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    /// Ends all lanes; false when one did not end in time.
    fn stop(&self) -> bool {
        let mut lanes = std::mem::take(&mut *self.lanes());
        lanes.iter_mut().for_each(LaneHandle::stop);
        let end = Instant::now() + STOP_LIMIT;
        loop {
            lanes.retain(|lane| !lane.has_ended());
            if lanes.is_empty() || Instant::now() >= end {
                return lanes.is_empty();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn act(&self, ask: Ask, lane: Option<&LaneName>) -> Answer {
        let now = Instant::now();
        let mut pending = Vec::new();
        let mut acted = Vec::new();
        for handle in self.lanes().iter().filter(|handle| lane.is_none_or(|name| *name == handle.config.name))
        {
            let name = handle.config.name.clone();
            let (reply, answer) = bounded(1);
            let command = match ask {
                Ask::Pause => Command::Pause,
                Ask::Resume => Command::Resume,
                Ask::Flush => Command::Flush(now, reply),
                Ask::Approve => Command::Approve(reply),
                Ask::Status | Ask::Why => continue,
            };
            match handle.ask(command) {
                Err(why) => acted.push(said(name, Err(why))),
                Ok(()) if matches!(ask, Ask::Pause | Ask::Resume) => acted.push(said(name, Ok(None))),
                Ok(()) => pending.push((name, answer)),
            }
        }
        if let (Some(name), true, true) = (lane, pending.is_empty(), acted.is_empty()) {
            return Answer::Refused(self.no_such(name));
        }
        for (name, answer) in pending {
            let outcome = match answer.recv_timeout(FLUSH_LIMIT) {
                Ok(Flushed::Done { generation, lag }) => Ok(Some((generation.0, lag))),
                Ok(Flushed::Failed(why)) => Err(why),
                Err(_) => Err("the lane was ended before it was done".to_owned()),
            };
            acted.push(said(name, outcome));
        }
        acted.sort_by(|a, b| a.lane.cmp(&b.lane));
        Answer::Acted(acted)
    }

    /// From the index alone: what lies on the mirror is left to who asks.
    fn why(&self, lane: Option<&LaneName>, path: Option<&AskedPath>) -> Answer {
        let (Some(lane), Some(AskedPath(path))) = (lane, path) else {
            return Answer::Refused("of which path in which lane? (tidegate why LANE PATH)".to_owned());
        };
        let found = self.lanes().iter().find(|handle| handle.config.name == *lane).map(LaneHandle::index);
        let Some(shelf) = found else { return Answer::Refused(self.no_such(lane)) };
        match shelf.read(|index| crate::why::gather(&index.view()?, path)) {
            None => Answer::Why(None),
            Some(Ok(known)) => Answer::Why(Some(Box::new(known))),
            Some(Err(error)) => Answer::Refused(Chain(&error).to_string()),
        }
    }

    fn no_such(&self, name: &LaneName) -> String {
        let known: Vec<String> = self.lanes().iter().map(|lane| lane.config.name.to_string()).collect();
        let known =
            if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        format!("the agent has no lane {name}; {known}")
    }
}

/// What systemd wants to hear before a reload.
fn reloading() -> Vec<sd_notify::NotifyState<'static>> {
    let mut states = vec![sd_notify::NotifyState::Reloading];
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        states.push(now);
    }
    states
}

fn said(lane: LaneName, outcome: std::result::Result<Option<(u64, Duration)>, String>) -> Acted {
    let (done, error) = match outcome {
        Ok(done) => (done, None),
        Err(why) => (None, Some(why)),
    };
    Acted {
        lane,
        generation: done.map(|(generation, _)| generation),
        lag_seconds: done.map(|(_, lag)| lag.as_secs_f64()),
        error,
    }
}

impl Server for Agent {
    fn answer(&self, request: Request, may_act: bool) -> Answer {
        if request.ask.acts() && !may_act {
            return Answer::Refused("only root may do that; the group may read (tidegate status)".to_owned());
        }
        if request.ask.is_private() && !may_act {
            return Answer::Refused("only root may ask for what is in a volume; the group may read how the lanes are (tidegate status)".to_owned());
        }
        if request.ask == Ask::Why {
            return self.why(request.lane.as_ref(), request.path.as_ref());
        }
        if request.ask.acts() {
            return self.act(request.ask, request.lane.as_ref());
        }
        let now = Instant::now();
        let lanes = self.lanes();
        let asked =
            lanes.iter().filter(|lane| request.lane.as_ref().is_none_or(|name| *name == lane.config.name));
        let lanes_now: Vec<_> = asked.map(|lane| lane.snapshot().status(now)).collect();
        drop(lanes);
        if let (Some(name), true) = (&request.lane, lanes_now.is_empty()) {
            return Answer::Refused(self.no_such(name));
        }
        Answer::Status(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            up_seconds: self.begun.elapsed().as_secs_f64(),
            lanes: lanes_now,
        })
    }
}
