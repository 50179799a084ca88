//! Properties of the journal's scanner: no bytes make it panic or allocate without bound, no damage gives a record that was
//! not written, and a cut at any byte gives the records before it.
//!
//! `TIDEGATE_CASES=1000000 cargo test --release -p tidegate-proto --test journal` for a long run.
//!
//! Fails on a weakened build: leave the comparison of the checksum, or that of the numbers, out of the scanner.

#![forbid(unsafe_code)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proto::journal::segment::put_header;
use proto::journal::*;
use proto::*;

/// Cases per property, unless `TIDEGATE_CASES` says otherwise.
const CASES: u32 = 1024;

fn config() -> ProptestConfig {
    let cases = std::env::var("TIDEGATE_CASES").ok().map(|n| n.parse().expect("TIDEGATE_CASES: a number"));
    ProptestConfig { failure_persistence: None, cases: cases.unwrap_or(CASES), ..ProptestConfig::default() }
}

fn handle() -> impl Strategy<Value = Handle> {
    (any::<[u8; 8]>(), any::<i32>(), vec(any::<u8>(), 0..129)).prop_map(|(fsid, kind, bytes)| Handle {
        fsid,
        kind,
        bytes,
    })
}

fn dir() -> impl Strategy<Value = DirHandle> {
    handle().prop_map(DirHandle)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..40).prop_map(|mut bytes| {
        bytes.iter_mut().filter(|b| **b == b'/' || **b == 0).for_each(|b| *b = b'x');
        if bytes == b"." || bytes == b".." {
            bytes.push(b'x');
        }
        bytes
    })
}

fn hint() -> impl Strategy<Value = Hint> {
    prop_oneof![
        (dir(), name()).prop_map(|(dir, name)| Hint::Name { dir, name }),
        // The directory itself.
        dir().prop_map(|dir| Hint::Name { dir, name: b".".to_vec() }),
        handle().prop_map(|handle| Hint::Object { handle }),
        dir().prop_map(|dir| Hint::Tree { dir }),
        Just(Hint::Whole),
    ]
}

fn cause() -> impl Strategy<Value = GapCause> {
    prop_oneof![
        Just(GapCause::QueueOverflow),
        Just(GapCause::AgentDown),
        Just(GapCause::UncleanStop),
        Just(GapCause::DamagedJournal),
        Just(GapCause::LostDescriptor),
        Just(GapCause::UnknownRecord),
        Just(GapCause::NoCapture),
        Just(GapCause::JournalFull),
        Just(GapCause::JournalFailed),
    ]
}

fn note() -> impl Strategy<Value = Note> {
    let files = vec((dir(), name()).prop_map(|(dir, name)| OpenFile { dir, name }), 0..4);
    let path = vec(name(), 0..4).prop_map(|parts| RelPath::new(&parts.join(&b'/')).expect("a sound path"));
    prop_oneof![
        hint().prop_map(Note::Hint),
        vec(hint(), 1..6).prop_map(Note::Hints),
        cause().prop_map(Note::Gap),
        (files, any::<bool>()).prop_map(|(files, all)| Note::Writing {
            files,
            listed: if all { Listed::All } else { Listed::TooMany },
        }),
        any::<bool>()
            .prop_map(|exact| Note::Cut { upto: Seq(3), cut: if exact { Cut::Exact } else { Cut::Fuzzy } }),
        any::<u64>().prop_map(|g| Note::Sealed { upto: Seq(3), generation: Generation(g) }),
        any::<u64>().prop_map(|g| Note::Published { upto: Seq(3), generation: Generation(g) }),
        (path, any::<i32>(), ".{0,20}").prop_map(|(path, errno, reason)| Note::Quarantined {
            path,
            errno,
            reason
        }),
        any::<u64>().prop_map(|token| Note::Barrier { token }),
        Just(Note::Paused),
        Just(Note::Resumed),
        Just(Note::CleanStop),
    ]
}

/// A segment as bytes, where its records start (the end included), and what it says.
#[derive(Clone, Debug)]
struct Segment {
    header: SegmentHeader,
    bytes: Vec<u8>,
    starts: Vec<usize>,
    records: Vec<JournalRecord>,
}

