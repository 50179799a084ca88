//! The acts of a flight as blocking calls: all of them for the plain engine, and for the ring those without opcode.

use std::os::fd::{AsFd, OwnedFd};

use sys::meta::{AclsKept, MadeAs, XattrsRead};
use sys::{Dir, Errno, Meta, Owner, Stat, SysError};

use crate::error::CopyError;
use crate::flight::{Block, Hashed, Loaded, Opened, same};
use crate::hash::{BLOCK, Place, hash_piece};
use crate::holes::data_runs;
use crate::job::{Identity, Writers};

/// Files up to this size are read and hashed by the call that opens them: one step instead of four.
pub const SMALL: usize = 64 << 10;

/// An opened source.
pub struct Source {
    /// The file.
    pub fd: OwnedFd,
    /// Its attributes.
    pub xattrs: XattrsRead,
    /// What the flight wants to know.
    pub opened: Opened,
}

/// Opens the source and, if it is small, loads it into `small`.
///
/// # Errors
/// `Replaced` where the name is gone or means something else than `expect`; `Source` for all else.
pub fn open_source(
    dir: &Dir,
    name: &[u8],
    expect: Identity,
    writers: Writers,
    small: &mut [u8],
) -> Result<Source, CopyError> {
    let (fd, stat) = match dir.open_file(name) {
        Ok(opened) => opened,
        // ELOOP: a symlink by now; EINVAL: a directory, FIFO or device by now; ENXIO: it went between two looks.
        Err(error) if error.is_gone() || matches!(error.errno, Errno::LOOP | Errno::INVAL | Errno::NXIO) => {
            return Err(CopyError::Replaced);
        }
        Err(error) => return Err(CopyError::Source(error)),
    };
    if (Identity { ino: stat.ino, dev: stat.dev }) != expect {
        return Err(CopyError::Replaced);
    }
    let mut xattrs = sys::meta::read_xattrs(fd.as_fd()).map_err(CopyError::Source)?;
    let mut loaded = None;
    if stat.size <= small.len() as u64 {
        if writers == Writers::Mapped {
            sys::file::clean(&fd, name).map_err(CopyError::Source)?;
        }
        let bytes = &mut small[..stat.size as usize];
        let filled = sys::file::read_at(&fd, bytes, 0, name).map_err(CopyError::Source)?;
        let after = sys::file::stat(&fd, name).map_err(CopyError::Source)?;
        if !same(&stat, &after) {
            xattrs = sys::meta::read_xattrs(fd.as_fd()).map_err(CopyError::Source)?;
        }
        if filled == bytes.len() {
            let sparse = stat.allocated < stat.size;
            loaded = Some(Loaded { hashed: hashed(0, bytes, Place::Only, sparse), after });
        }
    }
    Ok(Source { fd, xattrs, opened: Opened { stat, loaded } })
}

/// Hashes a block and finds its holes. What the buffer lacks is zeroed.
pub fn hash(block: Block, buffer: Option<&mut [u8]>) -> Hashed {
    match (buffer, block.filled) {
        (Some(buffer), Some(filled)) => {
            let bytes = &mut buffer[..block.len];
            bytes[filled..].fill(0);
            hashed(block.offset, bytes, block.place, block.sparse)
        }
        _ => Hashed { value: hash_piece(block.offset, &ZEROS[..block.len], block.place), runs: Vec::new() },
    }
}

static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

fn hashed(offset: u64, bytes: &[u8], place: Place, sparse: bool) -> Hashed {
    let value = hash_piece(offset, bytes, place);
    let runs = if sparse {
        data_runs(bytes).into_iter().map(|run| (run.start, run.len())).collect()
    } else {
        vec![(0, bytes.len())]
    };
    Hashed { value, runs }
}

/// Creates the target, as `owner` where they may.
///
/// # Errors
/// The kernel's.
pub fn create(dir: &Dir, name: &[u8], mode: u32, owner: Option<Owner>) -> Result<OwnedFd, SysError> {
    sys::owner::as_owner_or_self(owner, || dir.create(name, mode))
}

/// Removes what an earlier try left under the target's name, a file or whatever it was then.
///
/// # Errors
/// The kernel's.
pub fn clear(dir: &Dir, name: &[u8]) -> Result<(), SysError> {
    match dir.unlink(name) {
        Err(error) if error.errno == Errno::ISDIR => dir.remove_tree(name).map(|_| ()),
        other => other,
    }
}

/// Stats the source again; gives its attributes too when it is not as in `known`.
///
/// # Errors
/// The kernel's.
pub fn look(fd: impl AsFd, known: &Stat, name: &[u8]) -> Result<(Stat, Option<XattrsRead>), SysError> {
    let now = sys::file::stat(&fd, name)?;
    let changed = !same(known, &now);
    Ok((now, changed.then(|| sys::meta::read_xattrs(fd.as_fd())).transpose()?))
}

/// Gives the target its metadata.
///
/// # Errors
/// The kernel's; the target is then half-made.
pub fn dress(fd: impl AsFd, stat: &Stat, xattrs: &XattrsRead, name: &[u8]) -> Result<AclsKept, SysError> {
    let made_as = MadeAs::of(fd.as_fd(), name)?;
    let meta = Meta {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        xattrs: xattrs.kept.clone(),
    };
    sys::meta::apply(fd.as_fd(), &meta, made_as, name)
}
