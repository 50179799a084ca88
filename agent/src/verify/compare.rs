//! The comparison: a walk of the tree, merged with the index directory by directory; contents hashed in parallel.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::{Body, Entry, RelPath};
use sys::{Dir, FileKind, Stat, Xattrs};
use transfer::{CopyError, CopyJob, Durability, Feed, How, Identity, Job, Next, Outcome, Writers};

use super::difference::{Difference, What};
use super::links::Links;
use super::listing::{FindResult, Has, ListResult, Listed, Name, Rows, list, next_row};
use super::subject::Subject;
use crate::cycle::Progress;
use crate::error::{Error, Result, on_mirror};
use crate::index::{DirId, ROOT, View, time};
use crate::recover::{answer, called, is_absent, is_of_one_file};

/// Differences kept word for word; the rest are counted.
const KEPT_MAX: usize = 100_000;

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Sorted by path; at most [`KEPT_MAX`].
    pub differences: Vec<Difference>,
    /// How many there are.
    pub count: u64,
    /// Names in both.
    pub names: u64,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// Compares the subject with the generation of `view`.
///
/// # Errors
/// [`Error::Mirror`] when the tree cannot be read as such, [`Error::Index`]; what concerns one path is a
/// difference.
pub fn compare(
    view: &View,
    subject: &Subject,
    engine: transfer::Engine,
    progress: &Progress,
) -> Result<Compared> {
    let root = list(&subject.root, None, &RelPath::root());
    let root = root.map_err(on_mirror(|| format!("open the root of the {}", subject.label)))?;
    let mut walk = Walk {
        view,
        subject,
        progress,
        levels: Vec::new(),
        ready: Vec::new(),
        doing: HashMap::new(),
        next_tag: 0,
        links: Links::default(),
        result: Compared::default(),
        fatal: None,
    };
    if subject.root_metadata
        && let Some(entry) = view.entry(&RelPath::root())?
    {
        walk.metadata(&RelPath::root(), &entry, &root.stat);
        walk.xattrs(&RelPath::root(), &entry, root.xattrs.clone());
    }
    walk.enter(RelPath::root(), ROOT, root)?;
    let options = transfer::Options {
        source: if subject.may_hang { transfer::Side::MayHang } else { transfer::Side::Local },
        target: transfer::Side::Local,
        ..transfer::Options::default()
    };
    let ran = transfer::run(&mut walk, &options, engine);
    if let Some(error) = walk.fatal.take() {
        return Err(error);
    }
    ran.map_err(|e| Error::Engine(e.to_string()))?;
    for (path, wrong) in std::mem::take(&mut walk.links).judge() {
        walk.differs(&path, What::Link, wrong);
    }
    walk.result.differences.sort_by(|a, b| a.path.cmp(&b.path).then(a.what.cmp(&b.what)));
    Ok(walk.result)
}

struct Level {
    path: RelPath,
    dir: Arc<Dir>,
    names: std::iter::Peekable<std::vec::IntoIter<Name>>,
    rows: Rows,
    row: Option<Has>,
}

struct Item {
    path: RelPath,
    name: Box<[u8]>,
    entry: Arc<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    First,
    Last,
}

enum Task {
    Open { above: Arc<Dir>, item: Item, id: DirId },
    Read(Item, Arc<Dir>, Identity, Try),
    Find(Item),
}

enum Doing {
    Open(Item, DirId),
    Read(Item, Try),
    Find(Item),
}

struct Walk<'a> {
    view: &'a View,
    subject: &'a Subject,
    progress: &'a Progress,
    levels: Vec<Level>,
    ready: Vec<Task>,
    doing: HashMap<u64, Doing>,
    next_tag: u64,
    links: Links,
    result: Compared,
    fatal: Option<Error>,
}

