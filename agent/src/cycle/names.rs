//! Looking at single names instead of the whole volume: those that the kernel said were touched.
//!
//! What a walk knows because it saw everything has to be found here by asking: whether the directory of a name is the one
//! that the index has there, and which other names an inode has. A directory that the index does not have, or has as
//! another inode, is not gone through name by name: its own name is looked at in its parent, and whatever comes of that
//! (staged as a whole, moved and compared as a whole) takes all below it along.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use proto::RelPath;
use sys::{Dir, Errno, FileKind, Stat};

use super::look::{
    self, Changes, Claimed, Eyes, Found, LinkName, Looker, Missing, Start, Task, inode_key, unreadable,
};
use super::plan::Plan;
use crate::config::Excludes;
use crate::error::Result;
use crate::index::{DirId, Quick, ROOT, RowFacts, View};
use crate::volume::Volume;

/// No inode has this number.
const NOBODY: u64 = u64::MAX;

/// Names to be looked at, by directory.
#[derive(Clone, Debug, Default)]
pub struct Names {
    dirs: BTreeMap<RelPath, InDir>,
    inodes: BTreeSet<u64>,
    /// Directories to be compared as a whole, with their inodes as far as it matters.
    whole: BTreeMap<RelPath, Option<u64>>,
    count: usize,
}

#[derive(Clone, Debug, Default)]
struct InDir {
    /// It was touched itself, not only names in it.
    itself: bool,
    /// The inode that the directory had when it was said to be there; where it is another one, something was renamed.
    ino: Option<u64>,
    /// Each with the inode whose content changed under that name, if it was content. It may have another name by now.
    names: BTreeMap<Box<[u8]>, Option<u64>>,
}

impl Names {
    /// Adds `name` in `dir`, which has the inode `ino` as far as known. The directory itself is looked at in any case; an
    /// empty name adds nothing else. `object` is the inode that the name stood for, as far as that matters.
    pub fn add(&mut self, dir: RelPath, ino: Option<u64>, name: &[u8], object: Option<u64>) {
        let here = self.dirs.entry(dir).or_default();
        here.ino = match (here.ino, ino) {
            // Two directories were at this path while they were asked where they are: neither is believed to be there.
            (Some(one), Some(other)) if one != other => Some(NOBODY),
            (known, said) => known.or(said),
        };
        here.itself |= name.is_empty();
        if !name.is_empty() {
            match here.names.get_mut(name) {
                Some(known) => {
                    let before = *known;
                    *known = object.or(before);
                    // The one that had this name before may have another.
                    before
                        .filter(|before| *known != Some(*before))
                        .into_iter()
                        .for_each(|ino| self.add_inode(ino));
                }
                None => {
                    here.names.insert(name.into(), object);
                    self.count += 1;
                }
            }
        }
    }

    /// Adds whatever names the index has of an inode of the volume.
    pub fn add_inode(&mut self, ino: u64) {
        self.count += usize::from(self.inodes.insert(ino));
    }

    /// Adds a directory that was where nobody watched: all that is in it is compared, even if it seems to be as it was.
    pub fn add_whole(&mut self, path: RelPath, ino: Option<u64>) {
        self.add_path(&path);
        self.whole.insert(path, ino);
    }

    /// Adds a path.
    pub fn add_path(&mut self, path: &RelPath) {
        match path.split_last() {
            Some((parent, name)) => self.add(parent, None, name, None),
            None => self.add(RelPath::root(), None, b"", None),
        }
    }

    /// Leaves out what `excludes` leaves out, as far as the name alone tells.
    pub fn without(mut self, excludes: &Excludes) -> Self {
        if !excludes.is_empty() {
            self.dirs.retain(|dir, here| {
                here.names.retain(|name, _| excludes.matches_entry(&dir.join(name), false).is_none());
                // The times that something left out gives its directory are no reason for a generation.
                excludes.matches(dir, true).is_none() && (here.itself || !here.names.is_empty())
            });
            self.count = self.inodes.len() + self.dirs.values().map(|here| here.names.len()).sum::<usize>();
        }
        self
    }

    /// How many names.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && self.inodes.is_empty()
    }
}

/// What a look at names covered: of other paths nothing is known.
#[derive(Debug, Default)]
pub struct Covered {
    names: HashSet<RelPath>,
    trees: HashSet<RelPath>,
    /// Directories that were not where they were said to be: to be asked for again.
    pub astray: Vec<RelPath>,
    /// Inodes with a name in one of those.
    pub inodes: HashSet<u64>,
}

