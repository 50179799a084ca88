//! `tidegate-bench`: whole programs side by side, on a real cluster and on local disks. Started by
//! `cargo xtask bench`.
//!
//! Rivals run as programs, interleaved with tidegate in one process of measuring, so that a busy machine is
//! unfair to all of them. A number without its machine is not a result: every report has the facts.
#![forbid(unsafe_code)]

mod agent;
mod cases;
mod disk;
mod machine;
mod measure;
mod report;
mod usage;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use harness::lab::BrickFs;

/// Measures tidegate beside rsync and cp.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub struct Args {
    /// Cases to run; all of them unless named.
    names: Vec<String>,
    /// Names the cases and what they measure, and does nothing.
    #[arg(long)]
    list: bool,
    /// Jenkins tree divided by this: 1 is 12,900 files, 5,002 directories, 1.4 GB. So are the trees of the cases that run the
    /// agent, their rounds and how long they look; 100 proves in seconds that a case works.
    #[arg(long, default_value_t = 1)]
    scale: usize,
    /// Times each is measured where one takes seconds; the median counts. First copies to the cluster: once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Times first copies to the cluster are measured.
    #[arg(long, default_value_t = 1)]
    first_rounds: usize,
    /// Files of the `million` case.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Filesystem of the bricks; rename-1g and append-1g take both unless told.
    #[arg(long, value_enum)]
    brick: Option<Brick>,
    /// Delay of every brick operation in the `gluster-delay` case, in microseconds.
    #[arg(long, default_value_t = 500)]
    delay: u64,
    /// Lines of the agent's configuration for the `lag` case, such as 'max_age = "1s"'.
    #[arg(long)]
    settings: Vec<String>,
    /// Keeps each report in bench/results/NAME.json.
    #[arg(long)]
    save: bool,
    /// The program under test.
    #[arg(long, hide = true, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// A directory for trees and copies, emptied by the caller.
    #[arg(long, hide = true, default_value = "/var/tmp")]
    scratch: PathBuf,
    /// Runs one program and writes what it used to this file: the measuring child of the program itself.
    #[arg(long, hide = true)]
    usage_to: Option<PathBuf>,
}

/// Filesystems of bricks.
#[derive(Clone, Copy, ValueEnum)]
enum Brick {
    /// xfs.
    Xfs,
    /// ext4.
    Ext4,
}

impl Args {
    fn brick(&self) -> Option<BrickFs> {
        self.brick.map(|brick| match brick {
            Brick::Xfs => BrickFs::Xfs,
            Brick::Ext4 => BrickFs::Ext4,
        })
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if let Some(file) = &args.usage_to {
        return measure::report_usage(&args.names, file);
    }
    if args.list {
        cases::ALL.iter().for_each(|(name, what)| println!("{name:<20} {what}"));
        return Ok(());
    }
    for name in &args.names {
        ensure!(cases::ALL.iter().any(|(known, _)| known == name), "no case {name}; see --list");
    }
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|given| given == name);
    let mut reports = report::Reports::new(machine::facts(args)?, args.save);
    cases::run(args, &wanted, &mut reports)?;
    reports.finish()
}
