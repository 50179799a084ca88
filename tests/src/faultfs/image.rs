//! The namespace and attributes of the simulated filesystem, and every change of them as a value.
//!
//! The same [`Image::apply`] serves the live tree and the replay after a crash, so the two cannot drift apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::content::Content;

/// Inode number, also the node id the kernel knows.
pub type Ino = u64;
/// One path component; bytes, not text.
pub type Name = Arc<[u8]>;

/// The root directory.
pub const ROOT: Ino = 1;

/// Seconds and nanoseconds since the epoch, nanoseconds counting forward also before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// 0..1_000_000_000.
    pub nanos: u32,
}

/// What `stat` shows, apart from what follows from the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// File type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; 0 for a file that is open but unlinked.
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Last access; only ever set explicitly, as on a `noatime` mount.
    pub atime: Time,
    /// Last change of data.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

/// What kind of object an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Regular file.
    File(Content),
    /// Directory with its parent (itself, for the root).
    Dir {
        /// Where `..` leads.
        parent: Ino,
        /// Children by name.
        entries: BTreeMap<Name, Ino>,
    },
    /// Symbolic link with its target.
    Symlink(Arc<[u8]>),
    /// FIFO, socket or device node.
    Special,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Attributes.
    pub attr: Attr,
    /// Kind and contents.
    pub body: Body,
    /// Extended attributes, ACLs included.
    pub xattrs: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
}

impl Inode {
    /// The directory's children.
    pub fn entries(&self) -> Option<&BTreeMap<Name, Ino>> {
        match &self.body {
            Body::Dir { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// The regular file's bytes.
    pub fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir { .. })
    }
}

/// New values for some attributes.
#[derive(Clone, Debug, Default)]
pub struct AttrChange {
    /// Permission bits, without the file type.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Option<Time>,
}

/// One change of namespace or attributes: what a brick's filesystem would journal.
#[derive(Clone, Debug)]
pub enum MetaOp {
    /// A new object under a new name.
    Create {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
        /// Number of the new object.
        ino: Ino,
        /// The object as born.
        node: Arc<Inode>,
    },
    /// One more name for an object.
    Link {
        /// Object.
        ino: Ino,
        /// Directory of the new name.
        parent: Ino,
        /// The new name.
        name: Name,
    },
    /// A name less.
    Remove {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Name,
    },
    /// A name moved, replacing what was there.
    Rename {
        /// Old directory and name.
        from: (Ino, Name),
        /// New directory and name.
        to: (Ino, Name),
    },
    /// Attributes set.
    Attr {
        /// Object.
        ino: Ino,
        /// What to set.
        change: AttrChange,
    },
    /// An extended attribute set, or removed when `value` is `None`.
    Xattr {
        /// Object.
        ino: Ino,
        /// Attribute name.
        name: Arc<[u8]>,
        /// New value.
        value: Option<Arc<[u8]>>,
    },
}

/// A whole filesystem tree; cloning shares all inodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    inodes: HashMap<Ino, Arc<Inode>>,
}

impl Image {
    /// A tree with an empty root.
    pub fn empty(now: Time) -> Image {
        let root = Inode {
            attr: Attr {
                mode: libc::S_IFDIR | 0o755,
                uid: 0,
                gid: 0,
                nlink: 2,
                rdev: 0,
                atime: now,
                mtime: now,
                ctime: now,
            },
            body: Body::Dir { parent: ROOT, entries: BTreeMap::new() },
            xattrs: BTreeMap::new(),
        };
        Image { inodes: HashMap::from([(ROOT, Arc::new(root))]) }
    }

    /// The object with this number.
    pub fn get(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(&ino).map(Arc::as_ref)
    }

    /// What `name` in `parent` leads to.
    pub fn child(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        self.get(parent)?.entries()?.get(name).copied()
    }

