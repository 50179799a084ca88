//! Applying a redo log: the one way the index changes.

use std::collections::HashMap;

use proto::{Body, Entry, ExceptionClass, Generation, Op, RelPath, Totals};
use redb::{ReadableTable, Table, WriteTransaction};

use super::row::{DirId, ROOT, Row, RowFacts, encode};
use super::store::{
    ENTRIES, EXCEPTIONS, Index, IndexError, LINKED, NAMES, PARENTS, POSITION, POSITION_KEY, Position, key,
    name_key, store,
};

/// One log being applied. Dropped without [`Applying::commit`], it leaves the index as it was.
pub struct Applying {
    txn: WriteTransaction,
    position: Position,
    /// What an `Out` took to the stage, until its `Install` comes.
    moving: HashMap<proto::StagedName, Vec<u8>>,
    /// Numbers of directories this log named, so that not every path is resolved from the root.
    known: HashMap<RelPath, DirId>,
}

impl Index {
    /// Starts applying the log of the generation after the current one.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn apply(&self) -> Result<Applying, IndexError> {
        let position = self.view()?.position().clone();
        let mut txn = self.db.begin_write().map_err(store("write"))?;
        // After a crash of the host the index is rebuilt from the ledger rather than repaired page by page.
        txn.set_quick_repair(true);
        Ok(Applying { txn, position, moving: HashMap::new(), known: HashMap::new() })
    }
}

impl Applying {
    /// Applies a batch of operations, in order.
    ///
    /// # Errors
    /// [`IndexError::Diverged`] when the log does not fit the index: rebuild.
    pub fn ops<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), IndexError> {
        let Self { txn, position, moving, known } = self;
        let mut at = Tables {
            entries: txn.open_table(ENTRIES).map_err(store("write"))?,
            names: txn.open_table(NAMES).map_err(store("write"))?,
            linked: txn.open_table(LINKED).map_err(store("write"))?,
            parents: txn.open_table(PARENTS).map_err(store("write"))?,
            exceptions: txn.open_table(EXCEPTIONS).map_err(store("write"))?,
            position,
            known,
        };
        for op in ops {
            match op {
                Op::Out { path, to } => {
                    let row = at.detach(path)?;
                    match to {
                        proto::log::Leaves::Trash(_) => at.forget(row)?,
                        proto::log::Leaves::Stage(name) => {
                            moving.insert(*name, row);
                        }
                    }
                }
                Op::Install { path, staged, entry, source: proto::log::Source::Moved } => {
                    let Some(row) = moving.remove(staged) else { return Err(at.diverged(path)) };
                    at.attach(path, entry, &row)?;
                }
                Op::Install { path, entry, .. } => {
                    at.no_directory(path, entry)?;
                    at.put(path, entry)?;
                }
                Op::Below { path, entry } => at.put(path, entry)?,
                Op::Dir { path, entry, .. } | Op::Facts { path, entry } | Op::Grow { path, entry, .. } => {
                    at.has(path, entry)?;
                    at.put(path, entry)?;
                }
                Op::Except { path, exception } => {
                    at.unexcept(path)?;
                    *at.class(exception.class) += 1;
                    let bytes = proto::codec::encode(exception).map_err(|_| IndexError::Row(path.clone()))?;
                    at.exceptions.insert(path.as_bytes(), bytes.as_slice()).map_err(store("write"))?;
                }
                Op::Clear { path } => at.unexcept(path)?,
            }
        }
        Ok(())
    }

    /// Sums as they are after what was applied so far.
    pub fn totals(&self) -> Totals {
        self.position.totals
    }

    /// Makes it the state of the index.
    ///
    /// # Errors
    /// [`IndexError::Store`]: the index is as before.
    pub fn commit(
        mut self,
        generation: Generation,
        log_hash: [u8; 32],
        volume: (u64, Option<proto::Time>),
    ) -> Result<(), IndexError> {
        self.position.generation = generation;
        self.position.log_hash = log_hash;
        self.position.volume = volume;
        self.commit_position()
    }

    /// Commits operations that belong to no log (`Facts` of a look that found nothing to publish).
    ///
    /// # Errors
    /// [`IndexError::Store`]: the index is as before.
    pub fn commit_local(self) -> Result<(), IndexError> {
        self.commit_position()
    }

    fn commit_position(self) -> Result<(), IndexError> {
        let bytes = self.position.encode().map_err(|_| IndexError::Row(RelPath::root()))?;
        self.txn
            .open_table(POSITION)
            .map_err(store("write"))?
            .insert(POSITION_KEY, bytes.as_slice())
            .map_err(store("write"))?;
        self.txn.commit().map_err(store("commit"))
    }
}

