//! Looking at a lane without touching it: no lock, no roll forward, nothing written to mirror, ledger or state.
//!
//! What [`crate::lane::Lane`] does for those who work, this does for those who only ask, also while a sync runs.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use fsprobe::PinnedMount;
use proto::{Exception, Generation, Head, LaneId, Op, RelPath};

use crate::error::{Error, Result, on_state};
use crate::index::Index;
use crate::lane::{MIRROR_DEADLINE, absolute, apply};
use crate::ledger::{Ledger, MirrorRoot};
use crate::state::{LaneDir, StateDir};

/// A lane that is looked at.
pub struct Peek {
    /// Its ledger.
    pub ledger: Ledger,
    /// What it published last, when it was opened.
    pub head: Option<Head>,
    /// Whether the node of this host's state directory is the one that writes it, and its directory here.
    pub state: Option<StateDir>,
    dir: Option<LaneDir>,
    scratch: Scratch,
}

/// What is at a mirror's path.
pub enum Seen {
    /// A lane.
    Lane(Box<Peek>),
    /// Nothing of ours yet: where the mirror would hang.
    Nothing(Box<MirrorRoot>),
}

impl Peek {
    /// Opens the lane of the mirror at `path`.
    ///
    /// # Errors
    /// [`Error::NoLedger`], [`Error::MarkerMissing`], [`Error::Mount`], …
    pub fn open(path: &Path) -> Result<Self> {
        match Self::look(path)? {
            Seen::Lane(peek) => Ok(*peek),
            Seen::Nothing(_) => Err(Error::NoLedger { mirror: path.display().to_string() }),
        }
    }

    /// Looks whether there is a lane at `path`.
    ///
    /// # Errors
    /// As [`Peek::open`], but for [`Error::NoLedger`].
    pub fn look(path: &Path) -> Result<Seen> {
        let path = absolute(path)?;
        let state = StateDir::look()?;
        let remembered = match &state {
            Some(state) => state.remembered(&path)?,
            None => None,
        };
        let pinned = PinnedMount::open(&path, remembered.as_ref().map(|r| &r.mount), MIRROR_DEADLINE)?;
        let mirror = path.display().to_string();
        let ledger = match (Ledger::find(pinned)?, remembered) {
            (Ok(ledger), None) => ledger,
            (Ok(ledger), Some(remembered)) => {
                let found = ledger.lane.id.to_string();
                if remembered.lane != found {
                    return Err(Error::WrongLane { mirror, expected: remembered.lane, found });
                }
                ledger
            }
            (Err(_), Some(remembered)) => return Err(Error::MarkerMissing { mirror, lane: remembered.lane }),
            (Err(root), None) => return Ok(Seen::Nothing(Box::new(root))),
        };
        let head = ledger.head()?;
        let dir = state.as_ref().and_then(|state| state.existing_lane(ledger.lane.id));
        let scratch = Scratch::new(ledger.lane.id)?;
        Ok(Seen::Lane(Box::new(Self { ledger, head, state, dir, scratch })))
    }

    /// Process of this host that works on the lane now; 0 when it is one that we cannot see.
    pub fn worker(&self) -> Option<u32> {
        holder(&self.dir.as_ref()?.file("lock"))
    }

    /// Calls `each` with every log from `from` down to the first, newest first, until it returns false. Returns
    /// false when a log was not there any more.
    ///
    /// # Errors
    /// [`Error::LedgerFile`], [`Error::Mirror`], or what `each` returns.
    pub fn logs_back(
        &self,
        from: Generation,
        mut each: impl FnMut(&crate::ledger::LocalLog) -> Result<bool>,
    ) -> Result<bool> {
        let mut at = from;
        while at > Generation(0) {
            if !self.ledger.is_sealed(at)? {
                return Ok(false);
            }
            let log = self.ledger.fetch(at, &self.scratch.file("log"))?;
            if !each(&log)? {
                return Ok(true);
            }
            at = Generation(at.0 - 1);
        }
        Ok(true)
    }

