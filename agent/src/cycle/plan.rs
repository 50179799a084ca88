//! From what a look saw to what has to be done: renames found, deletions counted and guarded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proto::{Entry, RelPath};
use sys::meta::XattrsRead;
use sys::{Dir, FileKind, WalkBuffer};

use super::guard::Verdict;
use super::look::{Changes, DEPTH_MAX, Found, InodeKey, Missing, Start, inode_key, look};
use super::run::CycleOptions;
use crate::error::Result;
use crate::index::{IndexError, Quick, RowFacts, View};

/// Smallest file for which two renames in the mirror are worth more than sending it again.
const MOVE_FILE_MIN: u64 = 64 << 10;

/// Something that has another name in the volume now.
#[derive(Debug)]
pub struct Move {
    /// Where the mirror has it.
    pub old: RelPath,
    /// What the index knows.
    pub facts: RowFacts,
    /// Where it goes.
    pub found: Found,
    /// Of a directory: what it is now, read while it was known to be there.
    pub dir: Option<(Arc<Dir>, Entry, XattrsRead)>,
}

/// What one cycle has to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// New names that are not moves: directories with all below them, files, symlinks, FIFOs.
    pub new: Vec<Found>,
    /// Changed files, symlinks, FIFOs.
    pub changed: Vec<(Found, Quick)>,
    /// Directories whose times or metadata moved.
    pub dirs: Vec<Found>,
    /// Renames.
    pub moves: Vec<Move>,
    /// Deletions, outermost names only.
    pub deletes: Vec<Missing>,
    /// How many entries the deletions take along.
    pub deleted_entries: u64,
    /// Everything else the look found: links, refusals, fingerprint.
    pub rest: Changes,
    /// Why deletions are halted.
    pub halted: Option<String>,
    /// Then: what was not carried out, outermost names only, by the paths of index and volume.
    pub withheld: Vec<RelPath>,
}

impl Plan {
    /// Bytes of content to be read; nothing when that is not known, for new directories are walked while they are copied.
    pub fn bytes(&self) -> Option<u64> {
        if self.new.iter().any(|found| found.stat.kind == FileKind::Dir) {
            return None;
        }
        let changed = self.changed.iter().map(|(found, _)| found);
        Some(self.new.iter().chain(changed).map(|found| found.stat.size).sum())
    }

    /// Finds renames in `changes` and judges the deletions.
    ///
    /// # Errors
    /// [`crate::Error::Index`].
    pub fn make(view: &View, root: &Arc<Dir>, changes: Changes, options: &CycleOptions) -> Result<Self> {
        let mut renames = Renames { view, root, options, known: HashMap::new(), claimed: HashSet::new() };
        let (mut changes, moves) = renames.find(changes)?;
        changes.missing.retain(|missing| !renames.claimed.contains(&missing.old));
        let mut deleted = 0;
        for missing in &changes.missing {
            deleted += count(view, missing, &renames.claimed)?;
        }
        let total = {
            let totals = view.position().totals;
            totals.dirs + totals.files + totals.others
        };
        let mut plan = Self {
            new: std::mem::take(&mut changes.new),
            changed: std::mem::take(&mut changes.changed),
            dirs: std::mem::take(&mut changes.dirs),
            moves,
            deletes: std::mem::take(&mut changes.missing),
            deleted_entries: deleted,
            rest: changes,
            halted: None,
            withheld: Vec::new(),
        };
        if let Verdict::Halt(why) = options.limit.judge(deleted, total, plan.rest.is_empty_volume) {
            plan.halt(why);
        }
        Ok(plan)
    }

