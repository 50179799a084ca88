//! The agent's side of a cut: finds out what is to be frozen, starts a keeper, and hears what came of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded, never};
use proto::LaneName;

use super::cgroup::Cgroup;
use super::program::Phase;
use super::words::{Orders, Said, Word};
use crate::config::{Hooks, LaneConfig, VolumeSource};
use crate::docker::{ContainerState, Docker, VolumeName};
use crate::error::{Error, Result};

/// How long freezing may take: 1.8 ms is usual, 18 ms was seen with writers in fdatasync.
const FREEZE_LIMIT: Duration = Duration::from_millis(200);

/// How long a container is kept frozen at most: an application notices more.
const HOLD_LIMIT: Duration = Duration::from_millis(100);

/// Bytes of changed files up to which a container is kept frozen while they are copied.
const BYTES_MAX: u64 = 64 << 20;

/// Names up to which it is frozen at all.
const NAMES_MAX: usize = 4096;

/// How long Docker may take to name its containers before a cut goes on without.
const DOCKER_LIMIT: Duration = Duration::from_secs(1);

/// Beyond what its hooks may take: a keeper that says nothing by then is not waited for.
const SLACK: Duration = Duration::from_secs(10);

/// What is done around the cuts of one lane.
pub struct Cuts {
    lane: LaneName,
    volume: String,
    hooks: Hooks,
    freeze: Option<VolumeName>,
    keeper: PathBuf,
    docker: Option<Docker>,
    /// Why nothing was frozen the last time: said once.
    told: Option<String>,
}

/// How much a cut will have to read, as far as known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of the volume is looked at.
    Whole,
    /// So many names.
    Names(usize),
}

impl Cuts {
    /// What the configuration wants for the volume at `path`; nothing when it wants nothing.
    pub fn of(config: &LaneConfig, path: &std::path::Path) -> Option<Self> {
        let settings = &config.settings;
        let hooks = settings.hooks.clone();
        let freeze = match (&config.volume, settings.freeze) {
            (VolumeSource::Docker(name), true) => Some(name.clone()),
            (VolumeSource::Directory(_), true) => {
                tracing::warn!(lane = %config.name, "freeze is set, but the volume is a directory: no container is known \
                    that it belongs to, and none is frozen");
                None
            }
            (_, false) => None,
        };
        (hooks.pre.is_some() || hooks.post.is_some() || freeze.is_some()).then(|| Self {
            lane: config.name.clone(),
            volume: path.display().to_string(),
            hooks,
            freeze,
            // Also when the file was replaced by an update meanwhile: the two have to speak the same language.
            keeper: PathBuf::from("/proc/self/exe"),
            docker: None,
            told: None,
        })
    }

    /// Begins a cut: `pre` has ended well and, where that is wanted and possible, containers are frozen.
    ///
    /// # Errors
    /// [`Error::Hook`]: `pre` failed; `post` was run behind it.
    pub fn begin(&mut self, extent: Extent) -> Result<Option<Held>> {
        let cgroups = match extent {
            Extent::Names(names) if names <= NAMES_MAX => self.cgroups(),
            Extent::Names(_) | Extent::Whole => Vec::new(),
        };
        if cgroups.is_empty() && self.hooks.pre.is_none() && self.hooks.post.is_none() {
            return Ok(None);
        }
        let orders = Orders {
            lane: self.lane.to_string(),
            volume: self.volume.clone(),
            pre: self.hooks.pre.clone(),
            post: self.hooks.post.clone(),
            timeout: self.hooks.timeout,
            cgroups,
            freeze_limit: FREEZE_LIMIT,
            hold_limit: HOLD_LIMIT,
        };
        let started = Held::start(&self.keeper, orders);
        let mut held = started.map_err(|e| Error::Hook(format!("start the keeper of a cut: {e}")))?;
        match held.said.recv_timeout(held.orders.timeout + FREEZE_LIMIT + SLACK) {
            Ok(Said::Begun { not_frozen }) => {
                held.is_frozen = not_frozen.is_none() && !held.orders.cgroups.is_empty();
                if held.is_frozen {
                    self.told = None;
                } else if let Some(why) = not_frozen {
                    self.tell(why);
                }
                Ok(Some(held))
            }
            Ok(Said::Refused(why)) => {
                held.finish();
                Err(Error::Hook(why))
            }
            Ok(Said::Ended { .. }) | Err(_) => {
                held.finish();
                Err(Error::Hook("the keeper of a cut ended without a word".to_owned()))
            }
        }
    }

