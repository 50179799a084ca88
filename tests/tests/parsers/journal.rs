//! The decoder of the change journal, and the reader that follows its files.

use std::fs;
use std::path::PathBuf;

use agent::journal::{Read, Reader};
use harness::trees::Rng;
use proto::codec::{decode, encode};
use proto::frame::{self, FRAME_HEADER_BYTES, FrameKind};
use proto::journal::scan::peek_record;
use proto::journal::segment::{self, MAGIC, put_header, take_header};
use proto::journal::{
    BootId, DirHandle, GapCause, Handle, Hint, Listed, OpenFile, Scan, SegmentHeader, Seq, Verdict,
    put_record,
};
use proto::{Cut, Generation, JournalRecord, LaneId, Note, RelPath, Time};

use super::mutate::{bytes, mutate};
use super::{Bound, run};

/// What a forged length may claim of the decoder (`proto::codec`), with room for the vector behind it; and what a search for
/// sound frames keeps of an input.
const CLAIM: Bound = Bound { always: 20 << 20, times: 16 };

const CAUSES: [GapCause; 9] = [
    GapCause::QueueOverflow,
    GapCause::AgentDown,
    GapCause::UncleanStop,
    GapCause::DamagedJournal,
    GapCause::LostDescriptor,
    GapCause::UnknownRecord,
    GapCause::NoCapture,
    GapCause::JournalFull,
    GapCause::JournalFailed,
];

fn handle(rng: &mut Rng) -> Handle {
    let mut fsid = [0; 8];
    rng.fill(&mut fsid);
    let len = *rng.pick(&[0, 8, 8, 8, 12, 20, 128]);
    Handle { fsid, kind: rng.bits() as i32, bytes: rng.bytes(len) }
}

fn name(rng: &mut Rng) -> Vec<u8> {
    let len = *rng.pick(&[1, 3, 8, 30, 255]);
    let mut name = rng.bytes(len);
    name.iter_mut().filter(|byte| matches!(byte, 0 | b'/' | b'.')).for_each(|byte| *byte = b'x');
    name
}

fn hint(rng: &mut Rng) -> Hint {
    match rng.below(6) {
        0 => Hint::Object { handle: handle(rng) },
        1 => Hint::Tree { dir: DirHandle(handle(rng)) },
        2 => Hint::Whole,
        3 => Hint::Name { dir: DirHandle(handle(rng)), name: b".".to_vec() },
        _ => Hint::Name { dir: DirHandle(handle(rng)), name: name(rng) },
    }
}

fn note(rng: &mut Rng) -> Note {
    let upto = Seq(rng.below(5));
    let generation = Generation(rng.bits());
    match rng.below(12) {
        0 => Note::Hint(hint(rng)),
        1 | 2 => Note::Hints((0..rng.between(1, 6)).map(|_| hint(rng)).collect()),
        3 => Note::Gap(*rng.pick(&CAUSES)),
        4 => {
            let file = |rng: &mut Rng| OpenFile { dir: DirHandle(handle(rng)), name: name(rng) };
            let files = (0..rng.index(4)).map(|_| file(rng)).collect();
            Note::Writing { files, listed: if rng.percent(50) { Listed::All } else { Listed::TooMany } }
        }
        5 => Note::Cut { upto, cut: if rng.percent(50) { Cut::Exact } else { Cut::Fuzzy } },
        6 => Note::Sealed { upto, generation },
        7 => Note::Published { upto, generation },
        8 => {
            let parts: Vec<Vec<u8>> = (0..rng.index(4)).map(|_| name(rng)).collect();
            let path = RelPath::new(&parts.join(&b'/')).expect("a sound path");
            Note::Quarantined { path, errno: rng.bits() as i32, reason: "open it".to_owned() }
        }
        9 => Note::Barrier { token: rng.bits() },
        10 => Note::Paused,
        _ => Note::CleanStop,
    }
}

/// A segment that begins with `first`, 5 at least, and what it says.
fn segment(rng: &mut Rng, first: u64) -> (Vec<u8>, Vec<JournalRecord>) {
    let header = SegmentHeader {
        lane: LaneId([1; 16]),
        boot: BootId([2; 16]),
        first: Seq(first),
        begun: Time { sec: rng.bits() as i64, nsec: rng.bits() as u32 },
    };
    let mut bytes = Vec::new();
    put_header(&mut bytes, &header).expect("header");
    let (mut records, mut seq) = (Vec::new(), header.first);
    for _ in 0..rng.index(6) {
        let at = Time { sec: rng.bits() as i64, nsec: rng.bits() as u32 };
        let record = JournalRecord { seq, at, note: note(rng) };
        put_record(&mut bytes, &record).expect("record");
        seq = record.next().expect("a number");
        records.push(record);
    }
    (bytes, records)
}

