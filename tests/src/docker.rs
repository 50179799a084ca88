//! A real Docker engine in a temporary directory, for tests.
//!
//! It changes nothing on the machine: no bridge, no firewall rules, no forwarding. It can be started inside a host
//! of the [lab](crate::lab) by giving the command that enters the host's namespaces.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::gate::Need;
use crate::lab::{Seen, run, wait_until};

/// What a test needs from the machine to start an engine.
pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Program("dockerd"),
    Need::Program("containerd"),
    Need::Program("runc"),
    Need::Program("docker"),
    Need::Program("umount"),
];

/// An engine starts in one to three seconds on an idle machine with two cores.
const START_LIMIT: Duration = Duration::from_secs(60);
/// More than the engine itself allows its containers.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A running engine with nothing in it. Dropping it stops it, unmounts what it left, and removes its files.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    prefix: Vec<String>,
    /// Removed last.
    dir: TempDir,
}

impl Engine {
    /// Starts an engine on this machine.
    ///
    /// # Errors
    /// It did not answer in time; the error ends with the last lines of its log.
    pub fn start() -> Result<Engine> {
        Engine::start_with(Vec::new())
    }

    /// Starts an engine behind a command that enters other namespaces and then becomes what follows it, such as
    /// `["nsenter", "-t", "1234", "-m", "-n", "--"]`: pids have to stay those of this process, and the temporary
    /// directory has to be the same one inside.
    ///
    /// # Errors
    /// As for [`Engine::start`].
    pub fn start_with(prefix: Vec<String>) -> Result<Engine> {
        let dir = tempfile::Builder::new()
            .prefix("engine-")
            .tempdir()
            .context("make a directory for the engine")?;
        // As the engine spells it: it resolves symlinks itself.
        let place = dir.path().canonicalize()?;
        let log = File::create(place.join("log")).context("create the engine's log")?;
        // Instead of the machine's own, which may contradict what follows.
        let config = place.join("config.json");
        fs::write(&config, "{}").context("write the engine's config")?;
        let mut command = prefixed(&prefix, "dockerd");
        command
            .arg("--data-root")
            .arg(place.join("data"))
            .arg("--exec-root")
            .arg(place.join("exec"))
            .arg("--pidfile")
            .arg(place.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", place.join("sock").display()))
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .arg("--config-file")
            .arg(&config)
            .args(["--shutdown-timeout", "3"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let mut engine = Engine { child, prefix, dir };
        let ready = engine.wait_until_ready();
        ready.with_context(|| format!("the engine's log ends with: {}", engine.last_words()))?;
        Ok(engine)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Where it keeps volumes: their files are in `NAME/_data`.
    pub fn volumes(&self) -> PathBuf {
        self.dir.path().join("data/volumes")
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Runs Docker's own client against it and answers with what that prints, as an oracle for ours.
    ///
    /// # Errors
    /// The client failed; the error has what it said.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        let finished = run(command.args(args), COMMAND_LIMIT)?;
        if !finished.status.success() {
            bail!("docker {}: {}", args.join(" "), finished.explain());
        }
        Ok(finished.text().trim().to_owned())
    }

    /// Makes an image with nothing in it: enough to create containers, not to run them.
    ///
    /// # Errors
    /// The import failed.
    pub fn empty_image(&self, tag: &str) -> Result<()> {
        // Two blocks of zeros are a tar archive without members.
        let archive = self.dir.path().join("empty.tar");
        fs::write(&archive, [0; 1024])?;
        self.cli(&["import", &archive.display().to_string(), tag]).map(drop)
    }

    /// Makes an image whose programs are this machine's: `/usr` has to be mounted into its containers.
    ///
    /// # Errors
    /// The import failed.
    pub fn host_image(&self, tag: &str) -> Result<()> {
        let root = self.dir.path().join("image");
        for dir in ["usr", "data", "tmp", "dev", "proc", "etc"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
        }
        let archive = self.dir.path().join("image.tar");
        let finished =
            run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."), COMMAND_LIMIT)?;
        if !finished.status.success() {
            bail!("tar: {}", finished.explain());
        }
        self.cli(&["import", &archive.display().to_string(), tag]).map(drop)
    }

    /// Stops it in an orderly way and waits for its end; further calls do nothing.
    ///
    /// # Errors
    /// It could not be signalled, or had to be killed after [`STOP_LIMIT`], which leaves its containers behind.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).context("send SIGTERM to the engine")?;
        let child = &mut self.child;
        let ended = wait_until("the engine has stopped", STOP_LIMIT, || {
            Ok(Seen::when(child.try_wait()?.is_some(), || "still running".into()))
        });
        if ended.is_err() {
            // Takes its containerd with it, by the signal that one gets when its parent dies.
            self.child.kill().context("kill the engine")?;
            self.child.wait().context("wait for the killed engine")?;
        }
        ended
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let socket = self.socket();
        let child = &mut self.child;
        wait_until("the engine answers", START_LIMIT, || {
            if let Some(status) = child.try_wait()? {
                bail!("the engine ended: {status}");
            }
            Ok(match ping(&socket) {
                Ok(()) => Seen::Done(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let from = log.lines().count().saturating_sub(10);
        log.lines().skip(from).collect::<Vec<_>>().join("\n")
    }

    /// Detaches every mount below our directory, the deepest first, as seen from the engine's namespaces.
    fn unmount_all(&self) -> Result<()> {
        let place = self.dir.path().canonicalize()?;
        let below = format!("{}/", place.display());
        let list = run(prefixed(&self.prefix, "cat").arg("/proc/self/mountinfo"), COMMAND_LIMIT)?.text();
        let mut points: Vec<&str> = list.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        points.retain(|point| point.starts_with(&below));
        points.sort_by_key(|point| std::cmp::Reverse(point.len()));
        for point in points {
            let finished = run(prefixed(&self.prefix, "umount").args(["--lazy", point]), COMMAND_LIMIT)?;
            if !finished.status.success() {
                bail!("umount {point}: {}", finished.explain());
            }
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for outcome in [self.stop(), self.unmount_all()] {
            if let Err(error) = outcome {
                eprintln!("stopping the Docker engine of a test: {error:#}");
            }
        }
    }
}

fn prefixed(prefix: &[String], program: &str) -> Command {
    match prefix.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Asks as plainly as possible, without any of the code under test.
fn ping(socket: &Path) -> Result<()> {
    const ANSWER_LIMIT: Duration = Duration::from_secs(5);
    let begin = Instant::now();
    let mut stream = UnixStream::connect(socket).context("connect")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).with_context(|| format!("read for {:?}", begin.elapsed()))?;
    if !answer.starts_with(b"HTTP/1.0 200") {
        bail!("answered {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
