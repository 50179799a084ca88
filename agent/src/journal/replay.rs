//! What a restart learns from the segments that an earlier run left.

use std::collections::VecDeque;
use std::path::Path;

use proto::journal::segment::SEGMENT_BYTES_MAX;
use proto::journal::{BootId, GapCause, Listed, Note, OpenFile, Scan, Seq, Verdict};
use proto::{Generation, JournalRecord, LaneId, Time};
use tracing::{info, warn};

use super::store::{self, Discard, Listing};
use super::writer::Segment;

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// In order: its last note says so.
    Clean,
    /// Killed, or the host died.
    Unclean,
    /// There is no note of it.
    Unknown,
}

/// Whether the host was started anew since the last note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The kernel is the same.
    Same,
    /// It was: after an [`Stop::Unclean`] the caller makes a gap `UncleanStop`, else `AgentDown`.
    Other,
    /// There is no note to tell.
    Unknown,
}

/// How far the mirror had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// All notes up to this one are done with.
    pub upto: Seq,
    /// Generation of the mirror.
    pub generation: Generation,
}

/// The last list of files open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writing {
    /// The files.
    pub files: Vec<OpenFile>,
    /// Whether these are all.
    pub listed: Listed,
}

/// What a restart has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The records behind the cursor, in order; a batch of hints that lies across it is cut. Gaps that an earlier run
    /// noted and did not close are among them.
    pub records: Vec<JournalRecord>,
    /// The cursor.
    pub published: Option<Published>,
    /// When that was noted, by the wall clock of then.
    pub published_at: Option<Time>,
    /// The last list of files open for writing; nothing when none is known. After a gap `DamagedJournal` it is not known.
    pub writing: Option<Writing>,
    /// Whether replication was paused.
    pub paused: bool,
    /// How the run before ended.
    pub stop: Stop,
    /// Whether the host was started anew.
    pub boot: Boot,
    /// Gaps found by opening: already noted in the journal, unless [`super::Journal::health`] is failing.
    pub gaps: Vec<GapCause>,
}

/// All that opening found.
pub(super) struct Found {
    pub replay: Replay,
    /// Segments that stay.
    pub segments: Vec<Segment>,
    /// Segments that go as soon as the gap is noted.
    pub discard: Discard,
    /// Number of the next note.
    pub next: Seq,
    /// The notes to repeat in a new segment, and the numbers they have.
    pub carried: Vec<JournalRecord>,
}

/// What is expected of the journal.
pub(super) struct Expect {
    pub lane: LaneId,
    pub boot: BootId,
    pub known: bool,
    pub replay_bytes: usize,
}

/// Reads everything there is. A torn tail is cut off; nothing else is changed.
pub(super) fn read(dir: &Path, expect: &Expect) -> Found {
    let listing = match store::list(dir) {
        Ok(Some(listing)) if !listing.segments.is_empty() => listing,
        Ok(_) => return nothing(if expect.known { Some(GapCause::DamagedJournal) } else { None }),
        Err(error) => {
            warn!(dir = %dir.display(), %error, "journal cannot be listed");
            return nothing(Some(GapCause::DamagedJournal));
        }
    };
    let mut past = Past::new(expect.replay_bytes);
    let mut segments = Vec::new();
    let mut gaps = Vec::new();
    let mut torn = None;
    let mut seen = (None, Stop::Unknown);
    for (index, first) in listing.segments.iter().copied().enumerate() {
        let last = index + 1 == listing.segments.len();
        match segment(dir, first, expect.lane, torn, segments.last(), &mut past, &mut seen) {
            Ok(read) => {
                torn = read.torn.map(|at| (first, at));
                segments.push(read.segment);
                if let (true, Some(at)) = (last, read.torn) {
                    info!(segment = first.0, at, "torn tail of the journal is cut off");
                    if let Err(errno) = store::truncate(dir, first, at) {
                        // It stays in the middle of the journal, which is a gap unless the journal says so itself.
                        warn!(segment = first.0, %errno, "torn tail of the journal cannot be cut off");
                        gaps.push(GapCause::JournalFailed);
                    }
                }
            }
            Err(damage) => return damaged(dir, expect, &listing, damage, past, seen),
        }
    }
    if past.starts_late(segments.first().map_or(Seq(1), |s| s.first)) {
        warn!(dir = %dir.display(), "segments are missing at the beginning of the journal");
        gaps.push(GapCause::DamagedJournal);
    }
    let next = segments.last().map_or(Seq(1), |s| s.next);
    // One without a note makes room for the one that is begun now: it would have the same name.
    if segments.last().is_some_and(|s| s.first == s.next) {
        segments.pop();
    }
    let mut found = past.end(expect, seen, gaps);
    found.segments = segments;
    found.next = next;
    found
}

/// What is wrong with a segment, and with all behind it.
struct Damage {
    /// The segment that is set aside for people to look at.
    segment: Seq,
    cause: GapCause,
    what: String,
}

struct SegmentRead {
    segment: Segment,
    torn: Option<u64>,
}

