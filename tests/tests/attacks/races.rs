//! A1–A8, B2, B3, F2: names that change between the look and the use.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::flip::FlipMaker;
use harness::gate::{Need, require};

use super::{Field, mkdir, write};

const FILES: usize = 64;

fn names() -> Vec<Vec<u8>> {
    (0..FILES).map(|i| format!("file-{i}").into_bytes()).collect()
}

fn with_family() -> Field {
    let names = names();
    let slices: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    Field::with_names(&slices)
}

/// Writes the files of `dir` anew, so that a sync has to open them.
fn rewrite(dir: &std::path::Path, round: u64) {
    use std::os::unix::ffi::OsStrExt;
    for name in names() {
        let path = dir.join(std::ffi::OsStr::from_bytes(&name));
        // The directory may be the flipped one and lead outside in this moment: only what is there is written.
        let _ = std::fs::symlink_metadata(&path).map(|_| std::fs::write(&path, format!("harmless {round}")));
    }
}

/// A1: a leaf flips between a file and a symlink to a secret.
///
/// Fails on a weakened build: `Dir::open_file` opens by name without `NOFOLLOW`, and the copy does not compare
/// (inode, device) with what the look saw (`CopyError::Replaced`).
#[test]
fn a_leaf_flips_to_a_symlink() {
    let mut field = Field::new();
    write(&field.at("leaf"), "harmless");
    let flipper =
        FlipMaker::of(&field.at("leaf")).symlink_to(&field.canary.secret()).unwrap().start().unwrap();
    let rounds = field.sync_under_attack(|_, _| {});
    let flips = flipper.stop().unwrap();
    assert!(rounds > 5 && flips > 1000, "{rounds} syncs, {flips} flips");
    field.assert_unharmed();
}

/// A2, A3: a directory flips with a symlink to a directory outside that has secrets of the same names.
///
/// Fails on a weakened build: without `NO_SYMLINKS` and `BENEATH` in `Dir::open_as` and `NOFOLLOW` in `DIR_FLAGS`.
#[test]
fn a_parent_flips_to_a_symlink() {
    let mut field = with_family();
    let dir = field.at("deep/parent");
    mkdir(&dir);
    for name in names() {
        write(&dir.join(String::from_utf8(name).unwrap()), "harmless");
    }
    let hidden = field.dir.path().join("hidden");
    mkdir(&hidden);
    let flipper =
        FlipMaker::of(&dir).hidden_in(&hidden).symlink_to(field.canary.dir()).unwrap().start().unwrap();
    let rounds = field.sync_under_attack(|_, _| {});
    let flips = flipper.stop().unwrap();
    assert!(rounds > 5 && flips > 1000, "{rounds} syncs, {flips} flips");
    field.assert_unharmed();
}

/// A2 by the path of a changed file: its parents are opened anew for it, and one of them flips.
#[test]
fn a_grandparent_of_changed_files_flips() {
    let mut field = with_family();
    let dir = field.at("top/parent");
    mkdir(&dir);
    for name in names() {
        write(&dir.join(String::from_utf8(name).unwrap()), "harmless");
    }
    field.sync();
    // Held by another name that no flip touches.
    let hidden = field.dir.path().join("hidden");
    mkdir(&hidden);
    let held = std::fs::File::open(&dir).unwrap();
    use std::os::fd::AsRawFd;
    let held_path = std::path::PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    // Outside, `parent` is the canary's directory.
    let outside = field.dir.path().join("outside");
    mkdir(&outside);
    symlink(field.canary.dir(), outside.join("parent")).unwrap();
    let flipper =
        FlipMaker::of(&field.at("top")).hidden_in(&hidden).symlink_to(&outside).unwrap().start().unwrap();
    let rounds = field.sync_under_attack(|_, round| rewrite(&held_path, round));
    assert!(flipper.stop().unwrap() > 1000 && rounds > 5);
    field.assert_unharmed();
}

