//! B1: hard links whose other names lie outside.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use harness::compare::{Options, assert_same};
use harness::gate::{Need, require};
use harness::product::{Product, snapshot};
use rustix::io::Errno;

use super::mounts::Mounted;
use super::{Field, mkdir, write};

/// The mirror is the volume, and no name in it is a name of anything outside it.
#[track_caller]
fn assert_follows(field: &Field) {
    let report = field.sync_within(Duration::from_secs(10));
    assert_eq!(report.totals.quarantined, 0, "{:?}", field.exceptions());
    let closed = Options { b_links_closed: true, ..Options::default() };
    assert_same(&field.site.volume, &field.site.mirror, &closed);
}

fn inode(path: &Path) -> (u64, u64) {
    let meta = path.symlink_metadata().unwrap();
    (meta.ino(), meta.nlink())
}

/// A container has its volume as a mount of its own and cannot link what lies on another, though it is the same file
/// system: the kernel says so, and nothing of the attempt is seen.
#[test]
fn a_link_across_mounts_is_impossible() {
    if !require(&[Need::Root]) {
        return;
    }
    let field = Field::new();
    write(&field.at("file"), "content");
    let inside = field.dir.path().join("as-the-container-sees-it");
    mkdir(&inside);
    let mounted = Mounted::bind(&field.site.volume, &inside);
    for (from, to) in [
        (field.canary.secret(), inside.join("stolen")),
        (inside.join("file"), field.canary.dir().join("out")),
    ] {
        let refused = std::fs::hard_link(&from, &to).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::XDEV.raw_os_error()), "{refused}");
    }
    field.sync();
    assert_eq!(std::fs::read_dir(&field.site.mirror).unwrap().count(), 1);
    drop(mounted);
    field.assert_unharmed();
}

/// Where somebody on the host did link names inside the volume to files outside it: they are files of the volume like
/// any other, one inode with as many names in the mirror as it has inside; the names outside are neither touched nor
/// linked to, and what is changed through them is followed.
///
/// Fails on a weakened build, each tried: `look` takes names of one inode one by one, or calls a changed one of several
/// names the same; a name inside waits in `stage` until all names of its inode are seen.
#[test]
fn the_other_name_is_outside() {
    let field = Field::new();
    let outside = field.dir.path().join("outside");
    mkdir(&outside);
    mkdir(&field.at("dir"));
    for name in ["shared", "alone", "executable"] {
        write(&outside.join(name), format!("{name} with the outside"));
    }
    std::fs::set_permissions(outside.join("executable"), PermissionsExt::from_mode(0o4755)).unwrap();
    for (name, path) in [("shared", "a"), ("shared", "dir/b"), ("alone", "dir/alone"), ("executable", "run")]
    {
        std::fs::hard_link(outside.join(name), field.at(path)).unwrap();
    }
    std::os::unix::fs::symlink(outside.join("shared"), field.at("symlink")).unwrap();
    let before = snapshot(&outside);
    assert_follows(&field);
    field.sync();
    assert_eq!(snapshot(&outside), before, "what lies outside was touched");
    let (shared, names) = inode(&field.copy("a"));
    assert_eq!((shared, names), inode(&field.copy("dir/b")));
    assert_eq!(names, 2, "the inode has a third name outside the volume only");
    assert_eq!(inode(&field.copy("dir/alone")).1, 1);
    assert_ne!(shared, inode(&outside.join("shared")).0);

    // Through the name outside: content, then metadata alone.
    let mut file = OpenOptions::new().append(true).open(outside.join("shared")).unwrap();
    file.write_all(b", changed out there").unwrap();
    assert_follows(&field);
    assert_eq!(std::fs::read(field.copy("dir/b")).unwrap(), b"shared with the outside, changed out there");
    std::fs::set_permissions(outside.join("alone"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_follows(&field);

    // A name more and a name less on either side. `nlink` says how many, not where.
    std::fs::hard_link(outside.join("alone"), field.at("one-more")).unwrap();
    std::fs::hard_link(field.at("run"), outside.join("smuggled")).unwrap();
    std::fs::remove_file(field.at("dir/b")).unwrap();
    assert_follows(&field);
    assert_eq!((inode(&field.copy("a")).1, inode(&field.copy("one-more")).1), (1, 2));
    std::fs::remove_file(outside.join("shared")).unwrap();
    assert_follows(&field);

    // The outside file takes the place of another one inside, by rename: an inode that was never in the volume.
    std::fs::rename(outside.join("smuggled"), field.at("run")).unwrap();
    write(&outside.join("other"), "other with the outside");
    std::fs::hard_link(outside.join("other"), field.at("moved-in")).unwrap();
    std::fs::rename(field.at("moved-in"), field.at("a")).unwrap();
    let before = snapshot(&outside);
    assert_follows(&field);

    // And back: the recovered tree has links among its own names only.
    let target = field.dir.path().join("recovered");
    let product = Product::new(&field.site.state);
    let path = Path::as_os_str;
    let mirror = path(&field.site.mirror);
    product.run(&["recover".as_ref(), mirror, path(&target), "--preserve-suid".as_ref()]).expect(0);
    let closed = Options { b_links_closed: true, root_metadata: true, ..Options::default() };
    assert_same(&field.site.volume, &target, &closed);
    product.run(&[OsStr::new("verify"), path(&field.site.volume), mirror]).expect(0);
    assert_eq!(snapshot(&outside), before, "what lies outside was touched");
    field.canary.assert_untouched();
}
