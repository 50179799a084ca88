//! Which names are one inode, here and in the generation. No I/O.

use std::collections::HashMap;

use proto::{Entry, RelPath};
use sys::Stat;

use crate::recover::{LinkKey, link_key};

/// Collects names and says what does not fit.
#[derive(Default)]
pub struct Links {
    /// Of each inode of the generation: its first name and the inode that has it here.
    groups: HashMap<LinkKey, (RelPath, u64)>,
    /// Of each inode here with several names: a name and what it is in the generation.
    inodes: HashMap<u64, (RelPath, Option<LinkKey>)>,
}

impl Links {
    /// Takes in a name; says what is wrong with it.
    pub fn add(&mut self, path: &RelPath, entry: &Entry, stat: &Stat) -> Option<String> {
        let key = link_key(entry);
        if let Some(key) = key {
            let (first, ino) = self.groups.entry(key).or_insert_with(|| (path.clone(), stat.ino));
            if *ino != stat.ino {
                return Some(format!("is not the same file as {first}"));
            }
        }
        if stat.nlink > 1 {
            let (other, its) = self.inodes.entry(stat.ino).or_insert_with(|| (path.clone(), key));
            if other != path && (*its != key || key.is_none()) {
                return Some(format!("is the same file as {other}, and should not be"));
            }
        }
        None
    }
}
