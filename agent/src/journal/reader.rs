//! Reads a journal from any process while it is being written, and changes nothing.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::journal::scan::peek_record;
use proto::journal::segment::{SEGMENT_BYTES_MAX, take_header};
use proto::journal::{JournalRecord, Scan, SegmentHeader, Seq, Verdict};
use proto::{FrameError, LaneId};

use super::store;

/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;

/// What a reader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A segment begins.
    Begun(SegmentHeader),
    /// The next record.
    Record(JournalRecord),
    /// Notes that are not there (any more): dropped with their segments before they were read, or never written.
    Missed {
        /// The first of them.
        from: Seq,
        /// The first that is there.
        to: Seq,
    },
    /// A segment that cannot be read on; the next one follows.
    Damaged {
        /// Its first number.
        segment: Seq,
        /// Offset of what is damaged.
        at: u64,
    },
    /// A segment that a newer program wrote on: this one cannot tell what it says. The next one follows.
    Newer {
        /// Its first number.
        segment: Seq,
        /// Offset of what is not known here.
        at: u64,
    },
    /// All that there is for now: ask again later.
    End,
}

/// Why a reader cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{act} the journal in {}", dir.display())]
pub struct ReaderError {
    act: &'static str,
    dir: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Reads one record after the other, from the oldest segment on.
pub struct Reader {
    dir: PathBuf,
    segment: Option<Open>,
    /// Number of the next record, once any was seen.
    next: Option<Seq>,
    /// First number of the segment that was read last: the next one is greater.
    passed: Option<Seq>,
    /// Lane of the first segment: one of another lane is damage.
    lane: Option<LaneId>,
    /// What the segment says of itself, until it was told.
    begun: Option<SegmentHeader>,
}

struct Open {
    first: Seq,
    /// Its header was read.
    is_begun: bool,
    file: File,
    /// Offset of `pending`.
    at: u64,
    pending: Vec<u8>,
    used: usize,
    /// Length of the rest that was found to be no damage.
    judged: usize,
}

impl Reader {
    /// Opens the journal in `dir`.
    ///
    /// # Errors
    /// [`ReaderError`], if there is no such directory, too.
    pub fn open(dir: &Path) -> Result<Self, ReaderError> {
        let reader =
            Self { dir: dir.to_owned(), segment: None, next: None, passed: None, lane: None, begun: None };
        match store::list(dir) {
            Ok(Some(_)) => Ok(reader),
            Ok(None) => Err(reader.error("find", ErrorKind::NotFound.into())),
            Err(e) => Err(reader.error("list", e)),
        }
    }

    /// The next thing there is to say.
    ///
    /// # Errors
    /// [`ReaderError`]: the directory or a segment cannot be read.
    pub fn read(&mut self) -> Result<Read, ReaderError> {
        loop {
            let Some(open) = &mut self.segment else {
                if !self.open_next()? {
                    return Ok(Read::End);
                }
                continue;
            };
            match open.take() {
                Taken::Header(header)
                    if header.first == open.first && self.lane.is_none_or(|lane| header.lane == lane) =>
                {
                    open.is_begun = true;
                    self.lane = Some(header.lane);
                    self.begun = Some(header);
                }
                Taken::Record(record) if self.next.is_none_or(|next| record.seq == next) => {
                    self.next = record.next();
                    return Ok(Read::Record(record));
                }
                Taken::Newer => {
                    let newer = Read::Newer { segment: open.first, at: open.at + open.used as u64 };
                    self.leave();
                    return Ok(newer);
                }
                Taken::Header(_) | Taken::Record(_) | Taken::Foreign => {
                    let damaged = Read::Damaged { segment: open.first, at: open.at + open.used as u64 };
                    self.leave();
                    return Ok(damaged);
                }
                Taken::Nothing => {
                    if self.fill()? {
                        continue;
                    }
                    if !self.has_successor()? {
                        if self.was_replaced() {
                            continue;
                        }
                        return Ok(self.judge_last().unwrap_or(Read::End));
                    }
                    // What came between the two looks is all that will ever come: writers go over for good.
                    if self.fill()? {
                        continue;
                    }
                    if let Some(damaged) = self.judge() {
                        return Ok(damaged);
                    }
                }
            }
            if let Some(missed) = self.missed() {
                return Ok(missed);
            }
            if let Some(header) = self.begun.take() {
                return Ok(Read::Begun(header));
            }
        }
    }

