//! Child processes with a closed stdin and a deadline, and waiting as a bounded poll on a condition.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

/// What a child process left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// One paragraph for an error message: status and both outputs.
    pub fn explain(&self) -> String {
        let mut text = self.status.to_string();
        for (name, bytes) in [("stderr", &self.stderr), ("stdout", &self.stdout)] {
            let shown = String::from_utf8_lossy(bytes);
            if !shown.trim().is_empty() {
                text.push_str(&format!("; {name}: {}", shown.trim()));
            }
        }
        text
    }
}

/// Runs a command to its end, whatever its exit status.
///
/// # Errors
/// It did not start, or it did not end within `limit`; in that case its whole process group was killed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    run_with_input(command, b"", limit)
}

/// Like [`run`], with `input` to read from its standard input.
pub(super) fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    // Memory files instead of pipes: a daemon that keeps its output open cannot keep us waiting, and a
    // full disk cannot change what we read.
    let (stdout, stderr) = (memory_file()?, memory_file()?);
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        let mut file = memory_file()?;
        file.write_all(input)?;
        file.rewind()?;
        file.into()
    };
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let ended = wait_child(&mut child, limit)?;
    if ended.is_none() {
        kill_group(&mut child);
    }
    let (stdout, stderr) = (contents(&stdout)?, contents(&stderr)?);
    match ended {
        Some(status) => Ok(Finished { status, stdout, stderr }),
        None => bail!(
            "{command:?} did not end within {limit:?}; stderr: {}; stdout: {}",
            String::from_utf8_lossy(&stderr).trim(),
            String::from_utf8_lossy(&stdout).trim()
        ),
    }
}

/// Runs a command that has to succeed and returns its standard output.
pub(super) fn check(command: &mut Command, limit: Duration) -> Result<Vec<u8>> {
    let finished = run(command, limit)?;
    if !finished.status.success() {
        bail!("{command:?}: {}", finished.explain());
    }
    Ok(finished.stdout)
}

/// Waits for a child up to `limit`; `None` when it still runs.
pub(super) fn wait_child(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    let handle = pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn kill_group(child: &mut Child) {
    // Both may fail because the process has just gone; a process in uninterruptible sleep stays until the
    // mount it hangs in is aborted, so it is not waited for.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = wait_child(child, Duration::from_millis(500));
}

fn memory_file() -> Result<File> {
    let fd = rustix::fs::memfd_create("lab-stdio", MemfdFlags::CLOEXEC).context("create a memory file")?;
    Ok(fd.into())
}

fn contents(file: &File) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0).context("read the output of a child")?;
    Ok(bytes)
}

/// One look at a condition that is waited for.
#[derive(Debug)]
pub enum Seen<T> {
    /// The condition holds.
    Done(T),
    /// It does not hold yet; the text says what was seen instead.
    NotYet(String),
}

impl Seen<()> {
    /// Done when `holds`, otherwise what `otherwise` says.
    pub fn when(holds: bool, otherwise: impl FnOnce() -> String) -> Self {
        if holds { Seen::Done(()) } else { Seen::NotYet(otherwise()) }
    }
}

/// Polls `look` until it is done.
///
/// # Errors
/// `look` failed, or the condition did not hold within `limit`: the error names the condition and what was
/// seen last.
pub fn wait_until<T>(
    condition: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let last = match look().with_context(|| format!("while waiting until {condition}"))? {
            Seen::Done(value) => return Ok(value),
            Seen::NotYet(last) => last,
        };
        if Instant::now() >= end {
            bail!("waited {limit:?} until {condition}; last seen: {last}");
        }
        thread::sleep(pause);
        // What lasted long may last longer: an eighth of the time so far is the most that a look comes late.
        pause = (pause * 9 / 8).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_kept_apart() {
        let done =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(10))
                .unwrap();
        assert_eq!(done.status.code(), Some(3));
        assert_eq!((done.text().as_str(), done.stderr.as_slice()), ("out\n", b"err\n".as_slice()));
        assert!(done.explain().contains("stderr: err"));
    }

    #[test]
    fn input_reaches_the_child() {
        let done = run_with_input(&mut Command::new("cat"), b"\0tide", Duration::from_secs(10)).unwrap();
        assert_eq!(done.stdout, b"\0tide");
    }

    #[test]
    fn a_child_past_its_deadline_is_killed_and_named() {
        let start = Instant::now();
        let error = run(Command::new("sh").args(["-c", "echo begun; sleep 60"]), Duration::from_millis(100))
            .unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().contains("sleep 60") && error.to_string().contains("begun"), "{error}");
    }

    #[test]
    fn a_daemon_holding_the_output_open_does_not_block() {
        let start = Instant::now();
        run(Command::new("sh").args(["-c", "sleep 3 & echo done"]), Duration::from_secs(10)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn waiting_names_the_condition_and_the_last_sight() {
        let error =
            wait_until::<()>("pigs fly", Duration::from_millis(20), || Ok(Seen::NotYet("grounded".into())))
                .unwrap_err();
        assert!(error.to_string().contains("pigs fly") && error.to_string().contains("grounded"));
    }
}