/// A4: while a file flips with a symlink to a secret, its mode, owner, ACL, attributes and times are carried over.
/// The canary notices the least touch, by its ctime.
///
/// Fails on a weakened build: `sys::meta::apply` works on the volume's path, or `apply_special` lacks
/// `SYMLINK_NOFOLLOW` (the symlink's own owner and time are then set on the secret).
#[test]
fn metadata_is_never_set_through_a_flip() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut field = Field::new();
    let leaf = field.at("leaf");
    write(&leaf, "harmless");
    let link = field.at("link");
    symlink(field.canary.secret(), &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(1234), Some(1234)).unwrap();
    let flipper = FlipMaker::of(&leaf).existing(&link).start().unwrap();
    let acl = harness::trees::sample_acl(4242, 4243);
    field.sync_under_attack(|site, round| {
        // Through descriptors of the two inodes: the attacker knows what it holds.
        use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat, lsetxattr};
        let id = 1000 + (round % 50) as u32;
        for name in ["leaf", "link"] {
            let path = site.volume.join(name);
            let ids = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
            let _ = chownat(CWD, &path, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW);
            let _ = lsetxattr(&path, "user.round", &round.to_le_bytes(), rustix::fs::XattrFlags::empty());
            let _ = lsetxattr(&path, "system.posix_acl_access", &acl, rustix::fs::XattrFlags::empty());
        }
    });
    assert!(flipper.stop().unwrap() > 1000);
    field.assert_unharmed();
}

/// A4 without a race: symlinks with owners and times of their own that lead to the secret.
///
/// Fails on a weakened build: `apply_special` without `SYMLINK_NOFOLLOW`.
#[test]
fn a_symlinks_own_metadata_stays_its_own() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    for (i, target) in [field.canary.secret(), field.canary.dir().to_owned()].iter().enumerate() {
        let link = field.at(&format!("link-{i}"));
        symlink(target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(4_000_000_000), Some(77)).unwrap();
        let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 2 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &link, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    field.sync();
    field.assert_unharmed();
}

/// A5: a directory leaves the tree and comes back, all the time.
///
/// Fails on a weakened build: a directory that is gone when it is opened counts as an error of the whole cycle
/// (`Looker::directory`, `Stager::source_failed` without `is_gone`).
#[test]
fn a_directory_leaves_and_returns() {
    let mut field = with_family();
    let dir = field.at("a/b/c");
    mkdir(&dir);
    for name in names() {
        write(&dir.join(String::from_utf8(name).unwrap()), "harmless");
    }
    let outside = field.dir.path().join("gone");
    let stop = AtomicBool::new(false);
    let moved = field.at("a/b");
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut moves = 0u64;
            while !stop.load(Ordering::Relaxed) {
                std::fs::rename(&moved, &outside).unwrap();
                std::fs::rename(&outside, &moved).unwrap();
                moves += 2;
            }
            moves
        });
        let held = Finally(&stop);
        field.sync_under_attack(|_, _| {});
        drop(held);
        assert!(mover.join().unwrap() > 1000);
    });
    field.assert_unharmed();
}

/// Ends an attack also when the test fails in the middle of it.
pub struct Finally<'a>(pub &'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A6, C1: one name is file, directory, FIFO and symlink in turn.
///
/// Fails on a weakened build: `Dir::open_file` opens for reading before it knows the type, without `NONBLOCK`
/// (the FIFO blocks for ever); `make_special` trusts the type of the look.
#[test]
fn one_name_takes_every_shape() {
    let mut field = Field::new();
    write(&field.at("shape"), "harmless");
    let flipper = FlipMaker::of(&field.at("shape"))
        .directory()
        .unwrap()
        .fifo()
        .unwrap()
        .symlink_to(&field.canary.secret())
        .unwrap()
        .file(b"another file")
        .unwrap()
        .start()
        .unwrap();
    let rounds = field.sync_under_attack(|_, _| {});
    let flips = flipper.stop().unwrap();
    assert!(rounds > 5 && flips > 1000, "{rounds} syncs, {flips} flips");
    field.assert_unharmed();
}

