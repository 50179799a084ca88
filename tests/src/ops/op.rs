//! One operation on one or two of four names, and how it is done to a real directory.

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, chmodat, fstat, ftruncate, linkat, mkdirat, openat, renameat,
    renameat_with, symlinkat, unlinkat,
};
use std::fmt;
use std::path::Path;

use crate::trees::write_all;

/// The names operations speak of. One lies inside another, so that operations on parents matter.
pub const NAMES: [&str; 4] = ["a", "b", "d", "d/c"];

/// What a symlink made at each name points to: other names of the four, so that following one would show.
const TARGETS: [&str; 4] = ["d", "a", "b", "../a"];

/// Modes that `chmod` cycles through; none is the mode of a new file or directory.
const MODES: [u32; 5] = [0o640, 0o711, 0o755, 0o644, 0o750];

/// Mode of new files; no usual umask takes a bit of it.
pub(super) const FILE_MODE: u32 = 0o600;
/// Mode of new directories.
pub(super) const DIR_MODE: u32 = 0o700;

/// One of `NAMES`, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub usize);

impl Name {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Name> {
        (0..NAMES.len()).map(Name)
    }

    /// Relative path.
    pub fn path(self) -> &'static str {
        NAMES[self.0]
    }

    /// Target of a symlink made here.
    pub fn target(self) -> &'static str {
        TARGETS[self.0]
    }
}

/// An operation. Those that write take their bytes from a stamp, the number of the step, so that no two write the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A new file with a few bytes.
    Create(Name),
    /// Other bytes over all of a file's, of the same length: only times tell.
    Write(Name),
    /// A few bytes at the end.
    Append(Name),
    /// Half of its length.
    Truncate(Name),
    /// Removes a name of anything but a directory.
    Unlink(Name),
    /// A new directory.
    Mkdir(Name),
    /// Removes an empty directory.
    Rmdir(Name),
    /// Renames anything but a directory, perhaps over another; between two names of one inode it does nothing.
    RenameFile(Name, Name),
    /// Renames a directory, perhaps over an empty one.
    RenameDir(Name, Name),
    /// A further name of a file or symlink.
    Link(Name, Name),
    /// A new symlink to `Name::target`.
    Symlink(Name),
    /// Another mode of a file or directory.
    Chmod(Name),
    /// Exchanges a directory with something that is none.
    Swap(Name, Name),
}

impl Op {
    /// Every operation on every name, valid or not.
    pub fn all() -> Vec<Op> {
        let mut ops = Vec::new();
        for x in Name::all() {
            ops.extend([
                Op::Create(x),
                Op::Write(x),
                Op::Append(x),
                Op::Truncate(x),
                Op::Unlink(x),
                Op::Mkdir(x),
                Op::Rmdir(x),
                Op::Symlink(x),
                Op::Chmod(x),
            ]);
            for y in Name::all().filter(|y| *y != x) {
                ops.extend([Op::RenameFile(x, y), Op::RenameDir(x, y), Op::Link(x, y)]);
                // An exchange has no direction.
                if x < y {
                    ops.push(Op::Swap(x, y));
                }
            }
        }
        ops
    }

    /// Does it below `dir`; `stamp` must differ from step to step and be the one given to the model.
    ///
    /// # Errors
    /// When the system refuses; for an operation that is valid in the model that is a finding.
    pub fn apply_real(self, dir: &Path, stamp: u64) -> Result<()> {
        let at = |name: Name| dir.join(name.path());
        let open = |name: Name, flags: OFlags| {
            openat(CWD, at(name), flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from_raw_mode(FILE_MODE))
        };
        (|| -> rustix::io::Result<()> {
            match self {
                Op::Create(x) => {
                    let file = open(x, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
                    write_all(&file, &stamped(stamp, CREATE_LEN), 0)
                }
                Op::Write(x) => {
                    let file = open(x, OFlags::WRONLY)?;
                    let len = fstat(&file)?.st_size as usize;
                    write_all(&file, &stamped(stamp, overwritten_len(len)), 0)
                }
                Op::Append(x) => {
                    let file = open(x, OFlags::WRONLY)?;
                    let end = fstat(&file)?.st_size.cast_unsigned();
                    write_all(&file, &stamped(stamp, APPEND_LEN), end)
                }
                Op::Truncate(x) => {
                    let file = open(x, OFlags::WRONLY)?;
                    let len = fstat(&file)?.st_size.cast_unsigned();
                    ftruncate(&file, len / 2)
                }
                Op::Unlink(x) => unlinkat(CWD, at(x), AtFlags::empty()),
                Op::Mkdir(x) => mkdirat(CWD, at(x), Mode::from_raw_mode(DIR_MODE)),
                Op::Rmdir(x) => unlinkat(CWD, at(x), AtFlags::REMOVEDIR),
                Op::RenameFile(x, y) | Op::RenameDir(x, y) => renameat(CWD, at(x), CWD, at(y)),
                Op::Link(x, y) => linkat(CWD, at(x), CWD, at(y), AtFlags::empty()),
                Op::Symlink(x) => symlinkat(x.target(), CWD, at(x)),
                Op::Chmod(x) => {
                    chmodat(CWD, at(x), Mode::from_raw_mode(stamped_mode(stamp)), AtFlags::empty())
                }
                Op::Swap(x, y) => renameat_with(CWD, at(x), CWD, at(y), RenameFlags::EXCHANGE),
            }
        })()
        .with_context(|| format!("{self} as step {stamp}"))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Op::Create(x) => write!(f, "create {}", x.path()),
            Op::Write(x) => write!(f, "write {}", x.path()),
            Op::Append(x) => write!(f, "append {}", x.path()),
            Op::Truncate(x) => write!(f, "truncate {}", x.path()),
            Op::Unlink(x) => write!(f, "unlink {}", x.path()),
            Op::Mkdir(x) => write!(f, "mkdir {}", x.path()),
            Op::Rmdir(x) => write!(f, "rmdir {}", x.path()),
            Op::RenameFile(x, y) => write!(f, "rename file {} {}", x.path(), y.path()),
            Op::RenameDir(x, y) => write!(f, "rename dir {} {}", x.path(), y.path()),
            Op::Link(x, y) => write!(f, "link {} {}", x.path(), y.path()),
            Op::Symlink(x) => write!(f, "symlink {} -> {}", x.path(), x.target()),
            Op::Chmod(x) => write!(f, "chmod {}", x.path()),
            Op::Swap(x, y) => write!(f, "swap {} {}", x.path(), y.path()),
        }
    }
}

/// Bytes of a new file.
pub(super) const CREATE_LEN: usize = 24;
/// Bytes of an append.
pub(super) const APPEND_LEN: usize = 16;

/// Bytes an overwrite leaves: as many as there were, and a few in an empty file.
pub(super) fn overwritten_len(len: usize) -> usize {
    if len == 0 { 8 } else { len }
}

/// `len` bytes that no other stamp yields.
pub(super) fn stamped(stamp: u64, len: usize) -> Vec<u8> {
    format!("{stamp:07}\n").into_bytes().into_iter().cycle().take(len).collect()
}

/// The mode a `chmod` of this step sets.
pub(super) fn stamped_mode(stamp: u64) -> u32 {
    MODES[(stamp % MODES.len() as u64) as usize]
}