fn segment(
    dir: &Path,
    first: Seq,
    lane: LaneId,
    torn_before: Option<(Seq, u64)>,
    before: Option<&Segment>,
    past: &mut Past,
    seen: &mut (Option<BootId>, Stop),
) -> Result<SegmentRead, Damage> {
    let damage = |what: String| Damage { segment: first, cause: GapCause::DamagedJournal, what };
    let bytes = store::read(dir, first).map_err(|e| damage(format!("cannot be read: {e}")))?;
    let missing = || match torn_before {
        Some((segment, at)) => {
            let what = format!("damaged at byte {at}, its end");
            Damage { segment, cause: GapCause::DamagedJournal, what }
        }
        None => damage("notes before it are missing".to_owned()),
    };
    let mut scan = Scan::new(&bytes).map_err(|e| match e {
        proto::FrameError::Version(_) => {
            Damage { segment: first, cause: GapCause::UnknownRecord, what: e.to_string() }
        }
        other => damage(format!("header: {other}")),
    })?;
    if scan.header().lane != lane {
        return Err(damage(format!("belongs to lane {}", scan.header().lane)));
    }
    if scan.header().first != first {
        return Err(damage(format!("begins with note {}", scan.header().first)));
    }
    let boot = scan.header().boot;
    // Whoever left numbers or a torn tail behind says so in the first note of the next segment; else some are missing.
    let mut must_be_gap = before.is_some_and(|before| before.next != first) || torn_before.is_some();
    if before.is_some_and(|before| before.next > first) {
        return Err(damage("has numbers that the one before it has, too".to_owned()));
    }
    let mut at = scan.at();
    while let Some(record) = scan.next() {
        if std::mem::take(&mut must_be_gap) && !matches!(record.note, Note::Gap(_)) {
            return Err(missing());
        }
        *seen = (Some(boot), if record.note == Note::CleanStop { Stop::Clean } else { Stop::Unclean });
        past.absorb(record, scan.at() - at);
        at = scan.at();
    }
    if must_be_gap {
        return Err(missing());
    }
    let torn = match scan.verdict() {
        Some(Verdict::TornTail { at }) => Some(at as u64),
        Some(Verdict::Corrupt { at }) => {
            // It held notes, though none may have been read.
            seen.0 = Some(boot);
            return Err(damage(format!("damaged at byte {at}")));
        }
        Some(Verdict::Newer { at }) => {
            seen.0 = Some(boot);
            let what = format!("written by a newer program at byte {at}");
            return Err(Damage { segment: first, cause: GapCause::UnknownRecord, what });
        }
        Some(Verdict::Clean) | None => None,
    };
    let bytes = scan.at() as u64;
    Ok(SegmentRead { segment: Segment { first, next: scan.next_seq(), bytes }, torn })
}

/// The journal goes as a whole: what lies behind the damage is not known, so no silence of it can be believed.
fn damaged(
    dir: &Path,
    expect: &Expect,
    listing: &Listing,
    damage: Damage,
    past: Past,
    seen: (Option<BootId>, Stop),
) -> Found {
    warn!(dir = %dir.display(), segment = damage.segment.0, why = damage.what, "journal is discarded; the volume will be compared");
    let open = past.open_gaps();
    let paused = past.paused;
    // Behind the damage anything may follow, a clean stop or another boot: neither is known.
    let boot_seen = seen.0;
    let mut found =
        Past::new(expect.replay_bytes).end(expect, (boot_seen, Stop::Unknown), vec![damage.cause]);
    found.replay.paused = paused.is_some();
    found.carried.extend(paused);
    for cause in open {
        push(&mut found.replay.gaps, cause);
    }
    // No number is given twice, also of those that cannot be read: a note takes more than one byte.
    let last = listing.segments.last().copied().unwrap_or(damage.segment);
    found.next = last.checked_add(SEGMENT_BYTES_MAX as u64).unwrap_or(Seq(1));
    found.discard = Discard {
        aside: Some(damage.segment),
        remove: listing.segments.iter().copied().filter(|other| *other != damage.segment).collect(),
    };
    found
}

fn nothing(gap: Option<GapCause>) -> Found {
    let mut replay = Replay {
        records: Vec::new(),
        published: None,
        published_at: None,
        writing: None,
        paused: false,
        stop: Stop::Unknown,
        boot: Boot::Unknown,
        gaps: Vec::new(),
    };
    if let Some(cause) = gap {
        replay.gaps = vec![cause, GapCause::UncleanStop];
    }
    Found { replay, segments: Vec::new(), discard: Discard::default(), next: Seq(1), carried: Vec::new() }
}

/// The notes so far, without those that are done with.
struct Past {
    records: VecDeque<(JournalRecord, usize)>,
    bytes: usize,
    bytes_max: usize,
    /// The last note that was dropped because there were too many.
    dropped: Option<Seq>,
    dropped_gaps: Vec<(Seq, GapCause)>,
    published: Option<(Published, JournalRecord)>,
    writing: Option<JournalRecord>,
    paused: Option<JournalRecord>,
    first_is_gap: Option<bool>,
}

