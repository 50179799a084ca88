//! The FUSE side: each request of the kernel through the gate and back.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Config, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, MountOption, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session,
    TimeOrNow, WriteFlags,
};

use super::convert::requested;
use super::gate::{Call, Gate, Shape, Target};
use super::ops::{NewNode, SetAttr, kind};
use super::protocol::Op;
use super::world::World;

/// The kernel is to ask again each time: what a reboot changed must not be seen from a cache.
const TTL: Duration = Duration::ZERO;
/// Bytes per write request, as on a GlusterFS mount: a larger write has crash points inside.
const MAX_WRITE: u32 = 128 << 10;
/// No page cache, so that short results and corrupted bytes reach the caller as they are.
const OPEN: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

/// The filesystem as the FUSE library sees it.
pub struct Server {
    gate: Arc<Gate>,
}

impl Server {
    /// Mounts the gate's world; the caller runs the session.
    ///
    /// # Errors
    /// When FUSE is missing or the mount is refused.
    pub fn mount(gate: Arc<Gate>, mountpoint: &Path, threads: usize) -> io::Result<Session<Server>> {
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("faultfs".into()), MountOption::Subtype("faultfs".into())];
        config.n_threads = Some(threads);
        Session::new(Server { gate }, mountpoint, &config)
    }

    fn on<T>(
        &self,
        op: Op,
        target: Target,
        act: impl FnOnce(&mut World, Shape) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.ranged(op, target, None, None, act)
    }

    fn ranged<T>(
        &self,
        op: Op,
        target: Target,
        offset: impl Into<Option<u64>>,
        len: impl Into<Option<u64>>,
        act: impl FnOnce(&mut World, Shape) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let call = Call { op, target, offset: offset.into(), len: len.into() };
        self.gate.pass(call, act)
    }

    fn make(
        &self,
        op: Op,
        parent: INodeNo,
        name: &OsStr,
        new: NewNode,
    ) -> Result<(FileAttr, Generation), Errno> {
        let target = Target::Entry(parent.0, name.as_bytes());
        self.on(op, target, |world, _| {
            let ino = world.create(parent.0, name.as_bytes(), new)?;
            Ok((world.attr(ino)?, Generation(world.boot)))
        })
    }
}

