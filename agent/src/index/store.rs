//! The embedded store behind the index, and a consistent view of it.

use std::path::Path;

use proto::{Entry, Exception, Generation, RelPath, Totals};
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::row::{DirId, ROOT, Row, RowFacts};

pub(super) const ENTRIES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries-2");
/// The names of each inode: see [`name_key`].
pub(super) const NAMES: TableDefinition<'static, &[u8], ()> = TableDefinition::new("names-2");
/// Those of them whose inode has, or had when it was copied, other names, in the volume or outside.
pub(super) const LINKED: TableDefinition<'static, &[u8], ()> = TableDefinition::new("linked-2");
/// Where the row of each directory is, by its number.
pub(super) const PARENTS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("parents-2");
pub(super) const EXCEPTIONS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("exceptions-2");
pub(super) const POSITION: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("position-2");
pub(super) const POSITION_KEY: &str = "position";

/// Memory the store may cache: enough for the upper pages of some million rows.
const CACHE_BYTES: usize = 48 << 20;

/// What can be wrong with the index. It is derived data: every error is cured by rebuilding it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The store failed.
    #[error("index {act}: {source}")]
    Store {
        /// What was tried.
        act: &'static str,
        /// Why not.
        #[source]
        source: Box<redb::Error>,
    },
    /// A row is not what was written.
    #[error("index row of {0} cannot be read")]
    Row(RelPath),
    /// A log speaks of a path the index does not have.
    #[error("the log changes {path}, which generation {generation} does not have")]
    Diverged {
        /// The path.
        path: RelPath,
        /// Generation of the index.
        generation: Generation,
    },
}

pub(super) fn store<E: Into<redb::Error>>(act: &'static str) -> impl FnOnce(E) -> IndexError {
    move |error| IndexError::Store { act, source: Box::new(error.into()) }
}

/// Where the index stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Generation it describes.
    pub generation: Generation,
    /// Hash of that generation's log.
    pub log_hash: [u8; 32],
    /// Volume its origin facts belong to: inode and birth time of the root.
    pub volume: (u64, Option<proto::Time>),
    /// Sums.
    pub totals: Totals,
    /// Next free directory number.
    pub next_dir: u64,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            generation: Generation(0),
            log_hash: [0; 32],
            volume: (0, None),
            totals: Totals::default(),
            next_dir: ROOT.0 + 1,
        }
    }
}

type Stored = (Generation, [u8; 32], (u64, Option<proto::Time>), Totals, u64);

impl Position {
    pub(super) fn encode(&self) -> Result<Vec<u8>, proto::codec::CodecError> {
        let stored: Stored = (self.generation, self.log_hash, self.volume, self.totals, self.next_dir);
        proto::codec::encode(&stored)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, log_hash, volume, totals, next_dir) = proto::codec::decode::<Stored>(bytes).ok()?;
        Some(Self { generation, log_hash, volume, totals, next_dir })
    }
}

/// The index of one lane.
pub struct Index {
    pub(super) db: Database,
}

impl Index {
    /// Opens or makes the index file at `path`.
    ///
    /// # Errors
    /// [`IndexError::Store`]; the caller moves the file aside and rebuilds.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|e| store::<redb::DatabaseError>("open")(e))?;
        Self::prepare(db)
    }

    /// An index in memory, for one use.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn in_memory() -> Result<Self, IndexError> {
        let db = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(|e| store::<redb::DatabaseError>("open")(e))?;
        Self::prepare(db)
    }

    fn prepare(db: Database) -> Result<Self, IndexError> {
        let fresh = {
            let txn = db.begin_read().map_err(store("read"))?;
            txn.open_table(POSITION).is_err()
        };
        if fresh {
            let txn = db.begin_write().map_err(store("write"))?;
            make_tables(&txn)?;
            txn.commit().map_err(store("commit"))?;
        }
        Ok(Self { db })
    }

    /// Forgets everything: the next catch-up starts from the manifest.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn clear(&self) -> Result<(), IndexError> {
        let txn = self.db.begin_write().map_err(store("write"))?;
        txn.delete_table(ENTRIES).map_err(store("clear"))?;
        txn.delete_table(NAMES).map_err(store("clear"))?;
        txn.delete_table(LINKED).map_err(store("clear"))?;
        txn.delete_table(PARENTS).map_err(store("clear"))?;
        txn.delete_table(EXCEPTIONS).map_err(store("clear"))?;
        txn.delete_table(POSITION).map_err(store("clear"))?;
        make_tables(&txn)?;
        txn.commit().map_err(store("commit"))
    }

    /// A consistent view of the last committed state; later changes do not show.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn view(&self) -> Result<View, IndexError> {
        let txn = self.db.begin_read().map_err(store("read"))?;
        Ok(View {
            entries: txn.open_table(ENTRIES).map_err(store("read"))?,
            names: txn.open_table(NAMES).map_err(store("read"))?,
            linked: txn.open_table(LINKED).map_err(store("read"))?,
            parents: txn.open_table(PARENTS).map_err(store("read"))?,
            exceptions: txn.open_table(EXCEPTIONS).map_err(store("read"))?,
            position: {
                let table = txn.open_table(POSITION).map_err(store("read"))?;
                let stored = table.get(POSITION_KEY).map_err(store("read"))?;
                stored.and_then(|bytes| Position::decode(bytes.value())).unwrap_or_default()
            },
        })
    }
}

