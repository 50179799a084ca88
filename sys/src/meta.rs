//! Metadata read and set through descriptors only, in an order that loses nothing.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, StatxFlags, Timespec, Timestamps, XattrFlags};

use crate::dir::{Dir, one};
use crate::error::{Errno, SysError, ctx};
use crate::owner::Owner;
use crate::stat::Time;

/// Extended attributes we carry, sorted by name: `user.*` and the two POSIX ACLs.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Metadata to give to one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification; the access time is set to the same.
    pub mtime: Time,
    /// Extended attributes to have (others of the allow-list are not removed: give it a fresh inode).
    pub xattrs: Xattrs,
}

/// Most bytes of names and values one inode may bring (reliability facts, 3.3): a container must not make a
/// root process allocate without end.
pub const XATTR_BYTES_MAX: usize = 64 << 10;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// True unless the file system says that it keeps no ACLs (`EOPNOTSUPP`), as a GlusterFS mount without `acl` does.
pub fn keeps_acls(fd: BorrowedFd<'_>) -> bool {
    // Asking for the size alone is enough: without an ACL the answer is ENODATA.
    let mut none = [0u8; 0];
    rfs::fgetxattr(fd, as_str(ACL_ACCESS), &mut none[..]) != Err(Errno::OPNOTSUPP)
}

/// What [`read_xattrs`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XattrsRead {
    /// Those we carry.
    pub kept: Xattrs,
    /// Names of those left out by policy (`security.capability`, `trusted.*`, …).
    pub left_out: Vec<Vec<u8>>,
}

/// True for an attribute that may be written to the mirror. On GlusterFS names outside this list may be
/// virtual keys that act on the file system itself.
pub fn is_carried(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == ACL_ACCESS || name == ACL_DEFAULT
}

/// True for a POSIX ACL, which a mount may be unable to keep.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

/// Reads the extended attributes of an open file or directory.
///
/// # Errors
/// `E2BIG` when names and values exceed [`XATTR_BYTES_MAX`]; a file system without attributes gives none.
pub fn read_xattrs(fd: BorrowedFd<'_>) -> Result<XattrsRead, SysError> {
    collect(|names| rfs::flistxattr(fd, names), |name, value| rfs::fgetxattr(fd, name, value))
}

/// The same for a FIFO, which must not be opened: through an `O_PATH` descriptor of the very inode.
///
/// # Errors
/// As [`read_xattrs`].
pub fn read_fifo_xattrs(dir: &Dir, name: &[u8]) -> Result<XattrsRead, SysError> {
    let held = hold(dir, name)?;
    let path = crate::file::proc_path(held.as_fd());
    collect(|names| rfs::listxattr(&path, names), |name, value| rfs::getxattr(&path, name, value))
}

/// An `O_PATH` descriptor of `name` itself.
fn hold(dir: &Dir, name: &[u8]) -> Result<std::os::fd::OwnedFd, SysError> {
    rfs::openat(dir, one(name)?, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(ctx("open", name))
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&std::ffi::OsStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<XattrsRead, SysError> {
    let mut small = [0u8; 1024];
    let listed = list(&mut small[..]);
    let names: Vec<u8> = match listed {
        Ok(0) => return Ok(XattrsRead::default()),
        Ok(n) => small[..n].to_vec(),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(XattrsRead::default()),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; XATTR_BYTES_MAX];
            match list(&mut large[..]) {
                Ok(n) => large[..n].to_vec(),
                Err(Errno::RANGE) => return Err(SysError::new("list xattrs", b"", Errno::TOOBIG)),
                Err(errno) => return Err(SysError::new("list xattrs", b"", errno)),
            }
        }
        Err(errno) => return Err(SysError::new("list xattrs", b"", errno)),
    };
    let mut read = XattrsRead::default();
    let mut bytes = names.len();
    let mut value = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if !is_carried(name) {
            read.left_out.push(name.to_vec());
            continue;
        }
        value.resize(XATTR_BYTES_MAX, 0);
        let len = match get(as_str(name), &mut value[..]) {
            Ok(len) => len,
            Err(Errno::NODATA) => continue,
            Err(Errno::RANGE) => return Err(SysError::new("read xattr", name, Errno::TOOBIG)),
            Err(errno) => return Err(SysError::new("read xattr", name, errno)),
        };
        bytes += len;
        if bytes > XATTR_BYTES_MAX {
            return Err(SysError::new("read xattrs", name, Errno::TOOBIG));
        }
        read.kept.push((name.to_vec(), value[..len].to_vec()));
    }
    read.kept.sort_unstable();
    Ok(read)
}

/// Gives a fresh inode its metadata, in the one order that works: owner (clears setuid), attributes and ACL
/// (change the group bits), mode, times (everything else changes them).
///
/// `made_as` is owner, group and mode the inode already has from its creation; what agrees is not set again,
/// because each call is a network round trip on a mirror. Returns the ACLs the mount refused to keep.
///
/// # Errors
/// The first act that failed; the inode is then half-made and must be thrown away.
pub fn apply(fd: BorrowedFd<'_>, meta: &Meta, made_as: MadeAs, object: &[u8]) -> Result<AclsKept, SysError> {
    let mut acls = AclsKept::All;
    let owner_differs = made_as.uid != meta.uid || made_as.gid != meta.gid;
    if owner_differs {
        rfs::fchown(fd, Some(rustix::fs::Uid::from_raw(meta.uid)), Some(rustix::fs::Gid::from_raw(meta.gid)))
            .map_err(ctx("chown", object))?;
    }
    for (name, value) in &meta.xattrs {
        match rfs::fsetxattr(fd, as_str(name), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) if is_acl(name) => acls = AclsKept::NotSupported,
            Err(errno) => return Err(SysError::new("set xattr on", object, errno)),
        }
    }
    // A chown clears setuid and setgid; an ACL rewrites the group bits of the mode.
    let mode_differs = made_as.mode != meta.mode
        || (owner_differs && meta.mode & 0o6000 != 0)
        || meta.xattrs.iter().any(|(name, _)| is_acl(name));
    if mode_differs {
        rfs::fchmod(fd, Mode::from_raw_mode(meta.mode)).map_err(ctx("chmod", object))?;
    }
    set_times(fd, meta.mtime, object)?;
    Ok(acls)
}

