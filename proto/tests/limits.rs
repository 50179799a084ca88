//! Size limits: a forged length makes no reader allocate beyond them, and what a writer accepts a reader reads.
//!
//! Alone in its program: the peak of the address space is that of this test.
//!
//! Fails on a weakened build: `bincode::config::standard()` without a limit.

#![forbid(unsafe_code)]

use proto::codec::{BODY_BYTES_MAX, decode, encode};
use proto::frame::{self, FRAME_HEADER_BYTES};
use proto::path::PATH_BYTES_MAX;
use proto::*;

/// What a refused decode may have taken at its peak: a list of the greatest length, its last element, the error;
/// and what the allocator adds.
const GROWTH_MAX: u64 = 96 << 20;

/// Forged lengths: just above the limit to the greatest there is.
const FORGED: [u64; 7] = [1 << 20, 8 << 20, (8 << 20) + 1, 1 << 32, 1 << 40, u64::MAX / 48, u64::MAX];

#[test]
fn forged_lengths_allocate_nothing_beyond_the_limits() {
    let start = status("VmSize:");
    let path = varint(1).into_iter().chain(*b"a").collect::<Vec<u8>>();
    for length in FORGED {
        let forged = varint(length);
        // Each place in a record where a length stands.
        let mut path_of_clear = vec![5];
        path_of_clear.extend(&forged);
        let mut symlink = [&[6][..], &path, &[2]].concat();
        symlink.extend(&forged);
        let mut blocks = [&[6][..], &path, &[1, 0], &[0; 32]].concat();
        blocks.extend(&forged);
        let mut xattrs = [&[6][..], &path, &[0, 0, 0, 0, 0, 0]].concat();
        xattrs.extend(&forged);
        let mut xattr_name = [&[6][..], &path, &[0, 0, 0, 0, 0, 0, 1]].concat();
        xattr_name.extend(&forged);
        let mut reason = [&[4][..], &path, &[0]].concat();
        reason.extend(&forged);
        for body in [path_of_clear, symlink, blocks, xattrs, xattr_name, reason] {
            assert!(decode::<Op>(&body).is_err(), "length {length}");
            // The same with as many bytes behind it as a frame may hold, each again a length.
            let mut long = body;
            long.resize(BODY_BYTES_MAX, 250);
            let _ = decode::<Op>(&long);
            let _ = decode::<Head>(&long);
            let _ = decode::<LaneRecord>(&long);
            let _ = decode::<LogHeader>(&long);
            let _ = decode::<log::LogTrailer>(&long);
        }
        let mut host = vec![0; 16 + 2];
        host.extend(&forged);
        assert!(decode::<LaneRecord>(&host).is_err());
        // Of a record of a journal: hints, a name, a handle, open files, a reason; number and time before them.
        for note in [
            vec![1],
            vec![0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            vec![0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
            vec![3],
            vec![7, 0, 0],
        ] {
            let mut record = [&[1, 0, 0][..], &note].concat();
            record.extend(&forged);
            assert!(decode::<JournalRecord>(&record).is_err(), "length {length}");
            record.resize(BODY_BYTES_MAX, 250);
            let _ = decode::<JournalRecord>(&record);
        }
    }
    let grown = status("VmPeak:").saturating_sub(start);
    assert!(grown < GROWTH_MAX, "decoding took {} MiB of address space", grown >> 20);
    frames_beyond_the_limit();
    what_the_writer_accepts_the_reader_reads();
}

fn frames_beyond_the_limit() {
    for length in [BODY_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.resize(FRAME_HEADER_BYTES, 0);
        assert_eq!(frame::take(&bytes).unwrap_err(), FrameError::Length(u64::from(length)));
    }
}

/// The decoder counts sizes in memory, which exceed the encoded ones: the greatest record that can be written must
/// stay below its limit, with the longest path and as many attributes as Linux lists (64 KiB of names).
fn what_the_writer_accepts_the_reader_reads() {
    let longest = RelPath::new(&[&[b'x'; 200][..]; 22].join(&b'/')[..PATH_BYTES_MAX]).expect("a sound path");
    let attributes: Vec<(Vec<u8>, Vec<u8>)> =
        (0..9000).map(|n| (format!("user.{n}").into_bytes(), Vec::new())).collect();
    let op = |path: &RelPath, xattrs: &[(Vec<u8>, Vec<u8>)], blocks: usize| Op::Facts {
        path: path.clone(),
        entry: Entry {
            body: Body::File(FileBody { size: 0, hash: [1; 32], blocks: vec![[2; 32]; blocks] }),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: xattrs.to_vec(),
            linked: false,
            origin: Origin { ino: 0, btime: Some(Time::default()), ctime: Time::default(), racy: false },
        },
    };
    for (path, xattrs) in
        [(&RelPath::root(), &attributes[..0]), (&longest, &attributes[..0]), (&longest, &attributes)]
    {
        let fixed = encode(&op(path, xattrs, 0)).expect("a small record").len() + 4;
        let most = (BODY_BYTES_MAX - fixed) / 32;
        // Also with every size between two blocks, so that the last byte of the limit is met.
        for fill in (0..32).step_by(5) {
            let shorter = RelPath::new(&path.as_bytes()[..path.as_bytes().len().saturating_sub(fill)]);
            let Some(path) = shorter else { continue };
            for blocks in most - 1..=most + 2 {
                let op = op(&path, xattrs, blocks);
                if let Ok(bytes) = encode(&op) {
                    assert!(bytes.len() <= BODY_BYTES_MAX);
                    let back = decode::<Op>(&bytes);
                    assert!(
                        back.as_ref() == Ok(&op),
                        "{} bytes with {blocks} blocks and {} attributes were encoded and cannot be decoded: {:?}",
                        bytes.len(),
                        xattrs.len(),
                        back.err()
                    );
                }
            }
        }
        assert!(encode(&op(path, xattrs, most + 2)).is_err(), "beyond the limit");
    }
}

/// Written out here, so that the test does not rely on the encoder.
fn varint(n: u64) -> Vec<u8> {
    match n {
        0..=250 => vec![n as u8],
        251..=0xffff => [&[251][..], &(n as u16).to_le_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[252][..], &(n as u32).to_le_bytes()].concat(),
        _ => [&[253][..], &n.to_le_bytes()].concat(),
    }
}

/// Bytes of one line of `/proc/self/status`.
fn status(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let value = text.lines().find_map(|l| l.strip_prefix(line)).expect("a line of status");
    let number: u64 = value.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    number << 10
}
