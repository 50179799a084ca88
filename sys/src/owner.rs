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
pub fn as_owner_if_let<T>(
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
