//! The bare walk that a sync with nothing changed is held against: getdents64 and statx, on two threads or
//! as many as there are cores, and nothing else.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, openat, statx};
use rustix::io::Errno;

const BUFFER: usize = 64 << 10;
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Queue {
    dirs: Vec<(Arc<OwnedFd>, Vec<u8>)>,
    busy: usize,
}

/// Looks at every name below `root` and returns how many there are.
///
/// # Errors
/// The root cannot be opened; what vanishes inside is passed over.
pub fn walk(root: &Path, threads: usize) -> Result<u64> {
    let root = openat(CWD, root, FLAGS, Mode::empty()).with_context(|| root.display().to_string())?;
    let queue = Mutex::new(Queue { dirs: vec![(Arc::new(root), b".".to_vec())], busy: 0 });
    let more = Condvar::new();
    let work = || {
        let mut seen = 0;
        let mut buffer = [MaybeUninit::<u8>::uninit(); BUFFER];
        let mut deeper = Vec::new();
        let mut guard = queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((parent, name)) = guard.dirs.pop() {
                guard.busy += 1;
                drop(guard);
                seen += directory(&parent, &name, &mut buffer, &mut deeper).unwrap_or(0);
                guard = queue.lock().unwrap_or_else(PoisonError::into_inner);
                guard.busy -= 1;
                guard.dirs.append(&mut deeper);
                more.notify_all();
            } else if guard.busy == 0 {
                return seen;
            } else {
                guard = more.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
    };
    Ok(std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work() + helpers.into_iter().filter_map(|helper| helper.join().ok()).sum::<u64>()
    }))
}

fn directory(
    parent: &OwnedFd,
    name: &[u8],
    buffer: &mut [MaybeUninit<u8>],
    deeper: &mut Vec<(Arc<OwnedFd>, Vec<u8>)>,
) -> Result<u64, Errno> {
    let dir = Arc::new(openat(parent, name, FLAGS, Mode::empty())?);
    let mut listed = RawDir::new(&*dir, buffer);
    let mut seen = 0;
    while let Some(entry) = listed.next() {
        let entry = entry?;
        let name = entry.file_name();
        if [b".".as_slice(), b".."].contains(&name.to_bytes()) {
            continue;
        }
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(&*dir, name, AtFlags::SYMLINK_NOFOLLOW, mask)?;
        seen += 1;
        if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
            deeper.push((dir.clone(), name.to_bytes().to_vec()));
        }
    }
    Ok(seen)
}
