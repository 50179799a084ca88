//! Capture: with what the kernel says was touched, and no walk, the mirror is what the volume is.
//!
//! In reading order: [`sequences`] of single operations; [`stories`] of changes that were missed once; [`silent`] writes, of which no event tells; [`chaos`], all kinds of
//! change at once from several processes, with its controls; [`cost`] of looking who has what open.

#[path = "../common/mod.rs"]
mod common;

mod chaos;
mod cost;
mod sequences;
mod silent;
mod stories;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::capture::{Begin, Capture};
use agent::lane::{Lane, Ownership};
use agent::run::{Watched, Worker};
use agent::state::StateDir;
use agent::volume::Volume;
use common::Site;

/// The program whose processes write.
fn writer() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_writer"))
}

/// A worker of `site`, told by `capture`.
fn worker(site: &Site, capture: &Arc<Capture>) -> agent::Result<Worker> {
    let volume = Volume::pin("volume", &site.volume)?;
    let state = StateDir::at(&site.state)?;
    let (lane, tenure) = Lane::open_writer(&state, &site.mirror, Ownership::Ours)?;
    let target =
        capture.watch(volume.root.clone(), Begin::unknown(None)).expect("this file system is captured");
    let watched = Watched::Captured { capture: capture.clone(), target };
    Worker::new(lane, tenure, volume, site.options.clone(), watched, Duration::from_secs(600))
}

/// How long a test of chance runs on each file system; `TIDEGATE_SECONDS` makes it longer.
fn budget(seconds: f64) -> Duration {
    let given = std::env::var("TIDEGATE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(given.unwrap_or(seconds))
}

/// A worker for whom a failed cycle is a failed test, told with all its causes.
fn cycle(worker: &mut Worker, at: &str) -> Option<agent::cycle::CycleReport> {
    let report = worker.cycle(agent::run::Retry::No, std::time::Instant::now());
    let report = report.unwrap_or_else(|e| panic!("{at}: {}", common::crash::chain(&e)));
    worker.empty_trash().unwrap_or_else(|e| panic!("{at}: {}", common::crash::chain(&e)));
    report
}

/// A lane whose volume lies on `disk` and everything else elsewhere. Making a stage durable writes back all of its file
/// system; that would clean the volume's pages too, and hide that nobody else does.
fn site(disk: &common::loopfs::LoopFs) -> (Site, tempfile::TempDir) {
    let elsewhere = common::in_memory();
    let at = |name: &str| elsewhere.path().join(name);
    let site = Site::of(&disk.path().join("volume"), &at("store/mirror"), &at("state"));
    std::fs::create_dir(&site.volume).unwrap();
    std::fs::create_dir(at("store")).unwrap();
    (site, elsewhere)
}
