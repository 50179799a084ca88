//! The stored bytes of format version 1, frozen: what an installed tidegate wrote stays readable, and what this
//! one writes an installed one can read. `docs/formats/ledger.md` explains every byte.
//!
//! A changed fixture is a changed format: `UPDATE_GOLDEN=1 cargo test -p tidegate-proto --test golden` writes
//! them, and the diff belongs into the document's version history.
//!
//! Fails on a weakened build: swap two fields of any record, or two variants of any enum.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::path::PathBuf;

use proto::codec::{Decode, Encode, decode, encode};
use proto::frame::{self, decode_file, encode_file};
use proto::log::{LogReader, LogRecord, LogWriter};
use proto::*;

const LANE: LaneId =
    LaneId([0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f]);
const NODE: NodeId = NodeId([0xa0; 16]);

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a sound path")
}

fn name(n: u64) -> StagedName {
    StagedName { run: 0x0123_4567_89ab_cdef, n }
}

fn time(sec: i64, nsec: u32) -> Time {
    Time { sec, nsec }
}

fn entry(body: Body) -> Entry {
    Entry {
        body,
        mode: 0o2755,
        uid: 1000,
        gid: 70_000,
        mtime: time(1_795_000_000, 123_456_789),
        xattrs: vec![(b"user.a".to_vec(), b"\0\xff".to_vec()), (b"user.b".to_vec(), Vec::new())],
        linked: false,
        origin: Origin {
            ino: 5_000_000_000,
            btime: Some(time(1_794_999_999, 1)),
            ctime: time(1_795_000_001, 999_999_999),
            racy: false,
        },
    }
}

fn small_file() -> Entry {
    Entry {
        linked: true,
        xattrs: Vec::new(),
        origin: Origin { ino: 250, btime: None, ctime: time(-1, 0), racy: true },
        ..entry(Body::File(FileBody { size: 250, hash: [0x55; 32], blocks: Vec::new() }))
    }
}

fn large_file() -> Entry {
    entry(Body::File(FileBody {
        size: (1 << 20) + 1,
        hash: [0x66; 32],
        blocks: vec![[0x77; 32], [0x88; 32]],
    }))
}

fn totals() -> Totals {
    Totals { dirs: 1, files: 250, others: 251, bytes: 65_536, quarantined: 1 << 32, left_out: u64::MAX }
}

fn header() -> LogHeader {
    LogHeader {
        lane: LANE,
        generation: Generation(42),
        epoch: Epoch(7),
        node: NODE,
        previous: [0x33; 32],
        volume: (2, Some(time(1_700_000_000, 5))),
    }
}

/// Files that grow: operations that came later than those of [`ops`], in a fixture of their own.
fn grows() -> Vec<Op> {
    let grow = |path, via, tail| Op::Grow { path, via, from: 5 << 20, tail, entry: large_file() };
    vec![grow(path("a/log"), name(4), Some(name(5))), grow(path("a/mode"), name(6), None)]
}

/// Every other variant of every enum of the format, in the order of a real log.
fn ops() -> Vec<Op> {
    let exception = |class, errno| Exception {
        class,
        reason: "größer als erlaubt".to_owned(),
        errno,
        since: time(1_795_000_000, 0),
    };
    vec![
        Op::Out { path: path("a/b/gone"), to: Leaves::Trash(name(1 << 40)) },
        Op::Out { path: path("a/moved"), to: Leaves::Stage(name(1)) },
        Op::Install { path: path("new"), staged: name(2), entry: entry(Body::Dir), source: Source::Fresh },
        Op::Below { path: path("new/small"), entry: small_file() },
        Op::Below { path: path("new/large"), entry: large_file() },
        Op::Below { path: path("new/link"), entry: entry(Body::Symlink(b"../\xff target".to_vec())) },
        Op::Below { path: path("new/pipe"), entry: entry(Body::Fifo) },
        Op::Install { path: path("new/moved"), staged: name(1), entry: large_file(), source: Source::Moved },
        Op::Dir { path: RelPath::root(), entry: entry(Body::Dir), work: DirWork::Times },
        Op::Dir { path: path("a"), entry: entry(Body::Dir), work: DirWork::All },
        Op::Except { path: path("sock"), exception: exception(ExceptionClass::LeftOut, 0) },
        Op::Except { path: path("bad"), exception: exception(ExceptionClass::Quarantined, 5) },
        Op::Clear { path: path("good again") },
        Op::Facts { path: path("touched"), entry: small_file() },
    ]
}

