//! The change journal of one lane: segments of frames that say where to look again, and what was done about it.
//!
//! In reading order: [`record`] is what is noted, [`segment`] the file it is noted in and its name, [`scan`] turns
//! the bytes of a segment back into records and a verdict. `docs/formats/journal.md` tables every byte.

pub mod record;
pub mod scan;
pub mod segment;

pub use record::{
    BadNote, DirHandle, GapCause, Handle, Hint, JournalRecord, Listed, Note, OpenFile, Seq, put_record,
};
pub use scan::{Scan, Verdict};
pub use segment::{BootId, SegmentHeader};