impl Covered {
    /// True when `path` was looked at, alone or with all that is in a directory above it.
    pub fn has(&self, path: &RelPath) -> bool {
        if self.names.contains(path) {
            return true;
        }
        let mut at = path.clone();
        while let Some((above, _)) = at.split_last() {
            if self.trees.contains(&at) {
                return true;
            }
            at = above;
        }
        false
    }
}

/// Compares `names` with the index, on several threads where whole directories turn out to be others.
///
/// # Errors
/// [`crate::Error::Index`]; what goes wrong in the volume becomes a refusal of the path.
pub fn look_at(view: &View, volume: &Volume, names: &Names, eyes: Eyes<'_>) -> Result<(Changes, Covered)> {
    let root = volume.root.clone();
    let stat = match root.stat_self() {
        Ok(stat) => stat,
        Err(e) => return Err(crate::Error::Volume { path: volume.given.clone(), why: e.to_string() }),
    };
    let none = Claimed::new();
    let mut pass = Pass {
        view,
        looker: Looker::new(view, &none, eyes, (stat.mount, stat.dev)),
        held: HashMap::from([(RelPath::root(), Held::Open(Arc::new(Open { dir: root, stat, id: ROOT })))]),
        todo: names.dirs.clone(),
        inodes: HashSet::new(),
        asked: HashMap::new(),
        covered: Covered::default(),
        walks: Vec::new(),
    };
    for ino in &names.inodes {
        pass.all_names(*ino)?;
    }
    for (path, ino) in &names.whole {
        pass.whole(path, *ino)?;
    }
    while let Some((path, here)) = pass.todo.pop_first() {
        pass.directory(&path, here)?;
    }
    let Pass { looker, covered, walks, .. } = pass;
    let mut changes = looker.changes;
    for start in walks {
        // Names in it that were looked at one by one are a part of this.
        changes.forget_below(&start.old, &HashSet::new());
        changes.merge(look::look(view, start, &none, eyes)?);
    }
    changes.is_empty_volume = is_empty(&volume.root);
    Ok((changes, covered))
}

/// Adds to a plan the names that its hard links have elsewhere. A walk saw them all; a look at names saw only some, and
/// none of those in directories that are staged or compared as a whole.
///
/// # Errors
/// [`crate::Error::Index`].
pub fn complete(view: &View, volume: &Volume, plan: &mut Plan) -> Result<()> {
    let mut inodes = HashSet::new();
    let mut known = HashSet::new();
    for (key, names) in &plan.rest.links {
        known.extend(names.iter().map(|name| name.found.old.clone()));
        if names.iter().any(|name| name.quick != Some(Quick::Same)) {
            inodes.insert(key.0);
            inodes.extend(names.iter().filter_map(|name| name.row).map(|row| row.0));
        }
    }
    for found in plan.new.iter().filter(|found| found.stat.kind == FileKind::Dir) {
        if let Ok(dir) = volume.root.open_below(found.path.components()) {
            linked_below(dir, &mut inodes);
        }
    }
    for ino in inodes {
        for path in view.names_of(ino)? {
            if known.contains(&path) {
                continue;
            }
            let Some((parent, name)) = path.split_last() else { continue };
            // What was moved or deleted was found as that; what is another file by now was touched itself.
            let Ok(dir) = volume.root.open_below(parent.components()) else { continue };
            let (Ok(above), Ok(stat)) = (dir.stat_self(), dir.glance(name)) else { continue };
            let row = view.dir_id(&parent)?.map(|id| view.facts(id, name)).transpose()?.flatten();
            // Inode numbers are given again: a directory may have that of a file that had several names.
            let is_it =
                |facts: &RowFacts| stat.kind != FileKind::Dir && stat.ino == ino && facts.is_inode(&stat);
            if let Some(facts) = row.filter(is_it) {
                let found = Found { path: path.clone(), old: path.clone(), stat, parent: above.ino };
                let link = LinkName {
                    found,
                    quick: Some(facts.compare(&stat)),
                    row: Some((facts.ino, facts.btime)),
                    racy: facts.racy,
                };
                plan.rest.links.entry(inode_key(&stat)).or_default().push(link);
            }
        }
    }
    Ok(())
}

/// Inodes below `dir` that have several names.
fn linked_below(dir: Dir, inodes: &mut HashSet<u64>) {
    let mut buffer = sys::WalkBuffer::default();
    let mut stack = vec![(Arc::new(dir), 0)];
    while let Some((dir, depth)) = stack.pop() {
        let mut names = Vec::new();
        if dir.read(&mut buffer, |entry| names.push(entry.name.to_vec())).is_err() {
            continue;
        }
        for name in names {
            let Ok(stat) = dir.glance(&name) else { continue };
            if stat.kind == FileKind::Dir && depth < look::DEPTH_MAX {
                stack.extend(dir.open_dir(&name).ok().map(|deeper| (Arc::new(deeper), depth + 1)));
            } else if stat.nlink > 1 {
                inodes.insert(stat.ino);
            }
        }
    }
}

