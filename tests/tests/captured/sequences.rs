//! Every sequence of two operations, with a cycle after each: only what the kernel told is looked at.

use std::sync::Arc;
use std::time::Instant;

use agent::capture::Capture;
use agent::run::{Retry, Watched, Worker};
use harness::compare::{Options, compare};
use harness::gate::{Need, require};
use harness::ops::{Model, Op, Seed, Sequences};
use sys::fanotify::Queue;

use crate::common::Site;
use crate::common::loopfs::LoopFs;
use crate::worker;

fn run(disk: &LoopFs, capture: &Arc<Capture>, n: u64, seed: Seed, ops: &[Op]) -> Result<(), String> {
    let base = disk.path().join(format!("{n}"));
    std::fs::create_dir(&base).map_err(|e| e.to_string())?;
    let site = Site::below(&base);
    seed.build_real(&site.volume).map_err(|e| format!("seed: {e:#}"))?;
    let mut model = seed.model();
    let mut worker = worker(&site, capture).map_err(|e| e.to_string())?;
    let sync = |worker: &mut Worker, model: &Model, at: &str| {
        let report = worker
            .cycle(Retry::No, Instant::now())
            .map_err(|e| format!("{at}: {e}: {:?}", std::error::Error::source(&e)))?;
        worker.empty_trash().map_err(|e| e.to_string())?;
        if let Some(report) = report
            && report.totals.quarantined != 0
        {
            return Err(format!("{at}: {} paths in quarantine", report.totals.quarantined));
        }
        worker.lane.index.view().unwrap().audit().map_err(|e| format!("{at}: audit: {e}"))?;
        model.check(&site.mirror).map_err(|e| format!("{at}: mirror: {e}"))
    };
    sync(&mut worker, &model, "seed")?;
    for (i, op) in ops.iter().enumerate() {
        let stamp = i as u64 + 1;
        op.apply_real(&site.volume, stamp).map_err(|e| format!("apply {op:?}: {e:#}"))?;
        model.apply(*op, stamp);
        sync(&mut worker, &model, &format!("after {op:?}"))?;
    }
    let Watched::Captured { target, .. } = &worker.watched else { unreachable!("made so") };
    capture.forget(target);
    drop(worker);
    std::fs::remove_dir_all(&base).map_err(|e| e.to_string())
}

/// Sequences of `length`, one in `of`.
fn sequences(length: usize, of: u64) -> (u64, Vec<String>) {
    let disk = LoopFs::ext4("2G");
    let capture = Capture::open(Queue::Unlimited).unwrap();
    let mut failures = Vec::new();
    let mut n = 0;
    let counts = Sequences::exactly(length).shard(0, of).for_each(|seed, ops| {
        n += 1;
        if failures.len() < 5
            && let Err(why) = run(&disk, &capture, n, seed, ops)
        {
            failures.push(format!("{seed:?} {ops:?}\n    {why}"));
        }
    });
    (counts.visited, failures)
}

#[test]
fn every_sequence_of_two_is_told() {
    if !require(&[Need::Root]) {
        return;
    }
    let (visited, failures) = sequences(2, 1);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(visited, 956);
}

/// A random life of a volume, brought over every now and then, with no walk.
#[test]
fn a_random_workload_is_told() {
    if !require(&[Need::Root, Need::LoopDevices]) {
        return;
    }
    let disk = LoopFs::ext4("2G");
    let capture = Capture::open(Queue::Unlimited).unwrap();
    for seed in 1..=30u64 {
        let base = disk.path().join(format!("{seed}"));
        std::fs::create_dir(&base).unwrap();
        let site = Site::below(&base);
        let mut workload = harness::ops::Workload::new(seed, &site.volume).unwrap();
        let mut worker = worker(&site, &capture).unwrap();
        for round in 0..12 {
            for _ in 0..[3, 60, 17][round % 3] {
                workload.step().unwrap();
            }
            let at = format!("seed {seed}, round {round}");
            let report = worker.cycle(Retry::No, Instant::now());
            let report = report.unwrap_or_else(|e| panic!("{at}: {}", crate::common::crash::chain(&e)));
            worker.empty_trash().unwrap();
            worker.lane.index.view().unwrap().audit().unwrap_or_else(|e| panic!("{at}: audit: {e}"));
            let same = compare(&site.volume, &site.mirror, &Options::default()).unwrap();
            assert!(same.is_same(), "{at}: {same}\n{report:?}");
        }
        let Watched::Captured { target, .. } = &worker.watched else { unreachable!("made so") };
        capture.forget(target);
        drop(worker);
        std::fs::remove_dir_all(&base).unwrap();
    }
}

/// The story: the queue was asked how many bytes are in it, and answers for the fixed part of each event alone. So a
/// quarter of what was queued was taken in: a flush could say done, and a cut exact, over what still waited.
#[test]
fn all_that_is_queued_is_taken_in_at_once() {
    if !require(&[Need::Root, Need::LoopDevices]) {
        return;
    }
    const FILES: usize = 20_000;
    let disk = LoopFs::ext4("2G");
    let capture = Capture::open(Queue::Unlimited).unwrap();
    let site = Site::below(disk.path());
    let mut worker = worker(&site, &capture).unwrap();
    worker.cycle(Retry::No, Instant::now()).unwrap();
    for n in 0..FILES {
        std::fs::write(site.volume.join(n.to_string()), []).unwrap();
    }
    capture.drain().unwrap();
    let Watched::Captured { target, .. } = &worker.watched else { unreachable!("made so") };
    // At least: files of this file system that lost a link are in it too, wherever they were.
    let taken = target.peek(|dirty| dirty.len());
    assert!(taken >= FILES, "{taken} of {FILES}");
}
