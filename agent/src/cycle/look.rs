//! Looking at the volume: a walk in parallel, merged directory by directory with the index.
//!
//! The mirror is not touched. Names below a directory that is new are not looked at here: staging walks them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proto::{ExceptionClass, RelPath, Time};
use sys::{Dir, Errno, FileKind, Stat, SysError, WalkBuffer};

use super::crew::crew;
use super::listing::{self, Fingerprint};
use super::run::CycleOptions;
use super::silent::Silent;
use crate::config::Excludes;
use crate::error::{Error, Result};
use crate::index::{DirId, IndexError, Quick, Row, RowFacts, View, time};

/// Deepest tree that is replicated: one held descriptor per level.
pub const DEPTH_MAX: usize = 200;
/// Longest path in bytes. GlusterFS refuses paths beyond about 4,020, even through descriptors; the stage's
/// own components need some of them.
pub const PATH_MAX: usize = 3900;
/// Largest sum of holes in one file: they are hashed like zeros, and 64 GiB of zeros take half a minute.
pub const HOLES_MAX: u64 = 64 << 30;

/// Largest file: its block hashes, 32 bytes per MiB, have to fit one record of the redo log (8 MiB).
pub const FILE_MAX: u64 = 200 << 30;

/// How the reason begins for what the configuration leaves out.
const EXCLUDED: &str = "excluded by ";

/// An inode of the volume, named for ever: a reused number has another birth time.
pub type InodeKey = (u64, Option<Time>);

/// Key of what `statx` saw.
pub fn inode_key(stat: &Stat) -> InodeKey {
    (stat.ino, stat.btime.map(time))
}

/// Something in the volume that the index does not have, or has otherwise.
#[derive(Debug)]
pub struct Found {
    /// Where it is in the volume.
    pub path: RelPath,
    /// Where the index has it: another path below a renamed directory.
    pub old: RelPath,
    /// What it is.
    pub stat: Stat,
    /// Inode of its directory.
    pub parent: u64,
}

/// Something the index has and the volume has not.
#[derive(Debug)]
pub struct Missing {
    /// Where the index has it.
    pub old: RelPath,
    /// What the index knows.
    pub facts: RowFacts,
}

/// One name of an inode with several.
#[derive(Debug)]
pub struct LinkName {
    /// The name.
    pub found: Found,
    /// How it compares; `None` when the index does not have it.
    pub quick: Option<Quick>,
    /// The inode its row speaks of.
    pub row: Option<InodeKey>,
    /// The row is not to be believed: the mirror may have a file of its own here, and no link.
    pub racy: bool,
}

/// A path that is not replicated.
#[derive(Debug)]
pub struct Refusal {
    /// Which.
    pub path: RelPath,
    /// Why: quarantined or left out.
    pub class: ExceptionClass,
    /// In words.
    pub reason: String,
    /// Errno, or 0.
    pub errno: i32,
}

/// All that one look found.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the volume only.
    pub new: Vec<Found>,
    /// In both, and different (files, symlinks, FIFOs).
    pub changed: Vec<(Found, Quick)>,
    /// Directories whose times or metadata moved.
    pub dirs: Vec<Found>,
    /// In the index only.
    pub missing: Vec<Missing>,
    /// Files with several names, all of them, changed or not.
    pub links: HashMap<InodeKey, Vec<LinkName>>,
    /// What cannot or shall not be replicated.
    pub refused: Vec<Refusal>,
    /// Directories that were something else, or gone, when their content was to be compared: of which nothing may be
    /// remembered as if it had been.
    pub unseen: HashSet<RelPath>,
    /// Sum over everything seen.
    pub fingerprint: Fingerprint,
    /// Where the index has names that are there still, as another inode of the same type: their rows are compared with that
    /// one, and can be no rename's any more.
    pub merged: HashSet<RelPath>,
    /// How many names were seen.
    pub names: u64,
    /// The volume holds nothing at all.
    pub is_empty_volume: bool,
}

impl Changes {
    /// True when no file with several names has anything to be done.
    pub fn links_unchanged(&self) -> bool {
        self.links.values().flatten().all(|name| name.quick == Some(Quick::Same))
    }

    /// Forgets what was found below `path` of the index: a later look at all of it says it anew. What lies in one of
    /// `others` that are below it is not of it any more: those have been taken out.
    pub fn forget_below(&mut self, path: &RelPath, others: &HashSet<RelPath>) {
        let stays = |old: &RelPath| {
            if !old.is_within(path) {
                return true;
            }
            let mut at = old.clone();
            while at != *path {
                match at.split_last() {
                    Some((above, _)) => at = above,
                    None => return true,
                }
                if at != *path && others.contains(&at) {
                    return true;
                }
            }
            old == path
        };
        self.new.retain(|found| stays(&found.old));
        self.changed.retain(|(found, _)| stays(&found.old));
        self.dirs.retain(|found| stays(&found.old));
        self.missing.retain(|missing| stays(&missing.old));
        for names in self.links.values_mut() {
            names.retain(|name| stays(&name.found.old));
        }
        self.links.retain(|_, names| !names.is_empty());
    }