/// A directory that the index has as this very inode.
struct Open {
    dir: Arc<Dir>,
    stat: Stat,
    id: DirId,
}

#[derive(Clone)]
enum Held {
    Open(Arc<Open>),
    /// Its own name, or one above it, is looked at, and that covers all below.
    Covered,
    /// There is no such directory (any more).
    Gone,
}

struct Pass<'a> {
    view: &'a View,
    looker: Looker<'a>,
    held: HashMap<RelPath, Held>,
    todo: BTreeMap<RelPath, InDir>,
    /// Whose other names were asked for.
    inodes: HashSet<u64>,
    /// By directory: of whom a name in it was asked for.
    asked: HashMap<RelPath, Vec<u64>>,
    covered: Covered,
    walks: Vec<Start>,
}

impl Pass<'_> {
    /// A directory that the index has as this inode, and yet all of it is to be compared. Another one is so anyway.
    fn whole(&mut self, path: &RelPath, ino: Option<u64>) -> Result<()> {
        match self.hold(path)? {
            Held::Open(open) if ino.is_none_or(|ino| open.stat.ino == ino) => {
                self.covered.trees.insert(path.clone());
                let (path, old) = (path.clone(), path.clone());
                self.walks.push(Start { dir: open.dir.clone(), path, old, id: open.id });
            }
            Held::Open(_) | Held::Gone => self.covered.astray.push(path.clone()),
            Held::Covered => {}
        }
        Ok(())
    }

    fn directory(&mut self, path: &RelPath, here: InDir) -> Result<()> {
        let open = match self.hold(path)? {
            Held::Open(open) => open,
            Held::Covered => {
                // All that is in it, but not what was written to through a name that it had there: that may be elsewhere.
                let objects: Vec<u64> = here.names.values().copied().flatten().collect();
                return objects.into_iter().try_for_each(|object| self.all_names(object));
            }
            Held::Gone => {
                self.astray(path);
                return Ok(());
            }
        };
        if here.ino.is_some_and(|ino| ino != open.stat.ino) {
            self.astray(path);
            return Ok(());
        }
        self.itself(path, &open)?;
        for (name, object) in &here.names {
            let child = path.join(name);
            if !self.covered.names.contains(&child) {
                let found = self.name(path, &open, name)?;
                self.covered.names.insert(child);
                if let Some(object) = object
                    && found != Some(*object)
                {
                    // The name stood for it when it was opened: what was written is under another one.
                    self.all_names(*object)?;
                }
            }
        }
        Ok(())
    }

    fn astray(&mut self, path: &RelPath) {
        self.covered.astray.push(path.clone());
        self.covered.inodes.extend(self.asked.get(path).into_iter().flatten());
    }

    /// The directory at `path`, if it is the one that the index has there.
    fn hold(&mut self, path: &RelPath) -> Result<Held> {
        if let Some(held) = self.held.get(path) {
            return Ok(held.clone());
        }
        let Some((parent, name)) = path.split_last() else { return Ok(Held::Gone) };
        let held = match self.hold(&parent)? {
            Held::Open(parent_dir) => self.child(&parent, &parent_dir, path, name)?,
            other => other,
        };
        self.held.insert(path.clone(), held.clone());
        Ok(held)
    }

    fn child(&mut self, parent: &RelPath, from: &Open, path: &RelPath, name: &[u8]) -> Result<Held> {
        let row = self.view.facts(from.id, name)?;
        let opened = from.dir.open_dir(name).and_then(|dir| {
            let stat = dir.stat_self()?;
            Ok((dir, stat))
        });
        let held = match (opened, row) {
            (Ok((dir, stat)), Some(facts)) if facts.is_inode(&stat) => {
                return Ok(Held::Open(Arc::new(Open { dir: Arc::new(dir), stat, id: facts.dir_id })));
            }
            (Ok(_), _) => Held::Covered,
            (Err(e), _) if e.is_gone() || [Errno::NOTDIR, Errno::LOOP].contains(&e.errno) => Held::Gone,
            (Err(e), _) => {
                self.looker.changes.refused.push(unreadable(path, "directory cannot be read", &e));
                self.covered.names.insert(path.clone());
                self.covered.trees.insert(path.clone());
                return Ok(Held::Covered);
            }
        };
        self.todo.entry(parent.clone()).or_default().names.entry(name.into()).or_default();
        Ok(held)
    }

    /// Times and metadata of a directory: whoever makes or removes a name in it moves them.
    fn itself(&mut self, path: &RelPath, open: &Open) -> Result<()> {
        if !self.covered.names.insert(path.clone()) {
            return Ok(());
        }
        let (row, parent) = match path.split_last() {
            None => (self.view.facts(DirId(0), b"root")?, 0),
            Some((above, name)) => match self.hold(&above)? {
                Held::Open(above) => (self.view.facts(above.id, name)?, above.stat.ino),
                _ => return Ok(()),
            },
        };
        if row.is_none_or(|facts| facts.compare(&open.stat) != Quick::Same) {
            let found = Found { path: path.clone(), old: path.clone(), stat: open.stat, parent };
            self.looker.changes.dirs.push(found);
        }
        Ok(())
    }

    /// Looks at one name; returns the inode that has it now.
    fn name(&mut self, path: &RelPath, open: &Open, name: &[u8]) -> Result<Option<u64>> {
        let row = self.view.facts(open.id, name)?;
        let child = path.join(name);
        self.looker.changes.names += 1;
        let stat = match open.dir.glance(name) {
            Ok(stat) => stat,
            Err(e) if e.is_gone() => {
                if let Some(facts) = row {
                    self.covered.trees.insert(child.clone());
                    self.looker.changes.missing.push(Missing { old: child, facts });
                }
                return Ok(None);
            }
            Err(e) => {
                self.looker.changes.refused.push(unreadable(&child, "cannot be looked at", &e));
                return Ok(None);
            }
        };
        let task = Task {
            parent: open.dir.clone(),
            name: None,
            key: look::inode_key(&open.stat),
            path: path.clone(),
            old: path.clone(),
            id: open.id,
        };
        let refused = self.looker.changes.refused.len();
        let mut deeper = Vec::new();
        self.looker.name(&task, &open.dir, name, stat, row, &mut deeper)?;
        let stays = row.is_some_and(|facts| facts.is_inode(&stat));
        let is_refused = self.looker.changes.refused.len() > refused;
        if (stat.kind == FileKind::Dir && !stays)
            || is_refused
            || row.is_some_and(|row| row.kind != stat.kind)
        {
            self.covered.trees.insert(child.clone());
            self.held.insert(child, Held::Covered);
        }
        if !stays {
            for task in deeper {
                // Another directory under the name of one that the mirror has.
                let opened = open.dir.open_dir(name).and_then(|dir| {
                    let now = dir.stat_self()?;
                    Ok((dir, look::inode_key(&now) == look::inode_key(&stat)))
                });
                match opened {
                    // A third one by now: of which the second may not be remembered as compared.
                    Ok((_, false)) => {
                        self.covered.astray.push(path.clone());
                        self.looker.changes.unseen.insert(task.path);
                    }
                    Ok((dir, true)) => {
                        let dir = Arc::new(dir);
                        self.walks.push(Start { dir, path: task.path, old: task.old, id: task.id });
                    }
                    Err(e) if e.is_gone() || [Errno::NOTDIR, Errno::LOOP].contains(&e.errno) => {
                        self.covered.astray.push(path.clone());
                        self.looker.changes.unseen.insert(task.path);
                    }
                    Err(e) => {
                        self.looker.changes.unseen.insert(task.path.clone());
                        let refusal = unreadable(&task.path, "directory cannot be read", &e);
                        self.looker.changes.refused.push(refusal);
                    }
                }
            }
        }
        self.other_names(&stat, row)?;
        Ok(Some(stat.ino))
    }

    /// A file with several names is one thing: all that the index has of them are looked at together.
    fn other_names(&mut self, stat: &Stat, row: Option<RowFacts>) -> Result<()> {
        if stat.kind == FileKind::Dir {
            return Ok(());
        }
        let seen = (stat.nlink > 1).then_some(stat.ino);
        let known = row.filter(|facts| facts.linked || stat.nlink > 1).map(|facts| facts.ino);
        seen.into_iter().chain(known).try_for_each(|ino| self.all_names(ino))
    }

    fn all_names(&mut self, ino: u64) -> Result<()> {
        if !self.inodes.insert(ino) {
            return Ok(());
        }
        for path in self.view.names_of(ino)? {
            if let (false, Some((parent, name))) = (self.covered.names.contains(&path), path.split_last()) {
                self.asked.entry(parent.clone()).or_default().push(ino);
                self.todo.entry(parent).or_default().names.entry(name.into()).or_default();
            }
        }
        Ok(())
    }
}

/// A volume that cannot be read is not called empty, and neither is it touched.
fn is_empty(root: &Dir) -> bool {
    let mut found = false;
    let read = root.read(&mut sys::WalkBuffer::default(), |_| found = true);
    read.is_ok() && !found
}
