//! H2, A10: the mirror or the state directory is not what it was.

use std::os::unix::fs::symlink;
use std::path::Path;

use agent::Exit;
use harness::gate::{Need, require};

use super::common::Site;
use super::mounts::Mounted;
use super::{Field, mkdir, write};

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// H2: the mirror's file system is gone and its mountpoint is an empty directory; then another one is mounted there.
/// Nothing is written to either.
///
/// Fails on a weakened build: `Lane::open_writer` passes nothing remembered to `PinnedMount::open`, and makes a new
/// ledger where a remembered one is missing.
#[test]
fn the_mirror_is_not_mounted() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    let at = field.dir.path().join("mounted");
    mkdir(&at);
    let site = Site::of(&field.site.volume, &at.join("mirror"), &field.site.state);
    write(&field.at("file"), "content");
    let mounted = Mounted::tmpfs(&at);
    site.sync().unwrap();
    assert_eq!(std::fs::read(site.mirror.join("file")).unwrap(), b"content");
    write(&field.at("file"), "changed");

    drop(mounted);
    let refused = site.sync().unwrap_err();
    assert_eq!(refused.exit(), Exit::MirrorUnusable, "{refused}");
    assert!(is_empty(&at), "written below the bare mountpoint");

    let other = Mounted::tmpfs(&at);
    let refused = site.sync().unwrap_err();
    assert_eq!(refused.exit(), Exit::MirrorUnusable, "{refused}");
    assert!(is_empty(&at), "written to another file system");
    // Even one that has a directory of the mirror's name.
    mkdir(&site.mirror);
    let refused = site.sync().unwrap_err();
    assert_eq!(refused.exit(), Exit::MirrorUnusable, "{refused}");
    assert!(is_empty(&site.mirror));
    drop(other);
}

/// H2: the ledger beside the mirror is gone, or is that of another lane.
///
/// Fails on a weakened build: `Lane::open_writer` makes a new ledger where a remembered one is missing.
#[test]
fn the_ledger_is_gone() {
    let field = Field::new();
    write(&field.at("file"), "content");
    field.sync();
    let store = field.dir.path().join("store");
    let aside = field.dir.path().join("aside");
    std::fs::rename(&store, &aside).unwrap();
    mkdir(&store);
    mkdir(&field.site.mirror);
    write(&field.copy("file"), "content");
    let refused = field.site.sync().unwrap_err();
    assert_eq!(refused.exit(), Exit::MirrorUnusable, "{refused}");
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 1, "a new ledger was made");

    // Another lane's store, complete and sound.
    std::fs::remove_dir_all(&store).unwrap();
    mkdir(&store);
    let other = Site::of(&field.site.volume, &field.site.mirror, &field.dir.path().join("other-state"));
    other.sync().unwrap();
    let refused = field.site.sync().unwrap_err();
    assert_eq!(refused.exit(), Exit::MirrorUnusable, "{refused}");
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&aside, &store).unwrap();
    field.assert_unharmed();
}

/// A10: a symlink is planted where the lane keeps its mirror or ledger: refused, and nothing is written to where it
/// leads.
///
/// Fails on a weakened build: `fsprobe`'s walk follows symlinks.
#[test]
fn a_symlink_in_place_of_the_mirror() {
    let field = Field::new();
    write(&field.at("file"), "content");
    field.sync();
    let outside = field.dir.path().join("outside");
    mkdir(&outside);
    let store = field.dir.path().join("store");
    for entry in std::fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        let aside = field.dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        symlink(&outside, &path).unwrap();
        write(&field.at("file"), "changed");
        let refused = field.site.sync();
        assert!(refused.is_err(), "{} was followed", path.display());
        assert!(is_empty(&outside), "{}", path.display());
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
    }
    field.assert_unharmed();
}

/// A10: a component of the state directory's path belongs to another user, who could exchange it.
///
/// Fails on a weakened build: `StateDir::at` does not ask who owns what leads to it.
#[test]
fn a_state_directory_of_somebody_else() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    write(&field.at("file"), "content");
    let theirs = field.dir.path().join("theirs");
    mkdir(&theirs);
    let target = field.dir.path().join("target");
    mkdir(&target);
    symlink(&target, theirs.join("state")).unwrap();
    std::os::unix::fs::lchown(theirs.join("state"), Some(1000), Some(1000)).unwrap();
    std::os::unix::fs::chown(&theirs, Some(1000), Some(1000)).unwrap();
    for state in [theirs.join("state"), theirs.join("new")] {
        let site = Site::of(&field.site.volume, &field.site.mirror, &state);
        assert!(site.sync().is_err(), "{} was used", state.display());
        assert!(is_empty(&target));
    }
}

/// An operator keeps the mirror of yesterday as hard links (`cp -al`). A log that grows must not grow there too.
///
/// Fails on a weakened build: `Publisher::fill` writes to a file whatever its number of links.
#[test]
fn hard_links_to_the_mirror_stay_as_they_are() {
    let field = Field::new();
    let log = field.at("log");
    std::fs::write(&log, vec![1; 5 << 20]).unwrap();
    field.site.sync().unwrap();
    let kept = field.dir.path().join("kept");
    std::fs::hard_link(field.site.mirror.join("log"), &kept).unwrap();
    let before = std::fs::metadata(&kept).unwrap();

    let mut now = std::fs::read(&log).unwrap();
    now.extend_from_slice(b"one line more");
    let mut file = std::fs::File::options().append(true).open(&log).unwrap();
    std::io::Write::write_all(&mut file, b"one line more").unwrap();
    field.site.sync().unwrap();
    assert!(std::fs::read(field.site.mirror.join("log")).unwrap() == now);
    assert!(std::fs::read(&kept).unwrap() == vec![1; 5 << 20], "what was kept grew too");
    assert_eq!(std::fs::metadata(&kept).unwrap().modified().unwrap(), before.modified().unwrap());

    // From now on it has an inode of its own, and grows in place.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let own = inode(&field.site.mirror.join("log"));
    std::io::Write::write_all(&mut file, b"and another").unwrap();
    field.site.sync().unwrap();
    assert_eq!(inode(&field.site.mirror.join("log")), own, "it was sent again");
}
