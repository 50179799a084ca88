//! What capture costs the writer: an archive of small files unpacked with no agent, with one whose lane is paused (its
//! events are read, noted and kept, and nothing else is done), and with one at work beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::lab::{Seen, wait_until};
use harness::trees::Rng;
use serde_json::{Value, json};

use super::place::{Mirrors, Place};
use crate::Args;
use crate::disk::Disk;
use crate::measure::{self, median, spread};
use crate::report::{Report, Reports};
use crate::usage::{Machine, children_cpu, load, rounded};

/// Files in the archive.
const FILES: usize = 100_000;
/// Of them in a directory.
const PER_DIRECTORY: usize = 100;
/// Bytes of a file: none to this many.
const BYTES_MAX: u64 = 4096;
/// Until a paused lane has read what is queued.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// In percent.
const SLOWER_AT_MOST: f64 = 20.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    Read,
    Cycling,
}

impl Way {
    const ALL: [Way; 3] = [Way::Alone, Way::Read, Way::Cycling];

    fn name(self) -> &'static str {
        match self {
            Way::Alone => "no agent",
            Way::Read => "marked and read",
            Way::Cycling => "agent at work",
        }
    }
}

/// Seconds of a round, by the clock and on a processor, in the order of [`Way::ALL`].
#[derive(Default, Clone, Copy)]
struct Round {
    seconds: [f64; 3],
    cpu: [f64; 3],
}

/// Runs the cases that are wanted.
pub fn run(args: &Args, wanted: &dyn Fn(&str) -> bool, reports: &mut Reports) -> Result<()> {
    for (case, mirrors) in [("capture-untar", Mirrors::Local), ("capture-untar-gluster", Mirrors::Gluster)] {
        if wanted(case) {
            measure_all(case, mirrors, args, reports)?;
        }
    }
    Ok(())
}

fn measure_all(case: &str, mirrors: Mirrors, args: &Args, reports: &mut Reports) -> Result<()> {
    let files = (FILES / args.scale).max(PER_DIRECTORY);
    let archive = archive(args, files)?;
    // Not counted: what was never in memory costs more than what was.
    unpack(args, mirrors, &archive, Way::Alone, files)?;
    let about = json!({ "files": files, "archive_bytes": fs::metadata(&archive)?.len(), "load": load() });
    let mut report = Report::new(case, about);
    let mut rounds = Vec::new();
    for n in 0..args.rounds {
        let mut round = Round::default();
        for turn in 0..Way::ALL.len() {
            // Each is the first of a round in its turn.
            let at = (turn + n) % Way::ALL.len();
            let way = Way::ALL[at];
            let (seconds, cpu, more) = unpack(args, mirrors, &archive, way, files)?;
            report.measured(way.name(), seconds, more);
            (round.seconds[at], round.cpu[at]) = (seconds, cpu);
        }
        rounds.push(round);
    }
    for (at, what) in [(1, "marked and read"), (2, "agent at work")] {
        let slower = |of: fn(&Round) -> [f64; 3]| {
            let percent: Vec<f64> =
                rounds.iter().map(|round| (of(round)[at] / of(round)[0] - 1.0) * 100.0).collect();
            (median(&percent), percent)
        };
        let (clock, each) = slower(|round| round.seconds);
        println!("  {what}, slower by the clock, each round: {each:.1?} %");
        report.goal(&format!("{what}: slower by the clock"), clock, "%", SLOWER_AT_MOST);
        let (cpu, each) = slower(|round| round.cpu);
        println!("  {what}, processor time of tar, each round: {each:.1?} %");
        report.goal(&format!("{what}: more processor time of tar"), cpu, "%", SLOWER_AT_MOST);
    }
    fs::remove_file(archive)?;
    reports.add(report)
}

/// Seconds by the clock and of tar on a processor, and what else there is to say. All is made anew for it: ext4 looks at
/// what was deleted lately for each file that it makes, and fuller memory is slower.
fn unpack(
    args: &Args,
    mirrors: Mirrors,
    archive: &Path,
    way: Way,
    files: usize,
) -> Result<(f64, f64, Value)> {
    let place = Place::new(args, mirrors, 4)?;
    let lane = [place.lane("lane")?];
    let volume = lane[0].volume.clone();
    let agent = match way {
        Way::Alone => None,
        Way::Read | Way::Cycling => Some(place.agent("agent", &lane, "")?),
    };
    if let Some(agent) = &agent {
        agent.flush()?;
        if way == Way::Read {
            agent.pause()?;
        }
    }
    // What is still to be written is not to be paid by this one.
    measure::seconds(&mut Command::new("sync"))?;
    let before = agent.as_ref().map(|agent| agent.usage()).transpose()?;
    let (machine, cpu) = (Machine::now()?, children_cpu()?);
    let seconds = measure::seconds(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&volume))?;
    let cpu = children_cpu()? - cpu;
    let busy = Machine::now()?;
    let mut more = json!({
        "tar_cpu": rounded(cpu),
        "machine_cpu": rounded(busy.busy_since(&machine)),
        "load": load(),
    });
    if let (Some(agent), Some(before)) = (agent, before) {
        more["agent"] = agent.usage()?.since(&before).json();
        match way {
            Way::Read => wait_until("all events are read", READ_LIMIT, || {
                let lane = agent.lane()?;
                let waiting = lane["waiting"].as_u64().unwrap_or(0);
                Ok(Seen::when(waiting >= files as u64, || lane.to_string()))
            })?,
            // That takes minutes: it is not waited for.
            _ if mirrors == Mirrors::Gluster => more["lane"] = agent.lane()?,
            _ => {
                more["in_sync_after"] = rounded(agent.flush()?).into();
                let lane = agent.lane()?;
                ensure!(lane["files"] == files, "not all of {files} files arrived: {lane}");
                more["generations"] = lane["generation"].clone();
            }
        }
        agent.stop()?;
    }
    place.down()?;
    Ok((seconds, cpu, more))
}

/// A tar archive of `files` small files, a hundred in a directory.
fn archive(args: &Args, files: usize) -> Result<PathBuf> {
    let disk = Disk::new(&args.scratch, "packed", 4)?;
    let root = disk.dir("tree")?;
    let mut rng = Rng::new(100_000);
    let mut sizes = Vec::new();
    for n in 0..files {
        let dir = root.join(format!("d{}", n / PER_DIRECTORY));
        if n.is_multiple_of(PER_DIRECTORY) {
            fs::create_dir(&dir)?;
        }
        let size = rng.below(BYTES_MAX + 1) as usize;
        sizes.push(size as f64);
        fs::write(dir.join(format!("f{n}")), rng.bytes(size))?;
    }
    println!("  bytes of a file: {}", spread(&sizes));
    let archive = args.scratch.join("small-files.tar");
    measure::seconds(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."))?;
    Ok(archive)
}
