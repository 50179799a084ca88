//! The stored bytes of the journal, format version 1, frozen as those of the ledger are: `docs/formats/journal.md`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p tidegate-proto --test golden_journal` writes the fixture.
//!
//! Fails on a weakened build: swap two fields of `JournalRecord`, or two variants of `Note`, `Hint` or `GapCause`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use proto::codec::{decode, encode};
use proto::journal::segment::{MAGIC, put_header};
use proto::journal::*;
use proto::*;

fn handle(kind: i32) -> Handle {
    Handle { fsid: [0xf0, 1, 2, 3, 4, 5, 6, 7], kind, bytes: vec![0xaa, 0, 0xbb, 250, 251] }
}

fn dir() -> DirHandle {
    DirHandle(handle(1))
}

fn header() -> SegmentHeader {
    SegmentHeader {
        lane: LaneId([0x10; 16]),
        boot: BootId([0xb0; 16]),
        first: Seq(7),
        begun: Time { sec: 1_795_000_000, nsec: 1 },
    }
}

/// Every variant of every enum of the format.
fn notes() -> Vec<Note> {
    let name = Hint::Name { dir: dir(), name: b"a \xff name".to_vec() };
    let causes = [
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
    let mut notes = vec![
        Note::Hint(name.clone()),
        Note::Hints(vec![name, Hint::Object { handle: handle(-2) }, Hint::Tree { dir: dir() }, Hint::Whole]),
    ];
    notes.extend(causes.map(Note::Gap));
    notes.extend([
        Note::Writing { files: vec![OpenFile { dir: dir(), name: b"log".to_vec() }], listed: Listed::All },
        Note::Writing { files: vec![], listed: Listed::TooMany },
        Note::Cut { upto: Seq(8), cut: Cut::Exact },
        Note::Cut { upto: Seq(9), cut: Cut::Fuzzy },
        Note::Sealed { upto: Seq(9), generation: Generation(250) },
        Note::Published { upto: Seq(9), generation: Generation(251) },
        Note::Quarantined {
            path: RelPath::new(b"a/b").expect("a sound path"),
            errno: 13,
            reason: "darf nicht gelesen werden".to_owned(),
        },
        Note::Barrier { token: u64::MAX },
        Note::Paused,
        Note::Resumed,
        Note::CleanStop,
    ]);
    notes
}

fn records() -> Vec<JournalRecord> {
    let mut seq = header().first;
    let numbered = notes().into_iter().enumerate().map(|(i, note)| {
        let record = JournalRecord { seq, at: Time { sec: 1_795_000_000 + i as i64, nsec: 5 }, note };
        seq = record.next().expect("a number");
        record
    });
    numbered.collect()
}

#[test]
fn a_segment_with_every_note() {
    let mut now = Vec::new();
    put_header(&mut now, &header()).expect("header");
    for record in records() {
        put_record(&mut now, &record).expect("record");
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/journal.bin");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).expect("write the fixture");
    }
    let stored = std::fs::read(&path).expect("fixture; if the format is new, write it with UPDATE_GOLDEN=1");
    let differs = stored.iter().zip(&now).position(|(a, b)| a != b);
    assert!(
        stored == now,
        "{} bytes stored, {} encoded today, first difference at {differs:?}. Installed hosts could not read what \
         this build writes: append variants and fields in a new version instead",
        stored.len(),
        now.len(),
    );
    let mut scan = Scan::new(&stored).expect("header of the fixture");
    assert_eq!(scan.header(), &header());
    assert_eq!(scan.by_ref().collect::<Vec<_>>(), records());
    assert_eq!(scan.verdict(), Some(Verdict::Clean));
}

/// The example of `docs/formats/journal.md`, written by hand from its rules, but for the checksum.
#[test]
fn the_example_of_the_document() {
    let note = Note::Barrier { token: 5 };
    let mut bytes = Vec::new();
    put_record(&mut bytes, &JournalRecord { seq: Seq(7), at: Time { sec: 1_795_000_000, nsec: 5 }, note })
        .expect("record");
    let body = [7, 0xfc, 0x80, 0x0d, 0xfb, 0xd5, 5, 8, 5];
    let covered = [&[9, 0, 0, 0, 17, 1][..], &body].concat();
    assert_eq!(bytes[..4], [9, 0, 0, 0]);
    assert_eq!(bytes[4..12], blake3::hash(&covered).as_bytes()[..8]);
    assert_eq!(bytes[12..14], [17, 1]);
    assert_eq!(bytes[14..], body);
    let document = include_str!("../../docs/formats/journal.md");
    let hex: Vec<String> = bytes[4..12].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(document.contains(&hex.join(" ")), "the document should say checksum {}", hex.join(" "));
}

#[test]
fn a_segment_starts_with_its_magic() {
    let mut bytes = Vec::new();
    put_header(&mut bytes, &header()).expect("header");
    assert_eq!(bytes[..8], *b"tgjrnl\r\n");
    assert_eq!(bytes[..8], MAGIC);
    assert_eq!(bytes[8 + 12..8 + 14], [16, 1]);
    // Lane, boot, first, begun.
    let body = [&[0x10; 16][..], &[0xb0; 16], &[7, 0xfc, 0x80, 0x0d, 0xfb, 0xd5, 1]].concat();
    assert_eq!(bytes[8 + 14..], body);
}

/// The numbers of the document: a match without a catch-all makes a new variant fail to compile until it has its line.
#[test]
fn variant_numbers() {
    for note in notes() {
        let number = match note {
            Note::Hint(_) => 0,
            Note::Hints(_) => 1,
            Note::Gap(_) => 2,
            Note::Writing { .. } => 3,
            Note::Cut { .. } => 4,
            Note::Sealed { .. } => 5,
            Note::Published { .. } => 6,
            Note::Quarantined { .. } => 7,
            Note::Barrier { .. } => 8,
            Note::Paused => 9,
            Note::Resumed => 10,
            Note::CleanStop => 11,
        };
        assert_eq!(encode(&note).expect("encode")[0], number, "{note:?}");
        if let Note::Gap(cause) = note {
            let number = match cause {
                GapCause::QueueOverflow => 0,
                GapCause::AgentDown => 1,
                GapCause::UncleanStop => 2,
                GapCause::DamagedJournal => 3,
                GapCause::LostDescriptor => 4,
                GapCause::UnknownRecord => 5,
                GapCause::NoCapture => 6,
                GapCause::JournalFull => 7,
                GapCause::JournalFailed => 8,
            };
            assert_eq!(encode(&cause).expect("encode"), [number], "{cause:?}");
        }
        if let Note::Hints(hints) = note {
            for hint in hints {
                let number = match hint {
                    Hint::Name { .. } => 0,
                    Hint::Object { .. } => 1,
                    Hint::Tree { .. } => 2,
                    Hint::Whole => 3,
                };
                assert_eq!(encode(&hint).expect("encode")[0], number, "{hint:?}");
            }
        }
    }
    assert_eq!(encode(&Listed::All).expect("encode"), [0]);
    assert_eq!(encode(&Listed::TooMany).expect("encode"), [1]);
    let zeros = |first| {
        let mut bytes = vec![0; 64];
        bytes[0] = first;
        bytes
    };
    for (what, refused) in [
        ("note 12", decode::<Note>(&zeros(12)).is_err()),
        ("hint 4", decode::<Hint>(&[4]).is_err()),
        ("cause 9", decode::<GapCause>(&[9]).is_err()),
        ("listed 2", decode::<Listed>(&[2]).is_err()),
    ] {
        assert!(refused, "{what}");
    }
}
