//! The change journal of one lane: on the local disk, written by a thread of its own, read at the next start.
//!
//! The journal is a hint and the volume is the truth: no fault of it can lose data, as long as each fault is known.
//! So everything that goes wrong here ends as a gap, in the journal or in the [`Lost`] of whoever appended.
//!
//! In reading order: [`appender`] is what producers hold, [`open`] reads what an earlier run left and starts the writer,
//! `writer` is its loop, `replay` what a restart learns, `store` the directory, `io` and `ring` the two ways to
//! write; [`reader`] and [`told`] are for people. `docs/formats/journal.md` tables every byte.

pub mod appender;
mod io;
pub mod open;
pub mod reader;
mod replay;
mod ring;
mod store;
#[cfg(test)]
mod tests;
pub mod told;
mod writer;

pub use appender::{AppendError, Appender, Lost, Numbers, Reached, Ticket, Want};
pub use io::Calls;
pub use open::{CloseError, Health, Journal, JournalError, Limits, Opening, Past, Progress};
pub use reader::{Read, Reader, ReaderError};
pub use replay::{Boot, Published, Replay, Stop, Writing};