/// A7: the volume's root is replaced, by a symlink and by another directory, between two looks at it.
///
/// Fails on a weakened build: `Volume::still_there` returns `Ok` at once.
#[test]
fn the_root_is_replaced() {
    let field = Field::new();
    write(&field.at("file"), "one");
    field.sync();
    let volume = &field.site.volume;
    let aside = field.dir.path().join("aside");
    for by_symlink in [true, false] {
        let pinned = agent::volume::Volume::pin("volume", volume).unwrap();
        std::fs::rename(volume, &aside).unwrap();
        if by_symlink {
            symlink(field.canary.dir(), volume).unwrap();
        } else {
            std::fs::create_dir(volume).unwrap();
        }
        let refused = pinned.still_there().unwrap_err();
        assert_eq!(refused.exit(), agent::Exit::Halted, "{refused}");
        // And from the start: a symlink is no volume, an empty directory halts for its deletions.
        let state = agent::state::StateDir::at(&field.site.state).unwrap();
        let (mut lane, tenure) =
            agent::lane::Lane::open_writer(&state, &field.site.mirror, agent::lane::Ownership::Ours).unwrap();
        let options = field.site.options.clone();
        let cycle = agent::cycle::Cycle {
            lane: &mut lane,
            tenure: &tenure,
            volume: &pinned,
            options: &options,
            progress: &agent::cycle::Progress::default(),
            scope: agent::cycle::Scope::Whole,
            silent: &agent::cycle::Silent::nothing(),
            watch: None,
        }
        .run();
        assert_eq!(cycle.unwrap_err().exit(), agent::Exit::Halted);
        assert_eq!(std::fs::read(field.copy("file")).unwrap(), b"one");
        drop(lane);
        if by_symlink {
            assert!(field.site.sync().is_err(), "a symlink was taken for a volume");
            std::fs::remove_file(volume).unwrap();
        } else {
            std::fs::remove_dir(volume).unwrap();
        }
        std::fs::rename(&aside, volume).unwrap();
    }
    field.assert_unharmed();
}

/// A7 as a race: the root goes away and comes back as something else while syncs run. A sync may stop with a
/// guard's code; it never takes in what is outside and never deletes for it.
#[test]
fn the_root_flips() {
    let field = with_family();
    for name in names() {
        write(&field.at(&String::from_utf8(name).unwrap()), "harmless");
    }
    field.sync();
    let flipper = FlipMaker::of(&field.site.volume).symlink_to(field.canary.dir()).unwrap().start().unwrap();
    let start = std::time::Instant::now();
    let (mut done, mut refused) = (0, 0);
    while start.elapsed() < super::budget() {
        match field.site.sync() {
            Ok(_) => done += 1,
            Err(e) => {
                let expected = matches!(&e, agent::Error::Guard(_) | agent::Error::Volume { .. });
                assert!(expected, "{}", super::common::crash::chain(&e));
                refused += 1;
            }
        }
        assert!(field.copy("file-63").exists(), "deleted after {done} syncs");
    }
    assert!(flipper.stop().unwrap() > 1000 && done + refused > 20);
    assert!(refused > 0, "{done} syncs and no refusal");
    field.assert_unharmed();
}

/// A8: loops, chains, absolute and climbing targets and the longest target are data.
///
/// Fails on a weakened build: any call that follows symlinks, and a target cut off at 4,095 bytes.
#[test]
fn symlinks_are_data() {
    let field = Field::new();
    symlink("loop-b", field.at("loop-a")).unwrap();
    symlink("loop-a", field.at("loop-b")).unwrap();
    symlink(".", field.at("self")).unwrap();
    for hop in 0..64 {
        symlink(format!("hop-{}", hop + 1), field.at(&format!("hop-{hop}"))).unwrap();
    }
    symlink(field.canary.secret(), field.at("hop-64")).unwrap();
    let climb = format!("{}etc/shadow", "../".repeat(60));
    for (name, target) in [
        ("absolute", "/etc/shadow"),
        ("climb", &climb),
        ("proc", "/proc/self/root"),
        ("dangling", "no/where"),
    ] {
        symlink(target, field.at(name)).unwrap();
    }
    symlink("t".repeat(4095), field.at("longest")).unwrap();
    field.sync();
    field.assert_unharmed();
    assert_eq!(std::fs::read_link(field.copy("longest")).unwrap().as_os_str().len(), 4095);
}

