//! Deltas: what is equal to the base is not sent, and the result is the source whatever the base was.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use common::{Place, engines, noise, read};
use transfer::{Copied, Engine, How};

const MIB: usize = 1 << 20;

/// Puts `base` into the target's directory and says what a caller would know of it.
fn delta(place: &Place, base: &[u8]) -> How {
    std::fs::write(place.target_path("base"), base).unwrap();
    let mut hasher = transfer::ContentHasher::default();
    hasher.update(base);
    How::Delta {
        base: (place.to.clone(), b"base".as_slice().into()),
        base_size: base.len() as u64,
        base_blocks: hasher.finish().blocks.into(),
    }
}

/// Copies `source` over `base`, checks the result, and tells what was sent.
fn copy(engine: Engine, place: &Place, base: &[u8], source: &[u8]) -> Copied {
    let _ = std::fs::remove_file(place.target_path("f"));
    place.put("f", source);
    let how = delta(place, base);
    let copied = place.copy(engine, place.job("f", how)).unwrap();
    assert!(read(&place.target_path("f")) == source, "{engine:?}: content");
    assert_eq!(copied.hash.root, *blake3::hash(source).as_bytes(), "{engine:?}: hash");
    assert!(read(&place.target_path("base")) == base, "{engine:?}: the base is untouched");
    copied
}

#[test]
fn an_append_sends_the_tail() {
    for engine in engines() {
        let place = Place::new();
        let source = noise(20 * MIB + 777, 1);
        for base_len in [20 * MIB, 19 * MIB + 5, 20 * MIB + 776] {
            let copied = copy(engine, &place, &source[..base_len], &source);
            let tail = source.len() - base_len / MIB * MIB;
            assert_eq!(copied.bytes_sent, tail as u64, "{engine:?}: base of {base_len}");
        }
    }
}

#[test]
fn nothing_changed_sends_nothing() {
    for engine in engines() {
        let place = Place::new();
        let source = noise(130 * MIB + 12, 2);
        assert_eq!(copy(engine, &place, &source, &source).bytes_sent, 0);
    }
}

#[test]
fn changed_blocks_are_sent_alone() {
    for engine in engines() {
        let place = Place::new();
        let base = noise(9 * MIB + 100, 3);
        let mut source = base.clone();
        source[4 * MIB + 17] ^= 1;
        source[9 * MIB + 99] ^= 1;
        assert_eq!(copy(engine, &place, &base, &source).bytes_sent, MIB as u64 + 100);
    }
}

#[test]
fn shrinking_and_small_files() {
    for engine in engines() {
        let place = Place::new();
        let base = noise(9 * MIB + 100, 4);
        for len in [0, 1, 65536, MIB - 1, MIB, MIB + 1, 3 * MIB, 5 * MIB + 50] {
            copy(engine, &place, &base, &base[..len]);
        }
        // A base of one block has no hashes to compare with.
        copy(engine, &place, &base[..MIB], &base);
        copy(engine, &place, &[], &base);
    }
}

#[test]
fn a_base_that_is_useless_costs_only_time() {
    for engine in engines() {
        let place = Place::new();
        let source = noise(5 * MIB + 1, 5);
        place.put("f", &source);
        let gone = delta(&place, &source);
        std::fs::remove_file(place.target_path("base")).unwrap();
        let copied = place.copy(engine, place.job("f", gone)).unwrap();
        assert_eq!(copied.bytes_sent, source.len() as u64);
        assert!(read(&place.target_path("f")) == source);
        // On another file system: EXDEV, or a copy through the page cache; both are right.
        std::fs::remove_file(place.target_path("f")).unwrap();
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(elsewhere.path().join("base"), &source).unwrap();
        let How::Delta { base_size, base_blocks, .. } = delta(&place, &source) else { unreachable!() };
        let dir = Arc::new(sys::Dir::open(elsewhere.path()).unwrap());
        let how = How::Delta { base: (dir, b"base".as_slice().into()), base_size, base_blocks };
        place.copy(engine, place.job("f", how)).unwrap();
        assert!(read(&place.target_path("f")) == source);
    }
}

#[test]
fn a_shorter_base_than_was_said_is_noticed() {
    for engine in engines() {
        let place = Place::new();
        let source = noise(8 * MIB, 6);
        place.put("f", &source);
        let how = delta(&place, &source);
        std::fs::File::options()
            .write(true)
            .open(place.target_path("base"))
            .unwrap()
            .set_len(3 * MIB as u64)
            .unwrap();
        place.copy(engine, place.job("f", how)).unwrap();
        assert!(read(&place.target_path("f")) == source);
    }
}

#[test]
fn sparse_sources_stay_sparse() {
    for engine in engines() {
        let place = Place::new();
        let size = 30 * MIB as u64;
        let file = std::fs::File::create(place.source_path("f")).unwrap();
        file.set_len(size).unwrap();
        file.write_at(&noise(2 * MIB, 7), 4 * MIB as u64).unwrap();
        file.write_at(&noise(8192, 8), 20 * MIB as u64 + 4096).unwrap();
        file.sync_all().unwrap();
        let old = read(&place.source_path("f"));
        file.write_at(&noise(4096, 9), 25 * MIB as u64).unwrap();
        file.sync_all().unwrap();
        let how = delta(&place, &old);
        let copied = place.copy(engine, place.job("f", how)).unwrap();
        let source = read(&place.source_path("f"));
        assert!(read(&place.target_path("f")) == source, "{engine:?}");
        assert_eq!(copied.hash.root, *blake3::hash(&source).as_bytes());
        assert_eq!(copied.bytes_sent, 4096, "{engine:?}");
        let (got, had) = (std::fs::metadata(place.target_path("f")).unwrap(), file.metadata().unwrap());
        assert!(got.blocks() <= had.blocks(), "{engine:?}: {} blocks for {}", got.blocks(), had.blocks());
    }
}
