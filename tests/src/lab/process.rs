//! Long-running programs on a host, with pids that work outside.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::Host;
use super::procfs;
use super::run::{Seen, wait_child, wait_until};

const STEP_LIMIT: Duration = Duration::from_secs(10);

/// A program running on a host; dropping it kills the program.
#[derive(Debug)]
pub struct HostProcess {
    outer: Child,
    pid: i32,
    status: Option<ExitStatus>,
}

impl Host {
    /// Starts a command made by [`Host::cmd`] or [`Host::cmd_outer_pids`] and finds the pid of the program
    /// itself. Standard output and error go where the command says; standard input is closed unless it says
    /// otherwise.
    pub fn spawn(&self, command: &mut Command) -> Result<HostProcess> {
        let mut outer = command.spawn().with_context(|| format!("{}: start {command:?}", self.name()))?;
        let parent = outer.id() as i32;
        // nsenter becomes the program, or forks it when a pid namespace is entered. Until then the only
        // processes to be seen are nsenter itself and its copy.
        let pid = wait_until("nsenter has started the program", STEP_LIMIT, || {
            let ended = outer.try_wait()?.is_some();
            let candidates = std::iter::once(parent).chain(procfs::children(parent));
            let program = candidates.into_iter().find(|pid| comm(*pid).is_some_and(|name| name != "nsenter"));
            Ok(match program {
                Some(pid) => Seen::Done(pid),
                // It was over before it could be looked at; its status tells the rest.
                None if ended => Seen::Done(parent),
                None => Seen::NotYet("only nsenter".into()),
            })
        })?;
        Ok(HostProcess { outer, pid, status: None })
    }

    /// Starts a program in all namespaces of the host with its output going to a file of this machine.
    pub fn spawn_logged(&self, command: &mut Command, log: &std::path::Path) -> Result<HostProcess> {
        let file = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        self.spawn(command.stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file)))
    }
}

impl HostProcess {
    /// Pid of the program as seen from outside the host.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("send {signal} to {}", self.pid))
    }

    /// Stops the program where it stands (SIGSTOP).
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen program go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.wake_outer();
        Ok(())
    }

    /// Kills the program (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // It may have ended by itself.
        let _ = self.signal(Signal::SIGKILL);
        self.wait(STEP_LIMIT)
    }

    /// How the program ended; `None` while it runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.outer.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// It still runs after `limit`; it is left running.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.status.is_none() {
            self.wake_outer();
            self.status = wait_child(&mut self.outer, limit)?;
        }
        match self.status {
            Some(status) => Ok(status),
            None => bail!("process {} did not end within {limit:?}", self.pid),
        }
    }

    /// nsenter stops itself together with its child, and has to be woken on its own.
    fn wake_outer(&self) {
        let _ = kill(Pid::from_raw(self.outer.id() as i32), Signal::SIGCONT);
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if matches!(self.try_wait(), Ok(None)) && self.kill().is_err() {
            // Stuck in a sick mount: the tear-down of the lab aborts the mount, then it goes.
            let _ = self.outer.kill();
        }
    }
}

fn comm(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}
