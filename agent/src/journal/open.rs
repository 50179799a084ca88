//! Opening a journal: what an earlier run left is read, and the writer's thread started.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use proto::journal::segment::SEGMENT_BYTES;
use proto::journal::{BootId, Seq};
use proto::{LaneId, Time};
use sys::Errno;
use tracing::warn;

use super::appender::{Appender, Message};
use super::io::{Calls, JournalIo, PlainIo};
use super::replay::{self, Expect, Replay};
use super::ring::RingIo;
use super::writer::{Shared, Writer};

/// Wait before the first new try after an error; each further one waits twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest wait.
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Whether this lane had a journal before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It is new: an empty directory is as it should be.
    New,
    /// It had one: an empty directory is a gap.
    Known,
}

/// Bounds of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size from which on a new segment is begun.
    pub segment_bytes: u64,
    /// Size of all segments: beyond it they are dropped, which is a gap.
    pub total_bytes: u64,
    /// Encoded size of what a replay may hold in memory, which is about three times as much: beyond it, a gap.
    pub replay_bytes: usize,
    /// Batches that may wait for the writer.
    pub queue: usize,
    /// How long what was written may stay in memory.
    pub sync_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            total_bytes: 256 << 20,
            replay_bytes: 32 << 20,
            queue: 256,
            sync_every: Duration::from_millis(200),
        }
    }
}

/// How a journal is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Lane it belongs to.
    pub lane: LaneId,
    /// This start of the kernel.
    pub boot: BootId,
    /// Whether there was a journal.
    pub past: Past,
    /// How it is written.
    pub calls: Calls,
    /// Its bounds.
    pub limits: Limits,
}

/// State of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Writing,
    /// What is appended is lost, and becomes a gap as soon as the journal can be written again.
    Failing {
        /// What the kernel says.
        errno: Errno,
    },
    /// It was closed.
    Closed,
}

/// Where the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its state.
    pub health: Health,
    /// Number of the next note.
    pub next: Seq,
    /// Size of all segments.
    pub bytes: u64,
    /// How many there are.
    pub segments: usize,
    /// Whether it is written with io_uring.
    pub ring: bool,
}

/// Why a journal cannot be opened at all. A disk that is full or gone is none of these: the journal opens as failing.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No thread.
    #[error("start the thread that writes the journal")]
    Thread {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why the end of a journal is no clean stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It cannot be written.
    #[error("the journal cannot be written: {0}")]
    Failing(Errno),
    /// The disk does not answer in time; the thread is left to it.
    #[error("the journal was not written in time")]
    Late,
    /// The writer is gone.
    #[error("the writer of the journal is gone")]
    Gone,
}

/// A journal that is being written. Dropped without [`Journal::close`], it ends as if killed, once the last
/// [`Appender`] is dropped.
pub struct Journal {
    appender: Appender,
    shared: Arc<Shared>,
    backoff: Backoff,
    thread: JoinHandle<()>,
}

