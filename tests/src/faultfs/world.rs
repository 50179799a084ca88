//! The state of the server: the disk, the faults, and what the kernel holds on to.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::Errno;

use super::durability::Disk;
use super::faults::Faults;
use super::image::{Image, Ino, Name, ROOT, Time};
use super::protocol::{Status, Survive};

/// An open file or directory.
#[derive(Debug)]
pub struct Handle {
    /// What is open.
    pub ino: Ino,
    /// The directory's children as they were when reading began, so that offsets stay valid.
    pub listing: Vec<(Name, Ino)>,
}

/// Everything behind the server's lock.
#[derive(Debug)]
pub struct World {
    /// The tree and what of it is safe.
    pub disk: Disk,
    /// The faults.
    pub faults: Faults,
    /// Every request fails until the next boot.
    pub dead: bool,
    /// Counts lives; the inode generation, so that the kernel drops what it knew before.
    pub boot: u64,
    /// ACLs are kept.
    pub acl: bool,
    /// Requests held back.
    pub stalled: u32,
    /// Counts releases.
    pub releases: u64,
    next_ino: Ino,
    next_handle: u64,
    handles: HashMap<u64, Handle>,
    /// References the kernel holds; spans boots, as its forgets do.
    lookups: HashMap<Ino, u64>,
    /// Where each object was last seen, for paths in the trace.
    places: HashMap<Ino, (Ino, Name)>,
    snapshots: HashMap<String, Image>,
}

impl World {
    /// An empty filesystem.
    pub fn new(acl: bool) -> World {
        World {
            disk: Disk::new(Image::empty(now())),
            faults: Faults::default(),
            dead: false,
            boot: 1,
            acl,
            stalled: 0,
            releases: 0,
            next_ino: ROOT + 1,
            next_handle: 1,
            handles: HashMap::new(),
            lookups: HashMap::new(),
            places: HashMap::new(),
            snapshots: HashMap::new(),
        }
    }

    /// Refuses every request of a dead filesystem.
    pub fn alive(&self) -> Result<(), Errno> {
        if self.dead { Err(Errno::ENOTCONN) } else { Ok(()) }
    }

    /// Starts over with what the crash left.
    pub fn reboot(&mut self, survive: Survive) {
        self.start_with(self.disk.after_crash(survive));
    }

    /// Starts over with nothing.
    pub fn reset(&mut self) {
        self.start_with(Image::empty(now()));
    }

    /// Keeps the tree under a name.
    pub fn snapshot(&mut self, name: String) {
        let mut image = self.disk.live().clone();
        image.forget_orphans();
        self.snapshots.insert(name, image);
    }

    /// Starts over with a kept tree; false when there is none of that name.
    pub fn restore(&mut self, name: &str) -> bool {
        let image = self.snapshots.get(name).cloned();
        image.map(|image| self.start_with(image)).is_some()
    }

    fn start_with(&mut self, image: Image) {
        self.disk = Disk::new(image);
        self.faults = Faults::default();
        self.handles.clear();
        self.places.clear();
        self.dead = false;
        // Inode numbers are never reused, not even across boots: GlusterFS derives them from random ids.
        self.boot += 1;
    }

    /// How things are.
    pub fn status(&self) -> Status {
        Status {
            dead: self.dead,
            mutations: self.faults.trace().len() as u64,
            stalled: self.stalled,
            struck: self.faults.struck,
            stored: self.disk.stored(),
        }
    }

    /// A number for a new object.
    pub fn fresh_ino(&mut self) -> Ino {
        self.next_ino += 1;
        self.next_ino - 1
    }

    /// Opens an object.
    pub fn open_handle(&mut self, ino: Ino) -> u64 {
        let number = self.next_handle;
        self.next_handle += 1;
        let listing = Vec::new();
        self.handles.insert(number, Handle { ino, listing });
        number
    }

    /// The open object, unless a boot came between.
    pub fn handle(&mut self, number: u64) -> Result<&mut Handle, Errno> {
        self.handles.get_mut(&number).ok_or(Errno::ESTALE)
    }

    /// Closes an object.
    pub fn close_handle(&mut self, number: u64) {
        self.handles.remove(&number);
    }

    /// Notes that the kernel was told of `ino` under this name.
    pub fn told(&mut self, parent: Ino, name: &[u8], ino: Ino) {
        *self.lookups.entry(ino).or_default() += 1;
        self.place(parent, name, ino);
    }

    /// Notes where an object is.
    pub fn place(&mut self, parent: Ino, name: &[u8], ino: Ino) {
        let known = self.places.get(&ino);
        if !known.is_some_and(|(dir, base)| *dir == parent && base.as_ref() == name) {
            self.places.insert(ino, (parent, name.into()));
        }
    }

    /// Takes back references of the kernel; an object without name and reference is gone.
    pub fn forgotten(&mut self, ino: Ino, count: u64) {
        let Some(held) = self.lookups.get_mut(&ino) else {
            return;
        };
        *held = held.saturating_sub(count);
        if *held == 0 {
            self.lookups.remove(&ino);
            self.drop_if_unused(ino);
        }
    }

    /// Drops an object that has neither name nor reference.
    pub fn drop_if_unused(&mut self, ino: Ino) {
        let unnamed = self.disk.live().get(ino).is_some_and(|i| i.attr.nlink == 0);
        if unnamed && !self.lookups.contains_key(&ino) {
            self.disk.forget(ino);
            self.places.remove(&ino);
        }
    }

    /// The path of an object, as far as it is known.
    pub fn path(&self, ino: Ino) -> String {
        let mut parts = Vec::new();
        let mut at = ino;
        while let Some((parent, name)) = self.places.get(&at) {
            parts.push(String::from_utf8_lossy(name));
            at = *parent;
            if parts.len() > 256 {
                break;
            }
        }
        parts.reverse();
        parts.join("/")
    }

    /// The path of a name in a directory.
    pub fn path_in(&self, parent: Ino, name: &[u8]) -> String {
        let name = String::from_utf8_lossy(name);
        match self.path(parent) {
            dir if dir.is_empty() => name.into_owned(),
            dir => format!("{dir}/{name}"),
        }
    }
}

/// The time of day.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
