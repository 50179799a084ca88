//! What the agent costs when nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::trees::million;
use serde_json::json;

use super::cluster::cost;
use super::place::{Mirrors, Place};
use crate::Args;
use crate::report::{Report, Reports};
use crate::usage::{load, mega};

/// Lanes.
const LANES: usize = 10;
/// Files in each.
const FILES: u64 = 1000;
/// How long is looked.
const SECONDS: usize = 60;
/// Percent of one core.
const CPU_AT_MOST: f64 = 0.2;

/// Runs the cases that are wanted.
pub fn run(args: &Args, wanted: &dyn Fn(&str) -> bool, reports: &mut Reports) -> Result<()> {
    for (case, mirrors) in [("idle", Mirrors::Local), ("idle-gluster", Mirrors::Gluster)] {
        if wanted(case) {
            measure(case, mirrors, args, reports)?;
        }
    }
    Ok(())
}

fn measure(case: &str, mirrors: Mirrors, args: &Args, reports: &mut Reports) -> Result<()> {
    let window = Duration::from_secs((SECONDS / args.scale).max(5) as u64);
    let files = (FILES / args.scale as u64).max(10);
    let place = Place::new(args, mirrors, 2)?;
    let lanes = (0..LANES).map(|n| place.lane(&format!("lane-{n}"))).collect::<Result<Vec<_>>>()?;
    for lane in &lanes {
        million(&lane.volume, files)?;
    }
    let about = json!({ "lanes": LANES, "files_each": files, "window_seconds": window.as_secs() });
    let mut report = Report::new(case, about);
    let agent = place.agent("agent", &lanes, "")?;
    agent.flush()?;
    for _ in 0..args.rounds {
        let generations = agent.status()?["lanes"].to_string().matches("\"generation\":1,").count();
        ensure!(generations == LANES, "the lanes are not idle: {}", agent.status()?);
        // Counting asks the bricks too: outside of what is measured, but not of what they count.
        let profile = place.cluster().map(|cluster| cluster.profile()).transpose()?;
        let (begin, before) = (Instant::now(), agent.usage()?);
        // It is measured that nothing happens: there is nothing to wait for.
        thread::sleep(window);
        let (seconds, used) = (begin.elapsed().as_secs_f64(), agent.usage()?.since(&before));
        let mut more = used.json();
        more["load"] = load().into();
        if let (Some(cluster), Some(before)) = (place.cluster(), profile) {
            more["requests"] = cost(&cluster.profile()?.since(&before), 1);
        }
        more["switches_per_second"] = (used.voluntary as f64 / seconds).round().into();
        report.measured("idle", seconds, more);
        report.goal("processor time (utime + stime)", used.cpu / seconds * 100.0, "% of a core", CPU_AT_MOST);
        report.goal(
            "the same, from the scheduler",
            used.on_cpu / seconds * 100.0,
            "% of a core",
            CPU_AT_MOST,
        );
        println!("  resident: {} MB", mega(used.rss));
    }
    agent.stop()?;
    place.down()?;
    reports.add(report)
}