impl Journal {
    /// Opens or makes the journal in `dir`, which one process at a time may do: the lane's lock is held by the caller.
    /// Gaps that are found by opening are noted durably before this returns. Those that the caller makes of
    /// [`Replay::stop`] and [`Replay::boot`] have to be its first notes.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(dir: &Path, opening: &Opening, now: Time) -> Result<(Self, Replay), JournalError> {
        let expect = Expect {
            lane: opening.lane,
            boot: opening.boot,
            known: opening.past == Past::Known,
            replay_bytes: opening.limits.replay_bytes,
        };
        let found = replay::read(dir, &expect);
        let replay = found.replay.clone();
        let ring = wants_ring(opening.calls);
        let shared = Arc::new(Shared::new(Progress {
            health: Health::Writing,
            next: found.next,
            bytes: 0,
            segments: 0,
            ring,
        }));
        let (inbox, messages) = bounded(opening.limits.queue.max(1));
        // A reader refuses segments that are larger than any writer makes them.
        let segment_bytes = opening.limits.segment_bytes.min(SEGMENT_BYTES);
        let limits = Limits { segment_bytes, ..opening.limits };
        let place = (dir.to_owned(), opening.lane, opening.boot, limits);
        let mut writer = Writer::new(place, messages, shared.clone(), found, now);
        writer.start();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                let io = make(ring, &writer.shared);
                writer.run(io);
            })
            .map_err(|source| JournalError::Thread { source })?;
        let appender = Appender { inbox };
        Ok((Self { appender, shared, backoff: Backoff::default(), thread }, replay))
    }

    /// For producers.
    pub fn appender(&self) -> Appender {
        self.appender.clone()
    }

    /// State of the writer.
    pub fn health(&self) -> Health {
        self.shared.get().health
    }

    /// Where the writer is.
    pub fn progress(&self) -> Progress {
        self.shared.get()
    }

    /// Lets time pass: a failing journal is tried again, later and later. `now` is the caller's clock, `at` what is
    /// noted as time.
    pub fn tick(&mut self, now: Instant, at: Time) -> Health {
        let health = self.health();
        let failing = matches!(health, Health::Failing { .. });
        if self.backoff.is_due(failing, now) {
            // A full queue means that the writer is at work; the next tick asks again.
            let _ = self.appender.inbox.try_send(Message::Retry { at });
        }
        health
    }

    /// When [`Journal::tick`] has something to do; nothing while all is well.
    pub fn wake_at(&self) -> Option<Instant> {
        self.backoff.at
    }

    /// Writes all that waits and a clean stop, makes it durable and ends the thread.
    ///
    /// # Errors
    /// [`CloseError`]: the next start finds an unclean stop.
    pub fn close(self, at: Time, deadline: Instant) -> Result<(), CloseError> {
        let (reply, answer): (Sender<Result<(), Errno>>, _) = bounded(1);
        let sent = self.appender.inbox.send_deadline(Message::Close { at, reply }, deadline);
        sent.map_err(|e| if e.is_timeout() { CloseError::Late } else { CloseError::Gone })?;
        let result = answer.recv_deadline(deadline).map_err(|e| match e {
            crossbeam::channel::RecvTimeoutError::Timeout => CloseError::Late,
            crossbeam::channel::RecvTimeoutError::Disconnected => CloseError::Gone,
        })?;
        self.thread.join().map_err(|_| CloseError::Gone)?;
        result.map_err(CloseError::Failing)
    }
}

fn wants_ring(calls: Calls) -> bool {
    if calls == Calls::Plain {
        return false;
    }
    match sys::uring::probe() {
        Ok(()) => true,
        Err(reason) => {
            warn!(%reason, "the journal is written with plain calls");
            false
        }
    }
}

fn make(ring: bool, shared: &Shared) -> Box<dyn JournalIo> {
    if ring {
        match RingIo::new() {
            Ok(ring) => return Box::new(ring),
            Err(reason) => {
                warn!(%reason, "the journal is written with plain calls");
                shared.without_ring();
            }
        }
    }
    Box::new(PlainIo::default())
}

/// When to try again. No clock in it.
#[derive(Debug, Default)]
struct Backoff {
    at: Option<Instant>,
    wait: Duration,
}

impl Backoff {
    fn is_due(&mut self, failing: bool, now: Instant) -> bool {
        if !failing {
            *self = Self::default();
            return false;
        }
        match self.at {
            None => {
                self.wait = RETRY_FIRST;
                self.at = Some(now + self.wait);
                false
            }
            Some(at) if now >= at => {
                self.wait = (self.wait * 2).min(RETRY_LAST);
                self.at = Some(now + self.wait);
                true
            }
            Some(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_later_and_later_and_start_anew_after_a_success() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut backoff = Backoff::default();
        assert!(!backoff.is_due(false, start) && backoff.at.is_none());
        assert!(!backoff.is_due(true, start));
        let mut tried = Vec::new();
        for ms in (0..40_000).step_by(50) {
            if backoff.is_due(true, after(ms)) {
                tried.push(ms);
            }
        }
        assert_eq!(tried, [100, 300, 700, 1500, 3100, 6300, 12_700, 22_700, 32_700]);
        assert!(!backoff.is_due(false, after(40_000)) && backoff.at.is_none());
        assert!(!backoff.is_due(true, after(40_000)) && backoff.at == Some(after(40_100)));
    }
}
