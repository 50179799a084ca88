//! The state directory of this host: who we are, which lane a mirror is, and one directory per lane.
//!
//! ```text
//! node                     identity of this installation, 32 hex digits
//! mirrors/<hash>.json      what is remembered of a mirror path: its lane and its mount
//! fanotify-boot            the boot that the queue in systemd's descriptor store is of
//! lanes/<lane>/lock        held while a process works on the lane
//! lanes/<lane>/index.redb  the index
//! lanes/<lane>/…           logs and spools being written
//! ```
//! All of it is derived or replaceable, but for `node`: without it this host is a stranger to its own lanes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fsprobe::MountIdentity;
use nix::fcntl::{Flock, FlockArg};
use proto::{LaneId, NodeId};

use crate::error::{Error, Result, on_state};

/// The state directory.
pub struct StateDir {
    path: PathBuf,
    node: NodeId,
}

/// What is remembered of a mirror between runs: without it, an unmounted mirror looks like a new one.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    /// The mirror's path.
    pub mirror: String,
    /// Its lane, 32 hex digits.
    pub lane: String,
    /// The mount it lay on.
    pub mount: MountIdentity,
}

impl StateDir {
    /// Opens or makes the state directory: `TIDEGATE_STATE_DIR`, else `/var/lib/tidegate` for root, else
    /// `tidegate` in the XDG state directory.
    ///
    /// # Errors
    /// [`Error::State`] with the path.
    pub fn open() -> Result<Self> {
        Self::at(&Self::place()?)
    }

    /// A file of the installation as a whole.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the state directory if there is one, and changes nothing.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn look() -> Result<Option<Self>> {
        let path = Self::place()?;
        if !path.join("node").try_exists().map_err(on_state("look for", &path))? {
            return Ok(None);
        }
        let node = node_id(&path.join("node"))?;
        Ok(Some(Self { path, node }))
    }

    /// Where it is, or will be.
    ///
    /// # Errors
    /// [`Error::State`]: nothing says where.
    pub fn place() -> Result<PathBuf> {
        Ok(match std::env::var_os("TIDEGATE_STATE_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None if sys::host::effective_owner().0 == 0 => PathBuf::from("/var/lib/tidegate"),
            None => match (std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME")) {
                (Some(state), _) if !state.is_empty() => PathBuf::from(state).join("tidegate"),
                (_, Some(home)) => PathBuf::from(home).join(".local/state/tidegate"),
                (_, None) => {
                    return Err(Error::State {
                        act: "find a place for it: set TIDEGATE_STATE_DIR or HOME".to_owned(),
                        source: std::io::ErrorKind::NotFound.into(),
                    });
                }
            },
        })
    }

    /// Opens or makes the state directory at `path`.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn at(path: &Path) -> Result<Self> {
        trusted(path)?;
        for dir in [path.to_owned(), path.join("mirrors"), path.join("lanes")] {
            make_private(&dir)?;
        }
        let node = node_id(&path.join("node"))?;
        Ok(Self { path: path.to_owned(), node })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Identity of this installation.
    pub fn node(&self) -> NodeId {
        self.node
    }

    fn remembered_path(&self, mirror: &Path) -> PathBuf {
        let hash = blake3::hash(mirror.as_os_str().as_bytes()).to_hex();
        self.path.join("mirrors").join(format!("{}.json", &hash[..32]))
    }

    /// What is remembered of the mirror at this path.
    ///
    /// # Errors
    /// [`Error::State`] when it cannot be read: it is a safeguard, so a doubt about it stops.
    pub fn remembered(&self, mirror: &Path) -> Result<Option<Remembered>> {
        let path = self.remembered_path(mirror);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| on_state("understand", &path)(std::io::Error::other(e))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(on_state("read", &path)(e)),
        }
    }

    /// Remembers a mirror.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn remember(&self, mirror: &Path, lane: LaneId, mount: &MountIdentity) -> Result<()> {
        let path = self.remembered_path(mirror);
        let record =
            Remembered { mirror: mirror.display().to_string(), lane: lane.to_string(), mount: mount.clone() };
        let bytes = serde_json::to_vec_pretty(&record).unwrap_or_default();
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        write_durably(&path, &bytes)
    }

    /// The directory of a lane.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn lane(&self, lane: LaneId) -> Result<LaneDir> {
        let path = self.path.join("lanes").join(lane.to_string());
        make_private(&path)?;
        Ok(LaneDir { path })
    }
}

