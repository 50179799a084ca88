//! Very many tiny files, as fast as the filesystem creates them: for tests of scale.

use super::Made;
use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use std::path::Path;

/// Files per directory.
pub const PER_DIRECTORY: u64 = 100;

/// Directories per directory above, so that no level is a huge one.
const FAN_OUT: u64 = 1000;

/// Makes `n` files, a hundred per directory; every tenth has a few bytes, the others are empty.
///
/// # Errors
/// When the filesystem refuses one of them.
pub fn million(dir: &Path, n: u64) -> Result<Made> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let root = openat(CWD, dir, directory, Mode::empty()).context("open the tree's root")?;
    let mut made = Made::default();
    let mut upper = None;
    for first in (0..n).step_by(PER_DIRECTORY as usize) {
        let number = first / PER_DIRECTORY;
        if number.is_multiple_of(FAN_OUT) {
            let name = format!("m{}", number / FAN_OUT);
            mkdirat(&root, &name, Mode::from_raw_mode(0o755))?;
            made.directories += 1;
            upper = Some(openat(&root, &name, directory, Mode::empty())?);
        }
        let upper = upper.as_ref().context("number 0 made an upper directory")?;
        let name = format!("d{}", number % FAN_OUT);
        mkdirat(upper, &name, Mode::from_raw_mode(0o755))?;
        made.directories += 1;
        let here = openat(upper, &name, directory, Mode::empty())?;
        for i in first..n.min(first + PER_DIRECTORY) {
            let file = openat(&here, format!("f{i}"), create, Mode::from_raw_mode(0o644))?;
            if i % 10 == 0 {
                let content = format!("file number {i}\n");
                made.bytes += rustix::io::write(&file, content.as_bytes())? as u64;
            }
            made.files += 1;
        }
    }
    Ok(made)
}
