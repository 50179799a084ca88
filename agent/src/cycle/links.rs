//! Hard links: one name of an inode is copied, the others are linked to it in the stage.

use std::collections::{HashMap, HashSet};

use proto::{Entry, RelPath};

use super::look::InodeKey;
use super::stage::Item;

/// Where the content of a group lies, to be linked from.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the mirror, at its path before this generation.
    Mirror(RelPath),
    /// Below the stage: the staged name and what follows.
    Stage(Vec<Box<[u8]>>),
}

/// The names of one inode, as far as they were met.
#[derive(Default)]
pub struct Group {
    leader: Leader,
    /// Names that wait for the leader.
    waiting: Vec<Item>,
    /// All that were met.
    names: HashSet<RelPath>,
}

#[derive(Default)]
enum Leader {
    /// Nobody yet.
    #[default]
    None,
    /// Being copied or compared.
    Pending,
    /// There.
    Ready(Box<(Place, Entry)>),
}

/// What to do with a name of a group.
pub enum Role {
    /// Copy it: it leads.
    Lead(Box<Item>),
    /// Link it to what is there.
    Link(Box<Item>, Place, Box<Entry>),
    /// Wait for the leader; comes back from [`Groups::ready`] or [`Groups::failed`].
    Wait,
}

/// All groups of a cycle.
#[derive(Default)]
pub struct Groups(HashMap<InodeKey, Group>);

impl Groups {
    /// A name that has to be in the mirror.
    pub fn join(&mut self, key: InodeKey, item: Item) -> Role {
        let group = self.0.entry(key).or_default();
        group.names.insert(item.path.clone());
        match &group.leader {
            Leader::None => {
                group.leader = Leader::Pending;
                Role::Lead(Box::new(item))
            }
            Leader::Pending => {
                group.waiting.push(item);
                Role::Wait
            }
            Leader::Ready(ready) => Role::Link(Box::new(item), ready.0.clone(), Box::new(ready.1.clone())),
        }
    }

    /// Whether `path` was met as a name of the inode.
    pub fn has(&self, key: InodeKey, path: &RelPath) -> bool {
        self.0.get(&key).is_some_and(|group| group.names.contains(path))
    }

    /// Says that a leader is on its way (it is compared with the mirror first).
    pub fn pending(&mut self, key: InodeKey) {
        self.0.entry(key).or_default().leader = Leader::Pending;
    }

    /// The leader is there: returns the names that waited.
    pub fn ready(&mut self, key: InodeKey, place: Place, entry: &Entry) -> Vec<Item> {
        let group = self.0.entry(key).or_default();
        group.leader = Leader::Ready(Box::new((place, entry.clone())));
        std::mem::take(&mut group.waiting)
    }

    /// The leader could not be copied: the next name leads, if there is one.
    pub fn failed(&mut self, key: InodeKey) -> Option<Item> {
        let group = self.0.entry(key).or_default();
        let next = group.waiting.pop();
        group.leader = if next.is_some() { Leader::Pending } else { Leader::None };
        next
    }
}
