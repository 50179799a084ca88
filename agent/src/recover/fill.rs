//! Making the tree of one generation: content from the mirror, each file proven by its hash; everything else
//! from the index, because a mirror's mount may keep no ACLs and its own root is closed.
//!
//! Walks the index and the mirror together, one held directory per level and per file in flight.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::{Body, Entry, RelPath};
use sys::meta::AclsKept;
use sys::{Dir, FileKind, Meta};
use transfer::{Copied, CopyError, Durability, Feed, Identity, Next, Outcome};

use super::jobs::{self, ActError, Doing, FindResult, Item, MakeResult, OpenResult, Task, Try, answer};
use super::links::{LinkKey, link_key};
use super::mirror::{self, Listed, Root};
use super::place::Place;
use super::run::Earlier;
use crate::cycle::Progress;
use crate::error::{Error, Result, on_mirror};
use crate::index::{DirId, IndexError, ROOT, Row, View};

/// Failures kept word for word; the rest are counted.
const FAILURES_MAX: usize = 20;

/// What becomes of setuid and setgid bits of regular files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialBits {
    /// Kept: the place is closed to ordinary users, or somebody asked for it.
    Keep,
    /// Taken off: a root-owned setuid program of a container must not become one of the host.
    Strip,
}

/// What filling needs from around it.
pub struct Around<'a> {
    /// The generation.
    pub view: &'a View,
    /// The mirror.
    pub root: Root,
    /// The empty tree.
    pub fresh: Arc<Dir>,
    /// For errors.
    pub place: &'a Place,
    /// Policy.
    pub bits: SpecialBits,
    /// When files are on disk.
    pub durability: Durability,
    /// Counters for a display.
    pub progress: &'a Progress,
}

/// What one round came to.
#[derive(Debug, Default)]
pub struct Filled {
    /// Paths that the mirror does not hold as the generation says, and what is wrong; some of them.
    pub failures: Vec<(RelPath, String)>,
    /// How many.
    pub failed: u64,
    /// Files whose setuid or setgid bit was taken off.
    pub stripped: u64,
    /// Inodes whose ACLs the target's file system refused.
    pub acls_lost: u64,
    /// Bytes read from the mirror.
    pub bytes_read: u64,
}

/// Fills `around.fresh` with all of the generation but the metadata of directories. What `earlier` rounds
/// proved already is moved over from there.
///
/// # Errors
/// [`Error::Mirror`], [`Error::Target`], [`Error::Index`]; paths that are not as they should be are in the result.
pub fn fill(
    around: &Around<'_>,
    earlier: Option<Earlier>,
    options: &transfer::Options,
    engine: transfer::Engine,
) -> Result<Filled> {
    let mirror = match around.root.dir(&RelPath::root()).and_then(Listed::read) {
        Ok(listed) => listed,
        Err(e) if mirror::is_absent(e.errno) => {
            let why = (RelPath::root(), "is not there".to_owned());
            return Ok(Filled { failures: vec![why], failed: 1, ..Filled::default() });
        }
        Err(e) => return Err(on_mirror(|| "open the mirror".to_owned())(e)),
    };
    let mut fill = Fill {
        around,
        earlier,
        levels: Vec::new(),
        ready: Vec::new(),
        doing: HashMap::new(),
        next_tag: 0,
        groups: HashMap::new(),
        filled: Filled::default(),
        fatal: None,
    };
    fill.enter(RelPath::root(), ROOT, mirror, around.fresh.clone())?;
    let result = transfer::run(&mut fill, options, engine);
    match fill.fatal.take() {
        Some(error) => Err(error),
        None => result.map(|_| fill.filled).map_err(|e| Error::Engine(e.to_string())),
    }
}

/// One directory being filled.
struct Level {
    path: RelPath,
    mirror: Arc<Listed>,
    fresh: Arc<Dir>,
    rows: redb::Range<'static, &'static [u8], &'static [u8]>,
}

enum Group {
    /// The first name is being copied; these wait.
    Pending(Vec<Item>),
    /// The first name is there.
    Ready(RelPath),
    /// The first name could not be made.
    Failed,
}

struct Fill<'a> {
    around: &'a Around<'a>,
    earlier: Option<Earlier>,
    /// Directories being filled; the last one first, so that few are open.
    levels: Vec<Level>,
    ready: Vec<Task>,
    doing: HashMap<u64, Doing>,
    next_tag: u64,
    groups: HashMap<LinkKey, Group>,
    filled: Filled,
    fatal: Option<Error>,
}

