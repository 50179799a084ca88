//! What is there after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::thread;
use std::time::{Duration, Instant};

use harness::faultfs::{FaultFs, Op, Survive, When};

use super::local::tree;
use super::{errno, names, start, write_synced};

/// The classical accident: written and renamed without fsync, the name survives and the bytes do not.
#[test]
fn unsynced_file_is_empty_after_a_rename() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::write(at("tmp"), "unsynced").unwrap();
    fs::rename(at("tmp"), at("final")).unwrap();
    write_synced(&at("safe.tmp"), b"synced").unwrap();
    fs::rename(at("safe.tmp"), at("safe")).unwrap();
    fs.crash().unwrap();
    fs.reboot(Survive::AllMetadataNoData).unwrap();
    assert_eq!(fs::read(at("final")).unwrap(), b"");
    assert_eq!(fs::read(at("safe")).unwrap(), b"synced");
    assert_eq!(names(fs.path()), ["final", "safe"].map(String::from).into());
}

/// Metadata falls back to the last fsync of a file; an fsync of a directory changes nothing about that.
#[test]
fn only_a_file_fsync_is_a_barrier() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("other"), "never synced").unwrap();
    write_synced(&at("barrier"), b"x").unwrap();
    fs::rename(at("dir"), at("moved")).unwrap();
    fs::write(at("late"), "late").unwrap();
    File::open(fs.path()).unwrap().sync_all().unwrap();
    fs.crash().unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(names(fs.path()), ["barrier", "dir", "other"].map(String::from).into());
    assert_eq!(fs::read(at("barrier")).unwrap(), b"x");
    assert_eq!(fs::read(at("other")).unwrap(), b"", "bytes of another file are not synced by the barrier");
}

/// Under every seed the surviving changes of metadata are a prefix that reaches at least to the last fsync.
#[test]
fn metadata_survives_as_a_prefix() {
    let Some(fs) = start() else { return };
    let mut lengths = BTreeSet::new();
    for seed in 0..60 {
        fs.reset().unwrap();
        for step in 0..10 {
            fs::create_dir(fs.path().join(format!("{step}"))).unwrap();
            if step == 4 {
                write_synced(&fs.path().join("barrier"), b"x").unwrap();
            }
        }
        fs.crash().unwrap();
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let mut left = names(fs.path());
        assert!(left.remove("barrier"), "seed {seed}");
        let prefix: BTreeSet<String> = (0..left.len()).map(|step| step.to_string()).collect();
        assert_eq!(left, prefix, "seed {seed}");
        assert!(left.len() >= 5, "seed {seed} lost what the fsync covered");
        lengths.insert(left.len());
    }
    assert_eq!(lengths, (5..=10).collect(), "not every cut was reached");
}

/// Unsynced bytes meet every fate over the seeds, synced ones always stay.
#[test]
fn unsynced_bytes_are_lost_torn_zeroed_or_kept() {
    let Some(fs) = start() else { return };
    let (old, new) = (vec![b'o'; 8192], vec![b'n'; 8192]);
    let mut fates = BTreeSet::new();
    for seed in 0..120 {
        fs.reset().unwrap();
        let path = fs.path().join("file");
        write_synced(&path, &old).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&new, 4096).unwrap();
        drop(file);
        fs.crash().unwrap();
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let found = fs::read(&path).unwrap();
        assert_eq!(
            found[..4096],
            old[..4096],
            "seed {seed} touched bytes that were synced and not written again"
        );
        assert!(found.len() >= old.len(), "seed {seed} shortened a synced file");
        let count = |byte: u8| found[4096..].iter().filter(|b| **b == byte).count();
        fates.insert(match (found.len(), count(b'n'), count(0)) {
            (8192, 0, 0) => "lost",
            (12_288, 8192, 0) => "kept",
            (12_288, 0, 4096) => "length only",
            (_, 1.., 0) => "torn",
            other => panic!("seed {seed}: a state that no crash leaves: {other:?}"),
        });
    }
    assert_eq!(fates, ["kept", "length only", "lost", "torn"].into());
}

