//! One run of a hook: a program in a process group of its own, with a limit to its time and to what it may say.

use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, after, bounded, select};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proto::path::Escaped;

/// Kept of what a hook prints: its end, where the reason stands.
const OUTPUT_MAX: usize = 16 << 10;

/// How long the end of a killed program is waited for: one in uninterruptible sleep does not end.
const DEATH_LIMIT: Duration = Duration::from_secs(5);

/// How long the output of a program that has ended is waited for: another that it left behind may hold the pipe.
const OUTPUT_LIMIT: Duration = Duration::from_millis(200);

/// What systemd tells the agent is not for others.
const NOT_INHERITED: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the cut.
    Pre,
    /// After it.
    Post,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pre => "pre",
            Self::Post => "post",
        })
    }
}

/// A hook to be run.
#[derive(Clone, Copy, Debug)]
pub struct Hook<'a> {
    /// The program; absolute.
    pub program: &'a Path,
    /// When.
    pub phase: Phase,
    /// For which lane.
    pub lane: &'a str,
    /// Where its volume is.
    pub volume: &'a str,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why a hook failed; each says which it was.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It was never run.
    #[error("hooks.{phase}: {program:?} cannot be run: {source}")]
    Start { phase: Phase, program: PathBuf, source: std::io::Error },
    /// It said so itself.
    #[error("hooks.{phase}: {program:?} failed ({how}){output}")]
    Failed { phase: Phase, program: PathBuf, how: String, output: Output },
    /// It took too long.
    #[error("hooks.{phase}: {program:?} was killed because it did not end within {limit:?}{output}")]
    TimedOut { phase: Phase, program: PathBuf, limit: Duration, output: Output },
    /// Nobody waits for it any more.
    #[error("hooks.{phase}: {program:?} was killed because the agent has ended")]
    Interrupted { phase: Phase, program: PathBuf },
}

/// What a hook printed, as the end of a message.
#[derive(Debug, Default)]
pub struct Output(Vec<u8>);

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.trim_ascii();
        if text.is_empty() {
            return f.write_str("; it printed nothing");
        }
        write!(f, "; it printed: {}", Escaped(text))
    }
}

impl Hook<'_> {
    /// Runs it to its end, or kills it and its process group: at its limit, and when `interrupt` is closed.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn run<T>(&self, interrupt: &Receiver<T>) -> Result<(), HookError> {
        let (phase, program) = (self.phase, self.program.to_owned());
        let (mut child, output, ended) = match self.start() {
            Ok(started) => started,
            Err(source) => return Err(HookError::Start { phase, program, source }),
        };
        let mut over = None;
        let limit = after(self.timeout);
        while over.is_none() {
            select! {
                recv(ended) -> _ => over = Some(None),
                recv(limit) -> _ => {
                    let output = kill(&mut child, &ended, &output);
                    let (limit, program) = (self.timeout, program.clone());
                    over = Some(Some(HookError::TimedOut { phase, program, limit, output }));
                }
                recv(interrupt) -> word => if word.is_err() {
                    kill(&mut child, &ended, &output);
                    over = Some(Some(HookError::Interrupted { phase, program: program.clone() }));
                },
            }
        }
        if let Some(Some(error)) = over {
            return Err(error);
        }
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(HookError::Failed { phase, program, how: how(status), output: output.end() }),
            Err(source) => Err(HookError::Start { phase, program, source }),
        }
    }

    /// The process, what it prints, and a channel that closes when it has ended.
    fn start(&self) -> std::io::Result<(Child, Printed, Receiver<()>)> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(self.program);
        command
            .arg(self.lane)
            .env("TIDEGATE_LANE", self.lane)
            .env("TIDEGATE_VOLUME", self.volume)
            .env("TIDEGATE_PHASE", self.phase.to_string())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        NOT_INHERITED.iter().for_each(|name| {
            command.env_remove(name);
        });
        sys::host::unblock_signals(&mut command);
        let child = command.spawn()?;
        // Our copies of the pipe's end go with it: the program's are the last.
        drop(command);
        let pid = sys::host::pidfd(child.id()).map_err(|e| std::io::Error::other(e.to_string()))?;
        let (alive, ended) = bounded::<()>(0);
        std::thread::Builder::new().name("hook".to_owned()).spawn(move || {
            while !sys::host::wait_readable(&pid, Duration::from_secs(3600)) {}
            drop(alive);
        })?;
        Ok((child, Printed::collect(reader)?, ended))
    }
}

