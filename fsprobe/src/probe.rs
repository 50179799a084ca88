//! Shell: one question to a mount, asked by a process that can be given up on.
//!
//! A thread of ours that waits for a frozen FUSE client cannot be ended, and keeps this process from exiting. So
//! a child knocks first. It holds no descriptor but its own, and if it does not come back it is killed, not
//! waited for: while the client stays frozen even SIGKILL may not end it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::MirrorError;

/// Walks to the path and asks the filesystem for its totals: FUSE caches names and attributes, but never these.
const TOOL: &[&str] = &["stat", "-f", "--"];

/// Children left behind on one mount before it is called silent without sending another: each is a process slot.
const STRAYS_PER_MOUNT: usize = 4;

/// Children that outlived their deadline, with the mount they knocked at; reaped when they end after all.
static STRAYS: Mutex<Vec<(u64, Child)>> = Mutex::new(Vec::new());

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Knock {
    /// Somebody answered, be it with an error: whoever asks next learns the errno without waiting for long.
    Answered,
    /// Nobody did until the deadline.
    Silent,
}

/// Asks whether the filesystem at `path` answers before `deadline`.
///
/// # Errors
/// `StartProbe` if no child could be started.
pub(crate) fn knock(path: &Path, mount_id: u64, deadline: Instant) -> Result<Knock, MirrorError> {
    knock_with(TOOL, path, mount_id, deadline)
}

fn knock_with(tool: &[&str], path: &Path, mount_id: u64, deadline: Instant) -> Result<Knock, MirrorError> {
    let mut strays = STRAYS.lock().unwrap_or_else(PoisonError::into_inner);
    strays.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
    if strays.iter().filter(|(id, _)| *id == mount_id).count() >= STRAYS_PER_MOUNT {
        return Ok(Knock::Silent);
    }
    drop(strays);

    let failed =
        |source| MirrorError::StartProbe { program: tool[0].to_owned(), path: path.to_owned(), source };
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .arg(path)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
        // Not below a mount that may hang, whatever our own is.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;

    match ended_before(&child, deadline) {
        Ok(true) => {
            // Reaps at once: the child has ended.
            child.wait().map_err(failed)?;
            Ok(Knock::Answered)
        }
        outcome => {
            // Already ended is the only way to fail, and then there is nothing to kill.
            let _ = child.kill();
            STRAYS.lock().unwrap_or_else(PoisonError::into_inner).push((mount_id, child));
            outcome.map(|_| Knock::Silent).map_err(failed)
        }
    }
}

/// Waits on the child's pidfd, which becomes readable when the child has ended.
fn ended_before(child: &Child, deadline: Instant) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timespec(left))) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: span.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(100)
    }

    #[test]
    fn an_error_is_an_answer() {
        let long = Instant::now() + Duration::from_secs(30);
        assert_eq!(knock(Path::new("/"), 0, long).unwrap(), Knock::Answered);
        assert_eq!(knock(Path::new("/does/not/exist"), 0, long).unwrap(), Knock::Answered);
        assert_eq!(knock(Path::new("/-f"), 0, long).unwrap(), Knock::Answered);
    }

    #[test]
    fn silence_ends_at_the_deadline_and_the_child_is_reaped_later() {
        let id = u64::MAX;
        let begin = Instant::now();
        // The path is the number of seconds that this child sleeps.
        let seen = knock_with(&["sleep"], Path::new("60"), id, soon()).unwrap();
        assert_eq!(seen, Knock::Silent);
        assert!(begin.elapsed() < Duration::from_secs(5));

        let left = || STRAYS.lock().unwrap().iter().filter(|(stray, _)| *stray == id).count();
        while left() > 0 {
            assert!(begin.elapsed() < Duration::from_secs(30), "a killed child was never reaped");
            let _ = knock(Path::new("/"), 0, Instant::now() + Duration::from_secs(30)).unwrap();
        }
    }

    #[test]
    fn a_missing_tool_is_no_silence() {
        let error = knock_with(&["/no/such/tool"], Path::new("/"), 0, soon()).unwrap_err();
        assert!(matches!(error, MirrorError::StartProbe { .. }));
    }
}
