//! The test's side: starts the server process, talks to it, and always gets rid of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::protocol::{
    Action, Match, Op, Reply, Request, Rule, Status, Survive, TraceEntry, When, receive, send,
};

/// Longest wait for a reply; only a broken server takes longer.
const REPLY_MAX: Duration = Duration::from_secs(120);

/// A mounted faultfs in its own process; dropping it unmounts, whatever state it is in.
///
/// ```no_run
/// use harness::faultfs::{FaultFs, Survive, When};
/// let fs = FaultFs::start()?;
/// std::fs::write(fs.path().join("a"), "one")?;
/// fs.snapshot("before")?;
/// fs.restore("before")?;
/// fs.crash_at(2, When::Torn)?;
/// std::fs::write(fs.path().join("a"), "two").unwrap_err();
/// fs.reboot(Survive::OnlySynced)?;
/// assert_eq!(std::fs::read(fs.path().join("a"))?, b"one");
/// # anyhow::Ok(())
/// ```
#[derive(Debug)]
pub struct FaultFs {
    child: Child,
    control: Mutex<BufReader<UnixStream>>,
    mountpoints: Vec<PathBuf>,
    _dir: TempDir,
}

impl FaultFs {
    /// Starts an empty filesystem that keeps ACLs.
    ///
    /// # Errors
    /// When the binary is not found or the mount fails.
    pub fn start() -> Result<FaultFs> {
        FaultFs::start_at(&["mnt"])
    }

    /// Starts one with two mounts of the same tree, as two clients of one volume have it: a request that is stalled in
    /// one holds no lock of the kernel in the other. A rule counts the requests of both.
    ///
    /// # Errors
    /// See [`FaultFs::start`].
    pub fn start_for_two() -> Result<FaultFs> {
        FaultFs::start_at(&["mnt", "other"])
    }

    fn start_at(names: &[&str]) -> Result<FaultFs> {
        let dir = tempfile::Builder::new().prefix("faultfs-").tempdir()?;
        let mountpoints: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
        let socket = dir.path().join("control");
        mountpoints.iter().try_for_each(std::fs::create_dir)?;
        let binary = find_binary()?;
        let mut child = Command::new(&binary)
            .args(&mountpoints)
            .arg("--control")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        match connect(&mut child, &socket) {
            Ok(control) => Ok(FaultFs { child, control, mountpoints, _dir: dir }),
            Err(error) => {
                dispose(&mut child, &mountpoints);
                Err(error)
            }
        }
    }

