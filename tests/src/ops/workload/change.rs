//! The kinds of change, each as one real operation (or the few that a program would use for it).

use super::names::related;
use super::{Kind, Workload, told};
use crate::trees::{sample_acl, set_mtime, write_all};
use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags, chmodat,
    chownat, fallocate, fstat, ftruncate, linkat, lremovexattr, lsetxattr, mkdirat, mknodat, openat,
    renameat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    CreateLarge,
    Overwrite,
    OverwriteUnseen,
    Rewrite,
    Append,
    Truncate,
    SaveByRename,
    PunchHole,
    RenameFile,
    RenameDir,
    Exchange,
    Link,
    MkdirDeep,
    Symlink,
    Retarget,
    Fifo,
    Chmod,
    Chown,
    Utimens,
    SetXattr,
    DropXattr,
    SetAcl,
    SwapType,
    Unlink,
    RemoveTree,
}

/// Listed as often as they are likely.
pub(super) const ALL: [Change; 37] = [
    Change::Create,
    Change::Create,
    Change::Create,
    Change::Create,
    Change::CreateLarge,
    Change::Overwrite,
    Change::Overwrite,
    Change::OverwriteUnseen,
    Change::Rewrite,
    Change::Append,
    Change::Append,
    Change::Append,
    Change::Truncate,
    Change::SaveByRename,
    Change::SaveByRename,
    Change::PunchHole,
    Change::RenameFile,
    Change::RenameFile,
    Change::RenameDir,
    Change::RenameDir,
    Change::Exchange,
    Change::Link,
    Change::Link,
    Change::MkdirDeep,
    Change::MkdirDeep,
    Change::Symlink,
    Change::Retarget,
    Change::Fifo,
    Change::Chmod,
    Change::Chown,
    Change::Utimens,
    Change::SetXattr,
    Change::DropXattr,
    Change::SetAcl,
    Change::SwapType,
    Change::Unlink,
    Change::RemoveTree,
];

/// What makes room.
pub(super) const REMOVALS: [Change; 3] = [Change::Unlink, Change::Unlink, Change::RemoveTree];

/// What was done, or nothing when no name fits.
type Done = Result<Option<String>>;

impl Workload {
    pub(super) fn act(&mut self, change: Change) -> Done {
        let done = match change {
            Change::Create => self.create(3000),
            Change::CreateLarge => self.create(400_000),
            Change::Overwrite | Change::OverwriteUnseen | Change::Rewrite => self.write(change),
            Change::Append | Change::Truncate | Change::PunchHole => self.resize(change),
            Change::SaveByRename => self.save_by_rename(),
            Change::RenameFile => self.rename_file(),
            Change::RenameDir => self.rename_dir(),
            Change::Exchange => self.exchange(),
            Change::Link => self.link(),
            Change::MkdirDeep => self.mkdir_deep(),
            Change::Symlink | Change::Fifo => self.make(change),
            Change::Retarget | Change::SwapType => self.replace(change),
            Change::Chmod | Change::Chown | Change::Utimens => self.set_stat(change),
            Change::SetXattr | Change::DropXattr | Change::SetAcl => self.set_attr(change),
            Change::Unlink => self.unlink(),
            Change::RemoveTree => self.remove_tree(),
        };
        done.with_context(|| format!("step {}: {change:?}", self.steps))
    }

    fn create(&mut self, most: u64) -> Done {
        let Some(name) = self.fresh() else { return Ok(None) };
        let len = self.rng.below(most) as usize;
        self.put_file(&name, len)?;
        Ok(Some(format!("create {} ({len} bytes)", told(&name))))
    }

