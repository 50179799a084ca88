//! What a directory holds, and what its generation says it holds: the two sides that are merged.

use std::os::fd::AsFd;
use std::sync::Arc;

use proto::{Entry, RelPath};
use sys::{Dir, FileKind, Stat, SysError, WalkBuffer, Xattrs};

use crate::index::{DirId, IndexError, Row};
use crate::recover::{Root, is_absent};

/// One name of a directory, as it is.
pub struct Name {
    pub name: Box<[u8]>,
    /// What it is; or that it could not be looked at.
    pub stat: Result<Stat, SysError>,
    /// Of a symlink.
    pub text: Option<Vec<u8>>,
    /// Of a FIFO.
    pub xattrs: Xattrs,
}

/// A directory, as it is.
pub struct Listed {
    pub dir: Arc<Dir>,
    pub stat: Stat,
    pub xattrs: Xattrs,
    pub names: Vec<Name>,
}

pub type ListResult = Result<Listed, SysError>;
pub type FindResult = Result<(Arc<Dir>, Stat), SysError>;

/// Lists a directory below `above`, or from the root.
pub fn list(root: &Root, above: Option<(&Dir, &[u8])>, path: &RelPath) -> ListResult {
    let opened = match above {
        Some((above, name)) => above.open_dir(name),
        None => root.dir(path),
    };
    let read = |dir: Dir| -> ListResult {
        let stat = dir.stat_self()?;
        let xattrs = sys::meta::read_xattrs(dir.as_fd())?.kept;
        let mut found: Vec<Box<[u8]>> = Vec::new();
        dir.read(&mut WalkBuffer::default(), |entry| found.push(entry.name.into()))?;
        found.sort_unstable();
        found.dedup();
        let mut names = Vec::with_capacity(found.len());
        for name in found {
            let stat = match dir.stat(&name) {
                Err(e) if e.is_gone() => continue,
                other => other,
            };
            let is_link = stat.as_ref().is_ok_and(|stat| stat.kind == FileKind::Symlink);
            let text = if is_link { dir.readlink(&name).ok() } else { None };
            let is_fifo = stat.as_ref().is_ok_and(|stat| stat.kind == FileKind::Fifo);
            let xattrs = if is_fifo { sys::meta::read_fifo_xattrs(&dir, &name)?.kept } else { Xattrs::new() };
            names.push(Name { name, stat, text, xattrs });
        }
        Ok(Listed { dir: Arc::new(dir), stat, xattrs, names })
    };
    match opened.and_then(read) {
        // Replaced a moment ago: once more, from the root.
        Err(e) if above.is_some() && is_absent(e.errno) => list(root, None, path),
        other => other,
    }
}

pub type Rows = redb::Range<'static, &'static [u8], &'static [u8]>;

/// A row of the index: its name, its number if it is a directory, and its entry.
pub struct Has {
    pub name: Vec<u8>,
    pub id: DirId,
    pub entry: Arc<Entry>,
}

pub fn next_row(rows: &mut Rows, path: &RelPath) -> Result<Option<Has>, IndexError> {
    let Some(row) = rows.next() else { return Ok(None) };
    let (key, value) = row.map_err(|e| IndexError::Store { act: "scan", source: Box::new(e.into()) })?;
    let name = key.value()[8..].to_vec();
    let row = Row(value.value());
    match (row.facts(), row.entry()) {
        (Some(facts), Some(entry)) => Ok(Some(Has { name, id: facts.dir_id, entry: Arc::new(entry) })),
        _ => Err(IndexError::Row(path.join(&name))),
    }
}
