//! Two hosts with a replicated volume, the work done on the first one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use harness::lab::{BrickFs, Host, Lab, Layout, Profile};
use serde_json::{Value, json};

use crate::Args;
use crate::measure;

/// Sparse: only what is written is used.
const BRICK: &str = "24G";
/// The volume.
const VOLUME: &str = "v";

/// How something is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// `rsync -aHAX --numeric-ids --delete`.
    Rsync,
    /// `tidegate sync --once`: fsynced on every brick.
    Durable,
    /// `tidegate sync --once --durability replicated`: acknowledged by every brick.
    Replicated,
}

impl Way {
    /// All of them, the rival first.
    pub const ALL: [Way; 3] = [Way::Rsync, Way::Durable, Way::Replicated];

    /// Its name in reports and directories.
    pub fn name(self) -> &'static str {
        match self {
            Way::Rsync => "rsync",
            Way::Durable => "tidegate",
            Way::Replicated => "tidegate-replicated",
        }
    }
}

/// A running cluster.
pub struct Cluster {
    lab: Lab,
    mount: PathBuf,
    tidegate: PathBuf,
    /// Filesystem of the bricks.
    pub brick: BrickFs,
}

impl Cluster {
    /// Starts it, mounted on the first host with ACLs, counting operations.
    pub fn start(args: &Args, brick: BrickFs) -> Result<Cluster> {
        println!("\nstarting two hosts with {} bricks", brick.name());
        let lab = Lab::builder().hosts(2).brick(brick, BRICK).start()?;
        lab.volume(VOLUME, Layout::Replica(2)).create_and_start()?;
        let mount = lab.host(0).mount(VOLUME, &["acl"])?;
        lab.profile_start(VOLUME)?;
        Ok(Cluster { lab, mount, tidegate: fs::canonicalize(&args.tidegate)?, brick })
    }

    /// A directory on the first host's local disk, made.
    pub fn local(&self, name: &str) -> Result<PathBuf> {
        let dir = self.lab.host(0).dir().join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// The first host, where tidegate works, or the second, which it replicates to.
    pub fn host(&self, index: usize) -> &Host {
        self.lab.host(index)
    }

    /// The volume's mount on the first host.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The volume mounted on the second host too, seen from here.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn second_mount(&self) -> Result<PathBuf> {
        let host = self.lab.host(1);
        Ok(host.outside(host.mount(VOLUME, &["acl"])?))
    }

    /// The brick of a host, as that host sees it.
    pub fn brick_of(&self, index: usize) -> PathBuf {
        self.lab.host(index).brick_dir().join(format!("{VOLUME}-0"))
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.tidegate
    }

    /// Operations that the bricks were asked for since the start, all of them connected.
    ///
    /// # Errors
    /// A brick is away: what is measured is worthless.
    pub fn profile(&self) -> Result<Profile> {
        self.lab.host(0).assert_all_bricks_connected(VOLUME)?;
        self.lab.profile(VOLUME)
    }

    /// Copies `volume` to the mirror `name` and measures it, with every brick connected before and after.
    ///
    /// # Errors
    /// The copy failed, or the figure is worthless because a brick was away.
    pub fn copy(&self, way: Way, volume: &Path, name: &str) -> Result<(f64, Profile)> {
        let host = self.lab.host(0);
        let mirror = self.mount.join(name);
        let mut command;
        if way == Way::Rsync {
            command = host.cmd("rsync");
            command.args(["-aHAX", "--numeric-ids", "--delete"]).arg(volume.join("")).arg(mirror.join(""));
        } else {
            command = host.cmd(&self.tidegate);
            command.arg("sync").arg(volume).arg(&mirror).arg("--once");
            command.env("TIDEGATE_STATE_DIR", self.local(&format!("state-{name}"))?);
            if way == Way::Replicated {
                command.args(["--durability", "replicated"]);
            }
        }
        // What an earlier measurement left to be written is not to be paid by this one.
        measure::seconds(&mut Command::new("sync"))?;
        host.assert_all_bricks_connected(VOLUME)?;
        let before = self.lab.profile(VOLUME)?;
        let seconds = measure::seconds(&mut command)?;
        let cost = self.lab.profile(VOLUME)?.since(&before);
        host.assert_all_bricks_connected(VOLUME)?;
        Ok((seconds, cost))
    }

    /// Delays every brick operation; 0 takes the delay away.
    pub fn delay(&self, micros: u64) -> Result<()> {
        self.lab.set_brick_delay(VOLUME, micros)
    }

    /// Takes it down.
    pub fn down(self) -> Result<()> {
        self.lab.down()
    }
}

/// Requests per brick, all and per file, and what they were.
pub fn cost(profile: &Profile, files: u64) -> Value {
    let requests = profile.requests();
    let most = requests.iter().copied().max().unwrap_or(0);
    let kinds = profile.bricks.values().next().cloned().unwrap_or_default();
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
    let kinds: serde_json::Map<String, Value> =
        kinds.into_iter().take(20).map(|(kind, hits)| (kind, hits.into())).collect();
    json!({
        "requests_per_brick": requests,
        "requests_per_file_per_brick": (most as f64 / files.max(1) as f64 * 100.0).round() / 100.0,
        "first_brick": kinds,
    })
}
