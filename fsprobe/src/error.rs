//! Words: why a mirror may not be used now, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use sys::mount::FstabEntry;
use thiserror::Error;

use crate::MountIdentity;

/// A mirror that was refused. Nothing was written; every message ends with the remedy.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// The path cannot name a mirror at all.
    #[error("{} cannot be a mirror: {why}. Give an absolute path below a mount, such as /mnt/sync/blue", path.display())]
    InvalidPath {
        /// As it was given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },

    /// The mount asked did not answer in time; it was not touched otherwise.
    #[error(
        "the mount at {} does not answer: waited {:.1} s for {}. Its client or its bricks are stuck; look at \
         `gluster volume status` and the client's log, or detach it with `umount -l {}` and mount it again",
        mountpoint.display(), waited.as_secs_f64(), path.display(), mountpoint.display()
    )]
    NotAnswering {
        /// The path that was asked for.
        path: PathBuf,
        /// Where the silent mount is mounted.
        mountpoint: PathBuf,
        /// How long it was given.
        waited: Duration,
    },

    /// The path is covered by another mount than the one remembered: missing, hidden, or exchanged.
    #[error("{}", wrong_mount(path, expected, found))]
    WrongMount {
        /// The mirror path.
        path: PathBuf,
        /// What was remembered.
        expected: Box<MountIdentity>,
        /// What covers the path now.
        found: Box<MountIdentity>,
    },

    /// The fstab wants a filesystem mounted above the mirror, and it is not.
    #[error(
        "{} is listed in {} ({} {}) but not mounted: {} would land on {found}. Run `mount {}`, or remove the line \
         if it is out of date",
        wanted.mountpoint.display(), fstab.display(), wanted.fstype.display(), wanted.source.display(),
        path.display(), wanted.mountpoint.display()
    )]
    NotMounted {
        /// The mirror path.
        path: PathBuf,
        /// The line of the fstab; its mountpoint is a bare directory, or not there at all.
        wanted: Box<FstabEntry>,
        /// Where that is written.
        fstab: PathBuf,
        /// What covers the path instead.
        found: Box<MountIdentity>,
    },

    /// An automount point that mounted nothing when it was touched.
    #[error(
        "the automount at {} mounted nothing when {} was looked up. See `systemctl status` and the journal of its \
         mount unit for the reason, and mount it by hand",
        mountpoint.display(), path.display()
    )]
    AutomountFailed {
        /// The mirror path.
        path: PathBuf,
        /// The automount point.
        mountpoint: PathBuf,
    },

    /// Writes are refused by the mount.
    #[error(
        "the mount at {} ({}) is read-only. Run `mount -o remount,rw {}` once the reason for it is understood",
        identity.mountpoint.display(), identity.source, identity.mountpoint.display()
    )]
    ReadOnly {
        /// The read-only mount.
        identity: Box<MountIdentity>,
    },

    /// The FUSE client of the mount is dead (ENOTCONN).
    #[error(
        "the mount at {} is disconnected: its client process is gone. Detach and mount it again: \
         `umount -l {} && mount {}`",
        mountpoint.display(), mountpoint.display(), mountpoint.display()
    )]
    Disconnected {
        /// Where the dead mount is mounted.
        mountpoint: PathBuf,
        /// What was touched when it was noticed.
        path: PathBuf,
    },

    /// The directory was replaced on the servers behind the mount's back (ESTALE).
    #[error(
        "{} is a stale handle on the mount at {}: it was removed or replaced on the servers. Open it again; if that \
         does not help, detach and mount again: `umount -l {} && mount {}`",
        path.display(), mountpoint.display(), mountpoint.display(), mountpoint.display()
    )]
    StaleHandle {
        /// What was touched.
        path: PathBuf,
        /// The mount it lies on.
        mountpoint: PathBuf,
    },

    /// The same filesystem was mounted anew since it was opened; what is held belongs to the old mount.
    #[error("{identity} was mounted anew, and what was open belongs to the old mount. Open the mirror again")]
    Remounted {
        /// The identity of both.
        identity: Box<MountIdentity>,
    },

    /// A mount came or went while the path was being opened.
    #[error("the mounts above {} changed while it was being opened. Try again when they have settled", path.display())]
    MountsMoved {
        /// The mirror path.
        path: PathBuf,
    },

    /// A directory above the mirror does not exist.
    #[error("{} does not exist, so {} cannot be made in it. Create it, or correct the mirror path", parent.display(), path.display())]
    ParentMissing {
        /// The mirror path.
        path: PathBuf,
        /// The first directory that is missing.
        parent: PathBuf,
    },

    /// Something on the way, or the mirror itself, is not a directory.
    #[error("{} is not a directory. Move it away, or correct the mirror path", path.display())]
    NotADirectory {
        /// What is in the way.
        path: PathBuf,
    },

    /// A symlink on the way could have been planted by somebody else.
    #[error(
        "{} is a symlink that another user could have planted (owner {owner}, in a directory of {directory_owner}). \
         Give the path without it, or make root the owner of both",
        path.display()
    )]
    ForeignSymlink {
        /// The symlink.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// The uid of the owner of the directory it lies in.
        directory_owner: u32,
    },

    /// Symlinks on the way lead in a circle, or nearly.
    #[error("{} passes through more than {limit} symlinks. Give the path without them", path.display())]
    SymlinkLoop {
        /// The mirror path.
        path: PathBuf,
        /// How many are followed.
        limit: usize,
    },

    /// No permission to look at the mirror.
    #[error(
        "no permission to open {}. Run as root; a FUSE mount made by another user must have been mounted with \
         allow_other",
        path.display()
    )]
    PermissionDenied {
        /// What was refused.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },

    /// A call on the way to the mirror failed with an errno that has no case of its own.
    #[error("cannot {act} {}. If the errno does not explain it, see the kernel log (dmesg) and the mount's client log", path.display())]
    Open {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The kernel's mount list, without which nothing can be verified.
    #[error("cannot read the mount list in /proc. Make sure /proc is mounted and readable for this process")]
    ReadMounts {
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The fstab is there but not readable, and it may say that something is missing.
    #[error("cannot read {}. Make it readable, or the mount it asks for cannot be checked", path.display())]
    ReadFstab {
        /// The fstab.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The probe could not be started, so nothing is known about the mount.
    #[error("cannot start `{program}` to probe {}. Install it (coreutils or busybox) and check the process limit", path.display())]
    StartProbe {
        /// The tool.
        program: String,
        /// The path to probe.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl MirrorError {
    /// Sorts the errno of a call on `path`, which lies on the mount at `mountpoint`.
    pub(crate) fn from_errno(act: &'static str, path: &Path, mountpoint: &Path, errno: Errno) -> MirrorError {
        let (path, mountpoint) = (path.to_owned(), mountpoint.to_owned());
        match errno {
            Errno::NOTCONN | Errno::CONNABORTED => MirrorError::Disconnected { mountpoint, path },
            Errno::STALE => MirrorError::StaleHandle { path, mountpoint },
            Errno::ACCESS | Errno::PERM => MirrorError::PermissionDenied { path, source: errno.into() },
            Errno::NOTDIR => MirrorError::NotADirectory { path },
            _ => MirrorError::Open { act, path, source: errno.into() },
        }
    }
}

fn wrong_mount(path: &Path, expected: &MountIdentity, found: &MountIdentity) -> String {
    let remedy = format!(
        "Nothing was written to {}; if the mirror was meant to move, have the remembered mount forgotten first",
        path.display()
    );
    if path.starts_with(&expected.mountpoint) && expected.mountpoint != found.mountpoint {
        // Either nothing is mounted there any more, or another mount deeper down hides it.
        if found.mountpoint.starts_with(&expected.mountpoint) {
            return format!(
                "{found} hides the mount this mirror lives on ({expected}). Unmount it: `umount {}`. {remedy}",
                found.mountpoint.display()
            );
        }
        return format!(
            "the mount is missing: {} is now a bare directory on {} ({}); expected {} {}. Mount it: `mount {}`. {remedy}",
            expected.mountpoint.display(),
            found.source,
            found.fstype,
            expected.fstype,
            expected.source,
            expected.mountpoint.display(),
        );
    }
    format!(
        "{} lies on another mount than before: found {found}; expected {expected}. Mount the expected one. {remedy}",
        path.display()
    )
}
