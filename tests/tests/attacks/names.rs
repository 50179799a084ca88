//! E1–E5: names, depth and numbers.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use harness::compare::{Options, assert_same};
use harness::trees::odd_names;
use proto::ExceptionClass;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};

use super::{Field, mkdir, write};

/// E1, E2, E5: 255 bytes, control characters, invalid UTF-8, leading dashes, names of our own ledger, twins by case
/// or normalisation: byte-exact in the mirror, as files, directories and symlinks.
///
/// Fails on a weakened build: a stage name derived from the name, or any conversion of names to text.
#[test]
fn odd_names_are_bytes() {
    let field = Field::new();
    for name in odd_names() {
        let name = OsStr::from_bytes(&name);
        mkdir(&field.at("dirs").join(name));
        mkdir(&field.at("files"));
        write(&field.at("files").join(name), name.as_bytes());
        write(&field.site.volume.join(name), name.as_bytes());
    }
    // Names of the ledger beside the mirror.
    for name in ["mirror.tidegate", "mirror", "stage.0.1", "HEAD", "lane"] {
        let _ = std::fs::write(field.at(name), "a file of the volume");
    }
    field.sync();
    // Flat, too: every one changes.
    for name in odd_names() {
        write(&field.at("files").join(OsStr::from_bytes(&name)), "changed");
    }
    field.assert_unharmed();
}

/// E2: what a person or a log gets to read has no control characters in it.
///
/// Fails on a weakened build: `Display` of `RelPath` writes its bytes lossily.
#[test]
fn odd_names_are_told_escaped() {
    let field = Field::new();
    let names: Vec<Vec<u8>> = odd_names().into_iter().filter(|name| name.len() < 200).collect();
    let mut sockets = Vec::new();
    for name in &names {
        let made = std::os::unix::net::UnixListener::bind(field.site.volume.join(OsStr::from_bytes(name)));
        if let Ok(made) = made {
            sockets.push(made);
        }
    }
    assert!(sockets.len() > 40, "{}", sockets.len());
    field.sync();
    let told = field.exceptions();
    assert_eq!(told.len(), sockets.len());
    for (path, _, reason) in told {
        let hostile = |text: &str| text.chars().any(char::is_control);
        assert!(!hostile(&path) && !hostile(&reason), "{path:?}: {reason:?}");
    }
}

/// A chain of directories made through descriptors: paths of this length no call takes.
fn chain(top: &Path, depth: usize) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    at
}

/// Takes a chain apart from its end: the removal of a temporary directory may recurse.
fn unchain(end: OwnedFd, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let _ = unlinkat(&end, "leaf", AtFlags::empty());
    let mut at = end;
    for _ in 0..depth {
        let above = openat(&at, "..", flags, Mode::empty()).unwrap();
        unlinkat(&above, "d", AtFlags::REMOVEDIR).unwrap();
        at = above;
    }
}

/// E3: 200 directories deep is copied; 300 and 10,000 deep end at 200, in quarantine and not in a crash.
///
/// Fails on a weakened build: `DEPTH_MAX = usize::MAX` (one held descriptor per level: EMFILE), or recursion in
/// `look`, `fingerprint` or `remove_tree`.
#[test]
fn depth_is_bounded() {
    let field = Field::new();
    for depth in [199, 300, 10_000] {
        let top = field.at(&format!("depth-{depth}"));
        mkdir(&top);
        let end = chain(&top, depth);
        rustix::io::write(
            openat(&end, "leaf", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap(),
            b"at the end",
        )
        .unwrap();
        let report = field.sync_within(Duration::from_secs(30));
        // The chain's own top counts, and so does the leaf.
        let quarantined = u64::from(depth + 2 > 200);
        assert_eq!(report.totals.quarantined, quarantined, "{depth}: {:?}", field.exceptions().len());
        let again = field.sync_within(Duration::from_secs(30));
        assert_eq!(again.totals.quarantined, quarantined);
        assert!(!again.published, "{again:?}");
        if quarantined == 1 {
            let all = field.exceptions();
            assert_eq!(all[0].1, ExceptionClass::Quarantined, "{all:?}");
            assert!(all[0].2.contains("200"), "{all:?}");
        }
        unchain(end, depth);
        std::fs::remove_dir(&top).unwrap();
        field.assert_unharmed();
    }
}

/// E3: a path longer than 3,900 bytes with few components.
///
/// Fails on a weakened build: `PATH_MAX = usize::MAX`.
#[test]
fn path_length_is_bounded() {
    let field = Field::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = "p".repeat(250);
    let mut at = openat(CWD, &field.site.volume, flags, Mode::empty()).unwrap();
    for _ in 0..20 {
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    write(&field.at("other"), "content");
    let report = field.sync();
    assert_eq!(report.totals.quarantined, 1, "{report:?}");
    assert!(field.exceptions()[0].2.contains("3,900"));
    assert_eq!(report.totals.dirs, 3900 / 251, "{report:?}");
    assert_eq!(std::fs::read(field.copy("other")).unwrap(), b"content");
}

/// E4: 200,000 names in one directory, and a storm of other names while it is read: stable entries are neither
/// missed nor doubled.
///
/// Fails on a weakened build: `listing::names` reads through a shared position or a cookie of its own, or does not
/// drop doubles.
#[test]
fn a_directory_of_two_hundred_thousand() {
    const NAMES: usize = 200_000;
    let field = Field::new();
    let dir = field.at("large");
    mkdir(&dir);
    let held = openat(CWD, &dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    rustix::fs::symlinkat("x", &held, "one").unwrap();
    // Names of one inode are cheap to make and to copy: it is the listing that is under test.
    for i in 0..NAMES {
        rustix::fs::linkat(&held, "one", &held, format!("stable-{i}"), AtFlags::empty()).unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let name = format!("storm-{}", round % 500);
                let _ = std::fs::write(dir.join(&name), "");
                let _ = std::fs::remove_file(dir.join(format!("storm-{}", (round + 250) % 500)));
                round += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let stopping = super::races::Finally(&stop);
        field.sync_within(Duration::from_secs(120));
        drop(stopping);
    });
    let stable = std::fs::read_dir(field.copy("large"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().as_bytes().starts_with(b"stable-"));
    assert_eq!(stable.count(), NAMES);
    field.sync_within(Duration::from_secs(60));
    assert_same(&field.site.volume, &field.site.mirror, &Options::default());
}
