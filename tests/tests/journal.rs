//! The change journal on a real file system: what was acknowledged is there after `kill -9`, and whatever is wrong
//! with the bytes or the disk ends as a gap, never as a wrong record and never in silence.
//!
//! Fails on a weakened build: acknowledge before the write; leave the search for sound frames out of the scanner;
//! begin a segment after an error without its gap; leave the look for the file's name out of the sync.

#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::journal::{
    AppendError, Boot, Calls, Health, Journal, Limits, Lost, Opening, Past, Progress, Published, Read,
    Reader, Replay, Stop, Want,
};
use common::in_memory;
use harness::gate::{Need, require};
use proto::journal::segment::take_header;
use proto::journal::{BootId, DirHandle, GapCause, Handle, Hint, Listed, OpenFile, Seq};
use proto::{Generation, JournalRecord, LaneId, Note, Time};
use sys::Errno;

const LANE: LaneId = LaneId([1; 16]);
const BOOT: BootId = BootId([2; 16]);
const RING: Need = Need::Check("io_uring", || sys::uring::probe().map_err(|e| e.to_string()));

fn time(sec: u64) -> Time {
    Time { sec: sec as i64, nsec: 0 }
}

fn opening() -> Opening {
    Opening { lane: LANE, boot: BOOT, past: Past::New, calls: Calls::Plain, limits: Limits::default() }
}

/// Segments of a few hundred bytes, so that everything about them happens soon.
fn small() -> Opening {
    Opening { limits: Limits { segment_bytes: 400, ..Limits::default() }, ..opening() }
}

fn open(dir: &Path, opening: &Opening) -> (Journal, Replay) {
    Journal::open(dir, opening, time(0)).expect("a thread")
}

fn close(journal: Journal) {
    journal.close(time(9), Instant::now() + Duration::from_secs(30)).expect("a clean stop");
}

fn barrier(token: u64) -> Note {
    Note::Barrier { token }
}

/// Waits until the writer has ended its last round, with all that follows an acknowledgement.
fn settle(journal: &Journal) -> Progress {
    for _ in 0..2 {
        journal.appender().append(time(0), vec![], Want::Durable).unwrap().durable().unwrap();
    }
    journal.progress()
}

/// Appends barriers and waits until they are durable.
fn say(journal: &Journal, tokens: std::ops::Range<u64>) {
    for token in tokens {
        journal
            .appender()
            .append(time(token), vec![barrier(token)], Want::Durable)
            .unwrap()
            .durable()
            .unwrap();
    }
}

fn notes(records: &[JournalRecord]) -> Vec<Note> {
    records.iter().map(|record| record.note.clone()).collect()
}

fn tokens(records: &[JournalRecord]) -> Vec<u64> {
    let token = |record: &JournalRecord| match record.note {
        Note::Barrier { token } => Some(token),
        _ => None,
    };
    records.iter().filter_map(token).collect()
}

/// All files of a directory, name and content.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(dir).unwrap().map(entry).collect()
}

/// The journal as a kill at this moment would leave it.
fn copy(dir: &Path, target: &Path) {
    let _ = fs::remove_dir_all(target);
    fs::create_dir(target).unwrap();
    for (name, bytes) in files(dir) {
        fs::write(target.join(name), bytes).unwrap();
    }
}

fn dir_handle(n: u8) -> DirHandle {
    DirHandle(Handle { fsid: [3; 8], kind: 1, bytes: vec![n; 8] })
}

// ---- kill -9 ----

const DIR: &str = "TIDEGATE_TEST_JOURNAL";
const RING_WANTED: &str = "TIDEGATE_TEST_JOURNAL_RING";
const ACKED: &str = "acknowledged up to ";

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    if !require(&[RING]) {
        return;
    }
    for ring in ["1", "0"] {
        for round in 0..12 {
            let base = in_memory();
            let dir = base.path().join("journal");
            let acked = kill_a_writer(&dir, ring, round * round * 3 + 1);
            let (journal, replay) = open(&dir, &small());
            assert_eq!(replay.gaps, [], "round {round}");
            assert_eq!((replay.stop, replay.boot), (Stop::Unclean, Boot::Same));
            let found = tokens(&replay.records);
            assert!(found.len() as u64 >= acked, "{acked} acknowledged, {} found", found.len());
            assert!(found.iter().copied().eq(0..found.len() as u64), "each one, in order: {found:?}");
            close(journal);
        }
    }
}

