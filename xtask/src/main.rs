//! The one door for people and CI: tests, the demo, the measurements.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod guard;
mod packages;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tests, demo and measurements of tidegate")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Formats, lints and runs every test; as root it installs what is missing first.
    Test(test::Args),
    /// Tells the story of a volume on two hosts: replicated, killed, continued, recovered, proven equal.
    Demo(demo::Args),
    /// Measures side by side with rsync and cp; JSON with the facts of the machine.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = guard::run(|scratch| -> Result<ExitCode> {
        match &cli.command {
            Task::Test(args) => test::run(args, scratch),
            Task::Demo(args) => demo::run(args, scratch),
            Task::Bench(args) => bench::run(args, scratch),
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
