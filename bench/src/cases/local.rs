//! Local to local: what the engine is worth without a network filesystem.
//!
//! tidegate is durable when it ends, `cp` and rsync are not: `sync -f` is measured behind them as well. The
//! ratios to look at are those of the ways that end durable.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use harness::trees::{JenkinsSize, jenkins};
use serde_json::{Value, json};

use crate::Args;
use crate::measure;
use crate::report::{Report, Reports};

/// Runs the case.
pub fn run(args: &Args, reports: &mut Reports) -> Result<()> {
    let size = JenkinsSize::one_in(args.scale);
    let base = args.scratch.join("local");
    let volume = base.join("volume");
    fs::create_dir_all(&volume)?;
    jenkins(&volume, size)?;
    warm(&volume)?;
    let about =
        json!({ "files": size.files, "directories": size.directories, "bytes": size.bytes, "cache": "warm" });
    let mut report = Report::new("local", about);
    let source = volume.join("");
    // Nothing is deleted before the end: ext4 does not give out the numbers of inodes deleted a minute ago, and looks at
    // each of them for every file that is created (`recently_deleted`; `cp` then took seven times as long).
    for round in 0..args.rounds {
        let base = base.join(round.to_string());
        fs::create_dir(&base)?;
        let to = base.join("cp");
        let mut cp = Command::new("cp");
        plain(&mut report, "cp -a", cp.arg("-a").arg(&volume).arg(&to), &to)?;

        let to = base.join("rsync");
        let mut rsync = Command::new("rsync");
        rsync.args(["-aHAX", "--numeric-ids", "--delete"]).arg(&source).arg(to.join(""));
        plain(&mut report, "rsync", &mut rsync, &to)?;

        let to = base.join("mirrors");
        fs::create_dir(&to)?;
        let state = base.join("state");
        let mut tidegate = Command::new(&args.tidegate);
        tidegate
            .arg("sync")
            .arg(&volume)
            .arg(to.join("mirror"))
            .arg("--once")
            .env("TIDEGATE_STATE_DIR", &state);
        flush(&to)?;
        report.measured("tidegate (durable)", measure::seconds(&mut tidegate)?, Value::Null);
    }
    fs::remove_dir_all(&base)?;
    reports.add(report)
}

/// A way that leaves its work in the page cache, and the same with what it takes to be durable.
fn plain(report: &mut Report, way: &str, command: &mut Command, to: &Path) -> Result<()> {
    flush(to.parent().unwrap_or(to))?;
    let seconds = measure::seconds(command)?;
    report.measured(way, seconds, Value::Null);
    let durable = seconds + flush(to)?;
    report.measured(&format!("{way} + sync -f (durable)"), durable, Value::Null);
    Ok(())
}

fn flush(path: &Path) -> Result<f64> {
    measure::seconds(Command::new("sync").arg("-f").arg(path))
}

/// Brings every byte into the page cache.
fn warm(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            warm(&entry.path())?;
        } else {
            io::copy(&mut fs::File::open(entry.path())?, &mut io::sink())?;
        }
    }
    Ok(())
}
