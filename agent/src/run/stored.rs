//! The kernel's queue of changes, kept by systemd while the agent is down.
//!
//! systemd gives back by name what it was given to keep (`FileDescriptorStoreMax=`). The boot that a queue is of is written
//! beside it, in the state directory: a descriptor that outlived its kernel, or a state directory that was restored from
//! another time, must not be taken for a queue without a hole.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use sd_notify::NotifyState;
use sys::fanotify::Queue;

use crate::capture::{Capture, Unavailable};
use crate::state::StateDir;

/// What the descriptor is called.
const NAME: &str = "tidegate-fanotify";

/// What the kernel calls it.
const KIND: &str = "anon_inode:[fanotify]";

/// Where the kernel names its boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The queue that systemd kept, or a new one, which it is given to keep.
///
/// # Errors
/// [`Unavailable`].
pub fn capture(state: &StateDir) -> Result<Arc<Capture>, Unavailable> {
    let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
    let note = state.file("fanotify-boot");
    if let Some(fd) = kept() {
        if is_of_this_boot(&note, &boot) {
            tracing::info!("the kernel's queue of changes was kept while the agent was down");
            return Capture::adopt(fd);
        }
        tracing::warn!("a kept queue of changes is of another boot: it is not used");
        let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)]);
    }
    let capture = Capture::open(Queue::Unlimited)?;
    store(&capture, &note, &boot);
    Ok(capture)
}

/// The descriptor by our name among those we were started with.
fn kept() -> Option<OwnedFd> {
    let given = match sd_notify::listen_fds_with_names() {
        Ok(given) => given,
        Err(error) => {
            tracing::warn!(%error, "what systemd gave cannot be understood");
            return None;
        }
    };
    let ours = given.filter(|(_, name)| name == NAME);
    let mut queues = ours.filter(|(number, _)| {
        std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|kind| kind == Path::new(KIND))
    });
    let (number, _) = queues.next()?;
    sys::host::inherited(number).inspect_err(|error| tracing::warn!(%error, "a kept queue is not used")).ok()
}

fn is_of_this_boot(note: &Path, boot: &str) -> bool {
    !boot.is_empty() && std::fs::read_to_string(note).is_ok_and(|noted| noted.trim() == boot)
}

/// The note first: a queue without one is not used.
fn store(capture: &Capture, note: &Path, boot: &str) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let stored = std::fs::write(note, boot).and_then(|()| {
        let states = [NotifyState::FdStore, NotifyState::FdName(NAME)];
        sd_notify::notify_with_fds(&states, &[capture.group().as_fd()])
    });
    if let Err(error) = stored {
        tracing::warn!(%error, "the queue of changes is not kept when the agent ends");
    }
}