    /// Takes in what another thread or another look found.
    pub fn merge(&mut self, other: Changes) {
        self.new.extend(other.new);
        self.changed.extend(other.changed);
        self.dirs.extend(other.dirs);
        self.missing.extend(other.missing);
        for (key, names) in other.links {
            self.links.entry(key).or_default().extend(names);
        }
        self.refused.extend(other.refused);
        self.merged.extend(other.merged);
        self.unseen.extend(other.unseen);
        self.fingerprint.merge(other.fingerprint);
        self.names += other.names;
        self.is_empty_volume |= other.is_empty_volume;
    }
}

/// Where a look starts: a directory of the volume and the directory of the index it is compared with.
pub struct Start {
    /// In the volume, open.
    pub dir: Arc<Dir>,
    /// Its path in the volume.
    pub path: RelPath,
    /// Its path in the index.
    pub old: RelPath,
    /// Its number in the index.
    pub id: DirId,
}

/// Where the index has what was renamed to elsewhere: other things by the same names are new.
pub type Claimed = HashSet<RelPath>;

/// How a look is taken.
#[derive(Clone, Copy)]
pub struct Eyes<'a> {
    /// Settings.
    pub options: &'a CycleOptions,
    /// Files whose times say nothing.
    pub silent: &'a Silent,
}

/// A directory to be compared.
pub(super) struct Task {
    pub(super) parent: Arc<Dir>,
    /// Name in `parent`; `None` when `parent` is the directory itself.
    pub(super) name: Option<Box<[u8]>>,
    /// Its inode, as its parent's names were looked at.
    pub(super) key: InodeKey,
    pub(super) path: RelPath,
    pub(super) old: RelPath,
    pub(super) id: DirId,
}

/// Compares the tree at `start` with the index, on `threads` threads. The times of some files say nothing.
///
/// # Errors
/// [`Error::Index`]; what goes wrong in the volume becomes a refusal of the path.
pub fn look(view: &View, start: Start, claimed: &Claimed, eyes: Eyes<'_>) -> Result<Changes> {
    let Start { dir, path, old, id } = start;
    let stat = dir.stat_self().map_err(|e| Error::Volume { path: path.to_string(), why: e.to_string() })?;
    let (key, mount) = (inode_key(&stat), (stat.mount, stat.dev));
    let first = Task { parent: dir, name: None, key, path, old, id };
    let worker = || Looker::new(view, claimed, eyes, mount);
    let threads = eyes.options.walkers;
    let lookers = crew(first, threads, worker, |looker, task, deeper| looker.directory(task, deeper))?;
    let mut changes = Changes::default();
    lookers.into_iter().for_each(|looker| changes.merge(looker.changes));
    Ok(changes)
}

/// Compares names with rows and keeps what it found.
pub(super) struct Looker<'a> {
    view: &'a View,
    claimed: &'a Claimed,
    silent: &'a Silent,
    policy: Policy<'a>,
    pub(super) changes: Changes,
    buffer: WalkBuffer,
}

impl<'a> Looker<'a> {
    /// One that has seen nothing yet, of a volume on this mount and device.
    pub(super) fn new(
        view: &'a View,
        claimed: &'a Claimed,
        eyes: Eyes<'a>,
        mount: (u64, (u32, u32)),
    ) -> Self {
        let policy = Policy { mount, excludes: &eyes.options.excludes };
        let silent = eyes.silent;
        Self { view, claimed, silent, policy, changes: Changes::default(), buffer: WalkBuffer::default() }
    }

