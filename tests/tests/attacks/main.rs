//! The attacks of the threat model on a sync: a root process copies a tree that its enemy writes at the same time.
//!
//! "No escape" is judged by a canary outside the volume that must stay untouched and whose secret must turn up
//! nowhere in mirror and ledger, and by a comparer that is not ours once the attacker rests.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod content;
mod deletes;
mod links;
mod mirrors;
mod mounts;
mod names;
mod races;
mod specials;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::cycle::CycleReport;
use common::Site;
use harness::compare::{Options, assert_same};
use harness::flip::Canary;
use proto::ExceptionClass;

/// How long one race runs; `ATTACK_SECONDS` makes it longer.
fn budget() -> Duration {
    let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(3.0))
}

/// A lane in memory with a canary beside it.
struct Field {
    site: Site,
    canary: Canary,
    dir: tempfile::TempDir,
}

impl Field {
    fn new() -> Self {
        Self::with_names(&[])
    }

    /// The canary has secrets of these names.
    fn with_names(names: &[&[u8]]) -> Self {
        let dir = common::in_memory();
        let site = Site::below(dir.path());
        let canary = Canary::plant_names(&dir.path().join("canary"), names).unwrap();
        Self { site, canary, dir }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.site.volume.join(path)
    }

    fn copy(&self, path: &str) -> PathBuf {
        self.site.mirror.join(path)
    }

    #[track_caller]
    fn sync(&self) -> CycleReport {
        self.site.sync().unwrap_or_else(|e| panic!("sync: {}", common::crash::chain(&e)))
    }

    /// Syncs and demands an answer in time.
    #[track_caller]
    fn sync_within(&self, limit: Duration) -> CycleReport {
        let start = Instant::now();
        let report = self.sync();
        assert!(start.elapsed() < limit, "a sync took {:?}", start.elapsed());
        report
    }

    /// Syncs again and again while somebody else attacks; every other time the whole tree. `each` is called
    /// before each of them. Returns how often.
    fn sync_under_attack(&mut self, mut each: impl FnMut(&Site, u64)) -> u64 {
        let start = Instant::now();
        let mut rounds = 0;
        while start.elapsed() < budget() {
            rounds += 1;
            each(&self.site, rounds);
            self.site.options.full = rounds % 2 == 0;
            self.sync_within(Duration::from_secs(30));
        }
        self.site.options.full = false;
        rounds
    }

    /// The canary is well, and after one more sync the mirror is the volume.
    #[track_caller]
    fn assert_unharmed(&self) {
        self.sync();
        self.canary.assert_untouched();
        self.canary.assert_not_in(&self.site.mirror);
        // Mirror, stage and ledger lie there; the state directory holds the index.
        self.canary.assert_not_in(&self.dir.path().join("store"));
        self.canary.assert_not_in(&self.site.state);
        self.assert_follows();
    }

    /// One more sync, and the mirror is the volume.
    #[track_caller]
    fn assert_follows(&self) {
        let report = self.sync();
        assert_eq!(report.totals.quarantined, 0, "{:?}", self.exceptions());
        assert_same(&self.site.volume, &self.site.mirror, &Options::default());
    }

    /// What the ledger lists as not replicated: path as told to a user, class, reason.
    fn exceptions(&self) -> Vec<(String, ExceptionClass, String)> {
        exceptions(&self.site)
    }

    #[track_caller]
    fn exception(&self, path: &str) -> (ExceptionClass, String) {
        let all = self.exceptions();
        match all.iter().find(|(at, ..)| at == path) {
            Some((_, class, reason)) => (*class, reason.clone()),
            None => panic!("{path} is not listed as left out or quarantined: {all:?}"),
        }
    }
}

fn exceptions(site: &Site) -> Vec<(String, ExceptionClass, String)> {
    let state = agent::state::StateDir::at(&site.state).unwrap();
    let lane = agent::lane::Lane::open_reader(&state, &site.mirror, agent::lane::Ownership::Ours).unwrap();
    let listed = lane.index.view().unwrap().exceptions().unwrap();
    listed.into_iter().map(|(path, e)| (path.to_string(), e.class, e.reason)).collect()
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

fn mkdir(path: &Path) {
    std::fs::create_dir_all(path).unwrap_or_else(|e| panic!("mkdir {}: {e}", path.display()));
}