    /// Replaces the bytes of a regular file.
    pub fn content_mut(&mut self, ino: Ino) -> Option<&mut Content> {
        match &mut self.get_mut(ino)?.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    /// Forgets an object that has no name left.
    pub fn forget(&mut self, ino: Ino) -> Option<Arc<Inode>> {
        self.inodes.remove(&ino)
    }

    /// Forgets all objects that only open descriptors kept alive, as a reboot does.
    pub fn forget_orphans(&mut self) {
        self.inodes.retain(|_, inode| inode.attr.nlink > 0);
    }

    /// Bytes held by all regular files.
    pub fn stored(&self) -> u64 {
        let contents = self.inodes.values().filter_map(|inode| inode.content());
        contents.map(Content::stored).sum()
    }

    /// Performs one change and returns the object that lost its last name, if one did.
    ///
    /// An object that is missing is passed over: it was created and removed again before the replay began.
    pub fn apply(&mut self, op: &MetaOp, now: Time) -> Option<Ino> {
        match op {
            MetaOp::Create { parent, name, ino, node } => {
                self.inodes.insert(*ino, node.clone());
                self.add_name(*parent, name, *ino, now);
                None
            }
            MetaOp::Link { ino, parent, name } => {
                let inode = self.get_mut(*ino)?;
                inode.attr.nlink += 1;
                inode.attr.ctime = now;
                self.add_name(*parent, name, *ino, now);
                None
            }
            MetaOp::Remove { parent, name } => {
                let ino = self.take_name(*parent, name, now)?;
                self.drop_link(ino, now)
            }
            MetaOp::Rename { from, to } => {
                let ino = self.take_name(from.0, &from.1, now)?;
                let replaced = self.take_name(to.0, &to.1, now);
                let orphan = replaced.and_then(|old| self.drop_link(old, now));
                self.add_name(to.0, &to.1, ino, now);
                let inode = self.get_mut(ino)?;
                inode.attr.ctime = now;
                if let Body::Dir { parent, .. } = &mut inode.body {
                    *parent = to.0;
                }
                orphan
            }
            MetaOp::Attr { ino, change } => {
                let attr = &mut self.get_mut(*ino)?.attr;
                if let Some(perm) = change.perm {
                    attr.mode = (attr.mode & libc::S_IFMT) | (perm & 0o7777);
                }
                attr.uid = change.uid.unwrap_or(attr.uid);
                attr.gid = change.gid.unwrap_or(attr.gid);
                attr.atime = change.atime.unwrap_or(attr.atime);
                attr.mtime = change.mtime.unwrap_or(attr.mtime);
                attr.ctime = now;
                None
            }
            MetaOp::Xattr { ino, name, value } => {
                let inode = self.get_mut(*ino)?;
                match value {
                    Some(value) => inode.xattrs.insert(name.clone(), value.clone()),
                    None => inode.xattrs.remove(name),
                };
                inode.attr.ctime = now;
                None
            }
        }
    }

    fn get_mut(&mut self, ino: Ino) -> Option<&mut Inode> {
        self.inodes.get_mut(&ino).map(Arc::make_mut)
    }

    fn add_name(&mut self, parent: Ino, name: &Name, ino: Ino, now: Time) {
        let is_dir = self.get(ino).is_some_and(Inode::is_dir);
        self.change_dir(parent, is_dir.into(), now, |entries| entries.insert(name.clone(), ino));
    }

    fn take_name(&mut self, parent: Ino, name: &[u8], now: Time) -> Option<Ino> {
        let ino = self.child(parent, name)?;
        let is_dir = self.get(ino).is_some_and(Inode::is_dir);
        self.change_dir(parent, -i32::from(is_dir), now, |entries| entries.remove(name));
        Some(ino)
    }

    /// Edits a directory's names; each child directory is a link to its parent.
    fn change_dir(
        &mut self,
        dir: Ino,
        links: i32,
        now: Time,
        edit: impl FnOnce(&mut BTreeMap<Name, Ino>) -> Option<Ino>,
    ) {
        let Some(inode) = self.get_mut(dir) else {
            return;
        };
        if let Body::Dir { entries, .. } = &mut inode.body {
            edit(entries);
            inode.attr.nlink = inode.attr.nlink.saturating_add_signed(links);
            inode.attr.mtime = now;
            inode.attr.ctime = now;
        }
    }

    fn drop_link(&mut self, ino: Ino, now: Time) -> Option<Ino> {
        let inode = self.get_mut(ino)?;
        inode.attr.ctime = now;
        inode.attr.nlink = if inode.is_dir() { 0 } else { inode.attr.nlink - 1 };
        (inode.attr.nlink == 0).then_some(ino)
    }
}
