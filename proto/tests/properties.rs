//! Properties of the parsers: no bytes make one panic, and no damage to a log goes unseen.
//!
//! A few thousand cases each; `PROPTEST_CASES=1000000 cargo test --release -p tidegate-proto --test properties`
//! for a long run.
//!
//! Fails on a weakened build: leave the comparison of the trailer's hash or of the checksum out.

#![forbid(unsafe_code)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proto::codec::{decode, encode};
use proto::frame::{self, FRAME_HEADER_BYTES, decode_file};
use proto::log::{LogReader, LogRecord, LogWriter};
use proto::path::PATH_BYTES_MAX;
use proto::*;

/// Cases per property, unless the environment says otherwise.
const CASES: u32 = 4096;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    config
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), any::<u32>()).prop_map(|(sec, nsec)| Time { sec, nsec })
}

fn name() -> impl Strategy<Value = StagedName> {
    (any::<u64>(), any::<u64>()).prop_map(|(run, n)| StagedName { run, n })
}

/// Mapped, not filtered: proptest gives up after 65,536 rejects, which a long run would reach.
fn component() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..12).prop_map(|mut bytes| {
        bytes.iter_mut().filter(|b| **b == b'/' || **b == 0).for_each(|b| *b = b'.');
        if bytes == b"." || bytes == b".." {
            bytes.push(b'.');
            bytes.push(b'.');
        }
        bytes
    })
}