/// Starts the helper below, kills it after `lines` acknowledgements, and returns how many notes were acknowledged.
fn kill_a_writer(dir: &Path, ring: &str, lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_writes_until_it_is_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(RING_WANTED, ring)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acked = 0;
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        // A line that the kill cut short has no end marker.
        let Some((_, number)) = line.split_once(ACKED) else { continue };
        let Some(number) = number.strip_suffix('.') else { continue };
        acked = number.parse().unwrap();
        seen += 1;
        if seen == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= lines, "the helper ended by itself after {seen} acknowledgements");
    acked
}

#[test]
#[ignore = "run by the test of kill -9"]
fn helper_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let ring = std::env::var_os(RING_WANTED).is_some_and(|wanted| wanted == "1");
    let opening = Opening { calls: if ring { Calls::Ring } else { Calls::Plain }, ..small() };
    let (journal, _) = open(&PathBuf::from(dir), &opening);
    let mut token = 0;
    for batch in (1..=7).cycle() {
        let notes: Vec<Note> = (token..token + batch).map(barrier).collect();
        token += batch;
        let want = if batch == 3 { Want::Durable } else { Want::Written };
        journal.appender().append(time(token), notes, want).unwrap().written().unwrap();
        println!("{ACKED}{token}.");
    }
}

// ---- bytes ----

