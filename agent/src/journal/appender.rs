//! What producers hold: a way to append, and a ticket for what was appended.

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use proto::Time;
use proto::journal::{BadNote, Note, Seq};
use sys::Errno;

/// Notes of one call: with the greatest of them, the queue stays within a few hundred MiB; with usual ones, within one.
pub const BATCH_NOTES_MAX: usize = 1024;

/// What a producer wants to be told soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// That the kernel has it: it survives the death of this process. It becomes durable within 200 ms.
    Written,
    /// That the disk has it: it survives the death of the host. Asks for an fdatasync at once.
    Durable,
}

/// Where notes are numbered: from `first`, up to and without `next`, in order. Notes that the writer repeats at the
/// beginning of a segment may lie between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub first: Seq,
    /// The one behind the last.
    pub next: Seq,
}

/// Why notes are not in the journal. Whoever gets this holds the only copy of what it noted, and has a gap if it
/// cannot keep it; the journal gets a gap of its own as soon as it can be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It cannot be written.
    #[error("the journal cannot be written: {errno}")]
    Failed {
        /// What the kernel says.
        errno: Errno,
    },
    /// It was closed before.
    #[error("the journal is closed")]
    Closed,
}

/// Why notes were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A note that no journal can hold.
    #[error("note {index} of the batch: {source}")]
    Bad {
        /// Which.
        index: usize,
        /// Why.
        #[source]
        source: BadNote,
    },
    /// Too many at once.
    #[error("{0} notes at once, where {BATCH_NOTES_MAX} may be")]
    TooMany(usize),
    /// The queue is full: here they are again.
    #[error("the queue of the journal is full")]
    Full(Vec<Note>),
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

/// How far notes have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// They wait.
    Waiting,
    /// The kernel has them.
    Written(Numbers),
    /// The disk has them.
    Durable(Numbers),
    /// They are lost.
    Lost(Lost),
}

/// What goes to the writer.
pub(super) enum Message {
    /// Notes.
    Append { at: Time, notes: Vec<Note>, want: Want, reply: Sender<Ack> },
    /// Try to write again.
    Retry { at: Time },
    /// Note a clean stop and end.
    Close { at: Time, reply: Sender<Result<(), Errno>> },
}

/// What comes back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ack {
    Written(Numbers),
    Durable,
    Lost(Errno),
}

/// Appends notes to a journal; any number of threads may hold one.
#[derive(Clone)]
pub struct Appender {
    pub(super) inbox: Sender<Message>,
}

impl Appender {
    /// Appends notes in order, seen at `at`. Waits while the queue is full: the producer is to slow down, and
    /// the kernel's queue in front of it has no bound. No note: a ticket for all that was appended before.
    ///
    /// # Errors
    /// [`AppendError`]; then none of them was taken.
    pub fn append(&self, at: Time, notes: Vec<Note>, want: Want) -> Result<Ticket, AppendError> {
        check(&notes)?;
        let (message, ticket) = message(at, notes, want);
        self.inbox.send(message).map_err(|_| AppendError::Closed)?;
        Ok(ticket)
    }

    /// As [`Appender::append`], but does not wait.
    ///
    /// # Errors
    /// [`AppendError::Full`] hands the notes back.
    pub fn try_append(&self, at: Time, notes: Vec<Note>, want: Want) -> Result<Ticket, AppendError> {
        check(&notes)?;
        let (message, ticket) = message(at, notes, want);
        match self.inbox.try_send(message) {
            Ok(()) => Ok(ticket),
            Err(TrySendError::Full(Message::Append { notes, .. })) => Err(AppendError::Full(notes)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(AppendError::Closed),
        }
    }
}

fn check(notes: &[Note]) -> Result<(), AppendError> {
    if notes.len() > BATCH_NOTES_MAX {
        return Err(AppendError::TooMany(notes.len()));
    }
    notes
        .iter()
        .enumerate()
        .try_for_each(|(index, note)| note.check().map_err(|source| AppendError::Bad { index, source }))
}

fn message(at: Time, notes: Vec<Note>, want: Want) -> (Message, Ticket) {
    // Room for both acknowledgements: the writer never waits for a producer.
    let (reply, acks) = bounded(2);
    (Message::Append { at, notes, want, reply }, Ticket { acks, reached: Reached::Waiting })
}

/// A claim on what was appended. It may be dropped: the notes are written all the same.
#[must_use = "without its ticket nobody learns that notes were lost"]
pub struct Ticket {
    acks: Receiver<Ack>,
    reached: Reached,
}

impl Ticket {
    /// How far the notes have come by now.
    pub fn poll(&mut self) -> Reached {
        while !self.is_settled() {
            match self.acks.try_recv() {
                Ok(ack) => self.handle(Some(ack)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.handle(None),
            }
        }
        self.reached
    }

    /// Waits until the kernel has the notes.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn written(&mut self) -> Result<Numbers, Lost> {
        loop {
            match self.reached {
                Reached::Written(numbers) | Reached::Durable(numbers) => return Ok(numbers),
                Reached::Lost(lost) => return Err(lost),
                Reached::Waiting => self.handle(self.acks.recv().ok()),
            }
        }
    }

    /// Waits until the disk has the notes.
    ///
    /// # Errors
    /// [`Lost`]; also of notes that the kernel had already.
    pub fn durable(&mut self) -> Result<Numbers, Lost> {
        loop {
            match self.reached {
                Reached::Durable(numbers) => return Ok(numbers),
                Reached::Lost(lost) => return Err(lost),
                Reached::Waiting | Reached::Written(_) => self.handle(self.acks.recv().ok()),
            }
        }
    }

    fn is_settled(&self) -> bool {
        matches!(self.reached, Reached::Durable(_) | Reached::Lost(_))
    }

    fn handle(&mut self, ack: Option<Ack>) {
        self.reached = match (ack, self.reached) {
            (Some(Ack::Written(numbers)), _) => Reached::Written(numbers),
            (Some(Ack::Durable), Reached::Written(numbers)) => Reached::Durable(numbers),
            (Some(Ack::Durable), reached) => reached,
            (Some(Ack::Lost(errno)), _) => Reached::Lost(Lost::Failed { errno }),
            (None, _) => Reached::Lost(Lost::Closed),
        };
    }
}
