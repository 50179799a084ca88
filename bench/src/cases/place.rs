//! Where an agent is measured: its volumes on a disk of their own, its mirrors on another or on a cluster.

use std::path::{Path, PathBuf};

use anyhow::Result;
use harness::lab::{BrickFs, Host};

use super::cluster::Cluster;
use crate::Args;
use crate::agent::{Agent, LaneDirs};
use crate::disk::Disk;

/// Kinds of mirrors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mirrors {
    /// On another local disk.
    Local,
    /// On a volume of two hosts.
    Gluster,
}

/// One of them, made.
pub struct Place {
    /// Volumes, and the agent's state as in an installation: `/var/lib` holds both.
    pub volumes: Disk,
    local: Option<Disk>,
    cluster: Option<Cluster>,
    program: PathBuf,
}

impl Place {
    /// With disks of `gib` each, sparse.
    ///
    /// # Errors
    /// Disks or cluster cannot be made.
    pub fn new(args: &Args, mirrors: Mirrors, gib: u64) -> Result<Self> {
        // Before the cluster: its hosts see what is mounted when they begin.
        let volumes = Disk::new(&args.scratch, "volumes", gib)?;
        let (mut local, mut cluster) = (None, None);
        match mirrors {
            Mirrors::Local => local = Some(Disk::new(&args.scratch, "mirrors", gib)?),
            Mirrors::Gluster => cluster = Some(Cluster::start(args, args.brick().unwrap_or(BrickFs::Xfs))?),
        }
        Ok(Self { volumes, local, cluster, program: std::fs::canonicalize(&args.tidegate)? })
    }

    /// The cluster, if it is one.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    fn host(&self) -> Option<&Host> {
        self.cluster.as_ref().map(|cluster| cluster.host(0))
    }

    /// Volume and mirror of a lane; the volume is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn lane(&self, name: &str) -> Result<LaneDirs> {
        let mirrors = match (&self.local, &self.cluster) {
            (Some(disk), _) => disk.path(),
            (None, Some(cluster)) => cluster.mount(),
            (None, None) => Path::new("/"),
        };
        let volume = self.volumes.dir(&format!("volumes/{name}"))?;
        Ok(LaneDirs { name: name.to_owned(), volume, mirror: mirrors.join(name) })
    }

    /// Directory with state, configuration and log of the agent `name`.
    pub fn base(&self, name: &str) -> PathBuf {
        self.volumes.path().join(name)
    }

    /// Starts an agent with the defaults and `settings`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn agent(&self, name: &str, lanes: &[LaneDirs], settings: &str) -> Result<Agent> {
        Agent::start(&self.program, self.host(), &self.base(name), lanes, settings)
    }

    /// Takes it down.
    ///
    /// # Errors
    /// Something of the cluster stays.
    pub fn down(self) -> Result<()> {
        match self.cluster {
            Some(cluster) => cluster.down(),
            None => Ok(()),
        }
    }
}