#[test]
fn both_ways_to_write_give_identical_bytes() {
    if !require(&[RING]) {
        return;
    }
    let base = in_memory();
    let write = |calls, ring| {
        let dir = base.path().join(format!("{calls:?}"));
        let (journal, _) = open(&dir, &Opening { calls, ..small() });
        let appender = journal.appender();
        for n in 0..60_u64 {
            let hint = Hint::Name { dir: dir_handle(n as u8), name: format!("file {n}").into_bytes() };
            let batch = vec![barrier(n), Note::Hints(vec![hint, Hint::Whole]), Note::Paused];
            let want = if n % 5 == 0 { Want::Durable } else { Want::Written };
            appender.append(time(n), batch, want).unwrap().written().unwrap();
        }
        assert_eq!(journal.progress().ring, ring);
        close(journal);
        files(&dir)
    };
    let (ring, plain) = (write(Calls::Ring, true), write(Calls::Plain, false));
    assert!(plain.len() > 5, "{} segments", plain.len());
    assert_eq!(ring, plain);
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_what_was_not_whole() {
    let base = in_memory();
    let (dir, torn) = (base.path().join("journal"), base.path().join("torn"));
    let (journal, _) = open(&dir, &opening());
    say(&journal, 0..6);
    let (name, whole) = files(&dir).pop_first().unwrap();
    let frame = 14 + 9; // Head of a frame; number, time and token are small.
    for cut in whole.len() - 3 * frame..whole.len() {
        copy(&dir, &torn);
        fs::write(torn.join(&name), &whole[..cut]).unwrap();
        let (again, replay) = open(&torn, &opening());
        let kept = tokens(&replay.records);
        assert!(kept.iter().copied().eq(0..kept.len() as u64) && kept.len() >= 2, "cut at {cut}: {kept:?}");
        assert_eq!((replay.gaps.len(), replay.stop), (0, Stop::Unclean), "cut at {cut}");
        say(&again, 100..101);
        close(again);
        let (again, replay) = open(&torn, &opening());
        let after: Vec<u64> = kept.into_iter().chain([100]).collect();
        assert_eq!(tokens(&replay.records), after, "cut at {cut}");
        assert_eq!((replay.gaps.len(), replay.stop), (0, Stop::Clean), "cut at {cut}");
        close(again);
    }
    close(journal);
}

#[test]
fn a_byte_flipped_anywhere_is_a_gap_and_never_a_wrong_record() {
    let base = in_memory();
    let (dir, bad) = (base.path().join("journal"), base.path().join("bad"));
    let (journal, _) = open(&dir, &small());
    say(&journal, 0..50);
    let segments = files(&dir);
    assert!(segments.len() >= 3, "{:?}", segments.keys());
    let (first_name, first) = segments.first_key_value().unwrap();
    let (_, header) = take_header(first).unwrap();
    let (last_name, last) = segments.last_key_value().unwrap();
    for (name, whole) in &segments {
        for at in 0..whole.len() {
            copy(&dir, &bad);
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            fs::write(bad.join(name), bytes).unwrap();
            let (again, replay) = open(&bad, &small());
            if name == last_name && replay.gaps.is_empty() {
                // Only in the last frame of all, which cannot be told from one that was never whole.
                assert!(at >= last.len() - 30, "{name} at {at}: no gap");
                assert_eq!(tokens(&replay.records), (0..49).collect::<Vec<_>>(), "{name} at {at}");
                close(again);
                continue;
            }
            // Without the first header nothing says that the host did not stop meanwhile.
            let gaps = [GapCause::DamagedJournal, GapCause::UncleanStop];
            let gaps = if name == first_name && at < header { &gaps[..] } else { &gaps[..1] };
            assert_eq!(replay.gaps, gaps, "{name} at {at}");
            assert_eq!((replay.records.len(), &replay.writing), (0, &None), "{name} at {at}");
            // Killed now, the next start finds the gap in the journal, and the damaged segment set aside.
            drop(again);
            let found = files(&bad);
            assert_eq!(found.len(), 2, "{:?}", found.keys());
            assert_eq!(found[&format!("{name}.damaged")].len(), whole.len());
            let (again, replay) = open(&bad, &small());
            let noted: Vec<Note> = gaps.iter().map(|cause| Note::Gap(*cause)).collect();
            assert_eq!(notes(&replay.records), noted, "{name} at {at}");
            assert_eq!(replay.gaps, []);
            close(again);
        }
    }
    close(journal);
}

#[test]
fn a_missing_segment_is_a_gap() {
    let base = in_memory();
    let (dir, bad) = (base.path().join("journal"), base.path().join("bad"));
    let (journal, _) = open(&dir, &small());
    say(&journal, 0..40);
    let names: Vec<String> = files(&dir).into_keys().collect();
    for name in &names[..names.len() - 1] {
        copy(&dir, &bad);
        fs::remove_file(bad.join(name)).unwrap();
        let (again, replay) = open(&bad, &small());
        assert_eq!(replay.gaps, [GapCause::DamagedJournal], "without {name}");
        close(again);
    }
    close(journal);
}

/// A host may go back to an older program: the journal is a hint, so it need not stand still.
#[test]
fn a_journal_of_a_newer_program_is_a_gap() {
    let base = in_memory();
    let (dir, newer) = (base.path().join("journal"), base.path().join("newer"));
    let (journal, _) = open(&dir, &opening());
    say(&journal, 0..3);
    copy(&dir, &newer);
    close(journal);
    let (name, mut bytes) = files(&newer).pop_first().unwrap();
    let covered = [&[1, 0, 0, 0, 17, 2][..], &[0]].concat();
    bytes.extend_from_slice(&covered[..4]);
    bytes.extend_from_slice(&blake3::hash(&covered).as_bytes()[..8]);
    bytes.extend_from_slice(&covered[4..]);
    fs::write(newer.join(name), bytes).unwrap();
    let (journal, replay) = open(&newer, &opening());
    assert_eq!((replay.gaps, replay.records.len()), (vec![GapCause::UnknownRecord], 0));
    close(journal);
}

#[test]
fn a_segment_that_cannot_be_read_is_a_gap() {
    let base = in_memory();
    let (journal, _) = open(base.path(), &small());
    say(&journal, 0..40);
    close(journal);
    let names: Vec<String> = files(base.path()).into_keys().collect();
    fs::remove_file(base.path().join(&names[1])).unwrap();
    fs::create_dir(base.path().join(&names[1])).unwrap();
    let (journal, replay) = open(base.path(), &small());
    assert_eq!((replay.gaps, replay.records.len()), (vec![GapCause::DamagedJournal], 0));
    close(journal);
    let (journal, replay) = open(base.path(), &small());
    assert_eq!((replay.gaps.len(), replay.stop), (0, Stop::Clean));
    close(journal);
}

// ---- starts and stops ----

#[test]
fn how_a_run_ended_is_known() {
    let base = in_memory();
    let (dir, killed) = (base.path().join("journal"), base.path().join("killed"));
    let (journal, replay) = open(&dir, &opening());
    assert_eq!((replay.stop, replay.boot, replay.gaps.len()), (Stop::Unknown, Boot::Unknown, 0));
    say(&journal, 0..3);
    copy(&dir, &killed);
    close(journal);
    let other = Opening { boot: BootId([9; 16]), ..opening() };
    for (dir, stop) in [(&dir, Stop::Clean), (&killed, Stop::Unclean)] {
        // Opened and killed again before a note: the answer stays.
        for _ in 0..2 {
            let (journal, replay) = open(dir, &other);
            assert_eq!((replay.stop, replay.boot, replay.gaps.len()), (stop, Boot::Other, 0));
            assert_eq!(tokens(&replay.records), [0, 1, 2]);
            drop(journal);
        }
        let (journal, _) = open(dir, &other);
        say(&journal, 3..4);
        close(journal);
        let (journal, replay) = open(dir, &other);
        assert_eq!((replay.stop, replay.boot, replay.gaps.len()), (Stop::Clean, Boot::Same, 0));
        assert_eq!(tokens(&replay.records), [0, 1, 2, 3]);
        close(journal);
    }
}

#[test]
fn a_directory_that_is_gone_is_a_gap_if_the_lane_was_known() {
    let base = in_memory();
    let known = Opening { past: Past::Known, ..opening() };
    let expected = [GapCause::DamagedJournal, GapCause::UncleanStop];
    for there in [false, true] {
        let dir = base.path().join(format!("journal-{there}"));
        if there {
            fs::create_dir(&dir).unwrap();
        }
        let (journal, replay) = open(&dir, &known);
        assert_eq!(replay.gaps, expected);
        close(journal);
        let (journal, replay) = open(&dir, &known);
        assert_eq!(replay.gaps, []);
        assert_eq!(notes(&replay.records), [&expected.map(Note::Gap)[..], &[Note::CleanStop]].concat());
        close(journal);
    }
    let (journal, replay) = open(&base.path().join("new"), &opening());
    assert_eq!(replay.gaps, []);
    close(journal);
}

#[test]
fn another_lanes_journal_is_a_gap() {
    let base = in_memory();
    let (journal, _) = open(base.path(), &opening());
    say(&journal, 0..3);
    close(journal);
    let other = Opening { lane: LaneId([8; 16]), ..opening() };
    let (journal, replay) = open(base.path(), &other);
    let gaps = vec![GapCause::DamagedJournal, GapCause::UncleanStop];
    assert_eq!((replay.gaps, replay.records.len()), (gaps, 0));
    close(journal);
}

// ---- cursor and bounds ----

#[test]
fn what_is_published_is_forgotten_and_nothing_else() {
    let base = in_memory();
    let (dir, killed) = (base.path().join("journal"), base.path().join("killed"));
    let (journal, _) = open(&dir, &small());
    let appender = journal.appender();
    let file = OpenFile { dir: dir_handle(1), name: b"log".to_vec() };
    let writing = Note::Writing { files: vec![file], listed: Listed::All };
    appender.append(time(0), vec![writing.clone(), Note::Paused], Want::Durable).unwrap().durable().unwrap();
    say(&journal, 0..100);
    let before = settle(&journal);
    let hints = Note::Hints((0..10).map(|n| Hint::Tree { dir: dir_handle(n) }).collect());
    let numbers = appender.append(time(1), vec![hints], Want::Durable).unwrap().durable().unwrap();
    // The cursor passes four of the ten.
    let upto = Seq(numbers.next.0 - 7);
    let published = Note::Published { upto, generation: Generation(5) };
    appender.append(time(2), vec![published], Want::Durable).unwrap().durable().unwrap();
    let after = settle(&journal);
    assert!(before.segments > 5 && after.segments <= 3, "{before:?} {after:?}");
    assert_eq!(files(&dir).len(), after.segments);
    copy(&dir, &killed);
    close(journal);
    let (journal, replay) = open(&killed, &small());
    assert_eq!(replay.gaps, []);
    assert_eq!(replay.published, Some(Published { upto, generation: Generation(5) }));
    assert!(replay.paused);
    let held = replay.writing.expect("the list").files;
    assert!(matches!(&writing, Note::Writing { files, .. } if *files == held));
    assert!(tokens(&replay.records).is_empty());
    let left: Vec<Hint> = (4..10).map(|n| Hint::Tree { dir: dir_handle(n) }).collect();
    let hints = replay.records.iter().find(|record| matches!(record.note, Note::Hints(_))).expect("the rest");
    assert_eq!((hints.seq, &hints.note), (Seq(upto.0 + 1), &Note::Hints(left)));
    close(journal);
}

/// A restart repeats nothing, so the segment with the list has to stay until a later one repeats it.
#[test]
fn the_list_of_open_files_outlives_the_cursor() {
    let base = in_memory();
    let file = OpenFile { dir: dir_handle(1), name: b"log".to_vec() };
    let writing = Note::Writing { files: vec![file.clone()], listed: Listed::All };
    let (journal, _) = open(base.path(), &small());
    journal.appender().append(time(0), vec![writing], Want::Written).unwrap().written().unwrap();
    close(journal);
    for more in [1, 100, 1] {
        let (journal, replay) = open(base.path(), &small());
        assert_eq!(replay.writing.expect("the list").files, std::slice::from_ref(&file));
        say(&journal, 0..more);
        let upto = Seq(settle(&journal).next.0 - 1);
        let published = Note::Published { upto, generation: Generation(1) };
        journal.appender().append(time(1), vec![published], Want::Durable).unwrap().durable().unwrap();
        let segments = settle(&journal).segments;
        assert!(segments <= 3, "{segments} segments");
        close(journal);
    }
    let (journal, replay) = open(base.path(), &small());
    assert_eq!((replay.writing.expect("the list").files, replay.gaps.len()), (vec![file], 0));
    close(journal);
}

#[test]
fn a_journal_that_is_full_is_dropped_and_says_so() {
    let base = in_memory();
    let dir = base.path().join("journal");
    let limits = Limits { segment_bytes: 400, total_bytes: 4000, ..Limits::default() };
    let bounded = Opening { limits, ..opening() };
    let (journal, _) = open(&dir, &bounded);
    for token in 0..1000 {
        journal
            .appender()
            .append(time(token), vec![barrier(token)], Want::Written)
            .unwrap()
            .written()
            .unwrap();
        let held: usize = files(&dir).values().map(Vec::len).sum();
        assert!(held <= 4000 + 600, "{held} bytes");
    }
    close(journal);
    let (journal, replay) = open(&dir, &bounded);
    assert_eq!(replay.gaps, []);
    assert_eq!(replay.records[0].note, Note::Gap(GapCause::JournalFull));
    let kept = tokens(&replay.records);
    assert!(kept.iter().copied().eq(1000 - kept.len() as u64..1000), "the last ones: {kept:?}");
    close(journal);
}

#[test]
fn what_no_journal_can_hold_is_refused() {
    let base = in_memory();
    let (journal, _) = open(base.path(), &opening());
    let bad = vec![Note::Paused, Note::Hint(Hint::Name { dir: dir_handle(1), name: b"a/b".to_vec() })];
    let refused = journal.appender().append(time(1), bad, Want::Written).err();
    assert!(matches!(refused, Some(AppendError::Bad { index: 1, .. })), "{refused:?}");
    let many = journal.appender().append(time(1), vec![Note::Paused; 1025], Want::Written).err();
    assert_eq!(many, Some(AppendError::TooMany(1025)));
    let appender = journal.appender();
    close(journal);
    let late = appender.append(time(1), vec![Note::Paused], Want::Written);
    let lost = match late {
        Err(error) => error == AppendError::Closed,
        Ok(mut ticket) => ticket.written() == Err(Lost::Closed),
    };
    assert!(lost, "an append after the close went somewhere");
}

// ---- disks ----

/// A tmpfs of its own; unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn of(size: &str) -> Self {
        let dir = in_memory();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(done.unwrap().success());
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Lets the clock of the caller run until the journal is tried again, and waits for the answer.
fn recover(journal: &mut Journal, clock: &mut Instant) -> Result<(), Lost> {
    journal.tick(*clock, time(50));
    *clock = journal.wake_at().expect("a failing journal wants to be tried again");
    journal.tick(*clock, time(50));
    // No note: an answer for what the queue held before.
    journal.appender().append(time(50), vec![], Want::Durable).unwrap().durable().map(drop)
}

#[test]
fn a_full_disk_fails_visibly_and_recovers_with_a_gap() {
    if !require(&[Need::Root, RING]) {
        return;
    }
    for calls in [Calls::Ring, Calls::Plain] {
        let disk = Tmpfs::of("400k");
        let dir = disk.0.path().join("journal");
        let ballast = disk.0.path().join("ballast");
        fs::write(&ballast, vec![1; 200 << 10]).unwrap();
        let limits = Limits { segment_bytes: 40 << 10, ..Limits::default() };
        let opening = Opening { calls, limits, ..opening() };
        let (mut journal, _) = open(&dir, &opening);
        let appender = journal.appender();
        let mut acked = 0;
        let lost = loop {
            let batch: Vec<Note> = (acked..acked + 100).map(barrier).collect();
            match appender.append(time(acked), batch, Want::Written).unwrap().written() {
                Ok(_) => acked += 100,
                Err(lost) => break lost,
            }
            assert!(acked < 100_000, "the disk never fills");
        };
        assert_eq!(lost, Lost::Failed { errno: Errno::NOSPC });
        assert_eq!(journal.health(), Health::Failing { errno: Errno::NOSPC });
        let mut clock = Instant::now();
        // Still full: still failing. (The last page may have room for a segment that begins with a gap: fill it.)
        let filler = disk.0.path().join("filler");
        while fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&filler)
            .is_ok_and(|mut file| std::io::Write::write_all(&mut file, &[1; 4096]).is_ok())
        {}
        assert_eq!(recover(&mut journal, &mut clock), Err(Lost::Failed { errno: Errno::NOSPC }));
        fs::remove_file(&ballast).unwrap();
        recover(&mut journal, &mut clock).expect("room again");
        assert_eq!(journal.health(), Health::Writing);
        say(&journal, 1_000_000..1_000_010);
        close(journal);
        let (journal, replay) = open(&dir, &opening);
        assert_eq!(replay.gaps, []);
        let gaps: Vec<usize> = (0..replay.records.len())
            .filter(|i| replay.records[*i].note == Note::Gap(GapCause::JournalFailed))
            .collect();
        assert_eq!(gaps.len(), 1, "{calls:?}");
        let before = tokens(&replay.records[..gaps[0]]);
        assert!(before.iter().copied().eq(0..acked), "{acked} acknowledged, {} there", before.len());
        assert_eq!(tokens(&replay.records[gaps[0]..]), (1_000_000..1_000_010).collect::<Vec<_>>());
        close(journal);
    }
}

