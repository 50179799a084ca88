//! The two engines: one drives flights through io_uring, the other with plain calls, and serves as its oracle.

mod plain;
mod ring;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sys::SysError;
use sys::meta::XattrsRead;

use crate::error::{CopyError, EngineError};
use crate::flight::{Act, Base, Landed, Plan};
use crate::hash::BLOCK;
use crate::job::{Copied, CopyJob, Durability, Feed, How, Next, Options, Outcome, Side, Stats, Writers};
use crate::throttle::Cost;
use crate::window::Window;

/// How often `abort` is polled while nothing happens.
const ABORT_POLL: Duration = Duration::from_millis(200);

/// Which engine drives the flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring, and a pool for the calls that it does not have.
    Ring,
    /// A pool of threads, each with one file at a time.
    Plain,
}

impl Engine {
    /// The ring where the kernel offers what it needs; else plain calls, and the reason in words for the operator.
    pub fn pick() -> (Engine, Option<String>) {
        match sys::uring::probe() {
            Ok(()) => (Engine::Ring, None),
            Err(reason) => (Engine::Plain, Some(reason.to_string())),
        }
    }

    /// The better engine for a run with these options. Towards a local disk plain calls are the better way and no
    /// fallback: what stays with one thread stays in one processor's cache (measured: small files 1.4 times as fast
    /// as through the ring). Towards a mount as [`Engine::pick`].
    pub fn pick_for(options: &Options) -> (Engine, Option<String>) {
        match options.target {
            Side::Local => (Engine::Plain, None),
            Side::MayHang => Self::pick(),
        }
    }
}

/// Pulls jobs until the feed ends or aborts, and reports every one. Returns when all that was pulled is done.
///
/// Blocks as long as the target does: call it on a thread that may hang.
///
/// # Errors
/// Only of the engine itself; what goes wrong with files is in their outcomes.
pub fn run(feed: &mut dyn Feed, options: &Options, engine: Engine) -> Result<Stats, EngineError> {
    match engine {
        Engine::Ring => ring::run(feed, options),
        Engine::Plain => plain::run(feed, options),
    }
}

/// Asks the feed for a job if there is room for one.
fn pull(feed: &mut dyn Feed, window: &mut Window) -> Option<(u64, crate::Job)> {
    if !window.wants() {
        return None;
    }
    if feed.abort() {
        window.end();
        return None;
    }
    match feed.next() {
        Next::Job(tag, job) => {
            window.took();
            Some((tag, job))
        }
        Next::Wait => {
            window.wait();
            None
        }
        Next::End => {
            window.end();
            None
        }
    }
}

/// What a call costs: most make one thing in the target; one that sends content pays for that itself.
const CALL: Cost = Cost::ops(1);

/// What an act costs the target. Reading the source is free, and so is what its own file system copies.
fn cost(act: &Act) -> Cost {
    match act {
        Act::Open
        | Act::Clean
        | Act::NextData { .. }
        | Act::Read { .. }
        | Act::Hash { .. }
        | Act::Look { .. } => Cost::FREE,
        Act::Create { .. }
        | Act::Clear
        | Act::OpenBase
        | Act::CopyRange { .. }
        | Act::Truncate { .. }
        | Act::Dress { .. }
        | Act::Sync
        | Act::Close
        | Act::Unlink => Cost::ops(1),
        Act::Write { len, .. } => Cost::write(*len),
    }
}

/// The act, but of a write only what is one operation under the limits: the flight goes on with the rest, as it does
/// after any short write.
fn cut(act: Act, options: &Options) -> Act {
    match act {
        Act::Write { slot, at, len, offset } => {
            Act::Write { slot, at, len: options.limits.piece(len), offset }
        }
        other => other,
    }
}

/// What a call came to; `None` when it panicked.
type CallResult = Option<Box<dyn Any + Send>>;

fn make_call(call: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>) -> CallResult {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Bytes of a block on its way. A mount likes large writes. On a local disk memory is the bottleneck: what was read
/// should still be in the processor's cache when it is hashed and written (1 MiB blocks took three times as long).
fn unit(options: &Options) -> u64 {
    match options.target {
        Side::Local => 128 << 10,
        Side::MayHang => BLOCK,
    }
}

fn plan(job: &CopyJob, options: &Options, slots: usize) -> Plan {
    let base = match &job.how {
        How::Delta { base_size, base_blocks, .. } => {
            Some(Base { size: *base_size, blocks: base_blocks.clone() })
        }
        How::Whole | How::HashOnly => None,
    };
    Plan {
        write: !matches!(job.how, How::HashOnly),
        base,
        replace_leftover: job.replace_leftover,
        sync: job.durability == Durability::PerFile,
        clean: job.writers == Writers::Mapped,
        unit: unit(options),
        slots,
        size_limit: options.size_limit,
    }
}

fn outcome(job: &CopyJob, landed: Option<Result<Landed, CopyError>>, xattrs: XattrsRead) -> Outcome {
    let named = |error: SysError, name: &[u8]| match error.object.is_empty() {
        true => SysError::new(error.op, name, error.errno),
        false => error,
    };
    Outcome::Copied(match landed {
        Some(Ok(landed)) => Ok(Copied {
            stat: landed.stat,
            stat_changed_during_copy: landed.changed,
            size: landed.size,
            hash: landed.hash,
            xattrs,
            acls: landed.acls,
            bytes_sent: landed.sent,
        }),
        Some(Err(CopyError::Source(error))) => Err(CopyError::Source(named(error, &job.source.1))),
        Some(Err(CopyError::Target(error))) => Err(CopyError::Target(named(error, &job.target.1))),
        Some(Err(CopyError::Replaced)) => Err(CopyError::Replaced),
        None => unreachable!("a flight is asked for its outcome when it is over"),
    })
}
