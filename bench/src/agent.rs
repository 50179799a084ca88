//! `tidegate run` as a program beside a measurement, here or on a host of a lab.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::lab::{Host, HostProcess, Seen, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::usage::Usage;

/// The agent answers a moment after it was started.
const START_LIMIT: Duration = Duration::from_secs(30);
/// It ends within five seconds.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// A first copy of the largest trees, on a busy machine.
const FLUSH_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// One lane: `bench/NAME`.
pub struct LaneDirs {
    /// Second half of its name.
    pub name: String,
    /// What is replicated.
    pub volume: PathBuf,
    /// Where to.
    pub mirror: PathBuf,
}

/// A running agent; killed when dropped.
pub struct Agent {
    process: Process,
    base: PathBuf,
    first: String,
}

enum Process {
    Here(Child),
    There(HostProcess),
}

impl Agent {
    /// Starts the program on `host`, or here, with its state, configuration and log in `base`, and waits until it answers.
    /// `settings` are lines of `[defaults]`.
    ///
    /// # Errors
    /// It does not answer; the error has its log.
    pub fn start(
        program: &Path,
        host: Option<&Host>,
        base: &Path,
        lanes: &[LaneDirs],
        settings: &str,
    ) -> Result<Self> {
        fs::create_dir_all(base)?;
        // The configuration and all above it must belong to root alone.
        fs::set_permissions(base, Permissions::from_mode(0o700))?;
        let mut text = format!("[defaults]\n{settings}\n");
        for LaneDirs { name, volume, mirror } in lanes {
            text += &format!(
                "[[lane]]\nteam = \"bench\"\nenv = \"{name}\"\nvolume = \"{}\"\nmirror = \"{}\"\n",
                volume.display(),
                mirror.display()
            );
        }
        let config = base.join("tidegate.toml");
        fs::write(&config, text)?;
        let mut command = host.map_or_else(|| Command::new(program), |host| host.cmd(program));
        command.arg("run").arg("--config").arg(&config);
        command.env("TIDEGATE_STATE_DIR", base.join("state"));
        command.env("TIDEGATE_RUNTIME_DIR", base.join("run")).env_remove("TIDEGATE_LOG");
        let log = File::options().create(true).append(true).open(base.join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = match host {
            None => Process::Here(command.spawn().with_context(|| format!("start {command:?}"))?),
            Some(host) => Process::There(host.spawn(&mut command)?),
        };
        let first = lanes.first().map(|lane| format!("bench/{}", lane.name)).unwrap_or_default();
        let mut agent = Self { process, base: base.to_owned(), first };
        wait_until("the agent answers", START_LIMIT, || {
            if agent.has_ended()? {
                bail!("the agent has ended: {}", agent.log());
            }
            Ok(match agent.status() {
                // The socket is there before the lanes are.
                Ok(status) => {
                    let begun = status["lanes"].as_array().map_or(0, Vec::len);
                    Seen::when(begun == lanes.len(), || status.to_string())
                }
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })?;
        Ok(agent)
    }

    /// Its process, numbered as outside.
    pub fn pid(&self) -> i32 {
        match &self.process {
            Process::Here(child) => child.id() as i32,
            Process::There(process) => process.pid(),
        }
    }

    /// What it used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid()).with_context(|| format!("the agent: {}", self.log()))
    }

    /// What `tidegate status --json` says, without a program started for it.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn status(&self) -> Result<Value> {
        Ok(self.ask("status", None, Duration::from_secs(10))?["status"].clone())
    }

    /// Of it the first lane.
    ///
    /// # Errors
    /// As [`Agent::status`].
    pub fn lane(&self) -> Result<Value> {
        Ok(self.status()?["lanes"][0].clone())
    }

    /// Waits until all lanes have everything from before in their mirrors; what the slowest of them needed for it, in seconds.
    ///
    /// # Errors
    /// One of them has not.
    pub fn flush(&self) -> Result<f64> {
        let answer = self.ask("flush", None, FLUSH_LIMIT)?;
        let acted = answer["acted"].as_array().with_context(|| format!("{answer}"))?;
        ensure!(!acted.is_empty(), "nothing was flushed: {answer}");
        let mut slowest: f64 = 0.0;
        for lane in acted {
            ensure!(lane["error"].is_null(), "{lane}: {}", self.log());
            slowest = slowest.max(lane["lag_seconds"].as_f64().unwrap_or(f64::NAN));
        }
        Ok(slowest)
    }

    /// Waits until the first lane begins no more cycles.
    ///
    /// # Errors
    /// It does not obey.
    pub fn pause(&self) -> Result<()> {
        self.ask("pause", Some(&self.first), Duration::from_secs(10))?;
        wait_until("the lane is paused", START_LIMIT, || {
            let lane = self.lane()?;
            Ok(Seen::when(lane["phase"] == "paused", || lane.to_string()))
        })
    }

    fn ask(&self, ask: &str, lane: Option<&str>, limit: Duration) -> Result<Value> {
        let mut stream = UnixStream::connect(self.base.join("run/tidegate.sock"))?;
        stream.set_read_timeout(Some(limit))?;
        writeln!(stream, "{}", json!({ "version": 1, "ask": ask, "lane": lane }))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("an answer: {line:?}"))?;
        ensure!(answer["refused"].is_null(), "refused: {answer}");
        Ok(answer)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.base.join("log")).unwrap_or_default()
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM)?;
        wait_until("the agent has ended", STOP_LIMIT, || {
            Ok(Seen::when(self.has_ended()?, || "it runs".to_owned()))
        })
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Process::Here(child) => child.try_wait()?.is_some(),
            Process::There(process) => process.try_wait()?.is_some(),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // On a host the process itself does this.
        if let Process::Here(child) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
