//! A real file system in a file in memory: as fast as the memory, and gone with one unmount.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};

/// A mounted ext4 image; unmounted and deleted when dropped.
pub struct LoopFs {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl LoopFs {
    /// Makes and mounts an empty ext4 of `size` (as truncate(1) takes it; memory is used as it fills).
    pub fn ext4(size: &str) -> Self {
        let dir = super::in_memory();
        let image = dir.path().join("image");
        let path = dir.path().join("mnt");
        std::fs::create_dir(&path).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let done = Command::new(program).args(args).output().unwrap();
            assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        };
        run("truncate", &["-s".as_ref(), size.as_ref(), image.as_os_str()]);
        // One inode per 4 KiB: small files are what it is for.
        run("mkfs.ext4", &["-q".as_ref(), "-i".as_ref(), "4096".as_ref(), image.as_os_str()]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), path.as_os_str()]);
        Self { path, _dir: dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