    /// True when volume and mirror agree.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty()
            && self.changed.is_empty()
            && self.dirs.is_empty()
            && self.moves.is_empty()
            && self.deletes.is_empty()
    }

    /// Drops every deletion, and whatever needs the place of something that therefore stays: copying goes on.
    fn halt(&mut self, why: String) {
        // By the paths the index has; a place is taken by a name that stays there.
        let mut kept: HashSet<RelPath> = self.deletes.drain(..).map(|missing| missing.old).collect();
        // By the paths of the volume: what the mirror does not get, and with it everything below.
        let mut dropped: HashSet<RelPath> = HashSet::new();
        loop {
            let before = dropped.len();
            self.new.retain(|found| {
                let stays = !kept.contains(&found.old) && !is_below(&found.path, &dropped);
                if !stays {
                    dropped.insert(found.path.clone());
                }
                stays
            });
            self.moves.retain(|this| {
                let stays = !kept.contains(&this.found.old) && !is_below(&this.found.path, &dropped);
                if !stays {
                    // What does not leave keeps its own place taken.
                    kept.insert(this.old.clone());
                    dropped.insert(this.found.path.clone());
                }
                stays
            });
            if dropped.len() == before {
                break;
            }
        }
        self.changed.retain(|(found, _)| !is_below(&found.path, &dropped));
        self.dirs.retain(|found| !is_below(&found.path, &dropped));
        for names in self.rest.links.values_mut() {
            names.retain(|link| match link.quick {
                // Where the mirror has it, others can be linked to it.
                Some(Quick::Same) => true,
                Some(_) => !is_below(&link.found.path, &dropped),
                None => !kept.contains(&link.found.old) && !is_below(&link.found.path, &dropped),
            });
        }
        self.rest.links.retain(|_, names| !names.is_empty());
        self.withheld = kept.into_iter().chain(dropped).collect();
        self.halted = Some(why);
    }
}

/// True when `path` or a directory above it is in `tops`.
fn is_below(path: &RelPath, tops: &HashSet<RelPath>) -> bool {
    if tops.is_empty() {
        return false;
    }
    let mut at = path.clone();
    loop {
        if tops.contains(&at) {
            return true;
        }
        match at.split_last() {
            Some((above, _)) => at = above,
            None => return false,
        }
    }
}

/// Entries that go with one missing name, those that are moved elsewhere not counted.
fn count(view: &View, missing: &Missing, claimed: &HashSet<RelPath>) -> Result<u64, IndexError> {
    let mut entries = 1;
    if missing.facts.kind == FileKind::Dir {
        let mut inside: Option<RelPath> = None;
        view.walk::<IndexError>(&missing.old, |path, _| {
            let moved = claimed.contains(path) || inside.as_ref().is_some_and(|moved| path.is_within(moved));
            if moved {
                if claimed.contains(path) {
                    inside = Some(path.clone());
                }
            } else {
                entries += 1;
            }
            Ok(())
        })?;
    }
    Ok(entries)
}

/// A rename, but for where it goes.
struct Claim {
    old: RelPath,
    facts: RowFacts,
    dir: Option<(Arc<Dir>, Entry, XattrsRead)>,
}

impl Claim {
    fn of(self, found: Found) -> Move {
        Move { old: self.old, facts: self.facts, found, dir: self.dir }
    }
}

struct Renames<'a> {
    view: &'a View,
    root: &'a Arc<Dir>,
    options: &'a CycleOptions,
    /// Inodes that are gone from where the index has them.
    known: HashMap<InodeKey, (RelPath, RowFacts)>,
    claimed: HashSet<RelPath>,
}

