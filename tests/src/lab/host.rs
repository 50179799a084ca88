//! One host: running programs on it, its files and paths.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::mount::Mounted;
use super::procfs;
use super::run::{Finished, Seen, run, run_with_input, wait_until};
use super::xml::{self, Reply};

/// Where programs are searched on a host.
pub(super) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For commands that do not wait for other hosts.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// glusterd gives up on a silent peer after 120 s.
const GLUSTER_LIMIT: Duration = Duration::from_secs(130);
/// How long another request may hold glusterd's cluster lock before ours gives up.
const BUSY_LIMIT: Duration = Duration::from_secs(40);

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    pub(super) index: usize,
    pub(super) dir: PathBuf,
    pub(super) init: i32,
    pub(super) names: Arc<[String]>,
    pub(super) address: String,
    pub(super) mounts: Mutex<Vec<Mounted>>,
}

impl Host {
    /// Its name, which every host of the lab can resolve.
    pub fn name(&self) -> &str {
        &self.names[self.index]
    }

    /// Its address on the switch.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its number, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its first process, numbered as outside.
    pub fn init_pid(&self) -> i32 {
        self.init
    }

    /// A directory of its own for anything; plain files in it have the same path inside and outside the host.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the filesystem of its bricks is mounted (inside the host); the bricks of a volume are below it.
    pub fn brick_dir(&self) -> PathBuf {
        self.dir.join("brick")
    }

    /// Where GlusterFS logs on this host; it ends with the lab, unless `TIDEGATE_LAB_LOGS` names a directory to
    /// copy it to.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// A path of the host as seen from outside, below `/proc`. Following it into a sick mount can hang the
    /// caller for good: use it for local filesystems, and [`Host::read`] for mounts.
    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        procfs::through_root(self.init, path.as_ref())
    }

    /// A command on the host, in all of its namespaces, with standard input closed. The child of this process
    /// is then `nsenter`, and the program below it has another pid: see [`Host::spawn`].
    pub fn cmd(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(&["--mount", "--uts", "--net", "--pid"], program.as_ref())
    }

    /// A command in the mount, UTS and network namespace of the host that keeps the pids of outside: the child
    /// is the program itself. `/proc` on the host does not show it, so `/proc/self` dangles for it; a program
    /// that needs `/proc` has to be started with [`Host::spawn`].
    pub fn cmd_outer_pids(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(&["--mount", "--uts", "--net"], program.as_ref())
    }

    fn enter(&self, namespaces: &[&str], program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.init.to_string())
            .args(namespaces)
            .arg("--wd=/")
            .arg("--")
            .arg(program);
        command.env("PATH", SEARCH_PATH).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs a program that has to succeed and returns what it printed.
    ///
    /// # Errors
    /// It failed or took more than a minute; the error holds the command, its status and both outputs.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.run_within(argv, RUN_LIMIT)
    }

    /// Like [`Host::run`] with another deadline.
    pub fn run_within(&self, argv: &[&str], limit: Duration) -> Result<String> {
        let done = self.finish(argv, limit)?;
        if !done.status.success() {
            bail!("{}: {}: {}", self.name(), argv.join(" "), done.explain());
        }
        Ok(done.text())
    }

    /// Runs a program to its end, whatever its exit status.
    ///
    /// # Errors
    /// It could not start or did not end in time.
    pub fn finish(&self, argv: &[&str], limit: Duration) -> Result<Finished> {
        run(&mut self.command(argv)?, limit).with_context(|| format!("{}: {}", self.name(), argv.join(" ")))
    }

    /// Runs a shell script that has to succeed and returns what it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(&["bash", "-euo", "pipefail", "-c", script])
    }

    /// Content of a file of the host, read by a process that may hang instead of this one.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let done = run(self.cmd("cat").arg("--").arg(path), RUN_LIMIT)?;
        if !done.status.success() {
            bail!("{}: read {}: {}", self.name(), path.display(), done.explain());
        }
        Ok(done.stdout)
    }

    /// Creates or overwrites a file of the host through a process that may hang instead of this one.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let mut command = self.cmd("bash");
        command.args(["-c", "cat >\"$1\"", "write"]).arg(path);
        let done = run_with_input(&mut command, content.as_ref(), RUN_LIMIT)?;
        if !done.status.success() {
            bail!("{}: write {}: {}", self.name(), path.display(), done.explain());
        }
        Ok(())
    }

    /// Runs the `gluster` tool here in script mode; a request that only meets a busy cluster is repeated.
    pub fn gluster(&self, args: &[&str]) -> Result<String> {
        self.gluster_when_free(args, |done| done.status.success())
    }

    /// Like [`Host::gluster`], asking for XML and judging by what the XML says.
    pub(super) fn gluster_xml(&self, args: &[&str]) -> Result<String> {
        let args = [args, &["--xml"]].concat();
        // Exit status 0 can come with a refusal.
        self.gluster_when_free(&args, |done| matches!(xml::reply(&done.text()), Ok(Reply::Done)))
    }

    fn gluster_when_free(&self, args: &[&str], succeeded: impl Fn(&Finished) -> bool) -> Result<String> {
        let argv = [&["gluster", "--mode=script"], args].concat();
        wait_until("glusterd is free for another request", BUSY_LIMIT, || {
            let done = self.finish(&argv, GLUSTER_LIMIT)?;
            if succeeded(&done) {
                return Ok(Seen::Done(done.text()));
            }
            let why = done.explain();
            if is_busy(&why) {
                return Ok(Seen::NotYet(why));
            }
            bail!("{}: {}: {why}", self.name(), argv.join(" "));
        })
    }

    fn command(&self, argv: &[&str]) -> Result<Command> {
        let (program, args) = argv.split_first().context("a command needs a program")?;
        let mut command = self.cmd(program);
        command.args(args);
        Ok(command)
    }
}

/// Whether glusterd refused only because another request holds its lock.
fn is_busy(message: &str) -> bool {
    ["Another transaction is in progress", "Locking failed", "please retry", "<opErrno>30802<"]
        .iter()
        .any(|sign| message.contains(sign))
}
