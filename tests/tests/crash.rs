//! P1, old or new: die before, after and in the middle of every mutating call of a sync, lose what was not
//! synced, and look again.
//!
//! The disk is simulated below the kernel (FUSE), so the calls are the product's own. After each crash the lane
//! is opened again, which rolls forward, and the mirror must equal generation g or g+1 by content and metadata.
//!
//! Fails on a weakened build: leave out the fsync of a staged file (`Durability::Replicated`), of the redo log in
//! `Ledger::seal` or of HEAD in `write_small`; leave out the marker in `Publisher::outs`; or empty the trash before
//! HEAD moves. `an_unsynced_stage_is_caught` keeps the first of these as a control.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agent::cycle::Durability;
use common::crash::{Bench, chain};
use harness::faultfs::{Survive, When};
use harness::gate::{Need, require};

/// The volume's first state: one of everything.
fn first(volume: &Path) {
    std::fs::create_dir(volume.join("mixed")).unwrap();
    harness::trees::small_mixed(&volume.join("mixed"), 7).unwrap();
    let put = |path: &str, content: &[u8]| std::fs::write(volume.join(path), content).unwrap();
    for dir in ["jobs", "jobs/a", "jobs/a/builds", "jobs/b", "gone", "gone/deeper", "x", "y"] {
        std::fs::create_dir(volume.join(dir)).unwrap();
    }
    put("jobs/a/config.xml", b"<a/>");
    put("jobs/a/builds/log", b"started\n");
    put("jobs/b/config.xml", b"<b/>");
    put("gone/deeper/file", b"will be deleted");
    put("gone/other", b"too");
    put("x/inside", b"x");
    put("y/inside", b"y");
    put("swap", b"a file that becomes a directory");
    put("large", &vec![7; 5 << 20]);
    put("jobs/grows", &vec![6; (4 << 20) + 77]);
    put("dressed", &vec![5; 4 << 20]);
    put("linked", b"two names");
    std::fs::hard_link(volume.join("linked"), volume.join("jobs/linked-too")).unwrap();
}

/// A first state of a few names, for the first copy.
fn few(volume: &Path) {
    for dir in ["jobs", "jobs/a", "jobs/a/builds", "empty"] {
        std::fs::create_dir(volume.join(dir)).unwrap();
    }
    for (path, content) in [("jobs/a/config.xml", "<a/>"), ("jobs/a/builds/log", "started"), ("top", "level")]
    {
        std::fs::write(volume.join(path), content).unwrap();
    }
    std::fs::hard_link(volume.join("top"), volume.join("jobs/top-too")).unwrap();
    std::os::unix::fs::symlink("../outside", volume.join("jobs/link")).unwrap();
    std::fs::set_permissions(volume.join("jobs"), PermissionsExt::from_mode(0o2750)).unwrap();
}

