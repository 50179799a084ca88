//! H1: whoever has the container deletes everything and wants the mirror to follow.

use std::os::unix::fs::symlink;

use agent::cycle::DeletionLimit;
use harness::compare::{Options, assert_same};

use super::{Field, mkdir, write};

/// 2,000 files in 20 directories, and the guard as it is by default.
fn field() -> Field {
    let mut field = Field::new();
    for dir in 0..20 {
        mkdir(&field.at(&format!("jobs/{dir}")));
        for file in 0..100 {
            write(&field.at(&format!("jobs/{dir}/{file}")), format!("{dir} {file}"));
        }
    }
    write(&field.at("becomes"), "a file that becomes a directory");
    write(&field.at("large"), vec![3; 100_000]);
    field.sync();
    field.site.options.limit = DeletionLimit::default();
    field
}

/// A copy of the mirror to compare with.
fn kept(field: &Field) -> std::path::PathBuf {
    let kept = field.dir.path().join("kept");
    let done =
        std::process::Command::new("cp").arg("-a").arg(&field.site.mirror).arg(&kept).status().unwrap();
    assert!(done.success());
    kept
}

fn empty(field: &Field) {
    for entry in std::fs::read_dir(&field.site.volume).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }.unwrap();
    }
}

/// All is gone: halted, for as long as nobody says otherwise; then it is deleted.
///
/// Fails on a weakened build: `DeletionLimit::judge` returns `Allow`.
#[test]
fn everything_is_deleted() {
    let mut field = field();
    let kept = kept(&field);
    empty(&field);
    for _ in 0..3 {
        let report = field.sync();
        let why = report.halted.as_deref().unwrap_or_else(|| panic!("not halted: {report:?}"));
        assert!(why.contains("empty"), "{why}");
        assert_same(&kept, &field.site.mirror, &Options::default());
    }
    // New files are copied meanwhile, and the volume is not empty any more: the share counts now.
    write(&field.at("new"), "new");
    let report = field.sync();
    assert!(report.halted.is_some(), "{report:?}");
    assert_eq!(std::fs::read(field.copy("new")).unwrap(), b"new");
    assert!(field.copy("jobs/19/99").exists());
    std::fs::remove_file(field.at("new")).unwrap();
    // A person looked at it.
    field.site.options.limit =
        DeletionLimit { entries: 10_000, percent: 100, empty_volume: true, already: 0 };
    let report = field.sync();
    assert_eq!((report.halted, report.totals.files), (None, 0));
    field.assert_unharmed();
}

/// An empty volume as a reinstalled host has it, with a new root: another inode.
///
/// Fails on a weakened build: as `everything_is_deleted`.
#[test]
fn the_volume_is_new_and_empty() {
    let field = field();
    let kept = kept(&field);
    std::fs::rename(&field.site.volume, field.dir.path().join("old")).unwrap();
    mkdir(&field.site.volume);
    let report = field.sync();
    assert!(report.halted.is_some(), "{report:?}");
    assert_same(&kept, &field.site.mirror, &Options::default());
}

/// Most is deleted, and what is new wants the places of what is kept, goes below them, or is a rename into them:
/// nothing of that can be published, the rest is, and after the approval all of it.
///
/// Fails on a weakened build: `Plan::halt` drops only the new names that have the very path of a kept one (the
/// publish then fails half-way, for ever).
#[test]
fn new_things_want_the_places_of_kept_ones() {
    let mut field = field();
    for dir in 0..15 {
        std::fs::remove_dir_all(field.at(&format!("jobs/{dir}"))).unwrap();
    }
    // A file becomes a directory, and a large file moves into it.
    std::fs::remove_file(field.at("becomes")).unwrap();
    mkdir(&field.at("becomes"));
    std::fs::rename(field.at("large"), field.at("becomes/large")).unwrap();
    // A directory becomes a symlink to where a secret is.
    symlink(field.canary.dir(), field.at("jobs/3")).unwrap();
    // A directory takes the place of a deleted file and has a changed file in it; a hard link goes with it.
    std::fs::remove_file(field.at("jobs/18/0")).unwrap();
    std::fs::rename(field.at("jobs/19"), field.at("jobs/18/0")).unwrap();
    write(&field.at("jobs/18/0/1"), "changed in the renamed directory");
    write(&field.at("jobs/18/0/added"), "new in the renamed directory");
    std::fs::hard_link(field.at("jobs/18/0/2"), field.at("jobs/18/0/linked")).unwrap();
    // A renamed directory in which a file becomes a directory.
    std::fs::rename(field.at("jobs/17"), field.at("renamed")).unwrap();
    std::fs::remove_file(field.at("renamed/5")).unwrap();
    mkdir(&field.at("renamed/5"));
    write(&field.at("renamed/5/inside"), "inside");
    // And something that has nothing to do with it.
    write(&field.at("jobs/16/1"), "changed");
    write(&field.at("jobs/16/new"), "new");
    for round in 0..3 {
        let report = field.sync();
        assert!(report.halted.is_some(), "round {round}: {report:?}");
        assert_eq!(std::fs::read(field.copy("becomes")).unwrap(), b"a file that becomes a directory");
        assert_eq!(std::fs::read(field.copy("jobs/3/7")).unwrap(), b"3 7");
        assert_eq!(std::fs::read(field.copy("jobs/18/0")).unwrap(), b"18 0");
        assert_eq!(std::fs::read(field.copy("jobs/16/1")).unwrap(), b"changed");
        assert_eq!(std::fs::read(field.copy("jobs/16/new")).unwrap(), b"new");
    }
    field.site.options.limit =
        DeletionLimit { entries: 10_000, percent: 100, empty_volume: true, already: 0 };
    let report = field.sync();
    assert_eq!(report.halted, None);
    field.assert_unharmed();
}
