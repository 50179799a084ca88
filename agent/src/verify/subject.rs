//! Which tree is judged, and by which rules.

use std::collections::HashMap;
use std::os::fd::AsFd;

use proto::{Exception, ExceptionClass, RelPath, names};
use sys::{FileKind, Stat};

use crate::error::{Error, Result, on_mirror};
use crate::index::View;
use crate::ledger::MirrorRoot;
use crate::recover::Root;
use crate::volume::Volume;

/// A tree to be compared with a generation.
pub struct Subject {
    /// `mirror` or `volume`.
    pub label: &'static str,
    /// The tree.
    pub root: Root,
    /// Names directly in the root that are nobody's data.
    pub ignored: &'static [&'static [u8]],
    /// Whether the root's own metadata is compared: a mirror's is 0700 whatever the volume's is.
    pub root_metadata: bool,
    /// Whether ACLs are compared: not where the mount keeps none.
    pub acls: bool,
    /// Whether reading it may stall.
    pub may_hang: bool,
    /// Mount and device of a volume, beyond which nothing is looked at.
    mount: Option<(u64, (u32, u32))>,
    exceptions: HashMap<RelPath, Exception>,
}

/// Ours, and what a fresh file system and a fresh brick bring along.
const IN_MOUNT_ROOT: [&[u8]; 3] = [names::LEDGERS, b"lost+found", b".trashcan"];

impl Subject {
    /// The mirror.
    ///
    /// # Errors
    /// [`Error::Mirror`], [`Error::LedgerState`] when there is none.
    pub fn mirror(at: &MirrorRoot) -> Result<Self> {
        let Some(dir) = at.open()? else {
            return Err(Error::LedgerState(format!(
                "{} is not there, though its ledger is: somebody removed it. `tidegate sync SRC {0} --full` makes it \
                 anew",
                at.path().display()
            )));
        };
        dir.stat_self().map_err(on_mirror(|| "look at the mirror".to_owned()))?;
        Ok(Self {
            label: "mirror",
            root: Root::of(at),
            ignored: if at.place().1.is_none() { &IN_MOUNT_ROOT } else { &[] },
            root_metadata: false,
            acls: sys::meta::keeps_acls(dir.as_fd()),
            may_hang: at.pinned().kind().may_hang(),
            mount: None,
            exceptions: HashMap::new(),
        })
    }

    /// The volume.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn volume(volume: &Volume, view: &View) -> Result<Self> {
        Ok(Self {
            label: "volume",
            root: Root::at(volume.root.clone()),
            ignored: &[],
            root_metadata: true,
            acls: sys::meta::keeps_acls(volume.root.as_fd()),
            may_hang: false,
            mount: Some((volume.stat.mount, volume.stat.dev)),
            exceptions: view.exceptions()?.into_iter().collect(),
        })
    }

    /// True for a name of a volume that policy leaves out: that it is not in the mirror is no difference.
    pub fn leaves_out(&self, path: &RelPath, stat: &Stat) -> bool {
        let Some((mount, dev)) = self.mount else { return false };
        matches!(stat.kind, FileKind::Socket | FileKind::Device)
            || stat.mount_root
            || stat.mount != mount
            || stat.dev != dev
            || self.exceptions.get(path).is_some_and(|e| {
                e.class == ExceptionClass::LeftOut && !matches!(stat.kind, FileKind::File | FileKind::Dir)
            })
    }

    /// What the generation says of a path that it does not hold, or not as it is.
    pub fn exception(&self, path: &RelPath) -> Option<&Exception> {
        self.exceptions.get(path)
    }
}