impl Walk<'_> {
    fn differs(&mut self, path: &RelPath, what: What, detail: impl Into<String>) {
        self.result.count += 1;
        if self.result.differences.len() < KEPT_MAX {
            let detail = detail.into();
            self.result.differences.push(Difference {
                tree: self.subject.label,
                path: path.clone(),
                what,
                detail,
            });
        }
    }

    fn enter(&mut self, path: RelPath, id: DirId, listed: Listed) -> Result<()> {
        let mut rows = self.view.rows(id)?;
        let row = next_row(&mut rows, &path)?;
        self.levels.push(Level {
            path,
            dir: listed.dir,
            names: listed.names.into_iter().peekable(),
            rows,
            row,
        });
        Ok(())
    }

    fn task(&mut self) -> Result<Option<Task>> {
        loop {
            if let Some(task) = self.ready.pop() {
                return Ok(Some(task));
            }
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let order = match (level.names.peek(), &level.row) {
                (None, None) => {
                    self.levels.pop();
                    continue;
                }
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(name), Some(row)) => name.name.as_ref().cmp(row.name.as_slice()),
            };
            let name = if order.is_le() { level.names.next() } else { None };
            let has = if order.is_ge() {
                let next = next_row(&mut level.rows, &level.path)?;
                std::mem::replace(&mut level.row, next)
            } else {
                None
            };
            let (dir, above) = (level.dir.clone(), level.path.clone());
            match (name, has) {
                (Some(name), Some(has)) => {
                    if let Some(task) = self.both(dir, above.join(&name.name), name, has) {
                        return Ok(Some(task));
                    }
                }
                (Some(name), None) => self.extra(&above, &name),
                (None, Some(has)) => self.missing(above.join(&has.name), &has.entry)?,
                (None, None) => {}
            }
        }
    }

    fn extra(&mut self, above: &RelPath, name: &Name) {
        if above.is_root() && self.subject.ignored.contains(&name.name.as_ref()) {
            return;
        }
        let path = above.join(&name.name);
        match &name.stat {
            Ok(stat) if self.subject.leaves_out(&path, stat) => {}
            Ok(stat) => {
                let why =
                    self.subject.exception(&path).map(|e| format!(" ({})", e.reason)).unwrap_or_default();
                self.differs(&path, What::Extra, format!("{}{why}", kind_word(stat.kind)));
            }
            Err(e) => self.differs(&path, What::Unreadable, e.to_string()),
        }
    }

    fn missing(&mut self, path: RelPath, entry: &Entry) -> Result<()> {
        let mut below = 0u64;
        if entry.is_dir() {
            self.view.walk::<Error>(&path, |_, _| {
                below += 1;
                Ok(())
            })?;
        }
        let with = if below > 0 { format!(" with {below} entries") } else { String::new() };
        self.differs(&path, What::Missing, format!("{}{with}", entry.type_word()));
        Ok(())
    }

    fn both(&mut self, dir: Arc<Dir>, path: RelPath, name: Name, has: Has) -> Option<Task> {
        let entry = has.entry;
        let stat = match name.stat {
            Ok(stat) => stat,
            Err(e) => {
                self.differs(&path, What::Unreadable, e.to_string());
                return None;
            }
        };
        self.result.names += 1;
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        // Something is mounted over it: what lies below cannot be seen, and is in the mirror as it was.
        if self.subject.leaves_out(&path, &stat) && kind_of(&entry) == stat.kind {
            return None;
        }
        if kind_of(&entry) != stat.kind {
            self.differs(
                &path,
                What::Type,
                format!("{} instead of {}", kind_word(stat.kind), entry.type_word()),
            );
            return None;
        }
        self.metadata(&path, &entry, &stat);
        if !entry.is_dir() {
            self.links.add(&path, &entry, &stat);
        }
        match &entry.body {
            Body::Fifo => {
                self.xattrs(&path, &entry, name.xattrs);
                None
            }
            Body::Symlink(text) => {
                if name.text.as_ref() != Some(text) {
                    let found = name.text.unwrap_or_default();
                    let detail = format!("{} instead of {}", shown(&found), shown(text));
                    self.differs(&path, What::Target, detail);
                }
                None
            }
            Body::Dir => {
                let item = Item { path, name: name.name, entry };
                Some(Task::Open { above: dir, item, id: has.id })
            }
            Body::File(file) => {
                if file.size != stat.size {
                    self.differs(&path, What::Size, format!("{} instead of {}", stat.size, file.size));
                }
                let identity = Identity { ino: stat.ino, dev: stat.dev };
                Some(Task::Read(Item { path, name: name.name, entry }, dir, identity, Try::First))
            }
        }
    }

    fn metadata(&mut self, path: &RelPath, entry: &Entry, stat: &Stat) {
        if stat.kind != FileKind::Symlink && stat.mode != entry.mode {
            self.differs(path, What::Mode, format!("{:04o} instead of {:04o}", stat.mode, entry.mode));
        }
        if (stat.uid, stat.gid) != (entry.uid, entry.gid) {
            let detail = format!("{}:{} instead of {}:{}", stat.uid, stat.gid, entry.uid, entry.gid);
            self.differs(path, What::Owner, detail);
        }
        let mtime = time(stat.mtime);
        if mtime != entry.mtime {
            let detail = format!(
                "{}.{:09} instead of {}.{:09}",
                mtime.sec, mtime.nsec, entry.mtime.sec, entry.mtime.nsec
            );
            self.differs(path, What::Mtime, detail);
        }
    }

    fn xattrs(&mut self, path: &RelPath, entry: &Entry, found: Xattrs) {
        let acls = self.subject.acls;
        let keep = |(name, _): &&(Vec<u8>, Vec<u8>)| acls || !sys::meta::is_acl(name);
        for (name, value) in entry.xattrs.iter().filter(keep) {
            match found.iter().find(|(other, _)| other == name) {
                None => self.differs(path, What::Xattr, format!("{} is missing", shown(name))),
                Some((_, other)) if other != value => {
                    self.differs(path, What::Xattr, format!("{} has another value", shown(name)));
                }
                Some(_) => {}
            }
        }
        for (name, _) in found.iter().filter(keep) {
            if !entry.xattrs.iter().any(|(wanted, _)| wanted == name) {
                self.differs(path, What::Xattr, format!("{} should not be there", shown(name)));
            }
        }
    }

    fn start(&mut self, task: Task) -> (Doing, Job) {
        match task {
            Task::Open { above, item, id } => {
                let (root, name, path) = (self.subject.root.clone(), item.name.clone(), item.path.clone());
                let call = move || -> ListResult { list(&root, Some((&above, &name)), &path) };
                (Doing::Open(item, id), called(call))
            }
            Task::Find(item) => {
                let (root, path) = (self.subject.root.clone(), item.path.clone());
                (Doing::Find(item), called(move || -> FindResult { root.find(&path) }))
            }
            Task::Read(item, dir, expect, which) => {
                let job = CopyJob {
                    source: (dir.clone(), item.name.clone()),
                    expect,
                    target: (dir, item.name.clone()),
                    create_as: None,
                    replace_leftover: false,
                    how: How::HashOnly,
                    writers: Writers::Seen,
                    durability: Durability::Deferred,
                };
                (Doing::Read(item, which), Job::Copy(Box::new(job)))
            }
        }
    }

    fn take(&mut self, doing: Doing, outcome: Outcome) -> Result<()> {
        let label = self.subject.label;
        match (doing, outcome) {
            (Doing::Open(item, id), Outcome::Called(value)) => match answer::<ListResult>(value)? {
                Ok(listed) => {
                    self.xattrs(&item.path, &item.entry, listed.xattrs.clone());
                    self.enter(item.path, id, listed)
                }
                Err(e) if is_of_one_file(e.errno) => {
                    self.differs(&item.path, What::Unreadable, e.to_string());
                    Ok(())
                }
                Err(e) => Err(on_mirror(|| format!("read {} in the {label}", item.path))(e)),
            },
            (Doing::Find(item), Outcome::Called(value)) => {
                match answer::<FindResult>(value)? {
                    Ok((dir, stat)) if stat.kind == FileKind::File => {
                        let identity = Identity { ino: stat.ino, dev: stat.dev };
                        self.ready.push(Task::Read(item, dir, identity, Try::Last));
                    }
                    Ok(_) => self.differs(&item.path, What::Type, "replaced while it was compared"),
                    Err(e) if is_absent(e.errno) => {
                        self.differs(&item.path, What::Missing, "removed while it was compared");
                    }
                    Err(e) => return Err(on_mirror(|| format!("look for {} in the {label}", item.path))(e)),
                }
                Ok(())
            }
            (Doing::Read(item, which), Outcome::Copied(result)) => self.read(item, which, result),
            _ => Err(Error::Engine("an outcome of another kind than its job".to_owned())),
        }
    }

    fn read(&mut self, item: Item, which: Try, result: Result<transfer::Copied, CopyError>) -> Result<()> {
        let copied = match result {
            Ok(copied) => copied,
            Err(CopyError::Replaced) if which == Try::First => {
                self.ready.push(Task::Find(item));
                return Ok(());
            }
            Err(CopyError::Replaced) => {
                self.differs(&item.path, What::Unreadable, "is replaced again and again");
                return Ok(());
            }
            Err(CopyError::Source(e) | CopyError::Target(e)) if is_of_one_file(e.errno) => {
                self.differs(&item.path, What::Unreadable, e.to_string());
                return Ok(());
            }
            Err(CopyError::Source(e) | CopyError::Target(e)) => {
                return Err(on_mirror(|| format!("read {} in the {}", item.path, self.subject.label))(e));
            }
        };
        self.result.files += 1;
        self.result.bytes += copied.size;
        self.progress.bytes.fetch_add(copied.size, Ordering::Relaxed);
        if let Body::File(file) = &item.entry.body
            && file.size == copied.size
            && file.hash != copied.hash.root
        {
            self.differs(&item.path, What::Content, "does not match its hash");
        }
        self.xattrs(&item.path, &item.entry, copied.xattrs.kept);
        Ok(())
    }
}

