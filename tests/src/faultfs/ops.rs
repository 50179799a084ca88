//! What each filesystem request does to the tree, with the errnos of a local filesystem behind GlusterFS.
//!
//! The kernel has checked permissions and most types already. Objects that another client removed are ESTALE where
//! GlusterFS says so; see [`World::remove_behind`].

use std::collections::BTreeMap;
use std::sync::Arc;

use fuser::{Errno, FileAttr, FileType, INodeNo};

use super::acl;
use super::convert::system_time;
use super::durability::DataOp;
use super::image::{Attr, AttrChange, Body, Ino, Inode, MetaOp, Name, Time};
use super::world::{World, now};

/// Most bytes that one `copy_file_range` moves; it may always do less than asked.
const COPY_MAX: u64 = 64 << 20;
/// Bytes per record of a copy, so that a seeded crash can lose a part of it.
const COPY_STEP: u64 = 1 << 20;
const NAME_MAX: usize = 255;

/// An object to be created.
pub struct NewNode<'a> {
    /// Type and wanted permissions.
    pub mode: u32,
    /// Bits to take away unless a default ACL decides.
    pub umask: u32,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory passes on its own.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: &'a [u8],
}

/// New attributes as requested by the kernel.
#[derive(Debug, Default)]
pub struct SetAttr {
    /// Permissions; type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Option<Time>,
}

