//! Making volumes and waiting for their processes.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cluster::Lab;
use super::run::{Seen, wait_until};
use super::xml;

/// glusterd takes up to 15 s to see that a killed self-heal daemon has to be started again.
const ONLINE_LIMIT: Duration = Duration::from_secs(60);

/// How the bricks of a volume belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// That many full copies, on the first hosts.
    Replica(usize),
    /// Two full copies and an arbiter, on the first three hosts.
    Arbiter,
    /// Files spread over `sets`, each kept in `copies`; sets go round the hosts.
    Distributed {
        /// How many replica sets.
        sets: usize,
        /// How many copies in each.
        copies: usize,
    },
}

impl Layout {
    fn sets_and_copies(self) -> (usize, usize) {
        match self {
            Layout::Replica(copies) => (1, copies),
            Layout::Arbiter => (1, 3),
            Layout::Distributed { sets, copies } => (sets, copies),
        }
    }

    /// Words of `volume create` between the name and the bricks.
    fn words(self) -> Vec<String> {
        match self {
            Layout::Arbiter => ["replica", "3", "arbiter", "1"].map(str::to_owned).into(),
            Layout::Replica(copies) | Layout::Distributed { copies, .. } => {
                vec!["replica".into(), copies.to_string()]
            }
        }
    }

    /// Host and directory name of every brick, in the order that gluster groups into sets.
    fn bricks(self, volume: &str, hosts: usize) -> Result<Vec<(usize, String)>> {
        let (sets, copies) = self.sets_and_copies();
        if sets == 0 || copies < 2 || copies > hosts {
            bail!("{self:?} does not fit on {hosts} hosts");
        }
        let place = |brick: usize| (brick % hosts, format!("{volume}-{}", brick / copies));
        Ok((0..sets * copies).map(place).collect())
    }
}

/// A volume to be made; see [`Lab::volume`].
#[derive(Debug)]
#[must_use = "nothing is made before create_and_start"]
pub struct VolumeBuilder<'lab> {
    lab: &'lab Lab,
    name: String,
    layout: Layout,
    options: Vec<(String, String)>,
}

impl VolumeBuilder<'_> {
    /// Sets a volume option.
    pub fn option(mut self, key: &str, value: &str) -> Self {
        self.options.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Creates the volume, sets its options, starts it and waits until all its processes run.
    pub fn create_and_start(self) -> Result<()> {
        let host = self.lab.host(0);
        let mut words: Vec<String> = ["volume", "create", &self.name].map(str::to_owned).into();
        words.extend(self.layout.words());
        for (on, directory) in self.layout.bricks(&self.name, self.lab.hosts().len())? {
            let on = self.lab.host(on);
            words.push(format!("{}:{}", on.name(), on.brick_dir().join(directory).display()));
        }
        // Replica 2 and a brick on a loop device are accepted only by force.
        words.push("force".into());
        host.gluster(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        if !self.options.is_empty() {
            let mut set = vec!["volume", "set", &self.name];
            set.extend(self.options.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]));
            host.gluster(&set)?;
        }
        host.gluster(&["volume", "start", &self.name])?;
        self.lab.wait_online(&self.name)
    }
}

impl Lab {
    /// Prepares a volume over the first hosts of the lab.
    pub fn volume(&self, name: &str, layout: Layout) -> VolumeBuilder<'_> {
        VolumeBuilder { lab: self, name: name.to_owned(), layout, options: Vec::new() }
    }

    /// Sets one option of a volume.
    pub fn set_option(&self, volume: &str, key: &str, value: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "set", volume, key, value]).map(drop)
    }

    /// Stops a volume: its bricks end, clients stay and get errors.
    pub fn stop_volume(&self, volume: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "stop", volume]).map(drop)
    }

    /// Starts a stopped volume and waits until its processes run and every client mounted by the lab is
    /// connected to all of them.
    pub fn start_volume(&self, volume: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "start", volume])?;
        self.wait_online(volume)?;
        self.wait_all_bricks_connected(volume)
    }

    /// Starts the processes of a volume that are missing and waits until all run, on the hosts whose `glusterd`
    /// the first one reaches. Clients connect again a moment later: [`Lab::wait_all_bricks_connected`].
    pub fn start_force(&self, volume: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "start", volume, "force"])?;
        self.wait_online(volume)
    }

    /// Waits until every client of the volume mounted by the lab is connected to every brick.
    pub fn wait_all_bricks_connected(&self, volume: &str) -> Result<()> {
        let clients = self.hosts().iter().filter(|host| host.has_mounted(volume));
        clients.into_iter().try_for_each(|host| host.wait_all_bricks_connected(volume))
    }

    /// Waits until gluster reports every brick and self-heal daemon of the volume as running.
    fn wait_online(&self, volume: &str) -> Result<()> {
        wait_until(&format!("every process of {volume} is online"), ONLINE_LIMIT, || {
            let nodes = xml::status_nodes(&self.host(0).gluster_xml(&["volume", "status", volume])?)?;
            let down: Vec<_> = nodes
                .iter()
                .filter(|node| !node.online)
                .map(|node| format!("{}:{}", node.host, node.path))
                .collect();
            Ok(Seen::when(!nodes.is_empty() && down.is_empty(), || {
                format!("{} processes, offline: {down:?}", nodes.len())
            }))
        })
    }

    /// Makes every operation on every brick of a volume take that much longer, without using the processor;
    /// 0 takes the delay away. The volume is stopped and started, so descriptors opened before may be dead.
    pub fn set_brick_delay(&self, volume: &str, micros: u64) -> Result<()> {
        let host = self.host(0);
        if micros == 0 {
            host.gluster(&["volume", "reset", volume, "delay-gen"]).context("was there a delay?")?;
        } else {
            host.gluster(&["volume", "set", volume, "delay-gen", "posix"])?;
            host.gluster(&[
                "volume",
                "set",
                volume,
                "delay-gen.delay-percentage",
                "100",
                "delay-gen.delay-duration",
                &micros.to_string(),
            ])?;
        }
        self.stop_volume(volume)?;
        self.start_volume(volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_set_are_on_different_hosts() {
        let bricks = Layout::Distributed { sets: 2, copies: 2 }.bricks("v", 2).unwrap();
        assert_eq!(bricks, [(0, "v-0".into()), (1, "v-0".into()), (0, "v-1".into()), (1, "v-1".into())]);
        let spread = Layout::Distributed { sets: 3, copies: 2 }.bricks("v", 3).unwrap();
        assert_eq!(spread.iter().map(|(host, _)| *host).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn layouts_that_do_not_fit() {
        assert!(Layout::Arbiter.bricks("v", 2).is_err());
        assert!(Layout::Replica(1).bricks("v", 2).is_err());
        assert!(Layout::Distributed { sets: 0, copies: 2 }.bricks("v", 2).is_err());
    }
}
