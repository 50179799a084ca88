//! Both engines against the source: sizes, holes, metadata, and sources that are not what they were.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use common::{Place, engines, noise, read, run_jobs};
use sys::Errno;
use transfer::{ContentHash, CopyError, Durability, How, Job, Options, Outcome, Side};

const MIB: usize = 1 << 20;

fn hash_of(bytes: &[u8]) -> ContentHash {
    let mut hasher = transfer::ContentHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

#[test]
fn every_size_arrives_whole() {
    let sizes = [
        0,
        1,
        4095,
        4096,
        4097,
        65535,
        65536,
        65537,
        300_000,
        MIB - 1,
        MIB,
        MIB + 1,
        2 * MIB,
        5 * MIB + 3,
        17 * MIB,
    ];
    for engine in engines() {
        let place = Place::new();
        for size in sizes {
            place.put(&format!("f{size}"), &noise(size, size as u64 + 1));
        }
        let jobs = sizes.map(|size| Job::Copy(Box::new(place.job(&format!("f{size}"), How::Whole))));
        let outcomes = run_jobs(engine, &Options::default(), jobs.into());
        for (index, size) in sizes.iter().enumerate() {
            let Some(Outcome::Copied(Ok(copied))) = outcomes.get(&(index as u64)) else {
                panic!("{engine:?}: size {size} was not copied");
            };
            let name = format!("f{size}");
            let source = read(&place.source_path(&name));
            assert!(read(&place.target_path(&name)) == source, "{engine:?}: content of {name}");
            assert_eq!(copied.hash, hash_of(&source), "{engine:?}: hash of {name}");
            assert_eq!((copied.size, copied.bytes_sent), (*size as u64, *size as u64));
            assert!(!copied.stat_changed_during_copy);
        }
    }
}

#[test]
fn every_pair_of_sides_copies_the_same() {
    let sizes = [0, 1, 65536, 65537, 131072, 131073, 300_000, MIB, MIB + 1, 5 * MIB + 3];
    for engine in engines() {
        for (source, target) in [
            (Side::Local, Side::Local),
            (Side::MayHang, Side::Local),
            (Side::Local, Side::MayHang),
            (Side::MayHang, Side::MayHang),
        ] {
            let place = Place::new();
            let options = Options { source, target, ..Options::default() };
            for size in sizes {
                place.put(&format!("f{size}"), &noise(size, size as u64 + 1));
            }
            let hole = std::fs::File::create(place.source_path("f9")).unwrap();
            hole.set_len(9 * MIB as u64).unwrap();
            hole.write_at(&noise(5000, 1), 7 * MIB as u64).unwrap();
            let names: Vec<_> = sizes.iter().map(|size| format!("f{size}")).chain(["f9".into()]).collect();
            let jobs = names.iter().map(|name| Job::Copy(Box::new(place.job(name, How::Whole)))).collect();
            let outcomes = run_jobs(engine, &options, jobs);
            for (index, name) in names.iter().enumerate() {
                let Some(Outcome::Copied(Ok(copied))) = outcomes.get(&(index as u64)) else {
                    panic!("{engine:?}, {source:?} to {target:?}: {name} was not copied");
                };
                let bytes = read(&place.source_path(name));
                assert!(
                    read(&place.target_path(name)) == bytes,
                    "{engine:?}, {source:?} to {target:?}: {name}"
                );
                assert_eq!(copied.hash, hash_of(&bytes), "{engine:?}, {source:?} to {target:?}: {name}");
            }
        }
    }
}

#[test]
fn many_small_files_through_a_small_window() {
    for engine in engines() {
        let place = Place::new();
        let count = 500;
        for i in 0..count {
            place.put(&format!("f{i}"), &noise(i * 37 % 9000, i as u64 + 1));
        }
        let options = Options { in_flight: 7, pool_threads: 3, memory: 0, ..Options::default() };
        let jobs = (0..count).map(|i| Job::Copy(Box::new(place.job(&format!("f{i}"), How::Whole)))).collect();
        let outcomes = run_jobs(engine, &options, jobs);
        assert!(outcomes.values().all(|outcome| matches!(outcome, Outcome::Copied(Ok(_)))));
        for i in 0..count {
            let name = format!("f{i}");
            assert!(read(&place.target_path(&name)) == read(&place.source_path(&name)), "{engine:?}: {name}");
        }
    }
}

#[test]
fn hash_only_writes_nothing() {
    for engine in engines() {
        let place = Place::new();
        for size in [0, 1, 70_000, MIB, 3 * MIB + 1] {
            let bytes = noise(size, 7);
            place.put("f", &bytes);
            let copied = place.copy(engine, place.job("f", How::HashOnly)).unwrap();
            assert_eq!(copied.hash, hash_of(&bytes));
            assert_eq!(place.to.names().unwrap(), Vec::<Vec<u8>>::new());
        }
    }
}

#[test]
fn holes_stay_holes() {
    for engine in engines() {
        let place = Place::new();
        let size = 40 * MIB as u64 + 5;
        let file = std::fs::File::create(place.source_path("sparse")).unwrap();
        file.set_len(size).unwrap();
        // Data in the middle of a block, across a border, and a page of zeros that was written.
        file.write_at(&noise(4096, 1), 3 * MIB as u64 + 8192).unwrap();
        file.write_at(&noise(20_000, 2), 10 * MIB as u64 - 8192).unwrap();
        file.write_at(&[0; 65536], 20 * MIB as u64).unwrap();
        file.sync_all().unwrap();
        for small in [0u64, 100, 50_000] {
            std::fs::File::create(place.source_path(&format!("empty{small}")))
                .unwrap()
                .set_len(small)
                .unwrap();
        }
        for name in ["sparse", "empty0", "empty100", "empty50000"] {
            let copied = place.copy(engine, place.job(name, How::Whole)).unwrap();
            let source = read(&place.source_path(name));
            assert!(read(&place.target_path(name)) == source, "{engine:?}: {name}");
            assert_eq!(copied.hash, hash_of(&source));
            assert!(copied.bytes_sent <= 40_000, "{engine:?}: sent {} of {name}", copied.bytes_sent);
            let blocks = std::fs::metadata(place.target_path(name)).unwrap().blocks();
            assert!(blocks <= file.metadata().unwrap().blocks(), "{engine:?}: {name} takes {blocks} blocks");
        }
        let huge = std::fs::File::create(place.source_path("huge")).unwrap();
        huge.set_len(8 << 40).unwrap();
        match place.copy(engine, place.job("huge", How::Whole)) {
            Err(CopyError::Source(error)) => assert_eq!(error.errno, Errno::FBIG),
            other => panic!("{engine:?}: {other:?}"),
        }
        assert!(!place.target_path("huge").exists());
    }
}

#[test]
fn metadata_arrives_and_times_come_last() {
    for engine in engines() {
        let place = Place::new();
        for (name, size) in [("small", 10), ("large", 3 * MIB)] {
            place.put(name, &noise(size, 3));
            let path = place.source_path(name);
            std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6754)).unwrap();
            let value = noise(300, 9);
            rustix::fs::setxattr(&path, "user.note", &value, rustix::fs::XattrFlags::empty()).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();

            let copied = place.copy(engine, place.job(name, How::Whole)).unwrap();
            let meta = std::fs::metadata(place.target_path(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 4321, 0o6754), "{engine:?}");
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 123_456_789));
            let mut got = vec![0; 1000];
            let len = rustix::fs::getxattr(place.target_path(name), "user.note", &mut got[..]).unwrap();
            assert_eq!(got[..len], value);
            assert_eq!(copied.xattrs.kept, [(b"user.note".to_vec(), value)]);
            assert_eq!((copied.stat.uid, copied.stat.mode), (1234, 0o6754));
        }
    }
}

