//! Compares one name that both trees have, on everything but its hard links.

use super::attrs::{ACL_NAMES, AttrReader, Attrs};
use super::content::{ContentReader, data_ranges, only_in_b};
use super::options::{Capability, Options, SpecialBits};
use super::report::{Aspect, escape};
use rustix::fs::{FileType, Mode, OFlags, Stat, openat, readlinkat};
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const CAPABILITY: &[u8] = b"security.capability";

/// One side of a comparison: where an entry is and what `fstatat` said of it.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) stat: &'a Stat,
}

/// What was found at one name.
pub(super) type Findings = Vec<(Aspect, String)>;

/// Compares entries; one per thread, for its buffers.
pub(super) struct EntryJudge<'o> {
    options: &'o Options,
    attrs: AttrReader,
    pub(super) content: ContentReader,
}

impl<'o> EntryJudge<'o> {
    pub(super) fn new(options: &'o Options) -> Self {
        EntryJudge { options, attrs: AttrReader::new(), content: ContentReader::new() }
    }

    /// Compares two entries of the same name; an empty name is the two directories themselves.
    pub(super) fn judge(&mut self, name: &[u8], a: Side<'_>, b: Side<'_>) -> Findings {
        let mut found = Findings::new();
        let (type_a, type_b) = (file_type(a.stat), file_type(b.stat));
        if type_a != type_b {
            found.push((Aspect::Type, format!("{type_a:?} in a, {type_b:?} in b")));
            return found;
        }
        self.judge_stat(type_a, a.stat, b.stat, &mut found);
        let deep = match type_a {
            FileType::RegularFile => self.judge_file(name, a, b, &mut found),
            FileType::Symlink => judge_target(name, a, b, &mut found),
            _ => Ok(()),
        };
        if let Err(errno) = deep.and_then(|()| self.judge_attrs(name, type_a, a, b, &mut found)) {
            found.push((Aspect::Unreadable, errno.to_string()));
        }
        found
    }

    fn judge_stat(&self, kind: FileType, a: &Stat, b: &Stat, found: &mut Findings) {
        let mut mode_a = a.st_mode & 0o7777;
        let mode_b = b.st_mode & 0o7777;
        if kind == FileType::RegularFile && self.options.special_bits == SpecialBits::Stripped {
            mode_a &= !0o6000;
        }
        if mode_a != mode_b {
            found.push((Aspect::Mode, format!("{mode_a:04o} expected, {mode_b:04o} in b")));
        }
        if self.options.owners && a.st_uid != b.st_uid {
            found.push((Aspect::Uid, format!("{} in a, {} in b", a.st_uid, b.st_uid)));
        }
        if self.options.owners && a.st_gid != b.st_gid {
            found.push((Aspect::Gid, format!("{} in a, {} in b", a.st_gid, b.st_gid)));
        }
        let (time_a, time_b) = ((a.st_mtime, a.st_mtime_nsec), (b.st_mtime, b.st_mtime_nsec));
        if self.options.mtimes && time_a != time_b {
            let detail = format!("{}.{:09} in a, {}.{:09} in b", time_a.0, time_a.1, time_b.0, time_b.1);
            found.push((Aspect::Mtime, detail));
        }
        let device = matches!(kind, FileType::BlockDevice | FileType::CharacterDevice);
        if device && a.st_rdev != b.st_rdev {
            found.push((Aspect::Special, format!("device {:#x} in a, {:#x} in b", a.st_rdev, b.st_rdev)));
        }
    }

    fn judge_file(&mut self, name: &[u8], a: Side<'_>, b: Side<'_>, found: &mut Findings) -> Result<()> {
        if a.stat.st_size != b.stat.st_size {
            found.push((Aspect::Size, format!("{} in a, {} in b", a.stat.st_size, b.stat.st_size)));
            return Ok(());
        }
        let size = a.stat.st_size.cast_unsigned();
        if size == 0 {
            return Ok(());
        }
        let (file_a, file_b) = (open_file(a, name)?, open_file(b, name)?);
        if let Some(at) = self.content.first_difference(file_a.as_fd(), file_b.as_fd(), size)? {
            found.push((Aspect::Content, format!("first at byte {at} of {size}")));
        }
        if self.options.holes && size > self.options.hole_slack {
            let data_a = data_ranges(file_a.as_fd(), size)?;
            let data_b = data_ranges(file_b.as_fd(), size)?;
            let filled = only_in_b(&data_a, &data_b);
            if filled > self.options.hole_slack {
                found.push((Aspect::Holes, format!("{filled} bytes of holes in a are data in b")));
            }
        }
        Ok(())
    }

