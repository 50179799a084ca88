//! Directories get their metadata last, from the deepest up: everything done inside one moves its times, and a
//! mode may close it.

use std::os::fd::AsFd;
use std::sync::Arc;

use proto::{Entry, RelPath};
use sys::meta::AclsKept;
use sys::{Dir, FileKind};

use super::place::Place;
use crate::error::{Error, Result};
use crate::index::{IndexError, ROOT, Row, View};
use crate::ledger::meta_of;

struct Level {
    path: RelPath,
    dir: Arc<Dir>,
    entry: Entry,
    rows: redb::Range<'static, &'static [u8], &'static [u8]>,
}

/// Gives every directory of the tree at `fresh` the metadata it has in `view`. Returns how many ACLs the
/// target's file system refused to keep.
///
/// # Errors
/// [`Error::Target`], [`Error::Index`].
pub fn directories(view: &View, fresh: &Arc<Dir>, place: &Place) -> Result<u64> {
    let Some(entry) = view.entry(&RelPath::root())? else {
        return Err(Error::LedgerState("the generation has no root directory".to_owned()));
    };
    let mut lost = 0;
    // One held descriptor per level; trees are at most 200 deep.
    let mut levels = vec![Level { path: RelPath::root(), dir: fresh.clone(), entry, rows: view.rows(ROOT)? }];
    while let Some(level) = levels.last_mut() {
        match level.rows.next() {
            None => {
                let dressed =
                    sys::meta::reapply(level.dir.as_fd(), &meta_of(&level.entry), level.path.as_bytes());
                let acls = dressed.map_err(|e| place.failed("set metadata of a directory", e))?;
                lost += u64::from(acls == AclsKept::NotSupported);
                levels.pop();
            }
            Some(row) => {
                let (key, value) =
                    row.map_err(|e| IndexError::Store { act: "scan", source: Box::new(e.into()) })?;
                let row = Row(value.value());
                let Some(facts) = row.facts().filter(|facts| facts.kind == FileKind::Dir) else { continue };
                let name = &key.value()[8..];
                let path = level.path.join(name);
                let entry = row.entry().ok_or_else(|| IndexError::Row(path.clone()))?;
                let dir = level.dir.open_dir(name).map_err(|e| place.failed("open a directory", e))?;
                levels.push(Level { path, dir: Arc::new(dir), entry, rows: view.rows(facts.dir_id)? });
            }
        }
    }
    Ok(lost)
}
