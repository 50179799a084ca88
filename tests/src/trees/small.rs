//! About sixty entries with one of each interesting thing: cheap enough to copy at every crash point.

use super::put::{AclTag, Putter, acl, sample_acl};
use super::{Made, Rng};
use anyhow::Result;
use rustix::fs::FileType;
use std::path::Path;

/// Fills `dir`; names and kinds are fixed, contents, owners and times come from `seed`.
///
/// # Errors
/// When the filesystem refuses an entry, or when not run as root.
pub fn small_mixed(dir: &Path, seed: u64) -> Result<Made> {
    let mut rng = Rng::new(seed);
    let mut put = Putter::new(dir);
    let dirs: [&[u8]; 9] = [
        b"jobs",
        b"jobs/build",
        b"jobs/build/1",
        b"jobs/build/2",
        b"deep",
        b"deep/x",
        b"deep/x/y",
        b"empty",
        b"locked",
    ];
    for name in dirs {
        put.dir(name)?;
    }
    let mut files: Vec<Vec<u8>> = Vec::new();
    plain_files(&mut put, &mut rng, &mut files)?;
    odd_names(&mut put, &mut rng, &mut files)?;
    sparse_files(&mut put, &mut rng, &mut files)?;
    put.link(b"jobs/build/1/log", b"jobs/build/2/log-linked")?;
    put.link(b"jobs/build/1/log", b"linked-top")?;
    put.link(b"config.xml", b"config-linked.xml")?;
    put.symlink(b"jobs/build/last", b"2")?;
    put.symlink(b"dangling", b"no/such/name")?;
    put.symlink(b"absolute", b"/etc/hostname")?;
    put.symlink(b"loop-a", b"loop-b")?;
    put.symlink(b"loop-b", b"loop-a")?;
    put.symlink(b"deep/up", b"../..")?;
    put.symlink(b"long-target", &vec![b't'; 4095])?;
    put.node(b"fifo", FileType::Fifo, 0)?;
    put.node(b"deep/fifo", FileType::Fifo, 0)?;
    put.node(b"socket", FileType::Socket, 0)?;
    put.node(b"null", FileType::CharacterDevice, rustix::fs::makedev(1, 3))?;
    put.node(b"disk", FileType::BlockDevice, rustix::fs::makedev(7, 99))?;
    attributes(&mut put, &mut rng, &files)?;
    // Directory times last, deepest first: everything above changes them.
    for (i, name) in dirs.iter().rev().enumerate() {
        put.mtime(name, (1_600_000_000 + i as i64 * 86_400, rng.below(1_000_000_000) as u32))?;
    }
    Ok(put.made)
}

fn plain_files(put: &mut Putter, rng: &mut Rng, files: &mut Vec<Vec<u8>>) -> Result<()> {
    let sizes: [(&[u8], usize); 14] = [
        (b"config.xml", 1700),
        (b"jobs/build/1/build.xml", 3100),
        (b"jobs/build/1/log", 70_000),
        (b"jobs/build/2/build.xml", 2900),
        (b"jobs/build/2/log", 12_345),
        (b"deep/x/y/leaf", 10),
        (b"zero", 0),
        (b"one", 1),
        (b"page-less", 4095),
        (b"page", 4096),
        (b"page-more", 4097),
        (b"buffer", 131_072),
        (b"large", (1 << 20) + 1),
        (b"locked/inside", 20),
    ];
    for (name, size) in sizes {
        put.file(name, &rng.bytes(size))?;
        files.push(name.to_vec());
    }
    Ok(())
}

fn odd_names(put: &mut Putter, rng: &mut Rng, files: &mut Vec<Vec<u8>>) -> Result<()> {
    let long = vec![b'n'; 255];
    let names: [&[u8]; 14] = [
        b"new\nline",
        b"\x1b[2Jescape",
        b"bad\xff\xfeutf8",
        b"-rf",
        b".hidden",
        b"...",
        b"trailing ",
        b"back\\slash",
        b"HEAD",
        b".tidegate-x",
        b"Case",
        b"case",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
    ];
    for name in names.into_iter().chain([long.as_slice()]) {
        let len = rng.between(1, 300) as usize;
        put.file(name, &rng.bytes(len))?;
        files.push(name.to_vec());
    }
    Ok(())
}

fn sparse_files(put: &mut Putter, rng: &mut Rng, files: &mut Vec<Vec<u8>>) -> Result<()> {
    let page = rng.bytes(4096);
    put.sparse(b"hole-first", (1 << 20) + 4096, &[(1 << 20, &page)])?;
    put.sparse(b"hole-last", 1 << 20, &[(0, &page)])?;
    put.sparse(b"hole-only", 1 << 20, &[])?;
    for name in [b"hole-first".as_slice(), b"hole-last", b"hole-only"] {
        files.push(name.to_vec());
    }
    Ok(())
}

fn attributes(put: &mut Putter, rng: &mut Rng, files: &[Vec<u8>]) -> Result<()> {
    put.xattr(b"config.xml", "user.tidegate.test", b"value")?;
    put.xattr(b"config.xml", "user.empty", b"")?;
    put.xattr(b"page", "user.binary", &rng.bytes(700))?;
    put.xattr(b"jobs", "user.on-dir", b"dir")?;
    for (i, name) in files.iter().enumerate() {
        put.owner(name, 1000 + rng.below(5) as u32, if i % 3 == 0 { 4_000_000_000 } else { 1000 })?;
    }
    put.owner(b"jobs", 1000, 1000)?;
    put.owner(b"dangling", 1001, 1002)?;
    put.xattr(b"one", "system.posix_acl_access", &sample_acl(1234, 5678))?;
    let default = acl(&[
        (AclTag::Owner, 7),
        (AclTag::User(4321), 7),
        (AclTag::OwningGroup, 5),
        (AclTag::Mask, 7),
        (AclTag::Other, 5),
    ]);
    put.xattr(b"jobs/build", "system.posix_acl_default", &default)?;
    put.mode(b"zero", 0)?;
    put.mode(b"page-less", 0o4755)?;
    put.mode(b"page-more", 0o2711)?;
    put.mode(b"buffer", 0o600)?;
    put.mode(b"fifo", 0o620)?;
    put.mode(b"deep", 0o1777)?;
    put.mode(b"deep/x", 0o2770)?;
    put.mode(b"locked", 0)?;
    let times =
        [(1, 0), (0, 1), (1_700_000_000, 999_999_999), (4_300_000_000, 123_456_789), (-1, 500_000_000)];
    for name in files {
        put.mtime(name, *rng.pick(&times))?;
    }
    for name in [b"dangling".as_slice(), b"fifo", b"loop-a", b"jobs/build/last"] {
        put.mtime(name, (1_234_567_890, rng.below(1_000_000_000) as u32))?;
    }
    Ok(())
}
