//! Short runs of blocking calls that staging hands to the engine's pool.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use proto::Body;
use sys::meta::{AclsKept, MadeAs, XattrsRead};
use sys::{Dir, Errno, FileKind, Meta, Owner, Stat, SysError, WalkBuffer};

use super::listing::{self, Listing};
use super::look::{InodeKey, inode_key};

/// A directory and one name in it; an empty name is the directory itself.
pub type At = (Arc<Dir>, Box<[u8]>);

/// Which side failed: a failure in the volume concerns one path, one on the mirror the whole cycle.
pub enum ActError {
    /// Reading the volume.
    Source(SysError),
    /// Writing the stage.
    Target(SysError),
}

/// A directory made in the stage, and what the volume has in it.
pub struct Opened {
    pub source: Arc<Dir>,
    pub stage: Arc<Dir>,
    /// What the directory in the stage is like so far.
    pub made_as: MadeAs,
    pub listing: Listing,
    pub xattrs: XattrsRead,
    /// What an earlier run left in the stage's directory and the volume still has.
    pub there: HashSet<Box<[u8]>>,
}

/// Makes a directory in the stage and reads the one in the volume, which is still `expect`: what else is known of it,
/// renames into it first of all, was said of that one. Where an earlier run may have left something there, `leftover` says
/// which names a rename will bring: whatever else has them goes. It belongs to its owner from the start, who may
/// then create in it; the mirror's own root stays root's alone.
pub fn open_tree(
    source: &At,
    target: &At,
    create_as: Option<Owner>,
    leftover: Option<&HashSet<Box<[u8]>>>,
    expect: InodeKey,
) -> Result<Opened, ActError> {
    let mut buffer = WalkBuffer::default();
    let is_root = source.1.is_empty();
    let opened = if is_root { source.0.reopen() } else { source.0.open_dir(&source.1) };
    let mut dir = opened.map_err(ActError::Source)?;
    let listing = listing::read(&mut dir, &mut buffer).map_err(ActError::Source)?;
    if inode_key(&listing.stat) != expect {
        return Err(ActError::Source(SysError::new("find again", &source.1, Errno::STALE)));
    }
    let xattrs = sys::meta::read_xattrs(dir.as_fd()).map_err(ActError::Source)?;
    let mut there = HashSet::new();
    let owner = Owner { uid: listing.stat.uid, gid: listing.stat.gid };
    let mode = if is_root { 0o700 } else { listing.stat.mode & 0o777 | 0o700 };
    match sys::owner::as_owner_or_self(create_as, || target.0.mkdir(&target.1, mode)) {
        Ok(()) => {}
        Err(e) if e.errno == Errno::EXIST && leftover.is_some() => {
            let old = match target.0.open_dir(&target.1) {
                // It was a file in that run.
                Err(e) if [Errno::NOTDIR, Errno::LOOP].contains(&e.errno) => {
                    target.0.remove_tree(&target.1).map_err(ActError::Target)?;
                    target.0.mkdir(&target.1, mode).map_err(ActError::Target)?;
                    target.0.open_dir(&target.1).map_err(ActError::Target)?
                }
                old => old.map_err(ActError::Target)?,
            };
            for name in old.names().map_err(ActError::Target)? {
                let comes = leftover.is_some_and(|filled| filled.contains(name.as_slice()));
                if !comes && listing.names.binary_search_by(|(n, _)| n.as_ref().cmp(&name)).is_ok() {
                    there.insert(name.into());
                } else {
                    old.remove_tree(&name).map_err(ActError::Target)?;
                }
            }
        }
        Err(e) => return Err(ActError::Target(e)),
    }
    let stage = target.0.hold_dir(&target.1).map_err(ActError::Target)?;
    let mut made_as = MadeAs::of(stage.as_fd(), &target.1).map_err(ActError::Target)?;
    if !is_root && (made_as.uid, made_as.gid) != (owner.uid, owner.gid) {
        sys::meta::own_dir(&stage, owner, &target.1).map_err(ActError::Target)?;
        made_as = MadeAs { uid: owner.uid, gid: owner.gid, ..made_as };
    }
    Ok(Opened { source: Arc::new(dir), stage: Arc::new(stage), made_as, listing, xattrs, there })
}

