//! Words and formats: what is written to the ledger and the journal, and the types that make it up. No I/O.
//!
//! In reading order: [`path`], [`ids`] and [`lane`] name things, [`entry`] is the full record of one path, [`log`] the
//! redo log of a generation, [`head`] the small files of the ledger, [`names`] how they are spelled,
//! [`frame`] and [`codec`] how they become bytes. `docs/formats/ledger.md` tables every byte. [`journal`] is the
//! local record of what changed in a volume, in the same frames: `docs/formats/journal.md`.

#![forbid(unsafe_code)]

pub mod codec;
pub mod entry;
pub mod frame;
pub mod head;
pub mod ids;
pub mod journal;
pub mod lane;
pub mod log;
pub mod names;
pub mod path;

pub use entry::{Body, Entry, FileBody, Origin, Time};
pub use frame::{FrameError, FrameKind};
pub use head::{EpochRecord, Head, LaneRecord};
pub use ids::{Cut, Epoch, Generation, LaneId, NodeId, StagedName};
pub use journal::{Handle, Hint, JournalRecord, Note, Seq};
pub use lane::{LaneName, LaneNameError, LanePart};
pub use log::{DirWork, Exception, ExceptionClass, Leaves, LogHeader, LogTrailer, Op, Source, Totals};
pub use path::RelPath;