impl Fill<'_> {
    fn enter(&mut self, path: RelPath, id: DirId, mirror: Listed, fresh: Arc<Dir>) -> Result<()> {
        let rows = self.around.view.rows(id)?;
        self.levels.push(Level { path, mirror: Arc::new(mirror), fresh, rows });
        Ok(())
    }

    /// The next thing that needs the engine.
    fn task(&mut self) -> Result<Option<Task>> {
        loop {
            if let Some(task) = self.ready.pop() {
                return Ok(Some(task));
            }
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(row) = level.rows.next() else {
                self.levels.pop();
                continue;
            };
            let (key, value) =
                row.map_err(|e| IndexError::Store { act: "scan", source: Box::new(e.into()) })?;
            let name: Box<[u8]> = key.value()[8..].into();
            let path = level.path.join(&name);
            let (mirror, fresh) = (level.mirror.clone(), level.fresh.clone());
            let damaged = || IndexError::Row(path.clone());
            let facts = Row(value.value()).facts().ok_or_else(damaged)?;
            if facts.kind == FileKind::Dir {
                return Ok(Some(Task::Open {
                    above: mirror.dir.clone(),
                    fresh,
                    name,
                    path,
                    id: facts.dir_id,
                }));
            }
            let entry = Arc::new(Row(value.value()).entry().ok_or_else(damaged)?);
            if let Some(task) = self.name(&mirror, Item { path, name, entry, fresh, link: None })? {
                return Ok(Some(task));
            }
        }
    }

    /// Decides how a name that is no directory is made; nothing if it waits or is made already.
    fn name(&mut self, mirror: &Listed, mut item: Item) -> Result<Option<Task>> {
        item.link = link_key(&item.entry);
        if let Some(key) = item.link {
            match self.groups.get_mut(&key) {
                None => drop(self.groups.insert(key, Group::Pending(Vec::new()))),
                Some(Group::Pending(waiting)) => {
                    waiting.push(item);
                    return Ok(None);
                }
                Some(Group::Ready(first)) => return Ok(Some(Task::Link(item, first.clone()))),
                Some(Group::Failed) => {
                    self.fail(&item.path, "is a link of a file that could not be recovered");
                    return Ok(None);
                }
            }
        }
        if let Some(earlier) = &mut self.earlier
            && earlier.take(&item.path, &item.name, &item.entry, &item.fresh)?
        {
            self.count_stripped(&item.entry);
            self.made(item);
            return Ok(None);
        }
        if !matches!(item.entry.body, Body::File(_)) {
            return Ok(Some(Task::Special(item)));
        }
        Ok(Some(match mirror.ino(&item.name) {
            Some(ino) => {
                let identity = Identity { ino, dev: mirror.dev };
                Task::Copy(item, mirror.dir.clone(), identity, Try::First)
            }
            None => Task::Find(item),
        }))
    }

    fn count_stripped(&mut self, entry: &Entry) {
        if matches!(entry.body, Body::File(_)) && self.around.wanted(entry).mode != entry.mode {
            self.filled.stripped += 1;
        }
    }

    fn copied(&mut self, item: Item, which: Try, result: Result<Copied, CopyError>) {
        let copied = match result {
            Ok(copied) => copied,
            Err(CopyError::Target(e)) => {
                return self.stop(self.around.place.failed("write the fresh tree", e));
            }
            Err(CopyError::Replaced) => {
                return self.again(item, which, "is not in the mirror as it should be");
            }
            Err(CopyError::Source(e)) if mirror::is_of_one_file(e.errno) => {
                return self.again(item, which, &format!("cannot be read in the mirror: {e}"));
            }
            Err(CopyError::Source(e)) => {
                let path = item.path;
                return self.stop(on_mirror(|| format!("read {path} in the mirror"))(e));
            }
        };
        self.filled.bytes_read += copied.size;
        let proven = matches!(&item.entry.body, Body::File(file)
            if file.size == copied.size && file.hash == copied.hash.root);
        if !proven {
            if let Err(e) = item.fresh.unlink(&item.name) {
                return self.stop(self.around.place.failed("remove a file that is not proven", e));
            }
            return self.again(item, which, "has other content in the mirror than its hash says");
        }
        let wanted = self.around.wanted(&item.entry);
        self.count_stripped(&item.entry);
        let stat = &copied.stat;
        let has = Meta {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs: copied.xattrs.kept,
        };
        if has == wanted {
            self.filled.acls_lost += u64::from(copied.acls == AclsKept::NotSupported);
            self.made(item);
        } else {
            self.ready.push(Task::Dress(item));
        }
    }

    /// A file that is not what it should be: replaced a moment ago, perhaps, so looked for once more.
    fn again(&mut self, item: Item, which: Try, why: &str) {
        if which == Try::First { self.ready.push(Task::Find(item)) } else { self.lose(&item, why) }
    }

    /// A name is complete.
    fn made(&mut self, item: Item) {
        let counts = self.around.progress;
        counts.entries.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(item.entry.size(), Ordering::Relaxed);
        let Some(key) = item.link else { return };
        if let Some(group @ Group::Pending(_)) = self.groups.get_mut(&key)
            && let Group::Pending(waiting) = std::mem::replace(group, Group::Ready(item.path.clone()))
        {
            self.ready.extend(waiting.into_iter().map(|waits| Task::Link(waits, item.path.clone())));
        }
    }

    /// A name cannot be made, and no other name of its inode.
    fn lose(&mut self, item: &Item, why: &str) {
        self.fail(&item.path, why);
        let Some(group) = item.link.and_then(|key| self.groups.get_mut(&key)) else { return };
        if let Group::Pending(waiting) = std::mem::replace(group, Group::Failed) {
            for waits in waiting {
                self.fail(&waits.path, "is a link of a file that could not be recovered");
            }
        }
    }

    fn fail(&mut self, path: &RelPath, why: &str) {
        self.filled.failed += 1;
        if self.filled.failures.len() < FAILURES_MAX {
            self.filled.failures.push((path.clone(), why.to_owned()));
        }
    }

    fn stop(&mut self, error: Error) {
        self.fatal.get_or_insert(error);
    }

    fn opened(&mut self, path: RelPath, id: DirId, result: OpenResult) -> Result<()> {
        match result {
            Ok((listed, fresh)) => {
                self.around.progress.entries.fetch_add(1, Ordering::Relaxed);
                self.enter(path, id, listed, Arc::new(fresh))
            }
            Err(ActError::Mirror(e)) if mirror::is_of_one_file(e.errno) => {
                self.fail(&path, &format!("cannot be opened as a directory in the mirror: {e}"));
                Ok(())
            }
            Err(ActError::Mirror(e)) => Err(on_mirror(|| format!("read {path} in the mirror"))(e)),
            Err(ActError::Target(e)) => {
                Err(self.around.place.failed("make a directory in the fresh tree", e))
            }
        }
    }

    fn found(&mut self, item: Item, result: FindResult) -> Result<()> {
        match result {
            Ok((dir, stat)) if stat.kind == FileKind::File => {
                let identity = Identity { ino: stat.ino, dev: stat.dev };
                self.ready.push(Task::Copy(item, dir, identity, Try::Last));
            }
            Ok(_) => self.lose(&item, "is no regular file in the mirror"),
            Err(e) if mirror::is_absent(e.errno) => self.lose(&item, "is not in the mirror"),
            Err(e) if mirror::is_of_one_file(e.errno) => {
                self.lose(&item, &format!("cannot be read in the mirror: {e}"));
            }
            Err(e) => return Err(on_mirror(|| format!("look for {} in the mirror", item.path))(e)),
        }
        Ok(())
    }

    fn take(&mut self, doing: Doing, outcome: Outcome) -> Result<()> {
        match (doing, outcome) {
            (Doing::Open(path, id), Outcome::Called(value)) => self.opened(path, id, answer(value)?),
            (Doing::Find(item), Outcome::Called(value)) => self.found(item, answer(value)?),
            (Doing::Make(item), Outcome::Called(value)) => match answer::<MakeResult>(value)? {
                Ok(acls) => {
                    self.filled.acls_lost += u64::from(acls == AclsKept::NotSupported);
                    self.made(item);
                    Ok(())
                }
                Err(e) => Err(self.around.place.failed("write the fresh tree", e)),
            },
            (Doing::Copy(item, which), Outcome::Copied(result)) => {
                self.copied(item, which, result);
                Ok(())
            }
            _ => Err(Error::Engine("an outcome of another kind than its job".to_owned())),
        }
    }
}

impl Feed for Fill<'_> {
    fn next(&mut self) -> Next {
        if self.fatal.is_some() {
            return Next::End;
        }
        match self.task() {
            Ok(Some(task)) => {
                let (doing, job) = jobs::job(self.around, task);
                self.next_tag += 1;
                self.doing.insert(self.next_tag, doing);
                Next::Job(self.next_tag, job)
            }
            Ok(None) if self.doing.is_empty() => Next::End,
            Ok(None) => Next::Wait,
            Err(error) => {
                self.stop(error);
                Next::End
            }
        }
    }

    fn done(&mut self, tag: u64, outcome: Outcome) {
        let Some(doing) = self.doing.remove(&tag) else { return };
        if let Err(error) = self.take(doing, outcome) {
            self.stop(error);
        }
    }

    fn abort(&self) -> bool {
        self.fatal.is_some()
    }
}
