//! What of a lane is open for writing, and what therefore has to be looked at although no event says so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{RelPath, Time};
use sys::{FileKind, Stat};

use crate::capture::{OpenFiles, Scan, WSet};
use crate::cycle::{Made, Silent, now};
use crate::error::{Error, Result};
use crate::index::{Quick, RowFacts, View, time};
use crate::volume::Volume;

/// Members of the W-set that the lane has, and how far their times can be believed.
pub struct Members {
    open_files: Arc<OpenFiles>,
    set: WSet,
    /// The last scan did not say it all.
    untold: bool,
    /// There was none, and that was told.
    is_late: bool,
    /// When the last one was begun: lag is counted from there, and grows while there is none.
    at: Instant,
    /// Which process hid from it, and was told of.
    refused: Option<(String, u32)>,
    /// Mapped files that were read with their pages cleaned, and have been mapped ever since.
    cleaned: HashSet<u64>,
    /// What each looked like at the last poll.
    seen: HashMap<u64, Facts>,
    writing: Vec<RelPath>,
}

/// What moves when a file is written to.
type Facts = (u64, Time, Time);

fn facts(stat: &Stat) -> Facts {
    (stat.size, time(stat.mtime), time(stat.ctime))
}

/// What a poll says of the next cycle.
pub struct Polled {
    /// As of when it says who has what open.
    pub at: Instant,
    /// For the cycle.
    pub silent: Silent,
    /// Inodes that are to be looked at: written to, or in doubt.
    pub changed: Vec<u64>,
    /// Inodes that somebody has open for writing.
    pub held: Vec<u64>,
}

impl Members {
    /// None yet.
    pub fn new(open_files: Arc<OpenFiles>) -> Self {
        Self {
            open_files,
            set: WSet::default(),
            untold: true,
            is_late: false,
            at: Instant::now(),
            refused: None,
            cleaned: HashSet::new(),
            seen: HashMap::new(),
            writing: Vec::new(),
        }
    }

    /// Paths of the members at the last poll.
    pub fn writing(&self) -> &[RelPath] {
        &self.writing
    }