impl StateDir {
    /// The directory of a lane, if this host has worked on it.
    pub fn existing_lane(&self, lane: LaneId) -> Option<LaneDir> {
        let path = self.path.join("lanes").join(lane.to_string());
        path.is_dir().then_some(LaneDir { path })
    }
}

impl Remembered {
    /// The directory of the lane that is remembered, if this host has worked on it.
    pub fn lane_dir(&self, state: &StateDir) -> Option<LaneDir> {
        let is_id = self.lane.len() == 32 && self.lane.bytes().all(|digit| digit.is_ascii_hexdigit());
        let path = state.path.join("lanes").join(&self.lane);
        (is_id && path.is_dir()).then_some(LaneDir { path })
    }
}

/// The directory of one lane.
pub struct LaneDir {
    path: PathBuf,
}

/// Held while a process works on a lane.
#[derive(Debug)]
pub struct LaneLock(#[expect(dead_code, reason = "dropping it releases the lock")] Flock<File>);

impl LaneDir {
    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the lane's lock, or fails at once.
    ///
    /// # Errors
    /// [`Error::Busy`] when another process has it.
    pub fn lock(&self) -> Result<LaneLock> {
        let path = self.file("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(on_state("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(LaneLock(lock)),
            Err((_, nix::errno::Errno::EAGAIN)) => Err(Error::Busy(path.display().to_string())),
            Err((_, errno)) => Err(on_state("lock", &path)(errno.into())),
        }
    }

    /// Names in it that start with `prefix`.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn files(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(on_state("list", &self.path))? {
            let entry = entry.map_err(on_state("list", &self.path))?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Refuses a path that somebody else could turn elsewhere: every component that exists, and every symlink on the
/// way, must belong to root or to us, and a directory that others may write must be sticky.
fn trusted(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let us = sys::host::effective_owner().0;
    let path = std::path::absolute(path).map_err(on_state("resolve", path))?;
    for at in path.ancestors() {
        let Ok(named) = fs::symlink_metadata(at) else { continue };
        let Ok(meant) = fs::metadata(at) else { continue };
        let foreign = [named.uid(), meant.uid()].into_iter().any(|owner| owner != 0 && owner != us);
        let open = meant.is_dir() && meant.mode() & 0o002 != 0 && meant.mode() & 0o1000 == 0;
        if foreign || open {
            let why = if foreign { "belongs to another user" } else { "may be written by everybody" };
            return Err(Error::State {
                act: format!(
                    "use {}: {} {why}; set TIDEGATE_STATE_DIR elsewhere",
                    path.display(),
                    at.display()
                ),
                source: std::io::ErrorKind::PermissionDenied.into(),
            });
        }
    }
    Ok(())
}

fn make_private(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(on_state("make", dir))
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = path.with_extension("tmp");
    let act = on_state("write", path);
    let write = || {
        let mut file = File::create(&tmp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(act)
}

fn node_id(path: &Path) -> Result<NodeId> {
    let parse = |text: &str| {
        let text = text.trim();
        let mut id = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(NodeId(id))
    };
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).ok_or_else(|| {
            on_state("understand", path)(std::io::Error::other("not 32 hex digits; restore it from a backup"))
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let id = NodeId(sys::host::random());
            // Of two first starts one wins: a link refuses to replace.
            let tmp = path.with_extension(format!("tmp-{}", std::process::id()));
            write_durably(&tmp, format!("{id}\n").as_bytes())?;
            let linked = fs::hard_link(&tmp, path);
            let _ = fs::remove_file(&tmp);
            match linked {
                Ok(()) => Ok(id),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => node_id(path),
                Err(e) => Err(on_state("make", path)(e)),
            }
        }
        Err(e) => Err(on_state("read", path)(e)),
    }
}