fn log_bytes(ops: Vec<Op>) -> (Vec<u8>, Vec<LogRecord>) {
    let mut bytes = Vec::new();
    let mut records = vec![LogRecord::Header(header())];
    let mut writer = LogWriter::start(&header(), &mut bytes).expect("header");
    for op in ops {
        writer.op(&op, &mut bytes).expect("op");
        records.push(LogRecord::Op(op));
    }
    let halted = Some("deletions exceed the limit".to_owned());
    let trailer =
        writer.finish(Cut::Fuzzy, totals(), halted, time(1_795_000_002, 7), &mut bytes).expect("trailer");
    records.push(LogRecord::Trailer(trailer));
    (bytes, records)
}

fn read_log(mut bytes: &[u8]) -> Result<Vec<LogRecord>, FrameError> {
    let mut reader = LogReader::default();
    let mut records = Vec::new();
    while !reader.is_complete() {
        let (record, used) = reader.next(bytes)?;
        records.push(record);
        bytes = &bytes[used..];
    }
    assert!(bytes.is_empty(), "{} bytes behind the trailer", bytes.len());
    Ok(records)
}

/// The stored bytes of a fixture, after comparing them with `now`.
fn golden(file: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).expect("write the fixture");
    }
    let stored = std::fs::read(&path).unwrap_or_else(|e| {
        panic!("fixture tests/data/{file}: {e}; if the format is new, write it with UPDATE_GOLDEN=1")
    });
    let differs = stored.iter().zip(now).position(|(a, b)| a != b);
    assert!(
        stored == now,
        "{file}: {} bytes stored, {} encoded today, first difference at {differs:?}. Installed hosts could not \
         read what this build writes: append variants and fields in a new version instead",
        stored.len(),
        now.len(),
    );
    stored
}

fn golden_file<T: Encode + Decode<()> + PartialEq + Debug>(file: &str, kind: FrameKind, value: &T) {
    let stored = golden(file, &encode_file(kind, value).expect("encode"));
    assert_eq!(&decode_file::<T>(kind, &stored).expect("decode the fixture"), value);
}

fn lane() -> LaneRecord {
    LaneRecord { id: LANE, created: time(1_795_000_000, 5), host: "alpha".to_owned() }
}

#[test]
fn the_file_lane() {
    golden_file("lane.bin", FrameKind::Lane, &lane());
}

#[test]
fn the_file_epoch() {
    let record = EpochRecord {
        epoch: Epoch(7),
        node: NODE,
        host: "alpha".to_owned(),
        claimed: time(1_795_000_000, 6),
    };
    golden_file("epoch.bin", FrameKind::Epoch, &record);
}

#[test]
fn the_file_head() {
    let head = Head {
        generation: Generation(42),
        epoch: Epoch(7),
        log_hash: [0x44; 32],
        manifest: Generation(0),
        cut: Cut::Exact,
        totals: totals(),
        halted: None,
        sealed: time(1_795_000_002, 7),
        published: time(1_795_000_003, 8),
    };
    golden_file("head.bin", FrameKind::Head, &head);
}

#[test]
fn a_log_with_every_operation() {
    for (file, ops) in [("log.bin", ops()), ("log-grow.bin", grows())] {
        let (bytes, records) = log_bytes(ops);
        let stored = golden(file, &bytes);
        assert_eq!(read_log(&stored).expect("decode the fixture"), records);
    }
}

