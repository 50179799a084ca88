//! A million files and nothing to do: how near to the cost of just looking.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use harness::trees::million;
use serde_json::{Value, json};

use crate::Args;
use crate::measure;
use crate::report::{Report, Reports};
use crate::walk::walk;

/// Runs the case.
pub fn run(args: &Args, reports: &mut Reports) -> Result<()> {
    let base = args.scratch.join("million");
    let volume = base.join("volume");
    fs::create_dir_all(&volume)?;
    let begin = Instant::now();
    let made = million(&volume, args.files)?;
    println!("\n{} files made in {:.1} s", made.files, begin.elapsed().as_secs_f64());
    let threads = std::thread::available_parallelism()?.get();
    let mut sync = Command::new(&args.tidegate);
    sync.arg("sync").arg(&volume).arg(base.join("mirror")).arg("--once");
    sync.env("TIDEGATE_STATE_DIR", base.join("state"));
    let note = base.join("usage");

    let about = json!({ "files": made.files, "directories": made.directories, "threads": threads });
    let mut first = Report::new("million-first", about.clone());
    let (seconds, peak) = measure::seconds_and_peak(&sync, &note)?;
    first.measured("tidegate", seconds, json!({ "peak_bytes": peak }));
    reports.add(first)?;

    let mut report = Report::new("million", about);
    walk(&volume, threads)?;
    for _ in 0..args.rounds {
        let begin = Instant::now();
        let seen = walk(&volume, threads)?;
        report.measured("bare walk", begin.elapsed().as_secs_f64(), Value::Null);
        anyhow::ensure!(seen == made.entries(), "the walk saw {seen} of {} names", made.entries());
        let (seconds, peak) = measure::seconds_and_peak(&sync, &note)?;
        report.measured("tidegate, nothing changed", seconds, json!({ "peak_bytes": peak }));
    }
    fs::remove_dir_all(&base)?;
    reports.add(report)
}