/// A consistent view of the index; can be read by several threads at once.
pub struct View {
    entries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    names: ReadOnlyTable<&'static [u8], ()>,
    linked: ReadOnlyTable<&'static [u8], ()>,
    parents: ReadOnlyTable<u64, &'static [u8]>,
    exceptions: ReadOnlyTable<&'static [u8], &'static [u8]>,
    position: Position,
}

/// Key of a row: the directory's number in network order, so that rows of a directory lie together, then the name.
pub(super) fn key(dir: DirId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&dir.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Key of a name of an inode: the inode's number in network order, then the key of the name's row.
pub(super) fn name_key(ino: u64, row: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(8 + row.len());
    name.extend_from_slice(&ino.to_be_bytes());
    name.extend_from_slice(row);
    name
}

fn make_tables(txn: &redb::WriteTransaction) -> Result<(), IndexError> {
    txn.open_table(ENTRIES).map_err(store("write"))?;
    txn.open_table(NAMES).map_err(store("write"))?;
    txn.open_table(LINKED).map_err(store("write"))?;
    txn.open_table(PARENTS).map_err(store("write"))?;
    txn.open_table(EXCEPTIONS).map_err(store("write"))?;
    txn.open_table(POSITION).map_err(store("write"))?;
    Ok(())
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

impl View {
    /// Where the index stands.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Calls `each` with name and row of everything directly in `dir`, sorted by name.
    ///
    /// # Errors
    /// [`IndexError::Store`], or what `each` returns.
    pub fn scan<E: From<IndexError>>(
        &self,
        dir: DirId,
        mut each: impl FnMut(&[u8], Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (from, to) = (key(dir, b""), key(DirId(dir.0 + 1), b""));
        let rows = self.entries.range(from.as_slice()..to.as_slice()).map_err(store("scan"))?;
        for row in rows {
            let (key, value) = row.map_err(store("scan"))?;
            each(&key.value()[8..], Row(value.value()))?;
        }
        Ok(())
    }

    /// The same as an iterator, for merging with another sorted list.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn rows(&self, dir: DirId) -> Result<redb::Range<'static, &'static [u8], &'static [u8]>, IndexError> {
        let (from, to) = (key(dir, b""), key(DirId(dir.0 + 1), b""));
        self.entries.range(from.as_slice()..to.as_slice()).map_err(store("scan"))
    }

    /// Number of the directory at `path`, if it is one.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn dir_id(&self, path: &RelPath) -> Result<Option<DirId>, IndexError> {
        let mut at = ROOT;
        for name in path.components() {
            let Some(row) = self.entries.get(key(at, name).as_slice()).map_err(store("get"))? else {
                return Ok(None);
            };
            match Row(row.value()).facts() {
                Some(RowFacts { kind: sys::FileKind::Dir, dir_id, .. }) => at = dir_id,
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The row of `name` in `dir`.
    ///
    /// # Errors
    /// [`IndexError::Store`], [`IndexError::Row`].
    pub fn facts(&self, dir: DirId, name: &[u8]) -> Result<Option<RowFacts>, IndexError> {
        match self.entries.get(key(dir, name).as_slice()).map_err(store("get"))? {
            None => Ok(None),
            Some(row) => Row(row.value())
                .facts()
                .map(Some)
                .ok_or_else(|| IndexError::Row(RelPath::new(name).unwrap_or_default())),
        }
    }

    /// All names that the index has of the inode `ino` of the volume.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn names_of(&self, ino: u64) -> Result<Vec<RelPath>, IndexError> {
        let (from, to) = (name_key(ino, b""), name_key(ino.saturating_add(1), b""));
        let mut found = Vec::new();
        for row in self.names.range(from.as_slice()..to.as_slice()).map_err(store("scan"))? {
            let (key, _) = row.map_err(store("scan"))?;
            found.extend(self.path_at(&key.value()[8..])?);
        }
        Ok(found)
    }

    /// Inodes of the volume that have, or had, more than one name, once for each name that the index has.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn linked(&self) -> Result<impl Iterator<Item = Result<u64, IndexError>>, IndexError> {
        let rows = self.linked.range::<&[u8]>(..).map_err(store("scan"))?;
        Ok(rows.map(|row| {
            let (key, _) = row.map_err(store("scan"))?;
            Ok(u64_of(key.value()).unwrap_or_default())
        }))
    }

    /// Compares the tables that only repeat with the entries they repeat. For tests: a reader trusts them.
    ///
    /// # Errors
    /// [`IndexError::Store`]; [`IndexError::Row`] of a row that another table has otherwise, or that nothing has.
    pub fn audit(&self) -> Result<(), IndexError> {
        let wrong = |key: &[u8]| IndexError::Row(RelPath::new(&key[8..]).unwrap_or_default());
        let (mut names, mut linked, mut parents) = (0, 0, 0);
        for row in self.entries.range::<&[u8]>(..).map_err(store("scan"))? {
            let (key, value) = row.map_err(store("scan"))?;
            let facts = Row(value.value()).facts().ok_or_else(|| wrong(key.value()))?;
            let name = name_key(facts.ino, key.value());
            let is_named = self.names.get(name.as_slice()).map_err(store("get"))?.is_some();
            let is_linked = self.linked.get(name.as_slice()).map_err(store("get"))?.is_some();
            let is_dir = facts.kind == sys::FileKind::Dir;
            let parent = self.parents.get(facts.dir_id.0).map_err(store("get"))?;
            let has_parent = parent.is_some_and(|parent| parent.value() == key.value());
            if !is_named || is_linked != facts.linked || (is_dir && !has_parent) {
                return Err(wrong(key.value()));
            }
            names += 1;
            linked += u64::from(facts.linked);
            parents += u64::from(is_dir);
        }
        use redb::ReadableTableMetadata;
        let len = |result: Result<u64, redb::StorageError>| result.map_err(store("count"));
        let all = [len(self.names.len())?, len(self.linked.len())?, len(self.parents.len())?];
        if all == [names, linked, parents] { Ok(()) } else { Err(IndexError::Row(RelPath::root())) }
    }

    /// Path of the row at `key`; nothing for the root and for a key that leads nowhere.
    fn path_at(&self, key: &[u8]) -> Result<Option<RelPath>, IndexError> {
        let mut components = Vec::new();
        let mut at = key.to_vec();
        // A loop would be damage: no path is longer than this.
        for _ in 0..4096 {
            let Some(dir) = u64_of(&at) else { return Ok(None) };
            if dir == 0 {
                return Ok(None);
            }
            components.push(at[8..].to_vec());
            if DirId(dir) == ROOT {
                components.reverse();
                return Ok(RelPath::new(&components.join(&b'/')));
            }
            match self.parents.get(dir).map_err(store("get"))? {
                Some(key) => at = key.value().to_vec(),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The entry at `path`; of the root too.
    ///
    /// # Errors
    /// [`IndexError::Store`], [`IndexError::Row`].
    pub fn entry(&self, path: &RelPath) -> Result<Option<Entry>, IndexError> {
        let key = match path.split_last() {
            None => key(DirId(0), b"root"),
            Some((parent, name)) => match self.dir_id(&parent)? {
                Some(dir) => key(dir, name),
                None => return Ok(None),
            },
        };
        match self.entries.get(key.as_slice()).map_err(store("get"))? {
            None => Ok(None),
            Some(row) => Row(row.value()).entry().map(Some).ok_or_else(|| IndexError::Row(path.clone())),
        }
    }

    /// Calls `each` with path and row of everything below `path` (not itself), a directory before its content.
    ///
    /// # Errors
    /// [`IndexError::Store`], or what `each` returns.
    pub fn walk<E: From<IndexError>>(
        &self,
        path: &RelPath,
        mut each: impl FnMut(&RelPath, Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(start) = self.dir_id(path)? else { return Ok(()) };
        let mut stack = vec![(path.clone(), start)];
        while let Some((at, dir)) = stack.pop() {
            let mut deeper = Vec::new();
            self.scan::<E>(dir, |name, row| {
                let child = at.join(name);
                each(&child, row)?;
                if let Some(RowFacts { kind: sys::FileKind::Dir, dir_id, .. }) = row.facts() {
                    deeper.push((child, dir_id));
                }
                Ok(())
            })?;
            deeper.reverse();
            stack.append(&mut deeper);
        }
        Ok(())
    }

    /// All exceptions with their paths, sorted.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn exceptions(&self) -> Result<Vec<(RelPath, Exception)>, IndexError> {
        let mut found = Vec::new();
        for row in self.exceptions.range::<&[u8]>(..).map_err(store("scan"))? {
            let (path, value) = row.map_err(store("scan"))?;
            if let (Some(path), Ok(exception)) =
                (RelPath::new(path.value()), proto::codec::decode::<Exception>(value.value()))
            {
                found.push((path, exception));
            }
        }
        Ok(found)
    }

    /// The exception of one path.
    ///
    /// # Errors
    /// [`IndexError::Store`].
    pub fn exception(&self, path: &RelPath) -> Result<Option<Exception>, IndexError> {
        let row = self.exceptions.get(path.as_bytes()).map_err(store("get"))?;
        Ok(row.and_then(|bytes| proto::codec::decode(bytes.value()).ok()))
    }
}