/// The example of `docs/formats/ledger.md`, written by hand from its rules, but for the checksum.
#[test]
fn the_example_of_the_document() {
    let mut body = vec![];
    body.extend_from_slice(&LANE.0);
    body.extend_from_slice(&[252, 0x80, 0x0d, 0xfb, 0xd5]); // 3,590,000,000: zigzag of 1,795,000,000
    body.push(5);
    body.push(5);
    body.extend_from_slice(b"alpha");
    let bytes = encode_file(FrameKind::Lane, &lane()).expect("encode");
    assert_eq!(bytes[..4], [28, 0, 0, 0]);
    assert_eq!(bytes[12..14], [5, 1]);
    assert_eq!(bytes[14..], body);
    let mut covered = vec![28, 0, 0, 0, 5, 1];
    covered.extend_from_slice(&body);
    assert_eq!(bytes[4..12], blake3::hash(&covered).as_bytes()[..8]);
}

#[test]
fn integers_are_varints() {
    for (value, bytes) in [
        (0_u64, &[0][..]),
        (250, &[250]),
        (251, &[251, 251, 0]),
        (0xffff, &[251, 0xff, 0xff]),
        (0x1_0000, &[252, 0, 0, 1, 0]),
        (0xffff_ffff, &[252, 0xff, 0xff, 0xff, 0xff]),
        (0x1_0000_0000, &[253, 0, 0, 0, 0, 1, 0, 0, 0]),
        (u64::MAX, &[253, 255, 255, 255, 255, 255, 255, 255, 255]),
    ] {
        assert_eq!(encode(&value).expect("encode"), bytes, "{value}");
        assert_eq!(decode::<u64>(bytes).expect("decode"), value);
    }
    for (value, byte) in [(0_i64, 0), (-1, 1), (1, 2), (-2, 3), (125, 250)] {
        assert_eq!(encode(&value).expect("encode"), [byte], "{value}");
        assert_eq!(decode::<i64>(&[byte]).expect("decode"), value);
    }
    // Longer than needed is read, and means the same.
    assert_eq!(decode::<u64>(&[253, 5, 0, 0, 0, 0, 0, 0, 0]), Ok(5));
    // 254 announces 128 bits, 255 nothing: neither is a number of ours.
    assert!(decode::<u64>(&[254; 17]).is_err() && decode::<u64>(&[255; 9]).is_err());
}

#[test]
fn other_primitives() {
    assert_eq!(encode(&(false, true)).expect("encode"), [0, 1]);
    assert!(decode::<bool>(&[2]).is_err());
    assert_eq!(encode(&(None::<u8>, Some(9_u8))).expect("encode"), [0, 1, 9]);
    assert!(decode::<Option<u8>>(&[2, 9]).is_err());
    assert_eq!(encode(&"ä".to_owned()).expect("encode"), [2, 0xc3, 0xa4]);
    assert!(decode::<String>(&[1, 0xff]).is_err());
    assert_eq!(encode(&vec![7_u8, 8]).expect("encode"), [2, 7, 8]);
    assert_eq!(encode(&[7_u8, 8]).expect("encode"), [7, 8]);
    assert!(decode::<u8>(&[1, 2]).is_err(), "bytes behind the value");
}

/// One test per variant: its number is the first byte, what is behind it reads back. The match without a
/// catch-all makes a new variant fail to compile until it has its line, and `next` stays refused.
macro_rules! variants {
    ($module:ident: $enum:ty, next $next:literal; $($test:ident = $number:literal: $pattern:pat => $value:expr;)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $test() {
                    let value: $enum = $value;
                    let bytes = encode(&value).expect("encode");
                    assert_eq!(bytes[0], $number);
                    assert_eq!(number(&value), $number);
                    assert_eq!(decode::<$enum>(&bytes), Ok(value));
                }
            )+

            #[test]
            fn the_next_number_is_refused() {
                let mut bytes = vec![0; 256];
                bytes[0] = $next;
                let error = decode::<$enum>(&bytes).expect_err("an unknown variant").to_string();
                assert!(error.contains("UnexpectedVariant") || error.contains("variant"), "{error}");
            }

            fn number(value: &$enum) -> u8 {
                match value { $($pattern => $number,)+ }
            }
        }
    };
}