struct Tables<'a, 'txn> {
    entries: Table<'txn, &'static [u8], &'static [u8]>,
    names: Table<'txn, &'static [u8], ()>,
    linked: Table<'txn, &'static [u8], ()>,
    parents: Table<'txn, u64, &'static [u8]>,
    exceptions: Table<'txn, &'static [u8], &'static [u8]>,
    position: &'a mut Position,
    known: &'a mut HashMap<RelPath, DirId>,
}

impl Tables<'_, '_> {
    fn diverged(&self, path: &RelPath) -> IndexError {
        IndexError::Diverged { path: path.clone(), generation: self.position.generation }
    }

    fn dir_id(&mut self, path: &RelPath) -> Result<DirId, IndexError> {
        if path.is_root() {
            return Ok(ROOT);
        }
        if let Some(id) = self.known.get(path) {
            return Ok(*id);
        }
        let mut at = ROOT;
        for name in path.components() {
            let row = self.entries.get(key(at, name).as_slice()).map_err(store("get"))?;
            match row.as_ref().and_then(|row| Row(row.value()).facts()) {
                Some(RowFacts { kind: sys::FileKind::Dir, dir_id, .. }) => at = dir_id,
                _ => {
                    drop(row);
                    return Err(self.diverged(path));
                }
            }
        }
        self.known.insert(path.clone(), at);
        Ok(at)
    }

    fn row_key(&mut self, path: &RelPath) -> Result<Vec<u8>, IndexError> {
        match path.split_last() {
            None => Ok(key(DirId(0), b"root")),
            Some((parent, name)) => Ok(key(self.dir_id(&parent)?, name)),
        }
    }

    /// What is only changed has to be there, or the index would have more than the mirror.
    fn has(&mut self, path: &RelPath, entry: &Entry) -> Result<(), IndexError> {
        let key = self.row_key(path)?;
        let row = self.entries.get(key.as_slice()).map_err(store("get"))?;
        let old = row.and_then(|row| Row(row.value()).facts());
        if old.is_some_and(|old| old.kind == kind_of(entry)) { Ok(()) } else { Err(self.diverged(path)) }
    }

    /// A rename replaces no directory, and a directory replaces nothing. A log that says so could not be published.
    fn no_directory(&mut self, path: &RelPath, entry: &Entry) -> Result<(), IndexError> {
        let key = self.row_key(path)?;
        let row = self.entries.get(key.as_slice()).map_err(store("get"))?;
        let Some(old) = row.and_then(|row| Row(row.value()).facts()) else { return Ok(()) };
        let is_wrong = !path.is_root() && (old.kind == sys::FileKind::Dir || entry.is_dir());
        if is_wrong { Err(self.diverged(path)) } else { Ok(()) }
    }

    /// Inserts or replaces the row of `path`; a directory that stays a directory keeps its number.
    fn put(&mut self, path: &RelPath, entry: &Entry) -> Result<(), IndexError> {
        let key = self.row_key(path)?;
        let old = {
            let row = self.entries.get(key.as_slice()).map_err(store("get"))?;
            row.and_then(|row| Row(row.value()).facts())
        };
        let mut dir_id = DirId(0);
        if entry.is_dir() {
            dir_id = match &old {
                Some(RowFacts { kind: sys::FileKind::Dir, dir_id, .. }) => *dir_id,
                _ if path.is_root() => ROOT,
                _ => {
                    self.position.next_dir += 1;
                    DirId(self.position.next_dir - 1)
                }
            };
            if old.is_none() {
                self.known.insert(path.clone(), dir_id);
            }
        }
        if let Some(old) = &old {
            self.count(old.kind, old.size, -1, path.is_root());
            if old.kind == sys::FileKind::Dir && !entry.is_dir() {
                return Err(self.diverged(path));
            }
            if (old.ino, old.linked) != (entry.origin.ino, entry.linked) {
                self.unname(old, &key)?;
            }
        }
        let row = encode(entry, dir_id).map_err(|_| IndexError::Row(path.clone()))?;
        self.count(kind_of(entry), entry.size(), 1, path.is_root());
        self.entries.insert(key.as_slice(), row.as_slice()).map_err(store("write"))?;
        self.name(entry, dir_id, &key)
    }