    /// What is to be frozen; nothing, and why in the log, where that is not possible.
    fn cgroups(&mut self) -> Vec<PathBuf> {
        let Some(volume) = self.freeze.clone() else { return Vec::new() };
        match self.look(&volume) {
            Ok(cgroups) => cgroups,
            Err(why) => {
                self.docker = None;
                self.tell(why);
                Vec::new()
            }
        }
    }

    fn look(&mut self, volume: &VolumeName) -> std::result::Result<Vec<PathBuf>, String> {
        let docker = match self.docker.take() {
            Some(docker) => docker,
            None => Docker::connect_within(DOCKER_LIMIT).map_err(|e| e.to_string())?,
        };
        let mut found = Vec::new();
        let containers = docker.containers_using(volume).map_err(|e| e.to_string())?;
        for container in containers.iter().filter(|container| container.state == ContainerState::Running) {
            let pid = docker.container_pid(&container.id).map_err(|e| e.to_string())?;
            let Some(pid) = pid else { continue };
            let cgroup =
                Cgroup::of_container(&container.id, pid).map_err(|e| format!("{}: {e}", container.name))?;
            cgroup.is_wanted_frozen().map_err(|e| format!("{}: {e}", container.name))?;
            found.push(cgroup.dir().to_owned());
        }
        self.docker = Some(docker);
        Ok(found)
    }

    fn tell(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(lane = %self.lane, %why, "nothing is frozen; cuts are made without");
            self.told = Some(why);
        }
    }
}

/// A cut that is under way. Dropping it lets go of all it holds.
pub struct Held {
    orders: Orders,
    child: Child,
    to: Option<ChildStdin>,
    said: Receiver<Said>,
    is_frozen: bool,
    is_finished: bool,
}

impl Held {
    fn start(keeper: &std::path::Path, orders: Orders) -> std::io::Result<Self> {
        let mut child = Command::new(keeper)
            .arg("keep-cut")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not in the agent's group: what is typed at a terminal is not for it.
            .process_group(0)
            .spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (say, said) = bounded(4);
        let reading = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            let lines = from.into_iter().flat_map(|from| BufReader::new(from).lines());
            for line in lines.map_while(std::result::Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(said) => drop(say.send(said)),
                    Err(_) => return,
                }
            }
        });
        let mut held = Self { orders, child, to, said, is_frozen: false, is_finished: false };
        reading?;
        let mut line = serde_json::to_vec(&held.orders)?;
        line.push(b'\n');
        if let Some(to) = &mut held.to {
            to.write_all(&line)?;
        }
        Ok(held)
    }

    /// So many bytes are to be read, or nobody knows how many: too many to stay frozen for are read without.
    pub fn planned(&mut self, bytes: Option<u64>) {
        if self.is_frozen && bytes.is_none_or(|bytes| bytes > BYTES_MAX) {
            self.is_frozen = false;
            self.tell(Word::Thaw);
        }
    }

    /// All is read: what was held is let go, and nobody waits for that here.
    pub fn has_read(&mut self) {
        self.is_frozen = false;
        self.tell(Word::Read);
        self.to = None;
    }

    fn tell(&mut self, word: Word) {
        if let (Some(to), Ok(mut line)) = (&mut self.to, serde_json::to_vec(&word)) {
            line.push(b'\n');
            // One that is gone is noticed at the end.
            let _ = to.write_all(&line);
        }
    }

    /// Waits until all is as it was.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        self.has_read();
        let ended = loop {
            match self.said.recv_timeout(self.orders.timeout + SLACK) {
                Ok(Said::Ended { post, frozen }) => break Some((post, frozen)),
                Ok(Said::Begun { .. } | Said::Refused(_)) => {}
                Err(_) => break None,
            }
        };
        let lane = &self.orders.lane;
        match ended {
            Some((post, frozen)) => {
                if let Some(why) = post {
                    tracing::warn!(%lane, "{why}");
                }
                if let Some(frozen) = frozen {
                    tracing::debug!(%lane, milliseconds = frozen.as_secs_f64() * 1e3, "containers were frozen");
                }
            }
            None => self.instead_of_the_keeper(),
        }
        let _ = self.child.try_wait();
    }

    /// Somebody killed it: what it would have undone is undone here.
    fn instead_of_the_keeper(&mut self) {
        let lane = &self.orders.lane;
        tracing::warn!(%lane, "the keeper of a cut is gone: the agent undoes what it held");
        let _ = self.child.kill();
        let _ = self.child.wait();
        for dir in &self.orders.cgroups {
            if let Err(error) = Cgroup::at(dir).thaw() {
                tracing::warn!(%lane, %error, "a container is thawed by writing 0 to its cgroup.freeze");
            }
        }
        if let Some(Err(why)) = self.orders.hook(Phase::Post).map(|post| post.run(&never::<()>())) {
            tracing::warn!(%lane, "{why}");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}
