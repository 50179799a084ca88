//! Bytes of one segment in, records and a verdict out. No I/O; no bytes make it panic or allocate without bound.

use crate::codec;
use crate::frame::{self, FRAME_HEADER_BYTES, FrameError, FrameKind, VERSION};

use super::record::{JournalRecord, RECORD_BYTES_MAX, Seq};
use super::segment::{SegmentHeader, take_header};

/// What the search for sound frames behind a bad one may hash. More is asked for only by bytes made to cost time;
/// then the answer is the careful one.
const SEARCH_BYTES_MAX: usize = 64 << 20;

/// How the bytes of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With a whole frame.
    Clean,
    /// With a frame that is cut short or fails its checksum, and nothing sound behind it: what was being written
    /// when the writer died. The bytes before `at` stand.
    TornTail {
        /// Where the torn frame starts.
        at: usize,
    },
    /// With a bad frame before sound ones, or a sound frame that does not belong there. Nothing behind `at` can be
    /// believed.
    Corrupt {
        /// Where the bad frame starts.
        at: usize,
    },
    /// With a frame of a version that this program does not know.
    Newer {
        /// Where it starts.
        at: usize,
    },
}

/// Reads the records of one segment in order.
pub struct Scan<'a> {
    header: SegmentHeader,
    bytes: &'a [u8],
    at: usize,
    next: Seq,
    verdict: Option<Verdict>,
}

impl<'a> Scan<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// Any [`FrameError`]: nothing in the segment can be used. A header is whole before its file has its name, so
    /// [`FrameError::Truncated`] is damage like the others.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (header, at) = take_header(bytes)?;
        let next = header.first;
        Ok(Self { header, bytes, at, next, verdict: None })
    }

    /// What the segment says of itself.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where the next frame starts; behind the last sound one when there is no more.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The number of the next record.
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// How the bytes end: nothing before [`Iterator::next`] has returned `None`.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    fn judge(&self, error: &Refused) -> Verdict {
        let at = self.at;
        match error {
            Refused::Version => Verdict::Newer { at },
            Refused::Sound => Verdict::Corrupt { at },
            Refused::Bad if sound_frame_behind(self.bytes, at, self.next) => Verdict::Corrupt { at },
            Refused::Bad => Verdict::TornTail { at },
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = JournalRecord;

    fn next(&mut self) -> Option<JournalRecord> {
        if self.verdict.is_some() {
            return None;
        }
        if self.at == self.bytes.len() {
            self.verdict = Some(Verdict::Clean);
            return None;
        }
        match take_record(&self.bytes[self.at..]) {
            // Numbers without a hole: a frame that is missing, doubled or of another place is seen.
            Ok((record, len)) if record.seq == self.next => {
                self.at += len;
                self.next = record.next().unwrap_or(Seq(u64::MAX));
                Some(record)
            }
            Ok(_) => {
                self.verdict = Some(self.judge(&Refused::Sound));
                None
            }
            Err(refused) => {
                self.verdict = Some(self.judge(&refused));
                None
            }
        }
    }
}

/// Why there is no record.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// Too few bytes, a length beyond the limit, or a wrong checksum.
    Bad,
    /// The checksum is right, and the rest is nothing of ours.
    Sound,
    /// The checksum is right, and the version is not known.
    Version,
}

/// The record at the start of `bytes`, and its length.
fn take_record(bytes: &[u8]) -> Result<(JournalRecord, usize), Refused> {
    if announced(bytes).is_none_or(|len| len > RECORD_BYTES_MAX) {
        return Err(Refused::Bad);
    }
    let frame = frame::take(bytes).map_err(|error| match error {
        FrameError::Version(_) => Refused::Version,
        FrameError::Truncated
        | FrameError::Checksum
        | FrameError::Length(_)
        | FrameError::Kind(_)
        | FrameError::Body(_)
        | FrameError::Inconsistent(_) => Refused::Bad,
    })?;
    if frame.kind != FrameKind::JournalRecord as u8 {
        return Err(Refused::Sound);
    }
    let record: JournalRecord = codec::decode(frame.body).map_err(|_| Refused::Sound)?;
    if record.check().is_err() {
        return Err(Refused::Sound);
    }
    Ok((record, frame.len))
}

/// Length of the body that a frame's head announces.
fn announced(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(..4)?;
    Some(u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize)
}

/// The next record of a file that is still being written, and its length; nothing while it is not all there, or
/// if it is not sound. For readers that follow a writer: the verdict comes from a [`Scan`] when the segment is complete.
pub fn peek_record(bytes: &[u8]) -> Option<(JournalRecord, usize)> {
    take_record(bytes).ok()
}

