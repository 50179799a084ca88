//! Debian packages the tests and the demo need, installed when missing and when we may.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A package and a program of it that tells whether it is there.
const WANTED: &[(&str, &str)] = &[
    ("glusterfs-server", "glusterd"),
    ("glusterfs-client", "mount.glusterfs"),
    ("rsync", "rsync"),
    ("xfsprogs", "mkfs.xfs"),
    ("btrfs-progs", "mkfs.btrfs"),
    ("e2fsprogs", "mkfs.ext4"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("acl", "setfacl"),
    ("attr", "setfattr"),
    ("docker.io", "dockerd"),
    ("fuse3", "fusermount3"),
    ("git", "git"),
    ("procps", "ps"),
    ("util-linux", "nsenter"),
    ("mount", "losetup"),
    ("kmod", "modprobe"),
];
const SEARCHED: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Keeps package scripts from starting services: nothing here needs a daemon of the machine.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing. Without root it only names it.
///
/// # Errors
/// The package manager failed; its own output has said why.
pub fn install_missing() -> Result<()> {
    let missing: Vec<&str> =
        WANTED.iter().filter(|(_, program)| !is_there(program)).map(|(package, _)| *package).collect();
    if !is_root() {
        if !missing.is_empty() {
            println!("not root, so not installed: {}", missing.join(" "));
        }
        return Ok(());
    }
    if !missing.is_empty() {
        println!("installing {}", missing.join(" "));
        ensure!(
            is_there("apt-get"),
            "no apt-get here: install the equivalents of {} yourself",
            missing.join(" ")
        );
        let _policy = Policy::deny()?;
        apt(&["update", "-qq"])?;
        apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())?;
    }
    // Built in, or forbidden in a container: the tests find out what is there.
    for module in ["fuse", "loop"] {
        let _ = Command::new("modprobe").args(["-q", module]).stderr(Stdio::null()).status();
    }
    Ok(())
}

/// Whether this is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn is_there(program: &str) -> bool {
    SEARCHED.iter().any(|dir| Path::new(dir).join(program).exists())
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("start apt-get")?;
    if !status.success() {
        bail!("apt-get {}: {status}", args.join(" "));
    }
    Ok(())
}

/// While it lives, package scripts start no service; a policy that is there already stays.
struct Policy {
    ours: bool,
}

impl Policy {
    fn deny() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(POLICY)?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
