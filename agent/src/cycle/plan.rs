//! From what a look saw to what has to be done: renames found, deletions counted and guarded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proto::{Entry, RelPath};
use sys::meta::XattrsRead;
use sys::{Dir, FileKind, WalkBuffer};

use super::guard::Verdict;
use super::look::{Changes, DEPTH_MAX, Eyes, Found, InodeKey, Missing, Start, inode_key, look};
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
    /// What changed while it was looked at: to be looked at again.
    pub again: Again,
}

/// What is to be looked at again in the next cycle, though no event may say so.
#[derive(Clone, Debug, Default)]
pub struct Again {
    /// Single names.
    pub names: Vec<RelPath>,
    /// Directories with all that is in them.
    pub trees: Vec<RelPath>,
    /// Files whose names may not be linked in the mirror as they are in the volume.
    pub inodes: HashSet<u64>,
}

impl Again {
    /// True when it is nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.trees.is_empty() && self.inodes.is_empty()
    }

    /// Adds a path, by what was there.
    pub fn add(&mut self, path: RelPath, kind: FileKind) {
        if kind == FileKind::Dir { self.trees.push(path) } else { self.names.push(path) }
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: Again) {
        self.names.extend(other.names);
        self.trees.extend(other.trees);
        self.inodes.extend(other.inodes);
    }
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
    pub fn make(view: &View, root: &Arc<Dir>, changes: Changes, eyes: Eyes<'_>, find: Find) -> Result<Self> {
        let mut renames = Renames {
            view,
            root,
            eyes,
            known: HashMap::new(),
            learned: HashSet::new(),
            claimed: HashSet::new(),
            taken: HashSet::new(),
        };
        let (mut changes, mut moves) = match find {
            Find::Renames => renames.find(changes)?,
            Find::Nothing => (changes, Vec::new()),
        };
        let unseen = std::mem::take(&mut changes.unseen);
        changes.dirs.retain(|found| !unseen.contains(&found.path));
        changes.missing.retain(|missing| !renames.claimed.contains(&missing.old));
        let mut again = drop_contradictions(view, &mut changes, &mut moves)?;
        again.trees.extend(unseen);
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
            again,
        };
        if let Verdict::Halt(why) = eyes.options.limit.judge(deleted, total, plan.rest.is_empty_volume) {
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

/// Whether renames are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// They are.
    Renames,
    /// They are not: what has another name is sent again. For when renames went wrong because their places went, too.
    Nothing,
}

/// Drops what contradicts the rest: a look is not of one instant, and may have seen something in a directory before that
/// was replaced, and the new one after. Returns the paths that are to be looked at again.
fn drop_contradictions(view: &View, changes: &mut Changes, moves: &mut Vec<Move>) -> Result<Again> {
    let mut again = Again::default();
    loop {
        let places = Places::of(changes, moves);
        let links = changes.links.values().flatten().map(|name| (&name.found, name.quick.is_none()));
        let changed = changes.changed.iter().map(|(found, _)| found).chain(&changes.dirs);
        let moved = moves.iter().map(|this| (&this.found, true));
        let mut taken: HashSet<&RelPath> = HashSet::new();
        let mut dropped: HashMap<(RelPath, RelPath), FileKind> = HashMap::new();
        let all = moved
            .chain(changes.new.iter().map(|found| (found, true)))
            .chain(links)
            .chain(changed.map(|found| (found, false)));
        for (found, comes) in all {
            let is_twice = comes && !taken.insert(&found.path);
            if is_twice || !places.fit(view, found, comes)? {
                dropped.insert((found.path.clone(), found.old.clone()), found.stat.kind);
            }
        }
        if dropped.is_empty() {
            return Ok(again);
        }
        let stays = |found: &Found| !dropped.contains_key(&(found.path.clone(), found.old.clone()));
        changes.new.retain(stays);
        changes.changed.retain(|(found, _)| stays(found));
        changes.dirs.retain(stays);
        for names in changes.links.values_mut() {
            names.retain(|name| stays(&name.found));
        }
        changes.links.retain(|_, names| !names.is_empty());
        // What does not arrive has left all the same.
        for this in moves.extract_if(.., |this| !stays(&this.found)) {
            changes.missing.push(Missing { old: this.old, facts: this.facts });
        }
        dropped.into_iter().for_each(|((path, _), kind)| again.add(path, kind));
    }
}

/// Which directories a plan makes, brings and takes away.
struct Places {
    /// Paths of the index that are left.
    gone: HashSet<RelPath>,
    /// New directories.
    made: HashSet<RelPath>,
    /// Renamed directories, by their new paths, with their old ones.
    brought: HashMap<RelPath, RelPath>,
    /// Their old paths.
    from: HashSet<RelPath>,
}

impl Places {
    fn of(changes: &Changes, moves: &[Move]) -> Self {
        let is_dir = |found: &Found| found.stat.kind == FileKind::Dir;
        let renamed = || moves.iter().filter(|this| is_dir(&this.found));
        Self {
            from: renamed().map(|this| this.old.clone()).collect(),
            gone: changes
                .missing
                .iter()
                .map(|m| &m.old)
                .chain(moves.iter().map(|m| &m.old))
                .cloned()
                .collect(),
            made: changes.new.iter().filter(|found| is_dir(found)).map(|found| found.path.clone()).collect(),
            brought: renamed().map(|this| (this.found.path.clone(), this.old.clone())).collect(),
        }
    }

