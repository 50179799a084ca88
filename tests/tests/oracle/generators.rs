//! What the tree generators promise: counts, determinism, speed.

use crate::controls::copy;
use harness::compare::{Aspect, Options, Specials, assert_same, compare};
use harness::gate::{Need, require};
use harness::trees::{FaithfulOptions, JenkinsSize, faithful, faithful_with, jenkins, million, small_mixed};
use std::fs;
use std::time::Instant;

#[test]
fn small_mixed_is_the_same_for_the_same_seed() {
    if !require(&[Need::Root]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let trees = ["a", "b"].map(|name| home.path().join(name));
    for tree in &trees {
        fs::create_dir(tree).unwrap();
        small_mixed(tree, 3).unwrap();
    }
    // Symlinks without a set time differ by when they were made.
    let options = Options { mtimes: false, specials: Specials::Compared, ..Options::default() };
    assert_same(&trees[0], &trees[1], &options);
}

#[test]
fn jenkins_tenth_has_the_reference_counts() {
    if !require(&[Need::Root]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (home.path().join("a"), home.path().join("b"));
    fs::create_dir(&a).unwrap();
    let start = Instant::now();
    let made = jenkins(&a, JenkinsSize::TENTH).unwrap();
    println!("jenkins 1/10 made in {:?}: {made:?}", start.elapsed());
    assert_eq!((made.files, made.directories + 1, made.bytes), (1_290, 501, 138_000_000));
    copy(&a, &b);
    let start = Instant::now();
    let report = assert_same(&a, &b, &Options { root_metadata: true, ..Options::default() });
    println!("compared in {:?}", start.elapsed());
    assert_eq!(report.bytes, made.bytes);
}

/// The tree of promise P8, its copy by coreutils, and the time both take the oracle: seconds for 100,000 entries.
#[test]
fn faithful_holds_everything_and_is_compared_in_seconds() {
    if !require(&[Need::Root]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (home.path().join("a"), home.path().join("b"));
    fs::create_dir(&a).unwrap();
    let start = Instant::now();
    let made = faithful_with(&a, &FaithfulOptions { huge_sparse: true, ..FaithfulOptions::entries(100_000) })
        .unwrap();
    println!("faithful made in {:?}: {} entries, {made:?}", start.elapsed(), made.entries());
    assert!(made.entries() >= 100_000 && made.unsupported.is_empty());
    assert!(made.links > 2000 && made.xattrs > 3000 && made.specials == 3);
    copy(&a, &b);
    for special in ["socket", "char", "block"] {
        fs::remove_file(b.join("specials").join(special)).unwrap();
    }
    let options = Options { b_links_closed: true, ..Options::default() };
    let start = Instant::now();
    let report = compare(&a, &b, &options).unwrap();
    println!("compared in {:?}: {report}", start.elapsed());
    assert_eq!(report.aspects(), vec![("specials".to_owned(), Aspect::Mtime)]);
    assert_eq!(report.left_out, 3);
    assert_eq!(report.entries + report.left_out, made.entries());
}

/// A seed is a tree: two runs agree on everything but the times they leave to the clock.
#[test]
fn faithful_is_the_same_for_the_same_seed() {
    if !require(&[Need::Root]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let trees = ["a", "b"].map(|name| home.path().join(name));
    for tree in &trees {
        fs::create_dir(tree).unwrap();
        faithful(tree, 7_000).unwrap();
    }
    let options = Options { mtimes: false, specials: Specials::Compared, ..Options::default() };
    assert_same(&trees[0], &trees[1], &options);
}

#[test]
fn million_makes_what_it_counts() {
    let home = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let made = million(home.path(), 20_050).unwrap();
    println!("20,050 files in {:?}", start.elapsed());
    assert_eq!((made.files, made.directories), (20_050, 201 + 1));
    let mut found = (0, 0);
    let mut dirs = vec![home.path().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                found.1 += 1;
                dirs.push(entry.path());
            } else {
                found.0 += 1;
            }
        }
    }
    assert_eq!(found, (made.files, made.directories));
}