    fn put_file(&mut self, name: &[u8], len: usize) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(CWD, self.path(name), flags, Mode::from_raw_mode(0o644))?;
        write_all(&file, &self.rng.bytes(len), 0)?;
        self.entries.insert(name.to_vec(), Kind::File);
        Ok(())
    }

    fn open(&self, name: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(CWD, self.path(name), flags, Mode::empty())?)
    }

    fn write(&mut self, change: Change) -> Done {
        let Some(name) = self.existing(|kind| kind == Kind::File) else { return Ok(None) };
        let file = self.open(&name)?;
        let stat = fstat(&file)?;
        let size = stat.st_size.cast_unsigned();
        if change == Change::Rewrite {
            ftruncate(&file, 0)?;
            let len = self.rng.below(5000) as usize;
            write_all(&file, &self.rng.bytes(len), 0)?;
            return Ok(Some(format!("rewrite {} ({len} bytes)", told(&name))));
        }
        if size == 0 {
            return Ok(None);
        }
        let at = self.rng.below(size);
        let len = self.rng.between(1, (size - at).min(8192));
        write_all(&file, &self.rng.bytes(len as usize), at)?;
        if change == Change::OverwriteUnseen {
            // Same size, same mtime: only ctime and the bytes tell.
            drop(file);
            set_mtime(&self.path(&name), (stat.st_mtime, stat.st_mtime_nsec as u32))?;
            return Ok(Some(format!("overwrite {} at {at}+{len}, mtime put back", told(&name))));
        }
        Ok(Some(format!("overwrite {} at {at}+{len}", told(&name))))
    }

    fn resize(&mut self, change: Change) -> Done {
        let Some(name) = self.existing(|kind| kind == Kind::File) else { return Ok(None) };
        let file = self.open(&name)?;
        let size = fstat(&file)?.st_size.cast_unsigned();
        match change {
            Change::Append => {
                let len = self.rng.between(1, 4000);
                write_all(&file, &self.rng.bytes(len as usize), size)?;
                Ok(Some(format!("append {len} to {}", told(&name))))
            }
            Change::Truncate => {
                let to = if self.rng.percent(70) {
                    self.rng.below(size + 1)
                } else {
                    size + self.rng.below(300_000)
                };
                ftruncate(&file, to)?;
                Ok(Some(format!("truncate {} from {size} to {to}", told(&name))))
            }
            _ => {
                if size < 8192 {
                    return Ok(None);
                }
                let (at, len) = (self.rng.below(size), self.rng.between(1, size));
                match fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len) {
                    Ok(()) => Ok(Some(format!("punch {} at {at}+{len}", told(&name)))),
                    Err(Errno::NOTSUP) => Ok(None),
                    Err(errno) => Err(errno.into()),
                }
            }
        }
    }

    /// As editors and Jenkins save: a new file beside the old one, renamed over it.
    fn save_by_rename(&mut self) -> Done {
        let Some(name) = self.existing(|kind| kind == Kind::File) else { return Ok(None) };
        let parent = name.iter().rposition(|byte| *byte == b'/').map_or(Vec::new(), |at| name[..at].to_vec());
        let Some(temporary) = self.fresh_in(&parent) else { return Ok(None) };
        let len = self.rng.below(3000) as usize;
        self.put_file(&temporary, len)?;
        renameat(CWD, self.path(&temporary), CWD, self.path(&name))?;
        self.entries.remove(&temporary);
        Ok(Some(format!("save {} through {}", told(&name), told(&temporary))))
    }

    fn rename_file(&mut self) -> Done {
        let Some(old) = self.existing(|kind| kind != Kind::Dir) else { return Ok(None) };
        let over = self.rng.percent(40);
        let target = if over { self.existing(|kind| kind != Kind::Dir) } else { self.fresh() };
        let Some(new) = target.filter(|new| *new != old) else { return Ok(None) };
        renameat(CWD, self.path(&old), CWD, self.path(&new))?;
        // Between two names of one inode nothing happens.
        if self.path(&old).symlink_metadata().is_err() {
            let moved = self.forget(&old);
            self.forget(&new);
            self.adopt(moved, &old, &new);
        }
        Ok(Some(format!("rename {} {}{}", told(&old), told(&new), if over { " (over)" } else { "" })))
    }

    fn rename_dir(&mut self) -> Done {
        let Some(old) = self.existing(|kind| kind == Kind::Dir) else { return Ok(None) };
        let over = self.rng.percent(25);
        let target = if over {
            self.existing(|kind| kind == Kind::Dir).filter(|new| self.below(new).is_empty())
        } else {
            self.fresh()
        };
        let Some(new) = target.filter(|new| !related(&old, new)) else { return Ok(None) };
        let moved = self.below(&old);
        if moved.iter().any(|(name, _)| name.len() - old.len() + new.len() > 3500) {
            return Ok(None);
        }
        renameat(CWD, self.path(&old), CWD, self.path(&new))?;
        let moved = self.forget(&old);
        self.adopt(moved, &old, &new);
        Ok(Some(format!("rename dir {} {}{}", told(&old), told(&new), if over { " (over)" } else { "" })))
    }

    fn exchange(&mut self) -> Done {
        let (Some(x), Some(y)) = (self.existing(|_| true), self.existing(|_| true)) else { return Ok(None) };
        let longest =
            self.below(&x).iter().chain(&self.below(&y)).map(|(name, _)| name.len()).max().unwrap_or(0);
        if related(&x, &y) || longest + x.len().max(y.len()) > 3500 {
            return Ok(None);
        }
        match renameat_with(CWD, self.path(&x), CWD, self.path(&y), RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS) => return Ok(None),
            result => result?,
        }
        let (from_x, from_y) = (self.forget(&x), self.forget(&y));
        self.adopt(from_x, &x, &y);
        self.adopt(from_y, &y, &x);
        Ok(Some(format!("exchange {} {}", told(&x), told(&y))))
    }

    fn link(&mut self) -> Done {
        let Some(old) = self.existing(|kind| kind == Kind::File) else { return Ok(None) };
        let Some(new) = self.fresh() else { return Ok(None) };
        linkat(CWD, self.path(&old), CWD, self.path(&new), AtFlags::empty())?;
        self.entries.insert(new.clone(), Kind::File);
        Ok(Some(format!("link {} {}", told(&old), told(&new))))
    }

    fn mkdir_deep(&mut self) -> Done {
        let Some(top) = self.fresh() else { return Ok(None) };
        let levels = self.rng.between(1, 4);
        let mut at = top.clone();
        for level in 0..levels {
            if level > 0 {
                let Some(next) = self.fresh_in(&at) else { break };
                at = next;
            }
            mkdirat(CWD, self.path(&at), Mode::from_raw_mode(0o755))?;
            self.entries.insert(at.clone(), Kind::Dir);
            if self.rng.percent(50)
                && let Some(file) = self.fresh_in(&at)
            {
                let len = self.rng.below(500) as usize;
                self.put_file(&file, len)?;
            }
        }
        Ok(Some(format!("mkdir -p {}", told(&at))))
    }

    fn make(&mut self, change: Change) -> Done {
        let Some(name) = self.fresh() else { return Ok(None) };
        let kind = if change == Change::Fifo { Kind::Node } else { Kind::Symlink };
        self.put_kind(&name, kind)?;
        Ok(Some(format!("make {kind:?} {}", told(&name))))
    }

    fn put_kind(&mut self, name: &[u8], kind: Kind) -> Result<()> {
        match kind {
            Kind::File => return self.put_file(name, 100),
            Kind::Dir => mkdirat(CWD, self.path(name), Mode::from_raw_mode(0o755))?,
            Kind::Node => mknodat(CWD, self.path(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
            Kind::Symlink => {
                let target = match self.rng.below(4) {
                    0 => b"/etc/passwd".to_vec(),
                    1 => b"../../../..".to_vec(),
                    2 => format!("dangling-{}", self.steps).into_bytes(),
                    _ => self.existing(|_| true).unwrap_or_else(|| b".".to_vec()),
                };
                symlinkat(target, CWD, self.path(name))?;
            }
        }
        self.entries.insert(name.to_vec(), kind);
        Ok(())
    }

    /// The same name as something else, or as another symlink.
    fn replace(&mut self, change: Change) -> Done {
        let only_links = change == Change::Retarget;
        let Some(name) = self.existing(|kind| !only_links || kind == Kind::Symlink) else { return Ok(None) };
        let old = self.entries[&name];
        let new = if only_links {
            Kind::Symlink
        } else {
            let others: Vec<Kind> = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Node]
                .into_iter()
                .filter(|kind| *kind != old)
                .collect();
            *self.rng.pick(&others)
        };
        if old == Kind::Dir {
            std::fs::remove_dir_all(self.path(&name))?;
        } else {
            unlinkat(CWD, self.path(&name), AtFlags::empty())?;
        }
        self.forget(&name);
        self.put_kind(&name, new)?;
        Ok(Some(format!("replace {old:?} {} by {new:?}", told(&name))))
    }

    fn set_stat(&mut self, change: Change) -> Done {
        let Some(name) = self.existing(|kind| kind != Kind::Symlink || change != Change::Chmod) else {
            return Ok(None);
        };
        let path = self.path(&name);
        let words = match change {
            Change::Chmod => {
                let mode = self.rng.below(0o10000) as u32;
                chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
                format!("chmod {mode:04o}")
            }
            Change::Chown => {
                let (uid, gid) = (self.rng.below(4_294_967_295) as u32, self.rng.below(70_000) as u32);
                let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                chownat(CWD, path, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
                format!("chown {uid}:{gid}")
            }
            _ => {
                let seconds = self.rng.below(4_000_000_000) as i64 - 1_000_000_000;
                let nanoseconds = self.rng.below(1_000_000_000) as u32;
                set_mtime(&path, (seconds, nanoseconds))?;
                format!("utimens {seconds}.{nanoseconds:09}")
            }
        };
        Ok(Some(format!("{words} {}", told(&name))))
    }

    fn set_attr(&mut self, change: Change) -> Done {
        let Some(name) = self.existing(|kind| matches!(kind, Kind::File | Kind::Dir)) else {
            return Ok(None);
        };
        let path = self.path(&name);
        let attr = format!("user.w{}", self.rng.below(4));
        let result = match change {
            Change::SetXattr => {
                let len = self.rng.below(200) as usize;
                lsetxattr(path, &attr, &self.rng.bytes(len), XattrFlags::empty())
            }
            Change::DropXattr => lremovexattr(path, &attr),
            _ => {
                let id = self.rng.below(50_000) as u32;
                lsetxattr(path, "system.posix_acl_access", &sample_acl(id, id), XattrFlags::empty())
            }
        };
        match result {
            Ok(()) => Ok(Some(format!("{change:?} {}", told(&name)))),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn unlink(&mut self) -> Done {
        let Some(name) = self.existing(|kind| kind != Kind::Dir) else { return Ok(None) };
        unlinkat(CWD, self.path(&name), AtFlags::empty())?;
        self.forget(&name);
        Ok(Some(format!("unlink {}", told(&name))))
    }

    fn remove_tree(&mut self) -> Done {
        let Some(name) = self.existing(|kind| kind == Kind::Dir) else { return Ok(None) };
        let below = self.below(&name).len();
        // Half of everything at once is a test of its own (the limit on deletions), not a step of many.
        if below > self.entries.len() / 4 + 10 {
            return Ok(None);
        }
        std::fs::remove_dir_all(self.path(&name))?;
        self.forget(&name);
        Ok(Some(format!("rm -r {} (and {below} below)", told(&name))))
    }
}