    /// The mountpoint.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoints[0]
    }

    /// The mountpoint of a client, counted from 0.
    ///
    /// # Panics
    /// There is no second one unless it was started for two.
    #[must_use]
    pub fn client(&self, number: usize) -> &Path {
        &self.mountpoints[number]
    }

    /// Dies at the mutating request with this number, counted from 1 since the last reboot, restore or reset.
    ///
    /// # Errors
    /// As all methods here: when the server is gone or refuses.
    pub fn crash_at(&self, point: u64, when: When) -> Result<()> {
        self.done(&Request::CrashAt { point, when })
    }

    /// Dies now.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn crash(&self) -> Result<()> {
        self.done(&Request::Crash)
    }

    /// Comes back with what survived. Open descriptors turn stale; numbering, trace, counts and faults start afresh.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn reboot(&self, survive: Survive) -> Result<()> {
        self.done(&Request::Reboot { survive })
    }

    /// Adds a fault.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn inject(&self, rule: Rule) -> Result<()> {
        self.done(&Request::Inject(rule))
    }

    /// Fails the `nth` matching request from now.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn fail(&self, op: impl Into<Match>, nth: u64, errno: i32) -> Result<()> {
        self.inject(Rule::new(op, Action::Fail(errno)).nth(nth))
    }

    /// Lets the `nth` matching read or write from now move at most so many bytes.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn short(&self, op: Op, nth: u64, bytes: u32) -> Result<()> {
        self.inject(Rule::new(op, Action::Short(bytes)).nth(nth))
    }

    /// Holds the `nth` matching request from now back for so long.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn delay(&self, op: impl Into<Match>, nth: u64, time: Duration) -> Result<()> {
        let millis = time.as_millis() as u64;
        self.inject(Rule::new(op, Action::Delay(millis)).nth(nth))
    }

    /// Holds the `nth` matching request from now back until [`FaultFs::release`].
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn stall(&self, op: impl Into<Match>, nth: u64) -> Result<()> {
        self.inject(Rule::new(op, Action::Stall).nth(nth))
    }

    /// Waits until so many requests are stalled.
    ///
    /// # Errors
    /// Also when that does not happen within ten seconds.
    pub fn await_stalled(&self, count: u32) -> Result<()> {
        let timeout_ms = 10_000;
        self.done(&Request::AwaitStalled { count, timeout_ms })
    }

    /// Lets go of all stalled requests.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn release(&self) -> Result<()> {
        self.done(&Request::Release)
    }

    /// ENOSPC for writes that would store more than so many bytes, counted in whole 4 KiB pages.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn full(&self, bytes: Option<u64>) -> Result<()> {
        self.done(&Request::Full { bytes })
    }

    /// Every fsync from now on says yes and does nothing.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn lie_fsync(&self) -> Result<()> {
        self.inject(Rule::new(Op::Fsync, Action::Lie).every())
    }

    /// Flips one bit in what the `nth` read from now returns.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn corrupt_read(&self, nth: u64) -> Result<()> {
        self.inject(Rule::new(Op::Read, Action::Corrupt).nth(nth))
    }

    /// Keeps ACLs, or refuses them with EOPNOTSUPP like a GlusterFS mount without `acl`; survives reboots.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn acl(&self, on: bool) -> Result<()> {
        self.done(&Request::Acl { on })
    }

    /// Removes all rules, the crash point and the space limit.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn clear_faults(&self) -> Result<()> {
        self.done(&Request::ClearFaults)
    }

    /// Restarts trace, counts and the numbering of crash points.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn clear_trace(&self) -> Result<()> {
        self.done(&Request::ClearTrace)
    }

    /// Removes a tree as another client would; path relative to the mountpoint.
    ///
    /// # Errors
    /// Also when there is no such path.
    pub fn remove_behind(&self, path: &str) -> Result<()> {
        let path = path.to_owned();
        self.done(&Request::RemoveBehind { path })
    }

    /// The mutating requests so far.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn trace(&self) -> Result<Vec<TraceEntry>> {
        match self.ask(&Request::Trace)? {
            Reply::Trace(trace) => Ok(trace),
            reply => bail!("unexpected reply {reply:?}"),
        }
    }

    /// Requests so far by kind.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn counts(&self) -> Result<BTreeMap<Op, u64>> {
        match self.ask(&Request::Counts)? {
            Reply::Counts(counts) => Ok(counts),
            reply => bail!("unexpected reply {reply:?}"),
        }
    }

    /// How things are.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            reply => bail!("unexpected reply {reply:?}"),
        }
    }

    /// Starts over with an empty tree and no faults.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn reset(&self) -> Result<()> {
        self.done(&Request::Reset)
    }

    /// Keeps the tree as it is now under a name.
    ///
    /// # Errors
    /// See [`FaultFs::crash_at`].
    pub fn snapshot(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.done(&Request::Snapshot { name })
    }

    /// Starts over with a kept tree, all of it durable, and no faults; brings a dead filesystem back to life.
    ///
    /// # Errors
    /// Also when there is no such snapshot.
    pub fn restore(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.done(&Request::Restore { name })
    }

    /// Kills the server process as a crash of the client would: the mount stays and answers ENOTCONN from the kernel.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn done(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            reply => bail!("unexpected reply {reply:?}"),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        send(control.get_mut(), request).context("ask faultfs")?;
        match receive(&mut *control).context("hear from faultfs")? {
            Some(Reply::Refused(reason)) => bail!("faultfs refused: {reason}"),
            Some(reply) => Ok(reply),
            None => bail!("faultfs hung up"),
        }
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        dispose(&mut self.child, &self.mountpoints);
    }
}

/// Aborts the connection before killing: a process waiting in the mount must get its error, not wait for ever.
fn dispose(child: &mut Child, mountpoints: &[PathBuf]) {
    let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    for mountpoint in mountpoints {
        let _not_mounted = umount2(mountpoint, flags);
    }
    let _already_dead = child.kill();
    let _already_reaped = child.wait();
}

fn connect(child: &mut Child, socket: &Path) -> Result<Mutex<BufReader<UnixStream>>> {
    let stdout = child.stdout.take().context("no pipe from faultfs")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "ready\n", "faultfs did not start: {line:?}");
    let stream = UnixStream::connect(socket).context("connect to faultfs")?;
    stream.set_read_timeout(Some(REPLY_MAX))?;
    Ok(Mutex::new(BufReader::new(stream)))
}

fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FAULTFS_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    let candidates = exe.ancestors().skip(1).take(3).map(|dir| dir.join("faultfs"));
    let mut found = candidates.filter(|path| path.is_file());
    found.next().with_context(|| {
        format!(
            "no faultfs near {}: build it (cargo build -p tidegate-tests --bin faultfs) or set FAULTFS_BIN",
            exe.display()
        )
    })
}
