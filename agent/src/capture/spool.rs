//! What was read from the kernel's queue and is not noted yet, in memory that lives as long as the queue does.
//!
//! A read takes events out of the queue for good. Between that and the journal they are nowhere but in this process, and
//! `kill -9` would lose them without a trace. So they are read into a memfd, which is kept beside the queue by whoever keeps
//! that: the next agent finds in it what its predecessor had in its hands.
//!
//! Layout, all numbers little-endian: state (`u64`: 0 nothing, 1 perhaps events, 2 notes were lost), bytes of the last read
//! (`u64`), a random number of the process that took something out of the queue last (`u64`), zeros up to byte 64, then events as the kernel writes them, behind the last one zeros.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::SysError;
use sys::fanotify::Group;
use sys::map::SharedMap;

/// Bytes of one read.
pub const READ_BYTES: usize = 256 << 10;

const EVENTS_AT: usize = 64;
const BYTES: usize = EVENTS_AT + READ_BYTES;

/// What a predecessor left.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// All that it had read was noted.
    Nothing,
    /// Events that may not have been.
    Events(Vec<u8>),
    /// It could not note everything: only a walk tells.
    Lost,
}

/// The memory.
#[derive(Debug)]
pub struct Spool {
    memory: OwnedFd,
    map: SharedMap,
    /// Something could not be noted.
    lost: bool,
}

impl Spool {
    /// An empty one.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn new() -> Result<Self, SysError> {
        let memory = sys::file::memory(c"tidegate-spool", BYTES as u64)?;
        let mut map = SharedMap::of(&memory, BYTES)?;
        // All pages are there from the start: the kernel could not fail to fill one.
        map.write(0, &vec![0; BYTES]);
        Ok(Self { memory, map, lost: false })
    }

    /// The one of a predecessor.
    ///
    /// # Errors
    /// `EINVAL`: it is none of this layout.
    pub fn adopt(memory: OwnedFd) -> Result<Self, SysError> {
        sys::file::check_memory(&memory, BYTES as u64)?;
        let mut map = SharedMap::of(&memory, BYTES)?;
        // Each page is mapped from the start: the kernel drops an event that it cannot copy, and in a process that is being
        // killed it may give up at a page that is not.
        let mut all = vec![0; BYTES];
        map.read(0, &mut all);
        map.write(0, &all);
        let mut this = Self { memory, map, lost: false };
        this.lost = this.word(0) > 1;
        Ok(this)
    }

    /// What the predecessor left in it.
    pub fn left(&self) -> Left {
        match self.word(0) {
            0 => Left::Nothing,
            1 => {
                let mut events = vec![0; READ_BYTES];
                self.map.read(EVENTS_AT, &mut events);
                events.truncate(whole(&events));
                Left::Events(events)
            }
            _ => Left::Lost,
        }
    }

    /// Reads what is queued in `group` into `buffer`, as much as fits; from here on a successor finds it too.
    ///
    /// # Errors
    /// As [`Group::read`].
    pub fn read(&mut self, group: &Group, buffer: &mut [u8]) -> Result<usize, SysError> {
        // What is behind the last event must be no event.
        let before = usize::try_from(self.word(8)).unwrap_or(READ_BYTES).min(READ_BYTES);
        buffer[..before].fill(0);
        self.map.write(EVENTS_AT, &buffer[..before]);
        self.set(8, READ_BYTES as u64);
        self.set(0, if self.lost { 2 } else { 1 });
        let n = group.read_shared(&mut self.map, EVENTS_AT, READ_BYTES)?;
        self.set(8, n as u64);
        self.map.read(EVENTS_AT, &mut buffer[..n]);
        Ok(n)
    }

    /// What was read is noted where a successor finds it; or some of it is not, and everything has to be looked at.
    pub fn noted(&mut self, all: bool) {
        self.lost = !all;
        self.set(0, if all { 0 } else { 2 });
    }

    /// Who took something out of the queue last; 0 for nobody.
    pub fn reader(&self) -> u64 {
        self.word(16)
    }

    /// Says that from now on it is this one.
    pub fn set_reader(&mut self, reader: u64) {
        self.set(16, reader);
    }

    /// True when something could not be noted.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    fn word(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        self.map.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn set(&mut self, at: usize, word: u64) {
        self.map.write(at, &word.to_le_bytes());
    }
}

impl AsFd for Spool {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Length of the events at the beginning of `bytes`: each says its own in its first four.
fn whole(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(Ok(len)) = bytes.get(end..end + 4).map(<[u8; 4]>::try_from) {
        match u32::from_ne_bytes(len) as usize {
            0 => break,
            len if len > bytes.len() - end => break,
            len => end += len,
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use sys::fanotify::Queue;

    use super::*;

    /// Events of real files, read and not noted: who adopts the memory finds the very bytes, and no more of an earlier
    /// and longer read.
    #[test]
    fn a_successor_finds_what_was_read_and_not_noted() {
        let Ok(group) = Group::open(Queue::Unlimited) else {
            assert!(std::env::var_os("REQUIRE_ALL").is_none(), "no privilege");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        group.mark(sys::Dir::open(dir.path()).unwrap()).unwrap();
        let touch =
            |n: usize| (0..n).for_each(|i| std::fs::write(dir.path().join(format!("{i}")), "x").unwrap());
        let mut spool = Spool::new().unwrap();
        let mut buffer = vec![0; READ_BYTES];
        touch(50);
        assert!(spool.read(&group, &mut buffer).unwrap() > 1000);
        spool.noted(true);
        let successor = |spool: &Spool| Spool::adopt(spool.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(successor(&spool).left(), Left::Nothing);

        // Other files of the machine send events too: whatever came is what has to be found.
        while spool.read(&group, &mut buffer).unwrap() > 0 {}
        touch(2);
        let n = spool.read(&group, &mut buffer).unwrap();
        assert!(n > 0);
        assert_eq!(successor(&spool).left(), Left::Events(buffer[..n].to_vec()));
        spool.noted(false);
        assert_eq!(successor(&spool).left(), Left::Lost);
        // It stays so until all is noted again.
        touch(1);
        spool.read(&group, &mut buffer).unwrap();
        assert_eq!(successor(&spool).left(), Left::Lost);
        spool.noted(true);
        assert_eq!(successor(&spool).left(), Left::Nothing);
    }

    #[test]
    fn memory_of_another_kind_is_refused() {
        let short = sys::file::memory(c"x", 4096).unwrap();
        assert_eq!(Spool::adopt(short).unwrap_err().errno, sys::Errno::INVAL);
        // One that can be cut under us would end the agent with a signal.
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES as u64).unwrap();
        assert_eq!(Spool::adopt(file.into()).unwrap_err().errno, sys::Errno::INVAL);
    }
}