/// A segment whose bodies are changed and whose checksums are right again: what the decoder alone has to withstand.
fn forged(rng: &mut Rng) -> Vec<u8> {
    let (whole, _) = segment(rng, 5);
    let mut out = MAGIC.to_vec();
    let mut rest = &whole[MAGIC.len()..];
    while let Ok(frame) = frame::take(rest) {
        let mut body = frame.body.to_vec();
        if rng.percent(50) {
            mutate(rng, &mut body, &[]);
        }
        let kind = if rng.percent(3) {
            *rng.pick(&[FrameKind::LogOp, FrameKind::JournalHeader, FrameKind::JournalRecord])
        } else if frame.kind == FrameKind::JournalHeader as u8 {
            FrameKind::JournalHeader
        } else {
            FrameKind::JournalRecord
        };
        frame::put(&mut out, kind, &body);
        rest = &rest[frame.len..];
    }
    out
}

fn any_segment(rng: &mut Rng) -> Vec<u8> {
    match rng.below(10) {
        0 => bytes(rng, 2000),
        1 => {
            let (mut whole, _) = segment(rng, 5);
            let header = take_header(&whole).expect("header").1;
            whole.truncate(header);
            whole.extend(bytes(rng, 2000));
            whole
        }
        2..=5 => forged(rng),
        _ => {
            let (mut whole, _) = segment(rng, 5);
            mutate(rng, &mut whole, &[&MAGIC, &[0, 0, 0, 0], &[17, 1], &[0xff; 4]]);
            whole
        }
    }
}

/// A record that a reader gave out obeys the format, and is a record still when it is written again.
fn is_sound(record: &JournalRecord) {
    record.check().expect("within its bounds");
    assert_eq!(decode::<JournalRecord>(&encode(record).expect("encodes")).as_ref(), Ok(record));
}

#[test]
fn no_bytes_harm_the_scanner() {
    run(
        "journal, scanner",
        CLAIM,
        |rng| (any_segment(rng), ()),
        |bytes, ()| {
            let _ = take_header(bytes);
            for from in [0, 1, MAGIC.len(), bytes.len() / 2] {
                if let Some((record, len)) = peek_record(bytes.get(from..).unwrap_or_default()) {
                    is_sound(&record);
                    assert!(len >= FRAME_HEADER_BYTES && len <= bytes.len());
                }
            }
            let Ok(mut scan) = Scan::new(bytes) else { return };
            let mut next = scan.header().first;
            while let Some(record) = scan.next() {
                is_sound(&record);
                assert_eq!(record.seq, next);
                next = scan.next_seq();
            }
            let at = scan.at();
            match scan.verdict().expect("a verdict at the end") {
                Verdict::Clean => assert_eq!(at, bytes.len()),
                Verdict::TornTail { at: told }
                | Verdict::Corrupt { at: told }
                | Verdict::Newer { at: told } => {
                    assert_eq!(told, at);
                    assert!(at < bytes.len());
                }
            }
            assert!(scan.next().is_none(), "it goes on behind its verdict");
        },
    );
}

/// Any change of a byte behind the header is seen: what is read is a beginning of what was written.
#[test]
fn a_changed_segment_never_gives_another_record() {
    let make = |rng: &mut Rng| {
        let (mut bytes, records) = segment(rng, 5);
        let header = take_header(&bytes).expect("header").1;
        let mut behind = bytes.split_off(header);
        mutate(rng, &mut behind, &[&[0, 0, 0, 0], &[17, 1]]);
        bytes.extend(behind);
        (bytes, records)
    };
    run("journal, changed", CLAIM, make, |bytes, records| {
        let scan = Scan::new(bytes).expect("the header is untouched");
        for (read, written) in scan.zip(&records) {
            assert_eq!(read, *written);
        }
    });
}

/// The files of a journal as a disk may give them back: a reader comes to an end, whatever they hold, and says only records.
#[test]
fn no_files_harm_the_reader() {
    let base = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let dir = base.path();
    let make = |rng: &mut Rng| {
        let mut first = rng.between(5, 9);
        let mut files = Vec::new();
        for _ in 0..rng.between(1, 3) {
            let (mut bytes, records) = segment(rng, first);
            let next = records.last().and_then(JournalRecord::next).map_or(first, |next| next.0);
            match rng.below(10) {
                0..=3 => mutate(rng, &mut bytes, &[&MAGIC]),
                4 => bytes = any_segment(rng),
                _ => {}
            }
            files.push((segment::name(Seq(first)), bytes));
            // Empty, repeated and missing numbers among them.
            first = next.max(first + 1) + if rng.percent(20) { rng.below(3) } else { 0 };
        }
        let input = files.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        (input, files)
    };
    // A reader reads a MiB at a time, and a segment whole to judge it.
    let bound = Bound { always: 48 << 20, times: 16 };
    run("journal, reader of files", bound, make, |_, files| {
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
        for (path, (_, bytes)) in paths.iter().zip(&files) {
            fs::write(path, bytes).expect("written");
        }
        let mut reader = Reader::open(dir).expect("opens");
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 200, "it does not end");
            match reader.read().expect("readable files") {
                Read::End => break,
                Read::Record(record) => is_sound(&record),
                Read::Missed { from, to } => assert!(from < to),
                Read::Damaged { segment, .. } | Read::Newer { segment, .. } => {
                    assert!(files.iter().any(|(name, _)| *name == segment::name(segment)));
                }
                Read::Begun(header) => assert!(header.first >= Seq(1)),
            }
        }
        assert_eq!(reader.read().expect("still"), Read::End);
        paths.iter().for_each(|path| fs::remove_file(path).expect("removed"));
    });
}
