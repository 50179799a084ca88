//! Fifty files changed a second: how far the second host is behind, and whether the agent says so.
//!
//! Three look at the same time. One asks the agent, as monitoring does. One waits for each change, in order, on the
//! second host's brick, which no cache can make older than it is. One waits, each second, for a new name in the second host's own
//! mount. All use one clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::place::{Mirrors, Place};
use crate::Args;
use crate::agent::Agent;
use crate::measure::{quantile, spread};
use crate::report::{Report, Reports};
use crate::usage::{Machine, load, rounded};

/// Changes a second.
const RATE: usize = 50;
/// For how long.
const SECONDS: usize = 300;
/// Directories, and files in each: each is changed once a minute.
const DIRECTORIES: usize = 50;
const PER_DIRECTORY: usize = 60;
/// Bytes of a file.
const BYTES: usize = 1024;
/// Between two looks at the brick and at the mount.
const PAUSE: Duration = Duration::from_millis(3);
/// Between two questions.
const ASK: Duration = Duration::from_millis(50);
/// For the last of it.
const LIMIT: Duration = Duration::from_secs(120);
/// Seconds.
const LAG_AT_MOST: f64 = 2.0;

/// A change: when it was begun and had returned.
#[derive(Clone, Copy)]
struct Change {
    begun: Instant,
    done: Instant,
}

/// What was seen of it on the other side.
#[derive(Clone, Copy)]
struct Arrival {
    missing: Option<Instant>,
    seen: Instant,
}

/// What the agent said between two moments.
struct Said {
    asked: Instant,
    answered: Instant,
    lag: Option<f64>,
}

/// What the threads share.
#[derive(Default)]
struct World {
    changes: Mutex<Vec<Change>>,
    written: AtomicUsize,
    is_over: AtomicBool,
}

impl World {
    fn change(&self, at: usize) -> Result<Option<Change>> {
        match self.changes.lock() {
            Ok(changes) => Ok(changes.get(at).copied()),
            Err(_) => bail!("the writer has failed"),
        }
    }
}

/// Where change `n` is made.
fn place_of(n: usize) -> PathBuf {
    let file = n % (DIRECTORIES * PER_DIRECTORY);
    format!("d{}/f{}", file % DIRECTORIES, file / DIRECTORIES).into()
}

