//! What a read of a group gives, over plain bytes (fanotify(7); linux/fanotify.h).
//!
//! ```text
//! event   len u32 · version u8 · reserved u8 · metadata_len u16 · mask u64 · fd i32 · pid i32 · records
//! record  type u8 · pad u8 · len u16 · for ids: fsid [u8; 8] · handle_bytes u32 · handle_type i32 · handle · name NUL
//! ```
//! All in the machine's byte order. Nothing is cast: what is read is not aligned for it.

use crate::handle::{HANDLE_MAX, Handle};

/// Size of the fixed part of an event.
pub(super) const METADATA_BYTES: usize = 24;
/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
const RECORD_HEAD: usize = 4;
/// Up to and with `handle_type`, in a record and in a key.
const ID_HEAD: usize = 20;
const KEY_HEAD: usize = ID_HEAD - RECORD_HEAD;

const FID: u8 = 1;
const DFID_NAME: u8 = 2;
const DFID: u8 = 3;
const PIDFD: u8 = 4;
const ERROR: u8 = 5;
const OLD_DFID_NAME: u8 = 10;
const NEW_DFID_NAME: u8 = 12;

/// What happened, a set of bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Mask {
    /// Content changed.
    pub const MODIFY: Mask = Mask(0x2);
    /// Metadata changed.
    pub const ATTRIB: Mask = Mask(0x4);
    /// A descriptor open for writing was closed.
    pub const CLOSE_WRITE: Mask = Mask(0x8);
    /// A name was left by a rename (without the new place: kernels before 5.17).
    pub const MOVED_FROM: Mask = Mask(0x40);
    /// A name was taken by a rename.
    pub const MOVED_TO: Mask = Mask(0x80);
    /// A name was made.
    pub const CREATE: Mask = Mask(0x100);
    /// A name was removed.
    pub const DELETE: Mask = Mask(0x200);
    /// The queue was full: events are lost.
    pub const OVERFLOW: Mask = Mask(0x4000);
    /// The file system found an error in itself.
    pub const FS_ERROR: Mask = Mask(0x8000);
    /// A rename, with both names.
    pub const RENAME: Mask = Mask(0x1000_0000);
    /// The thing is a directory.
    pub const ONDIR: Mask = Mask(0x4000_0000);

    /// Both sets.
    pub const fn with(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }

    /// True when any bit of `other` is set.
    pub const fn any(self, other: Mask) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A name in a directory. The name `.` is the directory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The directory, as the kernel wrote it: fsid, length, kind, handle. Hashed as it is; [`Place::dir`] makes a
    /// [`Handle`] of it.
    pub key: &'a [u8],
    /// The name.
    pub name: &'a [u8],
}

impl Place<'_> {
    /// The directory.
    pub fn dir(&self) -> Handle {
        handle(self.key)
    }
}

/// One event. Which of the parts are there depends on what happened; all may be stale by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// What happened.
    pub mask: Mask,
    /// Where it happened; of a rename the old place.
    pub at: Option<Place<'a>>,
    /// Where a rename went.
    pub to: Option<Place<'a>>,
    /// The inode it happened to: its handle as bytes, as in [`Place::key`].
    pub object: Option<&'a [u8]>,
    /// The mask or a record says something this parser does not know: treat as lost.
    pub unknown: bool,
}

/// The handle that `key` of an [`Event`] stands for.
pub fn handle(key: &[u8]) -> Handle {
    let mut fsid = [0; 8];
    let mut kind = [0; 4];
    if key.len() >= KEY_HEAD {
        fsid.copy_from_slice(&key[..8]);
        kind.copy_from_slice(&key[12..KEY_HEAD]);
    }
    Handle { fsid, kind: i32::from_ne_bytes(kind), bytes: key.get(KEY_HEAD..).unwrap_or_default().into() }
}

/// The key that stands for `handle`: what an [`Event`] of it would have.
pub fn key(handle: &Handle) -> Box<[u8]> {
    let len = (handle.bytes.len() as u32).to_ne_bytes();
    [&handle.fsid[..], &len, &handle.kind.to_ne_bytes(), &handle.bytes].concat().into()
}

impl Event<'_> {
    /// The inode it happened to.
    pub fn object(&self) -> Option<Handle> {
        self.object.map(handle)
    }
}

/// Bytes that are no events: what follows them cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the kernel sent is no event at byte {at}: {what}")]
pub struct Malformed {
    /// Where.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// The events in a buffer, in order. Ends at the end of the bytes, at an event of length 0 (the rest of a zeroed buffer),
/// or after an error.
pub struct Events<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Events<'a> {
    /// Over what one or more reads gave, end to end.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that were understood so far.
    pub fn position(&self) -> usize {
        self.at
    }