    /// True when the directory of `found` will be there; and, for something that comes to be there, its place is free, or
    /// taken by a file that a file may replace.
    fn fit(&self, view: &View, found: &Found, comes: bool) -> Result<bool, IndexError> {
        let mut above = found.path.clone();
        let mut old = found.path.clone();
        while let Some((at, _)) = above.split_last() {
            if self.made.contains(&at) {
                // All that is in it comes with it, but for renames; and those are into what is not there yet.
                return Ok(comes);
            }
            if let Some(from) = self.brought.get(&at) {
                old = found.path.rebase(&at, from).unwrap_or(old);
                break;
            }
            above = at;
        }
        // From here on as the index has it.
        let mut at = old.clone();
        let mut is_self = true;
        loop {
            let is_brought = self.from.contains(&at);
            if self.gone.contains(&at) {
                // Its own place is free; with what is above it, that went away too, unless it was brought.
                if !is_self {
                    return Ok(is_brought && old != found.path);
                }
                return Ok(self.parent_stays(&at, old != found.path));
            }
            match at.split_last() {
                Some((up, _)) => at = up,
                None => break,
            }
            is_self = false;
        }
        if !comes {
            return Ok(true);
        }
        let row = match old.split_last() {
            Some((parent, name)) => match view.dir_id(&parent)? {
                Some(dir) => view.facts(dir, name)?,
                None => return Ok(false),
            },
            None => None,
        };
        Ok(row.is_none_or(|row| row.kind != FileKind::Dir && found.stat.kind != FileKind::Dir))
    }

    /// Whether what holds the path of the index is there still, here or where it was brought.
    fn parent_stays(&self, path: &RelPath, was_brought: bool) -> bool {
        let mut at = path.clone();
        while let Some((above, _)) = at.split_last() {
            if self.gone.contains(&above) {
                return was_brought && self.from.contains(&above);
            }
            at = above;
        }
        true
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
    eyes: Eyes<'a>,
    /// Inodes that are gone from where the index has them.
    known: HashMap<InodeKey, (RelPath, RowFacts)>,
    /// Missing names whose inodes are in `known`.
    learned: HashSet<RelPath>,
    claimed: HashSet<RelPath>,
    /// The same by inode: what was found once is not looked into again.
    taken: HashSet<InodeKey>,
}

impl Renames<'_> {
    fn find(&mut self, mut changes: Changes) -> Result<(Changes, Vec<Move>)> {
        let mut moves = Vec::new();
        loop {
            if changes.new.is_empty() || changes.missing.is_empty() {
                break;
            }
            for missing in &changes.missing {
                if self.learned.insert(missing.old.clone()) {
                    learn(self.view, &mut self.known, missing)?;
                }
            }
            let mut found_now = Vec::new();
            let mut still_new = Vec::new();
            for found in std::mem::take(&mut changes.new) {
                match self.claim(&found, &changes.merged) {
                    Some(claim) => found_now.push(claim.of(found)),
                    None => {
                        if found.stat.kind == FileKind::Dir {
                            self.inside(&found, &changes.merged, &mut found_now);
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
                // What changed inside a renamed directory is found by comparing it with where it was; what was seen of
                // it while it was still there is no news.
                let Some((dir, ..)) = &this.dir else { continue };
                changes.forget_below(&this.old, &self.claimed);
                let start = Start {
                    dir: dir.clone(),
                    path: this.found.path.clone(),
                    old: this.old.clone(),
                    id: this.facts.dir_id,
                };
                changes.merge(look(self.view, start, &self.claimed, self.eyes)?);
            }
            moves.append(&mut found_now);
        }
        Ok((changes, moves))
    }

    fn claim(&mut self, found: &Found, merged: &HashSet<RelPath>) -> Option<Claim> {
        let (old, facts) = self.known.get(&inode_key(&found.stat))?;
        let fits = facts.kind == found.stat.kind
            && match facts.kind {
                FileKind::Dir => true,
                FileKind::File => {
                    facts.size == found.stat.size
                        && facts.size >= MOVE_FILE_MIN
                        && facts.mtime == crate::index::time(found.stat.mtime)
                        && !facts.linked
                        // With other names by now it is one of a group, which is staged together.
                        && found.stat.nlink == 1
                }
                _ => false,
            };
        if !fits || found.stat.btime.is_none() || self.claimed.contains(old) || merged.contains(old) {
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
        self.taken.insert(inode_key(&found.stat));
        Some(Claim { old: old.clone(), facts: *facts, dir })
    }

    /// Looks below a new directory for things that came from elsewhere. Only inode numbers are read.
    fn inside(&mut self, found: &Found, merged: &HashSet<RelPath>, moves: &mut Vec<Move>) {
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
                if self.taken.contains(&inode_key(&stat)) {
                    // A rename found in an earlier pass: it was compared as a whole, with all that is below.
                    continue;
                }
                let at = path.join(&name);
                let inner = Found { old: at.clone(), path: at.clone(), stat, parent: parent.ino };
                match self.claim(&inner, merged) {
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
