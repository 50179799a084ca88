//! Running one program of tests with its output kept and a limit on its time.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::parse::{self, Outcome};
use crate::cargo::{self, Artifact};

/// Far beyond what any program of tests takes; a hang must end as a failure with a name.
const LIMIT: Duration = Duration::from_secs(12 * 60);

/// Runs one program of tests.
///
/// # Errors
/// It could not be started.
pub fn program(program: &Artifact, serial: bool, filter: &[String], scratch: &Path) -> Result<Outcome> {
    let mut command = Command::new(&program.executable);
    command.current_dir(&program.package_dir).env("CARGO_MANIFEST_DIR", &program.package_dir);
    command.arg("--show-output").args(filter);
    if serial {
        command.arg("--test-threads=1");
    }
    judge(&mut command, scratch)
}

/// Runs the examples in the documentation of all crates.
///
/// # Errors
/// Cargo could not be started.
pub fn documentation(filter: &[String], scratch: &Path) -> Result<Outcome> {
    let mut command = cargo::cargo(&["test", "--quiet", "--workspace", "--doc", "--", "--format=pretty"]);
    judge(command.args(filter), scratch)
}

fn judge(command: &mut Command, scratch: &Path) -> Result<Outcome> {
    // Files instead of pipes: a process that a test left behind cannot keep us waiting.
    let (out, err) = (scratch.join("test.out"), scratch.join("test.err"));
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= end {
            child.kill().context("end a program of tests that hangs")?;
            // Not waited for beyond a moment: it may be stuck in a sick mount.
            thread::sleep(Duration::from_secs(1));
            let _ = child.try_wait();
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = |path: &Path| Ok::<_, anyhow::Error>(String::from_utf8_lossy(&fs::read(path)?).into_owned());
    Ok(parse::outcome(&text(&out)?, &text(&err)?, &ending(status)))
}

/// Nothing when the program says itself what failed; otherwise how it ended.
fn ending(status: Option<ExitStatus>) -> String {
    match status {
        None => format!("did not end within {} s", LIMIT.as_secs()),
        Some(status) if status.success() || status.code() == Some(101) => String::new(),
        Some(status) => status.to_string(),
    }
}