#[test]
fn a_start_with_a_full_disk_waits_for_room() {
    if !require(&[Need::Root]) {
        return;
    }
    let disk = Tmpfs::of("64k");
    let ballast = disk.0.path().join("ballast");
    let _ = fs::write(&ballast, vec![1; 128 << 10]);
    let dir = disk.0.path().join("journal");
    let (mut journal, _) = open(&dir, &opening());
    assert_eq!(journal.health(), Health::Failing { errno: Errno::NOSPC });
    fs::remove_file(&ballast).unwrap();
    recover(&mut journal, &mut Instant::now()).expect("room");
    say(&journal, 0..1);
    close(journal);
    let (journal, replay) = open(&dir, &opening());
    assert_eq!(notes(&replay.records), [Note::Gap(GapCause::JournalFailed), barrier(0), Note::CleanStop]);
    close(journal);
}

#[test]
fn a_directory_removed_under_it_is_noticed() {
    let base = in_memory();
    let dir = base.path().join("journal");
    let (mut journal, _) = open(&dir, &opening());
    say(&journal, 0..3);
    fs::remove_dir_all(&dir).unwrap();
    let lost = journal.appender().append(time(3), vec![barrier(3)], Want::Durable).unwrap().durable();
    assert_eq!(lost, Err(Lost::Failed { errno: Errno::NOENT }));
    assert_eq!(journal.health(), Health::Failing { errno: Errno::NOENT });
    recover(&mut journal, &mut Instant::now()).expect("made anew");
    say(&journal, 4..6);
    close(journal);
    let (journal, replay) = open(&dir, &Opening { past: Past::Known, ..opening() });
    assert_eq!(
        notes(&replay.records),
        [Note::Gap(GapCause::JournalFailed), barrier(4), barrier(5), Note::CleanStop]
    );
    assert_eq!(replay.gaps, []);
    close(journal);
}

