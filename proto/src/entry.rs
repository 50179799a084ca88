//! The full record of one path: what the mirror holds there, and what the volume looked like when it was read.

use crate::codec::{Decode, Encode};

/// Seconds since 1970 (negative before), and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

/// Everything known of one path of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Type and content.
    pub body: Body,
    /// Permission bits with setuid, setgid, sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Carried extended attributes, sorted by name; also what the mirror's mount could not keep.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// True when the inode had more than one name (never for directories): entries with equal `origin.ino` and
    /// `origin.btime` are links of each other.
    pub linked: bool,
    /// What the volume said when this was read.
    pub origin: Origin,
}

/// Type and content of an entry. Variant numbers are part of the format: append only.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Body {
    /// Directory.
    Dir,
    /// Regular file.
    File(FileBody),
    /// Symbolic link and its text, never followed.
    Symlink(Vec<u8>),
    /// Named pipe.
    Fifo,
}

/// Content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FileBody {
    /// Logical size in bytes.
    pub size: u64,
    /// BLAKE3 of the content, holes read as zeros.
    pub hash: [u8; 32],
    /// BLAKE3 chaining value of each 1 MiB block, for files larger than one block; empty otherwise.
    pub blocks: Vec<[u8; 32]>,
}

/// What the volume said of the inode: how a later look knows that nothing changed, without reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// Inode number in the volume.
    pub ino: u64,
    /// Birth time of the inode, where the volume's file system keeps one.
    pub btime: Option<Time>,
    /// Change time.
    pub ctime: Time,
    /// True when the change time was so recent that a later change might not have moved it: compare content.
    pub racy: bool,
}

impl Entry {
    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.body == Body::Dir
    }

    /// Logical size; 0 for all but regular files.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(file) => file.size,
            _ => 0,
        }
    }

    /// True when `self` and `other` describe the same thing in the mirror, whatever the volume's inode was.
    pub fn same_in_mirror(&self, other: &Entry) -> bool {
        let same_body = match (&self.body, &other.body) {
            (Body::File(a), Body::File(b)) => a.size == b.size && a.hash == b.hash,
            (a, b) => a == b,
        };
        same_body
            && self.mode == other.mode
            && self.uid == other.uid
            && self.gid == other.gid
            && self.mtime == other.mtime
            && self.xattrs == other.xattrs
    }

    /// Word for the type, as people see it.
    pub fn type_word(&self) -> &'static str {
        match self.body {
            Body::Dir => "directory",
            Body::File(_) => "file",
            Body::Symlink(_) => "symlink",
            Body::Fifo => "fifo",
        }
    }
}
