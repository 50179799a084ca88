//! The directory of a journal: listing, beginning and removing segments.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use proto::journal::Seq;
use proto::journal::segment::{self, SEGMENT_BYTES_MAX};
use sys::Errno;

use super::io::errno_of;

/// What lies in the directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// First numbers of the segments, in order.
    pub segments: Vec<Seq>,
    /// First numbers of segments that were set aside.
    pub damaged: Vec<Seq>,
}

/// Segments that are to go, once what says so is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Discard {
    /// The one that is kept for people to look at.
    pub aside: Option<Seq>,
    /// The others.
    pub remove: Vec<Seq>,
}

/// Lists the directory; nothing if it is not there.
pub(super) fn list(dir: &Path) -> std::io::Result<Option<Listing>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut listing = Listing::default();
    for entry in entries {
        let name = entry?.file_name();
        listing.segments.extend(segment::parse_name(name.as_bytes()));
        listing.damaged.extend(segment::parse_damaged_name(name.as_bytes()));
    }
    listing.segments.sort_unstable();
    Ok(Some(listing))
}

/// Path of a segment.
pub(super) fn path(dir: &Path, first: Seq) -> PathBuf {
    dir.join(segment::name(first))
}

/// Reads a segment; `EFBIG` beyond what any writer makes of one.
pub(super) fn read(dir: &Path, first: Seq) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path(dir, first))?.take(SEGMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > SEGMENT_BYTES_MAX {
        return Err(std::io::Error::from_raw_os_error(Errno::FBIG.raw_os_error()));
    }
    Ok(bytes)
}

/// Makes a segment that begins with `bytes`: durable before it has its name, so that nobody sees half of its header,
/// or its notes without the gap before them. Makes the directory if it is gone.
pub(super) fn begin(dir: &Path, first: Seq, bytes: &[u8]) -> Result<File, Errno> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let new = dir.join(segment::NEW);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        fs::rename(&new, path(dir, first))?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    make().map_err(|e| errno_of(&e))
}

/// Cuts a torn tail off.
pub(super) fn truncate(dir: &Path, first: Seq, len: u64) -> Result<(), Errno> {
    let cut = || {
        let file = OpenOptions::new().write(true).open(path(dir, first))?;
        file.set_len(len)?;
        file.sync_data()
    };
    cut().map_err(|e| errno_of(&e))
}

/// Removes a segment; one that is gone is no error.
pub(super) fn remove(dir: &Path, first: Seq) -> Result<(), Errno> {
    gone_is_fine(fs::remove_file(path(dir, first)))
}

/// Carries a [`Discard`] out. What cannot be removed stays, is found again at the next start, and is a gap again.
pub(super) fn discard(dir: &Path, what: &Discard) -> Result<(), Errno> {
    if let Some(first) = what.aside {
        let older = list(dir).ok().flatten().unwrap_or_default().damaged;
        gone_is_fine(fs::rename(path(dir, first), dir.join(segment::damaged_name(first))))?;
        for other in older.into_iter().filter(|other| *other != first) {
            gone_is_fine(fs::remove_file(dir.join(segment::damaged_name(other))))?;
        }
    }
    what.remove.iter().try_for_each(|first| remove(dir, *first))
}

/// Whether the file that we write to still has its name: without it, whatever is written is lost with the process.
pub(super) fn is_in_place(dir: &Path, first: Seq, file: &File) -> Result<(), Errno> {
    let look = || {
        let (named, held) = (fs::symlink_metadata(path(dir, first))?, file.metadata()?);
        Ok(named.dev() == held.dev() && named.ino() == held.ino())
    };
    match look() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Errno::NOENT),
        Err(e) => Err(errno_of(&e)),
    }
}

fn gone_is_fine(result: std::io::Result<()>) -> Result<(), Errno> {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(errno_of(&e)),
    }
}