/// Gives a finished directory of the stage its metadata. The mirror's own root stays root's alone.
pub fn close_tree(stage: &Dir, meta: &Meta, made_as: MadeAs, is_root: bool) -> Result<AclsKept, SysError> {
    if is_root {
        return Ok(AclsKept::All);
    }
    sys::meta::apply_dir(stage, meta, made_as, b"directory in the stage")
}

/// What [`make_special`] made.
pub struct Made {
    pub body: Body,
    pub stat: Stat,
    pub xattrs: XattrsRead,
    pub acls: AclsKept,
}

/// Makes a symlink or FIFO in the stage, like the one in the volume.
pub fn make_special(
    source: &At,
    target: &At,
    seen: &Stat,
    create_as: Option<Owner>,
    leftover: bool,
) -> Result<Made, ActError> {
    let stat = source.0.stat(&source.1).map_err(ActError::Source)?;
    if stat.kind != seen.kind {
        return Err(ActError::Source(SysError::new("look again at", &source.1, Errno::STALE)));
    }
    let (dir, name) = (&target.0, &target.1);
    let make = |body: &Body| {
        sys::owner::as_owner_or_self(create_as, || match body {
            Body::Symlink(text) => dir.symlink(text, name),
            _ => dir.mkfifo(name, stat.mode & 0o777),
        })
    };
    let body = match stat.kind {
        FileKind::Symlink => Body::Symlink(source.0.readlink(&source.1).map_err(ActError::Source)?),
        _ => Body::Fifo,
    };
    let made = match make(&body) {
        Err(e) if e.errno == Errno::EXIST && leftover => dir.remove_tree(name).and_then(|_| make(&body)),
        other => other,
    };
    made.map_err(ActError::Target)?;
    let is_fifo = stat.kind == FileKind::Fifo;
    // A symlink has none that we carry.
    let xattrs = if is_fifo {
        sys::meta::read_fifo_xattrs(&source.0, &source.1).map_err(ActError::Source)?
    } else {
        XattrsRead::default()
    };
    let (mode, mtime) = (stat.mode, stat.mtime);
    let meta = Meta { mode, uid: stat.uid, gid: stat.gid, mtime, xattrs: xattrs.kept.clone() };
    let made = dir.stat(name).map_err(ActError::Target)?;
    let made_as = MadeAs { uid: made.uid, gid: made.gid, mode: made.mode };
    let acls = sys::meta::apply_special(dir, name, &meta, made_as, is_fifo).map_err(ActError::Target)?;
    Ok(Made { body, stat, xattrs, acls })
}

/// Where a link is made from.
pub enum LinkFrom {
    /// A held directory and a name.
    Held(Arc<Dir>, Box<[u8]>),
    /// Components below the stage, resolved when needed: held descriptors would add up over many groups.
    Stage(Arc<Dir>, Vec<Box<[u8]>>),
}

/// Links a name in the stage to an inode that is there already.
pub fn link(from: &LinkFrom, target: &At, leftover: bool) -> Result<(), SysError> {
    let (dir, name) = match from {
        LinkFrom::Held(dir, name) => (dir.clone(), name.clone()),
        LinkFrom::Stage(stage, components) => {
            let Some((name, above)) = components.split_last() else {
                return Err(SysError::new("link", &target.1, Errno::INVAL));
            };
            let mut at = stage.clone();
            for component in above {
                at = Arc::new(at.hold_dir(component)?);
            }
            (at, name.clone())
        }
    };
    match dir.link(&name, &target.0, &target.1) {
        Err(e) if e.errno == Errno::EXIST && leftover => {
            target.0.remove_tree(&target.1)?;
            dir.link(&name, &target.0, &target.1)
        }
        other => other,
    }
}
