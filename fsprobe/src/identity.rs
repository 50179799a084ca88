//! Words: what a mount is, in a form that can be remembered and compared after a reboot. No I/O.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sys::mount::{MountEntry, escape_text};

/// What makes a mount the same mount after a remount or a reboot: everything that its mounter chose, nothing
/// that the kernel numbered.
///
/// The texts are spelled as in mountinfo (`\040` for a blank), so that names that are no UTF-8 survive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MountIdentity {
    /// Type with subtype, such as `fuse.glusterfs`.
    pub fstype: String,
    /// What is mounted, such as `vm1:/vol`.
    pub source: String,
    /// Where it is mounted.
    #[serde(with = "path_as_text")]
    pub mountpoint: PathBuf,
    /// Which part of the filesystem is mounted: `/` unless it is a bind mount.
    pub root: String,
}

impl MountIdentity {
    /// The identity of one line of mountinfo.
    pub fn of(entry: &MountEntry) -> MountIdentity {
        MountIdentity {
            fstype: escape_text(&entry.fstype),
            source: escape_text(&entry.source),
            mountpoint: entry.mountpoint.clone(),
            root: escape_text(&entry.root),
        }
    }
}

/// `fuse.glusterfs vm1:/vol on /mnt/sync`
impl fmt::Display for MountIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {}", self.fstype, self.source, self.mountpoint.display())?;
        if self.root != "/" {
            write!(f, " (its subtree {})", self.root)?;
        }
        Ok(())
    }
}

/// A path as escaped text: serde's own form for paths refuses bytes that are no UTF-8.
mod path_as_text {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};
    use sys::mount::{escape_text, unescape_text};

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape_text(path.as_os_str()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(unescape_text(&String::deserialize(deserializer)?).into())
    }
}

/// The kind of filesystem, as far as it matters for what may be asked of it and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FsKind {
    /// A GlusterFS client, mounted through FUSE.
    Gluster,
    /// Another FUSE filesystem, by its subtype (empty if it has none).
    Fuse(String),
    /// A filesystem that is not known to be local; its server may fall silent.
    Remote(String),
    /// A filesystem on this host's own devices or memory.
    Local(String),
}

/// Filesystems whose calls end without any other host's or process's help.
///
/// A type missing here is treated as remote, which costs a probe and is otherwise harmless.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "cgroup2", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660",
    "jfs", "nilfs2", "overlay", "proc", "ramfs", "reiserfs", "rootfs", "squashfs", "sysfs", "tmpfs", "udf",
    "vfat", "xfs", "zfs",
];

impl FsKind {
    /// Sorts a mountinfo type, such as `fuse.glusterfs` or `ext4`.
    pub fn of(fstype: &OsStr) -> FsKind {
        let text = escape_text(fstype);
        match text.as_str() {
            "fuse.glusterfs" => FsKind::Gluster,
            "fuse" | "fuseblk" => FsKind::Fuse(String::new()),
            _ if LOCAL.contains(&text.as_str()) => FsKind::Local(text),
            _ => match text.strip_prefix("fuse.").or_else(|| text.strip_prefix("fuseblk.")) {
                Some(subtype) => FsKind::Fuse(subtype.to_owned()),
                None => FsKind::Remote(text),
            },
        }
    }

    /// Whether a call may wait for another host or process, and so must not be made without a deadline.
    pub fn may_hang(&self) -> bool {
        match self {
            FsKind::Gluster | FsKind::Fuse(_) | FsKind::Remote(_) => true,
            FsKind::Local(_) => false,
        }
    }

    /// Whether the kernel reaches it through `/dev/fuse`.
    pub fn is_fuse(&self) -> bool {
        matches!(self, FsKind::Gluster | FsKind::Fuse(_))
    }
}

/// The name as mountinfo spells it.
impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FsKind::Gluster => f.write_str("fuse.glusterfs"),
            FsKind::Fuse(subtype) if subtype.is_empty() => f.write_str("fuse"),
            FsKind::Fuse(subtype) => write!(f, "fuse.{subtype}"),
            FsKind::Remote(name) | FsKind::Local(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn sorts_filesystems() {
        for (fstype, kind) in [
            ("fuse.glusterfs", FsKind::Gluster),
            ("fuse", FsKind::Fuse(String::new())),
            ("fuse.sshfs", FsKind::Fuse("sshfs".into())),
            ("ext4", FsKind::Local("ext4".into())),
            ("nfs4", FsKind::Remote("nfs4".into())),
            ("autofs", FsKind::Remote("autofs".into())),
        ] {
            assert_eq!(FsKind::of(OsStr::new(fstype)), kind);
            assert_eq!(kind.to_string(), fstype);
        }
    }

    #[test]
    fn an_identity_survives_storage_whatever_its_bytes() {
        let identity = MountIdentity {
            fstype: "fuse.glusterfs".into(),
            source: "vm1:/vol".into(),
            mountpoint: OsString::from_vec(b"/mnt/\xff \"blank\"\\".to_vec()).into(),
            root: "/".into(),
        };
        let text = serde_json::to_string(&identity).unwrap();
        assert_eq!(serde_json::from_str::<MountIdentity>(&text).unwrap(), identity);
    }
}
