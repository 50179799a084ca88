//! The end of a large file that grew: staged alone, where the mirror has the rest.
//!
//! Build logs only grow: this is the common case, and reading and hashing the whole file is all it costs. The file is
//! read once by as many threads as there are processors, in pieces that stay in their caches.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::{Body, Entry, FileBody};
use sys::SysError;
use sys::meta::AclsKept;
use transfer::hash::{BLOCK, BlockHasher, Hash};
use transfer::{ContentHash, Copied, Cost, Identity, Limits, Writers};

use super::acts::{ActError, At};

/// Bytes read and hashed at a time: half of a small second-level cache (`cargo run --example hash` in `transfer`).
const PIECE_BYTES: usize = 128 << 10;

/// Most threads for one file: beyond that memory is the limit.
const THREADS_MAX: usize = 4;

/// Reads the source and stages what it has behind the size of `old`, as a file of its own: none if nothing is behind
/// it. Gives nothing, and leaves nothing, when the source does not begin with `old`, or has changed so much meanwhile
/// that this cannot be said.
///
/// What is said of the source is as of before it was read; `stat_changed_during_copy` tells that it was written to.
pub fn stage(
    source: &At,
    expect: Identity,
    writers: Writers,
    old: &Entry,
    target: &At,
    sync: bool,
    limits: &Limits,
) -> Result<Option<Copied>, ActError> {
    let Body::File(old) = &old.body else { return Ok(None) };
    let name = &source.1;
    let (file, stat) = source.0.open_file(name).map_err(ActError::Source)?;
    let is_expected = (Identity { ino: stat.ino, dev: stat.dev }) == expect;
    if !is_expected || stat.size < old.size || old.blocks.len() as u64 != old.size.div_ceil(BLOCK) {
        return Ok(None);
    }
    let xattrs = sys::meta::read_xattrs(file.as_fd()).map_err(ActError::Source)?;
    if writers == Writers::Mapped {
        sys::file::clean(&file, name).map_err(ActError::Source)?;
    }
    let reading = Reading { file: &file, name, size: stat.size, old };
    let Some(blocks) = reading.all().map_err(ActError::Source)? else { return Ok(None) };
    let sent = stat.size - old.size;
    if sent > 0 && !write(&reading, &blocks, target, sync, limits)? {
        target.0.unlink(&target.1).map_err(ActError::Target)?;
        return Ok(None);
    }
    let after = sys::file::stat(&file, name).map_err(ActError::Source)?;
    Ok(Some(Copied {
        stat,
        stat_changed_during_copy: (after.size, after.mtime, after.ctime)
            != (stat.size, stat.mtime, stat.ctime),
        size: stat.size,
        hash: ContentHash::from_blocks(blocks),
        xattrs,
        acls: AclsKept::All,
        bytes_sent: sent,
    }))
}

/// Takes a piece of the file and its offset.
type Each<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), SysError>;

/// A source being read, and what it should begin with.
struct Reading<'a> {
    file: &'a OwnedFd,
    name: &'a [u8],
    size: u64,
    old: &'a FileBody,
}

impl Reading<'_> {
    /// Values of all blocks; nothing as soon as one shows that the file does not begin with the old one.
    fn all(&self) -> Result<Option<Vec<Hash>>, SysError> {
        let count = self.size.div_ceil(BLOCK);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let values = Mutex::new(vec![[0; 32]; usize::try_from(count).unwrap_or(0)]);
        let work = || -> Result<bool, SysError> {
            let mut piece = vec![0; PIECE_BYTES];
            while !over.load(Ordering::Relaxed) {
                let block = next.fetch_add(1, Ordering::Relaxed);
                if block >= count {
                    return Ok(true);
                }
                match self.block(block, &mut piece, &mut |_, _| Ok(()))? {
                    Some(value) => {
                        let mut values = values.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        values[block as usize] = value;
                    }
                    None => over.store(true, Ordering::Relaxed),
                }
            }
            Ok(false)
        };
        let fits = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_fold(true, |fits, worker| {
                let this = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(fits && this)
            })
        })?;
        Ok(fits.then(|| values.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())))
    }

    /// Value of one block, after handing each piece of it, with its offset, to `each`. Nothing when the file is too
    /// short by now, or has other bytes than the old one.
    fn block(&self, block: u64, piece: &mut [u8], each: Each<'_>) -> Result<Option<Hash>, SysError> {
        let (start, end) = (block * BLOCK, ((block + 1) * BLOCK).min(self.size));
        let old_end = end.min(self.old.size);
        let mut hasher = BlockHasher::new(block);
        let mut at = start;
        while at < end {
            // Up to the end of the old content first: its value is to be compared.
            let until = if at < old_end { old_end } else { end };
            let want = piece.len().min(usize::try_from(until - at).unwrap_or(piece.len()));
            if sys::file::read_at(self.file, &mut piece[..want], at, self.name)? < want {
                return Ok(None);
            }
            hasher.update(&piece[..want]);
            each(at, &piece[..want])?;
            at += want as u64;
            if at == old_end && self.old.blocks.get(block as usize) != Some(&hasher.value()) {
                return Ok(None);
            }
        }
        Ok(Some(hasher.value()))
    }
}