/// Kills the whole group, and waits for its leader a little.
fn kill(child: &mut Child, ended: &Receiver<()>, output: &Printed) -> Output {
    // It was not waited for, so the number is still its own.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = ended.recv_timeout(DEATH_LIMIT);
    let _ = child.try_wait();
    output.end()
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// What a program prints, read as it comes so that it never blocks on it.
struct Printed {
    kept: Arc<Mutex<Vec<u8>>>,
    all: Receiver<()>,
}

impl Printed {
    fn collect(mut reader: std::io::PipeReader) -> std::io::Result<Self> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (open, all) = bounded::<()>(0);
        let keeping = kept.clone();
        std::thread::Builder::new().name("hook output".to_owned()).spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut piece) {
                let mut kept = keeping.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..n]);
                let excess = kept.len().saturating_sub(OUTPUT_MAX);
                kept.drain(..excess);
            }
            drop(open);
        })?;
        Ok(Self { kept, all })
    }

    fn end(&self) -> Output {
        let _ = self.all.recv_timeout(OUTPUT_LIMIT);
        Output(std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use crossbeam::channel::never;

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn run(
        text: &str,
        timeout: Duration,
        interrupt: &Receiver<()>,
    ) -> (tempfile::TempDir, Result<(), HookError>) {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), text);
        let volume = dir.path().to_str().unwrap();
        let hook = Hook { program: &program, phase: Phase::Pre, lane: "devops/blue", volume, timeout };
        let result = hook.run(interrupt);
        (dir, result)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_hook_is_told_what_it_is_run_for() {
        let text = r#"cd "$TIDEGATE_VOLUME"; echo "$# $1 $TIDEGATE_LANE $TIDEGATE_PHASE" > said; cat > input
            ps -o pgid= -p $$ | tr -d ' ' > group; echo $$ >> group"#;
        let (dir, result) = run(text, LONG, &never());
        result.unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("said"), "1 devops/blue devops/blue pre\n");
        assert_eq!(read("input"), "");
        let group = read("group");
        let mut lines = group.lines();
        assert_eq!(lines.next(), lines.next(), "it leads a group of its own");
    }

    #[test]
    fn a_failure_says_how_and_what_was_printed_last() {
        let (_dir, result) = run("echo one; echo 'two\u{1b}[2J' >&2; exit 3", LONG, &never());
        let text = result.unwrap_err().to_string();
        assert!(text.contains("hooks.pre") && text.contains("exit status 3"), "{text}");
        assert!(text.contains("one") && text.contains("two") && !text.contains('\u{1b}'), "{text}");

        let (_dir, result) =
            run("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo the end; kill -9 $$", LONG, &never());
        let text = result.unwrap_err().to_string();
        assert!(text.contains("signal 9") && text.ends_with("the end"), "{}", &text[text.len() - 40..]);
        assert!(text.len() <= OUTPUT_MAX + 200, "{}", text.len());
    }

    #[test]
    fn what_cannot_be_run_says_so() {
        let hook = Hook {
            program: Path::new("/no/such"),
            phase: Phase::Post,
            lane: "a/b",
            volume: "/",
            timeout: LONG,
        };
        let error = hook.run::<()>(&never()).unwrap_err();
        assert!(
            matches!(error, HookError::Start { .. }) && error.to_string().contains("hooks.post"),
            "{error}"
        );
    }

    /// The whole group goes: a child that holds a pipe to us would show it by keeping its other end open.
    #[test]
    fn at_its_limit_the_whole_group_is_killed() {
        let text =
            r#"mkfifo "$TIDEGATE_VOLUME/pipe"; (exec 3> "$TIDEGATE_VOLUME/pipe"; sleep 1000) & sleep 1000"#;
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), text);
        let volume = dir.path().to_str().unwrap().to_owned();
        let fifo = dir.path().join("pipe");
        let reader = std::thread::spawn(move || {
            let file = loop {
                match std::fs::File::open(&fifo) {
                    Ok(file) => break file,
                    Err(_) => std::thread::yield_now(),
                }
            };
            std::io::BufReader::new(file).read_to_end(&mut Vec::new()).unwrap()
        });
        let begun = Instant::now();
        let timeout = Duration::from_secs(1);
        let hook = Hook { program: &program, phase: Phase::Pre, lane: "a/b", volume: &volume, timeout };
        let error = hook.run::<()>(&never()).unwrap_err();
        assert!(matches!(error, HookError::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() >= timeout && begun.elapsed() < Duration::from_secs(20));
        assert_eq!(reader.join().unwrap(), 0, "its end came: nobody holds the pipe any more");
    }

    #[test]
    fn nobody_waits_for_a_hook_that_nobody_wants() {
        let (gone, interrupt) = bounded(0);
        drop(gone);
        let begun = Instant::now();
        let (_dir, result) = run("sleep 1000", LONG, &interrupt);
        assert!(matches!(result, Err(HookError::Interrupted { .. })), "{result:?}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    /// The agent and its keeper block SIGTERM: hooks were started with it blocked too, and `timeout` in one did nothing.
    #[test]
    fn a_hook_can_be_told_to_end() {
        let told = std::thread::spawn(|| {
            let mut set = nix::sys::signal::SigSet::empty();
            set.add(Signal::SIGTERM);
            set.thread_block().unwrap();
            run("kill -TERM $$; exit 0", LONG, &never()).1
        });
        let text = told.join().unwrap().unwrap_err().to_string();
        assert!(text.contains("signal 15"), "{text}");
    }

    /// A hook may leave something running: that is no reason to wait for it.
    #[test]
    fn what_a_hook_leaves_behind_is_not_waited_for() {
        let begun = Instant::now();
        let (_dir, result) = run("sleep 30 & echo started; exit 1", LONG, &never());
        assert!(result.unwrap_err().to_string().contains("started"));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