impl Past {
    fn new(bytes_max: usize) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            bytes_max,
            dropped: None,
            dropped_gaps: Vec::new(),
            published: None,
            writing: None,
            paused: None,
            first_is_gap: None,
        }
    }

    fn absorb(&mut self, record: JournalRecord, len: usize) {
        self.first_is_gap.get_or_insert(matches!(record.note, Note::Gap(_)));
        match &record.note {
            Note::Published { upto, generation } => {
                let published = Published { upto: *upto, generation: *generation };
                if self.published.as_ref().is_none_or(|(before, _)| before.upto <= *upto) {
                    self.published = Some((published, record.clone()));
                }
                self.forget(*upto);
            }
            Note::Writing { .. } => self.writing = Some(record.clone()),
            Note::Paused => self.paused = Some(record.clone()),
            Note::Resumed => self.paused = None,
            Note::Hint(_)
            | Note::Hints(_)
            | Note::Gap(_)
            | Note::Cut { .. }
            | Note::Sealed { .. }
            | Note::Quarantined { .. }
            | Note::Barrier { .. }
            | Note::CleanStop => {}
        }
        self.bytes += len;
        self.records.push_back((record, len));
        if self.bytes > self.bytes_max {
            self.drop_all();
        }
    }

    /// Drops what the cursor has passed.
    fn forget(&mut self, upto: Seq) {
        while self.records.front().is_some_and(|(record, _)| last_of(record) <= upto) {
            if let Some((_, len)) = self.records.pop_front() {
                self.bytes -= len;
            }
        }
        self.dropped = self.dropped.filter(|seq| *seq > upto);
        self.dropped_gaps.retain(|(seq, _)| *seq > upto);
    }

    /// More waits than a restart should hold in memory: a walk is cheaper. Open gaps are remembered, once for each cause.
    fn drop_all(&mut self) {
        for (record, _) in self.records.drain(..) {
            self.dropped = Some(last_of(&record));
            if let Note::Gap(cause) = record.note {
                self.dropped_gaps.retain(|(_, other)| *other != cause);
                self.dropped_gaps.push((record.seq, cause));
            }
        }
        self.bytes = 0;
    }

    fn open_gaps(&self) -> Vec<GapCause> {
        let mut open = Vec::new();
        for (_, cause) in &self.dropped_gaps {
            push(&mut open, *cause);
        }
        for (record, _) in &self.records {
            if let Note::Gap(cause) = record.note {
                push(&mut open, cause);
            }
        }
        open
    }

    /// Whether notes behind the cursor lie in segments that are not there.
    fn starts_late(&self, first: Seq) -> bool {
        let cursor = self.published.as_ref().map_or(0, |(published, _)| published.upto.0);
        first.0 > cursor.saturating_add(1) && self.first_is_gap != Some(true)
    }

    fn end(self, expect: &Expect, seen: (Option<BootId>, Stop), mut gaps: Vec<GapCause>) -> Found {
        if self.dropped.is_some() {
            push(&mut gaps, GapCause::JournalFull);
            for (_, cause) in &self.dropped_gaps {
                push(&mut gaps, *cause);
            }
        }
        let (boot, stop) = seen;
        let boot = match boot {
            None => Boot::Unknown,
            Some(boot) if boot == expect.boot => Boot::Same,
            Some(_) => Boot::Other,
        };
        // A segment that begins with a gap is all that the next start may see: it must know of this one's doubts.
        if !gaps.is_empty() && stop != Stop::Clean && boot != Boot::Same {
            push(&mut gaps, GapCause::UncleanStop);
        }
        let cursor = self.published.as_ref().map_or(Seq(0), |(published, _)| published.upto);
        let mut records: Vec<JournalRecord> = self.records.into_iter().map(|(record, _)| record).collect();
        if let Some(front) = records.first_mut() {
            trim(front, cursor);
        }
        let writing = self.writing.as_ref().and_then(|record| match &record.note {
            Note::Writing { files, listed } => Some(Writing { files: files.clone(), listed: *listed }),
            _ => None,
        });
        let published = self.published.as_ref().map(|(published, _)| *published);
        let published_at = self.published.as_ref().map(|(_, record)| record.at);
        let carried = [self.published.map(|(_, record)| record), self.writing, self.paused];
        let carried: Vec<JournalRecord> = carried.into_iter().flatten().collect();
        let paused = carried.iter().any(|record| record.note == Note::Paused);
        Found {
            replay: Replay { records, published, published_at, writing, paused, stop, boot, gaps },
            segments: Vec::new(),
            discard: Discard::default(),
            next: Seq(1),
            carried,
        }
    }
}

fn last_of(record: &JournalRecord) -> Seq {
    Seq(record.seq.0 + record.note.numbers() - 1)
}

/// Takes the hints off that the cursor has passed.
fn trim(record: &mut JournalRecord, cursor: Seq) {
    if let Note::Hints(hints) = &mut record.note
        && record.seq <= cursor
    {
        let done = (cursor.0 - record.seq.0 + 1) as usize;
        hints.drain(..done.min(hints.len()));
        record.seq = Seq(cursor.0 + 1);
    }
}

fn push(gaps: &mut Vec<GapCause>, cause: GapCause) {
    if !gaps.contains(&cause) {
        gaps.push(cause);
    }
}