// ---- readers ----

#[test]
fn a_reader_follows_across_segments_while_they_are_written() {
    const COUNT: u64 = 3000;
    let base = in_memory();
    let dir = base.path().join("journal");
    let (journal, _) = open(&dir, &small());
    let before = files(&dir);
    let reader = std::thread::spawn({
        let dir = dir.clone();
        move || {
            let mut reader = Reader::open(&dir).unwrap();
            let mut found = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(60);
            while Instant::now() < deadline {
                match reader.read().unwrap() {
                    Read::Record(record) if record.note == Note::CleanStop => return found,
                    Read::Record(record) => found.push(record),
                    Read::Begun(_) => {}
                    Read::End => std::thread::yield_now(),
                    other => panic!("{other:?}"),
                }
            }
            panic!("no end of it: {} records", found.len())
        }
    });
    for token in 0..COUNT {
        let ticket = journal.appender().append(time(token), vec![barrier(token)], Want::Written).unwrap();
        drop(ticket);
    }
    close(journal);
    let found = reader.join().unwrap();
    assert!(tokens(&found).into_iter().eq(0..COUNT));
    assert!(files(&dir).len() > before.len() + 10);
    let json = serde_json::to_value(&found[7]).unwrap();
    let expected = serde_json::json!({"seq": 8, "at": "7.000000000", "note": {"barrier": {"token": 7}}});
    assert_eq!(json, expected);
}