#[test]
fn another_inode_at_the_name_is_not_read() {
    for engine in engines() {
        let place = Place::new();
        let replaced = |what: &str, job| match place.copy(engine, job) {
            Err(CopyError::Replaced) => assert_eq!(place.to.names().unwrap().len(), 0, "{what}"),
            other => panic!("{engine:?}, {what}: {other:?}"),
        };
        let prepare = || {
            let _ = std::fs::remove_file(place.source_path("f"));
            place.put("f", b"what the walk saw");
            let job = place.job("f", How::Whole);
            std::fs::rename(place.source_path("f"), place.source_path("seen")).unwrap();
            job
        };
        replaced("gone", prepare());
        let job = prepare();
        place.put("f", b"another");
        replaced("another file", job);
        let job = prepare();
        place.from.mkfifo(b"f", 0o600).unwrap();
        replaced("a FIFO without a writer", job);
        let job = prepare();
        place.from.symlink(b"seen", b"f").unwrap();
        replaced("a symlink to the very file", job);
        std::fs::remove_file(place.source_path("f")).unwrap();
        let job = prepare();
        place.from.mkdir(b"f", 0o700).unwrap();
        replaced("a directory", job);
    }
}

#[test]
fn a_leftover_is_replaced_only_when_told() {
    for engine in engines() {
        let place = Place::new();
        place.put("f", b"new");
        std::fs::write(place.target_path("f"), b"old and longer").unwrap();
        match place.copy(engine, place.job("f", How::Whole)) {
            Err(CopyError::Target(error)) => assert_eq!(error.errno, Errno::EXIST),
            other => panic!("{engine:?}: {other:?}"),
        }
        assert_eq!(read(&place.target_path("f")), b"old and longer");
        let job = transfer::CopyJob { replace_leftover: true, ..place.job("f", How::Whole) };
        place.copy(engine, job).unwrap();
        assert_eq!(read(&place.target_path("f")), b"new");
    }
}

