//! A real file system in a file in memory: as fast as the memory, and gone with one unmount.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::gate::Need;
use nix::mount::{MntFlags, umount2};

/// A file system that a volume may lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];

    /// What a test on it needs.
    pub fn needs(self) -> [Need; 3] {
        [Need::Root, Need::LoopDevices, Need::Program(self.mkfs())]
    }

    fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            // One inode per 4 KiB: small files are what it is for.
            Self::Ext4 => &["-q", "-i", "4096"],
            Self::Xfs | Self::Btrfs => &["-q", "-f"],
        }
    }
}

/// A mounted image; unmounted and deleted when dropped.
pub struct LoopFs {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl LoopFs {
    /// Makes and mounts an empty ext4 of `size` (as truncate(1) takes it; memory is used as it fills).
    pub fn ext4(size: &str) -> Self {
        Self::new(Kind::Ext4, size)
    }

    /// The same with a file system of this kind.
    pub fn new(kind: Kind, size: &str) -> Self {
        let dir = super::in_memory();
        let image = dir.path().join("image");
        let path = dir.path().join("mnt");
        std::fs::create_dir(&path).unwrap();
        run("truncate", &["-s".as_ref(), size.as_ref(), image.as_os_str()]);
        let options = kind.options().iter().map(OsStr::new);
        run(kind.mkfs(), &options.chain([image.as_os_str()]).collect::<Vec<_>>());
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), path.as_os_str()]);
        Self { path, _dir: dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it, for which nobody may have it open, and mounts it again.
    pub fn again(&self) {
        self.again_with(|_| {});
    }

    /// The same, with something done to the image in between: no file system notices.
    pub fn again_with(&self, meanwhile: impl FnOnce(&Path)) {
        umount2(&self.path, MntFlags::empty()).unwrap();
        let image = self.path.with_file_name("image");
        meanwhile(&image);
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), self.path.as_os_str()]);
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// A file as a block device, until dropped.
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    pub fn over(file: &Path) -> Self {
        let text = run("losetup", &["--find".as_ref(), "--show".as_ref(), file.as_os_str()]);
        Self(PathBuf::from(text.trim()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

fn run(program: &str, args: &[&OsStr]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