/// A truncation is metadata: it survives without the bytes around it, and later bytes do not survive without it.
#[test]
fn truncation_is_ordered_with_metadata() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let story = |fs: &FaultFs| {
        fs.reset().unwrap();
        write_synced(&path, b"old old old").unwrap();
        fs::write(&path, "new").unwrap();
        fs.crash().unwrap();
    };
    story(&fs);
    fs.reboot(Survive::AllMetadataNoData).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    story(&fs);
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old old old");
    for seed in 0..60 {
        story(&fs);
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let found = fs::read(&path).unwrap();
        let possible = found == b"old old old" || found.iter().all(|b| *b == 0) || b"new".starts_with(&found);
        assert!(possible, "seed {seed}: {:?}", found.escape_ascii().to_string());
    }
}

/// A length is metadata: bytes written after what was lost do not make a file longer, those written in place may stay.
#[test]
fn a_file_does_not_grow_beyond_the_cut() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let (mut grown, mut in_place) = (0, 0);
    for seed in 0..150 {
        fs.reset().unwrap();
        write_synced(&path, b"old").unwrap();
        fs::create_dir(fs.path().join("earlier")).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"NEW and longer", 0).unwrap();
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let found = fs::read(&path).unwrap();
        if fs.path().join("earlier").exists() {
            grown += usize::from(found.len() > 3);
        } else {
            assert_eq!(found.len(), 3, "seed {seed}: {:?}", found.escape_ascii().to_string());
            in_place += usize::from(found == b"NEW");
        }
    }
    assert!(grown > 0 && in_place > 0, "{grown} {in_place}");
}

/// A seed says it all: the same history and the same seed give the same tree.
#[test]
fn a_seed_replays() {
    let Some(fs) = start() else { return };
    let mut differing = BTreeSet::new();
    for seed in 0..20 {
        let run = || {
            fs.reset().unwrap();
            for i in 0..5 {
                fs::write(fs.path().join(format!("{i}")), vec![b'x'; 5000]).unwrap();
            }
            fs.crash().unwrap();
            fs.reboot(Survive::Seeded(seed)).unwrap();
            let found = tree(fs.path());
            found
                .into_iter()
                .map(|(name, facts)| (name, facts.split(" like ").next().unwrap().to_owned()))
                .collect()
        };
        let first: BTreeMap<Vec<u8>, String> = run();
        assert_eq!(first, run(), "seed {seed}");
        differing.insert(first);
    }
    assert!(differing.len() > 5, "seeds make no difference");
}

/// At every point of a history: nothing before it is missing, nothing after it is there, the caller sees ENOTCONN.
#[test]
fn every_crash_point_cuts_the_history() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::write(at("seen"), "before").unwrap();
    fs.snapshot("start").unwrap();
    let story = || -> io::Result<()> {
        fs::create_dir(at("d"))?;
        write_synced(&at("d/tmp"), &[b'x'; 1000])?;
        fs::rename(at("d/tmp"), at("d/file"))?;
        fs::hard_link(at("d/file"), at("name"))?;
        symlink("d", at("s"))?;
        fs::set_permissions(at("name"), fs::Permissions::from_mode(0o600))?;
        fs::remove_file(at("d/file"))
    };
    fs.restore("start").unwrap();
    story().unwrap();
    let trace = fs.trace().unwrap();
    let ops: Vec<Op> = trace.iter().map(|entry| entry.op).collect();
    use Op::{Create, Fsync, Link, Mkdir, Rename, Setattr, Symlink, Unlink, Write};
    assert_eq!(ops, [Mkdir, Create, Write, Fsync, Rename, Link, Symlink, Setattr, Unlink]);
    assert_eq!(trace.iter().map(|entry| entry.n).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(trace[4].paths, ["d/tmp", "d/file"]);
    assert_eq!((trace[2].offset, trace[2].len), (Some(0), Some(1000)));

    let mut expected = Vec::new();
    for point in 1..=ops.len() as u64 {
        for when in [When::Before, When::Torn, When::After] {
            fs.restore("start").unwrap();
            fs.crash_at(point, when).unwrap();
            assert_eq!(errno(story()), libc::ENOTCONN, "{point} {when:?}");
            assert!(fs.status().unwrap().dead);
            assert_eq!(errno(fs::metadata(at("seen"))), libc::ENOTCONN);
            assert_eq!(fs.trace().unwrap().len() as u64, point);
            fs.reboot(Survive::Everything).unwrap();
            assert_eq!(fs.status().unwrap().mutations, 0);
            assert_eq!(fs::read(at("seen")).unwrap(), b"before");
            let size = fs::metadata(at("d/tmp")).map(|meta| meta.len()).ok();
            expected.push((point, when, names(fs.path()).into_iter().collect::<Vec<_>>().join(" "), size));
        }
    }
    // Spelled out where the three differ: the directory, the bytes, the rename.
    let found = |point, when| {
        let entry = expected.iter().find(|(p, w, ..)| (*p, *w) == (point, when)).unwrap();
        (entry.2.as_str(), entry.3)
    };
    assert_eq!(found(1, When::Before), ("seen", None));
    assert_eq!(found(1, When::Torn), ("seen", None));
    assert_eq!(found(1, When::After), ("d seen", None));
    assert_eq!(found(3, When::Before), ("d seen", Some(0)));
    assert_eq!(found(3, When::Torn), ("d seen", Some(500)));
    assert_eq!(found(3, When::After), ("d seen", Some(1000)));
    assert_eq!(found(5, When::Before), ("d seen", Some(1000)));
    assert_eq!(found(5, When::After), ("d seen", None));
    assert_eq!(found(7, When::After), ("d name s seen", None));
}

