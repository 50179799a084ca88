//! Told by the kernel that something in a directory changed: for those who read what another process writes.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::error::{Errno, SysError, ctx};

/// What makes a reader of a directory's files look again: they are made, renamed, removed or written to, or the directory
/// itself goes.
const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Bytes of one read: some hundred events with short names.
const READ_BYTES: usize = 8 << 10;

/// Watches directories, not what lies deeper in them.
#[derive(Debug)]
pub struct Watcher {
    fd: OwnedFd,
}

impl Watcher {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// `EMFILE` when the user has too many (`/proc/sys/fs/inotify/max_user_instances`).
    pub fn new() -> Result<Self, SysError> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(ctx("watch", b""))?;
        Ok(Self { fd })
    }

    /// Watches an open directory from now on, whatever its name becomes. Doing it again changes nothing.
    ///
    /// # Errors
    /// `ENOSPC` when the user watches too much (`/proc/sys/fs/inotify/max_user_watches`).
    pub fn add(&self, dir: impl AsFd) -> Result<(), SysError> {
        let place = crate::file::proc_path(dir.as_fd());
        inotify::add_watch(&self.fd, &place, WANTED).map(drop).map_err(ctx("watch", place.as_bytes()))
    }

    /// Waits until something changed since the last call, and takes in all that did; false after `limit`.
    ///
    /// # Errors
    /// The kernel's errno, EINTR never.
    pub fn wait(&self, limit: Option<Duration>) -> Result<bool, SysError> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = limit
            .map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
        loop {
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], limit.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(SysError::new("wait for changes", b"", errno)),
            }
            if self.drain()? {
                return Ok(true);
            }
        }
    }

    /// What exactly happened does not matter: a lost or merged event is one all the same.
    fn drain(&self) -> Result<bool, SysError> {
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut events = inotify::Reader::new(&self.fd, &mut buffer);
        let mut any = false;
        loop {
            match events.next() {
                Ok(_) => any = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(any),
                Err(errno) => return Err(SysError::new("read changes", b"", errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_happens_in_a_directory_and_to_it_is_told_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("watched");
        fs::create_dir(&dir).unwrap();
        let watcher = Watcher::new().unwrap();
        watcher.add(File::open(&dir).unwrap()).unwrap();
        watcher.add(File::open(&dir).unwrap()).unwrap();
        let told = || watcher.wait(Some(Duration::ZERO)).unwrap();
        assert!(!told());
        fs::write(base.path().join("beside"), "x").unwrap();
        assert!(!told());
        let file = File::create(dir.join("file")).unwrap();
        assert!(told() && !told(), "each thing is told once");
        file.write_all_at(b"more", 0).unwrap();
        assert!(told());
        fs::rename(dir.join("file"), dir.join("other")).unwrap();
        assert!(told());
        fs::remove_file(dir.join("other")).unwrap();
        assert!(told());
        let moved = base.path().join("moved");
        fs::rename(&dir, &moved).unwrap();
        assert!(told());
        fs::write(moved.join("file"), "x").unwrap();
        assert!(told(), "the directory is watched, not its name");
        fs::remove_dir_all(&moved).unwrap();
        assert!(told());
    }
}