    /// Notes that the inode of `entry` has the name `key`.
    fn name(&mut self, entry: &Entry, dir_id: DirId, key: &[u8]) -> Result<(), IndexError> {
        let name = name_key(entry.origin.ino, key);
        self.names.insert(name.as_slice(), ()).map_err(store("write"))?;
        if entry.linked {
            self.linked.insert(name.as_slice(), ()).map_err(store("write"))?;
        }
        if entry.is_dir() {
            self.parents.insert(dir_id.0, key).map_err(store("write"))?;
        }
        Ok(())
    }

    fn unname(&mut self, facts: &RowFacts, key: &[u8]) -> Result<(), IndexError> {
        let name = name_key(facts.ino, key);
        self.names.remove(name.as_slice()).map_err(store("write"))?;
        if facts.linked {
            self.linked.remove(name.as_slice()).map_err(store("write"))?;
        }
        Ok(())
    }

    /// Removes the row of `path` alone and returns it.
    fn detach(&mut self, path: &RelPath) -> Result<Vec<u8>, IndexError> {
        let key = self.row_key(path)?;
        // Numbers below a path that leaves its place are resolved anew.
        self.known.clear();
        let row =
            self.entries.remove(key.as_slice()).map_err(store("write"))?.map(|row| row.value().to_vec());
        let row = row.ok_or_else(|| IndexError::Diverged {
            path: path.clone(),
            generation: self.position.generation,
        })?;
        let facts = Row(&row).facts().ok_or_else(|| IndexError::Row(path.clone()))?;
        self.unname(&facts, &key)?;
        Ok(row)
    }

    /// Puts a detached row, with all that hangs on its number, at `path`.
    fn attach(&mut self, path: &RelPath, entry: &Entry, row: &[u8]) -> Result<(), IndexError> {
        let facts = Row(row).facts().ok_or_else(|| IndexError::Row(path.clone()))?;
        let key = self.row_key(path)?;
        let old = {
            let old = self.entries.get(key.as_slice()).map_err(store("get"))?;
            old.map(|old| old.value().to_vec())
        };
        self.no_directory(path, entry)?;
        if let Some(old) = old {
            // A file moved onto a file replaces it.
            if let Some(facts) = Row(&old).facts() {
                self.unname(&facts, &key)?;
            }
            self.forget(old)?;
        }
        self.known.clear();
        let new = encode(entry, facts.dir_id).map_err(|_| IndexError::Row(path.clone()))?;
        // Sums: the moved thing was never subtracted; a file's size cannot have changed by a move.
        self.entries.insert(key.as_slice(), new.as_slice()).map_err(store("write"))?;
        self.name(entry, facts.dir_id, &key)
    }

    /// Drops a detached row with everything below it.
    fn forget(&mut self, row: Vec<u8>) -> Result<(), IndexError> {
        let Some(facts) = Row(&row).facts() else { return Err(IndexError::Row(RelPath::root())) };
        self.count(facts.kind, facts.size, -1, facts.dir_id == ROOT);
        if facts.kind != sys::FileKind::Dir {
            return Ok(());
        }
        let mut stack = vec![facts.dir_id];
        while let Some(dir) = stack.pop() {
            let (from, to) = (key(dir, b""), key(DirId(dir.0 + 1), b""));
            let mut gone = Vec::new();
            for row in self.entries.range(from.as_slice()..to.as_slice()).map_err(store("scan"))? {
                let (key, value) = row.map_err(store("scan"))?;
                if let Some(facts) = Row(value.value()).facts() {
                    if facts.kind == sys::FileKind::Dir {
                        stack.push(facts.dir_id);
                    }
                    gone.push((key.value().to_vec(), facts));
                }
            }
            for (key, facts) in gone {
                self.count(facts.kind, facts.size, -1, false);
                self.unname(&facts, &key)?;
            }
            self.parents.remove(dir.0).map_err(store("write"))?;
            self.entries.retain_in(from.as_slice()..to.as_slice(), |_, _| false).map_err(store("write"))?;
        }
        Ok(())
    }