/// B2: 20,000 names of one inode (ext4 allows 65,000), some of which are broken off while a sync runs.
///
/// Fails on a weakened build: `Stager::add` copies each name by itself (links and time), or a failed leader of a
/// group takes its followers with it (`Groups::failed`).
#[test]
fn twenty_thousand_links() {
    let field = Field::new();
    const LINKS: usize = 20_000;
    mkdir(&field.at("links"));
    write(&field.at("links/0"), "one inode");
    for i in 1..LINKS {
        std::fs::hard_link(field.at("links/0"), field.at(&format!("links/{i}"))).unwrap();
    }
    let volume = &field.site.volume;
    std::thread::scope(|scope| {
        let breaker = scope.spawn(|| {
            for i in (0..LINKS).step_by(40) {
                let name = volume.join(format!("links/{i}"));
                std::fs::remove_file(&name).unwrap();
                write(&name, format!("on its own {i}"));
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        field.sync_within(Duration::from_secs(60));
        field.sync_within(Duration::from_secs(60));
        breaker.join().unwrap();
    });
    field.assert_unharmed();
}

/// B3: a file is replaced by another inode under the same name all the time: what is opened is not what was seen.
///
/// Fails on a weakened build: without the comparison behind `CopyError::Replaced` the entry mixes the facts of one
/// inode with the bytes of another.
#[test]
fn a_file_is_replaced_all_the_time() {
    let mut field = Field::new();
    write(&field.at("name"), vec![b'a'; 300_000]);
    let flipper = FlipMaker::of(&field.at("name"))
        .file(&vec![b'b'; 300_000])
        .unwrap()
        .file(b"short")
        .unwrap()
        .start()
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    field.sync_under_attack(|site, _| {
        if let Ok(bytes) = std::fs::read(site.mirror.join("name")) {
            assert!(
                bytes == b"short" || bytes.len() == 300_000 && bytes.iter().all(|b| *b == bytes[0]),
                "a mixture of {} bytes",
                bytes.len()
            );
            seen.insert(bytes[0]);
        }
    });
    assert!(flipper.stop().unwrap() > 1000 && !seen.is_empty());
    field.assert_unharmed();
}

/// F2: files grow, shrink and are written in place while they are copied.
///
/// Fails on a weakened build: `Stager::note` does not set `torn`, and the first sync after the attack is not exact
/// (an entry whose facts are newer than its bytes, `origin(.., changing)`).
#[test]
fn files_change_under_the_copy() {
    let mut field = Field::new();
    for name in ["grows", "shrinks", "rewritten"] {
        write(&field.at(name), vec![1; 2 << 20]);
    }
    let stop = AtomicBool::new(false);
    let volume = field.site.volume.clone();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            use std::io::{Seek, SeekFrom, Write};
            let open = |name: &str| std::fs::OpenOptions::new().write(true).open(volume.join(name)).unwrap();
            let (mut grows, shrinks, mut rewritten) = (open("grows"), open("shrinks"), open("rewritten"));
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                grows.seek(SeekFrom::End(0)).unwrap();
                grows.write_all(&[round as u8; 4096]).unwrap();
                if round.is_multiple_of(512) {
                    grows.set_len(1 << 20).unwrap();
                }
                shrinks.set_len(if round.is_multiple_of(2) { 100 } else { 2 << 20 }).unwrap();
                rewritten.seek(SeekFrom::Start((round % 512) * 4096)).unwrap();
                rewritten.write_all(&[round as u8; 4096]).unwrap();
            }
            round
        });
        let held = Finally(&stop);
        field.sync_under_attack(|_, _| {});
        drop(held);
        assert!(writer.join().unwrap() > 100);
    });
    field.assert_unharmed();
}
