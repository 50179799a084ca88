//! The file that notes are written to: its header and its name.

use std::fmt;

use crate::codec::{self, Decode, Encode};
use crate::entry::Time;
use crate::frame::{self, FrameError, FrameKind};
use crate::ids::LaneId;

use super::record::Seq;

/// First bytes of a segment, which say what it is before anything is decoded. The last two show a transfer that
/// changes line ends.
pub const MAGIC: [u8; 8] = *b"tgjrnl\r\n";

/// Size from which on a new segment is begun.
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// What a reader takes for a segment: the last record may exceed [`SEGMENT_BYTES`], with room to spare.
pub const SEGMENT_BYTES_MAX: usize = 16 << 20;

/// A segment before it has its name: never read, and replaced by the next one.
pub const NEW: &str = "journal.new";

/// Random identity that the kernel gives to each of its starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct BootId(pub [u8; 16]);

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// First frame of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SegmentHeader {
    /// Lane the journal belongs to.
    pub lane: LaneId,
    /// Start of the kernel it was written under.
    pub boot: BootId,
    /// Number of its first note; also in its name.
    pub first: Seq,
    /// When it was begun, for people.
    pub begun: Time,
}

/// Appends magic and header to `out`.
///
/// # Errors
/// [`FrameError::Body`], which its fixed size rules out.
pub fn put_header(out: &mut Vec<u8>, header: &SegmentHeader) -> Result<(), FrameError> {
    let body = codec::encode(header)?;
    out.extend_from_slice(&MAGIC);
    frame::put(out, FrameKind::JournalHeader, &body);
    Ok(())
}

/// Reads magic and header from the start of `bytes`; also says how long they are.
///
/// # Errors
/// Any [`FrameError`]; [`FrameError::Truncated`] only where more bytes could help.
pub fn take_header(bytes: &[u8]) -> Result<(SegmentHeader, usize), FrameError> {
    let begin = bytes.len().min(MAGIC.len());
    if bytes[..begin] != MAGIC[..begin] {
        return Err(FrameError::Inconsistent("not a segment of a journal".to_owned()));
    }
    let frame = frame::take(&bytes[begin..])?;
    if frame.kind != FrameKind::JournalHeader as u8 {
        return Err(FrameError::Kind(frame.kind));
    }
    Ok((codec::decode(frame.body)?, MAGIC.len() + frame.len))
}

/// `journal.<first>`: 20 digits, so that names sort as numbers.
pub fn name(first: Seq) -> String {
    format!("journal.{:020}", first.0)
}

/// Parses what [`name`] spells.
pub fn parse_name(text: &[u8]) -> Option<Seq> {
    let digits = text.strip_prefix(b"journal.")?;
    let first = Seq(std::str::from_utf8(digits).ok()?.parse().ok()?);
    (name(first).as_bytes() == text).then_some(first)
}

/// `journal.<first>.damaged`: a segment that was set aside for people to look at.
pub fn damaged_name(first: Seq) -> String {
    format!("{}.damaged", name(first))
}

/// Parses what [`damaged_name`] spells.
pub fn parse_damaged_name(text: &[u8]) -> Option<Seq> {
    parse_name(text.strip_suffix(b".damaged")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_have_one_spelling() {
        for first in [Seq(0), Seq(1), Seq(42), Seq(u64::MAX)] {
            assert_eq!(parse_name(name(first).as_bytes()), Some(first));
            assert_eq!(parse_damaged_name(damaged_name(first).as_bytes()), Some(first));
            assert_eq!(parse_name(damaged_name(first).as_bytes()), None);
            assert_eq!(parse_damaged_name(name(first).as_bytes()), None);
        }
        assert_eq!(name(Seq(42)), "journal.00000000000000000042");
        for bad in ["journal.42", "journal.+0000000000000000042", "journal.", "journal", NEW, ""] {
            assert_eq!(parse_name(bad.as_bytes()), None, "{bad}");
        }
    }
}
