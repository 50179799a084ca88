//! Starting a lab: hosts up, wired and peered.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::host::Host;
use super::init::{BrickFs, Init, Spec};
use super::network::{self, Switch};
use super::run::{Seen, wait_until};
use super::{size, teardown, xml};
use crate::gate::Need;

/// Addresses end at 10 + 31.
const HOSTS_MAX: usize = 32;
const READY_LIMIT: Duration = Duration::from_secs(60);
const PEER_LIMIT: Duration = Duration::from_secs(60);

/// What a machine must offer for a lab; for [`gate::require`](crate::gate::require).
pub const NEEDS: &[Need] = &[
    Need::Root,
    Need::Namespaces,
    Need::Fuse,
    Need::LoopDevices,
    Need::Program("glusterd"),
    Need::Program("gluster"),
    Need::Program("mount.glusterfs"),
    Need::Program("ip"),
    Need::Program("iptables"),
    Need::Program("mkfs.ext4"),
    Need::Program("mkfs.xfs"),
];

/// Settings of a lab; see [`Lab::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing runs before start"]
pub struct Builder {
    hosts: usize,
    filesystem: BrickFs,
    brick_size: String,
}

impl Builder {
    /// How many hosts; 2 unless told.
    pub fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// Filesystem and size (`512M`, `4G`) of each host's bricks; ext4 of 2G unless told. The file behind it is
    /// sparse.
    pub fn brick(mut self, filesystem: BrickFs, size: &str) -> Self {
        self.filesystem = filesystem;
        self.brick_size = size.to_owned();
        self
    }

    /// Starts the hosts, wires them and makes them peers. Leftovers of labs whose process died are swept first.
    ///
    /// # Errors
    /// The error names the step and holds the host's own log; nothing is left running.
    pub fn start(self) -> Result<Lab> {
        if self.hosts == 0 || self.hosts > HOSTS_MAX {
            bail!("a lab has 1 to {HOSTS_MAX} hosts, not {}", self.hosts);
        }
        let brick_bytes = size::bytes(&self.brick_size)?;
        if let Err(error) = Lab::sweep() {
            // Somebody else's remains must not stop this lab, which shares nothing with them.
            eprintln!("lab: sweep: {error:#}");
        }
        let (dir, lock) = teardown::claim()?;
        let mut lab = Lab { dir, _lock: lock, switch: None, inits: Vec::new(), hosts: Vec::new() };
        // From here on dropping `lab` cleans up, also on the way out with an error.
        lab.boot(self.hosts, self.filesystem, brick_bytes).context("start the hosts")?;
        lab.peer().context("make the hosts peers")?;
        Ok(lab)
    }
}

/// A running cluster; dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Lab {
    pub(super) dir: PathBuf,
    /// Held as long as the lab lives; tells a sweep that it does.
    _lock: File,
    pub(super) switch: Option<Switch>,
    pub(super) inits: Vec<Init>,
    pub(super) hosts: Vec<Host>,
}

impl Lab {
    /// Settings for a new lab.
    pub fn builder() -> Builder {
        Builder { hosts: 2, filesystem: BrickFs::Ext4, brick_size: "2G".into() }
    }

    /// A host, counted from 0.
    ///
    /// # Panics
    /// There is no such host.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Directory of the lab on this machine; gone after the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Silently drops all traffic between two hosts, and only between them.
    pub fn cut(&self, one: usize, other: usize) -> Result<()> {
        let (one, other) = (self.host(one), self.host(other));
        one.drop_traffic(other.address())?;
        other.drop_traffic(one.address())
    }

    /// Lifts every partition and cut.
    pub fn heal_network(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::restore_network)
    }

    fn boot(&mut self, count: usize, filesystem: BrickFs, brick_bytes: u64) -> Result<()> {
        let names: std::sync::Arc<[String]> = (0..count).map(|host| format!("host{host}")).collect();
        let hosts_file = network::hosts_file(&names);
        let switch = self.switch.insert(Switch::start()?);
        for (index, name) in names.iter().enumerate() {
            let dir = self.dir.join(name);
            fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
            let address = network::address(index);
            let spec = Spec {
                dir: &dir,
                name,
                filesystem,
                brick_bytes,
                address: format!("{address}/24"),
                hosts: &hosts_file,
            };
            let init = Init::start(&spec)?;
            let host =
                Host { index, dir, init: init.pid, names: names.clone(), address, mounts: Mutex::default() };
            self.inits.push(init);
            self.hosts.push(host);
        }
        for (host, init) in self.hosts.iter().zip(&mut self.inits) {
            let wired = switch.connect(host.index(), init.pid);
            wired.with_context(|| format!("{}: {}", host.name(), init.log(host.dir())))?;
            init.wired()?;
        }
        for (host, init) in self.hosts.iter().zip(&mut self.inits) {
            init.wait_ready(host.dir(), READY_LIMIT)?;
        }
        Ok(())
    }

    fn peer(&self) -> Result<()> {
        let Some((first, others)) = self.hosts.split_first() else { return Ok(()) };
        for other in others {
            // A glusterd that has just started may not listen yet.
            wait_until(&format!("{} accepts {}", first.name(), other.name()), PEER_LIMIT, || {
                Ok(match first.gluster_xml(&["peer", "probe", other.name()]) {
                    Ok(_) => Seen::Done(()),
                    Err(error) => Seen::NotYet(format!("{error:#}")),
                })
            })?;
        }
        self.wait_peers()
    }

    /// Waits until every host sees every other one as a connected peer; a request that involves a doubting
    /// one is refused, and `volume status` leaves out what it does not reach.
    pub fn wait_peers(&self) -> Result<()> {
        let others = self.hosts.len() - 1;
        for host in &self.hosts {
            wait_until(&format!("{} has all others as peers", host.name()), PEER_LIMIT, || {
                let peers = xml::peers(&host.gluster_xml(&["peer", "status"])?)?;
                let settled = peers.iter().filter(|peer| peer.connected && peer.state == 3).count();
                Ok(Seen::when(settled == others, || format!("{peers:?}")))
            })?;
        }
        Ok(())
    }
}
