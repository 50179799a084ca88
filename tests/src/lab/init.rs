//! The first process of a host: it prepares the host's private world and holds it up.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::host::SEARCH_PATH;
use super::procfs;
use super::run::{Seen, wait_until};

/// Filesystem of a brick, always with 512-byte inodes as GlusterFS advises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrickFs {
    /// ext4.
    Ext4,
    /// xfs; needs at least 300 MB.
    Xfs,
}

impl BrickFs {
    /// Name of the filesystem type.
    pub fn name(self) -> &'static str {
        match self {
            BrickFs::Ext4 => "ext4",
            BrickFs::Xfs => "xfs",
        }
    }
}

/// Runs as process 1 of the host. It ends when its standard input does, which is when the process that owns
/// the lab ends, and takes every process of the host and all mounts with it.
///
/// `glusterd` keeps its socket in `/run`: two of them sharing one would fight for it. Only the option groups of
/// the machine's `/var/lib/glusterd` are taken over, neither peers nor hook scripts. Geo-replication is covered
/// up: `glusterd` configures it by two dozen runs of Python before it answers, most of its start-up time; it
/// ends when the program is there but does not tell its version.
const SCRIPT: &str = r#"
set -eu
dir=$1 name=$2 filesystem=$3 address=$4
mount --bind "$dir/lib" /var/lib/glusterd
mount --bind "$dir/log" /var/log/glusterfs
mount --bind "$dir/hosts" /etc/hosts
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/gluster /run/lock
mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections
hostname "$name"
case $filesystem in
ext4) mkfs.ext4 -q -F -I 512 -E nodiscard "$dir/brick.img" ;;
xfs) mkfs.xfs -q -f -K -i size=512 "$dir/brick.img" ;;
esac
mount -o loop "$dir/brick.img" "$dir/brick"
printf '#!/bin/sh\necho gsyncd.py 0\n' >"$dir/gsyncd"
chmod 755 "$dir/gsyncd"
for geo in /usr/lib/*/glusterfs/gsyncd /usr/libexec/glusterfs/gsyncd; do
    if [ -e "$geo" ]; then mount --bind "$dir/gsyncd" "$geo"; fi
done
read -r wired
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up
glusterd --pid-file=/run/gluster/glusterd.pid
touch "$dir/ready"
cat >/dev/null
exit 0
"#;

/// Everything the first process of a host has to know.
pub(super) struct Spec<'a> {
    pub dir: &'a Path,
    pub name: &'a str,
    pub filesystem: BrickFs,
    pub brick_bytes: u64,
    /// With prefix length.
    pub address: String,
    /// Text of `/etc/hosts`.
    pub hosts: &'a str,
}

/// The first process of a host, from outside.
#[derive(Debug)]
pub(super) struct Init {
    /// `unshare`, which waits for the first process.
    outer: Child,
    /// Closing this ends the host.
    input: ChildStdin,
    pub pid: i32,
}

impl Init {
    /// Starts the first process; it stops before the network until [`Init::wired`].
    pub(super) fn start(spec: &Spec) -> Result<Init> {
        for part in ["lib", "log", "brick", "mnt"] {
            fs::create_dir_all(spec.dir.join(part))?;
        }
        copy_option_groups(&spec.dir.join("lib/groups"))?;
        fs::write(spec.dir.join("hosts"), spec.hosts)?;
        File::create(spec.dir.join("brick.img"))?.set_len(spec.brick_bytes)?;
        let log = File::create(spec.dir.join("init.log"))?;
        let mut outer = Command::new("unshare")
            .args([
                "--mount",
                "--uts",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                SCRIPT,
                "init",
            ])
            .args([
                spec.dir.as_os_str(),
                spec.name.as_ref(),
                spec.filesystem.name().as_ref(),
                spec.address.as_ref(),
            ])
            .env("PATH", SEARCH_PATH)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("start unshare")?;
        let input = outer.stdin.take().context("unshare without an input")?;
        let parent = outer.id() as i32;
        let mut init = Init { outer, input, pid: 0 };
        init.pid = wait_until("the first process of a host exists", Duration::from_secs(10), || {
            Ok(match procfs::children(parent).first() {
                Some(pid) => Seen::Done(*pid),
                None => Seen::NotYet(init.log(spec.dir)),
            })
        })?;
        Ok(init)
    }

    /// Tells the host that its network interface is there.
    pub(super) fn wired(&mut self) -> Result<()> {
        self.input.write_all(b"wired\n").context("the first process of the host has gone")
    }

    /// Waits until `glusterd` runs.
    pub(super) fn wait_ready(&mut self, dir: &Path, limit: Duration) -> Result<()> {
        let ready = dir.join("ready");
        wait_until(&format!("{} is ready", dir.display()), limit, || {
            if self.outer.try_wait()?.is_some() {
                bail!("the host ended early: {}", self.log(dir));
            }
            Ok(Seen::when(ready.exists(), || self.log(dir)))
        })
    }

    /// The process that waits for the first process.
    pub(super) fn outer_pid(&self) -> i32 {
        self.outer.id() as i32
    }

    /// Ends the host's outer process after its first process has been killed; false when it is stuck.
    pub(super) fn reap(mut self, limit: Duration) -> bool {
        drop(self.input);
        super::run::wait_child(&mut self.outer, limit).is_ok_and(|status| status.is_some())
    }

    /// What the first process complained about.
    pub(super) fn log(&self, dir: &Path) -> String {
        fs::read_to_string(dir.join("init.log")).unwrap_or_default().trim().to_owned()
    }
}

/// Copies the files behind `volume set V group NAME`; a machine without them just has no groups.
fn copy_option_groups(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let Ok(entries) = fs::read_dir("/var/lib/glusterd/groups") else { return Ok(()) };
    for entry in entries.flatten() {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
