//! One lane whose mirror lies on a simulated disk: prepared once, then crashed or failed again and again.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::compare::{Options, compare};
use harness::faultfs::FaultFs;

use super::Site;

/// A volume with two states on a simulated disk that holds the first as generation 1.
pub struct Bench {
    pub disk: FaultFs,
    pub site: Site,
    dir: tempfile::TempDir,
}

/// A state of the volume, by name.
pub const STATES: [&str; 2] = ["one", "two"];

impl Bench {
    /// `first` fills the volume, `then` changes it.
    pub fn new(first: impl Fn(&Path), then: impl Fn(&Path)) -> Self {
        let disk = FaultFs::start().unwrap();
        let dir = super::in_memory();
        let mut site =
            Site::of(&dir.path().join("volume"), &disk.path().join("mirror"), &dir.path().join("state"));
        // One at a time and in order, so that a crash point is the same call in every run.
        site.options.in_flight = 1;
        std::fs::create_dir(&site.volume).unwrap();
        disk.snapshot("empty").unwrap();
        // Who we are outlives everything else on the local disk.
        agent::state::StateDir::at(&site.state).unwrap();
        let bench = Self { disk, site, dir };
        bench.save_state("empty");
        first(&bench.site.volume);
        bench.copy(&bench.site.volume, &bench.dir.path().join("one"));
        bench.site.sync().unwrap();
        bench.disk.snapshot("one").unwrap();
        bench.save_state("one");
        then(&bench.site.volume);
        bench.copy(&bench.site.volume, &bench.dir.path().join("two"));
        bench
    }

    fn copy(&self, from: &Path, to: &Path) {
        let _ = std::fs::remove_dir_all(to);
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    }

    fn save_state(&self, name: &str) {
        self.copy(&self.site.state, &self.dir.path().join(format!("state-{name}")));
    }

    /// Disk and local state as they were when generation `name` was published.
    pub fn rewind(&self, name: &str) {
        self.disk.restore(name).unwrap();
        self.rewind_state(name);
    }

    /// The local state alone: what a host that lost its unwritten pages would find.
    pub fn rewind_state(&self, name: &str) {
        self.copy(&self.dir.path().join(format!("state-{name}")), &self.site.state);
    }

    /// The tree of a state.
    pub fn tree(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many mutating calls one undisturbed sync from `name` makes.
    pub fn points(&self, name: &str) -> u64 {
        self.rewind(name);
        self.disk.clear_trace().unwrap();
        self.site.sync().unwrap();
        self.disk.trace().unwrap().last().map_or(0, |entry| entry.n)
    }

    /// What the mirror holds after whoever comes next has rolled it forward: the state's number, 0 for none.
    /// Judged by content and metadata, by a comparer that is not ours.
    pub fn held(&self, at: &str) -> u64 {
        use agent::lane::{Lane, Ownership};
        use agent::state::StateDir;
        let state = StateDir::at(&self.site.state).unwrap();
        let opened = Lane::open_writer(&state, &self.site.mirror, Ownership::Ours);
        let (lane, _) = opened.unwrap_or_else(|e| panic!("{at}: cannot be opened again: {}", chain(&e)));
        let generation = lane.head.as_ref().map_or(0, |head| head.generation.0);
        drop(lane);
        assert!(generation <= 2, "{at}: generation {generation}");
        if generation > 0 {
            self.assert_equals(STATES[generation as usize - 1], at);
        } else {
            assert!(
                !self.site.mirror.exists() || std::fs::read_dir(&self.site.mirror).unwrap().next().is_none(),
                "{at}: no generation, but the mirror holds something"
            );
        }
        generation
    }

    /// The mirror equals that state.
    pub fn assert_equals(&self, name: &str, at: &str) {
        let report = compare(&self.tree(name), &self.site.mirror, &Options::default()).unwrap();
        assert!(report.is_same(), "{at}: the mirror is not state {name}: {report}");
    }
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