fn segment() -> impl Strategy<Value = Segment> {
    let time = || (any::<i64>(), any::<u32>()).prop_map(|(sec, nsec)| Time { sec, nsec });
    let header = (any::<[u8; 16]>(), any::<[u8; 16]>(), 4..u64::MAX / 2, time()).prop_map(
        |(lane, boot, first, begun)| SegmentHeader {
            lane: LaneId(lane),
            boot: BootId(boot),
            first: Seq(first),
            begun,
        },
    );
    (header, vec((note(), time()), 0..8)).prop_map(|(header, notes)| {
        let mut bytes = Vec::new();
        put_header(&mut bytes, &header).expect("header");
        let (mut starts, mut records, mut seq) = (vec![bytes.len()], Vec::new(), header.first);
        for (note, at) in notes {
            let record = JournalRecord { seq, at, note };
            put_record(&mut bytes, &record).expect("record");
            seq = record.next().expect("a number");
            starts.push(bytes.len());
            records.push(record);
        }
        Segment { header, bytes, starts, records }
    })
}

fn scan(bytes: &[u8]) -> Result<(Vec<JournalRecord>, Verdict), FrameError> {
    let mut scan = Scan::new(bytes)?;
    let records = scan.by_ref().collect();
    Ok((records, scan.verdict().expect("a verdict at the end")))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_was_written_is_read(segment in segment()) {
        let (records, verdict) = scan(&segment.bytes).expect("header");
        prop_assert_eq!(&records, &segment.records);
        prop_assert_eq!(verdict, Verdict::Clean);
        let scan = Scan::new(&segment.bytes).expect("header");
        prop_assert_eq!(scan.header(), &segment.header);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400), segment in segment()) {
        let _ = scan(&bytes);
        // Behind a sound header, too: else all but the magic is out of reach.
        let header = &segment.bytes[..segment.starts[0]];
        let (records, _) = scan(&[header, &bytes].concat()).expect("header");
        prop_assert!(records.is_empty());
    }

    #[test]
    fn a_cut_at_every_byte_gives_the_records_before_it(segment in segment()) {
        for cut in 0..segment.bytes.len() {
            let Ok((records, verdict)) = scan(&segment.bytes[..cut]) else {
                prop_assert!(cut < segment.starts[0]);
                continue;
            };
            let whole = segment.starts.iter().filter(|start| **start <= cut).count() - 1;
            prop_assert_eq!(&records[..], &segment.records[..whole], "cut at {}", cut);
            let at = segment.starts[whole];
            let expected = if at == cut { Verdict::Clean } else { Verdict::TornTail { at } };
            prop_assert_eq!(verdict, expected, "cut at {}", cut);
        }
    }

    #[test]
    fn a_flipped_bit_never_gives_another_record(segment in segment(), at in any::<Index>(), bit in 0..8_u8) {
        let mut bytes = segment.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let Ok((records, verdict)) = scan(&bytes) else {
            prop_assert!(at < segment.starts[0]);
            return Ok(());
        };
        prop_assert!(at >= segment.starts[0], "a flipped header was taken");
        let hit = segment.starts.iter().filter(|start| **start <= at).count() - 1;
        prop_assert_eq!(&records[..], &segment.records[..hit]);
        let (last, start) = (hit + 1 == segment.records.len(), segment.starts[hit]);
        let expected = if last { Verdict::TornTail { at: start } } else { Verdict::Corrupt { at: start } };
        prop_assert_eq!(verdict, expected);
    }

    #[test]
    fn frames_out_of_place_are_seen(segment in segment(), a in any::<Index>(), b in any::<Index>()) {
        let frames = segment.records.len();
        // Not assumed: proptest gives up after a thousand rejects, which a long run reaches.
        if frames == 0 {
            return Ok(());
        }
        let frame = |i: usize| &segment.bytes[segment.starts[i]..segment.starts[i + 1]];
        let (a, b) = (a.index(frames), b.index(frames));
        let order = |change: &dyn Fn(&mut Vec<usize>)| {
            let mut order: Vec<usize> = (0..frames).collect();
            change(&mut order);
            let body: Vec<u8> = order.iter().flat_map(|i| frame(*i).to_vec()).collect();
            (order, [&segment.bytes[..segment.starts[0]], &body].concat())
        };
        for (order, bytes) in [
            order(&|o| o.swap(a, b)),
            order(&|o| o.retain(|i| *i != a)),
            order(&|o| o.insert(a, b)),
        ] {
            let right = order.iter().enumerate().take_while(|(i, frame)| i == *frame).count();
            let (records, verdict) = scan(&bytes).expect("header");
            prop_assert_eq!(&records[..], &segment.records[..right]);
            let clean = right == order.len();
            prop_assert_eq!(verdict == Verdict::Clean, clean, "{:?} {:?}", order, verdict);
            prop_assert!(clean || matches!(verdict, Verdict::Corrupt { .. }), "{:?}", verdict);
        }
    }
}