/// Writes what is behind the old content. False when it is no longer what was hashed.
fn write(
    reading: &Reading<'_>,
    blocks: &[Hash],
    target: &At,
    sync: bool,
    limits: &Limits,
) -> Result<bool, ActError> {
    let (old_size, name) = (reading.old.size, &target.1);
    let to = target.0.create(name, 0o600).map_err(ActError::Target)?;
    let mut piece = vec![0; BLOCK as usize];
    for block in old_size / BLOCK..blocks.len() as u64 {
        let mut failed = None;
        let value = reading.block(block, &mut piece, &mut |at, bytes| {
            let skip = usize::try_from(old_size.saturating_sub(at)).unwrap_or(bytes.len()).min(bytes.len());
            let offset = (at + skip as u64).saturating_sub(old_size);
            paced(&to, &bytes[skip..], offset, name, limits).inspect_err(|e| failed = Some(e.clone()))
        });
        match (value, failed) {
            (_, Some(error)) => return Err(ActError::Target(error)),
            (Err(error), None) => return Err(ActError::Source(error)),
            (Ok(value), None) if value.as_ref() != blocks.get(block as usize) => return Ok(false),
            (Ok(_), None) => {}
        }
    }
    let finished = if sync { sys::file::sync(&to, name) } else { Ok(()) };
    finished.and_then(|()| sys::file::close(to, name)).map_err(ActError::Target)?;
    Ok(true)
}

/// Writes in pieces that the limits let through.
fn paced(
    to: &OwnedFd,
    mut bytes: &[u8],
    mut offset: u64,
    name: &[u8],
    limits: &Limits,
) -> Result<(), SysError> {
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(limits.piece(bytes.len()));
        limits.wait(Cost::write(piece.len()));
        sys::file::write_at(to, piece, offset, name)?;
        offset += piece.len() as u64;
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::Time;
    use sys::Dir;
    use transfer::ContentHasher;

    use super::*;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 + i / 251 + (i >> 16)) as u8).collect()
    }

    fn entry(bytes: &[u8]) -> Entry {
        let mut hasher = ContentHasher::default();
        hasher.update(bytes);
        let hash = hasher.finish();
        let body = FileBody { size: bytes.len() as u64, hash: hash.root, blocks: hash.blocks };
        let origin = proto::Origin { ino: 0, btime: None, ctime: Time::default(), racy: false };
        Entry {
            body: Body::File(body),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
            linked: false,
            origin,
        }
    }

    /// Stages the end of `now` over `old`; the end, if it fits.
    fn staged(old: &[u8], now: &[u8]) -> Option<(Copied, Vec<u8>)> {
        let at = tempfile::tempdir().unwrap();
        std::fs::write(at.path().join("log"), now).unwrap();
        let dir = Arc::new(Dir::open(at.path()).unwrap());
        let stat = dir.stat(b"log").unwrap();
        let expect = Identity { ino: stat.ino, dev: stat.dev };
        let (source, target) = ((dir.clone(), Box::from(*b"log")), (dir, Box::from(*b"end")));
        let copied =
            match stage(&source, expect, Writers::Mapped, &entry(old), &target, true, &Limits::default()) {
                Ok(copied) => copied,
                Err(ActError::Source(e) | ActError::Target(e)) => panic!("{e}"),
            };
        let end = std::fs::read(at.path().join("end"));
        assert!(copied.is_some() || end.is_err(), "an end of no use is left");
        copied.map(|copied| (copied, end.unwrap_or_default()))
    }

    #[test]
    fn what_was_appended_is_staged_whatever_the_sizes() {
        const MIB: usize = BLOCK as usize;
        for old in [2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 2 * MIB + PIECE_BYTES, 3 * MIB + 77] {
            for more in [0, 1, PIECE_BYTES, MIB - 78, MIB, MIB + 1, 2 * MIB + 5] {
                let now = content(old + more);
                let (copied, end) = staged(&now[..old], &now).unwrap_or_else(|| panic!("{old} + {more}"));
                assert_eq!(end, now[old..], "{old} + {more}");
                assert_eq!(copied.hash.root, *blake3::hash(&now).as_bytes(), "{old} + {more}");
                assert_eq!(copied.bytes_sent, more as u64);
            }
        }
    }

    #[test]
    fn a_file_that_begins_otherwise_is_left_alone() {
        const MIB: usize = BLOCK as usize;
        let old = content(3 * MIB + 77);
        for at in [0, MIB, 3 * MIB, 3 * MIB + 76] {
            let mut now = content(4 * MIB);
            now[at] ^= 1;
            assert!(staged(&old, &now).is_none(), "byte {at}");
        }
        assert!(staged(&old, &old[..3 * MIB]).is_none(), "shorter");
    }
}
