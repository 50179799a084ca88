//! Leaves nothing behind: the work runs in a child, and whatever becomes of it, the parent cleans up.

use std::env;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::lab::Lab;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// Set for the child: a directory of its own that the parent removes.
const SCRATCH: &str = "TIDEGATE_XTASK_SCRATCH";
/// How long the child's processes have to end by themselves.
const GRACE: Duration = Duration::from_secs(3);

/// Runs `work` with a directory for anything. Ctrl-C ends it, takes down what it started and removes its files.
///
/// # Errors
/// What `work` returns; or the child could not be started.
pub fn run(work: impl FnOnce(&Path) -> Result<ExitCode>) -> Result<ExitCode> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if let Some(scratch) = env::var_os(SCRATCH) {
        // A child inherits the mask, and everything it starts would.
        signals.thread_unblock().context("unblock signals")?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("follow the parent into death")?;
        return work(&PathBuf::from(scratch));
    }
    let base = env::var_os("TIDEGATE_LAB_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let scratch = tempfile::Builder::new()
        .prefix("tidegate-xtask-")
        .tempdir_in(&base)
        .with_context(|| format!("make a directory in {}", base.display()))?;
    signals.thread_block().context("block signals")?;
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(SCRATCH, scratch.path())
        .process_group(0)
        .spawn()
        .context("start the work")?;
    let group = Pid::from_raw(child.id() as i32);
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("\n{signal}: cleaning up");
            let _ = killpg(group, Signal::SIGTERM);
        }
    });
    let status = child.wait().context("wait for the work")?;
    if let Some(signal) = status.signal() {
        end_group(group, &mut child);
        Lab::sweep()?;
        return Ok(ExitCode::from(128u8.saturating_add(signal as u8)));
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The child has died; its own children may need a moment, or more than a hint.
fn end_group(group: Pid, child: &mut Child) {
    let end = Instant::now() + GRACE;
    while killpg(group, None).is_ok() {
        if Instant::now() >= end {
            let _ = killpg(group, Signal::SIGKILL);
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.try_wait();
}
