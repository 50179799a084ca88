//! Words: which mirror is wanted, and on which conditions. No I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{MirrorError, MountIdentity, PinnedMount};

/// How long a mount may take to answer before it is reported as not answering.
///
/// A healthy GlusterFS mount under load answers within a second; a person at a prompt waits this long gladly.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// A mirror path and what has to be true before anything is written there.
#[derive(Debug, Clone)]
pub struct MirrorSpec {
    pub(crate) path: PathBuf,
    pub(crate) expect: Option<MountIdentity>,
    pub(crate) deadline: Duration,
    pub(crate) fstab: PathBuf,
}

impl MirrorSpec {
    /// The mirror at `path`, on whatever healthy mount is found there, within [`PROBE_DEADLINE`].
    pub fn new(path: &Path) -> MirrorSpec {
        MirrorSpec {
            path: path.to_owned(),
            expect: None,
            deadline: PROBE_DEADLINE,
            fstab: PathBuf::from("/etc/fstab"),
        }
    }

    /// Accepts only the mount that was remembered from an earlier time.
    pub fn expect(mut self, identity: MountIdentity) -> MirrorSpec {
        self.expect = Some(identity);
        self
    }

    /// Gives up when the mount has not answered for this long.
    pub fn deadline(mut self, deadline: Duration) -> MirrorSpec {
        self.deadline = deadline;
        self
    }

    /// Reads what ought to be mounted from another file than `/etc/fstab`.
    pub fn fstab(mut self, path: &Path) -> MirrorSpec {
        self.fstab = path.to_owned();
        self
    }

    /// Opens and verifies the mirror: see [`PinnedMount`].
    ///
    /// # Errors
    /// Any [`MirrorError`]; nothing has been written anywhere.
    pub fn open(self) -> Result<PinnedMount, MirrorError> {
        PinnedMount::open_spec(self)
    }
}
