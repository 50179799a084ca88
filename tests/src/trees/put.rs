//! The calls that put one entry with all its attributes into a tree under construction.

use super::Made;
use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    linkat, lsetxattr, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Seconds and nanoseconds.
pub type Time = (i64, u32);

/// Builds below one directory and counts what it made.
pub struct Putter {
    root: PathBuf,
    /// What was made so far.
    pub made: Made,
}

impl Putter {
    /// Builds below `root`, which exists.
    pub fn new(root: &Path) -> Self {
        Putter { root: root.to_path_buf(), made: Made::default() }
    }

    /// The full path of a name below the root.
    pub fn path(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.root.join(std::ffi::OsStr::from_bytes(name))
    }

    /// A new directory of mode 0755.
    pub fn dir(&mut self, name: &[u8]) -> Result<()> {
        mkdirat(CWD, self.path(name), Mode::from_raw_mode(0o755)).with_context(|| told("mkdir", name))?;
        self.made.directories += 1;
        Ok(())
    }

    /// A new regular file of mode 0644 with these bytes.
    pub fn file(&mut self, name: &[u8], content: &[u8]) -> Result<OwnedFd> {
        let fd = self.sparse(name, content.len() as u64, &[(0, content)])?;
        Ok(fd)
    }

    /// A new regular file of `size` with data only at the given offsets.
    pub fn sparse(&mut self, name: &[u8], size: u64, data: &[(u64, &[u8])]) -> Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = openat(CWD, self.path(name), flags, Mode::from_raw_mode(0o644))
            .with_context(|| told("create", name))?;
        let mut end = 0;
        for &(offset, bytes) in data {
            write_all(&fd, bytes, offset).with_context(|| told("write", name))?;
            end = end.max(offset + bytes.len() as u64);
            self.made.bytes += bytes.len() as u64;
        }
        if size != end {
            rustix::fs::ftruncate(&fd, size).with_context(|| told("truncate", name))?;
        }
        self.made.files += 1;
        Ok(fd)
    }

    /// A symlink to anything.
    pub fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        symlinkat(target, CWD, self.path(name)).with_context(|| told("symlink", name))?;
        self.made.symlinks += 1;
        Ok(())
    }

    /// A further name for `old`.
    pub fn link(&mut self, old: &[u8], new: &[u8]) -> Result<()> {
        linkat(CWD, self.path(old), CWD, self.path(new), AtFlags::empty())
            .with_context(|| told("link", new))?;
        self.made.links += 1;
        Ok(())
    }

    /// A FIFO, socket or device node.
    pub fn node(&mut self, name: &[u8], kind: FileType, device: u64) -> Result<()> {
        mknodat(CWD, self.path(name), kind, Mode::from_raw_mode(0o644), device)
            .with_context(|| told("mknod", name))?;
        match kind {
            FileType::Fifo => self.made.fifos += 1,
            _ => self.made.specials += 1,
        }
        Ok(())
    }

    /// Sets all mode bits; last of the attributes but times, as a change of owner clears some.
    pub fn mode(&self, name: &[u8], mode: u32) -> Result<()> {
        chmodat(CWD, self.path(name), Mode::from_raw_mode(mode), AtFlags::empty())
            .with_context(|| told("chmod", name))
    }

    /// Sets owner and group, of a symlink itself.
    pub fn owner(&self, name: &[u8], uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(CWD, self.path(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| told("chown", name))
    }

    /// Sets the modification time, of a symlink itself.
    pub fn mtime(&self, name: &[u8], time: Time) -> Result<()> {
        set_mtime(&self.path(name), time).with_context(|| told("utimens", name))
    }

    /// Sets an xattr or ACL; where the filesystem has none of the kind, notes that instead of failing.
    pub fn xattr(&mut self, name: &[u8], attr: &str, value: &[u8]) -> Result<()> {
        match lsetxattr(self.path(name), attr, value, XattrFlags::empty()) {
            Ok(()) => {
                self.made.xattrs += 1;
                Ok(())
            }
            Err(Errno::NOTSUP) => {
                let kind = if attr.starts_with("system.") { attr } else { "user xattrs" };
                let note = format!("{kind} are not supported here");
                if !self.made.unsupported.contains(&note) {
                    self.made.unsupported.push(note);
                }
                Ok(())
            }
            Err(errno) => Err(errno).with_context(|| told("setxattr", name)),
        }
    }
}

/// Sets a modification time without following a symlink; leaves the access time alone.
pub fn set_mtime(path: &Path, time: Time) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.0, tv_nsec: i64::from(time.1) },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Writes all bytes at an offset.
pub fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| pwrite(fd, bytes, offset))? {
            0 => return Err(Errno::IO),
            n => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// The bytes of a POSIX ACL xattr: version 2, then `(tag, permissions, id)` in little endian.
pub fn acl(entries: &[(AclTag, u16)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for &(tag, permissions) in entries {
        let (tag, id) = match tag {
            AclTag::Owner => (0x01u16, u32::MAX),
            AclTag::User(uid) => (0x02, uid),
            AclTag::OwningGroup => (0x04, u32::MAX),
            AclTag::Group(gid) => (0x08, gid),
            AclTag::Mask => (0x10, u32::MAX),
            AclTag::Other => (0x20, u32::MAX),
        };
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

/// Whom an ACL entry speaks of; entries must be given in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclTag {
    /// The file's owner.
    Owner,
    /// A named user.
    User(u32),
    /// The file's group.
    OwningGroup,
    /// A named group.
    Group(u32),
    /// The upper bound for all but owner and others.
    Mask,
    /// Everybody else.
    Other,
}

/// An ACL that lets one more user and one more group in.
pub fn sample_acl(uid: u32, gid: u32) -> Vec<u8> {
    acl(&[
        (AclTag::Owner, 6),
        (AclTag::User(uid), 7),
        (AclTag::OwningGroup, 4),
        (AclTag::Group(gid), 5),
        (AclTag::Mask, 5),
        (AclTag::Other, 0),
    ])
}

fn told(call: &str, name: &[u8]) -> String {
    format!("{call} {}", crate::compare::escape(name))
}
