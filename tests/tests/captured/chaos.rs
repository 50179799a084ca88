//! Several processes change one small tree at once, in every way and without regard for each other, while cycles run.
//! Now and then all rest with their files open; then the mirror has to be what the volume is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::capture::{Capture, Gap};
use agent::run::{Watched, Worker};
use harness::compare::{Options, Report, compare};
use harness::gate::require;
use harness::writers::{Work, Writer, stir};
use sys::fanotify::Queue;

use crate::common::Site;
use crate::common::loopfs::{Kind, LoopFs};
use crate::{budget, cycle, site, worker, writer};

/// Writers at once.
const WRITERS: u64 = 3;
/// Changes of each between two rests.
const CHANGES: u64 = 300;
/// Time at rest in which there must come a cycle with nothing to do. A file that is open for writing is compared again and
/// again until it was read 100 ms after its last change; and one cycle may find that another is needed.
const SETTLE_MAX: Duration = Duration::from_secs(20);

struct Field {
    site: Site,
    capture: Arc<Capture>,
    worker: Worker,
    writers: Vec<Writer>,
    changes: u64,
    cycles: u64,
    _disk: LoopFs,
    _elsewhere: tempfile::TempDir,
}

impl Field {
    fn new(kind: Kind, queue: Queue, seed: u64) -> Self {
        let disk = LoopFs::new(kind, "2G");
        let (mut site, elsewhere) = site(&disk);
        site.options.walkers = 2;
        let beside: PathBuf = disk.path().join("beside");
        std::fs::create_dir(&beside).unwrap();
        let capture = Capture::open(queue).unwrap();
        let worker = worker(&site, &capture).unwrap();
        let writers = (0..WRITERS)
            .map(|n| {
                let work = Work::Chaos(seed * WRITERS + n, site.volume.clone(), beside.clone());
                Writer::start(writer(), &work).unwrap()
            })
            .collect();
        Self { site, capture, worker, writers, changes: 0, cycles: 0, _disk: disk, _elsewhere: elsewhere }
    }

    /// All write, and `meanwhile` is called once and again until all rest.
    fn stir(&mut self, changes: u64, mut meanwhile: impl FnMut(&mut Worker)) {
        let Self { worker, writers, .. } = self;
        self.changes += stir(writers, changes, || meanwhile(worker)).unwrap();
    }

    /// Cycles until there is nothing left to do.
    fn settle(&mut self, at: &str) {
        let deadline = Instant::now() + SETTLE_MAX;
        while Instant::now() < deadline {
            self.cycles += 1;
            if cycle(&mut self.worker, at).is_none() {
                return;
            }
        }
        panic!("{at}: there is always something left to do");
    }

    fn judge(&self) -> Report {
        compare(&self.site.volume, &self.site.mirror, &Options::default()).unwrap()
    }

    /// The mirror is what the volume is, and the index is sound.
    fn check(&self, at: &str) {
        let (report, view) = (self.judge(), self.worker.lane.index.view().unwrap());
        let exceptions = view.exceptions().unwrap();
        assert!(report.is_same(), "{at}: mirror and volume differ:\n{report}\n{exceptions:?}");
        view.audit().unwrap_or_else(|e| panic!("{at}: audit: {e}"));
        assert_eq!(view.position().totals.quarantined, 0, "{at}: {exceptions:?}");
    }
}

fn chaos(kind: Kind) {
    if !require(&kind.needs()) {
        return;
    }
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut field = Field::new(kind, Queue::Unlimited, seed);
    let deadline = Instant::now() + budget(20.0);
    let mut rests = 0;
    while Instant::now() < deadline {
        rests += 1;
        let at = format!("{kind:?}, seed {seed}, rest {rests}");
        let mut cycles = 0;
        field.stir(CHANGES, |worker| {
            cycles += 1;
            cycle(worker, &at);
        });
        field.cycles += cycles;
        field.settle(&at);
        field.check(&at);
    }
    println!(
        "{kind:?}: {} changes, {} cycles, {rests} comparisons, none with a difference",
        field.changes, field.cycles
    );
    assert!(field.changes > 1000, "{kind:?}: the writers are in each other's way");
}

#[test]
fn chaos_on_ext4_is_mirrored() {
    chaos(Kind::Ext4);
}

#[test]
fn chaos_on_xfs_is_mirrored() {
    chaos(Kind::Xfs);
}

#[test]
fn chaos_on_btrfs_is_mirrored() {
    chaos(Kind::Btrfs);
}

/// With one event in so many lost, a difference is there to be seen within a few rests. (With one in 200 it took 2 to 67:
/// most losses are made good by another event, or by the poll of what is open.)
const LOSE_ONE_IN: u64 = 20;

/// The control: the same checker finds a capture that loses events.
#[test]
fn a_capture_that_loses_events_is_found_out() {
    if !require(&Kind::Ext4.needs()) {
        return;
    }
    let mut field = Field::new(Kind::Ext4, Queue::Unlimited, 1);
    field.settle("before");
    field.capture.lose_one_in(LOSE_ONE_IN);
    let deadline = Instant::now() + budget(60.0);
    let mut rests = 0;
    while Instant::now() < deadline {
        rests += 1;
        field.stir(CHANGES, |worker| drop(cycle(worker, "losing")));
        field.settle("losing");
        let report = field.judge();
        if !report.is_same() {
            println!("one event in {LOSE_ONE_IN} lost: found at rest {rests}, {} differences", report.count);
            return;
        }
    }
    panic!("one event in {LOSE_ONE_IN} was lost for {rests} rests, and nothing is seen of it");
}

/// More happens than the kernel's queue holds while nobody reads it: that is noticed, and everything is looked at.
#[test]
fn an_overflow_is_a_gap_and_the_gap_is_closed() {
    if !require(&Kind::Ext4.needs()) {
        return;
    }
    let most = std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let most: u64 = most.trim().parse().unwrap();
    let mut field = Field::new(Kind::Ext4, Queue::Limited, 1);
    field.settle("before");
    let burst = field.site.volume.join("burst");
    for round in 0..3 {
        let at = format!("overflow {round}");
        // What the writers do is lost behind this, and nobody reads while they do it.
        if burst.exists() {
            std::fs::remove_dir_all(&burst).unwrap();
        } else {
            std::fs::create_dir(&burst).unwrap();
            (0..=most).for_each(|n| std::fs::write(burst.join(n.to_string()), [round]).unwrap());
        }
        field.stir(CHANGES, |_| std::thread::yield_now());
        field.capture.drain().unwrap();
        let Watched::Captured { target, .. } = &field.worker.watched else { unreachable!("made so") };
        assert_eq!(target.peek(|dirty| dirty.whole()), Some(Gap::QueueOverflow), "{at}: not full");
        // Once more while it is being closed.
        field.stir(CHANGES, |worker| drop(cycle(worker, "closing the gap")));
        field.settle(&at);
        field.check(&at);
    }
}