fn entry(reply: ReplyEntry, result: Result<(FileAttr, Generation), Errno>) {
    match result {
        Ok((attr, generation)) => reply.entry(&TTL, &attr, generation),
        Err(errno) => reply.error(errno),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn xattr(reply: ReplyXattr, size: u32, result: Result<impl AsRef<[u8]>, Errno>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.as_ref().len() as u32),
        Ok(value) if value.as_ref().len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(value.as_ref()),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without DONT_MASK the kernel applies the umask even where a default ACL replaces it.
        let wanted = InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO;
        let refused = |_| io::Error::from(io::ErrorKind::Unsupported);
        config.add_capabilities(wanted).map_err(refused)?;
        config.set_max_write(MAX_WRITE).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let target = Target::Entry(parent.0, name.as_bytes());
        let result = self.on(Op::Lookup, target, |world, _| {
            let attr = world.lookup(parent.0, name.as_bytes())?;
            Ok((attr, Generation(world.boot)))
        });
        entry(reply, result);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.gate.lock().forgotten(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let result = self.on(Op::Getattr, Target::Object(ino.0), |world, _| {
            if let Some(fh) = fh {
                world.handle(fh.0)?;
            }
            world.attr(ino.0)
        });
        match result {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: atime.map(requested), mtime: mtime.map(requested) };
        let target = Target::Object(ino.0);
        let result = self.ranged(Op::Setattr, target, None, size, |world, _| {
            if let Some(fh) = fh {
                world.handle(fh.0)?;
            }
            world.setattr(ino.0, &set)
        });
        match result {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.on(Op::Readlink, Target::Object(ino.0), |world, _| world.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let new = NewNode {
            mode: typed(mode, libc::S_IFREG),
            umask,
            uid: req.uid(),
            gid: req.gid(),
            rdev,
            target: b"",
        };
        entry(reply, self.make(Op::Mknod, parent, name, new));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let new = NewNode {
            mode: libc::S_IFDIR | (mode & 0o7777),
            umask,
            uid: req.uid(),
            gid: req.gid(),
            rdev: 0,
            target: b"",
        };
        entry(reply, self.make(Op::Mkdir, parent, name, new));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let target = Target::Entry(parent.0, name.as_bytes());
        let result = self.on(Op::Unlink, target, |world, _| world.unlink(parent.0, name.as_bytes()));
        empty(reply, result);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let target = Target::Entry(parent.0, name.as_bytes());
        let result = self.on(Op::Rmdir, target, |world, _| world.rmdir(parent.0, name.as_bytes()));
        empty(reply, result);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = NewNode {
            mode: libc::S_IFLNK | 0o777,
            umask: 0,
            uid: req.uid(),
            gid: req.gid(),
            rdev: 0,
            target: target.as_os_str().as_bytes(),
        };
        entry(reply, self.make(Op::Symlink, parent, link_name, new));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            // GlusterFS has no handler for flags at all; not a request that could change anything.
            return reply.error(Errno::EINVAL);
        }
        let from = (parent.0, name.as_bytes());
        let to = (newparent.0, newname.as_bytes());
        let result = self.on(Op::Rename, Target::Move(from, to), |world, _| world.rename(from, to));
        empty(reply, result);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let to = (newparent.0, newname.as_bytes());
        let result = self.on(Op::Link, Target::Link(ino.0, to), |world, _| {
            let attr = world.link(ino.0, to.0, to.1)?;
            Ok((attr, Generation(world.boot)))
        });
        entry(reply, result);
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.on(Op::Open, Target::Object(ino.0), |world, _| world.open(ino.0)) {
            Ok(fh) => reply.opened(FileHandle(fh), OPEN),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let new = NewNode {
            mode: libc::S_IFREG | (mode & 0o7777),
            umask,
            uid: req.uid(),
            gid: req.gid(),
            rdev: 0,
            target: b"",
        };
        let target = Target::Entry(parent.0, name.as_bytes());
        let result = self.on(Op::Create, target, |world, _| {
            let ino = world.create(parent.0, name.as_bytes(), new)?;
            Ok((world.attr(ino)?, Generation(world.boot), world.open(ino)?))
        });
        match result {
            Ok((attr, generation, fh)) => {
                reply.created(&TTL, &attr, generation, FileHandle(fh), OPEN);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let target = Target::Object(ino.0);
        let size = u64::from(size);
        let result = self.ranged(Op::Read, target, offset, size, |world, shape| {
            let mut data = world.read(fh.0, ino.0, offset, size.min(shape.limit))?;
            if let (true, Some(byte)) = (shape.corrupt, data.first_mut()) {
                *byte ^= 1;
            }
            Ok(data)
        });
        match result {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let target = Target::Object(ino.0);
        let len = data.len() as u64;
        let result = self.ranged(Op::Write, target, offset, len, |world, shape| {
            let kept = &data[..len.min(shape.limit) as usize];
            world.write(fh.0, ino.0, offset, kept)?;
            if flags.0 & libc::O_DSYNC != 0 && !shape.lie {
                world.fsync(fh.0, ino.0)?;
            }
            Ok(kept.len() as u32)
        });
        match result {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.on(Op::Flush, Target::Object(ino.0), |_, _| Ok(())));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.gate.lock().close_handle(fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let result = self.on(Op::Fsync, Target::Object(ino.0), |world, shape| {
            if shape.lie {
                return world.handle(fh.0).map(|_| ());
            }
            world.fsync(fh.0, ino.0)
        });
        empty(reply, result);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.on(Op::Opendir, Target::Object(ino.0), |world, _| world.open(ino.0)) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.on(Op::Readdir, Target::Object(ino.0), |world, _| {
            for (index, (name, child)) in world.readdir(fh.0, offset as usize)?.iter().enumerate() {
                // The type of a child that is gone by now is of no use to anyone.
                let mode = world.disk.live().get(*child).map(|inode| inode.attr.mode);
                let name = OsStr::from_bytes(name);
                let next = offset + index as u64 + 1;
                if reply.add(INodeNo(*child), next, kind(mode.unwrap_or(0)), name) {
                    break;
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = self.on(Op::Readdir, Target::Object(ino.0), |world, _| {
            for (index, (name, child)) in world.readdir(fh.0, offset as usize)?.iter().enumerate() {
                let Ok(attr) = world.attr(*child) else {
                    continue;
                };
                let next = offset + index as u64 + 1;
                let known = OsStr::from_bytes(name);
                let boot = Generation(world.boot);
                if reply.add(INodeNo(*child), next, known, &TTL, &attr, boot) {
                    break;
                }
                // The kernel takes a reference for each entry but these two.
                if !matches!(name.as_ref(), b"." | b"..") {
                    world.told(ino.0, name, *child);
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.gate.lock().close_handle(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        // As on GlusterFS: success, and nothing is durable for it.
        empty(reply, self.on(Op::Fsyncdir, Target::Object(ino.0), |_, _| Ok(())));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 28;
        let result = self.on(Op::Statfs, Target::Object(ino.0), |world, _| {
            let total = world.faults.full.map_or(BLOCKS, |bytes| bytes / 4096);
            Ok((total, total.saturating_sub(world.disk.stored() / 4096)))
        });
        match result {
            Ok((total, free)) => {
                reply.statfs(total, free, free, 1 << 20, 1 << 20, 4096, 255, 4096);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let result = self.on(Op::Setxattr, Target::Object(ino.0), |world, _| {
            world.setxattr(ino.0, name.as_bytes(), value, flags)
        });
        empty(reply, result);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let result =
            self.on(Op::Getxattr, Target::Object(ino.0), |world, _| world.getxattr(ino.0, name.as_bytes()));
        xattr(reply, size, result);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let result = self.on(Op::Listxattr, Target::Object(ino.0), |world, _| world.listxattr(ino.0));
        xattr(reply, size, result);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = self
            .on(Op::Removexattr, Target::Object(ino.0), |world, _| world.removexattr(ino.0, name.as_bytes()));
        empty(reply, result);
    }

    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Only the mounting user gets here, and that is root.
        empty(reply, self.on(Op::Access, Target::Object(ino.0), |_, _| Ok(())));
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let target = Target::Object(ino.0);
        let result = self.ranged(Op::Fallocate, target, offset, length, |world, _| {
            world.fallocate(fh.0, ino.0, offset, length, mode)
        });
        empty(reply, result);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let result = self.on(Op::Lseek, Target::Object(ino.0), |world, _| {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            world.lseek(fh.0, ino.0, offset, whence)
        });
        match result {
            Ok(found) => reply.offset(found as i64),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let target = Target::Copy(ino_in.0, ino_out.0);
        let result = self.ranged(Op::CopyFileRange, target, offset_out, len, |world, shape| {
            world.copy_range(
                (fh_in.0, ino_in.0, offset_in),
                (fh_out.0, ino_out.0, offset_out),
                len.min(shape.limit),
            )
        });
        match result {
            Ok(copied) => reply.written(copied as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

/// A mode without type bits means a regular file.
fn typed(mode: u32, default: u32) -> u32 {
    if mode & libc::S_IFMT == 0 { mode | default } else { mode }
}