#[test]
fn a_reader_says_what_it_missed_and_what_is_damaged() {
    let base = in_memory();
    let (dir, bad) = (base.path().join("journal"), base.path().join("bad"));
    assert!(Reader::open(&dir).is_err());
    let (journal, _) = open(&dir, &small());
    say(&journal, 0..10);
    let mut reader = Reader::open(&dir).unwrap();
    assert!(matches!(reader.read().unwrap(), Read::Begun(header) if header.first == Seq(1)));
    assert!(matches!(reader.read().unwrap(), Read::Record(record) if record.note == barrier(0)));
    say(&journal, 10..100);
    let upto = Seq(settle(&journal).next.0 - 3);
    let published = Note::Published { upto, generation: Generation(1) };
    journal.appender().append(time(1), vec![published], Want::Durable).unwrap().durable().unwrap();
    settle(&journal);
    let mut all = Vec::new();
    loop {
        match reader.read().unwrap() {
            Read::End => break,
            read => all.push(read),
        }
    }
    assert_eq!(all.iter().filter(|read| matches!(read, Read::Missed { .. })).count(), 1, "{all:?}");
    assert!(matches!(all.last(), Some(Read::Record(_))));
    // Damage in the middle of the last segment is told though no segment follows.
    say(&journal, 100..105);
    copy(&dir, &bad);
    let (name, mut bytes) = files(&dir).pop_last().unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 1;
    fs::write(bad.join(&name), bytes).unwrap();
    let before = files(&bad);
    let mut reader = Reader::open(&bad).unwrap();
    let mut damaged = 0;
    loop {
        match reader.read().unwrap() {
            Read::End => break,
            Read::Damaged { .. } => damaged += 1,
            Read::Begun(_) | Read::Record(_) | Read::Missed { .. } => {}
            other @ Read::Newer { .. } => panic!("{other:?}"),
        }
    }
    assert_eq!(damaged, 1);
    assert_eq!(files(&bad), before, "a reader changes nothing");
    close(journal);
}