    fn fail(&mut self, what: &'static str) -> Option<Result<Event<'a>, Malformed>> {
        let at = self.at;
        self.bytes = &self.bytes[..at];
        Some(Err(Malformed { at, what }))
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() || rest.get(..4).is_some_and(|len| len == [0; 4]) {
            return None;
        }
        if rest.len() < METADATA_BYTES {
            return self.fail("cut short");
        }
        let len = u32_at(rest, 0) as usize;
        let metadata = u16_at(rest, 6) as usize;
        if len > rest.len() || metadata < METADATA_BYTES || metadata > len {
            return self.fail("impossible length");
        }
        if rest[4] != VERSION {
            return self.fail("unknown version");
        }
        let mask = Mask(u64_at(rest, 8));
        let mut event = Event { mask, at: None, to: None, object: None, unknown: false };
        let mut records = &rest[metadata..len];
        while !records.is_empty() {
            if records.len() < RECORD_HEAD {
                return self.fail("record cut short");
            }
            let size = u16_at(records, 2) as usize;
            if size < RECORD_HEAD || size > records.len() {
                return self.fail("impossible length of a record");
            }
            let (record, behind) = records.split_at(size);
            records = behind;
            match record[0] {
                FID | DFID | DFID_NAME | OLD_DFID_NAME | NEW_DFID_NAME => {
                    let Some(handle_len) = record.get(12..16).map(|b| u32_at(b, 0) as usize) else {
                        return self.fail("record of a handle cut short");
                    };
                    if handle_len > HANDLE_MAX || record.len() < ID_HEAD + handle_len {
                        return self.fail("impossible length of a handle");
                    }
                    take_id(&mut event, record, handle_len);
                }
                PIDFD | ERROR => {}
                _ => event.unknown = true,
            }
        }
        self.at += len;
        Some(Ok(event))
    }
}

fn take_id<'a>(event: &mut Event<'a>, record: &'a [u8], handle_len: usize) {
    let key = &record[RECORD_HEAD..ID_HEAD + handle_len];
    let name = || {
        let name = &record[ID_HEAD + handle_len..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        &name[..end]
    };
    match record[0] {
        FID => event.object = Some(key),
        DFID => event.at = Some(Place { key, name: b"." }),
        NEW_DFID_NAME => event.to = Some(Place { key, name: name() }),
        _ => event.at = Some(Place { key, name: name() }),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut bytes = ((METADATA_BYTES + records.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        bytes.extend((METADATA_BYTES as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1i32).to_ne_bytes());
        bytes.extend(7i32.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    fn id(kind: u8, handle: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        let mut body = b"fsid-8-b".to_vec();
        body.extend((handle.len() as u32).to_ne_bytes());
        body.extend(0x81i32.to_ne_bytes());
        body.extend(handle);
        if let Some(name) = name {
            body.extend(name);
            body.push(0);
        }
        body.resize(body.len().next_multiple_of(4), 0);
        let mut record = vec![kind, 0];
        record.extend(((RECORD_HEAD + body.len()) as u16).to_ne_bytes());
        record.extend(body);
        record
    }

    #[test]
    fn a_rename_has_both_places_and_the_object() {
        let records = [
            id(OLD_DFID_NAME, b"dir1", Some(b"a\xff")),
            id(NEW_DFID_NAME, b"dir2-long", Some(b"b")),
            id(FID, b"obj!", None),
        ];
        let bytes = [event(Mask::RENAME.0, &records), event(Mask::OVERFLOW.0, &[])].concat();
        let mut events = Events::new(&bytes);
        let rename = events.next().unwrap().unwrap();
        assert_eq!(rename.at.unwrap().name, b"a\xff");
        assert_eq!(&*rename.at.unwrap().dir().bytes, b"dir1");
        assert_eq!(rename.to.unwrap().name, b"b");
        let to = rename.to.unwrap().dir();
        assert_eq!((&to.fsid, to.kind, &*to.bytes), (b"fsid-8-b", 0x81, &b"dir2-long"[..]));
        // The length of a handle is not rounded up, only the record is.
        assert_eq!(&*rename.object().unwrap().bytes, b"obj!");
        assert_eq!(&*key(&to), rename.to.unwrap().key);
        assert!(!rename.unknown);
        let overflow = events.next().unwrap().unwrap();
        assert!(overflow.mask.any(Mask::OVERFLOW) && overflow.at.is_none());
        assert_eq!(events.next(), None);
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_never_an_event() {
        let bytes = event(Mask::CREATE.0, &[id(DFID_NAME, b"dir1", Some(b"name")), id(FID, b"obj!", None)]);
        for cut in 1..bytes.len() {
            let mut events = Events::new(&bytes[..cut]);
            assert!(events.next().is_some_and(|event| event.is_err()), "{cut}");
            assert_eq!(events.position(), 0);
            assert_eq!(events.next(), None, "it goes on after an error");
        }
    }

    #[test]
    fn a_zeroed_rest_ends_it_and_unknown_records_are_told() {
        let mut bytes = event(Mask::MODIFY.0, &[vec![99, 0, 4, 0]]);
        let len = bytes.len();
        bytes.extend([0; 64]);
        let mut events = Events::new(&bytes);
        assert!(events.next().unwrap().unwrap().unknown);
        assert_eq!(events.next(), None);
        assert_eq!(events.position(), len);
    }
}