    /// Looks who has what open now, or had `age` ago at most, and compares what the index has of it.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn poll(&mut self, view: &View, volume: &Volume, age: Duration) -> Result<Polled> {
        let mut begun = now();
        match self.open_files.look_back(age) {
            Ok(scan) => {
                (self.at, begun) = (scan.at, scan.begun);
                self.take(&scan, volume);
            }
            Err(error) => {
                if !self.is_late {
                    tracing::warn!(%error, volume = %volume.given, "it cannot be said who writes what; every file \
                        is read as if it were mapped");
                }
                // Who was a member is taken for one still.
                self.untold = true;
                self.is_late = true;
            }
        }
        let times_tell = times_tell(volume)?;
        let mut doubted = HashSet::new();
        let (mut changed, mut held) = (Vec::new(), Vec::new());
        self.seen.clear();
        self.writing.clear();
        for ino in self.set.members() {
            let names = view.names_of(ino)?;
            if names.is_empty() {
                continue;
            }
            held.push(ino);
            let is_mapped = self.set.mapped.contains(&ino);
            let in_doubt = is_mapped && !(times_tell && self.cleaned.contains(&ino));
            // Of one that is found under none of its names: the event that took them away is in the queue.
            let stat = stat_of(volume, ino, &names);
            let mut differs = stat.is_none();
            if let Some(stat) = &stat {
                self.seen.insert(ino, facts(stat));
                for name in &names {
                    differs |= row(view, name)?.is_none_or(|row| row.compare(stat) != Quick::Same);
                }
            }
            if in_doubt {
                doubted.insert(ino);
            }
            if in_doubt || differs {
                changed.push(ino);
            }
            self.writing.extend(names);
        }
        let silent = Silent {
            begun,
            mapped: self.set.mapped.clone(),
            untold: self.untold,
            doubted,
            doubted_since: None,
        };
        Ok(Polled { at: self.at, silent, changed, held })
    }

    fn take(&mut self, scan: &Scan, volume: &Volume) {
        self.set = scan.of(volume.stat.dev);
        self.untold = !scan.complete;
        self.is_late = false;
        if let Some((name, pid)) = scan.refused.as_ref().filter(|_| self.refused != scan.refused) {
            tracing::warn!(pid, process = %name, volume = %volume.given, "a process hides what it has open: cuts are called \
                fuzzy. If it writes to no volume, name it in not_writers");
        }
        self.refused.clone_from(&scan.refused);
        // Who was away may have come back with other mappings.
        let mapped = &self.set.mapped;
        self.cleaned.retain(|ino| mapped.contains(ino));
    }

    /// Takes in what a cycle has read with its pages cleaned.
    pub fn cleaned(&mut self, inodes: &HashSet<u64>) {
        self.cleaned.extend(inodes.intersection(&self.set.mapped));
    }

    /// True when a member may have been written to since the poll, as far as no event tells.
    ///
    /// # Errors
    /// [`Error::Index`], or of `made`.
    pub fn were_touched(&self, view: &View, volume: &Volume, made: Made<'_>) -> Result<bool> {
        let Ok(scan) = self.open_files.look() else { return Ok(true) };
        if self.untold || !scan.complete {
            return Ok(true);
        }
        let (set, times_tell) = (scan.of(volume.stat.dev), times_tell(volume)?);
        let mut unknown = HashSet::new();
        for ino in set.members() {
            let names = view.names_of(ino)?;
            if names.is_empty() {
                // Made by this cycle, or in another place of the file system.
                unknown.insert(ino);
                continue;
            }
            let told = self.are_told(&set, ino, times_tell);
            let same = match (stat_of(volume, ino, &names), self.seen.get(&ino)) {
                (Some(stat), Some(before)) => facts(&stat) == *before,
                (Some(stat), None) => match row(view, &names[0])? {
                    Some(row) => (row.size, row.mtime, row.ctime) == facts(&stat),
                    None => false,
                },
                (None, _) => false,
            };
            if !told || !same {
                return Ok(true);
            }
        }
        if unknown.is_empty() {
            return Ok(false);
        }
        for (path, entry) in made(&unknown)? {
            let (ino, then) = (entry.origin.ino, (entry.size(), entry.mtime, entry.origin.ctime));
            let stat = stat_of(volume, ino, std::slice::from_ref(&path));
            if !self.are_told(&set, ino, times_tell) || stat.is_none_or(|stat| facts(&stat) != then) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the times of an inode in `set` tell what became of it since the poll: of a mapped one only where it was
    /// known to be so, and therefore read with its pages cleaned.
    fn are_told(&self, set: &WSet, ino: u64, times_tell: bool) -> bool {
        !set.mapped.contains(&ino) || (times_tell && self.set.mapped.contains(&ino))
    }
}

/// False where a mapped file may change without its times: in memory nothing is written back, and an ext4 that keeps
/// no birth times keeps whole seconds only.
fn times_tell(volume: &Volume) -> Result<bool> {
    let writes_back = sys::file::writes_back(volume.root.as_ref(), b".")
        .map_err(|e| Error::Volume { path: volume.given.clone(), why: e.to_string() })?;
    Ok(writes_back && volume.stat.btime.is_some())
}

/// The inode as it is now, if one of the names leads to it.
fn stat_of(volume: &Volume, ino: u64, names: &[RelPath]) -> Option<Stat> {
    names.iter().find_map(|path| {
        let (parent, name) = path.split_last()?;
        let stat = volume.root.open_below(parent.components()).ok()?.glance(name).ok()?;
        (stat.ino == ino && stat.dev == volume.stat.dev && stat.kind == FileKind::File).then_some(stat)
    })
}

fn row(view: &View, path: &RelPath) -> Result<Option<RowFacts>> {
    let Some((parent, name)) = path.split_last() else { return Ok(None) };
    match view.dir_id(&parent)? {
        Some(dir) => Ok(view.facts(dir, name)?),
        None => Ok(None),
    }
}
