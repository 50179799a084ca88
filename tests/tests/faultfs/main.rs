//! faultfs itself: a wrong simulated disk would make wrong tests, so it is held against a real filesystem, each
//! durability rule against a history that tells right from wrong, and each fault against what it promises.
#![forbid(unsafe_code)]

mod crash;
mod faults;
mod local;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use harness::faultfs::FaultFs;
use harness::gate::{Need, require};

#[track_caller]
fn start() -> Option<FaultFs> {
    require(&[Need::Root, Need::Fuse]).then(|| FaultFs::start().expect("start faultfs"))
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().expect("an errno"))
}

fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
