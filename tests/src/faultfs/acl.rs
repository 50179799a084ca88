//! How POSIX ACLs and mode bits follow each other, as a brick's local filesystem does it.
//!
//! Values are in the kernel's xattr form: a version word, then `(tag u16, perm u16, id u32)` entries.

use fuser::Errno;

/// Name of the ACL that decides access.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the ACL that new children inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Mode bits and stored value that setting an access ACL leads to; a minimal ACL is nothing but mode bits.
pub fn set_access(value: &[u8]) -> Result<(u32, Option<Vec<u8>>), Errno> {
    let acl = Acl::parse(value)?;
    let mode = acl.mode();
    Ok((mode, (!acl.is_minimal()).then(|| acl.print())))
}

/// The access ACL after a chmod to `mode`.
pub fn chmod(value: &[u8], mode: u32) -> Result<Vec<u8>, Errno> {
    let mut acl = Acl::parse(value)?;
    acl.each_class(|perm, class| *perm = class_bits(mode, class));
    Ok(acl.print())
}

/// Mode and access ACL of a child created with `mode` where the parent has this default ACL.
pub fn inherit(default: &[u8], mode: u32) -> Result<(u32, Option<Vec<u8>>), Errno> {
    let mut acl = Acl::parse(default)?;
    acl.each_class(|perm, class| *perm &= class_bits(mode, class));
    let granted = acl.mode();
    Ok(((mode & !0o777) | granted, (!acl.is_minimal()).then(|| acl.print())))
}

#[derive(Clone, Copy)]
enum Class {
    User,
    Group,
    Other,
}

fn class_bits(mode: u32, class: Class) -> u16 {
    let shift = match class {
        Class::User => 6,
        Class::Group => 3,
        Class::Other => 0,
    };
    (mode >> shift & 0o7) as u16
}

struct Acl(Vec<(u16, u16, u32)>);

impl Acl {
    fn parse(value: &[u8]) -> Result<Acl, Errno> {
        let (version, entries) = value.split_at_checked(4).ok_or(Errno::EINVAL)?;
        let (entries, rest) = entries.as_chunks::<8>();
        if version != VERSION.to_le_bytes() || !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(Acl(entries
            .iter()
            .map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| {
                (
                    u16::from_le_bytes([t0, t1]),
                    u16::from_le_bytes([p0, p1]),
                    u32::from_le_bytes([i0, i1, i2, i3]),
                )
            })
            .collect()))
    }

    fn print(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in &self.0 {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&perm.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    fn is_minimal(&self) -> bool {
        self.0.iter().all(|(tag, ..)| matches!(*tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// Visits the entries that mode bits mirror: the group bits are those of the mask where there is one.
    fn each_class(&mut self, mut visit: impl FnMut(&mut u16, Class)) {
        let has_mask = self.0.iter().any(|(tag, ..)| *tag == MASK);
        for (tag, perm, _) in &mut self.0 {
            match *tag {
                USER_OBJ => visit(perm, Class::User),
                MASK => visit(perm, Class::Group),
                GROUP_OBJ if !has_mask => visit(perm, Class::Group),
                OTHER => visit(perm, Class::Other),
                _ => {}
            }
        }
    }

    fn mode(&self) -> u32 {
        let mut mode = 0;
        let mut copy = Acl(self.0.clone());
        copy.each_class(|perm, class| {
            mode |= match class {
                Class::User => u32::from(*perm) << 6,
                Class::Group => u32::from(*perm) << 3,
                Class::Other => u32::from(*perm),
            };
        });
        mode
    }
}
