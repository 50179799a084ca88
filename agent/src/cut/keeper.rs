//! The keeper: the child that holds what a cut does to an application, and undoes it whatever becomes of the agent.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use crossbeam::channel::{Receiver, after, bounded, never, select};
use nix::sys::signal::{SigSet, Signal};

use super::cgroup::Frozen;
use super::program::{Hook, HookError, Phase};
use super::words::{Orders, Said, Word};
use crate::error::{Error, Exit, Result};

/// The command `keep-cut`: orders come by standard input, one line; what came of them goes to standard output.
///
/// # Errors
/// [`Error::Agent`]: the orders cannot be understood, and nothing was done.
pub fn keep() -> Result<Exit> {
    // Whoever ends the agent and all its children means well, but what is frozen has to be thawed first.
    let mut ignored = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| ignored.add(signal));
    ignored.thread_block().map_err(|errno| Error::Agent(format!("hold signals: {errno}")))?;

    let mut lines = std::io::BufReader::new(std::io::stdin()).lines();
    let first = lines.next().and_then(std::result::Result::ok).unwrap_or_default();
    let orders: Orders =
        serde_json::from_str(&first).map_err(|e| Error::Agent(format!("orders of a cut: {e}")))?;
    let (heard, words) = bounded(4);
    std::thread::Builder::new()
        .name("words".to_owned())
        .spawn(move || {
            // The channel closes when the pipe does.
            for line in lines.map_while(std::result::Result::ok) {
                let Ok(word) = serde_json::from_str::<Word>(&line) else { return };
                if heard.send(word).is_err() {
                    return;
                }
            }
        })
        .map_err(|e| Error::Agent(format!("start a thread: {e}")))?;
    carry_out(&orders, &words);
    Ok(Exit::InSync)
}

fn carry_out(orders: &Orders, words: &Receiver<Word>) {
    match orders.hook(Phase::Pre).map_or(Ok(()), |pre| pre.run(words)) {
        Ok(()) => {}
        Err(error) => {
            say(&Said::Refused(error.to_string()));
            // One that was never begun has nothing to be undone.
            let post = match error {
                HookError::Start { .. } => None,
                _ => post(orders),
            };
            return say(&Said::Ended { post, frozen: None });
        }
    }
    let frozen = match Frozen::freeze(&orders.cgroups, orders.freeze_limit) {
        Ok(frozen) => {
            say(&Said::Begun { not_frozen: None });
            Some(frozen)
        }
        Err(error) => {
            say(&Said::Begun { not_frozen: Some(error.to_string()) });
            None
        }
    };
    let frozen = hold(orders, words, frozen);
    say(&Said::Ended { post: post(orders), frozen });
}

/// Until the agent has read all, or is gone; frozen no longer than agreed.
fn hold(orders: &Orders, words: &Receiver<Word>, mut frozen: Option<Frozen>) -> Option<std::time::Duration> {
    let begun = Instant::now();
    let mut lasted = None;
    loop {
        let limit = match &frozen {
            Some(_) => after(orders.hold_limit.saturating_sub(begun.elapsed())),
            None => never(),
        };
        let is_over = select! {
            recv(limit) -> _ => false,
            recv(words) -> word => match word {
                Ok(Word::Thaw) => false,
                Ok(Word::Read) => true,
                Err(_) => {
                    tracing::warn!(lane = %orders.lane, "the agent ended in the middle of a cut: what it held is let go");
                    true
                }
            },
        };
        if let Some(frozen) = frozen.take() {
            lasted = Some(frozen.thaw());
        }
        if is_over {
            return lasted.filter(|_| !orders.cgroups.is_empty());
        }
    }
}

/// Runs `post`; why it failed.
fn post(orders: &Orders) -> Option<String> {
    let post = orders.hook(Phase::Post)?;
    let error = post.run(&never::<()>()).err()?.to_string();
    Some(error)
}

fn say(said: &Said) {
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    let mut out = std::io::stdout();
    if out.write_all(&line).and_then(|()| out.flush()).is_err()
        && let Said::Refused(why) | Said::Ended { post: Some(why), .. } = said
    {
        // Nobody hears it any more: the log does.
        tracing::warn!("{why}");
    }
}

impl Orders {
    pub(super) fn hook(&self, phase: Phase) -> Option<Hook<'_>> {
        let program: &Path = match phase {
            Phase::Pre => self.pre.as_deref()?,
            Phase::Post => self.post.as_deref()?,
        };
        Some(Hook { program, phase, lane: &self.lane, volume: &self.volume, timeout: self.timeout })
    }
}
