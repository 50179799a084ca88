//! Mounting volumes on a host, and asking a mount about its bricks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::Host;
use super::meta::BrickView;
use super::procfs;
use super::run::{Seen, wait_until};

/// A mount takes 10 s when one server does not answer.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
const BRICKS_LIMIT: Duration = Duration::from_secs(30);
const META_LIMIT: Duration = Duration::from_secs(10);

/// A mount made by the lab.
#[derive(Debug, Clone)]
pub(super) struct Mounted {
    pub volume: String,
    pub point: PathBuf,
}

impl Host {
    /// Where [`Host::mount`] puts a volume; the path differs from host to host.
    pub fn mount_point(&self, volume: &str) -> PathBuf {
        self.dir().join("mnt").join(volume)
    }

    /// Mounts a volume at [`Host::mount_point`] and waits until every brick is connected.
    ///
    /// The server is this host by its own name: a client mounted from `localhost` never finds a restarted
    /// `glusterd` again. All other hosts are backup servers. `options` are further mount options.
    pub fn mount(&self, volume: &str, options: &[&str]) -> Result<PathBuf> {
        let point = self.mount_point(volume);
        self.mount_at(volume, &point, options)?;
        self.wait_all_bricks_connected(volume)?;
        Ok(point)
    }

    /// Mounts a volume anywhere, like [`Host::mount`] but without a look at the bricks. The directory is made
    /// when missing.
    pub fn mount_at(&self, volume: &str, point: &Path, options: &[&str]) -> Result<()> {
        let target = utf8(point)?;
        self.run(&["mkdir", "-p", target])?;
        let others: Vec<_> =
            self.names.iter().filter(|name| *name != self.name()).map(String::as_str).collect();
        let mut all = options.join(",");
        if !others.is_empty() {
            let comma = if all.is_empty() { "" } else { "," };
            all = format!("backup-volfile-servers={}{comma}{all}", others.join(":"));
        }
        let source = format!("{}:/{volume}", self.name());
        let mut argv = vec!["mount", "-t", "glusterfs"];
        if !all.is_empty() {
            argv.extend(["-o", &all]);
        }
        argv.extend([source.as_str(), target]);
        self.run_within(&argv, MOUNT_LIMIT)?;
        self.lock_mounts().push(Mounted { volume: volume.to_owned(), point: point.to_owned() });
        Ok(())
    }

    /// Detaches every mount of a volume that the lab made here, sick or not, and waits until its client ended;
    /// one that does not end by itself is killed.
    pub fn unmount(&self, volume: &str) -> Result<()> {
        let gone: Vec<_> = self.lock_mounts().extract_if(.., |mounted| mounted.volume == volume).collect();
        if gone.is_empty() {
            bail!("{}: {volume} is not mounted", self.name());
        }
        for mounted in gone {
            let clients = self.clients_at(&mounted.point);
            // A mount that somebody else has removed meanwhile is as good as ours.
            let detached = self.finish(&["umount", "-l", "--", utf8(&mounted.point)?], META_LIMIT)?;
            if !detached.status.success() && !detached.explain().contains("not mounted") {
                bail!("{}: umount {}: {}", self.name(), mounted.point.display(), detached.explain());
            }
            self.end_clients(&clients)?;
        }
        Ok(())
    }

    fn end_clients(&self, clients: &[i32]) -> Result<()> {
        let gone = || clients.iter().all(|pid| !procfs::is_alive(*pid));
        let wait = |limit| {
            wait_until("the client has ended", limit, || {
                Ok(Seen::when(gone(), || format!("{clients:?} alive")))
            })
        };
        if wait(Duration::from_secs(3)).is_ok() {
            return Ok(());
        }
        for pid in clients {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        wait(Duration::from_secs(10))
    }

    /// Clients serving a mount point: it is their last argument.
    fn clients_at(&self, point: &Path) -> Vec<i32> {
        let serves = |argv: &[String]| {
            argv.first().is_some_and(|name| name.ends_with("glusterfs"))
                && argv.last().is_some_and(|last| Path::new(last) == point)
        };
        self.processes().into_iter().filter(|(_, argv)| serves(argv)).map(|(pid, _)| pid).collect()
    }

    /// What the client of a volume mounted here says about its bricks.
    ///
    /// # Errors
    /// The volume is not mounted, or `.meta` does not answer: the client is dead or hung, or all bricks are
    /// gone.
    pub fn bricks(&self, volume: &str) -> Result<BrickView> {
        let point = self.mounted_point(volume)?;
        let script =
            r#"cd "$1/.meta/graphs/active" && grep -sH "" -- *-client-*/private *-replicate-*/private"#;
        let lines = self.run_within(&["bash", "-c", script, "meta", utf8(&point)?], META_LIMIT)?;
        Ok(BrickView::parse(volume, &lines))
    }

    /// Waits until the client of a volume mounted here is connected to every brick.
    pub fn wait_all_bricks_connected(&self, volume: &str) -> Result<()> {
        wait_until(&format!("{} is connected to every brick of {volume}", self.name()), BRICKS_LIMIT, || {
            Ok(match self.bricks(volume) {
                Ok(view) => Seen::when(view.all_up(), || view.summary()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Fails unless the client of a volume mounted here is connected to every brick right now. A figure
    /// measured while a brick was away is wrong: call it before and after every measurement.
    pub fn assert_all_bricks_connected(&self, volume: &str) -> Result<()> {
        let view = self.bricks(volume)?;
        if !view.all_up() {
            bail!("{}: not every brick of {volume} is in use: {}", self.name(), view.summary());
        }
        Ok(())
    }

    pub(super) fn has_mounted(&self, volume: &str) -> bool {
        self.mounted_point(volume).is_ok()
    }

    fn mounted_point(&self, volume: &str) -> Result<PathBuf> {
        let mounts = self.lock_mounts();
        let found = mounts.iter().find(|mounted| mounted.volume == volume);
        Ok(found.with_context(|| format!("{}: {volume} is not mounted", self.name()))?.point.clone())
    }

    fn lock_mounts(&self) -> std::sync::MutexGuard<'_, Vec<Mounted>> {
        // A test that panicked elsewhere leaves the list whole.
        self.mounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
