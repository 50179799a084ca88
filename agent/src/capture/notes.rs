//! Between the dirty set and the journal: the same hints, in the words of each.

use std::time::Instant;

use proto::journal::{DirHandle, GapCause, Handle};
use proto::{Hint, Note};
use sys::fanotify::{handle, key};

use super::dirty::{Dirty, Gap};
use crate::journal::{AppendError, Appender, Want};

/// Hints of one note, within what the format allows.
const HINTS_MAX: usize = 1024;

/// The hint for a name.
pub fn name(dir: &[u8], name: &[u8]) -> Hint {
    Hint::Name { dir: DirHandle(of(dir)), name: name.to_vec() }
}

/// The hint for an object.
pub fn object(object: &[u8]) -> Hint {
    Hint::Object { handle: of(object) }
}

/// The hint for a directory that may have been outside before.
pub fn tree(dir: &[u8]) -> Hint {
    Hint::Tree { dir: DirHandle(of(dir)) }
}

fn of(bytes: &[u8]) -> Handle {
    let sys::Handle { fsid, kind, bytes } = handle(bytes);
    Handle { fsid, kind, bytes: bytes.into() }
}

fn key_of(handle: &Handle) -> Box<[u8]> {
    key(&sys::Handle { fsid: handle.fsid, kind: handle.kind, bytes: handle.bytes.clone().into() })
}

/// All that is in a set.
pub fn all(dirty: &Dirty) -> Vec<Hint> {
    if dirty.whole().is_some() {
        return vec![Hint::Whole];
    }
    let mut hints: Vec<Hint> = dirty.objects.iter().map(|key| object(key)).collect();
    hints.extend(dirty.arrived.iter().map(|key| tree(key)));
    for (dir, names) in &dirty.dirs {
        for (this, content) in names {
            hints.push(name(dir, this));
            hints.extend(content.as_deref().map(object));
        }
    }
    hints
}

/// Takes a hint of an earlier run into a set.
pub fn take_in(dirty: &mut Dirty, hint: &Hint, now: Instant) {
    match hint {
        Hint::Name { dir, name } => {
            dirty.name(&key_of(&dir.0), name, None, now);
        }
        Hint::Object { handle } => {
            dirty.object(&key_of(handle), now);
        }
        Hint::Tree { dir } => dirty.arrived(&key_of(&dir.0), now),
        Hint::Whole => dirty.gap(Gap::Journal, now),
    }
}

/// What the journal calls a gap; nothing for one that is no loss.
pub fn cause(gap: Gap) -> Option<GapCause> {
    match gap {
        Gap::Start | Gap::Journal => Some(GapCause::AgentDown),
        Gap::QueueOverflow => Some(GapCause::QueueOverflow),
        Gap::UnknownRecord | Gap::LostHandle => Some(GapCause::UnknownRecord),
        Gap::NoCapture => Some(GapCause::NoCapture),
        Gap::TooMany | Gap::Safety | Gap::Asked | Gap::Arrived => None,
    }
}

/// Notes a gap.
pub fn gap(gap: Gap) -> Note {
    cause(gap).map_or(Note::Hint(Hint::Whole), Note::Gap)
}

/// Appends hints, in order. What a journal cannot hold is said in it as a look at everything; one that cannot be written
/// gets a gap as soon as it can.
pub fn append(journal: &Appender, hints: Vec<Hint>) {
    let mut hints = hints.into_iter().peekable();
    while hints.peek().is_some() {
        let some: Vec<Hint> = hints.by_ref().take(HINTS_MAX).collect();
        if let Err(error @ AppendError::Bad { .. }) =
            journal.append(crate::cycle::now(), vec![Note::Hints(some)], Want::Written)
        {
            // Of a batch that is refused nothing is noted: the next start has to look at everything.
            tracing::error!(%error, "the journal refuses what the kernel said; a gap is noted instead");
            let gap = Note::Gap(GapCause::UnknownRecord);
            let _ = journal.append(crate::cycle::now(), vec![gap], Want::Written);
        }
    }
}
