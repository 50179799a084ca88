//! Faults on one host: processes killed and frozen, bricks read-only and full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::host::Host;
use super::procfs;
use super::run::{Seen, wait_until};

const STEP_LIMIT: Duration = Duration::from_secs(15);
/// Never a name of a brick: those are volume names with a letter for the replica set.
const BALLAST: &str = ".ballast";
const BLOCK: usize = 4096;
/// Two are usual.
const FILL_ROUNDS_MAX: u32 = 16;

/// Kinds of GlusterFS processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// FUSE clients of a volume.
    Client(&'a str),
    /// The management daemon.
    Glusterd,
    /// Brick processes of a volume.
    Brick(&'a str),
    /// The self-heal daemon.
    SelfHeal,
}

impl What<'_> {
    /// Whether a process with these arguments is of this kind.
    fn matches(self, argv: &[String]) -> bool {
        let Some(program) = argv.first().map(|path| path.rsplit('/').next().unwrap_or(path)) else {
            return false;
        };
        let volfile = value_of(argv, "--volfile-id");
        let role = value_of(argv, "--process-name");
        match self {
            What::Client(volume) => {
                program == "glusterfs"
                    && role == Some("fuse")
                    && volfile.is_some_and(|id| id.trim_start_matches('/') == volume)
            }
            What::Glusterd => program == "glusterd",
            What::Brick(volume) => {
                program == "glusterfsd" && volfile.is_some_and(|id| id.split('.').next() == Some(volume))
            }
            What::SelfHeal => program == "glusterfs" && role == Some("glustershd"),
        }
    }
}

