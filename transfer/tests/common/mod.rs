//! What the engine tests share: a feed over a list of jobs, and trees to copy.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::Dir;
use transfer::{
    Copied, CopyError, CopyJob, Durability, Engine, Feed, How, Identity, Job, Next, Options, Outcome,
    Writers, run,
};

/// Both engines, or only the plain one where io_uring is forbidden (and that is said).
pub fn engines() -> Vec<Engine> {
    match Engine::pick() {
        (Engine::Ring, _) => vec![Engine::Ring, Engine::Plain],
        (Engine::Plain, reason) => {
            eprintln!("SKIPPED: the ring, {}", reason.unwrap_or_default());
            assert!(std::env::var_os("REQUIRE_ALL").is_none(), "io_uring is required");
            vec![Engine::Plain]
        }
    }
}

/// Feeds a list and keeps what came of it.
pub struct ListFeed {
    pub jobs: Vec<(u64, Job)>,
    pub outcomes: BTreeMap<u64, Outcome>,
}

impl Feed for ListFeed {
    fn next(&mut self) -> Next {
        self.jobs.pop().map_or(Next::End, |(tag, job)| Next::Job(tag, job))
    }

    fn done(&mut self, tag: u64, outcome: Outcome) {
        assert!(self.outcomes.insert(tag, outcome).is_none(), "job {tag} was reported twice");
    }
}

pub struct Place {
    pub root: tempfile::TempDir,
    pub from: Arc<Dir>,
    pub to: Arc<Dir>,
}

impl Place {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub fn at(root: tempfile::TempDir) -> Self {
        sys::host::clear_umask();
        for name in ["from", "to"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let open = |name| Arc::new(Dir::open(&root.path().join(name)).unwrap());
        Self { from: open("from"), to: open("to"), root }
    }

    pub fn source_path(&self, name: &str) -> PathBuf {
        self.root.path().join("from").join(name)
    }

    pub fn target_path(&self, name: &str) -> PathBuf {
        self.root.path().join("to").join(name)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.source_path(name), bytes).unwrap();
    }

    pub fn job(&self, name: &str, how: How) -> CopyJob {
        let stat = self.from.stat(name.as_bytes()).unwrap();
        CopyJob {
            source: (self.from.clone(), name.as_bytes().into()),
            expect: Identity { ino: stat.ino, dev: stat.dev },
            target: (self.to.clone(), name.as_bytes().into()),
            create_as: None,
            replace_leftover: false,
            how,
            writers: Writers::Seen,
            durability: Durability::PerFile,
        }
    }

    /// Copies one file.
    pub fn copy(&self, engine: Engine, job: CopyJob) -> Result<Copied, CopyError> {
        let mut all = run_jobs(engine, &Options::default(), vec![Job::Copy(Box::new(job))]);
        match all.remove(&0) {
            Some(Outcome::Copied(result)) => result,
            _ => panic!("the job was not reported"),
        }
    }

    pub fn clear_target(&self) {
        for name in self.to.names().unwrap() {
            self.to.unlink(&name).unwrap();
        }
    }
}

pub fn run_jobs(engine: Engine, options: &Options, jobs: Vec<Job>) -> BTreeMap<u64, Outcome> {
    let count = jobs.len();
    let jobs = jobs.into_iter().enumerate().map(|(tag, job)| (tag as u64, job)).collect();
    let mut feed = ListFeed { jobs, outcomes: BTreeMap::new() };
    run(&mut feed, options, engine).unwrap();
    assert_eq!(feed.outcomes.len(), count, "every job is reported");
    feed.outcomes
}

/// Bytes without zero pages, different for each seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
