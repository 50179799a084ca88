//! A Jenkins home on the cluster: first copy, nothing changed, ten files changed, and a delay.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::trees::{JenkinsSize, jenkins};
use serde_json::json;

use super::cluster::{Cluster, Way, cost};
use crate::Args;
use crate::report::{Report, Reports};

/// With a delay rsync takes minutes for less than this.
const DELAYED_SCALE: usize = 30;
const CHANGED: usize = 10;

/// Runs the cases that are wanted; the later ones need the first copies of the first.
pub fn run(
    cluster: &Cluster,
    args: &Args,
    wanted: &dyn Fn(&str) -> bool,
    reports: &mut Reports,
) -> Result<()> {
    if ["gluster-first", "gluster-unchanged", "gluster-10-changed"].into_iter().any(wanted) {
        let size = JenkinsSize::one_in(args.scale);
        let volume = cluster.local("volume")?;
        let made = jenkins(&volume, size)?;
        first("gluster-first", cluster, &volume, size, args.first_rounds, reports)?;
        if wanted("gluster-unchanged") {
            let mut report = Report::new("gluster-unchanged", about(cluster, size));
            for _ in 0..args.rounds {
                for way in [Way::Rsync, Way::Durable] {
                    let (seconds, spent) = cluster.copy(way, &volume, &mirror("gluster-first", way, 0))?;
                    report.measured(way.name(), seconds, cost(&spent, made.files));
                }
            }
            reports.add(report)?;
        }
        if wanted("gluster-10-changed") {
            let mut report = Report::new("gluster-10-changed", about(cluster, size));
            for _ in 0..args.rounds {
                change(&volume)?;
                for way in [Way::Rsync, Way::Durable] {
                    let (seconds, spent) = cluster.copy(way, &volume, &mirror("gluster-first", way, 0))?;
                    report.measured(way.name(), seconds, cost(&spent, CHANGED as u64));
                }
            }
            reports.add(report)?;
        }
    }
    if wanted("gluster-delay") {
        let size = JenkinsSize::one_in(DELAYED_SCALE.max(args.scale));
        let volume = cluster.local("volume-delayed")?;
        jenkins(&volume, size)?;
        cluster.delay(args.delay)?;
        first("gluster-delay", cluster, &volume, size, args.first_rounds, reports)?;
        cluster.delay(0)?;
    }
    Ok(())
}

fn first(
    case: &str,
    cluster: &Cluster,
    volume: &Path,
    size: JenkinsSize,
    rounds: usize,
    reports: &mut Reports,
) -> Result<()> {
    let mut report = Report::new(case, about(cluster, size));
    for round in 0..rounds {
        for way in Way::ALL {
            let (seconds, spent) = cluster.copy(way, volume, &mirror(case, way, round))?;
            report.measured(way.name(), seconds, cost(&spent, size.files as u64));
        }
    }
    reports.add(report)
}

fn mirror(case: &str, way: Way, round: usize) -> String {
    format!("{case}-{}-{round}", way.name())
}

fn about(cluster: &Cluster, size: JenkinsSize) -> serde_json::Value {
    json!({
        "bricks": cluster.brick.name(),
        "hosts": 2,
        "files": size.files,
        "directories": size.directories,
        "bytes": size.bytes,
    })
}

/// Ten build logs, far apart, get a line more.
fn change(volume: &Path) -> Result<()> {
    let mut logs = Vec::new();
    find(volume, "log", &mut logs)?;
    logs.sort();
    let step = (logs.len() / CHANGED).max(1);
    for log in logs.iter().step_by(step).take(CHANGED) {
        let mut file = File::options().append(true).open(log).with_context(|| log.display().to_string())?;
        file.write_all(b"one line more\n")?;
    }
    Ok(())
}

fn find(dir: &Path, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), name, found)?;
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    Ok(())
}
