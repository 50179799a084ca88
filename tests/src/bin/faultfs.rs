//! `faultfs MOUNTPOINT... --control SOCKET [--threads N] [--no-acl]`: see `harness::faultfs`.
#![forbid(unsafe_code)]

use std::ffi::OsString;

use anyhow::{Context, Result, bail, ensure};
use harness::faultfs::{Options, serve};

/// Requests are served side by side up to this number, the stalled ones included.
const THREADS: usize = 8;

fn main() -> Result<()> {
    serve(&parse(std::env::args_os().skip(1))?)
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Options> {
    let mut mountpoints = Vec::new();
    let mut control = None;
    let mut threads = THREADS;
    let mut acl = true;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--control") => control = args.next(),
            Some("--threads") => {
                let number = args.next().context("--threads needs a number")?;
                threads = number.to_string_lossy().parse().context("--threads")?;
            }
            Some("--no-acl") => acl = false,
            Some(option) if option.starts_with('-') => bail!("unknown option {option}"),
            _ => mountpoints.push(arg.into()),
        }
    }
    ensure!(!mountpoints.is_empty(), "no MOUNTPOINT given");
    Ok(Options { mountpoints, control: control.context("no --control SOCKET given")?.into(), threads, acl })
}