    /// A segment without notes is replaced under its name by the next start of its writer, and one that a person removed is
    /// gone: what is read of it then is nobody's any more. Leaves it in both cases.
    fn was_replaced(&mut self) -> bool {
        let Some(open) = &self.segment else { return false };
        match (std::fs::symlink_metadata(store::path(&self.dir, open.first)), open.file.metadata()) {
            (Ok(named), Ok(held)) if named.dev() == held.dev() && named.ino() == held.ino() => false,
            (Ok(_), Ok(_)) => {
                self.segment = None;
                true
            }
            (Err(e), _) if e.kind() == ErrorKind::NotFound => {
                (self.segment, self.passed) = (None, None);
                true
            }
            // Not known: read on.
            _ => false,
        }
    }

    /// Leaves a segment that has a successor; says so if it does not end as it should.
    fn judge(&mut self) -> Option<Read> {
        let open = self.segment.as_ref()?;
        let rest = &open.pending[open.used..];
        let (segment, at) = (open.first, open.at + open.used as u64);
        let is_empty = rest.is_empty();
        let verdict = if is_empty { Some(Verdict::Clean) } else { open.verdict() };
        self.leave();
        match verdict {
            Some(Verdict::Newer { .. }) => Some(Read::Newer { segment, at }),
            // A torn tail before a successor is what a full disk leaves, and the successor begins with a gap.
            Some(Verdict::TornTail { at: torn }) if torn as u64 == at => None,
            // Nothing is left of it.
            Some(Verdict::Clean) if is_empty => None,
            _ => Some(Read::Damaged { segment, at }),
        }
    }

    /// What is not a record may be one in a moment; with sound ones behind it, it never will.
    fn judge_last(&mut self) -> Option<Read> {
        let open = self.segment.as_mut()?;
        let rest = open.pending.len() - open.used;
        if rest == open.judged {
            return None;
        }
        open.judged = rest;
        let (segment, at) = (open.first, open.at + open.used as u64);
        let found = match open.verdict() {
            Some(Verdict::Corrupt { .. }) => Read::Damaged { segment, at },
            Some(Verdict::Newer { .. }) => Read::Newer { segment, at },
            Some(Verdict::Clean | Verdict::TornTail { .. }) | None => return None,
        };
        self.leave();
        Some(found)
    }

    /// Says that numbers are missing before the segment that was just opened.
    fn missed(&mut self) -> Option<Read> {
        let open = self.segment.as_ref().filter(|open| open.is_begun)?;
        let from = self.next.filter(|next| *next < open.first && open.pending_is_start())?;
        self.next = Some(open.first);
        Some(Read::Missed { from, to: open.first })
    }

    fn leave(&mut self) {
        if let Some(open) = self.segment.take() {
            self.passed = Some(open.first);
        }
    }

    fn successor(&self, passed: Seq) -> Result<Option<Seq>, ReaderError> {
        Ok(self.list()?.into_iter().find(|first| *first > passed))
    }

    /// First numbers of the segments that are there, in order.
    fn list(&self) -> Result<Vec<Seq>, ReaderError> {
        let listing = store::list(&self.dir).map_err(|e| self.error("list", e))?;
        Ok(listing.unwrap_or_default().segments)
    }

    /// True when somebody removed the journal and its writer began it anew: its numbers start over.
    fn is_anew(&self, passed: Seq) -> Result<bool, ReaderError> {
        Ok(self.list()?.last().is_some_and(|last| *last < passed))
    }

