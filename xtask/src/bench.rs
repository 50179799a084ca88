//! `cargo xtask bench`: builds both programs for release and hands over to `tidegate-bench`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cargo, packages};

/// Options of `bench`, handed on as they are: see `cargo xtask bench --help`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Cases and options of `tidegate-bench`; `--list` names them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A build or an installation failed.
pub fn run(args: &Args, scratch: &Path) -> Result<ExitCode> {
    packages::install_missing()?;
    let tidegate = cargo::release_binary("tidegate", "tidegate")?;
    let bench = cargo::release_binary("tidegate-bench", "tidegate-bench")?;
    let status = Command::new(bench)
        .arg("--tidegate")
        .arg(tidegate)
        .arg("--scratch")
        .arg(scratch)
        .args(&args.rest)
        .current_dir(cargo::workspace())
        .status()
        .context("start tidegate-bench")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