/// What happens to it: every kind of operation a generation can carry.
fn then(volume: &Path) {
    let at = |path: &str| volume.join(path);
    std::fs::rename(at("jobs/a"), at("jobs/renamed")).unwrap();
    std::fs::write(at("jobs/renamed/builds/log"), b"started\nfinished\n").unwrap();
    std::fs::remove_dir_all(at("gone")).unwrap();
    // Two directories change places.
    std::fs::rename(at("x"), at("z")).unwrap();
    std::fs::rename(at("y"), at("x")).unwrap();
    std::fs::rename(at("z"), at("y")).unwrap();
    std::fs::remove_file(at("swap")).unwrap();
    std::fs::create_dir(at("swap")).unwrap();
    std::fs::write(at("swap/now"), b"a directory").unwrap();
    // A new directory with an old one in it.
    std::fs::create_dir(at("new")).unwrap();
    std::fs::rename(at("jobs/b"), at("new/b")).unwrap();
    std::fs::write(at("new/b/added"), b"added").unwrap();
    std::fs::set_permissions(at("new/b/config.xml"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(at("jobs"), PermissionsExt::from_mode(0o711)).unwrap();
    let mut large = std::fs::read(at("large")).unwrap();
    large[3 << 20] = 8;
    large.extend_from_slice(b"appended");
    std::fs::write(at("large"), large).unwrap();
    let mut grows = std::fs::File::options().append(true).open(at("jobs/grows")).unwrap();
    std::io::Write::write_all(&mut grows, &vec![9; (1 << 20) + 1]).unwrap();
    std::fs::set_permissions(at("dressed"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(at("linked"), b"both names change").unwrap();
    std::fs::hard_link(at("linked"), at("linked-three")).unwrap();
    std::os::unix::fs::symlink("../outside", at("new/link")).unwrap();
}

const NEEDS: [Need; 2] = [Need::Root, Need::Fuse];

/// Crashes at every point on the way from `from`, with each way of losing what was not synced in turn.
fn every_point(from: &str, ends: [u64; 2], first: fn(&Path)) {
    let bench = Bench::new(first, |volume| {
        if from == "one" {
            then(volume)
        }
    });
    if from == "empty" {
        // The first copy is of state one.
        bench.rewind("empty");
        let _ = std::fs::remove_dir_all(&bench.site.volume);
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(bench.tree("one"))
            .arg(&bench.site.volume)
            .status()
            .unwrap();
        assert!(copied.success());
    }
    let points = bench.points(from);
    assert!(points > 50, "only {points} mutating calls: the trace is broken");
    let (mut old, mut new, mut rounds) = (0, 0, 0);
    // A developer may look at every n-th point only; nothing else may.
    let stride = std::env::var("CRASH_STRIDE").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for point in (1..=points).step_by(stride) {
        for (turn, when) in [When::Before, When::After, When::Torn].into_iter().enumerate() {
            let policies = [
                Survive::Everything,
                Survive::AllMetadataNoData,
                Survive::OnlySynced,
                Survive::Seeded(point),
            ];
            for (which, survive) in policies.into_iter().enumerate() {
                // Each point meets each moment and each policy; not every pair of the two.
                if (point as usize + turn) % 4 != which && which != 2 {
                    continue;
                }
                let at = format!("point {point} of {points}, {when:?}, {survive:?}");
                bench.rewind(from);
                bench.disk.clear_trace().unwrap();
                bench.disk.crash_at(point, when).unwrap();
                let result = bench.site.sync();
                if let Err(e) = &result {
                    assert_ne!(e.exit() as u8, 0, "{at}");
                }
                bench.disk.reboot(survive).unwrap();
                if (point + turn as u64).is_multiple_of(5) {
                    // The host went down as well and lost its local state.
                    bench.rewind_state(from);
                }
                let held = bench.held(&at);
                assert!(ends.contains(&held), "{at}: generation {held}");
                if result.is_ok() {
                    assert_eq!(held, ends[1], "{at}: called done and then gone");
                }
                if held == ends[0] {
                    old += 1
                } else {
                    new += 1
                }
                rounds += 1;
                // Whatever was left lying about, the next sync ends in the volume's state.
                bench.site.sync().unwrap_or_else(|e| panic!("{at}: next sync: {}", chain(&e)));
                bench.assert_equals(if ends[1] == 1 { "one" } else { "two" }, &format!("{at}, next sync"));
            }
        }
    }
    eprintln!("{rounds} crashes at {points} points from {from}: {old} ended old, {new} new");
    assert!(old > 0 && new > 0, "crashes ended {old} times old and {new} times new: nothing was in between");
}

#[test]
fn every_point_of_a_changing_sync() {
    if require(&NEEDS) {
        every_point("one", [1, 2], first);
    }
}

#[test]
fn every_point_of_a_first_copy() {
    if require(&NEEDS) {
        every_point("empty", [0, 1], few);
    }
}

/// The control: the same crashes find a build that does not fsync what it stages.
#[test]
fn an_unsynced_stage_is_caught() {
    if !require(&NEEDS) {
        return;
    }
    let mut bench = Bench::new(first, then);
    bench.site.options.durability = Durability::Replicated;
    let points = bench.points("one");
    let mut caught = 0;
    for point in points / 2..=points {
        bench.rewind("one");
        bench.disk.clear_trace().unwrap();
        bench.disk.crash_at(point, When::After).unwrap();
        let _ = bench.site.sync();
        bench.disk.reboot(Survive::AllMetadataNoData).unwrap();
        let at = format!("point {point}");
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.held(&at)));
        caught += u64::from(judged.is_err());
    }
    assert!(caught > 0, "no crash of {points} showed the missing fsync: the simulated disk keeps everything");
}
