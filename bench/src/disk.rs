//! A disk of its own for volumes: a mark of the agent covers a whole file system, and this machine's others are busy with
//! what is no part of a measurement.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use nix::mount::{MntFlags, umount2};

use crate::measure;

/// A fresh ext4 in a sparse file, mounted; unmounted and deleted when dropped.
pub struct Disk {
    image: PathBuf,
    path: PathBuf,
}

impl Disk {
    /// Makes and mounts one of `gib` below `dir`, with an inode for every 4 KiB.
    ///
    /// # Errors
    /// `mkfs.ext4` or `mount` failed.
    pub fn new(dir: &Path, name: &str, gib: u64) -> Result<Self> {
        let image = dir.join(format!("{name}.img"));
        let path = dir.join(name);
        fs::create_dir_all(&path)?;
        File::create(&image)?.set_len(gib << 30)?;
        measure::seconds(Command::new("mkfs.ext4").args(["-q", "-i", "4096"]).arg(&image))?;
        // Nothing may write in the background what a measurement did not.
        measure::seconds(Command::new("mount").args(["-o", "loop,noinit_itable"]).arg(&image).arg(&path))?;
        Ok(Self { image, path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory on it, made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.image);
    }
}