#[test]
fn the_owner_is_right_whether_they_may_create_or_not() {
    if !std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        eprintln!("SKIPPED: needs root");
        assert!(std::env::var_os("REQUIRE_ALL").is_none(), "root is required");
        return;
    }
    for engine in engines() {
        let place = Place::new();
        for (name, dir_owner) in [("f", 0), ("g", 54_321)] {
            place.put(name, &noise(MIB + 9, 5));
            std::os::unix::fs::chown(place.source_path(name), Some(54_321), Some(54_322)).unwrap();
            std::os::unix::fs::chown(place.root.path().join("to"), Some(dir_owner), None).unwrap();
            let owner = sys::Owner { uid: 54_321, gid: 54_322 };
            let job = transfer::CopyJob { create_as: Some(owner), ..place.job(name, How::Whole) };
            place.copy(engine, job).unwrap();
            let made = std::fs::metadata(place.target_path(name)).unwrap();
            assert_eq!((made.uid(), made.gid()), (54_321, 54_322), "{engine:?} {name}");
            assert!(read(&place.target_path(name)) == noise(MIB + 9, 5));
        }
    }
}

#[test]
fn durability_without_fsync_copies_just_the_same() {
    for engine in engines() {
        let place = Place::new();
        let bytes = noise(2 * MIB + 9, 5);
        place.put("f", &bytes);
        for durability in [Durability::Deferred, Durability::Replicated] {
            place.copy(engine, transfer::CopyJob { durability, ..place.job("f", How::Whole) }).unwrap();
            assert!(read(&place.target_path("f")) == bytes);
            place.clear_target();
        }
    }
}

#[test]
fn calls_run_and_bring_their_value() {
    for engine in engines() {
        let jobs = (0..50u64).map(|i| Job::Call(Box::new(move || Box::new(i * i)))).collect();
        for (tag, outcome) in run_jobs(engine, &Options::default(), jobs) {
            match outcome {
                Outcome::Called(value) => assert_eq!(value.downcast_ref::<u64>(), Some(&(tag * tag))),
                Outcome::Copied(_) => panic!("{engine:?}: a call came back as a copy"),
            }
        }
    }
}