fn path() -> impl Strategy<Value = RelPath> {
    vec(component(), 0..5).prop_map(|parts| RelPath::new(&parts.join(&b'/')).expect("a sound path"))
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::Dir),
        (any::<u64>(), any::<[u8; 32]>(), vec(any::<[u8; 32]>(), 0..4))
            .prop_map(|(size, hash, blocks)| Body::File(FileBody { size, hash, blocks })),
        vec(any::<u8>(), 0..40).prop_map(Body::Symlink),
        Just(Body::Fifo),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let xattrs = vec((vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20)), 0..3);
    let origin = (any::<u64>(), proptest::option::of(time()), time(), any::<bool>())
        .prop_map(|(ino, btime, ctime, racy)| Origin { ino, btime, ctime, racy });
    (body(), any::<(u32, u32, u32, bool)>(), time(), xattrs, origin).prop_map(
        |(body, (mode, uid, gid, linked), mtime, xattrs, origin)| Entry {
            body,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
            linked,
            origin,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let exception =
        (any::<bool>(), ".{0,20}", any::<i32>(), time()).prop_map(|(out, reason, errno, since)| {
            let class = if out { ExceptionClass::LeftOut } else { ExceptionClass::Quarantined };
            Exception { class, reason, errno, since }
        });
    prop_oneof![
        (path(), name(), any::<bool>()).prop_map(|(path, name, trash)| Op::Out {
            path,
            to: if trash { Leaves::Trash(name) } else { Leaves::Stage(name) },
        }),
        (path(), name(), entry(), any::<bool>()).prop_map(|(path, staged, entry, moved)| Op::Install {
            path,
            staged,
            entry,
            source: if moved { Source::Moved } else { Source::Fresh },
        }),
        (path(), entry()).prop_map(|(path, entry)| Op::Below { path, entry }),
        (path(), entry(), any::<bool>()).prop_map(|(path, entry, all)| Op::Dir {
            path,
            entry,
            work: if all { DirWork::All } else { DirWork::Times },
        }),
        (path(), exception).prop_map(|(path, exception)| Op::Except { path, exception }),
        path().prop_map(|path| Op::Clear { path }),
        (path(), entry()).prop_map(|(path, entry)| Op::Facts { path, entry }),
        (path(), name(), any::<u64>(), proptest::option::of(name()), entry())
            .prop_map(|(path, via, from, tail, entry)| Op::Grow { path, via, from, tail, entry }),
    ]
}

fn totals() -> impl Strategy<Value = Totals> {
    any::<[u64; 6]>().prop_map(|[dirs, files, others, bytes, quarantined, left_out]| Totals {
        dirs,
        files,
        others,
        bytes,
        quarantined,
        left_out,
    })
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![Just(Cut::Exact), Just(Cut::Fuzzy)]
}

fn header() -> impl Strategy<Value = LogHeader> {
    let volume = (any::<u64>(), proptest::option::of(time()));
    (any::<([u8; 16], u64, u64, [u8; 16], [u8; 32])>(), volume).prop_map(
        |((lane, generation, epoch, node, previous), volume)| LogHeader {
            lane: LaneId(lane),
            generation: Generation(generation),
            epoch: Epoch(epoch),
            node: NodeId(node),
            previous,
            volume,
        },
    )
}

fn head() -> impl Strategy<Value = Head> {
    let halted = proptest::option::of(".{0,20}");
    (any::<(u64, u64, [u8; 32], u64)>(), cut(), totals(), halted, time(), time()).prop_map(
        |((generation, epoch, log_hash, manifest), cut, totals, halted, sealed, published)| Head {
            generation: Generation(generation),
            epoch: Epoch(epoch),
            log_hash,
            manifest: Generation(manifest),
            cut,
            totals,
            halted,
            sealed,
            published,
        },
    )
}

/// A log as bytes, where its frames start (the end included), and what it says.
#[derive(Clone, Debug)]
struct Log {
    bytes: Vec<u8>,
    frames: Vec<usize>,
    records: Vec<LogRecord>,
}

impl Log {
    fn frame(&self, i: usize) -> &[u8] {
        &self.bytes[self.frames[i]..self.frames[i + 1]]
    }

    fn frame_count(&self) -> usize {
        self.frames.len() - 1
    }
}

fn log() -> impl Strategy<Value = Log> {
    (header(), vec(op(), 0..6), cut(), totals(), proptest::option::of(".{0,20}"), time()).prop_map(
        |(header, ops, cut, totals, halted, sealed)| {
            let mut bytes = Vec::new();
            let mut writer = LogWriter::start(&header, &mut bytes).expect("header");
            let (mut frames, mut records) = (vec![0], vec![LogRecord::Header(header)]);
            for op in ops {
                frames.push(bytes.len());
                writer.op(&op, &mut bytes).expect("op");
                records.push(LogRecord::Op(op));
            }
            frames.push(bytes.len());
            let trailer = writer.finish(cut, totals, halted, sealed, &mut bytes).expect("trailer");
            frames.push(bytes.len());
            records.push(LogRecord::Trailer(trailer));
            Log { bytes, frames, records }
        },
    )
}

/// Reads to the trailer, as the program does: what lies behind it is not looked at.
fn read(mut bytes: &[u8]) -> Result<Vec<LogRecord>, FrameError> {
    let mut reader = LogReader::default();
    let mut records = Vec::new();
    while !reader.is_complete() {
        let (record, used) = reader.next(bytes)?;
        records.push(record);
        bytes = &bytes[used..];
    }
    Ok(records)
}

/// What disks, networks and people do to a file.
#[derive(Clone, Debug)]
enum Damage {
    FlipBits(Vec<(Index, u8)>),
    Truncate(Index),
    Zero(Index, Index),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Splice(Index, Index),
    DuplicateFrame(Index, Index),
    SwapFrames(Index, Index),
    DropFrame(Index),
    ForeignFrame(Index, Index),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    use Damage::*;
    let at = any::<Index>;
    prop_oneof![
        vec((at(), 0..8_u8), 1..4).prop_map(FlipBits),
        at().prop_map(Truncate),
        (at(), at()).prop_map(|(a, b)| Zero(a, b)),
        (at(), vec(any::<u8>(), 1..40)).prop_map(|(a, b)| Insert(a, b)),
        (at(), at()).prop_map(|(a, b)| Remove(a, b)),
        (at(), at()).prop_map(|(a, b)| Splice(a, b)),
        (at(), at()).prop_map(|(a, b)| DuplicateFrame(a, b)),
        (at(), at()).prop_map(|(a, b)| SwapFrames(a, b)),
        at().prop_map(DropFrame),
        (at(), at()).prop_map(|(a, b)| ForeignFrame(a, b)),
        vec(any::<u8>(), 1..40).prop_map(Append),
    ]
}

impl Damage {
    fn apply(&self, log: &Log, other: &Log) -> Vec<u8> {
        let len = log.bytes.len();
        let mut bytes = log.bytes.clone();
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(len), b.index(len));
            a.min(b)..a.max(b) + 1
        };
        let mut frames: Vec<Vec<u8>> = (0..log.frame_count()).map(|i| log.frame(i).to_vec()).collect();
        match self {
            Self::FlipBits(bits) => {
                for (at, bit) in bits {
                    bytes[at.index(len)] ^= 1 << bit;
                }
            }
            Self::Truncate(at) => bytes.truncate(at.index(len)),
            Self::Zero(a, b) => bytes[range(a, b)].fill(0),
            Self::Insert(at, new) => drop(bytes.splice(at.index(len)..at.index(len), new.iter().copied())),
            Self::Remove(a, b) => drop(bytes.drain(range(a, b))),
            Self::Splice(a, b) => {
                // At least the header is ours: a whole other log would be a sound log.
                bytes.truncate(a.index(len).max(log.frames[1]));
                bytes.extend_from_slice(&other.bytes[b.index(other.bytes.len())..]);
            }
            Self::DuplicateFrame(a, b) => {
                let copy = frames[a.index(frames.len())].clone();
                frames.insert(b.index(frames.len() + 1), copy);
                bytes = frames.concat();
            }
            Self::SwapFrames(a, b) => {
                let count = frames.len();
                frames.swap(a.index(count), b.index(count));
                bytes = frames.concat();
            }
            Self::DropFrame(at) => {
                frames.remove(at.index(frames.len()));
                bytes = frames.concat();
            }
            Self::ForeignFrame(a, b) => {
                let at = a.index(frames.len());
                frames[at] = other.frame(b.index(other.frame_count())).to_vec();
                bytes = frames.concat();
            }
            Self::Append(tail) => bytes.extend_from_slice(tail),
        }
        bytes
    }
}