/// Whether a frame of this journal lies anywhere behind the bad one at `at`. A name that a container chose may hold the
/// bytes of one: then a torn tail is taken for damage, which costs a reconcile and loses nothing.
fn sound_frame_behind(bytes: &[u8], at: usize, next: Seq) -> bool {
    let mut hashed = 0;
    for from in at + 1..bytes.len().saturating_sub(FRAME_HEADER_BYTES) + 1 {
        let rest = &bytes[from..];
        let (Some(len), Some(&[kind, version])) =
            (announced(rest), rest.get(12..14).and_then(|b| b.first_chunk()))
        else {
            return false;
        };
        if len > RECORD_BYTES_MAX
            || kind != FrameKind::JournalRecord as u8
            || version == 0
            || version > VERSION
        {
            continue;
        }
        if rest.len() < FRAME_HEADER_BYTES + len {
            continue;
        }
        hashed += FRAME_HEADER_BYTES + len;
        if hashed > SEARCH_BYTES_MAX {
            return true;
        }
        if take_record(rest).is_ok_and(|(record, _)| record.seq >= next) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;
    use crate::ids::LaneId;
    use crate::journal::record::{Note, put_record};
    use crate::journal::segment::{BootId, put_header};

    fn segment(tokens: u64) -> (Vec<u8>, Vec<usize>) {
        let header = SegmentHeader {
            lane: LaneId([1; 16]),
            boot: BootId([2; 16]),
            first: Seq(7),
            begun: Time::default(),
        };
        let mut bytes = Vec::new();
        put_header(&mut bytes, &header).unwrap();
        let mut starts = Vec::new();
        for token in 0..tokens {
            starts.push(bytes.len());
            let note = Note::Barrier { token };
            put_record(&mut bytes, &JournalRecord { seq: Seq(7 + token), at: Time::default(), note })
                .unwrap();
        }
        starts.push(bytes.len());
        (bytes, starts)
    }

    fn scan(bytes: &[u8]) -> (usize, Verdict) {
        let mut scan = Scan::new(bytes).unwrap();
        let count = scan.by_ref().count();
        (count, scan.verdict().unwrap())
    }

    /// The table of section 5 of the format.
    #[test]
    fn verdicts() {
        let (whole, starts) = segment(4);
        let cut = |from: usize, to: usize| [&whole[..from], &whole[to..]].concat();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let zeros = [&whole[..], &[0; 4096]].concat();
        let newer = {
            let mut bytes = whole[..starts[1]].to_vec();
            let body = &whole[starts[1] + FRAME_HEADER_BYTES..starts[2]];
            let covered = [&(body.len() as u32).to_le_bytes()[..], &[17, VERSION + 1], body].concat();
            bytes.extend_from_slice(&covered[..4]);
            bytes.extend_from_slice(&blake3::hash(&covered).as_bytes()[..8]);
            bytes.extend_from_slice(&covered[4..]);
            bytes
        };
        let doubled = [&whole[..starts[2]], &whole[starts[1]..]].concat();
        for (case, bytes, expected) in [
            ("whole", whole.clone(), (4, Verdict::Clean)),
            ("header alone", whole[..starts[0]].to_vec(), (0, Verdict::Clean)),
            ("last frame cut", whole[..starts[4] - 1].to_vec(), (3, Verdict::TornTail { at: starts[3] })),
            ("last frame flipped", flipped(starts[4] - 1), (3, Verdict::TornTail { at: starts[3] })),
            ("zeros behind the last", zeros, (4, Verdict::TornTail { at: starts[4] })),
            ("middle frame flipped", flipped(starts[2] - 1), (1, Verdict::Corrupt { at: starts[1] })),
            ("middle length flipped", flipped(starts[1] + 3), (1, Verdict::Corrupt { at: starts[1] })),
            ("middle frame missing", cut(starts[1], starts[2]), (1, Verdict::Corrupt { at: starts[1] })),
            (
                "middle frame half missing",
                cut(starts[1], starts[2] - 5),
                (1, Verdict::Corrupt { at: starts[1] }),
            ),
            ("frame doubled", doubled, (2, Verdict::Corrupt { at: starts[2] })),
            ("newer version", newer, (1, Verdict::Newer { at: starts[1] })),
        ] {
            assert_eq!(scan(&bytes), expected, "{case}");
        }
    }

    /// Bytes made so that each place looks like the head of a large frame.
    #[test]
    fn the_search_has_an_end() {
        let (mut bytes, starts) = segment(1);
        // len 0x01010x, kind 17 and version 1 cannot stand at every offset: every fourth will do.
        let unit = [17, 1, 1, 0];
        bytes.extend(unit.iter().cycle().take(12 << 20));
        let (count, verdict) = scan(&bytes);
        assert_eq!(count, 1);
        assert!(matches!(verdict, Verdict::TornTail { at } | Verdict::Corrupt { at } if at == starts[1]));
    }
}
