//! Pure: which entries of a generation are names of one inode.

use proto::{Body, Entry, Time};

/// Entries with equal keys are one inode.
///
/// The content is part of it: a generation made while links were broken may say of one name what was true
/// before, and of another what was true after; linking them would give one of them the wrong content.
pub type LinkKey = (u64, Option<Time>, [u8; 32]);

/// The key of an entry whose inode had more than one name.
pub fn link_key(entry: &Entry) -> Option<LinkKey> {
    let content = match &entry.body {
        Body::Dir => return None,
        Body::File(file) => file.hash,
        Body::Symlink(text) => *blake3::hash(text).as_bytes(),
        Body::Fifo => [0; 32],
    };
    entry.linked.then_some((entry.origin.ino, entry.origin.btime, content))
}
