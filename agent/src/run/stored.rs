//! The kernel's queue of changes, kept by systemd while the agent is down, with the memory of what was in hand.
//!
//! systemd gives back by name what it was given to keep (`FileDescriptorStoreMax=`). The boot that a queue is of is written
//! beside it, in the state directory: a descriptor that outlived its kernel, or a state directory that was restored from
//! another time, must not be taken for a queue without a hole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use sd_notify::NotifyState;
use sys::fanotify::{Group, Queue};

use crate::capture::{Capture, Spool, Unavailable};
use crate::state::StateDir;

/// What the queue is called, and what the kernel calls it.
const QUEUE: (&str, &str) = ("tidegate-fanotify", "anon_inode:[fanotify]");

/// The memory beside it, of what was read and not noted: one without the other is not enough.
const SPOOL: (&str, &str) = ("tidegate-spool", "/memfd:tidegate-spool (deleted)");

/// Where the kernel names its boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The queue that systemd kept, or a new one, which it is given to keep. Of a kept one nothing is read until as many lanes
/// have arrived as are `awaited`.
///
/// # Errors
/// [`Unavailable`].
pub fn capture(state: &StateDir, awaited: usize) -> Result<Arc<Capture>, Unavailable> {
    let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    let note = state.file("fanotify-boot");
    if let Some(queue) = kept(QUEUE) {
        let queue = Group::from_fd(queue);
        let spool = kept(SPOOL).and_then(|memory| Spool::adopt(memory).ok());
        match spool {
            Some(spool) if is_of_this_boot(&note, &boot) => {
                tracing::info!("the kernel's queue of changes was kept while the agent was down");
                return Capture::adopt(queue, spool, awaited);
            }
            Some(_) => tracing::warn!("a kept queue of changes is of another boot: it is not used"),
            None => {
                tracing::warn!("a queue of changes was kept without what was read from it: it is not used")
            }
        }
        // A copy of it is open for as long as this process runs: it would grow.
        if let Err(error) = queue.let_go() {
            tracing::warn!(%error, "a kept queue grows unread; start the agent anew");
        }
        for (name, _) in [QUEUE, SPOOL] {
            let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
    }
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Capture::open(Queue::Unlimited);
    }
    let spool = Spool::new().map_err(|e| Unavailable::FileSystem(e.to_string()))?;
    let memory = spool.as_fd().try_clone_to_owned();
    let capture = Capture::open_with(Queue::Unlimited, spool)?;
    let stored = memory.and_then(|memory| store(&capture, memory.as_fd(), &note, &boot));
    if let Err(error) = stored {
        tracing::warn!(%error, "the queue of changes is not kept when the agent ends");
    }
    Ok(capture)
}

/// The descriptor by our name among those we were started with.
fn kept((name, kind): (&str, &str)) -> Option<OwnedFd> {
    let given = match sd_notify::listen_fds_with_names() {
        Ok(given) => given,
        Err(error) => {
            tracing::warn!(%error, "what systemd gave cannot be understood");
            return None;
        }
    };
    let mut ours = given.filter(|(number, given)| {
        let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
        given == name && link.is_ok_and(|link| link == Path::new(kind))
    });
    let (number, _) = ours.next()?;
    sys::host::inherited(number).inspect_err(|error| tracing::warn!(%error, "a kept queue is not used")).ok()
}

fn is_of_this_boot(note: &Path, boot: &str) -> bool {
    !boot.is_empty() && std::fs::read_to_string(note).is_ok_and(|noted| noted.trim() == boot)
}

/// The note first: a queue without one is not used.
fn store(capture: &Capture, memory: BorrowedFd<'_>, note: &Path, boot: &str) -> std::io::Result<()> {
    std::fs::write(note, boot)?;
    for ((name, _), fd) in [(QUEUE, capture.group().as_fd()), (SPOOL, memory)] {
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd])?;
    }
    Ok(())
}