    fn directory(&mut self, task: Task, deeper: &mut Vec<Task>) -> Result<()> {
        let listed = open(&task.parent, task.name.as_deref()).and_then(|mut dir| {
            if inode_key(&dir.stat_self()?) != task.key {
                return Err(SysError::new("find again", b".", Errno::STALE));
            }
            let names = listing::names(&mut dir, &mut self.buffer)?;
            Ok((Arc::new(dir), names))
        });
        let (dir, names) = match listed {
            Ok(listed) => listed,
            Err(e) => {
                // Gone or replaced since its parent was listed: the next cycle sees what it is now.
                if !e.is_gone() {
                    self.quarantine(&task.path, "directory cannot be read", &e);
                }
                self.changes.unseen.insert(task.path);
                return Ok(());
            }
        };
        self.changes.names += names.len() as u64;
        let mut rows = self.view.rows(task.id)?;
        let mut row = next_row(&mut rows)?;
        for name in names.iter() {
            while let Some((old_name, old)) = &row
                && old_name.as_slice() < name
            {
                self.missing(&task, old_name, old)?;
                row = next_row(&mut rows)?;
            }
            let matching = match &row {
                Some((old_name, _)) if old_name.as_slice() == name => {
                    let this = row.take();
                    row = next_row(&mut rows)?;
                    this.map(|(_, facts)| facts)
                }
                _ => None,
            };
            let found = match dir.glance(name) {
                Ok(found) => found,
                Err(e) if e.is_gone() => {
                    if let Some(facts) = matching {
                        self.changes.missing.push(Missing { old: task.old.join(name), facts });
                    }
                    continue;
                }
                Err(e) => {
                    self.quarantine(&task.path.join(name), "cannot be looked at", &e);
                    continue;
                }
            };
            self.changes.fingerprint.add(task.key.0, name, &found);
            self.name(&task, &dir, name, found, matching, deeper)?;
        }
        while let Some((old_name, old)) = &row {
            self.missing(&task, old_name, old)?;
            row = next_row(&mut rows)?;
        }
        Ok(())
    }

    /// One name, as it was seen and as the index has it; a directory in both goes to `deeper`.
    pub(super) fn name(
        &mut self,
        task: &Task,
        dir: &Arc<Dir>,
        name: &[u8],
        stat: Stat,
        row: Option<RowFacts>,
        deeper: &mut Vec<Task>,
    ) -> Result<()> {
        let path = task.path.join(name);
        let old = task.old.join(name);
        if let Some(refusal) = self.policy.refuse(&path, &stat) {
            // A name that stopped being what it was leaves the mirror, unless we only cannot see it: below a
            // mount point the old content still exists.
            if let (Some(facts), false) = (row, stat.mount_root) {
                self.changes.missing.push(Missing { old, facts });
            }
            self.changes.refused.push(refusal);
            return Ok(());
        }
        let row = row.filter(|_| !self.claimed.contains(&old));
        if row.is_some_and(|facts| facts.kind == stat.kind && !facts.is_inode(&stat)) {
            self.changes.merged.insert(old.clone());
        }
        let found = Found { path, old, stat, parent: task.key.0 };
        let Some(facts) = row else {
            if stat.kind != FileKind::Dir && stat.nlink > 1 {
                self.link(found, None, None, false);
            } else {
                self.changes.new.push(found);
            }
            return Ok(());
        };
        let quick = match facts.compare(&stat) {
            Quick::Same if self.silent.doubts(&stat) => Quick::Touched,
            quick => quick,
        };
        if quick == Quick::OtherType {
            self.changes.missing.push(Missing { old: found.old.clone(), facts });
            if stat.kind != FileKind::Dir && stat.nlink > 1 {
                self.link(found, None, None, false);
            } else {
                self.changes.new.push(found);
            }
            return Ok(());
        }
        if stat.kind == FileKind::Dir {
            deeper.push(Task {
                parent: dir.clone(),
                name: Some(name.into()),
                key: inode_key(&stat),
                path: found.path.clone(),
                old: found.old.clone(),
                id: facts.dir_id,
            });
            if quick != Quick::Same {
                self.changes.dirs.push(found);
            }
            return Ok(());
        }
        if stat.kind != FileKind::Dir && stat.nlink > 1 {
            self.link(found, Some(quick), Some((facts.ino, facts.btime)), facts.racy);
        } else if quick != Quick::Same {
            self.changes.changed.push((found, quick));
        }
        Ok(())
    }

    fn link(&mut self, found: Found, quick: Option<Quick>, row: Option<InodeKey>, racy: bool) {
        let key = inode_key(&found.stat);
        self.changes.links.entry(key).or_default().push(LinkName { found, quick, row, racy });
    }

    fn missing(&mut self, task: &Task, name: &[u8], facts: &RowFacts) -> Result<()> {
        self.changes.missing.push(Missing { old: task.old.join(name), facts: *facts });
        Ok(())
    }

    fn quarantine(&mut self, path: &RelPath, what: &str, error: &SysError) {
        self.changes.refused.push(unreadable(path, what, error));
    }
}

/// A refusal for a path that could not be read.
pub fn unreadable(path: &RelPath, what: &str, error: &SysError) -> Refusal {
    let crossed = error.errno == Errno::XDEV;
    Refusal {
        path: path.clone(),
        class: if crossed { ExceptionClass::LeftOut } else { ExceptionClass::Quarantined },
        reason: if crossed {
            "another file system is mounted here".to_owned()
        } else {
            format!("{what}: {error}")
        },
        errno: error.errno.raw_os_error(),
    }
}

