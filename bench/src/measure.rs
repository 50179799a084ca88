//! Running one program and measuring it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::usage::rounded;

/// Runs a command that has to end well and returns its seconds.
///
/// # Errors
/// It failed; the error has what it said.
pub fn seconds(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    let seconds = begin.elapsed().as_secs_f64();
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?}: {}: {} {}", output.status, err.trim(), out.trim());
    }
    Ok(seconds)
}

/// Like [`seconds`], with the peak of its resident memory in bytes.
///
/// # Errors
/// As [`seconds`].
pub fn seconds_and_peak(command: &Command, note: &Path) -> Result<(f64, u64)> {
    let mut around = Command::new(env::current_exe()?);
    around.arg("--usage-to").arg(note).arg("--").arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        around.env(key, value.unwrap_or_default());
    }
    seconds(&mut around)?;
    let text = fs::read_to_string(note)?;
    let (seconds, peak) = text.trim().split_once(' ').context("the note of a measurement")?;
    Ok((seconds.parse()?, peak.parse()?))
}

/// The inner half of [`seconds_and_peak`]: this process has no other child, so the peak is that of the program.
///
/// # Errors
/// The program failed.
pub fn report_usage(argv: &[String], note: &Path) -> Result<()> {
    let (program, args) = argv.split_first().context("no program to run")?;
    let begin = Instant::now();
    let status = Command::new(program).args(args).status().with_context(|| format!("start {program}"))?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{program}: {status}");
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() << 10;
    Ok(fs::write(note, format!("{seconds} {peak}\n"))?)
}

/// The value in the middle; the lower of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The value that `share` of them do not exceed (0.5, 0.99; 1 is the largest).
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// p50, p95, p99 and the largest, for a report.
pub fn spread(values: &[f64]) -> Value {
    let at = |share| rounded(quantile(values, share));
    json!({ "n": values.len(), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::{median, quantile};

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.01), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[2.0, 1.0]), 1.0);
        assert!(median(&[]).is_nan());
    }
}