/// Runs the case.
pub fn run(args: &Args, reports: &mut Reports) -> Result<()> {
    let seconds = (SECONDS / args.scale).max(10);
    let place = Place::new(args, Mirrors::Gluster, 4)?;
    let cluster = place.cluster().context("a cluster")?;
    let lane = [place.lane("lane")?];
    let volume = lane[0].volume.clone();
    for n in 0..DIRECTORIES * PER_DIRECTORY {
        let path = volume.join(place_of(n));
        fs::create_dir_all(path.parent().context("a parent")?)?;
        fs::write(path, [b'0'; BYTES])?;
    }
    fs::create_dir(volume.join("beats"))?;
    let mount = cluster.second_mount()?.join("lane");
    let brick = cluster.host(1).outside(cluster.brick_of(1)).join("lane");
    let agent = place.agent("agent", &lane, &args.settings.join("\n"))?;
    agent.flush()?;
    let settings = args.settings.join(", ");
    let about = json!({
        "changes_per_second": RATE, "seconds": seconds, "load": load(), "settings": settings,
        "bricks": cluster.brick.name(),
    });
    let mut report = Report::new("lag", about);

    let world = World::default();
    let (machine, usage, profile) = (Machine::now()?, agent.usage()?, cluster.profile()?);
    let generation = agent.lane()?["generation"].as_u64().unwrap_or(0);
    let (barrier, arrivals, beats, said) = thread::scope(|scope| {
        let arrivals = scope.spawn(|| watch_brick(&world, &brick));
        let beats = scope.spawn(|| watch_mount(&world, &mount));
        let said = scope.spawn(|| listen(&world, &agent));
        let written = write(&world, &volume, RATE * seconds);
        // Everything that was written before this question is there when it is answered.
        let asked = Instant::now();
        let barrier = written.and_then(|()| agent.flush());
        let answered = Instant::now();
        world.is_over.store(true, Ordering::Release);
        let joined = |what: &str| format!("the thread that {what} has failed");
        let arrivals = arrivals.join().map_err(|_| anyhow::anyhow!(joined("looks at the brick")));
        let beats = beats.join().map_err(|_| anyhow::anyhow!(joined("looks at the mount")));
        let said = said.join().map_err(|_| anyhow::anyhow!(joined("asks")));
        (barrier.map(|lag| (lag, asked, answered)), arrivals, beats, said)
    });
    let (barrier, (arrivals, beats, said)) = (barrier?, (arrivals??, beats??, said??));
    let now = Machine::now()?;
    let used = agent.usage()?.since(&usage);
    let lane = agent.lane()?;
    let generations = lane["generation"].as_u64().unwrap_or(0) - generation;
    let requests = super::cluster::cost(&cluster.profile()?.since(&profile), (RATE * seconds) as u64);

    let changes = world.changes.into_inner().map_err(|_| anyhow::anyhow!("the writer has failed"))?;
    let age = |seen: Instant, at: usize| seen.saturating_duration_since(changes[at].begun).as_secs_f64();
    let on_brick: Vec<f64> = arrivals.iter().enumerate().map(|(at, a)| age(a.seen, at)).collect();
    let in_mount: Vec<f64> = beats.iter().map(|(at, seen)| age(*seen, *at)).collect();
    let reported: Vec<f64> = said.iter().filter_map(|said| said.lag).collect();
    ensure!(
        reported.len() == said.len(),
        "the agent did not know its lag {} times",
        said.len() - reported.len()
    );
    report.measured("second host's brick, median", quantile(&on_brick, 0.5), spread(&on_brick));
    report.measured("second host's mount, median", quantile(&in_mount, 0.5), spread(&in_mount));
    report.measured("what the agent says, median", quantile(&reported, 0.5), spread(&reported));
    report.measured("barrier behind the last", barrier.0, json!(null));
    println!("  {generations} generations, {requests}");
    println!("  agent: {}", used.json());
    println!(
        "  the machine was busy for {:.0} of {:.0} s of its cores, load now {}",
        now.busy_since(&machine),
        now.all_since(&machine),
        load()
    );
    let honesty = Honesty::of(&changes, &arrivals, &said);
    println!("  {honesty}");
    report.goal("lag on the second host's brick, p99", quantile(&on_brick, 0.99), "s", LAG_AT_MOST);
    report.goal("lag in the second host's mount, p99", quantile(&in_mount, 0.99), "s", LAG_AT_MOST);
    report.goal("lag that the agent says, p99", quantile(&reported, 0.99), "s", LAG_AT_MOST);
    report.goal("times it said less than the truth", honesty.lies as f64, "times", 0.0);
    // A look at the brick may come late by a pause; the change was there before.
    let late = arrivals.iter().filter(|a| a.missing.is_some_and(|missing| missing > barrier.2)).count();
    report.goal("changes missing when the barrier was answered", late as f64, "changes", 0.0);
    agent.stop()?;
    place.down()?;
    reports.add(report)
}

/// Makes changes at an even rate.
fn write(world: &World, volume: &Path, count: usize) -> Result<()> {
    let begin = Instant::now();
    for n in 0..count {
        let due = begin + Duration::from_secs_f64(n as f64 / RATE as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut text = format!("{}\n", n + 1).into_bytes();
        text.resize(BYTES, b'.');
        let begun = Instant::now();
        fs::write(volume.join(place_of(n)), &text)?;
        if n.is_multiple_of(RATE) {
            fs::write(volume.join("beats").join(n.to_string()), "")?;
        }
        let change = Change { begun, done: Instant::now() };
        world.changes.lock().map_err(|_| anyhow::anyhow!("somebody has failed"))?.push(change);
        world.written.store(n + 1, Ordering::Release);
    }
    Ok(())
}

/// Waits for each change in order. When one is found missing, all before it are there.
fn watch_brick(world: &World, brick: &Path) -> Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let mut missing = None;
    let mut last = Instant::now();
    loop {
        let at = arrivals.len();
        if world.change(at)?.is_some() {
            let asked = Instant::now();
            if number(&brick.join(place_of(at))) > at {
                arrivals.push(Arrival { missing, seen: Instant::now() });
                missing = None;
                last = Instant::now();
                continue;
            }
            missing = Some(asked);
        } else if world.is_over.load(Ordering::Acquire) && at == world.written.load(Ordering::Acquire) {
            return Ok(arrivals);
        }
        ensure!(last.elapsed() < LIMIT, "change {at} does not arrive within {LIMIT:?}");
        thread::sleep(PAUSE);
    }
}