/// Nothing of an earlier life is seen through a cache, a name or an open descriptor.
#[test]
fn nothing_stale_after_restore_or_reboot() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    fs::create_dir(fs.path().join("dir")).unwrap();
    write_synced(&path, b"one").unwrap();
    fs.snapshot("one").unwrap();
    for _ in 0..20 {
        let mut held = File::options().read(true).write(true).open(&path).unwrap();
        fs::write(&path, "something longer").unwrap();
        fs::write(fs.path().join("dir/new"), "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"something longer");
        fs.restore("one").unwrap();
        // Before the kernel has any reason to doubt the descriptor, and after.
        assert_eq!(errno(held.write(b"zombie")), libc::ESTALE);
        assert_eq!(errno(held.read(&mut [0; 3])), libc::ESTALE);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().len(), 3);
        assert_eq!(names(&fs.path().join("dir")), BTreeSet::new());
        assert!(errno(held.write(b"zombie")) != 0, "a descriptor survived");
        assert!(errno(held.read(&mut [0; 3])) != 0, "a descriptor survived");
        assert_eq!(fs::read(&path).unwrap(), b"one");

        // A name that becomes another kind of object.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs.reboot(Survive::OnlySynced).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
    assert!(fs.restore("unknown").is_err());
}

/// Numbers identify a file across a reboot and are not given to another one afterwards.
#[test]
fn inode_numbers_are_stable_and_not_reused() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    write_synced(&at("kept"), b"x").unwrap();
    let kept = fs::metadata(at("kept")).unwrap().ino();
    fs::write(at("lost"), "x").unwrap();
    let lost = fs::metadata(at("lost")).unwrap().ino();
    fs.reboot(Survive::OnlySynced).unwrap();
    fs::write(at("next"), "x").unwrap();
    assert_eq!(fs::metadata(at("kept")).unwrap().ino(), kept);
    assert!(fs::metadata(at("next")).unwrap().ino() > lost);
}

/// A file without a name lives as long as it is open and gives its space back.
#[test]
fn unlinked_files_live_while_open() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(b"still here", 0).unwrap();
    fs::remove_file(&path).unwrap();
    let mut found = [0; 10];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"still here");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs.status().unwrap().stored, 4096);
    drop(file);
    // The kernel says so in its own time.
    let patience = Instant::now() + Duration::from_secs(10);
    while fs.status().unwrap().stored != 0 {
        assert!(Instant::now() < patience, "the space of a closed file without a name is not free");
        thread::yield_now();
    }

    let file = File::create(&path).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    fs::remove_file(&path).unwrap();
    fs.reboot(Survive::Everything).unwrap();
    assert_eq!(fs.status().unwrap().stored, 0);
}
