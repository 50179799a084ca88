//! The facts without which a number means nothing.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::Args;

/// What the measurements run on.
pub fn facts(args: &Args) -> Result<Value> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    Ok(json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "cpu": field(&cpuinfo, "model name"),
        "cores": std::thread::available_parallelism()?.get(),
        "memory": field(&fs::read_to_string("/proc/meminfo")?, "MemTotal"),
        "local_filesystem": said("findmnt", &["-no", "FSTYPE,OPTIONS", "-T", &args.scratch.to_string_lossy()]),
        "glusterfs": said("glusterfs", &["--version"]),
        "rsync": said("rsync", &["--version"]),
        "tidegate": said(&args.tidegate.to_string_lossy(), &["--version"]),
        "commit": said("git", &["rev-parse", "--short", "HEAD"]),
        "date": said("date", &["-u", "+%Y-%m-%d"]),
    }))
}

/// First line of what a program says.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}