impl World {
    fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.disk.live().get(ino).ok_or(Errno::ESTALE)
    }

    /// A directory in which names can be made.
    fn open_dir(&self, ino: Ino) -> Result<&Inode, Errno> {
        let inode = self.inode(ino)?;
        match (inode.is_dir(), inode.attr.nlink) {
            (false, _) => Err(Errno::ENOTDIR),
            (true, 0) => Err(Errno::ENOENT),
            (true, _) => Ok(inode),
        }
    }

    fn find(&self, parent: Ino, name: &[u8]) -> Result<Ino, Errno> {
        fits(name)?;
        let found = self.disk.live().child(parent, name);
        found.ok_or(Errno::ENOENT)
    }

    fn change(&mut self, op: MetaOp, time: Time) {
        if let Some(orphan) = self.disk.change(op, time) {
            self.drop_if_unused(orphan);
        }
    }

    /// The child of that name.
    pub fn lookup(&mut self, parent: Ino, name: &[u8]) -> Result<FileAttr, Errno> {
        let ino = self.find(parent, name)?;
        self.told(parent, name, ino);
        self.attr(ino)
    }

    /// The attributes of an object.
    pub fn attr(&self, ino: Ino) -> Result<FileAttr, Errno> {
        let inode = self.inode(ino)?;
        let attr = &inode.attr;
        let (size, stored) = match &inode.body {
            Body::File(content) => (content.size(), content.stored()),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Dir { .. } => (4096, 4096),
            Body::Special => (0, 0),
        };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: stored / 512,
            atime: system_time(attr.atime),
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            crtime: system_time(attr.ctime),
            kind: kind(attr.mode),
            perm: (attr.mode & 0o7777) as u16,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Creates an object under a free name.
    pub fn create(&mut self, parent: Ino, name: &[u8], new: NewNode) -> Result<Ino, Errno> {
        fits(name)?;
        let dir = self.open_dir(parent)?;
        if self.disk.live().child(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let time = now();
        let mut mode = new.mode;
        let mut gid = new.gid;
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        if dir.attr.mode & libc::S_ISGID != 0 {
            gid = dir.attr.gid;
            mode |= if is_dir { libc::S_ISGID } else { 0 };
        }
        let mut xattrs: BTreeMap<Arc<[u8]>, Arc<[u8]>> = BTreeMap::new();
        let default = dir.xattrs.get(acl::DEFAULT).filter(|_| self.acl);
        match default {
            _ if mode & libc::S_IFMT == libc::S_IFLNK => {}
            None => mode &= !new.umask,
            Some(default) => {
                let (inherited, access) = acl::inherit(default, mode)?;
                mode = inherited;
                if let Some(access) = access {
                    xattrs.insert(acl::ACCESS.into(), access.into());
                }
                if is_dir {
                    xattrs.insert(acl::DEFAULT.into(), default.clone());
                }
            }
        }
        let body = match mode & libc::S_IFMT {
            libc::S_IFDIR => Body::Dir { parent, entries: BTreeMap::new() },
            libc::S_IFREG => Body::File(Default::default()),
            libc::S_IFLNK => Body::Symlink(new.target.into()),
            _ => Body::Special,
        };
        let attr = Attr {
            mode,
            uid: new.uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            rdev: new.rdev,
            atime: time,
            mtime: time,
            ctime: time,
        };
        let node = Arc::new(Inode { attr, body, xattrs });
        let ino = self.fresh_ino();
        let name: Name = name.into();
        self.told(parent, &name, ino);
        let op = MetaOp::Create { parent, name, ino, node };
        self.change(op, time);
        Ok(ino)
    }

    /// Gives an object one more name.
    pub fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<FileAttr, Errno> {
        fits(name)?;
        let inode = self.inode(ino)?;
        if inode.is_dir() {
            return Err(Errno::EPERM);
        }
        if inode.attr.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.open_dir(parent)?;
        if self.disk.live().child(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.told(parent, name, ino);
        let name: Name = name.into();
        self.change(MetaOp::Link { ino, parent, name }, now());
        self.attr(ino)
    }

    /// Removes a name of something that is not a directory.
    pub fn unlink(&mut self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let ino = self.find(parent, name)?;
        if self.inode(ino)?.is_dir() {
            return Err(Errno::EISDIR);
        }
        let name: Name = name.into();
        self.change(MetaOp::Remove { parent, name }, now());
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        let ino = self.find(parent, name)?;
        let entries = self.inode(ino)?.entries().ok_or(Errno::ENOTDIR)?;
        if !entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let name: Name = name.into();
        self.change(MetaOp::Remove { parent, name }, now());
        Ok(())
    }

    /// Moves a name, replacing what is there.
    pub fn rename(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8])) -> Result<(), Errno> {
        fits(to.1)?;
        let ino = self.find(from.0, from.1)?;
        // A directory that another client removed is ENOENT for a rename, unlike for a create.
        self.open_dir(to.0).map_err(|_| Errno::ENOENT)?;
        if let Some(old) = self.disk.live().child(to.0, to.1) {
            if old == ino {
                return Ok(());
            }
            let old = self.inode(old)?;
            match (self.inode(ino)?.is_dir(), old.entries()) {
                (true, None) => return Err(Errno::ENOTDIR),
                (false, Some(_)) => return Err(Errno::EISDIR),
                (true, Some(entries)) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Some(_)) | (false, None) => {}
            }
        }
        self.place(to.0, to.1, ino);
        let op = MetaOp::Rename { from: (from.0, from.1.into()), to: (to.0, to.1.into()) };
        self.change(op, now());
        Ok(())
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        match &self.inode(ino)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Sets attributes, the length among them.
    pub fn setattr(&mut self, ino: Ino, set: &SetAttr) -> Result<FileAttr, Errno> {
        let time = now();
        let inode = self.inode(ino)?;
        let mut change =
            AttrChange { perm: set.mode, uid: set.uid, gid: set.gid, atime: set.atime, mtime: set.mtime };
        let acl = inode.xattrs.get(acl::ACCESS).cloned();
        if let Some(size) = set.size {
            if inode.content().is_none() {
                return Err(Errno::EINVAL);
            }
            self.disk.change_data(ino, DataOp::Truncate(size));
            change.mtime = change.mtime.or(Some(time));
        }
        self.change(MetaOp::Attr { ino, change }, time);
        if let (Some(mode), Some(value)) = (set.mode, acl) {
            let name = acl::ACCESS.into();
            let value = Some(acl::chmod(&value, mode)?.into());
            self.change(MetaOp::Xattr { ino, name, value }, time);
        }
        self.attr(ino)
    }

    /// Bytes of an open file.
    pub fn read(&mut self, fh: u64, ino: Ino, offset: u64, size: u64) -> Result<Vec<u8>, Errno> {
        self.handle(fh)?;
        let content = self.inode(ino)?.content().ok_or(Errno::EISDIR)?;
        Ok(content.read(offset, size))
    }

    /// Stores bytes in an open file.
    pub fn write(&mut self, fh: u64, ino: Ino, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.handle(fh)?;
        self.room(ino, offset, data.len() as u64)?;
        let data = data.into();
        self.disk.change_data(ino, DataOp::Write { offset, data });
        self.touch(ino);
        Ok(())
    }

    /// Checks a regular file for space under the limit.
    fn room(&self, ino: Ino, offset: u64, len: u64) -> Result<(), Errno> {
        let content = self.inode(ino)?.content().ok_or(Errno::EINVAL)?;
        if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Errno::EFBIG);
        }
        match self.faults.full {
            Some(full) if self.disk.stored() + content.growth(offset, len) > full => Err(Errno::ENOSPC),
            _ => Ok(()),
        }
    }

    fn touch(&mut self, ino: Ino) {
        let time = now();
        let change = AttrChange { mtime: Some(time), ..AttrChange::default() };
        self.change(MetaOp::Attr { ino, change }, time);
    }

    /// Makes an open file durable.
    pub fn fsync(&mut self, fh: u64, ino: Ino) -> Result<(), Errno> {
        self.handle(fh)?;
        self.inode(ino)?;
        self.disk.fsync(ino);
        Ok(())
    }

    /// Reserves or clears a range; a reserved range stays a hole.
    pub fn fallocate(&mut self, fh: u64, ino: Ino, offset: u64, len: u64, mode: i32) -> Result<(), Errno> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        self.handle(fh)?;
        let (clears, grows) = match mode {
            0 => (false, true),
            libc::FALLOC_FL_KEEP_SIZE => (false, false),
            PUNCH | ZERO_KEEP => (true, false),
            libc::FALLOC_FL_ZERO_RANGE => (true, true),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if !clears {
            self.room(ino, offset, len)?;
        }
        if clears {
            self.disk.change_data(ino, DataOp::Punch { offset, len });
        }
        if grows {
            self.disk.change_data(ino, DataOp::Extend(offset + len));
        }
        self.touch(ino);
        Ok(())
    }

    /// Copies a range between open files, holes as holes; returns the bytes done.
    pub fn copy_range(&mut self, from: (u64, Ino, u64), to: (u64, Ino, u64), len: u64) -> Result<u64, Errno> {
        self.handle(from.0)?;
        self.handle(to.0)?;
        let source = self.inode(from.1)?.content().ok_or(Errno::EINVAL)?.clone();
        let end = source.size().min(from.2.saturating_add(len.min(COPY_MAX)));
        let mut at = from.2;
        while at < end {
            let into = to.2 + (at - from.2);
            let data = source.seek_data(at).unwrap_or(end).min(end);
            let result = if data > at {
                let hole = data - at;
                self.room(to.1, into, 0).map(|()| {
                    let (offset, len) = (into, hole);
                    self.disk.change_data(to.1, DataOp::Punch { offset, len });
                    self.disk.change_data(to.1, DataOp::Extend(into + hole));
                    hole
                })
            } else {
                let stop = source.seek_hole(at).unwrap_or(end).min(end);
                let step = (stop - at).min(COPY_STEP);
                self.room(to.1, into, step).map(|()| {
                    let (offset, data) = (into, source.read(at, step).into());
                    self.disk.change_data(to.1, DataOp::Write { offset, data });
                    step
                })
            };
            match result {
                Ok(step) => at += step,
                Err(errno) if at == from.2 => return Err(errno),
                Err(_) => break,
            }
        }
        self.touch(to.1);
        Ok(at.saturating_sub(from.2))
    }

    /// The next data or hole.
    pub fn lseek(&mut self, fh: u64, ino: Ino, offset: u64, whence: i32) -> Result<u64, Errno> {
        self.handle(fh)?;
        let content = self.inode(ino)?.content().ok_or(Errno::EINVAL)?;
        let found = match whence {
            libc::SEEK_DATA => content.seek_data(offset),
            libc::SEEK_HOLE => content.seek_hole(offset),
            _ => return Err(Errno::EINVAL),
        };
        found.ok_or(Errno::ENXIO)
    }

    /// Refuses attribute names that this mount does not keep.
    fn keeps_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let is_acl = name == acl::ACCESS || name == acl::DEFAULT;
        if name.starts_with(b"system.") && !(is_acl && self.acl) {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(())
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>, Errno> {
        self.keeps_xattr(name)?;
        let value = self.inode(ino)?.xattrs.get(name);
        value.cloned().ok_or(Errno::NO_XATTR)
    }

    /// The names of all extended attributes, each ended by a zero byte.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let names = self.inode(ino)?.xattrs.keys();
        let kept = names.filter(|name| self.keeps_xattr(name).is_ok());
        Ok(kept.flat_map(|name| [name.as_ref(), b"\0"].concat()).collect())
    }

    /// Sets an extended attribute; an access ACL sets mode bits too.
    pub fn setxattr(&mut self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        self.keeps_xattr(name)?;
        let time = now();
        let inode = self.inode(ino)?;
        match (flags, inode.xattrs.contains_key(name)) {
            (libc::XATTR_CREATE, true) => return Err(Errno::EEXIST),
            (libc::XATTR_REPLACE, false) => return Err(Errno::NO_XATTR),
            _ => {}
        }
        let mode = inode.attr.mode;
        let mut value = Some(Arc::from(value));
        if let (acl::ACCESS, Some(given)) = (name, &value) {
            let (perm, kept) = acl::set_access(given)?;
            value = kept.map(Arc::from);
            let change = AttrChange { perm: Some((mode & 0o7000) | perm), ..AttrChange::default() };
            self.change(MetaOp::Attr { ino, change }, time);
        }
        let name = name.into();
        self.change(MetaOp::Xattr { ino, name, value }, time);
        Ok(())
    }

    /// Removes an extended attribute; removing an ACL that is not there succeeds.
    pub fn removexattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        self.keeps_xattr(name)?;
        if !self.inode(ino)?.xattrs.contains_key(name) {
            return match name {
                acl::ACCESS | acl::DEFAULT => Ok(()),
                _ => Err(Errno::NO_XATTR),
            };
        }
        let (name, value) = (name.into(), None);
        self.change(MetaOp::Xattr { ino, name, value }, now());
        Ok(())
    }

    /// Opens an object.
    pub fn open(&mut self, ino: Ino) -> Result<u64, Errno> {
        self.inode(ino)?;
        Ok(self.open_handle(ino))
    }

    /// An open directory's children from position `skip` on, `.` and `..` first.
    pub fn readdir(&mut self, fh: u64, skip: usize) -> Result<Vec<(Name, Ino)>, Errno> {
        let ino = self.handle(fh)?.ino;
        if skip == 0 {
            let Body::Dir { parent, entries } = &self.inode(ino)?.body else {
                return Err(Errno::ENOTDIR);
            };
            let mut listing: Vec<(Name, Ino)> = Vec::with_capacity(entries.len() + 2);
            listing.push((b".".as_slice().into(), ino));
            listing.push((b"..".as_slice().into(), *parent));
            listing.extend(entries.iter().map(|(name, ino)| (name.clone(), *ino)));
            self.handle(fh)?.listing = listing;
        }
        let listing = &self.handle(fh)?.listing;
        Ok(listing.get(skip..).unwrap_or_default().to_vec())
    }

    /// Removes a tree as another client would: nobody here is told, open descriptors turn stale.
    pub fn remove_behind(&mut self, path: &[u8]) -> Result<(), Errno> {
        let mut at = (super::image::ROOT, &b""[..]);
        let mut ino = super::image::ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|n| !n.is_empty()) {
            at = (ino, name);
            ino = self.find(ino, name)?;
        }
        if ino == super::image::ROOT {
            return Err(Errno::EBUSY);
        }
        self.disk.begin();
        self.remove_tree(at.0, at.1, ino);
        Ok(())
    }

    fn remove_tree(&mut self, parent: Ino, name: &[u8], ino: Ino) {
        let entries = self.disk.live().get(ino).and_then(Inode::entries);
        for (child, child_ino) in entries.cloned().unwrap_or_default() {
            self.remove_tree(ino, &child, child_ino);
        }
        let name = name.into();
        if let Some(orphan) = self.disk.change(MetaOp::Remove { parent, name }, now()) {
            self.disk.forget(orphan);
        }
    }
}

/// The file type as FUSE spells it.
pub fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn fits(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}
