//! The ring: submits requests, keeps what they own, and hands out replies.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

use super::op::{Parked, Punt, Reply, Request};
use super::probe::Features;
use crate::error::{Errno, SysError};
use crate::owner::Owner;

/// An io_uring and everything that is under way in it. It stays on the thread that made it.
pub struct Ring {
    /// Dropped by hand: see [`Drop`].
    ring: ManuallyDrop<IoUring>,
    /// What the kernel may still touch, by the low part of the completion's number.
    parked: ManuallyDrop<Vec<Slot>>,
    free: Vec<usize>,
    out: usize,
    can_truncate: bool,
    waker: Waker,
    wake_armed: bool,
    personalities: HashMap<Owner, Option<u16>>,
    /// The kernel lets only the thread that made the ring use it.
    not_send: std::marker::PhantomData<*const ()>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Taken { token: u64, parked: Parked },
}

/// Ends a [`Ring::wait`] from another thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
    waiting: Arc<AtomicBool>,
}

/// Owners that files are created as, of one ring. A tree has few; each is a set of credentials in the kernel.
const PERSONALITIES_MAX: usize = 256;

/// Number of the completions of the waker's descriptor.
const WAKE: u64 = u64::MAX;

impl Ring {
    /// A ring with `entries` places for submission (more may be under way) and at most `workers` kernel threads
    /// for operations that block.
    ///
    /// # Errors
    /// The kernel's errno: `ENOSYS`, `EPERM` where io_uring is forbidden, `ENOMEM`.
    pub fn new(entries: u32, workers: u32) -> Result<Self, SysError> {
        let failed = |error: std::io::Error| SysError::new("set up io_uring", b"", errno_of(&error));
        let ring = build(entries).map_err(failed)?;
        let features = Features::of(&ring).map_err(failed)?;
        if !features.suffices() {
            return Err(SysError::new("set up io_uring", b"", Errno::OPNOTSUPP));
        }
        // Zero means: leave as it is. A refusal costs only speed.
        let _ = ring.submitter().register_iowq_max_workers(&mut [workers, 0]);
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags).map_err(|errno| SysError::new("eventfd", b"", errno))?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            parked: ManuallyDrop::new(Vec::new()),
            free: Vec::new(),
            out: 0,
            can_truncate: features.truncate,
            waker: Waker { event: Arc::new(event), waiting: Arc::new(AtomicBool::new(false)) },
            wake_armed: false,
            personalities: HashMap::new(),
            not_send: std::marker::PhantomData,
        })
    }

    /// True where the kernel has FTRUNCATE (6.9 on).
    pub fn can_truncate(&self) -> bool {
        self.can_truncate
    }

    /// For threads that have something to tell to the one that waits here.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Requests whose reply has not been taken.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Puts in a request; its reply comes with the same token. How many are under way is for the caller to bound.
    ///
    /// # Errors
    /// Of the submission that makes room when the queue is full; the request is lost then, and the ring is not
    /// to be used any more.
    pub fn push(&mut self, token: u64, request: Request, punt: Punt) -> Result<(), SysError> {
        let personality = match &request {
            Request::Create { owner: Some(owner), .. } => self.personality(*owner),
            _ => None,
        };
        let (mut entry, parked) = request.into_entry();
        if let Some(id) = personality {
            entry = entry.personality(id);
        }
        let entry = match punt {
            Punt::KernelDecides => entry,
            Punt::Always => entry.flags(io_uring::squeue::Flags::ASYNC),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.parked.push(Slot::Free);
            self.parked.len() - 1
        });
        self.parked[slot] = Slot::Taken { token, parked };
        self.out += 1;
        self.push_entry(entry.user_data(slot as u64))
    }

    /// Credentials registered for `owner`, so that the kernel creates as them. None where that is refused or too
    /// many are registered: what is created then belongs to this process.
    fn personality(&mut self, owner: Owner) -> Option<u16> {
        if let Some(known) = self.personalities.get(&owner) {
            return *known;
        }
        if self.personalities.len() >= PERSONALITIES_MAX {
            return None;
        }
        let register = || {
            let registered = self.ring.submitter().register_personality();
            registered.map_err(|error| SysError::new("register credentials", b"", errno_of(&error)))
        };
        let id = crate::owner::as_owner(owner, register).ok();
        self.personalities.insert(owner, id);
        id
    }

    fn push_entry(&mut self, entry: io_uring::squeue::Entry) -> Result<(), SysError> {
        loop {
            // SAFETY: the entry points into memory owned by `parked[slot]` (names and buffers on the heap, which
            // do not move when the slot's vector grows) and at descriptors kept open there. The slot is emptied
            // only when its completion is taken, and leaked when the ring goes first (see Drop).
            // Assumption: the kernel stores no more than the length we passed.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Hands what was pushed to the kernel, and runs what it has pending, without waiting.
    ///
    /// # Errors
    /// The kernel's errno; a full completion queue is none, the replies have to be taken.
    pub fn submit(&mut self) -> Result<(), SysError> {
        self.arm()?;
        settle(self.ring.submit())
    }

    /// Submits, and waits until there is a reply, the waker was used, or `timeout` is over.
    ///
    /// `look_again` is asked between announcing that this thread sleeps and going to sleep: true when something
    /// came in beside the ring. Who used the waker before that was not heard.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn wait(&mut self, timeout: Duration, look_again: impl FnOnce() -> bool) -> Result<(), SysError> {
        self.arm()?;
        self.waker.waiting.store(true, Ordering::SeqCst);
        let result = if look_again() {
            settle(self.ring.submit())
        } else {
            let time = types::Timespec::from(timeout);
            settle(self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time)))
        };
        self.waker.waiting.store(false, Ordering::SeqCst);
        result
    }

    /// A poll of the waker's descriptor; it owns no memory, so it may be under way when the ring goes.
    fn arm(&mut self) -> Result<(), SysError> {
        if self.wake_armed {
            return Ok(());
        }
        self.wake_armed = true;
        let fd = types::Fd(self.waker.event.as_raw_fd());
        self.push_entry(opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(WAKE))
    }

    /// The next reply there is, with the token of its request.
    pub fn take(&mut self) -> Option<(u64, Reply)> {
        loop {
            let entry = self.ring.completion().next()?;
            if entry.user_data() == WAKE {
                let mut count = [0; 8];
                let _ = rustix::io::read(&*self.waker.event, &mut count);
                self.wake_armed = false;
                continue;
            }
            let slot = usize::try_from(entry.user_data()).ok()?;
            if let Some(place) = self.parked.get_mut(slot)
                && let Slot::Taken { token, parked } = std::mem::replace(place, Slot::Free)
            {
                self.free.push(slot);
                self.out -= 1;
                return Some((token, parked.into_reply(entry.result())));
            }
        }
    }
}

