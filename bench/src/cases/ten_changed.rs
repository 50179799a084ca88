//! Ten files changed, in trees of four sizes: what it takes must not depend on the size.
//!
//! All trees are lanes of one agent and take turns, so that a busy machine is unfair to all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::trees::million;
use serde_json::json;

use super::cluster::{Cluster, cost};
use super::place::{Mirrors, Place};
use crate::Args;
use crate::agent::{Agent, LaneDirs};
use crate::measure::{quantile, spread};
use crate::report::{Report, Reports};
use crate::usage::{Machine, load, rounded};

/// Files of the trees.
const SIZES: [u64; 4] = [1000, 10_000, 100_000, 1_000_000];
/// Trees of more files are not copied through the mount, which takes hours on two cores: see [`put_on_bricks`].
const COPIED_MAX: u64 = 20_000;
/// Times each is measured.
const ROUNDS: usize = 20;
/// Files changed in a round.
const CHANGED: u64 = 10;
/// Seconds from the last write to published.
const SECONDS_AT_MOST: f64 = 1.0;
/// A round that takes this long has failed.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Path of file `n` of [`million`].
pub fn file(n: u64) -> PathBuf {
    let directory = n / harness::trees::PER_DIRECTORY;
    format!("m{}/d{}/f{n}", directory / 1000, directory % 1000).into()
}

/// Runs the case.
pub fn run(args: &Args, reports: &mut Reports) -> Result<()> {
    let place = Place::new(args, Mirrors::Gluster, 12)?;
    let cluster = place.cluster().context("a cluster")?;
    let sizes = SIZES.map(|size| (size / args.scale as u64).max(CHANGED));
    let mut lanes = Vec::new();
    for size in sizes {
        let lane = place.lane(&format!("of-{size}"))?;
        million(&lane.volume, size)?;
        // The small proof of this case goes both ways too.
        if size > COPIED_MAX || (args.scale > 1 && size == sizes[3]) {
            put_on_bricks(cluster, &lane, &place.base("agent").join("state"))?;
        }
        lanes.push(lane);
    }
    let agent = place.agent("agent", &lanes, "")?;
    let begin = Instant::now();
    agent.flush()?;
    println!("\nall trees are in their mirrors after {:.1} s", begin.elapsed().as_secs_f64());

    let rounds = (ROUNDS / args.scale).max(3).max(args.rounds);
    for (lane, size) in lanes.iter().zip(sizes) {
        let mirror = cluster.host(0).outside(&lane.mirror);
        for path in (0..rounds).flat_map(|round| changed_in(round, size)) {
            fs::symlink_metadata(mirror.join(&path)).with_context(|| path.display().to_string())?;
        }
    }
    let about =
        json!({ "changed": CHANGED, "rounds": rounds, "load": load(), "bricks": cluster.brick.name() });
    let mut report = Report::new("ten-changed", about);
    let mut all = vec![Vec::new(); lanes.len()];
    let (profile, machine) = (cluster.profile()?, Machine::now()?);
    for round in 0..rounds {
        for (at, lane) in lanes.iter().enumerate() {
            all[at].push(once(cluster, &agent, lane, sizes[at], round)?);
        }
    }
    let now = Machine::now()?;
    let spent = cluster.profile()?.since(&profile);
    println!("  {}", cost(&spent, (rounds * lanes.len()) as u64 * CHANGED));
    println!(
        "  the machine was busy for {:.0} of {:.0} s of its cores, load now {}",
        now.busy_since(&machine),
        now.all_since(&machine),
        load()
    );
    for (seconds, size) in all.iter().zip(sizes) {
        let way = format!("of {size}");
        for value in seconds {
            report.add_quietly(&way, *value);
        }
        println!("  {way:<28} {}", spread(seconds));
        report.goal(&format!("{way}, median"), quantile(seconds, 0.5), "s", SECONDS_AT_MOST);
        report.goal(&format!("{way}, largest"), quantile(seconds, 1.0), "s", SECONDS_AT_MOST);
    }
    let (first, last) = (quantile(&all[0], 0.5), quantile(&all[3], 0.5));
    println!("  the largest takes {} times what the smallest takes", rounded(last / first));
    agent.stop()?;
    place.down()?;
    reports.add(report)
}

/// Files that are changed in a round, far apart.
fn changed_in(round: usize, size: u64) -> Vec<PathBuf> {
    (0..CHANGED).map(|n| file((n * (size / CHANGED) + round as u64) % size)).collect()
}

/// Seconds from the last write until the agent says that all is published. Then it must be on the second host's brick.
fn once(cluster: &Cluster, agent: &Agent, lane: &LaneDirs, size: u64, round: usize) -> Result<f64> {
    let status = || -> Result<(u64, u64)> {
        let status = agent.status()?;
        let lanes = status["lanes"].as_array().context("lanes")?;
        let name = format!("bench/{}", lane.name);
        let lane = lanes.iter().find(|known| known["lane"] == name).context("the lane")?;
        ensure!(lane["error"].is_null(), "{lane}: {}", agent.log());
        Ok((lane["generation"].as_u64().unwrap_or(0), lane["waiting"].as_u64().unwrap_or(0)))
    };
    let (before, _) = status()?;
    let text = format!("changed in round {round}\n");
    let paths: Vec<PathBuf> =
        (0..CHANGED).map(|n| file((n * (size / CHANGED) + round as u64) % size)).collect();
    for path in &paths {
        fs::write(lane.volume.join(path), &text).with_context(|| path.display().to_string())?;
    }
    let begin = Instant::now();
    loop {
        let (generation, waiting) = status()?;
        if generation > before && waiting == 0 {
            break;
        }
        ensure!(begin.elapsed() < LIMIT, "not published within {LIMIT:?}: {}", agent.log());
        thread::sleep(PAUSE);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let brick = cluster.host(1).outside(cluster.brick_of(1));
    for path in &paths {
        let path = brick.join(&lane.name).join(path);
        let found = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(found == text, "{}: said to be published, and is {found:?}", path.display());
    }
    Ok(seconds)
}

/// Makes the first copy on the brick of the first host and copies that to the second host's, both behind GlusterFS's back;
/// it gives each file its identity when it is looked up first, here as in the copies that went through the mount: before
/// it is measured. What is measured afterwards goes through the mount.
fn put_on_bricks(cluster: &Cluster, lane: &LaneDirs, state: &Path) -> Result<()> {
    let begin = Instant::now();
    let host = cluster.host(0);
    let brick = cluster.brick_of(0);
    let mut sync = host.cmd(cluster.program());
    sync.arg("sync").arg(&lane.volume).arg(brick.join(&lane.name)).arg("--once");
    sync.env("TIDEGATE_STATE_DIR", state);
    crate::measure::seconds(&mut sync)?;
    let (from, to) = (host.outside(&brick), cluster.host(1).outside(cluster.brick_of(1)));
    fs::create_dir_all(to.join(".tidegate"))?;
    for part in [PathBuf::from(&lane.name), Path::new(".tidegate").join(&lane.name)] {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(from.join(&part)).arg(to.join(&part));
        crate::measure::seconds(&mut copy)?;
    }
    println!("\n{} is on the bricks after {:.1} s", lane.name, begin.elapsed().as_secs_f64());
    Ok(())
}
