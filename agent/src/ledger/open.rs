//! Finding the ledger of a mirror, or making it.

use std::sync::Arc;

use fsprobe::PinnedMount;
use proto::{Epoch, FrameKind, Generation, Head, LaneId, LaneRecord, frame, names};
use sys::{Dir, Errno, SysError};

use super::mirror::MirrorRoot;
use crate::error::{Error, Result, on_mirror};

/// Largest small file of the ledger that is read whole.
const SMALL_FILE_MAX: usize = 1 << 20;

/// An open ledger.
pub struct Ledger {
    /// Where the mirror hangs.
    pub root: MirrorRoot,
    /// Identity of the lane.
    pub lane: LaneRecord,
    /// `.tidegate/NAME/`, or `.tidegate/` in a mirror that is the root of its mount.
    pub(super) dir: Arc<Dir>,
    pub(super) commit: Dir,
    pub(super) epochs: Dir,
    /// How fast the mirror may be changed; shared with whoever changes that.
    pub limits: Arc<transfer::Limits>,
}

impl Ledger {
    /// Opens the ledger of the mirror at `pinned`; `Err(pinned)` inside `Ok` when there is none yet.
    ///
    /// # Errors
    /// [`Error::Mirror`]; [`Error::LedgerFile`] when the identity is damaged.
    pub fn find(pinned: PinnedMount) -> Result<std::result::Result<Self, MirrorRoot>> {
        let root = MirrorRoot::new(pinned)?;
        let Some(dir) = open_ledger_dir(&root).map_err(on_mirror(|| "open the ledger".to_owned()))? else {
            return Ok(Err(root));
        };
        let Some(bytes) =
            read_small(&dir, names::LANE).map_err(on_mirror(|| "read the lane's identity".to_owned()))?
        else {
            // Made a moment ago by a process that was killed before the identity was linked: nothing in it yet.
            return Ok(Err(root));
        };
        let lane: LaneRecord = frame::decode_file(FrameKind::Lane, &bytes)
            .map_err(|source| Error::LedgerFile { file: "lane".to_owned(), source })?;
        Self::open(root, dir, lane).map(Ok)
    }

    fn open(root: MirrorRoot, dir: Dir, lane: LaneRecord) -> Result<Self> {
        let commit =
            dir.open_dir(names::COMMIT).map_err(on_mirror(|| "open commit/ of the ledger".to_owned()))?;
        let epochs =
            dir.open_dir(names::EPOCH).map_err(on_mirror(|| "open epoch/ of the ledger".to_owned()))?;
        Ok(Self { root, lane, dir: Arc::new(dir), commit, epochs, limits: Arc::default() })
    }

    /// Makes the ledger of a new lane. The identity is linked last: without it there is no ledger.
    ///
    /// # Errors
    /// [`Error::Guard`] when the mirror already holds something; [`Error::Mirror`].
    pub fn create(root: MirrorRoot, host: &str, now: proto::Time) -> Result<Self> {
        if let Some(mirror) = root.open()? {
            let mut found = None;
            for name in mirror.names().map_err(on_mirror(|| "list the mirror".to_owned()))? {
                // A fresh ext4 brings lost+found, a fresh Gluster brick .trashcan: neither is anybody's data.
                let ours = name == names::LEDGERS && root.place().1.is_none();
                if !ours && name != b"lost+found" && name != b".trashcan" {
                    found = Some(name);
                    break;
                }
            }
            if let Some(name) = found {
                return Err(Error::Guard(format!(
                    "{} is not empty (it holds {}) and no ledger of tidegate lies beside it: nothing in it was \
                     touched. Move it away, or choose a mirror that does not exist yet",
                    root.path().display(),
                    proto::path::Escaped(&name)
                )));
            }
        }
        let act = || "make the ledger".to_owned();
        let (held, name) = root.place();
        make_dir(held, names::LEDGERS).map_err(on_mirror(act))?;
        let ledgers = held.open_dir(names::LEDGERS).map_err(on_mirror(act))?;
        let dir = match name {
            None => ledgers,
            Some(name) => {
                make_dir(&ledgers, name).map_err(on_mirror(act))?;
                ledgers.open_dir(name).map_err(on_mirror(act))?
            }
        };
        for sub in [names::COMMIT, names::MANIFEST, names::EPOCH] {
            make_dir(&dir, sub).map_err(on_mirror(act))?;
        }
        let lane = LaneRecord { id: LaneId(sys::host::random()), created: now, host: host.to_owned() };
        let bytes = frame::encode_file(FrameKind::Lane, &lane)
            .map_err(|source| Error::LedgerFile { file: "lane".to_owned(), source })?;
        match link_new(&dir, &dir, names::LANE, &bytes) {
            Ok(()) => Self::open(root, dir, lane),
            Err(e) if e.errno == Errno::EXIST => Err(Error::Guard(
                "another process made this lane's ledger at the same moment; run the command again"
                    .to_owned(),
            )),
            Err(e) => Err(on_mirror(act)(e)),
        }
    }