/// Value of `--name value` or `--name=value`.
fn value_of<'a>(argv: &'a [String], name: &str) -> Option<&'a str> {
    argv.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix(name)? {
        "" => argv.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

impl Host {
    /// Processes of a kind on this host, with the pids of outside. A client started by a program that kept the
    /// outer pids counts too.
    pub fn pids(&self, what: What) -> Vec<i32> {
        self.processes().into_iter().filter(|(_, argv)| what.matches(argv)).map(|(pid, _)| pid).collect()
    }

    /// All processes in the mount namespace of this host with their arguments.
    pub(super) fn processes(&self) -> Vec<(i32, Vec<String>)> {
        let ours = procfs::namespace(self.init, "mnt");
        let here =
            |pid: &i32| ours.is_some() && procfs::namespace(*pid, "mnt") == ours && procfs::is_alive(*pid);
        procfs::pids().into_iter().filter(here).map(|pid| (pid, procfs::arguments(pid))).collect()
    }

    /// Kills (SIGKILL) all processes of a kind, waits until they are gone and returns their pids.
    ///
    /// # Errors
    /// There was none: a fault that did not happen must not pass for one.
    pub fn kill(&self, what: What) -> Result<Vec<i32>> {
        let pids = self.signal(what, Signal::SIGKILL)?;
        self.wait_each(&pids, &format!("{what:?} is gone"), |pid| !procfs::is_alive(pid))?;
        Ok(pids)
    }

    /// Freezes (SIGSTOP) all processes of a kind: they hang with their connections open.
    ///
    /// # Errors
    /// There was none.
    pub fn freeze(&self, what: What) -> Result<Vec<i32>> {
        let pids = self.signal(what, Signal::SIGSTOP)?;
        self.wait_each(&pids, &format!("{what:?} is frozen"), is_frozen)?;
        Ok(pids)
    }

    /// Lets frozen processes of a kind go on.
    ///
    /// # Errors
    /// There was none.
    pub fn thaw(&self, what: What) -> Result<Vec<i32>> {
        let pids = self.signal(what, Signal::SIGCONT)?;
        self.wait_each(&pids, &format!("{what:?} runs again"), |pid| !is_frozen(pid))?;
        Ok(pids)
    }

    /// Sends a signal to all processes of a kind and returns their pids.
    ///
    /// # Errors
    /// There was none.
    pub fn signal(&self, what: What, signal: Signal) -> Result<Vec<i32>> {
        let pids = self.pids(what);
        if pids.is_empty() {
            bail!("{}: no {what:?} to send {signal} to", self.name());
        }
        for pid in &pids {
            kill(Pid::from_raw(*pid), signal)
                .with_context(|| format!("{}: send {signal} to {what:?} {pid}", self.name()))?;
        }
        Ok(pids)
    }

    fn wait_each(&self, pids: &[i32], condition: &str, holds: impl Fn(i32) -> bool) -> Result<()> {
        wait_until(&format!("{}: {condition}", self.name()), STEP_LIMIT, || {
            let rest: Vec<_> = pids.iter().filter(|pid| !holds(**pid)).collect();
            Ok(Seen::when(rest.is_empty(), || format!("not so for {rest:?}")))
        })
    }

    /// Kills `glusterd` if it runs, starts it and waits until it answers. Bricks and clients go on meanwhile.
    /// Its peers find it again some seconds later: [`Lab::wait_peers`](super::Lab::wait_peers).
    pub fn restart_glusterd(&self) -> Result<()> {
        if !self.pids(What::Glusterd).is_empty() {
            self.kill(What::Glusterd)?;
        }
        self.run(&["glusterd", "--pid-file=/run/gluster/glusterd.pid"])?;
        wait_until(&format!("glusterd on {} answers", self.name()), STEP_LIMIT, || {
            let answer = self.finish(&["gluster", "--mode=script", "volume", "list"], STEP_LIMIT)?;
            // A pool without volumes answers too, with exit status 0 and a remark on stderr.
            Ok(Seen::when(answer.status.success(), || answer.explain()))
        })
    }

    /// Makes the brick filesystem read-only. The brick process notices by itself, up to half a minute later.
    pub fn brick_readonly(&self) -> Result<()> {
        // Refused while a brick holds a file open for writing, which it does for a moment after a write.
        self.remount_brick("remount,ro")
    }

    /// Makes the brick filesystem writable again. A brick process that has already given up needs
    /// [`Lab::start_force`](super::Lab::start_force) as well.
    pub fn brick_readwrite(&self) -> Result<()> {
        self.remount_brick("remount,rw")
    }

    fn remount_brick(&self, option: &str) -> Result<()> {
        let brick = self.brick_dir();
        wait_until(&format!("{}: the brick filesystem accepts {option}", self.name()), STEP_LIMIT, || {
            let done = self.finish(&["mount", "-o", option, "--", &brick.to_string_lossy()], STEP_LIMIT)?;
            Ok(Seen::when(done.status.success(), || done.explain()))
        })
    }

    /// Fills the brick filesystem to the last block.
    pub fn fill_brick(&self) -> Result<()> {
        let path = self.ballast();
        // A filesystem keeps something back for its own needs and returns part of it when a file is closed.
        for _ in 0..FILL_ROUNDS_MAX {
            let added = fill_round(&path).with_context(|| format!("{}: fill the brick", self.name()))?;
            if added == 0 {
                return Ok(());
            }
        }
        bail!("{}: the brick still takes data after {FILL_ROUNDS_MAX} rounds", self.name())
    }

    /// Gives back what [`Host::fill_brick`] took.
    pub fn unfill_brick(&self) -> Result<()> {
        fs::remove_file(self.ballast()).with_context(|| format!("{}: remove the ballast", self.name()))
    }

    fn ballast(&self) -> PathBuf {
        self.outside(self.brick_dir().join(BALLAST))
    }
}

/// Makes the ballast larger until nothing more fits, and returns by how much.
fn fill_round(path: &Path) -> Result<u64> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let start = file.metadata()?.len();
    let mut at = start;
    let mut size = 1_u64 << 40;
    // Preallocated blocks count as used and cost no writes; halving the step comes close to the end.
    while size >= BLOCK as u64 {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, size) {
            Ok(()) => at += size,
            Err(Errno::NOSPC | Errno::FBIG) => size /= 2,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // What xfs will not preallocate any more it still accepts as data.
    loop {
        match file.write_all(&[0; BLOCK]).and_then(|()| file.sync_data()) {
            Ok(()) => at += BLOCK as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(at - start),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_frozen(pid: i32) -> bool {
    procfs::state_and_parent(pid).is_some_and(|(state, _)| state == 'T')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn kinds_by_arguments() {
        let client =
            argv("/usr/sbin/glusterfs --process-name fuse --volfile-server=host0 --volfile-id=/v /m/v");
        let by_hand = argv("glusterfs --process-name fuse --volfile-server host0 --volfile-id v /m/v");
        let glusterd = argv("glusterd --pid-file=/run/gluster/glusterd.pid");
        let brick = argv(
            "/usr/sbin/glusterfsd -s host0 --volfile-id v.host0.var-tmp-v --process-name brick --brick-port 5",
        );
        let heal = argv("/usr/sbin/glusterfs -s localhost --volfile-id shd/v --process-name glustershd");
        let all = [&client, &by_hand, &glusterd, &brick, &heal];
        let hits = |what: What| all.iter().map(|argv| what.matches(argv)).collect::<Vec<_>>();
        assert_eq!(hits(What::Client("v")), [true, true, false, false, false]);
        assert_eq!(hits(What::Glusterd), [false, false, true, false, false]);
        assert_eq!(hits(What::Brick("v")), [false, false, false, true, false]);
        assert_eq!(hits(What::SelfHeal), [false, false, false, false, true]);
        assert_eq!(hits(What::Brick("v2")), [false; 5]);
        assert!(!What::Glusterd.matches(&[]));
    }
}
