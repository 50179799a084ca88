//! Modes, owners, times, ACLs and xattrs, on every type of entry that can have them.

use super::super::put::{AclTag, acl, sample_acl};
use super::{Tree, below};
use anyhow::Result;
use rustix::fs::FileType;

/// Ids at the borders of 16 and 31 bits, and large ones as user namespaces hand out; 2^32-1 means "none".
const IDS: [u32; 12] = [
    0,
    1,
    1000,
    65_534,
    65_535,
    65_536,
    100_000,
    2_147_483_647,
    2_147_483_648,
    4_000_000_000,
    4_294_967_293,
    4_294_967_294,
];

pub(super) fn build(tree: &mut Tree) -> Result<()> {
    modes(tree)?;
    owners(tree)?;
    times(tree)?;
    acls(tree)?;
    xattrs(tree)
}

fn modes(tree: &mut Tree) -> Result<()> {
    tree.dir(b"modes")?;
    for special in 0..8u32 {
        for rest in [0, 0o777, 0o644, 0o600, 0o555, 0o111, 0o222, 0o070, 0o007] {
            let mode = special << 9 | rest;
            let file = format!("modes/f{mode:04o}");
            tree.small(file.as_bytes())?;
            // A change of owner clears setuid, so the owner comes first here and must in a copy too.
            tree.put.owner(file.as_bytes(), 1000, 1001)?;
            tree.put.mode(file.as_bytes(), mode)?;
            let dir = format!("modes/d{mode:04o}");
            tree.dir(dir.as_bytes())?;
            tree.small(format!("{dir}/inside").as_bytes())?;
            tree.put.owner(dir.as_bytes(), 1000, 1001)?;
            tree.put.mode(dir.as_bytes(), mode)?;
        }
    }
    Ok(())
}

fn owners(tree: &mut Tree) -> Result<()> {
    tree.dir(b"owners")?;
    for uid in IDS {
        for gid in IDS {
            let file = format!("owners/f{uid}-{gid}");
            tree.small(file.as_bytes())?;
            tree.put.owner(file.as_bytes(), uid, gid)?;
        }
        let dir = format!("owners/d{uid}");
        tree.dir(dir.as_bytes())?;
        tree.put.owner(dir.as_bytes(), uid, 1000)?;
        let link = format!("owners/l{uid}");
        tree.put.symlink(link.as_bytes(), dir.as_bytes())?;
        tree.put.owner(link.as_bytes(), uid, uid)?;
        let fifo = format!("owners/p{uid}");
        tree.put.node(fifo.as_bytes(), FileType::Fifo, 0)?;
        tree.put.owner(fifo.as_bytes(), 1000, uid)?;
    }
    Ok(())
}

fn times(tree: &mut Tree) -> Result<()> {
    tree.dir(b"times")?;
    for (i, time) in tree.times.clone().into_iter().enumerate() {
        let file = format!("times/f{i}");
        tree.small(file.as_bytes())?;
        tree.put.mtime(file.as_bytes(), time)?;
        let link = format!("times/l{i}");
        tree.put.symlink(link.as_bytes(), b"f0")?;
        tree.put.mtime(link.as_bytes(), time)?;
        let fifo = format!("times/p{i}");
        tree.put.node(fifo.as_bytes(), FileType::Fifo, 0)?;
        tree.put.mtime(fifo.as_bytes(), time)?;
    }
    // Many directories, as theirs are set in the last step.
    for i in 0..100 {
        tree.dir(format!("times/d{i}").as_bytes())?;
        tree.small(format!("times/d{i}/inside").as_bytes())?;
    }
    Ok(())
}

fn acls(tree: &mut Tree) -> Result<()> {
    tree.dir(b"acls")?;
    let default = acl(&[
        (AclTag::Owner, 7),
        (AclTag::User(4_000_000_000), 3),
        (AclTag::OwningGroup, 5),
        (AclTag::Mask, 7),
        (AclTag::Other, 1),
    ]);
    let plain_default = acl(&[(AclTag::Owner, 7), (AclTag::OwningGroup, 5), (AclTag::Other, 0)]);
    // A mask narrower than the group: chmod after setting the ACL would widen what it must not.
    let masked = acl(&[
        (AclTag::Owner, 4),
        (AclTag::User(0), 7),
        (AclTag::User(1000), 0),
        (AclTag::OwningGroup, 7),
        (AclTag::Mask, 0),
        (AclTag::Other, 7),
    ]);
    let mut many = vec![(AclTag::Owner, 6)];
    many.extend((0..100).map(|i| (AclTag::User(2000 + i), (i % 8) as u16)));
    many.push((AclTag::OwningGroup, 4));
    many.extend((0..100).map(|i| (AclTag::Group(3000 + i), (i % 8) as u16)));
    many.extend([(AclTag::Mask, 7), (AclTag::Other, 0)]);
    let many = acl(&many);
    for i in 0..40u32 {
        let file = format!("acls/f{i}");
        tree.small(file.as_bytes())?;
        tree.put.owner(file.as_bytes(), 1000 + i, 1000)?;
        let value = match i % 4 {
            0 => masked.clone(),
            1 => many.clone(),
            _ => sample_acl(i, u32::MAX - 2 - i),
        };
        tree.put.xattr(file.as_bytes(), "system.posix_acl_access", &value)?;
        let dir = format!("acls/d{i}");
        tree.dir(dir.as_bytes())?;
        tree.put.xattr(dir.as_bytes(), "system.posix_acl_access", &value)?;
        // Made before the default ACL, so that it inherits nothing: a copier must not let it inherit either.
        tree.small(format!("{dir}/before").as_bytes())?;
        let value = if i % 2 == 0 { &default } else { &plain_default };
        tree.put.xattr(dir.as_bytes(), "system.posix_acl_default", value)?;
        tree.small(format!("{dir}/inherits").as_bytes())?;
        tree.dir(format!("{dir}/inherits-dir").as_bytes())?;
    }
    let fifo = b"acls/fifo";
    tree.put.node(fifo, FileType::Fifo, 0)?;
    tree.put.xattr(fifo, "system.posix_acl_access", &sample_acl(5, 6))
}

fn xattrs(tree: &mut Tree) -> Result<()> {
    tree.dir(b"xattrs")?;
    for i in 0..40usize {
        let file = format!("xattrs/f{i}").into_bytes();
        let dir = format!("xattrs/d{i}").into_bytes();
        tree.small(&file)?;
        tree.dir(&dir)?;
        for name in [file.as_slice(), &dir] {
            let value = match i % 5 {
                0 => Vec::new(),
                1 => b"text".to_vec(),
                2 => tree.rng.bytes(64),
                3 => tree.rng.bytes(3000),
                _ => vec![0; 17],
            };
            tree.put.xattr(name, "user.one", &value)?;
            if i % 2 == 0 {
                for more in 0..12 {
                    let value = tree.rng.bytes(more * 3);
                    tree.put.xattr(name, &format!("user.more.{more}"), &value)?;
                }
                tree.put.xattr(name, "user.\u{e9}\n", b"odd attribute name")?;
                tree.put.xattr(name, &format!("user.{}", "l".repeat(200)), b"long attribute name")?;
            }
        }
        // All of it together, with times and a mode that makes the file unreadable to its owner.
        tree.put.owner(&file, 1000, 1000)?;
        tree.put.mode(&file, if i % 4 == 0 { 0 } else { 0o6755 })?;
        let time = tree.time();
        tree.put.mtime(&file, time)?;
    }
    tree.small(&below(b"xattrs", b"bare"))
}
