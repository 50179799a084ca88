//! Hard links, symlinks, FIFOs, a deep chain, one very large directory, empty ones.

use super::{FaithfulOptions, Tree};
use anyhow::Result;
use rustix::fs::{FileType, makedev};

/// Levels of the chain; the policy carries up to 200.
const DEPTH: usize = 120;

/// Names of the largest group of hard links.
const LARGE_GROUP: usize = 600;

pub(super) fn build(tree: &mut Tree, options: &FaithfulOptions) -> Result<()> {
    hard_links(tree)?;
    symlinks(tree)?;
    deep_chain(tree)?;
    tree.dir(b"fifos")?;
    for i in 0..20u32 {
        let name = format!("fifos/{i}");
        tree.put.node(name.as_bytes(), FileType::Fifo, 0)?;
        tree.put.mode(name.as_bytes(), [0o600, 0o666, 0, 0o4755][i as usize % 4])?;
    }
    tree.dir(b"empties")?;
    for i in 0..50 {
        tree.dir(format!("empties/{i}").as_bytes())?;
        tree.put.file(format!("empties/file-{i}").as_bytes(), b"")?;
    }
    if options.specials {
        tree.dir(b"specials")?;
        tree.put.node(b"specials/socket", FileType::Socket, 0)?;
        tree.put.node(b"specials/char", FileType::CharacterDevice, makedev(1, 3))?;
        tree.put.node(b"specials/block", FileType::BlockDevice, makedev(7, 250))?;
    }
    large_directory(tree, (options.entries / 5).min(20_000))
}

fn hard_links(tree: &mut Tree) -> Result<()> {
    tree.dir(b"links")?;
    for dir in 0..10 {
        tree.dir(format!("links/d{dir}").as_bytes())?;
    }
    for group in 0..100usize {
        let first = format!("links/d{}/g{group}-0", group % 10);
        tree.small(first.as_bytes())?;
        for name in 1..2 + group % 7 {
            // Even groups stay in their directory, odd ones spread over others, before and after it in any order.
            let dir = if group % 2 == 0 { group % 10 } else { (group + name * 3) % 10 };
            tree.put.link(first.as_bytes(), format!("links/d{dir}/g{group}-{name}").as_bytes())?;
        }
    }
    tree.small(b"links/large-0")?;
    for name in 1..LARGE_GROUP {
        let dir = if name % 3 == 0 { "links".to_owned() } else { format!("links/d{}", name % 10) };
        tree.put.link(b"links/large-0", format!("{dir}/large-{name}").as_bytes())?;
    }
    // Two inodes with the same bytes, owner, mode and time are still two.
    for name in [b"links/twin-a".as_slice(), b"links/twin-b"] {
        tree.put.file(name, b"twin")?;
        tree.put.mtime(name, (1_600_000_000, 1))?;
    }
    tree.put.link(b"links/twin-a", b"links/twin-a2")?;
    tree.put.link(b"links/twin-b", b"links/twin-b2")?;
    // Not only regular files can have two names.
    tree.put.symlink(b"links/symlink", b"nowhere")?;
    tree.put.link(b"links/symlink", b"links/symlink-linked")?;
    tree.put.node(b"links/fifo", FileType::Fifo, 0)?;
    tree.put.link(b"links/fifo", b"links/d0/fifo-linked")
}

fn symlinks(tree: &mut Tree) -> Result<()> {
    tree.dir(b"symlinks")?;
    tree.dir(b"symlinks/dir")?;
    tree.small(b"symlinks/file")?;
    let targets: [&[u8]; 22] = [
        b"file",
        b"dir",
        b"dir/",
        b"./file",
        b"no/such/name",
        b"/etc/shadow",
        b"/",
        b"//double//slash",
        b"..",
        b"../..",
        b"../../../../../../etc/passwd",
        b".",
        b"self-loop",
        b"loop-b",
        b"loop-a",
        b"/proc/self/fd/0",
        b"/proc/self/root/etc",
        b" ",
        b"new\nline",
        b"bad\xff\xfe",
        b"-rf",
        b"trailing/slash/",
    ];
    let mut names: Vec<Vec<u8>> = (0..targets.len()).map(|i| format!("symlinks/l{i}").into_bytes()).collect();
    names[12] = b"symlinks/self-loop".to_vec();
    names[13] = b"symlinks/loop-a".to_vec();
    names[14] = b"symlinks/loop-b".to_vec();
    for (name, target) in names.iter().zip(targets) {
        tree.put.symlink(name, target)?;
    }
    // Short targets are kept in the inode, long ones in a block: the borders of ext4 and the longest of all.
    for len in [1, 58, 59, 60, 61, 255, 256, 1023, 1024, 4094, 4095] {
        tree.put.symlink(format!("symlinks/len{len}").as_bytes(), &vec![b't'; len])?;
    }
    let mut path = b"../".repeat(1364);
    path.extend_from_slice(b"etc");
    tree.put.symlink(b"symlinks/up-and-up", &path)?;
    // A chain longer than the kernel follows.
    for hop in 0..50 {
        let target = format!("hop{}", hop + 1);
        tree.put.symlink(format!("symlinks/hop{hop}").as_bytes(), target.as_bytes())?;
    }
    for name in names {
        let time = tree.time();
        tree.put.mtime(&name, time)?;
    }
    Ok(())
}

fn deep_chain(tree: &mut Tree) -> Result<()> {
    let mut at = b"deep".to_vec();
    tree.dir(&at)?;
    for level in 0..DEPTH {
        at.extend_from_slice(format!("/{}", level % 10).as_bytes());
        tree.dir(&at)?;
        tree.small(&[&at[..], b"/file"].concat())?;
        if level % 10 == 0 {
            tree.put.mode(&at, 0)?;
        }
    }
    Ok(())
}

fn large_directory(tree: &mut Tree, entries: u64) -> Result<()> {
    tree.dir(b"large")?;
    for i in 0..entries {
        let name = format!("large/entry-{i:06}").into_bytes();
        match i % 50 {
            0 => tree.put.symlink(&name, b"entry-000001")?,
            1 => tree.dir(&name)?,
            2 => tree.put.link(b"large/entry-000003", &name).or_else(|_| tree.small(&name))?,
            3..10 => tree.small(&name)?,
            _ => drop(tree.put.file(&name, b"")?),
        }
    }
    Ok(())
}