/// What is replicated at all.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    /// Mount and device of the volume: what lies on another is not of it.
    pub mount: (u64, (u32, u32)),
    /// What the configuration leaves out.
    pub excludes: &'a Excludes,
}

impl Policy<'_> {
    /// What policy says of a name before anything is opened.
    pub fn refuse(&self, path: &RelPath, stat: &Stat) -> Option<Refusal> {
        let mount = self.mount;
        if let Some(pattern) = self.excludes.matches_entry(path, stat.kind == FileKind::Dir) {
            let reason = format!("{EXCLUDED}{pattern}");
            return Some(Refusal { path: path.clone(), class: ExceptionClass::LeftOut, reason, errno: 0 });
        }
        let (class, reason) = if stat.mount_root || stat.dev != mount.1 || stat.mount != mount.0 {
            (ExceptionClass::LeftOut, "another file system is mounted here")
        } else if stat.kind == FileKind::Socket {
            (ExceptionClass::LeftOut, "socket")
        } else if stat.kind == FileKind::Device {
            (ExceptionClass::LeftOut, "device node")
        } else if path.depth() > DEPTH_MAX {
            (ExceptionClass::Quarantined, "lies deeper than 200 directories")
        } else if path.as_bytes().len() > PATH_MAX {
            (ExceptionClass::Quarantined, "path is longer than 3,900 bytes")
        } else if stat.kind == FileKind::File && stat.size.saturating_sub(stat.allocated) > HOLES_MAX {
            (ExceptionClass::Quarantined, "has more than 64 GiB of holes")
        } else if stat.kind == FileKind::File && stat.size > FILE_MAX {
            (ExceptionClass::Quarantined, "is larger than 200 GiB")
        } else {
            return None;
        };
        Some(Refusal { path: path.clone(), class, reason: reason.to_owned(), errno: 0 })
    }
}

type Rows = redb::Range<'static, &'static [u8], &'static [u8]>;
type RowAt = (Vec<u8>, RowFacts);

fn next_row(rows: &mut Rows) -> Result<Option<RowAt>, IndexError> {
    let Some(row) = rows.next() else { return Ok(None) };
    let (key, value) = row.map_err(|e| IndexError::Store { act: "scan", source: Box::new(e.into()) })?;
    let name = key.value()[8..].to_vec();
    match Row(value.value()).facts() {
        Some(facts) => Ok(Some((name, facts))),
        None => Err(IndexError::Row(RelPath::new(&name).unwrap_or_default())),
    }
}

/// The fingerprint of the whole tree as it is now, on `threads` threads: the second look.
///
/// What cannot be read is left out, as in the first look.
///
/// # Errors
/// None of its own.
pub fn fingerprint(root: &Arc<Dir>, excludes: &Excludes, threads: usize) -> Result<Fingerprint> {
    /// A directory: its parent, its name there (none: the parent itself), its inode, its depth; its path, where that
    /// matters.
    struct Todo(Arc<Dir>, Option<Box<[u8]>>, u64, usize, RelPath);
    let Ok(stat) = root.stat_self() else { return Ok(Fingerprint::default()) };
    let mount = (stat.mount, stat.dev);
    let first = Todo(root.clone(), None, stat.ino, 0, RelPath::root());
    let worker = || (Fingerprint::default(), WalkBuffer::default());
    let sums =
        crew(first, threads, worker, |(sum, buffer), Todo(parent, name, ino, depth, path), deeper| {
            let Ok(mut dir) = open(&parent, name.as_deref()) else { return Ok(()) };
            drop(parent);
            let Ok(names) = listing::names(&mut dir, buffer) else { return Ok(()) };
            let dir = Arc::new(dir);
            for name in names.iter() {
                let Ok(stat) = dir.glance(name) else { continue };
                sum.add(ino, name, &stat);
                let same_mount = mount == (stat.mount, stat.dev) && !stat.mount_root;
                if stat.kind == FileKind::Dir && same_mount && depth < DEPTH_MAX {
                    let path = if excludes.is_empty() { RelPath::root() } else { path.join(name) };
                    if excludes.matches_entry(&path, true).is_none() {
                        deeper.push(Todo(dir.clone(), Some(name.into()), stat.ino, depth + 1, path));
                    }
                }
            }
            Ok(())
        })?;
    Ok(sums.into_iter().fold(Fingerprint::default(), |mut sum, (part, _)| {
        sum.merge(part);
        sum
    }))
}

/// A directory with a read position of its own: `name` in `parent`, or `parent` itself.
fn open(parent: &Dir, name: Option<&[u8]>) -> std::result::Result<Dir, SysError> {
    match name {
        None => parent.reopen(),
        Some(name) => parent.open_dir(name),
    }
}
