//! A lane as a command holds it: the ledger open, the right to write or only to read, the index caught up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fsprobe::PinnedMount;
use proto::{Generation, Head, RelPath};

use crate::error::{Error, Result, on_state};
use crate::index::{Index, IndexError, Lent, Shelf};
use crate::ledger::{Ledger, LocalLog, Tenure, roll_forward, settle, take_over};
use crate::state::{LaneDir, LaneLock, StateDir};

/// How long a mirror may take to answer before it is called not answering.
pub const MIRROR_DEADLINE: Duration = Duration::from_secs(10);

/// What to do when the lane belongs to another installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Refuse.
    Ours,
    /// Claim the next epoch and fence the old writer.
    TakeOver,
}

/// An open lane.
pub struct Lane {
    /// First, so that it ends first: whoever reads the index is done before its file is closed and the lock given back.
    lent: Option<Lent>,
    /// Its ledger.
    pub ledger: Ledger,
    /// What it published last.
    pub head: Option<Head>,
    /// What the mirror holds at `head`.
    pub index: Arc<Index>,
    /// Our place on the local disk.
    pub dir: LaneDir,
    /// This installation.
    pub node: proto::NodeId,
    lock: Option<LaneLock>,
    /// Removed when the lane is closed: a private index, where another process has the shared one.
    scratch: Option<PathBuf>,
}

impl Lane {
    /// Opens the lane of the mirror at `path` for writing, making it if there is none: claims an epoch, takes
    /// the lock, finishes what was sealed, catches the index up.
    ///
    /// # Errors
    /// [`Error::Mount`], [`Error::Guard`], [`Error::OwnedByOther`], [`Error::Busy`], …: nothing was changed but
    /// what roll forward finished.
    pub fn open_writer(state: &StateDir, path: &Path, ownership: Ownership) -> Result<(Self, Tenure)> {
        sys::host::clear_umask();
        let path = absolute(path)?;
        let remembered = state.remembered(&path)?;
        let pinned = PinnedMount::open(&path, remembered.as_ref().map(|r| &r.mount), MIRROR_DEADLINE)?;
        let now = crate::cycle::now();
        let host = sys::host::hostname();
        let ledger = match (Ledger::find(pinned)?, &remembered) {
            (Ok(ledger), _) => ledger,
            (Err(_), Some(remembered)) => return Err(marker_missing(&path, &remembered.lane)),
            (Err(root), None) => Ledger::create(root, &host, now)?,
        };
        if let Some(remembered) = &remembered
            && remembered.lane != ledger.lane.id.to_string()
        {
            return Err(Error::WrongLane {
                mirror: path.display().to_string(),
                expected: remembered.lane.clone(),
                found: ledger.lane.id.to_string(),
            });
        }
        let dir = state.lane(ledger.lane.id)?;
        let lock = dir.lock()?;
        let scratch = dir.file("roll-forward.log");
        let node = state.node();
        let tenure = match ledger.newest_epoch()? {
            None => take_over(&ledger, node, &host, &scratch, now)?,
            Some(newest) if newest.node == node => settle(&ledger, newest.epoch, node, &scratch, now)?,
            Some(_) if ownership == Ownership::TakeOver => take_over(&ledger, node, &host, &scratch, now)?,
            Some(newest) => return Err(Error::OwnedByOther { host: newest.host, epoch: newest.epoch }),
        };
        state.remember(&path, ledger.lane.id, ledger.root.pinned().identity())?;
        let head = ledger.head()?;
        let index = Arc::new(open_index(&dir)?);
        let mut lane = Self { lent: None, ledger, head, index, dir, node, lock: Some(lock), scratch: None };
        lane.catch_up()?;
        Ok((lane, tenure))
    }

    /// Opens the lane of the mirror at `path` for reading. A sealed generation that is not published yet is
    /// finished if this installation sealed it; else the owner has to, or `ownership` lets us take over.
    ///
    /// # Errors
    /// As [`Lane::open_writer`]; [`Error::NoLedger`] when nothing was ever replicated there.
    pub fn open_reader(state: &StateDir, path: &Path, ownership: Ownership) -> Result<Self> {
        sys::host::clear_umask();
        let path = absolute(path)?;
        let ledger = find(state, &path)?;
        let dir = state.lane(ledger.lane.id)?;
        let lock = match dir.lock() {
            Ok(lock) => Some(lock),
            Err(Error::Busy(_)) => None,
            Err(error) => return Err(error),
        };
        let mut head = ledger.head()?;
        let next = head.as_ref().map_or(Generation(1), |head| head.generation.next());
        if ledger.is_sealed(next)? {
            let scratch = dir.file("roll-forward.log");
            let now = crate::cycle::now();
            let newest = ledger.newest_epoch()?;
            match (newest, &lock) {
                // Its writer is at work in this moment: what is published so far is what we read.
                (Some(newest), None) if newest.node == state.node() => {}
                (Some(newest), Some(_)) if newest.node == state.node() => {
                    head = roll_forward(&ledger, newest.epoch, &scratch, now)?;
                }
                (Some(_), Some(_)) if ownership == Ownership::TakeOver => {
                    take_over(&ledger, state.node(), &sys::host::hostname(), &scratch, now)?;
                    head = ledger.head()?;
                }
                (Some(newest), _) => {
                    return Err(Error::Unpublished {
                        generation: next,
                        host: newest.host,
                        epoch: newest.epoch,
                    });
                }
                (None, _) => return Err(Error::LedgerState("a generation without an epoch".to_owned())),
            }
        }
        let (index, scratch) = match &lock {
            Some(_) => (open_index(&dir)?, None),
            None => (Index::in_memory()?, Some(dir.file(&format!("reader-{}.log", std::process::id())))),
        };
        let index = Arc::new(index);
        let mut lane = Self { lent: None, ledger, head, index, dir, node: state.node(), lock, scratch };
        lane.catch_up()?;
        Ok(lane)
    }

