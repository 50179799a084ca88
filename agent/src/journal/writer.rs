//! The writer's loop: takes all that waits, writes it at once, says so, and makes it durable a little later.
//!
//! ```text
//! Writing ─error of a write, an fdatasync, a rename─► Failing ─a segment that begins with the gap─► Writing
//! ```
//! While failing it goes on taking messages, and each answer says that the notes are lost: nobody waits for a disk.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use proto::journal::segment::{SegmentHeader, put_header};
use proto::journal::{BootId, GapCause, Note, Seq, put_record};
use proto::{JournalRecord, LaneId, Time};
use sys::Errno;
use tracing::{error, info, warn};

use super::appender::{Ack, Message, Numbers, Want};
use super::io::JournalIo;
use super::open::{Health, Limits, Progress};
use super::store::{self, Discard};

/// Bytes of one write: enough for a thousand hints, and little enough that the first of them does not wait for the last.
const GROUP_BYTES: usize = 1 << 20;

/// Batches that wait for an fdatasync: beyond them it is not put off any longer.
const UNSYNCED_MAX: usize = 4096;

/// Segments of a journal: a lane that never publishes must not fill a directory by restarts.
const SEGMENTS_MAX: usize = 1024;

/// A segment that is written to no longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub first: Seq,
    /// Number behind its last note.
    pub next: Seq,
    pub bytes: u64,
}

/// The segment that is written to.
struct Current {
    first: Seq,
    file: File,
    /// Where the next write goes: all before it was acknowledged.
    offset: u64,
    /// Length of what it was begun with.
    start: u64,
}

/// What is shared with those who look on.
pub(super) struct Shared(Mutex<Progress>);

impl Shared {
    pub(super) fn new(progress: Progress) -> Self {
        Self(Mutex::new(progress))
    }

    pub(super) fn get(&self) -> Progress {
        *self.lock()
    }

