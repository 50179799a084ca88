//! Ordinary entries with random attributes, until the tree has as many names as asked for.

use super::super::put::sample_acl;
use super::{Tree, below};
use anyhow::Result;
use rustix::fs::FileType;

const PER_DIRECTORY: u64 = 120;

pub(super) fn build(tree: &mut Tree, entries: u64) -> Result<()> {
    if tree.put.made.entries() >= entries {
        return Ok(());
    }
    tree.dir(b"bulk")?;
    let mut dirs: Vec<Vec<u8>> = vec![b"bulk".to_vec()];
    while tree.put.made.entries() < entries {
        // Below any earlier directory, so that the tree is neither flat nor a chain.
        let parent = dirs[tree.rng.index(dirs.len())].clone();
        let dir = below(&parent, format!("d{}", dirs.len()).as_bytes());
        tree.dir(&dir)?;
        let left = entries - tree.put.made.entries();
        fill(tree, &dir, left.min(PER_DIRECTORY))?;
        if tree.rng.percent(30) {
            let uid = tree.rng.below(4_294_967_295) as u32;
            tree.put.owner(&dir, uid, 1000)?;
            let mode = tree.rng.below(0o10000) as u32;
            tree.put.mode(&dir, mode)?;
        }
        dirs.push(dir);
    }
    Ok(())
}

fn fill(tree: &mut Tree, dir: &[u8], count: u64) -> Result<()> {
    let mut last_file: Option<Vec<u8>> = None;
    for i in 0..count {
        let name = below(dir, format!("e{i}").as_bytes());
        match (tree.rng.below(100), &last_file) {
            (0..3, _) => {
                tree.put.symlink(&name, format!("e{}", i / 2).as_bytes())?;
                let time = tree.time();
                tree.put.mtime(&name, time)?;
                continue;
            }
            (3, _) => {
                tree.put.node(&name, FileType::Fifo, 0)?;
                continue;
            }
            (4..7, Some(file)) => {
                tree.put.link(file, &name)?;
                continue;
            }
            _ => {}
        }
        let len = if tree.rng.percent(20) { 0 } else { tree.rng.below(3000) as usize };
        let bytes = tree.rng.bytes(len);
        tree.put.file(&name, &bytes)?;
        if tree.rng.percent(50) {
            let (uid, gid) = (tree.rng.below(4_294_967_295) as u32, tree.rng.below(70_000) as u32);
            tree.put.owner(&name, uid, gid)?;
        }
        if tree.rng.percent(3) {
            let value = tree.rng.bytes(len % 100);
            tree.put.xattr(&name, "user.bulk", &value)?;
        }
        if tree.rng.percent(2) {
            let id = tree.rng.below(100_000) as u32;
            tree.put.xattr(&name, "system.posix_acl_access", &sample_acl(id, id + 1))?;
        } else if tree.rng.percent(30) {
            let mode = tree.rng.below(0o10000) as u32;
            tree.put.mode(&name, mode)?;
        }
        let time = tree.time();
        tree.put.mtime(&name, time)?;
        last_file = Some(name);
    }
    Ok(())
}
