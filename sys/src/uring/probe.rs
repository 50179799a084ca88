//! Whether this kernel lets us use io_uring, and with all the operations we need.

use io_uring::{IoUring, Probe, opcode};

use super::ring::{build, errno_of};
use crate::error::Errno;

/// Why there is no io_uring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The kernel has none.
    #[error("this kernel has no io_uring")]
    NoSuchCall,
    /// It is there and may not be used: the sysctl `kernel.io_uring_disabled`, or a seccomp filter.
    #[error("io_uring is forbidden here (sysctl kernel.io_uring_disabled or a seccomp filter)")]
    Forbidden,
    /// It lacks operations.
    #[error("the io_uring of this kernel lacks operations that are needed (5.11 has them all)")]
    TooOld,
    /// Something else, like lack of memory.
    #[error("io_uring cannot be set up: {0}")]
    Other(Errno),
}

/// Tries to set up a small ring, and asks it what it can do.
///
/// # Errors
/// The reason why it is not to be used.
pub fn probe() -> Result<(), Unavailable> {
    let reason = |error: std::io::Error| match errno_of(&error) {
        Errno::NOSYS => Unavailable::NoSuchCall,
        Errno::PERM | Errno::ACCESS => Unavailable::Forbidden,
        errno => Unavailable::Other(errno),
    };
    let ring = build(8).map_err(reason)?;
    let features = Features::of(&ring).map_err(reason)?;
    if features.suffices() { Ok(()) } else { Err(Unavailable::TooOld) }
}

/// What a ring can do, as far as we care.
pub(super) struct Features {
    needed: bool,
    /// FTRUNCATE (6.9).
    pub(super) truncate: bool,
}

impl Features {
    pub(super) fn of(ring: &IoUring) -> std::io::Result<Self> {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let codes = [
            opcode::OpenAt::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Close::CODE,
            opcode::PollAdd::CODE,
        ];
        let params = ring.params();
        Ok(Self {
            // A wait with a timeout, and no completion lost when the queue is full.
            needed: codes.iter().all(|code| probe.is_supported(*code))
                && params.is_feature_ext_arg()
                && params.is_feature_nodrop(),
            truncate: probe.is_supported(opcode::Ftruncate::CODE),
        })
    }

    pub(super) fn suffices(&self) -> bool {
        self.needed
    }
}