variants! { op: Op, next 8;
    out = 0: Op::Out { .. } => Op::Out { path: path("a"), to: Leaves::Trash(name(3)) };
    install = 1: Op::Install { .. } =>
        Op::Install { path: path("a"), staged: name(3), entry: small_file(), source: Source::Fresh };
    below = 2: Op::Below { .. } => Op::Below { path: path("a/b"), entry: large_file() };
    dir = 3: Op::Dir { .. } => Op::Dir { path: path("a"), entry: entry(Body::Dir), work: DirWork::All };
    except = 4: Op::Except { .. } => Op::Except {
        path: path("a"),
        exception: Exception {
            class: ExceptionClass::LeftOut, reason: String::new(), errno: 0, since: time(0, 0),
        },
    };
    clear = 5: Op::Clear { .. } => Op::Clear { path: path("a") };
    facts = 6: Op::Facts { .. } => Op::Facts { path: path("a"), entry: small_file() };
    grow = 7: Op::Grow { .. } =>
        Op::Grow { path: path("a"), via: name(3), from: 1 << 20, tail: None, entry: large_file() };
}

variants! { leaves: Leaves, next 2;
    trash = 0: Leaves::Trash(_) => Leaves::Trash(name(3));
    stage = 1: Leaves::Stage(_) => Leaves::Stage(name(3));
}

variants! { source: Source, next 2;
    fresh = 0: Source::Fresh => Source::Fresh;
    moved = 1: Source::Moved => Source::Moved;
}

variants! { dir_work: DirWork, next 2;
    times = 0: DirWork::Times => DirWork::Times;
    all = 1: DirWork::All => DirWork::All;
}

variants! { exception_class: ExceptionClass, next 2;
    quarantined = 0: ExceptionClass::Quarantined => ExceptionClass::Quarantined;
    left_out = 1: ExceptionClass::LeftOut => ExceptionClass::LeftOut;
}

variants! { cut: Cut, next 2;
    exact = 0: Cut::Exact => Cut::Exact;
    fuzzy = 1: Cut::Fuzzy => Cut::Fuzzy;
}

variants! { body: Body, next 4;
    dir = 0: Body::Dir => Body::Dir;
    file = 1: Body::File(_) => large_file().body;
    symlink = 2: Body::Symlink(_) => Body::Symlink(b"text".to_vec());
    fifo = 3: Body::Fifo => Body::Fifo;
}

mod frame_kind {
    use super::*;

    #[test]
    fn numbers() {
        let numbers = [
            (FrameKind::LogHeader, 1),
            (FrameKind::LogOp, 2),
            (FrameKind::LogTrailer, 3),
            (FrameKind::Head, 4),
            (FrameKind::Lane, 5),
            (FrameKind::Epoch, 6),
            (FrameKind::JournalHeader, 16),
            (FrameKind::JournalRecord, 17),
        ];
        for (kind, number) in numbers {
            // No catch-all: a new kind fails to compile until it has its line above.
            match kind {
                FrameKind::LogHeader
                | FrameKind::LogOp
                | FrameKind::LogTrailer
                | FrameKind::Head
                | FrameKind::Lane
                | FrameKind::Epoch
                | FrameKind::JournalHeader
                | FrameKind::JournalRecord => {}
            }
            let mut bytes = Vec::new();
            frame::put(&mut bytes, kind, b"x");
            assert_eq!(bytes[12], number, "{kind:?}");
        }
    }

    #[test]
    fn a_sound_frame_of_another_kind_is_refused() {
        let bytes = encode_file(FrameKind::Epoch, &lane()).expect("encode");
        assert_eq!(decode_file::<LaneRecord>(FrameKind::Lane, &bytes), Err(FrameError::Kind(6)));
    }

    #[test]
    fn a_newer_version_says_upgrade() {
        let mut bytes = encode_file(FrameKind::Lane, &lane()).expect("encode");
        bytes[13] = 2;
        let covered: Vec<u8> = [&bytes[..4], &bytes[12..]].concat();
        bytes[4..12].copy_from_slice(&blake3::hash(&covered).as_bytes()[..8]);
        assert_eq!(decode_file::<LaneRecord>(FrameKind::Lane, &bytes), Err(FrameError::Version(2)));
    }
}