    fn judge_attrs(
        &mut self,
        name: &[u8],
        kind: FileType,
        a: Side<'_>,
        b: Side<'_>,
        found: &mut Findings,
    ) -> Result<()> {
        // Symlinks have no ACL, and only directories a default one.
        let acls = match kind {
            _ if !self.options.acls => &[],
            FileType::Symlink => &[],
            FileType::Directory => &ACL_NAMES[..],
            _ => &ACL_NAMES[..1],
        };
        let attrs_a = self.attrs.read(a.dir, name, acls)?;
        let attrs_b = self.attrs.read(b.dir, name, acls)?;
        let mut names: Vec<&[u8]> = attrs_a.keys().chain(attrs_b.keys()).map(Vec::as_slice).collect();
        names.sort_unstable();
        names.dedup();
        for attr in names {
            self.judge_attr(attr, &attrs_a, &attrs_b, found);
        }
        Ok(())
    }

    fn judge_attr(&self, attr: &[u8], a: &Attrs, b: &Attrs, found: &mut Findings) {
        let (in_a, in_b) = (a.get(attr), b.get(attr));
        let aspect = if ACL_NAMES.contains(&attr) {
            if !self.options.acls {
                return;
            }
            Aspect::Acl
        } else if attr.starts_with(b"user.") {
            if !self.options.xattrs {
                return;
            }
            Aspect::Xattr
        } else if attr == CAPABILITY {
            match self.options.capability {
                Capability::Ignored => return,
                Capability::Dropped if in_b.is_some() => {
                    found.push((Aspect::Capability, "b carries a file capability".to_owned()));
                    return;
                }
                Capability::Dropped => return,
                Capability::Kept => Aspect::Capability,
            }
        } else {
            // `b` alone may have bookkeeping of the filesystem below it; the same key in both was carried over. Security
            // labels are put on every file by the kernel itself.
            if in_a.is_some() && in_b.is_some() && !attr.starts_with(b"security.") {
                found.push((Aspect::ForbiddenXattr, format!("{} was carried over", escape(attr))));
            }
            return;
        };
        if in_a != in_b {
            found.push((aspect, format!("{}: {} in a, {} in b", escape(attr), tell(in_a), tell(in_b))));
        }
    }
}

fn judge_target(name: &[u8], a: Side<'_>, b: Side<'_>, found: &mut Findings) -> Result<()> {
    let target_a = readlinkat(a.dir, name, Vec::new())?;
    let target_b = readlinkat(b.dir, name, Vec::new())?;
    if target_a != target_b {
        let detail = format!("{} in a, {} in b", brief(target_a.as_bytes()), brief(target_b.as_bytes()));
        found.push((Aspect::Target, detail));
    }
    Ok(())
}

/// Opens a name that `fstatat` called a regular file; never waits and never follows should it have become another thing.
fn open_file(side: Side<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(side.dir, name, flags, Mode::empty())?;
    let now = rustix::fs::fstat(&file)?;
    if (now.st_dev, now.st_ino) != (side.stat.st_dev, side.stat.st_ino) {
        return Err(Errno::STALE);
    }
    Ok(file)
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn tell(value: Option<&Vec<u8>>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| brief(value))
}

/// A value on one line, cut short.
fn brief(value: &[u8]) -> String {
    const SHOWN: usize = 48;
    if value.len() <= SHOWN {
        return format!("\"{}\"", escape(value));
    }
    format!("\"{}…\" ({} bytes)", escape(&value[..SHOWN]), value.len())
}