impl Feed for Walk<'_> {
    fn next(&mut self) -> Next {
        if self.fatal.is_some() {
            return Next::End;
        }
        match self.task() {
            Ok(Some(task)) => {
                let (doing, job) = self.start(task);
                self.next_tag += 1;
                self.doing.insert(self.next_tag, doing);
                Next::Job(self.next_tag, job)
            }
            Ok(None) if self.doing.is_empty() => Next::End,
            Ok(None) => Next::Wait,
            Err(error) => {
                self.fatal.get_or_insert(error);
                Next::End
            }
        }
    }

    fn done(&mut self, tag: u64, outcome: Outcome) {
        let Some(doing) = self.doing.remove(&tag) else { return };
        if let Err(error) = self.take(doing, outcome) {
            self.fatal.get_or_insert(error);
        }
    }

    fn abort(&self) -> bool {
        self.fatal.is_some()
    }
}

fn kind_of(entry: &Entry) -> FileKind {
    match entry.body {
        Body::Dir => FileKind::Dir,
        Body::File(_) => FileKind::File,
        Body::Symlink(_) => FileKind::Symlink,
        Body::Fifo => FileKind::Fifo,
    }
}

fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::Device => "device",
    }
}

fn shown(bytes: &[u8]) -> String {
    proto::path::Escaped(bytes).to_string()
}
