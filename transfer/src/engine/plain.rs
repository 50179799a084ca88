//! Shell: each thread of the pool carries one file at a time, with `pread` and `pwrite`.

use std::os::fd::OwnedFd;

use sys::meta::XattrsRead;
use sys::{Errno, SysError};

use super::{ABORT_POLL, CALL, CallResult, cost, cut, make_call, outcome, plan, pull};
use crate::acts::{self, SMALL};
use crate::error::EngineError;
use crate::flight::{Act, Did, Flight, Poll};
use crate::hash::BLOCK;
use crate::job::{CopyJob, Feed, How, Job, Options, Outcome, Stats};
use crate::pool::Pool;
use crate::window::Window;

#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Message {
    Copied(u64, Outcome),
    Called(u64, CallResult),
}

pub fn run(feed: &mut dyn Feed, options: &Options) -> Result<Stats, EngineError> {
    let mut stats = Stats::default();
    let mut window = Window::new(options.in_flight);
    let threads = options.pool_threads.min(options.memory.max(Options::MEMORY_MIN) / BLOCK as usize);
    let mut pool = Pool::new(threads, None);
    let mut panicked = false;
    loop {
        while let Some((tag, job)) = pull(feed, &mut window) {
            match job {
                Job::Copy(job) => {
                    let options = options.clone();
                    pool.put(move |scratch| Message::Copied(tag, copy(*job, &options, &mut scratch.buffer)))?;
                }
                Job::Call(call) => {
                    let limits = options.limits.clone();
                    pool.put(move |_| {
                        limits.wait(CALL);
                        Message::Called(tag, make_call(call))
                    })?;
                }
            }
        }
        if window.is_over() {
            return if panicked { Err(EngineError::CallPanicked) } else { Ok(stats) };
        }
        if window.is_starved() {
            return Err(EngineError::Starved);
        }
        let Some(message) = pool.wait(ABORT_POLL) else {
            if feed.abort() {
                window.end();
            }
            continue;
        };
        window.finished();
        let (tag, outcome) = match message {
            Message::Copied(tag, outcome) => (tag, outcome),
            Message::Called(tag, Some(value)) => (tag, Outcome::Called(value)),
            Message::Called(_, None) => {
                panicked = true;
                window.end();
                continue;
            }
        };
        stats.count(&outcome);
        feed.done(tag, outcome);
    }
}

/// Carries one file from open to close.
fn copy(job: CopyJob, options: &Options, buffer: &mut Vec<u8>) -> Outcome {
    let mut flight = Flight::new(plan(&job, options, 1));
    let mut hands =
        Hands { job, source: None, target: None, base: None, xattrs: XattrsRead::default(), buffer };
    loop {
        match flight.poll(true) {
            Poll::Act(act) => {
                let act = cut(act, options);
                options.limits.wait(cost(&act));
                flight.did(hands.perform(act));
            }
            Poll::Over => return outcome(&hands.job, flight.outcome(), hands.xattrs),
            Poll::NeedsRoom | Poll::Wait => unreachable!("every act is reported before the next poll"),
        }
    }
}

/// What one flight holds: descriptors and the one buffer.
struct Hands<'a> {
    job: CopyJob,
    source: Option<OwnedFd>,
    target: Option<OwnedFd>,
    base: Option<OwnedFd>,
    xattrs: XattrsRead,
    buffer: &'a mut Vec<u8>,
}

impl Hands<'_> {
    fn perform(&mut self, act: Act) -> Did {
        let (to, to_name) = (&self.job.target.0, &*self.job.target.1);
        let from_name = &*self.job.source.1;
        match act {
            Act::Open => {
                self.buffer.resize(self.buffer.len().max(SMALL), 0);
                let opened = acts::open_source(
                    &self.job.source.0,
                    from_name,
                    self.job.expect,
                    self.job.writers,
                    &mut self.buffer[..SMALL],
                );
                Did::Open(opened.map(|source| {
                    self.source = Some(source.fd);
                    self.xattrs = source.xattrs;
                    source.opened
                }))
            }
            Act::Clean => Did::Clean(held(&self.source).and_then(|fd| sys::file::clean(fd, from_name))),
            Act::Create { mode } => {
                let created = acts::create(to, to_name, mode, self.job.create_as);
                Did::Create(created.map(|fd| self.target = Some(fd)))
            }
            Act::Clear => Did::Clear(acts::clear(to, to_name)),
            Act::OpenBase => Did::OpenBase(match &self.job.how {
                How::Delta { base, .. } => base.0.open_file(&base.1).map(|(fd, _)| self.base = Some(fd)),
                How::Whole | How::HashOnly => Err(SysError::new("open base", b"", Errno::NOENT)),
            }),
            Act::CopyRange { offset, len } => Did::CopyRange(
                both(&self.base, &self.target)
                    .and_then(|(base, target)| sys::file::copy_range(base, target, offset, len, to_name)),
            ),
            Act::NextData { offset, size } => Did::NextData(
                held(&self.source).and_then(|fd| sys::file::next_data(fd, offset, size, from_name)),
            ),
            Act::Read { slot, at, len, offset, .. } => {
                self.buffer.resize(self.buffer.len().max(BLOCK as usize), 0);
                let bytes = &mut self.buffer[at..at + len];
                Did::Read(
                    slot,
                    held(&self.source).and_then(|fd| sys::file::read_at(fd, bytes, offset, from_name)),
                )
            }
            Act::Hash { slot, block } => Did::Hash(slot, acts::hash(block, Some(self.buffer))),
            Act::Write { slot, at, len, offset } => {
                let bytes = &self.buffer[at..at + len];
                let written = held(&self.target)
                    .and_then(|fd| sys::file::write_at(fd, bytes, offset, to_name).map(|()| len));
                Did::Write(slot, written)
            }
            Act::Truncate { size } => {
                Did::Truncate(held(&self.target).and_then(|fd| sys::file::truncate(fd, size, to_name)))
            }
            Act::Look { known } => Did::Look(
                held(&self.source).and_then(|fd| acts::look(fd, &known, from_name)).map(|(stat, xattrs)| {
                    self.xattrs = xattrs.unwrap_or_else(|| std::mem::take(&mut self.xattrs));
                    stat
                }),
            ),
            Act::Dress { stat } => {
                Did::Dress(held(&self.target).and_then(|fd| acts::dress(fd, &stat, &self.xattrs, to_name)))
            }
            Act::Sync => Did::Sync(held(&self.target).and_then(|fd| sys::file::sync(fd, to_name))),
            Act::Close => Did::Close(self.target.take().map_or(Ok(()), |fd| sys::file::close(fd, to_name))),
            Act::Unlink => Did::Unlink(to.unlink(to_name)),
        }
    }
}

/// The flight asks for a descriptor only after it was opened; should it not be so, that is an error, no panic.
fn held(fd: &Option<OwnedFd>) -> Result<&OwnedFd, SysError> {
    fd.as_ref().ok_or_else(|| SysError::new("use", b"", Errno::BADF))
}

fn both<'a>(a: &'a Option<OwnedFd>, b: &'a Option<OwnedFd>) -> Result<(&'a OwnedFd, &'a OwnedFd), SysError> {
    Ok((held(a)?, held(b)?))
}
