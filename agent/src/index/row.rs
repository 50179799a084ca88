//! One row: fixed facts for the quick comparison of a walk, then the whole entry.
//!
//! ```text
//! kind u8 | flags u8 | mode u16 | uid u32 | gid u32 | dir_id u64 | ino u64 | size u64
//! | mtime i64 u32 | ctime i64 u32 | btime i64 u32 | entry (bincode)
//! ```
//! Little-endian. The file is derived data of this host; its version is in [`super::store`].

use proto::{Body, Entry, Time};
use sys::{FileKind, Stat};

/// Number of a directory in the index; a renamed directory keeps it, so a rename changes one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirId(pub u64);

/// The root of the mirror.
pub const ROOT: DirId = DirId(1);

const FACTS_BYTES: usize = 1 + 1 + 2 + 4 + 4 + 8 + 8 + 8 + 12 * 3;
const RACY: u8 = 1;
const LINKED: u8 = 2;
const HAS_BTIME: u8 = 4;

/// A row, borrowed from the store.
#[derive(Clone, Copy)]
pub struct Row<'a>(pub &'a [u8]);

/// The fixed part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFacts {
    /// Type.
    pub kind: FileKind,
    /// Compare content even if the facts agree.
    pub racy: bool,
    /// The inode has more names.
    pub linked: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a directory: its number.
    pub dir_id: DirId,
    /// Inode number in the volume.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Birth time.
    pub btime: Option<Time>,
}

/// How a name in the volume compares with its row, without reading content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quick {
    /// Nothing changed.
    Same,
    /// Same size and modification time, but the change time or the inode is another: metadata, links, a copy
    /// put in place, or a forged time. Only the content can tell.
    Touched,
    /// Another size or another modification time.
    Changed,
    /// Another type.
    OtherType,
}

impl RowFacts {
    /// Compares with what the volume says now.
    pub fn compare(&self, stat: &Stat) -> Quick {
        if self.kind != stat.kind {
            return Quick::OtherType;
        }
        let same_inode = self.ino == stat.ino && (self.btime == stat.btime.map(time));
        if stat.kind == FileKind::Dir {
            // The size of a directory means nothing, and another inode under the same name is merged into it.
            let same = same_inode && self.ctime == time(stat.ctime) && self.mtime == time(stat.mtime);
            return if same && !self.racy { Quick::Same } else { Quick::Touched };
        }
        // Another inode: a link of the mirror would stay a link, so only a file that never was one may be the same.
        if self.mtime != time(stat.mtime) || (!same_inode && self.linked) {
            return Quick::Changed;
        }
        if stat.kind == FileKind::File && self.size != stat.size {
            return Quick::Changed;
        }
        if !same_inode || self.ctime != time(stat.ctime) || self.racy {
            return Quick::Touched;
        }
        Quick::Same
    }

    /// True when the row and the stat are one inode of the volume.
    pub fn is_inode(&self, stat: &Stat) -> bool {
        self.kind == stat.kind && self.ino == stat.ino && self.btime == stat.btime.map(time)
    }
}

/// The facts a row of this entry would have, but for its number.
pub fn facts_of(entry: &Entry) -> RowFacts {
    let kind = match &entry.body {
        Body::Dir => FileKind::Dir,
        Body::File(_) => FileKind::File,
        Body::Symlink(_) => FileKind::Symlink,
        Body::Fifo => FileKind::Fifo,
    };
    RowFacts {
        kind,
        racy: entry.origin.racy,
        linked: entry.linked,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        dir_id: DirId(0),
        ino: entry.origin.ino,
        size: entry.size(),
        mtime: entry.mtime,
        ctime: entry.origin.ctime,
        btime: entry.origin.btime,
    }
}

/// The one conversion between the kernel's times and the format's.
pub fn time(t: sys::Time) -> Time {
    Time { sec: t.sec, nsec: t.nsec }
}

impl<'a> Row<'a> {
    /// The fixed part.
    pub fn facts(self) -> Option<RowFacts> {
        let b = self.0.get(..FACTS_BYTES)?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
        let time_at = |at: usize| Time { sec: u64_at(at) as i64, nsec: u32_at(at + 8) };
        let kind = match b[0] {
            0 => FileKind::Dir,
            1 => FileKind::File,
            2 => FileKind::Symlink,
            3 => FileKind::Fifo,
            _ => return None,
        };
        Some(RowFacts {
            kind,
            racy: b[1] & RACY != 0,
            linked: b[1] & LINKED != 0,
            mode: u32::from(u16::from_le_bytes([b[2], b[3]])),
            uid: u32_at(4),
            gid: u32_at(8),
            dir_id: DirId(u64_at(12)),
            ino: u64_at(20),
            size: u64_at(28),
            mtime: time_at(36),
            ctime: time_at(48),
            btime: (b[1] & HAS_BTIME != 0).then(|| time_at(60)),
        })
    }

    /// The whole entry.
    pub fn entry(self) -> Option<Entry> {
        proto::codec::decode(self.0.get(FACTS_BYTES..)?).ok()
    }
}

/// Encodes a row.
pub fn encode(entry: &Entry, dir_id: DirId) -> Result<Vec<u8>, proto::codec::CodecError> {
    let kind = match &entry.body {
        Body::Dir => 0,
        Body::File(_) => 1,
        Body::Symlink(_) => 2,
        Body::Fifo => 3,
    };
    let origin = &entry.origin;
    let flags = (if origin.racy { RACY } else { 0 })
        | (if entry.linked { LINKED } else { 0 })
        | (if origin.btime.is_some() { HAS_BTIME } else { 0 });
    let mut out = Vec::with_capacity(FACTS_BYTES + 128);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&(entry.mode as u16).to_le_bytes());
    out.extend_from_slice(&entry.uid.to_le_bytes());
    out.extend_from_slice(&entry.gid.to_le_bytes());
    out.extend_from_slice(&dir_id.0.to_le_bytes());
    out.extend_from_slice(&origin.ino.to_le_bytes());
    out.extend_from_slice(&entry.size().to_le_bytes());
    for t in [entry.mtime, origin.ctime, origin.btime.unwrap_or_default()] {
        out.extend_from_slice(&t.sec.to_le_bytes());
        out.extend_from_slice(&t.nsec.to_le_bytes());
    }
    out.extend_from_slice(&proto::codec::encode(entry)?);
    Ok(out)
}
