//! Sources that change under the copy, targets that refuse, callers that abort or panic.

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{ListFeed, Place, engines, noise, read, run_jobs};
use sys::{Dir, Errno};
use transfer::{
    CopyError, CopyJob, Durability, EngineError, Feed, How, Identity, Job, Next, Options, Outcome, Writers,
    run,
};

const MIB: usize = 1 << 20;

/// Calls `change` over and over while `during` runs.
fn meanwhile<R>(change: impl Fn(u64) + Send + Sync, during: impl FnOnce() -> R) -> R {
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                change(n);
                begun.store(true, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let result = during();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Content and hash are those of one and the same bytes, however wildly the source changes.
fn stays_consistent(change: impl Fn(&std::fs::File, u64) + Send + Sync, start: usize) {
    for engine in engines() {
        for whole in [true, false] {
            let place = Place::new();
            let bytes = noise(start, 1);
            place.put("f", &bytes);
            std::fs::write(place.target_path("base"), &bytes).unwrap();
            let mut hasher = transfer::ContentHasher::default();
            hasher.update(&bytes);
            let base_blocks = hasher.finish().blocks.into();
            let base = (place.to.clone(), b"base".as_slice().into());
            let how =
                if whole { How::Whole } else { How::Delta { base, base_size: start as u64, base_blocks } };
            let file = std::fs::File::options().write(true).open(place.source_path("f")).unwrap();
            let job = place.job("f", how);
            let copied = meanwhile(|n| change(&file, n), || place.copy(engine, job)).unwrap();
            let target = read(&place.target_path("f"));
            assert_eq!(target.len() as u64, copied.size, "{engine:?}");
            assert_eq!(
                copied.hash.root,
                *blake3::hash(&target).as_bytes(),
                "{engine:?}: hash of what is there"
            );
            // On a busy machine the changing thread may rest for a whole try; the flight's own tests are exact.
            eprintln!("{engine:?}: still changing at the end: {}", copied.stat_changed_during_copy);
        }
    }
}

#[test]
fn a_file_that_grows() {
    stays_consistent(
        |file, n| {
            file.write_at(&noise(100, n), (16 * MIB) as u64 + n * 100).unwrap();
            std::thread::yield_now();
        },
        16 * MIB,
    );
}

#[test]
fn a_file_that_is_overwritten() {
    stays_consistent(
        |file, n| {
            file.write_at(&noise(5000, n), n * 77_777 % (12 * MIB as u64)).unwrap();
        },
        12 * MIB,
    );
}

#[test]
fn a_file_that_is_cut_and_grows_with_holes() {
    stays_consistent(
        |file, n| {
            file.set_len((n * 1_234_567) % (12 * MIB as u64) + 3 * MIB as u64).unwrap();
            file.write_at(&noise(9000, n), n * 777_777 % (9 * MIB as u64)).unwrap();
        },
        12 * MIB,
    );
}

#[test]
fn one_change_is_mended_by_another_try() {
    // The change comes from a job of the same run: after it, the source stands still and the next try is good.
    for engine in engines() {
        let place = Place::new();
        place.put("f", &noise(32 * MIB, 1));
        let job = place.job("f", How::Whole);
        let path = place.source_path("f");
        let change = Box::new(move || {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_at(b"changed", 5).unwrap();
            Box::new(()) as Box<dyn std::any::Any + Send>
        });
        let outcomes =
            run_jobs(engine, &Options::default(), vec![Job::Call(change), Job::Copy(Box::new(job))]);
        let Some(Outcome::Copied(Ok(copied))) = outcomes.get(&1) else { panic!("{engine:?}: not copied") };
        assert!(!copied.stat_changed_during_copy, "{engine:?}");
        assert!(read(&place.target_path("f")) == read(&place.source_path("f")), "{engine:?}");
    }
}

/// Mounts a small tmpfs; gives nothing where that is not allowed.
struct TinyMount(tempfile::TempDir);

impl TinyMount {
    fn new(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, options.as_c_str()) {
            Ok(()) => Some(Self(dir)),
            Err(errno) => {
                eprintln!("SKIPPED: mounting a tmpfs: {errno}");
                assert!(std::env::var_os("REQUIRE_ALL").is_none(), "mounting is required");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TinyMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_target_is_the_targets_error() {
    for engine in engines() {
        let Some(tiny) = TinyMount::new(3 * MIB) else { return };
        let mut place = Place::new();
        place.to = Arc::new(Dir::open(tiny.path()).unwrap());
        place.put("f", &noise(8 * MIB, 1));
        match place.copy(engine, place.job("f", How::Whole)) {
            Err(CopyError::Target(error)) => {
                assert_eq!(error.errno, Errno::NOSPC, "{engine:?}");
                assert_eq!(&*error.object, b"f");
            }
            other => panic!("{engine:?}: {other:?}"),
        }
        // The others of the run are reported all the same.
        let jobs = (0..20)
            .map(|i| {
                place.put(&format!("g{i}"), &noise(MIB, i));
                Job::Copy(Box::new(place.job(&format!("g{i}"), How::Whole)))
            })
            .collect();
        let outcomes = run_jobs(engine, &Options::default(), jobs);
        assert!(
            outcomes.values().all(|outcome| matches!(outcome, Outcome::Copied(Err(CopyError::Target(_)))))
        );
    }
}

#[test]
fn a_read_only_target_is_the_targets_error() {
    for engine in engines() {
        let Some(tiny) = TinyMount::new(3 * MIB) else { return };
        let mut place = Place::new();
        place.to = Arc::new(Dir::open(tiny.path()).unwrap());
        place.put("f", b"anything");
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount_remount(tiny.path(), flags, c"").unwrap();
        match place.copy(engine, place.job("f", How::Whole)) {
            Err(CopyError::Target(error)) => assert_eq!(error.errno, Errno::ROFS, "{engine:?}"),
            other => panic!("{engine:?}: {other:?}"),
        }
    }
}

#[test]
fn a_removed_stage_is_the_targets_error() {
    for engine in engines() {
        let place = Place::new();
        place.put("f", b"anything");
        std::fs::remove_dir(place.target_path("")).unwrap();
        match place.copy(engine, place.job("f", How::Whole)) {
            Err(CopyError::Target(error)) => assert!(error.is_gone(), "{engine:?}: {error}"),
            other => panic!("{engine:?}: {other:?}"),
        }
    }
}

#[test]
fn too_many_attributes_are_the_sources_error() {
    for engine in engines() {
        let Some(tiny) = TinyMount::new(8 * MIB) else { return };
        let mut place = Place::new();
        std::fs::write(tiny.path().join("f"), b"anything").unwrap();
        for i in 0..40 {
            let (name, value) = (format!("user.n{i}"), vec![7u8; 4000]);
            let flags = rustix::fs::XattrFlags::empty();
            if let Err(errno) = rustix::fs::setxattr(tiny.path().join("f"), name.as_str(), &value, flags) {
                eprintln!("SKIPPED: this tmpfs keeps no user attributes: {errno}");
                return;
            }
        }
        place.from = Arc::new(Dir::open(tiny.path()).unwrap());
        match place.copy(engine, place.job("f", How::Whole)) {
            Err(CopyError::Source(error)) => assert_eq!(error.errno, Errno::TOOBIG, "{engine:?}"),
            other => panic!("{engine:?}: {other:?}"),
        }
        assert!(place.to.names().unwrap().is_empty());
    }
}

/// Aborts after the first outcome.
struct Aborting {
    place: Place,
    given: u64,
    done: u64,
}

impl Feed for Aborting {
    fn next(&mut self) -> Next {
        self.given += 1;
        let stat = self.place.from.stat(b"f").unwrap();
        let job = CopyJob {
            source: (self.place.from.clone(), b"f".as_slice().into()),
            expect: Identity { ino: stat.ino, dev: stat.dev },
            target: (self.place.to.clone(), format!("t{}", self.given).into_bytes().into()),
            create_as: None,
            replace_leftover: false,
            how: How::Whole,
            writers: Writers::Seen,
            durability: Durability::Deferred,
        };
        Next::Job(self.given, Job::Copy(Box::new(job)))
    }

    fn done(&mut self, _: u64, outcome: Outcome) {
        assert!(matches!(outcome, Outcome::Copied(Ok(_))));
        self.done += 1;
    }

    fn abort(&self) -> bool {
        self.done > 0
    }
}

#[test]
fn an_abort_drains_what_is_in_flight() {
    for engine in engines() {
        let place = Place::new();
        place.put("f", &noise(100_000, 1));
        let mut feed = Aborting { place, given: 0, done: 0 };
        let options = Options { in_flight: 10, ..Options::default() };
        run(&mut feed, &options, engine).unwrap();
        assert_eq!(feed.given, feed.done, "{engine:?}");
        assert!((1..=20).contains(&feed.given), "{engine:?}: {}", feed.given);
    }
}

#[test]
fn a_call_that_panics_is_told_after_all_else_is_done() {
    for engine in engines() {
        let place = Place::new();
        place.put("f", &noise(MIB, 1));
        let copy = Job::Copy(Box::new(place.job("f", How::Whole)));
        let jobs = vec![(1, Job::Call(Box::new(|| panic!("told in the test's output")))), (0, copy)];
        let mut feed = ListFeed { jobs, outcomes: Default::default() };
        let result = run(&mut feed, &Options::default(), engine);
        assert!(matches!(result, Err(EngineError::CallPanicked)), "{engine:?}");
        assert!(matches!(feed.outcomes.get(&0), Some(Outcome::Copied(Ok(_)))));
    }
}

struct Waiting;

impl Feed for Waiting {
    fn next(&mut self) -> Next {
        Next::Wait
    }

    fn done(&mut self, _: u64, _: Outcome) {}
}

#[test]
fn waiting_for_nothing_is_an_error() {
    for engine in engines() {
        assert!(matches!(run(&mut Waiting, &Options::default(), engine), Err(EngineError::Starved)));
    }
}