    /// All exceptions of the published generation, sorted by path; and whether the list is complete.
    ///
    /// # Errors
    /// As [`Peek::logs_back`].
    pub fn exceptions(&self) -> Result<(Vec<(RelPath, Exception)>, bool)> {
        let Some(head) = &self.head else { return Ok((Vec::new(), true)) };
        let wanted = head.totals.quarantined + head.totals.left_out;
        // The newest word on each path counts; as soon as all of them are found, older logs say nothing new.
        let mut latest: HashMap<RelPath, Option<Exception>> = HashMap::new();
        let found = |latest: &HashMap<_, Option<Exception>>| latest.values().flatten().count() as u64;
        if wanted > 0 {
            self.logs_back(head.generation, |log| {
                let mut here: HashMap<RelPath, Option<Exception>> = HashMap::new();
                log.ops(|op| {
                    match op {
                        Op::Except { path, exception } => drop(here.insert(path, Some(exception))),
                        Op::Clear { path } => drop(here.insert(path, None)),
                        _ => {}
                    }
                    Ok(())
                })?;
                for (path, word) in here {
                    latest.entry(path).or_insert(word);
                }
                Ok(found(&latest) < wanted)
            })?;
        }
        let complete = found(&latest) >= wanted;
        let mut list: Vec<_> = latest.into_iter().filter_map(|(path, word)| Some((path, word?))).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((list, complete))
    }

    /// What the mirror holds at HEAD, in an index of our own: a copy of the lane's, if nobody works on that, or
    /// made from the logs.
    ///
    /// # Errors
    /// [`Error::LedgerFile`], [`Error::Index`], [`Error::LedgerState`].
    pub fn index(&self) -> Result<Index> {
        let Some(head) = &self.head else { return Ok(Index::in_memory()?) };
        if let Some(copy) = self.copied()
            && let Ok(index) = Index::open(&copy)
            && self.advance(&index, head).is_ok()
        {
            return Ok(index);
        }
        let index = Index::in_memory()?;
        self.advance(&index, head)?;
        Ok(index)
    }

    fn advance(&self, index: &Index, head: &Head) -> Result<()> {
        loop {
            let at = index.view()?.position().clone();
            if at.generation == head.generation && at.log_hash == head.log_hash {
                return Ok(());
            }
            if at.generation >= head.generation {
                return Err(Error::LedgerState(
                    "the local index is not of the published generation".to_owned(),
                ));
            }
            let log = self.ledger.fetch(at.generation.next(), &self.scratch.file("log"))?;
            if log.header.previous != at.log_hash {
                return Err(Error::LedgerState(format!(
                    "commit/{} does not follow the log before it",
                    log.header.generation
                )));
            }
            apply(index, &log)?;
        }
    }

    /// A copy of the lane's index, if it was at rest while it was copied.
    fn copied(&self) -> Option<PathBuf> {
        let dir = self.dir.as_ref()?;
        let (from, to) = (dir.file("index.redb"), self.scratch.file("index.redb"));
        let before = at_rest(dir, &from)?;
        fs::copy(&from, &to).ok()?;
        (at_rest(dir, &from)? == before).then_some(to)
    }
}

/// Size and times of the index, if no process works on the lane.
fn at_rest(dir: &LaneDir, index: &Path) -> Option<(u64, i64, i64, u64)> {
    if holder(&dir.file("lock")).is_some() {
        return None;
    }
    let meta = fs::metadata(index).ok()?;
    Some((meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ino()))
}

/// Process that holds a `flock` on the file, from the kernel's list: trying the lock would get in the way of a
/// sync that starts at the same moment.
fn holder(lock: &Path) -> Option<u32> {
    let meta = fs::metadata(lock).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    find_lock(&locks, (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev())), meta.ino())
}

/// Pure: the holder of a `flock` in the text of `/proc/locks`.
fn find_lock(locks: &str, dev: (u64, u64), ino: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{ino}", dev.0, dev.1);
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // A line with an arrow is one who waits.
            [_, "FLOCK", _, _, pid, place, ..] if *place == file => Some(pid.parse().unwrap_or(0)),
            _ => None,
        }
    })
}

/// A private directory for copies of logs and index; gone with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(lane: LaneId) -> Result<Self> {
        let random = u64::from_le_bytes(sys::host::random());
        let path = std::env::temp_dir().join(format!("tidegate-{lane}-{random:016x}"));
        // Fails on anything that is there already, a planted symlink too.
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(on_state("make", &path))?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_found_and_a_waiter_is_not() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 fe:00:7 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4711 fe:00:42 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 4712 fe:00:43 0 EOF\n";
        assert_eq!(find_lock(locks, (0xfe, 0), 42), Some(4711));
        assert_eq!(find_lock(locks, (0xfe, 0), 43), None);
        assert_eq!(find_lock(locks, (0xfe, 0), 7), None);
        assert_eq!(find_lock(locks, (0xfe, 1), 42), None);
    }
}
