//! From what has to be made to what the engine does: one copy, or a short run of calls on its pool.

use std::any::Any;
use std::os::fd::AsFd;
use std::sync::Arc;

use proto::{Body, Entry, RelPath};
use sys::meta::{AclsKept, MadeAs};
use sys::{Dir, Errno, Meta, SysError};
use transfer::{CopyJob, How, Identity, Job, Writers};

use super::fill::{Around, SpecialBits};
use super::links::LinkKey;
use super::mirror::Listed;
use crate::error::{Error, Result};
use crate::index::DirId;
use crate::ledger::meta_of;

/// One name to make.
pub struct Item {
    pub path: RelPath,
    pub name: Box<[u8]>,
    pub entry: Arc<Entry>,
    pub fresh: Arc<Dir>,
    /// Of a file with several names: its inode.
    pub link: Option<LinkKey>,
}

/// Whether a file that is not what it should be is looked for again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Try {
    First,
    Last,
}

pub enum Task {
    Open { above: Arc<Dir>, fresh: Arc<Dir>, name: Box<[u8]>, path: RelPath, id: DirId },
    Find(Item),
    Copy(Item, Arc<Dir>, Identity, Try),
    Dress(Item),
    Special(Item),
    Link(Item, RelPath),
}

pub enum Doing {
    Open(RelPath, DirId),
    Find(Item),
    Copy(Item, Try),
    Make(Item),
}

/// Which side of a call failed.
pub enum ActError {
    Mirror(SysError),
    Target(SysError),
}

pub type OpenResult = Result<(Listed, Dir), ActError>;
pub type FindResult = Result<(Arc<Dir>, sys::Stat), SysError>;
pub type MakeResult = Result<AclsKept, SysError>;

impl Around<'_> {
    /// Metadata a file gets.
    pub fn wanted(&self, entry: &Entry) -> Meta {
        let mut meta = meta_of(entry);
        if self.bits == SpecialBits::Strip {
            meta.mode &= !0o6000;
        }
        meta
    }
}

/// The job of a task, and what to remember of it until its outcome comes.
pub fn job(around: &Around<'_>, task: Task) -> (Doing, Job) {
    match task {
        Task::Open { above, fresh, name, path, id } => {
            let (root, at) = (around.root.clone(), path.clone());
            let call = move || -> OpenResult {
                let listed = root.list(&above, &name, &at).map_err(ActError::Mirror)?;
                fresh.mkdir(&name, 0o700).map_err(ActError::Target)?;
                let dir = fresh.open_dir(&name).map_err(ActError::Target)?;
                Ok((listed, dir))
            };
            (Doing::Open(path, id), called(call))
        }
        Task::Find(item) => {
            let (root, path) = (around.root.clone(), item.path.clone());
            (Doing::Find(item), called(move || -> FindResult { root.find(&path) }))
        }
        Task::Copy(item, source, expect, which) => {
            let job = CopyJob {
                source: (source, item.name.clone()),
                expect,
                target: (item.fresh.clone(), item.name.clone()),
                create_as: None,
                replace_leftover: false,
                how: How::Whole,
                writers: Writers::Seen,
                durability: around.durability,
            };
            (Doing::Copy(item, which), Job::Copy(Box::new(job)))
        }
        Task::Dress(item) => {
            let (dir, name, meta) = (item.fresh.clone(), item.name.clone(), around.wanted(&item.entry));
            let call = move || -> MakeResult {
                let (fd, _) = dir.open_file(&name)?;
                // The one that also takes away what should not be there: somebody may have put it on the mirror.
                sys::meta::reapply(fd.as_fd(), &meta, &name)
            };
            (Doing::Make(item), called(call))
        }
        Task::Special(item) => {
            let (dir, name, entry) = (item.fresh.clone(), item.name.clone(), item.entry.clone());
            (Doing::Make(item), called(move || -> MakeResult { special(&dir, &name, &entry) }))
        }
        Task::Link(item, first) => {
            let (root, dir, name) = (around.fresh.clone(), item.fresh.clone(), item.name.clone());
            let call = move || -> MakeResult {
                let mut at = root;
                let Some((above, leaf)) = first.split_last() else {
                    return Err(SysError::new("link", &name, Errno::INVAL));
                };
                for component in above.components() {
                    at = Arc::new(at.hold_dir(component)?);
                }
                at.link(leaf, &dir, &name).map(|()| AclsKept::All)
            };
            (Doing::Make(item), called(call))
        }
    }
}

/// A call for the engine's pool.
pub fn called<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Job {
    Job::Call(Box::new(move || -> Box<dyn Any + Send> { Box::new(call()) }))
}

/// What a call answered.
///
/// # Errors
/// [`Error::Engine`]: the answer of another call.
pub fn answer<T: 'static>(value: Box<dyn Any + Send>) -> Result<T> {
    value
        .downcast()
        .map(|value| *value)
        .map_err(|_| Error::Engine("an answer of another kind than asked for".to_owned()))
}

/// Makes a symlink or FIFO as the index has it.
fn special(dir: &Dir, name: &[u8], entry: &Entry) -> MakeResult {
    let fifo = match &entry.body {
        Body::Symlink(text) => {
            dir.symlink(text, name)?;
            false
        }
        Body::Fifo => {
            dir.mkfifo(name, entry.mode & 0o777)?;
            true
        }
        Body::Dir | Body::File(_) => return Err(SysError::new("make", name, Errno::INVAL)),
    };
    let made = dir.stat(name)?;
    let made_as = MadeAs { uid: made.uid, gid: made.gid, mode: made.mode };
    sys::meta::apply_special(dir, name, &meta_of(entry), made_as, fifo)
}
