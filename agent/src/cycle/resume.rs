//! Going on where a killed run stopped: what it had staged and recorded is used if the volume still agrees.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use proto::{Entry, Op, RelPath, StagedName, names};

use super::spool;
use super::stage::{Dest, Item};
use crate::error::{Result, on_mirror};
use crate::index::time;
use crate::ledger::Tenure;

/// What an earlier run left in the stage.
#[derive(Default)]
pub struct Resume {
    roots: HashMap<RelPath, StagedName>,
    files: HashMap<RelPath, (Option<StagedName>, Entry)>,
}

impl Resume {
    /// Reads the spool of an earlier run, if it left one, and empties the stage of everything else.
    ///
    /// # Errors
    /// [`crate::Error::Mirror`] when the stage cannot be listed or emptied.
    pub fn load(spool: Option<&Path>, tenure: &Tenure) -> Result<Self> {
        let act = || "clean the stage of an earlier run".to_owned();
        let listed = tenure.stage.names().map_err(on_mirror(act))?;
        let mut resume = Self::default();
        if let Some(path) = spool
            && !listed.is_empty()
        {
            let present: HashSet<StagedName> = listed.iter().filter_map(|n| StagedName::parse(n)).collect();
            resume.read(path, &present)?;
        }
        let keep: HashSet<Vec<u8>> = resume.roots.values().map(|name| names::staged(*name)).collect();
        for name in listed.iter().filter(|name| !keep.contains(*name)) {
            tenure.stage.remove_tree(name).map_err(on_mirror(act))?;
        }
        Ok(resume)
    }

    fn read(&mut self, path: &Path, present: &HashSet<StagedName>) -> Result<()> {
        spool::read(path, |op| {
            match op {
                Op::Install { path, staged, entry, .. } if present.contains(&staged) => {
                    self.roots.insert(path.clone(), staged);
                    if !entry.is_dir() {
                        self.files.insert(path, (Some(staged), entry));
                    }
                }
                Op::Below { path, entry } if !entry.is_dir() => {
                    self.files.insert(path, (None, entry));
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    /// True when there is anything to go on from: names in the stage may then exist already.
    pub fn is_active(&self) -> bool {
        !self.roots.is_empty()
    }

    /// The staged name an earlier run gave `path`.
    pub fn root(&self, path: &RelPath) -> Option<StagedName> {
        self.roots.get(path).copied()
    }

    /// The entry of a file that was staged and recorded, if the inode is what it was.
    pub fn file(&self, item: &Item) -> Option<Entry> {
        let (staged, entry) = self.files.get(&item.path)?;
        let in_place = match (&item.dest, staged) {
            (Dest::Flat(name), Some(staged)) => name == staged,
            (Dest::Tree(_), None) => true,
            _ => false,
        };
        let origin = &entry.origin;
        let same = origin.ino == item.stat.ino
            && origin.btime == item.stat.btime.map(time)
            && origin.ctime == time(item.stat.ctime)
            && entry.size() == item.stat.size
            && !origin.racy;
        (in_place && same).then(|| entry.clone())
    }
}