    /// True when no other process of this host works on the lane.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Lets others read the index through `shelf` for as long as this lane is open.
    pub fn lend(&mut self, shelf: &Shelf) {
        self.lent = Some(shelf.lend(self.index.clone()));
    }

    /// Applies the logs between the index and HEAD.
    ///
    /// # Errors
    /// [`Error::LedgerFile`] when a log is damaged or gone; [`Error::Index`].
    pub fn catch_up(&mut self) -> Result<()> {
        let Some(head) = &self.head else {
            if self.index.view()?.position().generation != Generation(0) {
                self.index.clear()?;
            }
            return Ok(());
        };
        match self.apply_up_to(head) {
            // The index is ahead, or of another history, or torn: it is derived data.
            Err(Error::Index(_) | Error::LedgerState(_)) => {
                tracing::warn!("the local index does not fit the ledger; it is rebuilt from the redo logs");
                self.index.clear()?;
                self.apply_up_to(head)
            }
            other => other,
        }
    }

    fn apply_up_to(&self, head: &Head) -> Result<()> {
        let scratch = self.scratch.clone().unwrap_or_else(|| self.dir.file("catch-up.log"));
        loop {
            let at = self.index.view()?.position().clone();
            if at.generation == head.generation {
                if at.log_hash != head.log_hash {
                    return Err(Error::LedgerState("the index is of another history".to_owned()));
                }
                let _ = std::fs::remove_file(&scratch);
                return Ok(());
            }
            if at.generation > head.generation {
                return Err(Error::LedgerState("the index is ahead of HEAD".to_owned()));
            }
            let next = at.generation.next();
            let log = self.ledger.fetch(next, &scratch)?;
            if log.header.previous != at.log_hash {
                return Err(Error::LedgerState(format!("commit/{next} does not follow the index")));
            }
            apply(&self.index, &log)?;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch {
            let _ = std::fs::remove_file(scratch);
        }
    }
}

/// Operations applied to the index in one call.
const BATCH: usize = 4096;

/// Applies a whole log to the index and commits it.
pub(crate) fn apply(index: &Index, log: &LocalLog) -> Result<()> {
    let volume = match log.header.volume {
        // A barrier record speaks of no volume: the facts stay those of the last one.
        (0, None) => index.view()?.position().volume,
        volume => volume,
    };
    let mut applying = index.apply()?;
    let mut batch = Vec::with_capacity(BATCH);
    log.ops(|op| {
        batch.push(op);
        if batch.len() == BATCH {
            applying.ops(&batch)?;
            batch.clear();
        }
        Ok(())
    })?;
    applying.ops(&batch)?;
    applying.commit(log.header.generation, log.trailer.hash, volume)?;
    Ok(())
}

fn open_index(dir: &LaneDir) -> Result<Index> {
    let path = dir.file("index.redb");
    match Index::open(&path) {
        Ok(index) => Ok(index),
        Err(IndexError::Store { .. }) => {
            let aside = dir.file("index.redb.damaged");
            tracing::warn!(moved_to = %aside.display(), "the local index cannot be opened; it is rebuilt");
            std::fs::rename(&path, &aside).map_err(on_state("move aside", &path))?;
            Ok(Index::open(&path)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Finds the ledger of a mirror that must have one.
///
/// # Errors
/// [`Error::NoLedger`], [`Error::MarkerMissing`], [`Error::Mount`].
pub fn find(state: &StateDir, path: &Path) -> Result<Ledger> {
    let remembered = state.remembered(path)?;
    let pinned = PinnedMount::open(path, remembered.as_ref().map(|r| &r.mount), MIRROR_DEADLINE)?;
    match (Ledger::find(pinned)?, remembered) {
        (Ok(ledger), _) => Ok(ledger),
        (Err(_), Some(remembered)) => Err(marker_missing(path, &remembered.lane)),
        (Err(_), None) => Err(Error::NoLedger { mirror: path.display().to_string() }),
    }
}

/// An absolute path, without touching the file system.
///
/// # Errors
/// [`Error::State`] when there is no current directory.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(on_state("resolve", path))
}

fn marker_missing(path: &Path, lane: &str) -> Error {
    Error::MarkerMissing { mirror: path.display().to_string(), lane: lane.to_owned() }
}

/// A path given by a user, relative to the volume.
///
/// # Errors
/// [`Error::NoSuchPath`] when it can be no path of a volume.
pub fn user_path(text: &std::ffi::OsStr) -> Result<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = text.as_bytes();
    let trimmed = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
    let trimmed: &[u8] = if trimmed == b"." { b"" } else { trimmed };
    RelPath::new(trimmed).ok_or_else(|| Error::BadPath { path: proto::path::Escaped(bytes).to_string() })
}
