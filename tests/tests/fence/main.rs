//! P6, the fence: a writer that wakes after somebody took its lane over changes nothing any more, wherever in its
//! cycle it slept. Real processes on two mounts of one volume: the old writer is stopped, the new one takes over and
//! publishes, the old one goes on.
//!
//! `simulated` does it at every request of the old writer, on a simulated volume with two clients; `gluster` at
//! moments of every kind on two real hosts. What must hold afterwards is in `judge`, which reads ledger and mirror
//! with nothing of the product but the formats.
//!
//! What these tests found, each of them a way for a replaced writer to reach the mirror of its successor:
//! - `roll_forward` made `stage.N` and `trash.N` again when they were gone. A restarted writer that slept between
//!   looking at the epochs and opening its directories took names of the successor out of the mirror.
//! - `roll_forward` published whatever it found sealed, also a successor's generations from the successor's stage: HEAD
//!   went back to one that the successor had left behind.
//! - The times of a directory were set by name, on whatever had that name by then: a file of the successor too.
//! - A first generation sealed by a link that was on its way during the take-over blocked the lane for good, for
//!   without a generation before it there is no barrier.
//! - A writer replaced while it emptied its trash, or opened its directories, ended without saying why.
//!
//! Fails on a weakened build, each tried: `take_over` clears nothing, or does not remove what it cleared (`rmdir`
//! left out); no `barrier`; no `put_back`; `roll_forward` with `tenure` for `tenure_left`, or without its look at the
//! log's epoch, or without `void_first`; `set_dir_times` by name.

#[path = "../common/mod.rs"]
mod common;

mod gluster;
mod judge;
mod simulated;

use std::io::Read;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use harness::lab::{Seen, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for any one thing.
const WAIT: Duration = Duration::from_secs(60);

/// A running `tidegate`, killed when dropped.
struct Writer(Child);

impl Writer {
    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Stops it wherever it stands; a thread inside a call stops at the end of that call.
    fn stop(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGSTOP).unwrap();
    }

    /// Waits until every thread has stopped.
    fn await_stopped(&self) {
        let pid = self.pid();
        wait_until("the old writer has stopped", WAIT, || {
            let states = judge::threads(pid);
            Ok(Seen::when(states.iter().all(|state| *state == 'T'), || format!("{states:?}")))
        })
        .unwrap();
    }

    fn go_on(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGCONT).unwrap();
    }

    /// How it ended and what it said.
    fn end(&mut self, at: &str) -> (ExitStatus, String) {
        let status = wait_until("the old writer has ended", WAIT, || {
            Ok(self.0.try_wait()?.map_or(Seen::NotYet("it runs".to_owned()), Seen::Done))
        });
        let status = status.unwrap_or_else(|e| panic!("{at}: {e:#}"));
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (status, said)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