    /// The published pointer; nothing before the first generation.
    ///
    /// # Errors
    /// [`Error::Mirror`], [`Error::LedgerFile`].
    pub fn head(&self) -> Result<Option<Head>> {
        match read_small(&self.dir, names::HEAD).map_err(on_mirror(|| "read HEAD".to_owned()))? {
            None => Ok(None),
            Some(bytes) => frame::decode_file(FrameKind::Head, &bytes)
                .map(Some)
                .map_err(|source| Error::LedgerFile { file: "HEAD".to_owned(), source }),
        }
    }

    /// True when `generation` is sealed.
    ///
    /// # Errors
    /// [`Error::Mirror`].
    pub fn is_sealed(&self, generation: Generation) -> Result<bool> {
        self.commit
            .exists(&names::generation(generation))
            .map_err(on_mirror(|| format!("look for generation {generation}")))
    }

    /// Takes the seal of generation 1 back. Only for one that can never be published, in a lane without HEAD.
    pub(super) fn void_first(&self) -> Result<()> {
        let first = Generation(1);
        match self.commit.unlink(&names::generation(first)) {
            Err(e) if !e.is_gone() => {
                Err(on_mirror(|| format!("take back the seal of generation {first}"))(e))
            }
            _ => Ok(()),
        }
    }

    /// Opens `stage.N` or `trash.N`; nothing if it is not there.
    pub(super) fn working(&self, name: &[u8]) -> Result<Option<Dir>> {
        match self.dir.open_dir(name) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.is_gone() => Ok(None),
            Err(e) => Err(on_mirror(|| format!("open {}", proto::path::Escaped(name)))(e)),
        }
    }

    /// The error for a call that found a leg of a rename gone: fenced, if a newer epoch exists.
    pub fn fenced_or(&self, ours: Epoch, otherwise: Error) -> Error {
        match self.newest_epoch() {
            Ok(Some(newest)) if newest.epoch > ours => {
                Error::Fenced { ours, theirs: newest.epoch, host: newest.host }
            }
            _ => otherwise,
        }
    }
}

fn open_ledger_dir(root: &MirrorRoot) -> Result<Option<Dir>, SysError> {
    let (held, name) = root.place();
    let found = held.open_dir(names::LEDGERS).and_then(|dir| match name {
        None => Ok(dir),
        Some(name) => dir.open_dir(name),
    });
    match found {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.errno == Errno::NOENT => Ok(None),
        Err(e) => Err(e),
    }
}

/// mkdir, mode 0700, that accepts a directory that is there already.
pub(super) fn make_dir(at: &Dir, name: &[u8]) -> Result<(), SysError> {
    match at.mkdir(name, 0o700) {
        Err(e) if e.errno == Errno::EXIST => Ok(()),
        other => other,
    }
}

/// Reads a small file; nothing if there is none. A file replaced while it is opened shows as ESTALE on
/// GlusterFS: once more is enough.
pub(super) fn read_small(dir: &Dir, name: &[u8]) -> Result<Option<Vec<u8>>, SysError> {
    let read = || {
        let (fd, _) = dir.open_file(name)?;
        sys::file::read_all(&fd, SMALL_FILE_MAX, name)
    };
    let result = match read() {
        Err(e) if e.errno == Errno::STALE => read(),
        other => other,
    };
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.errno == Errno::NOENT => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a new small file durably: created, written, fsynced. A failure leaves at most a file without meaning.
pub(super) fn write_small(dir: &Dir, name: &[u8], bytes: &[u8]) -> Result<(), SysError> {
    let fd = dir.create(name, 0o600)?;
    sys::file::write_at(&fd, bytes, 0, name)?;
    sys::file::sync(&fd, name)?;
    sys::file::close(fd, name)
}

/// Makes the file `name` with its whole content, or fails with `EEXIST`: nobody ever sees half of it, and of
/// two who try, one wins.
pub(super) fn link_new(tmp_dir: &Dir, dir: &Dir, name: &[u8], bytes: &[u8]) -> Result<(), SysError> {
    let tmp = format!("tmp.{:016x}", u64::from_le_bytes(sys::host::random())).into_bytes();
    let result = write_small(tmp_dir, &tmp, bytes).and_then(|()| tmp_dir.link(&tmp, dir, name));
    let _ = tmp_dir.unlink(&tmp);
    result
}