    fn has_successor(&self) -> Result<bool, ReaderError> {
        match &self.segment {
            Some(open) => Ok(self.successor(open.first)?.is_some()),
            None => Ok(false),
        }
    }

    fn open_next(&mut self) -> Result<bool, ReaderError> {
        loop {
            let next = match self.passed {
                Some(passed) => match self.successor(passed)? {
                    None if self.is_anew(passed)? => {
                        (self.passed, self.next) = (None, None);
                        continue;
                    }
                    next => next,
                },
                None => self.list()?.first().copied(),
            };
            let Some(first) = next else { return Ok(false) };
            match File::open(store::path(&self.dir, first)) {
                Ok(file) => {
                    if self.passed.is_none() {
                        // Numbers that start over are no damage.
                        self.next = self.next.filter(|next| *next <= first);
                    }
                    self.segment = Some(Open {
                        first,
                        is_begun: false,
                        file,
                        at: 0,
                        pending: Vec::new(),
                        used: 0,
                        judged: 0,
                    });
                    return Ok(true);
                }
                // Removed between the two calls.
                Err(e) if e.kind() == ErrorKind::NotFound => self.passed = Some(first),
                Err(e) => return Err(self.error("open a segment of", e)),
            }
        }
    }

    /// Reads on; false when nothing new is there.
    fn fill(&mut self) -> Result<bool, ReaderError> {
        let Some(open) = &mut self.segment else { return Ok(false) };
        match open.fill() {
            Ok(grown) => Ok(grown),
            Err(e) => Err(self.error("read", e)),
        }
    }

    fn error(&self, act: &'static str, source: std::io::Error) -> ReaderError {
        ReaderError { act, dir: self.dir.clone(), source }
    }
}

enum Taken {
    Header(SegmentHeader),
    Record(JournalRecord),
    /// Not a segment of ours.
    Foreign,
    /// One of a version that is not known here.
    Newer,
    Nothing,
}

impl Open {
    fn take(&mut self) -> Taken {
        let rest = &self.pending[self.used..];
        if !self.is_begun {
            return match take_header(rest) {
                Ok((header, len)) => {
                    self.used += len;
                    Taken::Header(header)
                }
                Err(FrameError::Truncated) => Taken::Nothing,
                Err(FrameError::Version(_)) => Taken::Newer,
                Err(_) => Taken::Foreign,
            };
        }
        match peek_record(rest) {
            Some((record, len)) => {
                self.used += len;
                Taken::Record(record)
            }
            None => Taken::Nothing,
        }
    }

    /// True before the first record of the segment was taken.
    fn pending_is_start(&self) -> bool {
        take_header(&self.pending).is_ok_and(|(_, len)| self.at == 0 && self.used == len)
    }

    fn fill(&mut self) -> std::io::Result<bool> {
        self.pending.drain(..self.used);
        self.at += self.used as u64;
        self.used = 0;
        let had = self.pending.len();
        if had > SEGMENT_BYTES_MAX {
            return Ok(false);
        }
        self.pending.resize(had + READ_BYTES, 0);
        let read = self.file.read_at(&mut self.pending[had..], self.at + had as u64);
        self.pending.truncate(had + *read.as_ref().unwrap_or(&0));
        // A writer that starts anew cuts a torn tail off: what was read of it is gone.
        if let (Ok(0), Ok(held)) = (&read, self.file.metadata())
            && held.len() < self.at + had as u64
        {
            self.pending.truncate(held.len().saturating_sub(self.at) as usize);
        }
        Ok(read? > 0)
    }

    /// What the whole segment amounts to, now that it is complete.
    fn verdict(&self) -> Option<Verdict> {
        let size = self.file.metadata().ok()?.len().min(SEGMENT_BYTES_MAX as u64) as usize;
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let mut scan = Scan::new(&bytes).ok()?;
        scan.by_ref().for_each(drop);
        scan.verdict()
    }
}