    fn count(&mut self, kind: sys::FileKind, size: u64, sign: i64, is_root: bool) {
        if is_root {
            return;
        }
        let totals = &mut self.position.totals;
        let field = match kind {
            sys::FileKind::Dir => &mut totals.dirs,
            sys::FileKind::File => &mut totals.files,
            _ => &mut totals.others,
        };
        *field = field.saturating_add_signed(sign);
        if kind == sys::FileKind::File {
            totals.bytes = if sign > 0 { totals.bytes + size } else { totals.bytes.saturating_sub(size) };
        }
    }

    fn class(&mut self, class: ExceptionClass) -> &mut u64 {
        match class {
            ExceptionClass::Quarantined => &mut self.position.totals.quarantined,
            ExceptionClass::LeftOut => &mut self.position.totals.left_out,
        }
    }

    fn unexcept(&mut self, path: &RelPath) -> Result<(), IndexError> {
        let old =
            self.exceptions.remove(path.as_bytes()).map_err(store("write"))?.map(|v| v.value().to_vec());
        if let Some(old) = old.and_then(|bytes| proto::codec::decode::<proto::Exception>(&bytes).ok()) {
            let count = self.class(old.class);
            *count = count.saturating_sub(1);
        }
        Ok(())
    }
}

fn kind_of(entry: &Entry) -> sys::FileKind {
    match entry.body {
        Body::Dir => sys::FileKind::Dir,
        Body::File(_) => sys::FileKind::File,
        Body::Symlink(_) => sys::FileKind::Symlink,
        Body::Fifo => sys::FileKind::Fifo,
    }
}

#[cfg(test)]
mod tests {
    use proto::{DirWork, FileBody, Origin, Source, StagedName, Time};

    use super::*;

    fn entry(body: Body) -> Entry {
        let origin = Origin { ino: 1, btime: None, ctime: Time::default(), racy: false };
        let mtime = Time::default();
        Entry { body, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new(), linked: false, origin }
    }

    fn file() -> Entry {
        entry(Body::File(FileBody { size: 0, hash: [0; 32], blocks: Vec::new() }))
    }

    fn install(path: &str, entry: Entry) -> Op {
        let path = RelPath::new(path.as_bytes()).unwrap();
        Op::Install { path, staged: StagedName { run: 0, n: 0 }, entry, source: Source::Fresh }
    }

    /// The story: facts of a file that the same log took away made a row that the mirror did not have; and a directory was
    /// installed over another. The first was found when that row was to leave, the second when the sealed log was published.
    #[test]
    fn a_log_that_could_not_be_published_is_refused() {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        let dir = || entry(Body::Dir);
        let wrong = [
            Op::Facts { path: path("gone"), entry: file() },
            Op::Dir { path: path("gone"), entry: dir(), work: DirWork::All },
            Op::Facts { path: path("d"), entry: file() },
            install("d", dir()),
            install("d", file()),
            install("f", dir()),
        ];
        for op in wrong {
            let index = Index::in_memory().unwrap();
            let mut applying = index.apply().unwrap();
            applying.ops(&[install("", dir()), install("d", dir()), install("f", file())]).unwrap();
            applying.ops(&[install("f", file()), Op::Facts { path: path("f"), entry: file() }]).unwrap();
            let refused = applying.ops(std::slice::from_ref(&op));
            assert!(matches!(refused, Err(IndexError::Diverged { .. })), "{op:?}: {refused:?}");
        }
    }
}
