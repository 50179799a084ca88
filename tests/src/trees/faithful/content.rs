//! Files whose length sits at a border of pages, buffers and chunks, and files with holes.

use super::{FaithfulOptions, Tree};
use anyhow::Result;

const MIB: u64 = 1 << 20;

pub(super) fn build(tree: &mut Tree, options: &FaithfulOptions) -> Result<()> {
    borders(tree)?;
    holes(tree)?;
    if options.huge_sparse {
        let page = tree.rng.bytes(4096);
        tree.put.sparse(
            b"sparse/huge",
            1 << 40,
            &[(0, &page), (1 << 39, &page), ((1 << 40) - 4096, &page)],
        )?;
    }
    Ok(())
}

fn borders(tree: &mut Tree) -> Result<()> {
    tree.dir(b"sizes")?;
    for border in [512, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, MIB, 4 * MIB] {
        for size in [border - 1, border, border + 1] {
            let bytes = tree.rng.bytes(size as usize);
            tree.put.file(format!("sizes/{size}").as_bytes(), &bytes)?;
        }
    }
    for size in [0, 1, 2, 100, 9 * MIB] {
        let bytes = tree.rng.bytes(size as usize);
        tree.put.file(format!("sizes/{size}").as_bytes(), &bytes)?;
    }
    // All zeros but not holes; the same bytes twice; two files that differ in their last byte.
    tree.put.file(b"sizes/zeros", &vec![0; 300_000])?;
    let mut bytes = tree.rng.bytes(2 * MIB as usize);
    tree.put.file(b"sizes/same-a", &bytes)?;
    tree.put.file(b"sizes/same-b", &bytes)?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    tree.put.file(b"sizes/nearly-same", &bytes)?;
    Ok(())
}

fn holes(tree: &mut Tree) -> Result<()> {
    tree.dir(b"sparse")?;
    let page = tree.rng.bytes(4096);
    let large = tree.rng.bytes(200_000);
    let put = &mut tree.put;
    put.sparse(b"sparse/leading", 3 * MIB + 4096, &[(3 * MIB, &page)])?;
    put.sparse(b"sparse/trailing", 3 * MIB, &[(0, &large)])?;
    put.sparse(b"sparse/trailing-odd", 3 * MIB + 17, &[(5, &large)])?;
    put.sparse(b"sparse/middle", 4 * MIB, &[(0, &page), (4 * MIB - 4096, &page)])?;
    put.sparse(b"sparse/all", 5 * MIB, &[])?;
    put.sparse(b"sparse/all-odd", 5 * MIB + 1, &[])?;
    put.sparse(b"sparse/one-byte", 1, &[])?;
    let comb: Vec<(u64, &[u8])> = (0..64).map(|i| (i * 256 * 1024, page.as_slice())).collect();
    put.sparse(b"sparse/comb", 64 * 256 * 1024, &comb)?;
    let fine: Vec<(u64, &[u8])> = (0..200).map(|i| (i * 8192, page.as_slice())).collect();
    put.sparse(b"sparse/fine-comb", 200 * 8192, &fine)?;
    put.sparse(b"sparse/unaligned", 2 * MIB, &[(MIB - 100, &large[..200]), (MIB + 70_000, &large[..9])])?;
    put.sparse(b"sparse/beyond-4-gib", (5 << 30) + 3, &[(5 << 30, b"end"), ((4 << 30) - 2, b"edge")])?;
    for (name, mode) in [(b"sparse/all".as_slice(), 0), (b"sparse/comb", 0o4711)] {
        put.mode(name, mode)?;
    }
    Ok(())
}
