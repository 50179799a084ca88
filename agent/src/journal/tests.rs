//! The writer over calls that fail on command.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::bounded;
use proto::journal::{BootId, GapCause, Seq};
use proto::{JournalRecord, LaneId, Note, Time};
use sys::Errno;

use super::appender::Message;
use super::io::{JournalIo, PlainIo};
use super::open::Progress;
use super::replay::{self, Expect};
use super::writer::{Shared, Writer};
use super::*;

const SOUND: u8 = 0;
/// fdatasync says `EIO`.
const SYNC_FAILS: u8 = 1;
/// Half of a write is done, and `ENOSPC`.
const HALF_A_WRITE: u8 = 2;
/// The same, and the half cannot be taken back: the writer cuts another file.
const HALF_A_WRITE_STAYS: u8 = 3;

struct FaultyIo {
    inner: PlainIo,
    file: Option<File>,
    mood: Arc<AtomicU8>,
}

impl JournalIo for FaultyIo {
    fn adopt(&mut self, file: File) {
        self.file = Some(file.try_clone().unwrap());
        self.inner.adopt(file);
    }

    fn write(&mut self, bytes: Vec<u8>, offset: u64) -> (Result<(), Errno>, Vec<u8>) {
        let mood = self.mood.load(Ordering::SeqCst);
        if mood != HALF_A_WRITE && mood != HALF_A_WRITE_STAYS {
            return self.inner.write(bytes, offset);
        }
        self.file.as_ref().unwrap().write_all_at(&bytes[..bytes.len() / 2], offset).unwrap();
        (Err(Errno::NOSPC), bytes)
    }

    fn sync(&mut self) -> Result<(), Errno> {
        if self.mood.load(Ordering::SeqCst) == SYNC_FAILS { Err(Errno::IO) } else { self.inner.sync() }
    }
}

struct Site {
    dir: tempfile::TempDir,
    mood: Arc<AtomicU8>,
    shared: Arc<Shared>,
    appender: Appender,
    thread: JoinHandle<()>,
}

fn expect() -> Expect {
    Expect { lane: LaneId([1; 16]), boot: BootId([2; 16]), known: false, replay_bytes: 1 << 20 }
}

impl Site {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let progress = Progress { health: Health::Writing, next: Seq(1), bytes: 0, segments: 0, ring: false };
        let shared = Arc::new(Shared::new(progress));
        let (inbox, messages) = bounded(16);
        let (lane, boot) = (expect().lane, expect().boot);
        let place = (dir.path().to_owned(), lane, boot, Limits::default());
        let found = replay::read(dir.path(), &expect());
        let mut writer = Writer::new(place, messages, shared.clone(), found, Time::default());
        writer.start();
        let mood = Arc::new(AtomicU8::new(SOUND));
        let thread = std::thread::spawn({
            let mood = mood.clone();
            move || writer.run(Box::new(FaultyIo { inner: PlainIo::default(), file: None, mood }))
        });
        Self { dir, mood, shared, appender: Appender { inbox }, thread }
    }

    fn say(&self, token: u64) -> Result<Numbers, Lost> {
        let notes = vec![Note::Barrier { token }];
        self.appender.append(Time::default(), notes, Want::Durable).unwrap().durable()
    }

    fn retry(&self) {
        self.appender.inbox.send(Message::Retry { at: Time::default() }).unwrap();
    }

    /// Ends as if killed; returns what the next start reads.
    fn end(self) -> Replay {
        drop(self.appender);
        self.thread.join().unwrap();
        replay::read(self.dir.path(), &expect()).replay
    }
}

fn notes(records: &[JournalRecord]) -> Vec<Note> {
    records.iter().map(|record| record.note.clone()).collect()
}

/// Fails on a weakened build: leave the gap out of `Writer::fail`, or acknowledge before the sync.
#[test]
fn what_fails_is_told_and_becomes_a_gap() {
    for (mood, errno) in
        [(SYNC_FAILS, Errno::IO), (HALF_A_WRITE, Errno::NOSPC), (HALF_A_WRITE_STAYS, Errno::NOSPC)]
    {
        let site = Site::start();
        site.say(1).unwrap();
        let held = std::fs::read_dir(site.dir.path()).unwrap().next().unwrap().unwrap().path();
        site.mood.store(mood, Ordering::SeqCst);
        assert_eq!(site.say(2), Err(Lost::Failed { errno }));
        assert_eq!(site.shared.get().health, Health::Failing { errno });
        // While it fails nobody waits, and nothing is promised.
        assert_eq!(site.say(3), Err(Lost::Failed { errno }));
        if mood == HALF_A_WRITE_STAYS {
            let file = File::options().append(true).open(&held).unwrap();
            file.write_all_at(&[9; 20], file.metadata().unwrap().len()).unwrap();
        }
        site.mood.store(SOUND, Ordering::SeqCst);
        site.retry();
        site.say(4).unwrap();
        assert_eq!(site.shared.get().health, Health::Writing);
        let replay = site.end();
        assert_eq!(replay.gaps, [], "mood {mood}");
        let said = |token| Note::Barrier { token };
        let gap = Note::Gap(GapCause::JournalFailed);
        let expected = match mood {
            // The second was written, and only its sync failed: that it is read is no harm.
            SYNC_FAILS => vec![said(1), said(2), gap, said(4)],
            _ => vec![said(1), gap, said(4)],
        };
        assert_eq!(notes(&replay.records), expected, "mood {mood}");
        let numbers: Vec<u64> = replay.records.iter().map(|record| record.seq.0).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "no number twice: {numbers:?}");
    }
}

/// A restart that was killed before its first note must not hide how the run before it ended.
#[test]
fn an_empty_restart_hides_nothing() {
    let site = Site::start();
    site.say(1).unwrap();
    // Something that a segment begun later repeats.
    site.appender.append(Time::default(), vec![Note::Paused], Want::Durable).unwrap().durable().unwrap();
    let dir = site.dir.path().to_owned();
    let other = Expect { boot: BootId([3; 16]), ..expect() };
    for _ in 0..3 {
        let found = replay::read(&dir, &other);
        assert_eq!((found.replay.stop, found.replay.boot), (Stop::Unclean, Boot::Other));
        let (_inbox, messages) = bounded(1);
        let shared = Arc::new(Shared::new(site.shared.get()));
        let place = (dir.clone(), other.lane, other.boot, Limits::default());
        Writer::new(place, messages, shared, found, Time::default()).start();
    }
    assert_eq!(super::store::list(&dir).unwrap().unwrap().segments, [Seq(1), Seq(3)]);
    site.end();
}

/// More notes wait than a restart takes into memory: they become a gap, and no gap among them is forgotten.
#[test]
fn a_replay_is_bounded() {
    let site = Site::start();
    site.appender
        .append(Time::default(), vec![Note::Gap(GapCause::UncleanStop)], Want::Written)
        .unwrap()
        .written()
        .unwrap();
    for token in 0..100 {
        site.say(token).unwrap();
    }
    let small = Expect { replay_bytes: 500, ..expect() };
    let found = replay::read(site.dir.path(), &small);
    assert_eq!(found.replay.gaps, [GapCause::JournalFull, GapCause::UncleanStop]);
    let held: usize = found.replay.records.len();
    assert!(held < 40, "{held} records");
    // What is published since needs no memory and is no gap.
    let published = Note::Published { upto: Seq(101), generation: proto::Generation(1) };
    site.appender.append(Time::default(), vec![published], Want::Durable).unwrap().durable().unwrap();
    assert_eq!(replay::read(site.dir.path(), &small).replay.gaps, []);
    site.end();
}
