//! The product, driven in this process: a volume, a mirror, a state directory, and one call that syncs.
#![allow(dead_code, reason = "each test target uses its own part of it")]

pub mod crash;
pub mod host;
pub mod loopfs;
pub mod solo;
pub mod store;

use std::path::{Path, PathBuf};

use agent::cycle::{Cycle, CycleOptions, CycleReport, DeletionLimit, Durability, Progress, Scope, Silent};
use agent::lane::{Lane, Ownership};
use agent::state::StateDir;
use agent::volume::Volume;

/// One lane.
pub struct Site {
    pub volume: PathBuf,
    pub mirror: PathBuf,
    pub state: PathBuf,
    pub options: CycleOptions,
}

impl Site {
    /// A lane below `base`: `volume/`, `store/mirror`, `state/`.
    pub fn below(base: &Path) -> Self {
        // The product clears the umask of this process; a state directory must not lie where everybody may write.
        std::fs::set_permissions(base, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let site = Self::of(&base.join("volume"), &base.join("store/mirror"), &base.join("state"));
        std::fs::create_dir_all(&site.volume).unwrap();
        std::fs::create_dir_all(base.join("store")).unwrap();
        site
    }

    pub fn of(volume: &Path, mirror: &Path, state: &Path) -> Self {
        Self {
            volume: volume.to_owned(),
            mirror: mirror.to_owned(),
            state: state.to_owned(),
            options: options(),
        }
    }

    /// One cycle, as `tidegate sync --once` runs it, and then the trash is emptied.
    pub fn sync(&self) -> agent::Result<CycleReport> {
        let volume = Volume::pin("volume", &self.volume)?;
        let state = StateDir::at(&self.state)?;
        let (mut lane, tenure) = Lane::open_writer(&state, &self.mirror, Ownership::Ours)?;
        let report = Cycle {
            lane: &mut lane,
            tenure: &tenure,
            volume: &volume,
            options: &self.options,
            progress: &Progress::default(),
            scope: Scope::Whole,
            silent: &Silent::nothing(),
            watch: None,
        }
        .run()?;
        lane.ledger.empty_trash(&tenure)?;
        Ok(report)
    }
}

/// Small and plain: for many short runs.
pub fn options() -> CycleOptions {
    CycleOptions {
        durability: Durability::Fsync,
        limit: DeletionLimit { entries: 1_000_000, percent: 100, empty_volume: true, already: 0 },
        engine: transfer::Engine::Plain,
        in_flight: 4,
        excludes: agent::config::Excludes::default(),
        walkers: 1,
        limits: Default::default(),
        full: false,
    }
}

/// A temporary directory in memory where there is one: many tests make and drop thousands of small trees.
pub fn in_memory() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    dir
}
