//! What the tree generators promise: counts, determinism, speed.

use crate::controls::{copy, root_or_skip};
use harness::compare::{Options, assert_same};
use harness::trees::{JenkinsSize, jenkins, small_mixed};
use std::fs;
use std::time::Instant;

#[test]
fn small_mixed_is_the_same_for_the_same_seed() {
    if !root_or_skip("small_mixed_is_the_same_for_the_same_seed") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let trees = ["a", "b"].map(|name| home.path().join(name));
    for tree in &trees {
        fs::create_dir(tree).unwrap();
        small_mixed(tree, 3).unwrap();
    }
    // Symlinks without a set time differ by when they were made.
    let options =
        Options { mtimes: false, specials: harness::compare::Specials::Compared, ..Options::default() };
    assert_same(&trees[0], &trees[1], &options);
}

#[test]
fn jenkins_tenth_has_the_reference_counts() {
    if !root_or_skip("jenkins_tenth_has_the_reference_counts") {
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
