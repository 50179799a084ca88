//! Where the story happens: two hosts with a GlusterFS volume between them, or two directories.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use harness::lab::{BrickFs, HostProcess, Lab, Layout, Signal};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::tell;

/// The GlusterFS volume.
const SYNC: &str = "sync";
/// Any command of the story takes seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// The two hosts.
pub struct Site {
    lab: Option<Lab>,
    tidegate: PathBuf,
    hosts: Vec<Place>,
}

/// One host as the story knows it.
pub struct Place {
    /// Its prompt.
    pub name: String,
    /// The volume as typed.
    pub volume: String,
    /// The mirror as typed.
    pub mirror: String,
    /// Directory that holds the volume, as this process sees it.
    pub local: PathBuf,
    /// Directory that holds mirror and ledger, as this process sees it without touching a mount.
    pub storage: PathBuf,
    state: PathBuf,
    cwd: PathBuf,
}

/// How a command ended.
pub struct Done {
    /// What it printed for people or scripts.
    pub stdout: String,
    /// Its exit code; -1 for a signal.
    pub code: i32,
}

/// A command that runs.
pub enum Running {
    /// In a host of the lab.
    Host(HostProcess),
    /// Here.
    Here(Child),
}

impl Site {
    /// Two real hosts and a replicated volume, mounted on both at `/mnt/sync`.
    pub fn cluster(tidegate: &Path) -> Result<Site> {
        tell::heading("Two hosts and a replicated GlusterFS volume between them");
        let begin = Instant::now();
        let lab = Lab::builder().hosts(2).brick(BrickFs::Xfs, "4G").start()?;
        // Five seconds instead of 42 until a dead host is given up.
        lab.volume(SYNC, Layout::Replica(2)).option("network.ping-timeout", "5").create_and_start()?;
        let mut hosts = Vec::new();
        for host in lab.hosts() {
            let local = host.dir().join("srv");
            fs::create_dir(&local)?;
            // In the host's own mount namespace: nothing of it is seen outside.
            host.sh(&format!("mount --bind {} /srv && mount -t tmpfs tmpfs /mnt", local.display()))?;
            host.mount_at(SYNC, Path::new("/mnt/sync"), &["acl"])?;
            host.wait_all_bricks_connected(SYNC)?;
            hosts.push(Place {
                name: host.name().to_owned(),
                volume: "/srv/jenkins_home".into(),
                mirror: "/mnt/sync/blue".into(),
                storage: host.outside(host.brick_dir().join(format!("{SYNC}-0"))),
                state: host.dir().join("state"),
                cwd: "/".into(),
                local,
            });
        }
        let other = lab.host(1).name();
        tell::text(&format!("up in {:.1} s; on {}:", begin.elapsed().as_secs_f64(), lab.host(0).name()));
        tell::typed(
            lab.host(0).name(),
            &format!(
                "mount -t glusterfs -o acl,backup-volfile-servers={other} {}:/{SYNC} /mnt/sync",
                lab.host(0).name()
            ),
        );
        Ok(Site { lab: Some(lab), tidegate: tidegate.to_owned(), hosts })
    }

    /// Two installations of tidegate on this machine and a directory instead of GlusterFS.
    pub fn embedded(tidegate: &Path, scratch: &Path) -> Result<Site> {
        tell::heading("Two installations of tidegate, and a plain directory in place of a GlusterFS mount");
        let storage = scratch.join("sync");
        fs::create_dir(&storage)?;
        let mut hosts = Vec::new();
        for name in ["host0", "host1"] {
            let local = scratch.join(name);
            fs::create_dir(&local)?;
            hosts.push(Place {
                name: name.into(),
                volume: format!("{name}/jenkins_home"),
                mirror: "sync/blue".into(),
                state: scratch.join(format!("{name}-state")),
                storage: storage.clone(),
                cwd: scratch.to_owned(),
                local,
            });
        }
        Ok(Site { lab: None, tidegate: tidegate.to_owned(), hosts })
    }

    /// A host by number.
    pub fn host(&self, number: usize) -> &Place {
        &self.hosts[number]
    }

    /// Whether there is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.lab.is_some()
    }

    /// Shows and runs `tidegate ARGS` on a host and shows what it printed.
    ///
    /// # Errors
    /// It ended with a code that is not among `expected`.
    pub fn tidegate(&self, number: usize, args: &[&str], expected: &[i32]) -> Result<Done> {
        let host = self.host(number);
        tell::typed(&host.name, &format!("tidegate {}", args.join(" ")));
        let begin = Instant::now();
        let done = harness::lab::run(&mut self.command(number, args), LIMIT)?;
        let code = done.status.code().unwrap_or(-1);
        let stdout = done.text();
        if !args.contains(&"--json") {
            tell::printed(&stdout);
        }
        tell::printed(&String::from_utf8_lossy(&done.stderr));
        tell::took(begin.elapsed(), code);
        if !expected.contains(&code) {
            bail!("{}: tidegate {} ended with {}, not {expected:?}", host.name, args.join(" "), done.status);
        }
        Ok(Done { stdout, code })
    }

    /// Shows and starts `tidegate ARGS` on a host, its output thrown away.
    pub fn start(&self, number: usize, args: &[&str]) -> Result<Running> {
        let host = self.host(number);
        tell::typed(&host.name, &format!("tidegate {} &", args.join(" ")));
        let mut command = self.command(number, args);
        command.stdout(Stdio::null()).stderr(Stdio::from(File::create(host.local.join(".stderr"))?));
        Ok(match &self.lab {
            Some(lab) => Running::Host(lab.host(number).spawn(&mut command)?),
            None => Running::Here(command.spawn()?),
        })
    }

    fn command(&self, number: usize, args: &[&str]) -> Command {
        let host = self.host(number);
        let mut command = match &self.lab {
            // tidegate reads /proc, so it needs the pid namespace too.
            Some(lab) => lab.host(number).cmd(&self.tidegate),
            None => Command::new(&self.tidegate),
        };
        command.args(args).env("TIDEGATE_STATE_DIR", &host.state).current_dir(&host.cwd).stdin(Stdio::null());
        command
    }

    /// Cuts the power of the first host: every process of it dies at once, GlusterFS and all.
    pub fn kill_first_host(&self) -> Result<()> {
        if let Some(lab) = &self.lab {
            kill(Pid::from_raw(lab.host(0).init_pid()), Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Takes everything down and looks whether anything is left.
    pub fn down(mut self) -> Result<()> {
        let Some(lab) = self.lab.take() else { return Ok(()) };
        let dir = lab.dir().to_owned();
        lab.down()?;
        let left = Lab::leftovers_of(&dir);
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

impl Running {
    /// Pid as seen from here.
    pub fn pid(&self) -> i32 {
        match self {
            Running::Host(process) => process.pid(),
            Running::Here(child) => child.id() as i32,
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(match self {
            Running::Host(process) => process.try_wait()?.is_some(),
            Running::Here(child) => child.try_wait()?.is_some(),
        })
    }

    /// `kill -9`, and its end.
    pub fn kill(&mut self) -> Result<()> {
        match self {
            Running::Host(process) => process.kill().map(drop),
            Running::Here(child) => {
                child.kill()?;
                child.wait()?;
                Ok(())
            }
        }
    }
}