/// A frame with a sound checksum around any body: gets past the envelope, to the decoder.
fn framed(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, body);
    out
}

const KINDS: [FrameKind; 6] = [
    FrameKind::LogHeader,
    FrameKind::LogOp,
    FrameKind::LogTrailer,
    FrameKind::Head,
    FrameKind::Lane,
    FrameKind::Epoch,
];

proptest! {
    #![proptest_config(config())]

    /// Any bytes, and any bytes in frames with right checksums.
    #[test]
    fn log_decoder_never_panics(
        raw in vec(any::<u8>(), 0..200),
        log in log(),
        bodies in vec((0..3_usize, vec(any::<u8>(), 0..120)), 0..4),
        flips in vec((any::<Index>(), any::<Index>(), any::<u8>()), 0..4),
    ) {
        let _ = read(&raw);
        // A sound header, then frames whose bodies are noise.
        let mut forged = log.frame(0).to_vec();
        for (kind, body) in &bodies {
            forged.extend(framed(KINDS[*kind], body));
        }
        let _ = read(&forged);
        // Sound frames whose bodies are almost right.
        let mut bodies: Vec<(u8, Vec<u8>)> = (0..log.frame_count())
            .map(|i| (log.frame(i)[12], log.frame(i)[FRAME_HEADER_BYTES..].to_vec()))
            .collect();
        for (which, at, byte) in &flips {
            let count = bodies.len();
            let body = &mut bodies[which.index(count)].1;
            if !body.is_empty() {
                let len = body.len();
                body[at.index(len)] = *byte;
            }
        }
        let mut forged = Vec::new();
        for (kind, body) in &bodies {
            forged.extend(framed(KINDS[usize::from(*kind) - 1], body));
        }
        if let Ok(records) = read(&forged) {
            for record in records {
                if let LogRecord::Op(op) = record {
                    prop_assert!(op.path().is_sound());
                    prop_assert_eq!(decode::<Op>(&encode(&op).unwrap()).unwrap(), op);
                }
            }
        }
    }

    #[test]
    fn small_file_decoders_never_panic(raw in vec(any::<u8>(), 0..200), head in head()) {
        for kind in KINDS {
            for bytes in [raw.clone(), framed(kind, &raw)] {
                let _ = decode_file::<Head>(kind, &bytes);
                let _ = decode_file::<LaneRecord>(kind, &bytes);
                let _ = decode_file::<EpochRecord>(kind, &bytes);
            }
        }
        let whole = frame::encode_file(FrameKind::Head, &head).unwrap();
        prop_assert_eq!(decode_file::<Head>(FrameKind::Head, &whole).unwrap(), head);
        for i in 0..whole.len() {
            prop_assert!(decode_file::<Head>(FrameKind::Head, &whole[..i]).is_err());
        }
        let longer = [&whole[..], &raw[..]].concat();
        prop_assert_eq!(decode_file::<Head>(FrameKind::Head, &longer).is_ok(), raw.is_empty());
    }

    #[test]
    fn small_files_with_one_wrong_byte_are_refused(head in head(), at in any::<Index>(), byte in 1..=255_u8) {
        let mut bytes = frame::encode_file(FrameKind::Head, &head).unwrap();
        let len = bytes.len();
        bytes[at.index(len)] ^= byte;
        prop_assert!(decode_file::<Head>(FrameKind::Head, &bytes).is_err());
    }

    #[test]
    fn a_log_reads_back_however_it_is_cut_into_pieces(log in log(), pieces in vec(1..60_usize, 1..20)) {
        prop_assert_eq!(&read(&log.bytes).unwrap(), &log.records);
        let mut reader = LogReader::default();
        let (mut buffer, mut records, mut fed) = (Vec::new(), Vec::new(), 0);
        let mut sizes = pieces.iter().cycle();
        while !reader.is_complete() {
            match reader.next(&buffer) {
                Ok((record, used)) => {
                    records.push(record);
                    buffer.drain(..used);
                }
                Err(FrameError::Truncated) => {
                    prop_assert!(fed < log.bytes.len(), "asks for more than there is");
                    let end = log.bytes.len().min(fed + sizes.next().unwrap());
                    buffer.extend_from_slice(&log.bytes[fed..end]);
                    fed = end;
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
        prop_assert_eq!(records, log.records);
    }

    #[test]
    fn a_damaged_log_is_refused_or_the_same(log in log(), other in log(), damage in damage()) {
        let bytes = damage.apply(&log, &other);
        if let Ok(records) = read(&bytes) {
            prop_assert_eq!(records, log.records);
        }
    }

    /// Bytes are refused by the writer exactly when a reader would refuse them: a sealed log can be read.
    #[test]
    fn what_is_written_can_be_read(long in vec(component(), 1..4), times in 1..700_usize) {
        let path = long.iter().cycle().take(times).fold(RelPath::root(), |path, name| path.join(name));
        let header = LogHeader {
            lane: LaneId([0; 16]),
            generation: Generation(1),
            epoch: Epoch(1),
            node: NodeId([0; 16]),
            previous: [0; 32],
            volume: (0, None),
        };
        let mut bytes = Vec::new();
        let mut writer = LogWriter::start(&header, &mut bytes).unwrap();
        let before = bytes.len();
        let written = writer.op(&Op::Clear { path: path.clone() }, &mut bytes);
        prop_assert_eq!(written.is_ok(), path.as_bytes().len() <= PATH_BYTES_MAX);
        prop_assert!(written.is_ok() || bytes.len() == before);
        writer.finish(Cut::Exact, Totals::default(), None, Time::default(), &mut bytes).unwrap();
        prop_assert_eq!(read(&bytes).unwrap().len(), if written.is_ok() { 3 } else { 2 });
    }

    #[test]
    fn paths_keep_to_the_rules(bytes in path_like()) {
        let sound = bytes.is_empty()
            || bytes.split(|b| *b == b'/').all(|c| {
                !c.is_empty() && c != b"." && c != b".." && !c.contains(&0)
            });
        let path = RelPath::new(&bytes);
        prop_assert_eq!(path.is_some(), sound);
        let Some(path) = path else { return Ok(()) };
        prop_assert_eq!(path.as_bytes(), &bytes[..]);
        prop_assert_eq!(decode::<RelPath>(&encode(&path).unwrap()).unwrap(), path.clone());
        let again = path.components().fold(RelPath::root(), |path, name| path.join(name));
        prop_assert_eq!(&again, &path);
        prop_assert_eq!(path.components().count(), path.depth());
        match path.split_last() {
            None => prop_assert!(path.is_root()),
            Some((parent, name)) => {
                prop_assert_eq!(parent.join(name), path.clone());
                prop_assert_eq!(parent.depth() + 1, path.depth());
                prop_assert!(path.is_within(&parent) && !parent.is_within(&path));
            }
        }
    }

    /// The printed form is one line without control characters, and no two paths share it.
    #[test]
    fn printed_paths_are_safe_and_lossless(bytes in path_like()) {
        let Some(path) = RelPath::new(&bytes) else { return Ok(()) };
        let printed = path.to_string();
        prop_assert!(!printed.chars().any(char::is_control), "{:?}", printed);
        let expected: &[u8] = if path.is_root() { b"." } else { &bytes };
        prop_assert_eq!(&unescape(&printed)[..], expected);
    }

    #[test]
    fn rebasing_there_and_back(base in path(), to in path(), below in vec(component(), 0..3)) {
        let path = below.iter().fold(base.clone(), |path, name| path.join(name));
        let moved = path.rebase(&base, &to).expect("within the base");
        prop_assert_eq!(moved.depth(), to.depth() + below.len());
        prop_assert!(moved.is_within(&to));
        prop_assert_eq!(moved.rebase(&to, &base), Some(path));
    }

    #[test]
    fn names_round_trip(n in number(), run in any::<u64>()) {
        let staged = StagedName { run, n };
        prop_assert_eq!(StagedName::parse(&names::staged(staged)), Some(staged));
        prop_assert_eq!(names::parse_generation(&names::generation(Generation(n))), Some(Generation(n)));
        prop_assert_eq!(names::parse_epoch(&names::epoch(Epoch(n))), Some(Epoch(n)));
        prop_assert_eq!(names::parse_working(&names::stage(Epoch(n))), Some(Epoch(n)));
        prop_assert_eq!(names::parse_working(&names::trash(Epoch(n))), Some(Epoch(n)));
        // No kind of name is taken for another.
        prop_assert_eq!(StagedName::parse(&names::outs_done(Generation(n))), None);
        prop_assert_eq!(names::parse_working(&names::outs_done(Generation(n))), None);
    }

    /// One spelling per name: whatever parses is what would be written.
    #[test]
    fn only_our_spelling_is_a_name(text in name_like()) {
        let bytes = text.as_bytes();
        if let Some(staged) = StagedName::parse(bytes) {
            prop_assert_eq!(&names::staged(staged)[..], bytes);
        }
        if let Some(generation) = names::parse_generation(bytes) {
            prop_assert_eq!(&names::generation(generation)[..], bytes);
        }
        if let Some(epoch) = names::parse_epoch(bytes) {
            prop_assert_eq!(&names::epoch(epoch)[..], bytes);
        }
        if let Some(epoch) = names::parse_working(bytes) {
            prop_assert!(names::stage(epoch) == bytes || names::trash(epoch) == bytes);
        }
    }
}

/// Bytes with a taste for what matters in paths.
fn path_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        component(),
        component(),
        component(),
        Just(b"/".to_vec()),
        Just(b".".to_vec()),
        Just(b"..".to_vec()),
        Just(vec![0]),
        Just("\u{202e}\\x".as_bytes().to_vec()),
        Just(b"\x1b[2J\r\n\t\\".to_vec()),
        vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..300_u64, Just(u64::MAX)]
}

fn name_like() -> impl Strategy<Value = String> {
    prop_oneof![
        "[+-]?[0-9]{1,21}",
        "[+0][0-9]{19}",
        "(stage|trash)\\.[+0-9]{1,3}",
        "[+0-9a-fA-F]{15,17}\\.[+0-9a-fA-F]{1,17}",
        ".{0,24}",
    ]
}

/// Reads the printed form back: an oracle for the printer that shares nothing with it.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next() {
            Some('n') => out.push(b'\n'),
            Some('r') => out.push(b'\r'),
            Some('t') => out.push(b'\t'),
            Some('\\') => out.push(b'\\'),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                out.push(u8::from_str_radix(&digits, 16).expect("two hex digits"));
            }
            Some('u') => {
                assert_eq!(chars.next(), Some('{'));
                let digits: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let c = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).expect("a character");
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => panic!("\\{other:?} in {text:?}"),
        }
    }
    out
}
