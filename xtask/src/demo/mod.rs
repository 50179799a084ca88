//! `cargo xtask demo`: the story of one volume, told with real programs and measured times.

mod site;
mod story;
mod tell;
mod volume;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{cargo, packages};
use site::Site;

/// Options of `demo`.
#[derive(clap::Args)]
pub struct Args {
    /// On plain directories, without a cluster; without root this is what happens anyway.
    #[arg(long)]
    embedded: bool,
}

/// Runs the command.
///
/// # Errors
/// Something could not be set up, or a proof failed.
pub fn run(args: &Args, scratch: &Path) -> Result<ExitCode> {
    let embedded = args.embedded || !packages::is_root();
    if !embedded {
        packages::install_missing()?;
    }
    tell::remark("building tidegate (release)");
    let tidegate = cargo::release_binary("tidegate", "tidegate")?;
    let begin = Instant::now();
    let site = if embedded { Site::embedded(&tidegate, scratch)? } else { Site::cluster(&tidegate)? };
    let proofs = story::tell(&site).context("the demo failed here")?;
    tell::heading("Clean-up");
    site.down()?;
    tell::text(&format!(
        "Nothing is left. {proofs} proofs held, {:.0} s in all.",
        begin.elapsed().as_secs_f64()
    ));
    Ok(ExitCode::SUCCESS)
}