impl Drop for Ring {
    /// With requests under way, ring and memory are leaked: the kernel may write into the buffers at any later
    /// time, and closing the ring would not stop it.
    fn drop(&mut self) {
        if self.out == 0 {
            // SAFETY: both are dropped here and nowhere else, and not used afterwards.
            unsafe {
                ManuallyDrop::drop(&mut self.ring);
                ManuallyDrop::drop(&mut self.parked);
            }
        }
    }
}

impl Waker {
    /// Ends the wait of the ring's thread, if it waits.
    pub fn wake(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            // EAGAIN would mean that it was woken 2^64 times already.
            let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
        }
    }
}

/// One thread submits and completes; completions are run when that thread asks, not by interrupting it.
pub(super) fn build(entries: u32) -> std::io::Result<IoUring> {
    let modern = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .build(entries);
    match modern {
        Err(error) if errno_of(&error) == Errno::INVAL => IoUring::builder().setup_clamp().build(entries),
        other => other,
    }
}

fn settle(result: std::io::Result<usize>) -> Result<(), SysError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match errno_of(&error) {
            // The time is over, a signal came, replies have to be taken first, or memory was short for a moment.
            Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN => Ok(()),
            errno => Err(SysError::new("io_uring_enter", b"", errno)),
        },
    }
}

pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