impl Renames<'_> {
    fn find(&mut self, mut changes: Changes) -> Result<(Changes, Vec<Move>)> {
        let mut moves = Vec::new();
        let mut learned = 0;
        loop {
            if changes.new.is_empty() || changes.missing.is_empty() {
                break;
            }
            for missing in &changes.missing[learned..] {
                learn(self.view, &mut self.known, missing)?;
            }
            learned = changes.missing.len();
            let mut found_now = Vec::new();
            let mut still_new = Vec::new();
            for found in std::mem::take(&mut changes.new) {
                match self.claim(&found) {
                    Some(claim) => found_now.push(claim.of(found)),
                    None => {
                        if found.stat.kind == FileKind::Dir {
                            self.inside(&found, &mut found_now);
                        }
                        still_new.push(found);
                    }
                }
            }
            changes.new = still_new;
            if found_now.is_empty() {
                break;
            }
            for this in &found_now {
                // What changed inside a renamed directory is found by comparing it with where it was.
                let Some((dir, ..)) = &this.dir else { continue };
                let start = Start {
                    dir: dir.clone(),
                    path: this.found.path.clone(),
                    old: this.old.clone(),
                    id: this.facts.dir_id,
                };
                changes.merge(look(self.view, start, &self.options.excludes, self.options.walkers)?);
            }
            moves.append(&mut found_now);
        }
        Ok((changes, moves))
    }

    fn claim(&mut self, found: &Found) -> Option<Claim> {
        let (old, facts) = self.known.get(&inode_key(&found.stat))?;
        let fits = facts.kind == found.stat.kind
            && match facts.kind {
                FileKind::Dir => true,
                FileKind::File => {
                    facts.size == found.stat.size
                        && facts.size >= MOVE_FILE_MIN
                        && facts.mtime == crate::index::time(found.stat.mtime)
                        && !facts.linked
                }
                _ => false,
            };
        if !fits || found.stat.btime.is_none() || self.claimed.contains(old) {
            return None;
        }
        let dir = if facts.kind == FileKind::Dir {
            // One that cannot be read is no rename: as a new directory it goes to the quarantine.
            let dir = self.root.open_below(found.path.components()).ok()?;
            let (entry, xattrs) = super::entries::of_dir(&dir).ok()?;
            Some((Arc::new(dir), entry, xattrs))
        } else {
            None
        };
        self.claimed.insert(old.clone());
        Some(Claim { old: old.clone(), facts: *facts, dir })
    }

    /// Looks below a new directory for things that came from elsewhere. Only inode numbers are read.
    fn inside(&mut self, found: &Found, moves: &mut Vec<Move>) {
        let numbers: HashSet<u64> = self.known.keys().map(|(ino, _)| *ino).collect();
        let mut stack = vec![found.path.clone()];
        let mut buffer = WalkBuffer::default();
        while let Some(path) = stack.pop() {
            if path.depth() >= DEPTH_MAX {
                continue;
            }
            let Ok(dir) = self.root.open_below(path.components()) else { continue };
            let Ok(parent) = dir.stat_self() else { continue };
            let mut candidates = Vec::new();
            let mut dirs = Vec::new();
            let read = dir.read(&mut buffer, |entry| {
                if numbers.contains(&entry.ino) {
                    candidates.push(entry.name.to_vec());
                } else if matches!(entry.kind, sys::dir::EntryType::Dir | sys::dir::EntryType::Unknown) {
                    dirs.push(entry.name.to_vec());
                }
            });
            if read.is_err() {
                continue;
            }
            for name in candidates {
                let Ok(stat) = dir.stat(&name) else { continue };
                let at = path.join(&name);
                let inner = Found { old: at.clone(), path: at.clone(), stat, parent: parent.ino };
                match self.claim(&inner) {
                    Some(claim) => moves.push(claim.of(inner)),
                    None if stat.kind == FileKind::Dir => stack.push(at),
                    None => {}
                }
            }
            stack.extend(dirs.into_iter().map(|name| path.join(&name)));
        }
    }
}

fn learn(
    view: &View,
    known: &mut HashMap<InodeKey, (RelPath, RowFacts)>,
    missing: &Missing,
) -> Result<(), IndexError> {
    let mut remember = |path: &RelPath, facts: &RowFacts| {
        if matches!(facts.kind, FileKind::Dir | FileKind::File) {
            known.insert((facts.ino, facts.btime), (path.clone(), *facts));
        }
    };
    remember(&missing.old, &missing.facts);
    if missing.facts.kind == FileKind::Dir {
        view.walk::<IndexError>(&missing.old, |path, row| {
            if let Some(facts) = row.facts() {
                remember(path, &facts);
            }
            Ok(())
        })?;
    }
    Ok(())
}