/// What a follower has open may be replaced under its name, or begin anew with numbers that it has passed.
#[test]
fn a_reader_follows_a_segment_that_is_replaced_and_a_journal_that_begins_anew() {
    let base = in_memory();
    let dir = base.path().join("journal");
    let (journal, _) = open(&dir, &opening());
    let mut reader = Reader::open(&dir).unwrap();
    let mut read = || {
        let mut found = Vec::new();
        loop {
            match reader.read().unwrap() {
                Read::Record(record) => found.push(record),
                Read::Begun(_) => {}
                Read::End => return notes(&found),
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(read(), []);
    let segment = |first| dir.join(proto::journal::segment::name(Seq(first)));
    let ino = || fs::metadata(segment(1)).unwrap().ino();
    let first = ino();
    drop(journal);
    let (journal, _) = open(&dir, &opening());
    assert_ne!(ino(), first, "it is another file under the same name");
    say(&journal, 0..3);
    assert_eq!(read(), [barrier(0), barrier(1), barrier(2)]);
    close(journal);
    assert_eq!(read(), [Note::CleanStop]);
    for round in 0..2 {
        fs::remove_dir_all(&dir).unwrap();
        if round == 1 {
            assert_eq!(read(), [], "nothing is there for now");
        }
        let (journal, _) = open(&dir, &opening());
        say(&journal, 7..8);
        assert_eq!(read(), [barrier(7)]);
        close(journal);
        assert_eq!(read(), [Note::CleanStop]);
    }
}

// ---- many ----

#[test]
fn many_producers_keep_their_order() {
    let base = in_memory();
    let (journal, _) = open(base.path(), &small());
    std::thread::scope(|scope| {
        for producer in 0..4_u64 {
            let appender = journal.appender();
            scope.spawn(move || {
                for n in 0..200 {
                    let batch = vec![barrier(producer << 32 | n)];
                    let mut ticket = appender.append(time(n), batch, Want::Written).unwrap();
                    if n % 50 == 0 {
                        ticket.durable().unwrap();
                    }
                }
            });
        }
    });
    close(journal);
    let (journal, replay) = open(base.path(), &small());
    let all = tokens(&replay.records);
    assert_eq!(all.len(), 800);
    for producer in 0..4 {
        let own = all.iter().filter(|token| **token >> 32 == producer).map(|token| token & 0xffff_ffff);
        assert!(own.eq(0..200), "producer {producer}");
    }
    close(journal);
}

/// Printed, not asserted: a number without its machine is no result.
#[test]
fn a_million_hints() {
    const BATCHES: u64 = 1000;
    for calls in [Calls::Best, Calls::Plain] {
        let base = tempfile::tempdir().unwrap();
        let (journal, _) = open(base.path(), &Opening { calls, ..opening() });
        let Progress { ring, .. } = journal.progress();
        let appender = journal.appender();
        let begun = Instant::now();
        for batch in 0..BATCHES {
            let hint = |n: u64| Hint::Name {
                dir: dir_handle((n % 50) as u8),
                name: format!("build-{batch}-{n}.log").into_bytes(),
            };
            let hints = Note::Hints((0..1000).map(hint).collect());
            drop(appender.append(time(batch), vec![hints], Want::Written).unwrap());
        }
        appender.append(time(0), vec![], Want::Durable).unwrap().durable().unwrap();
        let took = begun.elapsed();
        let bytes = settle(&journal).bytes;
        println!(
            "a million hints, {}: {:.2} s, {:.0} hints per ms, {:.1} bytes each",
            if ring { "io_uring" } else { "plain calls" },
            took.as_secs_f64(),
            1e6 / took.as_secs_f64() / 1e3,
            bytes as f64 / 1e6
        );
        assert!(bytes > 10 << 20, "{bytes} bytes");
        close(journal);
    }
}
