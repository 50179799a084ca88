//! From handles to paths, when a cycle begins.
//!
//! A directory may be renamed at any moment. So each is said with its inode, and the look checks that the path still leads
//! to that one; if not, what was said of it is put back and asked for again.

use std::collections::HashMap;

use proto::RelPath;
use sys::fanotify::handle;

use super::dirty::{Dirty, Key};
use super::reader::Target;
use crate::config::Excludes;
use crate::cycle::Names;

/// A dirty set with its paths.
#[derive(Default)]
pub struct Resolved {
    /// What to look at.
    pub names: Names,
    at: HashMap<RelPath, Vec<Key>>,
}

impl Resolved {
    /// Of what was taken only what was said of the directories at `paths`, which were not there.
    pub fn part(&self, mut taken: Dirty, paths: &[RelPath]) -> Dirty {
        let mut part = Dirty::default();
        let Some(oldest) = taken.oldest() else { return part };
        for key in paths.iter().filter_map(|path| self.at.get(path)).flatten() {
            for (name, object) in taken.dirs.remove(key).unwrap_or_default() {
                part.name(key, &name, object.as_deref(), oldest);
            }
            if taken.arrived.remove(key) {
                part.arrived(key, oldest);
            }
        }
        part
    }
}

/// Finds out where everything in `taken` is now. What is gone is left out: the names it had are in the set too. Only files
/// that were written to through a name in it may have another one. What `excludes` leaves out is left out too.
///
/// # Errors
/// The kernel refuses for another reason than that something is gone.
pub fn resolve(target: &Target, taken: &Dirty, excludes: &Excludes) -> Result<Resolved, sys::SysError> {
    let mut resolved = Resolved::default();
    let root = sys::handle::path_of(target.root())?;
    for (key, names) in &taken.dirs {
        let found = handle(key).hold(target.root()).and_then(|held| {
            let stat = sys::handle::stat(&held)?;
            Ok((sys::handle::path_of(&held)?, stat.ino))
        });
        let found = match found {
            // Moved out of the volume since: nothing, too. The name it had there is in the set.
            Ok((path, ino)) => below(&root, &path).and_then(RelPath::new).map(|path| (path, ino)),
            Err(e) if e.is_gone() => None,
            Err(e) => return Err(e),
        };
        let Some((path, ino)) = found else {
            let objects = names.values().flatten().filter_map(|key| inode(target, key));
            objects.for_each(|object| resolved.names.add_inode(object));
            continue;
        };
        for (name, object) in names {
            let name: &[u8] = if **name == *b"." { b"" } else { name };
            let object = object.as_deref().and_then(|key| inode(target, key));
            resolved.names.add(path.clone(), Some(ino), name, object);
        }
        resolved.at.entry(path).or_default().push(key.clone());
    }
    for key in &taken.arrived {
        let found = handle(key).hold(target.root()).and_then(|held| {
            let stat = sys::handle::stat(&held)?;
            Ok((sys::handle::path_of(&held)?, stat.ino))
        });
        match found {
            Ok((path, ino)) => {
                if let Some(path) = below(&root, &path).and_then(RelPath::new) {
                    resolved.names.add_whole(path.clone(), Some(ino));
                    resolved.at.entry(path).or_default().push(key.clone());
                }
            }
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    for object in &taken.objects {
        if let Some(ino) = inode(target, object) {
            resolved.names.add_inode(ino);
        }
    }
    resolved.names = resolved.names.without(excludes);
    Ok(resolved)
}

/// An object as it is now.
///
/// # Errors
/// `ESTALE` when it is gone.
pub fn object(target: &Target, key: &[u8]) -> Result<sys::Stat, sys::SysError> {
    sys::handle::stat(handle(key).hold(target.root())?)
}

/// Number of an object's inode; nothing if it is gone.
pub fn inode(target: &Target, key: &[u8]) -> Option<u64> {
    let handle = handle(key);
    handle.ino().or_else(|| Some(sys::handle::stat(handle.hold(target.root()).ok()?).ok()?.ino))
}

/// The part of `path` below `root`, if it is there; empty for the root itself.
pub fn below<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(root)?;
    match rest.split_first() {
        None => Some(rest),
        Some((b'/', rest)) => Some(rest),
        // The root of the file system is the volume: its own path ends with the slash.
        Some(_) if root.ends_with(b"/") => Some(rest),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn only_whole_components_are_a_way_down() {
        for (root, path, rest) in [
            (&b"/v"[..], &b"/v"[..], Some(&b""[..])),
            (b"/v", b"/v/a/b", Some(b"a/b")),
            (b"/v", b"/volume/a", None),
            (b"/v", b"/w/v/a", None),
            (b"/", b"/a", Some(b"a")),
            (b"/", b"/", Some(b"")),
        ] {
            assert_eq!(below(root, path), rest, "{root:?} {path:?}");
        }
    }
}
