//! Reads extended attributes of an entry by (directory descriptor, name), whatever its type.

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::{self, Errno};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kernel's own bound for one value and for one list of names.
const XATTR_MAX: usize = 64 << 10;

pub(super) const ACL_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// All attributes of one entry, by name.
pub(super) type Attrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads attributes; keeps its buffers between entries.
pub(super) struct AttrReader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl AttrReader {
    pub(super) fn new() -> Self {
        AttrReader { names: vec![0; XATTR_MAX], value: vec![0; XATTR_MAX] }
    }

    /// Every attribute the entry lists, and these ACLs even where the filesystem does not list them.
    pub(super) fn read(&mut self, dir: BorrowedFd<'_>, name: &[u8], acls: &[&[u8]]) -> io::Result<Attrs> {
        let path = magic_path(dir, name)?;
        let mut attrs = Attrs::new();
        let listed = match llistxattr(&path, &mut self.names[..]) {
            Ok(len) => len,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(errno),
        };
        let names: Vec<Vec<u8>> = self.names[..listed]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        for attr in names {
            if let Some(value) = self.value(&path, &attr)? {
                attrs.insert(attr, value);
            }
        }
        for acl in acls {
            // A FUSE mount may hand out an ACL that its list does not name.
            if !attrs.contains_key(*acl)
                && let Some(value) = self.value(&path, acl)?
            {
                attrs.insert(acl.to_vec(), value);
            }
        }
        Ok(attrs)
    }

    fn value(&mut self, path: &CString, attr: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match lgetxattr(path, attr, &mut self.value[..]) {
            Ok(len) => Ok(Some(self.value[..len].to_vec())),
            // Listed but not readable as such: an ACL on a symlink, a virtual key.
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// `/proc/self/fd/N/name`: the xattr calls have no `at` form before Linux 6.13, and an `O_PATH` descriptor of a FIFO or
/// a symlink cannot be asked. An empty name is the directory itself.
fn magic_path(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    CString::new(path).map_err(|_| Errno::INVAL)
}