/// The number of the last change of a file; 0 when it says none.
fn number(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// Waits for each new name: that one is not there is never said from a cache.
fn watch_mount(world: &World, mount: &Path) -> Result<Vec<(usize, Instant)>> {
    let mut beats: Vec<(usize, Instant)> = Vec::new();
    let mut last = Instant::now();
    loop {
        let at = beats.len() * RATE;
        if world.change(at)?.is_some() {
            if fs::symlink_metadata(mount.join("beats").join(at.to_string())).is_ok() {
                beats.push((at, Instant::now()));
                last = Instant::now();
                continue;
            }
        } else if world.is_over.load(Ordering::Acquire) {
            return Ok(beats);
        }
        ensure!(last.elapsed() < LIMIT, "beat {at} does not arrive within {LIMIT:?}");
        thread::sleep(5 * PAUSE);
    }
}

/// Asks the agent for its lag until it is over.
fn listen(world: &World, agent: &Agent) -> Result<Vec<Said>> {
    let mut said = Vec::new();
    while !world.is_over.load(Ordering::Acquire) {
        let asked = Instant::now();
        let lane = agent.lane()?;
        ensure!(lane["error"].is_null(), "{lane}: {}", agent.log());
        said.push(Said { asked, answered: Instant::now(), lag: lane["lag_seconds"].as_f64() });
        thread::sleep(ASK);
    }
    Ok(said)
}

/// What the agent said beside what was so.
struct Honesty {
    /// Times that it can be proven to have said less than the truth.
    lies: usize,
    /// Times that could be judged: a change was missing before and after.
    judged: usize,
    /// What it said more than the truth, in seconds.
    above: Vec<f64>,
}

impl Honesty {
    fn of(changes: &[Change], arrivals: &[Arrival], said: &[Said]) -> Self {
        let mut this = Self { lies: 0, judged: 0, above: Vec::new() };
        for said in said {
            let Some(lag) = said.lag else { continue };
            // The first change that was not there yet when the answer came. Arrivals are in order.
            let at = arrivals.partition_point(|arrival| arrival.seen <= said.answered);
            let (Some(arrival), Some(change)) = (arrivals.get(at), changes.get(at)) else { continue };
            // It must have been seen missing after the answer, and have been made before the question.
            if arrival.missing.is_none_or(|missing| missing < said.answered) || change.done > said.asked {
                continue;
            }
            let truth = said.asked.duration_since(change.done).as_secs_f64();
            this.judged += 1;
            this.lies += usize::from(lag < truth);
            this.above.push(lag - truth);
        }
        this
    }
}

impl std::fmt::Display for Honesty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "of {} answers that can be judged {} said less than the truth; more than the truth by {} to {} s, {} in the middle",
            self.judged,
            self.lies,
            rounded(quantile(&self.above, 0.0)),
            rounded(quantile(&self.above, 1.0)),
            rounded(quantile(&self.above, 0.5))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change made at 1 s that arrives at 3 s.
    fn judge(lag: f64) -> Honesty {
        let begin = Instant::now();
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let changes = [Change { begun: at(1.0), done: at(1.0) }];
        let arrivals = [Arrival { missing: Some(at(2.99)), seen: at(3.0) }];
        Honesty::of(&changes, &arrivals, &[Said { asked: at(2.0), answered: at(2.1), lag: Some(lag) }])
    }

    #[test]
    fn a_lag_below_the_truth_is_found() {
        assert_eq!((judge(0.9).judged, judge(0.9).lies), (1, 1));
        assert_eq!((judge(1.1).judged, judge(1.1).lies), (1, 0));
    }
}
