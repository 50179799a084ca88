//! Building the record of a path from what the kernel and the copy engine said.

use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::{Body, Entry, FileBody, Origin, Time};
use sys::meta::XattrsRead;
use sys::{Dir, FileKind, Stat, SysError};

use crate::index::time;

/// How old a change time must be before a later change is sure to move it: kernels before 6.13 stamp with the
/// timer tick, 10 ms at the coarsest; ten ticks are allowed.
const RACY_NANOS: i128 = 100_000_000;

/// The wall clock, in the format's time.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { sec: since.as_secs() as i64, nsec: since.subsec_nanos() }
}

fn nanos(t: Time) -> i128 {
    i128::from(t.sec) * 1_000_000_000 + i128::from(t.nsec)
}

/// What the volume says of the inode; `at` is when it was looked at, or earlier.
pub fn origin(stat: &Stat, changing: bool, at: Time) -> Origin {
    let ctime = time(stat.ctime);
    // Both clocks are this host's wall clock; a ctime in the future is as doubtful as a fresh one.
    let racy = changing || nanos(at) - nanos(ctime) < RACY_NANOS;
    Origin { ino: stat.ino, btime: stat.btime.map(time), ctime, racy }
}

/// An entry with the metadata of `stat`.
pub fn entry(body: Body, stat: &Stat, xattrs: sys::Xattrs, changing: bool) -> Entry {
    Entry {
        body,
        mode: if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode },
        uid: stat.uid,
        gid: stat.gid,
        mtime: time(stat.mtime),
        xattrs,
        linked: stat.kind != FileKind::Dir && stat.nlink > 1,
        origin: origin(stat, changing, now()),
    }
}

/// Entry of a copied file, in a cycle that looked at `begun` who has what mapped. What was changed since may have been
/// changed through a mapping that was not known of, and be changing still without moving its times. `racy`: it is not to
/// be believed the next time for another reason.
pub fn of_copied(copied: &transfer::Copied, begun: Time, racy: bool) -> Entry {
    let body = Body::File(FileBody {
        size: copied.size,
        hash: copied.hash.root,
        blocks: copied.hash.blocks.clone(),
    });
    let changing = racy || copied.stat_changed_during_copy;
    let entry = entry(body, &copied.stat, copied.xattrs.kept.clone(), changing);
    Entry { origin: origin(&copied.stat, changing, begun), ..entry }
}

/// Entry of an open directory, with the names of attributes left out.
///
/// # Errors
/// Of `statx` or of reading its attributes.
pub fn of_dir(dir: &Dir) -> Result<(Entry, XattrsRead), SysError> {
    let stat = dir.stat_self()?;
    let xattrs = sys::meta::read_xattrs(dir.as_fd())?;
    Ok((entry(Body::Dir, &stat, xattrs.kept.clone(), false), xattrs))
}
