//! The random workload: its own list of names stays true, and a seed is a history.

use crate::controls::copy;
use harness::compare::{Options, Specials, assert_same};
use harness::gate::{Need, require};
use harness::ops::Workload;
use harness::trees::small_mixed;
use std::collections::BTreeMap;
use std::fs;

#[test]
fn thousands_of_steps_work_and_repeat() {
    if !require(&[Need::Root]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let trees = ["a", "b"].map(|name| home.path().join(name));
    let mut histories = Vec::new();
    for tree in &trees {
        fs::create_dir(tree).unwrap();
        small_mixed(tree, 1).unwrap();
        let mut work = Workload::new(11, tree).unwrap().soft_limit(250);
        let history: Vec<String> = (0..4000).map(|_| work.step().unwrap()).collect();
        let names = std::process::Command::new("find")
            .arg(tree)
            .args(["-mindepth", "1", "-printf", "x"])
            .output()
            .unwrap();
        assert_eq!(names.stdout.len(), work.entries(), "its list of names is true");
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1]);
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    for step in &histories[0] {
        *kinds.entry(step.split(' ').nth(1).unwrap()).or_default() += 1;
    }
    println!("{kinds:?}");
    assert!(kinds.len() >= 18, "{kinds:?}");
    // Owners, modes, contents, links: all follow from the seed. Times are the clock's.
    let options = Options { mtimes: false, specials: Specials::Compared, ..Options::default() };
    let report = assert_same(&trees[0], &trees[1], &options);
    println!("{} entries, {} link groups", report.entries, report.link_groups);
    let third = home.path().join("c");
    copy(&trees[0], &third);
    assert_same(
        &trees[0],
        &third,
        &Options { specials: Specials::Compared, holes: false, ..Options::default() },
    );
}