    /// io_uring could not be set up after all.
    pub(super) fn without_ring(&self) {
        self.lock().ring = false;
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that the writer's thread owns but the ring, which cannot be moved between threads.
pub(super) struct Writer {
    pub dir: PathBuf,
    pub lane: LaneId,
    pub boot: BootId,
    pub limits: Limits,
    pub inbox: Receiver<Message>,
    pub shared: Arc<Shared>,
    state: State,
}

struct State {
    segments: Vec<Segment>,
    current: Option<Current>,
    next: Seq,
    /// Gaps to note at the beginning of the next segment.
    gaps: Vec<GapCause>,
    discard: Discard,
    /// The last of each note that a restart needs whatever the cursor says.
    published: Option<JournalRecord>,
    writing: Option<JournalRecord>,
    paused: Option<JournalRecord>,
    /// The cursor: segments behind it are removed.
    passed: Option<Seq>,
    /// The newest time anybody told: for headers and gaps that nobody asked for.
    now: Time,
    buffer: Vec<u8>,
    group: Vec<(Sender<Ack>, Numbers)>,
    unsynced: Vec<Sender<Ack>>,
    /// When what was written has to be durable.
    due: Option<Instant>,
    hurry: bool,
}

impl Writer {
    pub(super) fn new(
        (dir, lane, boot, limits): (PathBuf, LaneId, BootId, Limits),
        inbox: Receiver<Message>,
        shared: Arc<Shared>,
        found: super::replay::Found,
        now: Time,
    ) -> Self {
        let mut state = State {
            segments: found.segments,
            current: None,
            next: found.next,
            gaps: found.replay.gaps,
            discard: found.discard,
            published: None,
            writing: None,
            paused: None,
            passed: None,
            now,
            buffer: Vec::with_capacity(GROUP_BYTES),
            group: Vec::new(),
            unsynced: Vec::new(),
            due: None,
            hurry: false,
        };
        for record in found.carried {
            state.remember(&record);
        }
        Self { dir, lane, boot, limits, inbox, shared, state }
    }

    /// Begins the first segment. An error leaves it failing: the agent starts with a full disk, too.
    pub(super) fn start(&mut self) {
        // The older segments hold what is to be carried; repeated now, it would hide how the last run ended.
        if let Err(errno) = self.begin(Carry::Nothing) {
            self.fail(errno);
        }
        self.show();
    }

    /// Until the journal is closed or nobody can append any more.
    pub(super) fn run(mut self, mut io: Box<dyn JournalIo>) {
        self.adopt(&mut *io);
        loop {
            let message = match self.state.due {
                Some(due) => self.inbox.recv_deadline(due),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut closing = None;
            match message {
                Ok(first) => {
                    closing = self.take(first, &mut *io);
                    // As many as wait now, and no more: what comes meanwhile is for the next write.
                    for _ in 0..self.inbox.len() {
                        if closing.is_some() || self.state.buffer.len() >= GROUP_BYTES {
                            break;
                        }
                        let Ok(more) = self.inbox.try_recv() else { break };
                        closing = self.take(more, &mut *io);
                    }
                    self.write_out(&mut *io);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.sync(&mut *io);
                    self.end(None);
                    return;
                }
            }
            let overdue = self.state.due.is_some_and(|due| Instant::now() >= due);
            if overdue || self.state.hurry || closing.is_some() || self.state.unsynced.len() > UNSYNCED_MAX {
                self.sync(&mut *io);
            }
            self.show();
            if let Some(reply) = closing {
                self.end(Some(reply));
                return;
            }
        }
    }

    /// Takes one message in; hands the reply of a close back, which waits for the last sync.
    fn take(&mut self, message: Message, io: &mut dyn JournalIo) -> Option<Sender<Result<(), Errno>>> {
        match message {
            Message::Append { at, notes, want, reply } => {
                self.state.now = self.state.now.max(at);
                self.append(at, notes, want, reply, io);
                None
            }
            Message::Retry { at } => {
                self.state.now = self.state.now.max(at);
                self.retry(io);
                None
            }
            Message::Close { at, reply } => {
                self.state.now = self.state.now.max(at);
                self.retry(io);
                // Nobody waits for this acknowledgement; the reply says what became of it.
                let (ack, _) = crossbeam::channel::bounded(2);
                self.append(at, vec![Note::CleanStop], Want::Durable, ack, io);
                Some(reply)
            }
        }
    }

    fn append(&mut self, at: Time, notes: Vec<Note>, want: Want, reply: Sender<Ack>, io: &mut dyn JournalIo) {
        let first = self.state.next;
        for note in notes {
            let Some(current) = &self.state.current else { break };
            let full = current.offset + self.state.buffer.len() as u64 >= self.limits.segment_bytes;
            if full && current.offset + self.state.buffer.len() as u64 > current.start {
                self.write_out(io);
                self.rotate(io);
            } else if self.state.buffer.len() >= GROUP_BYTES {
                self.write_out(io);
            }
            if self.state.current.is_none() {
                break;
            }
            if let Err(errno) = self.put(JournalRecord { seq: self.state.next, at, note }) {
                self.fail(errno);
                break;
            }
        }
        if self.state.current.is_none() {
            let _ = reply.try_send(Ack::Lost(self.errno()));
            return;
        }
        self.state.hurry |= want == Want::Durable;
        self.state.group.push((reply, Numbers { first, next: self.state.next }));
    }

    /// Appends a record to the buffer. It was checked when it was taken; one that does not encode all the same becomes a gap.
    fn put(&mut self, mut record: JournalRecord) -> Result<(), Errno> {
        let state = &mut self.state;
        if let Err(error) = put_record(&mut state.buffer, &record) {
            error!(%error, "a note cannot be encoded; a gap takes its place");
            record.note = Note::Gap(GapCause::UnknownRecord);
            put_record(&mut state.buffer, &record).map_err(|_| Errno::OVERFLOW)?;
        }
        state.next = record.next().ok_or(Errno::OVERFLOW)?;
        state.remember(&record);
        Ok(())
    }

    /// Writes the buffer and says so to whoever appended.
    fn write_out(&mut self, io: &mut dyn JournalIo) {
        let state = &mut self.state;
        let Some(current) = &mut state.current else { return };
        if !state.buffer.is_empty() {
            let (result, buffer) = io.write(std::mem::take(&mut state.buffer), current.offset);
            state.buffer = buffer;
            if let Err(errno) = result {
                self.fail(errno);
                return;
            }
            current.offset += state.buffer.len() as u64;
            state.buffer.clear();
            if state.due.is_none() {
                state.due = Some(Instant::now() + self.limits.sync_every);
            }
        }
        for (reply, numbers) in state.group.drain(..) {
            let _ = reply.try_send(Ack::Written(numbers));
            state.unsynced.push(reply);
        }
        // A batch without a note asks for what came before it.
        if state.due.is_none() && !state.unsynced.is_empty() {
            state.hurry = true;
        }
    }

    /// Makes durable what was written, says so, and removes what the cursor has passed.
    fn sync(&mut self, io: &mut dyn JournalIo) {
        self.state.hurry = false;
        if self.state.due.take().is_some() {
            let Some(current) = &self.state.current else { return };
            let done = io.sync().and_then(|()| store::is_in_place(&self.dir, current.first, &current.file));
            if let Err(errno) = done {
                self.fail(errno);
                return;
            }
        }
        if self.state.current.is_none() {
            return;
        }
        for reply in self.state.unsynced.drain(..) {
            let _ = reply.try_send(Ack::Durable);
        }
        if let Some(passed) = self.state.passed {
            self.remove_behind(passed);
        }
    }

    /// Goes over to a new segment. Drops all the older ones if the journal has reached its greatest size.
    fn rotate(&mut self, io: &mut dyn JournalIo) {
        self.sync(io);
        let Some(current) = &self.state.current else { return };
        let held: u64 = self.state.segments.iter().map(|s| s.bytes).sum();
        if held + current.offset + self.limits.segment_bytes > self.limits.total_bytes
            || self.state.segments.len() >= SEGMENTS_MAX
        {
            warn!(bytes = held + current.offset, "journal is full and dropped; the volume will be compared");
            self.state.gaps.push(GapCause::JournalFull);
            let remove = self.state.segments.iter().map(|s| s.first).chain([current.first]).collect();
            self.state.discard = Discard { aside: None, remove };
        }
        match self.begin(Carry::All) {
            Ok(()) => self.adopt(io),
            Err(errno) => self.fail(errno),
        }
    }

    /// Begins a segment with the gaps that are due and, if told so, what a restart needs of the older ones.
    fn begin(&mut self, carry: Carry) -> Result<(), Errno> {
        let state = &mut self.state;
        let header = SegmentHeader { lane: self.lane, boot: self.boot, first: state.next, begun: state.now };
        let mut bytes = Vec::new();
        put_header(&mut bytes, &header).map_err(|_| Errno::INVAL)?;
        let header_bytes = bytes.len() as u64;
        let gaps = state.gaps.iter().map(|cause| (state.now, Note::Gap(*cause)));
        let carried = [&state.published, &state.writing, &state.paused];
        let carried = carried.into_iter().flatten().filter(|_| carry == Carry::All || !state.gaps.is_empty());
        let carried = carried.map(|record| (record.at, record.note.clone()));
        let mut next = state.next;
        let mut records = Vec::new();
        for (at, note) in gaps.chain(carried) {
            let record = JournalRecord { seq: next, at, note };
            put_record(&mut bytes, &record).map_err(|_| Errno::INVAL)?;
            next = record.next().ok_or(Errno::OVERFLOW)?;
            records.push(record);
        }
        let file = store::begin(&self.dir, state.next, &bytes)?;
        if let Some(old) = state.current.take() {
            state.segments.push(Segment { first: old.first, next: state.next, bytes: old.offset });
        }
        let offset = bytes.len() as u64;
        state.current = Some(Current { first: state.next, file, offset, start: offset.max(header_bytes) });
        state.next = next;
        for record in &records {
            state.remember(record);
        }
        state.gaps.clear();
        let discard = std::mem::take(&mut state.discard);
        state.segments.retain(|s| discard.aside != Some(s.first) && !discard.remove.contains(&s.first));
        if let Err(errno) = store::discard(&self.dir, &discard) {
            warn!(dir = %self.dir.display(), %errno, "old segments of the journal cannot be removed");
        }
        Ok(())
    }

    fn adopt(&mut self, io: &mut dyn JournalIo) {
        let Some(current) = &self.state.current else { return };
        match current.file.try_clone() {
            Ok(file) => io.adopt(file),
            Err(error) => self.fail(super::io::errno_of(&error)),
        }
    }

    /// Writes no more until a new segment can be begun. What nobody was told to be safe is lost, and becomes a gap.
    fn fail(&mut self, errno: Errno) {
        // Before anybody is told: who hears of a loss and then asks for the health must not be told that all is well.
        {
            let mut progress = self.shared.lock();
            if progress.health == Health::Writing {
                warn!(dir = %self.dir.display(), %errno, "journal cannot be written; changes may be missed until it can");
            }
            progress.health = Health::Failing { errno };
        }
        let state = &mut self.state;
        for reply in state.unsynced.drain(..).chain(state.group.drain(..).map(|(reply, _)| reply)) {
            let _ = reply.try_send(Ack::Lost(errno));
        }
        state.buffer.clear();
        state.due = None;
        state.hurry = false;
        if !state.gaps.contains(&GapCause::JournalFailed) {
            state.gaps.push(GapCause::JournalFailed);
        }
        if let Some(current) = state.current.take() {
            // Best effort: a half-written note is also told by the gap at the beginning of the next segment.
            let _ = current.file.set_len(current.offset);
            // One without a note is replaced by the next, which has its number and so its name.
            if current.first != state.next {
                state.segments.push(Segment {
                    first: current.first,
                    next: state.next,
                    bytes: current.offset,
                });
            }
        }
        // The numbers of the lost notes are not given again: some of them may have reached the disk.
    }

    fn retry(&mut self, io: &mut dyn JournalIo) {
        if self.state.current.is_some() {
            return;
        }
        match self.begin(Carry::All) {
            Ok(()) => {
                self.shared.lock().health = Health::Writing;
                self.adopt(io);
                info!(dir = %self.dir.display(), "journal can be written again, and begins with a gap");
            }
            Err(errno) => self.fail(errno),
        }
    }

    /// Removes the oldest segments as long as nothing in them is needed.
    fn remove_behind(&mut self, passed: Seq) {
        let state = &mut self.state;
        let kept = [&state.writing, &state.paused].into_iter().flatten().map(|record| record.seq).min();
        let done = state
            .segments
            .iter()
            .take_while(|s| s.next.0 <= passed.0.saturating_add(1) && kept.is_none_or(|seq| seq >= s.next))
            .count();
        for segment in state.segments.drain(..done) {
            if let Err(errno) = store::remove(&self.dir, segment.first) {
                // It is behind the cursor and harmless; the next start finds it again.
                warn!(segment = segment.first.0, %errno, "segment of the journal cannot be removed");
            }
        }
    }

    fn errno(&self) -> Errno {
        match self.shared.lock().health {
            Health::Failing { errno } => errno,
            Health::Writing | Health::Closed => Errno::IO,
        }
    }

    fn show(&self) {
        let mut progress = self.shared.lock();
        progress.next = self.state.next;
        progress.segments = self.state.segments.len() + usize::from(self.state.current.is_some());
        progress.bytes = self.state.segments.iter().map(|s| s.bytes).sum::<u64>()
            + self.state.current.as_ref().map_or(0, |current| current.offset);
    }

    fn end(self, reply: Option<Sender<Result<(), Errno>>>) {
        let result = if self.state.current.is_some() { Ok(()) } else { Err(self.errno()) };
        drop(self);
        if let Some(reply) = reply {
            let _ = reply.try_send(result);
        }
    }
}

impl Drop for Writer {
    /// However the thread ends, those who look on see that nothing is written any more.
    fn drop(&mut self) {
        self.shared.lock().health = Health::Closed;
    }
}

/// Whether a new segment repeats what a restart needs of the older ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carry {
    All,
    /// Unless it begins with a gap, which says more than what the repetition would hide.
    Nothing,
}

impl State {
    fn remember(&mut self, record: &JournalRecord) {
        match &record.note {
            Note::Published { upto, .. } => {
                // The cursor never goes back.
                if self.passed.is_none_or(|passed| passed <= *upto) {
                    self.passed = Some(*upto);
                    self.published = Some(record.clone());
                }
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
    }
}
