//! Memory of the agent that knows two million files: after its first copy, and as one that was started again.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use harness::trees::million;
use serde_json::json;

use super::place::{Mirrors, Place};
use super::ten_changed::file;
use crate::Args;
use crate::agent::Agent;
use crate::report::{Report, Reports};
use crate::usage::{load, mega};

/// Files.
const FILES: u64 = 2_000_000;
/// Small generations, after which its memory is looked at.
const ROUNDS: u64 = 20;
/// Megabytes.
const MB_AT_MOST: f64 = 150.0;

/// Runs the case.
pub fn run(args: &Args, reports: &mut Reports) -> Result<()> {
    let files = (FILES / args.scale as u64).max(1000);
    let place = Place::new(args, Mirrors::Local, 24)?;
    let lane = [place.lane("lane")?];
    let made = million(&lane[0].volume, files)?;
    let about = json!({ "files": made.files, "directories": made.directories, "load": load() });
    let mut report = Report::new("two-million", about);

    let begin = Instant::now();
    let agent = place.agent("agent", &lane, "")?;
    agent.flush()?;
    report.measured("first copy", begin.elapsed().as_secs_f64(), agent.usage()?.json());
    let steady = small_generations(&agent, &lane[0].volume, files, &mut report, "ten files changed")?;
    report.goal("resident after the first copy, twenty small generations later", steady, "MB", MB_AT_MOST);
    agent.stop()?;

    let begin = Instant::now();
    let agent = place.agent("agent", &lane, "")?;
    agent.flush()?;
    report.measured("started again: a walk", begin.elapsed().as_secs_f64(), agent.usage()?.json());
    let steady = small_generations(&agent, &lane[0].volume, files, &mut report, "ten files changed, again")?;
    report.goal("resident when started again, twenty small generations later", steady, "MB", MB_AT_MOST);
    let lane = agent.lane()?;
    ensure!(lane["files"] == files, "not all of {files} files: {lane}");
    agent.stop()?;
    place.down()?;
    reports.add(report)
}

/// The most that was resident after one of them, in megabytes.
fn small_generations(
    agent: &Agent,
    volume: &std::path::Path,
    files: u64,
    report: &mut Report,
    way: &str,
) -> Result<f64> {
    let mut most: f64 = 0.0;
    for round in 0..ROUNDS {
        for n in 0..10 {
            let path: PathBuf = volume.join(file((n * files / 10 + round) % files));
            fs::write(path, format!("changed in round {round}\n"))?;
        }
        let seconds = agent.flush()?;
        let usage = agent.usage()?;
        most = most.max(mega(usage.rss));
        if round + 1 == ROUNDS {
            report.measured(way, seconds, usage.json());
        }
    }
    Ok(most)
}
