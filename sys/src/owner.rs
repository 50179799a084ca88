//! Creating things as somebody else: the owner is right from the start, and no chown has to follow.
//!
//! On a replicated GlusterFS volume a chown is three requests to every brick, a fifth of what a small file costs.

use crate::error::{Errno, SysError};

/// Owner and group of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The file system credentials of this thread, put back when dropped.
struct Borrowed {
    back: Owner,
}

impl Borrowed {
    fn take(owner: Owner) -> Result<Self, SysError> {
        let refused = || SysError::new("create as another owner", b"", Errno::PERM);
        // The group first: with another file system user the kernel takes the capability to override away.
        let back = Owner { uid: set_fsuid(u32::MAX), gid: set_fsgid(owner.gid) };
        let borrowed = Self { back };
        set_fsuid(owner.uid);
        // Neither call says whether it worked: an impossible id changes nothing and tells what is in force.
        let now = Owner { uid: set_fsuid(u32::MAX), gid: set_fsgid(u32::MAX) };
        if now == owner { Ok(borrowed) } else { Err(refused()) }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        set_fsuid(self.back.uid);
        set_fsgid(self.back.gid);
    }
}

/// Runs `act` with `owner` as the file system user and group of this thread: what it creates belongs to them, and
/// it may create only where they may. Other threads are not touched.
///
/// # Errors
/// `EPERM` where this process may not act as others; then `act` was not run. Else what `act` returns.
pub fn as_owner<T>(owner: Owner, act: impl FnOnce() -> Result<T, SysError>) -> Result<T, SysError> {
    let borrowed = Borrowed::take(owner)?;
    let result = act();
    drop(borrowed);
    result
}

/// As [`as_owner`], and as oneself where there is no owner or the file system refuses this one.
///
/// # Errors
/// What `act` returns, the last time.
pub fn as_owner_or_self<T>(
    owner: Option<Owner>,
    act: impl Fn() -> Result<T, SysError>,
) -> Result<T, SysError> {
    match owner.map(|owner| as_owner(owner, &act)) {
        None => act(),
        Some(Err(error)) if is_refusal(error.errno) => act(),
        Some(result) => result,
    }
}

/// True for the errnos that mean "not as this owner": trying again as oneself makes sense.
pub fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM)
}

fn set_fsuid(uid: u32) -> u32 {
    // SAFETY: takes and returns numbers; sets the id of the calling thread alone (setfsuid(2)).
    (unsafe { libc::setfsuid(uid) }) as u32
}

fn set_fsgid(gid: u32) -> u32 {
    // SAFETY: as above (setfsgid(2)).
    (unsafe { libc::setfsgid(gid) }) as u32
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::Dir;
    use crate::uring::{Punt, Reply, Request, Ring};

    const SOMEBODY: Owner = Owner { uid: 54_321, gid: 54_322 };

    /// A directory of SOMEBODY's and one of ours alone, if this process may act as others.
    fn dirs() -> Option<(tempfile::TempDir, Arc<Dir>, Arc<Dir>)> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("REQUIRE_ALL").is_none(), "root is required");
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let at = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            std::fs::create_dir(at.path().join(name)).unwrap();
            Arc::new(Dir::open(&at.path().join(name)).unwrap())
        };
        let (theirs, ours) = (make("theirs"), make("ours"));
        std::os::unix::fs::chown(at.path().join("theirs"), Some(SOMEBODY.uid), None).unwrap();
        Some((at, theirs, ours))
    }

    fn owner(path: &Path) -> Owner {
        let meta = std::fs::symlink_metadata(path).unwrap();
        Owner { uid: meta.uid(), gid: meta.gid() }
    }

    const SELF: Owner = Owner { uid: 0, gid: 0 };

    #[test]
    fn what_is_created_belongs_to_them_and_nothing_afterwards() {
        let Some((at, theirs, ours)) = dirs() else { return };
        as_owner(SOMEBODY, || theirs.mkdir(b"d", 0o755)).unwrap();
        as_owner(SOMEBODY, || theirs.symlink(b"nowhere", b"l")).unwrap();
        theirs.mkdir(b"after", 0o755).unwrap();
        assert_eq!(owner(&at.path().join("theirs/d")), SOMEBODY);
        assert_eq!(owner(&at.path().join("theirs/l")), SOMEBODY);
        assert_eq!(owner(&at.path().join("theirs/after")), SELF);
        // Where they may not, it is refused, and the other way makes it ours.
        let refused = as_owner(SOMEBODY, || ours.mkdir(b"d", 0o755)).unwrap_err();
        assert!(is_refusal(refused.errno));
        as_owner_or_self(Some(SOMEBODY), || ours.mkdir(b"d", 0o755)).unwrap();
        assert_eq!(owner(&at.path().join("ours/d")), SELF);
    }

    #[test]
    fn other_threads_stay_who_they_are() {
        let Some((at, theirs, ours)) = dirs() else { return };
        let (go, wait) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // It is there before: a new thread would be who its maker is at that moment.
            let ours = &ours;
            let other = scope.spawn(move || wait.recv().map(|()| ours.mkdir(b"d", 0o755)));
            let act = || {
                go.send(()).unwrap();
                other.join().unwrap().unwrap()?;
                theirs.mkdir(b"d", 0o755)
            };
            as_owner(SOMEBODY, act).unwrap();
        });
        assert_eq!(owner(&at.path().join("ours/d")), SELF);
        assert_eq!(owner(&at.path().join("theirs/d")), SOMEBODY);
    }

    #[test]
    fn the_ring_creates_as_them() {
        let Some((at, theirs, ours)) = dirs() else { return };
        let mut ring = match Ring::new(8, 4) {
            Ok(ring) => ring,
            Err(error) => {
                assert!(std::env::var_os("REQUIRE_ALL").is_none(), "io_uring is required");
                eprintln!("SKIPPED: the ring, {error}");
                return;
            }
        };
        let mut create = |dir: &Arc<Dir>, name: &[u8], owner| {
            ring.push(1, Request::create(dir.clone(), name, 0o644, owner).unwrap(), Punt::Always).unwrap();
            loop {
                ring.wait(Duration::from_secs(5), || false).unwrap();
                if let Some((_, Reply::Created(result))) = ring.take() {
                    return result.map(drop);
                }
            }
        };
        create(&theirs, b"one", Some(SOMEBODY)).unwrap();
        create(&theirs, b"two", Some(SOMEBODY)).unwrap();
        create(&theirs, b"three", None).unwrap();
        assert!(is_refusal(create(&ours, b"no", Some(SOMEBODY)).unwrap_err()));
        for (name, wanted) in [("one", SOMEBODY), ("two", SOMEBODY), ("three", SELF)] {
            assert_eq!(owner(&at.path().join("theirs").join(name)), wanted, "{name}");
        }
    }
}