/// Gives a fresh directory its owner at once, so that this owner may create in it. `dir` may be only held.
///
/// # Errors
/// The kernel's errno.
pub fn own_dir(dir: &Dir, owner: Owner, object: &[u8]) -> Result<(), SysError> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
    rfs::chownat(dir, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(ctx("chown", object))
}

/// As [`apply`] for a directory that is only held ([`Dir::hold_dir`]): opened only if its times are not all there
/// is to set, because on a mirror an open is a request of its own.
///
/// # Errors
/// As [`apply`].
pub fn apply_dir(dir: &Dir, meta: &Meta, made_as: MadeAs, object: &[u8]) -> Result<AclsKept, SysError> {
    let as_made = made_as.mode == meta.mode && made_as.uid == meta.uid && made_as.gid == meta.gid;
    if as_made && meta.xattrs.is_empty() {
        rfs::utimensat(dir, "", &timestamps(meta.mtime), AtFlags::EMPTY_PATH)
            .map_err(ctx("set times of", object))?;
        return Ok(AclsKept::All);
    }
    apply(dir.reopen()?.as_fd(), meta, made_as, object)
}

/// Makes an existing file or directory agree with `meta`, also taking away carried attributes it should not have.
///
/// # Errors
/// As [`apply`]; safe to repeat.
pub fn reapply(fd: BorrowedFd<'_>, meta: &Meta, object: &[u8]) -> Result<AclsKept, SysError> {
    let stx = rfs::statx(fd, "", AtFlags::EMPTY_PATH, crate::stat::WANTED).map_err(ctx("stat", object))?;
    let now = crate::Stat::from(&stx);
    for (name, _) in read_xattrs(fd)?.kept {
        if !meta.xattrs.iter().any(|(wanted, _)| *wanted == name) {
            match rfs::fremovexattr(fd, as_str(&name)) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(SysError::new("remove xattr from", object, errno)),
            }
        }
    }
    apply(fd, meta, MadeAs { uid: now.uid, gid: now.gid, mode: now.mode }, object)
}

/// Sets modification and access time through a descriptor.
///
/// # Errors
/// The kernel's errno.
pub fn set_times(fd: BorrowedFd<'_>, mtime: Time, object: &[u8]) -> Result<(), SysError> {
    rfs::futimens(fd, &timestamps(mtime)).map_err(ctx("set times of", object))
}

/// Gives a fresh symlink or FIFO its owner and times (and a FIFO its ACL and mode); neither is opened.
///
/// # Errors
/// The first act that failed.
pub fn apply_special(
    dir: &Dir,
    name: &[u8],
    meta: &Meta,
    made_as: MadeAs,
    fifo: bool,
) -> Result<AclsKept, SysError> {
    let component = one(name)?;
    let mut acls = AclsKept::All;
    if made_as.uid != meta.uid || made_as.gid != meta.gid {
        let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
        rfs::chownat(dir, component, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ctx("chown", name))?;
    }
    let as_made = made_as.mode == meta.mode && made_as.uid == meta.uid && made_as.gid == meta.gid;
    if fifo && (!as_made || !meta.xattrs.is_empty()) {
        // The inode lies in a directory of ours and was made by us a moment ago: no one can have swapped it.
        let held = hold(dir, name)?;
        let path = crate::file::proc_path(held.as_fd());
        for (attribute, value) in &meta.xattrs {
            match rfs::setxattr(&path, as_str(attribute), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) if is_acl(attribute) => acls = AclsKept::NotSupported,
                Err(errno) => return Err(SysError::new("set xattr on", name, errno)),
            }
        }
        rfs::chmod(&path, Mode::from_raw_mode(meta.mode)).map_err(ctx("chmod", name))?;
    }
    rfs::utimensat(dir, component, &timestamps(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(ctx("set times of", name))?;
    Ok(acls)
}

/// Owner, group and mode an inode got when it was made.
#[derive(Clone, Copy, Debug)]
pub struct MadeAs {
    /// Owner it got: the process's.
    pub uid: u32,
    /// Group it got.
    pub gid: u32,
    /// Mode it got.
    pub mode: u32,
}

impl MadeAs {
    /// What the inode got: the file creation mask, a setgid directory or a default ACL may have had their say.
    /// Asks only for what a network mount answers from its cache right after the creation.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn of(fd: BorrowedFd<'_>, object: &[u8]) -> Result<Self, SysError> {
        let wanted = StatxFlags::MODE | StatxFlags::UID | StatxFlags::GID;
        let stx = rfs::statx(fd, "", AtFlags::EMPTY_PATH, wanted).map_err(ctx("stat", object))?;
        Ok(Self { uid: stx.stx_uid, gid: stx.stx_gid, mode: u32::from(stx.stx_mode) & 0o7777 })
    }
}

/// Whether the file system kept the ACLs it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclsKept {
    /// All of them, or there were none.
    All,
    /// The mount keeps no ACLs (`ENOTSUP`): they live in the manifest alone.
    NotSupported,
}

pub(crate) fn timestamps(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.sec, tv_nsec: i64::from(mtime.nsec) };
    Timestamps { last_access: time, last_modification: time }
}

fn as_str(name: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name)
}
