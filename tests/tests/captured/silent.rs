//! Writes of which no event tells: stores through a mapping, libaio, a loop device. The files stay open all the time.
//!
//! Tried on ext4: without the cleaning 297 of 300 rounds miss what was stored. With the cleaning before the look instead of
//! behind it none does, for what is read within 100 ms of its last change is compared again; without that rule 300 of 300
//! do, and in the right order still none.

use std::path::Path;
use std::time::Instant;

use agent::capture::Capture;
use agent::cycle::CycleReport;
use agent::run::Worker;
use harness::gate::require;
use harness::writers::{Way, Work, Writer};
use sys::fanotify::Queue;

use crate::common::Site;
use crate::common::loopfs::{Kind, LoopDevice, LoopFs};
use crate::{cycle, site, worker, writer};

/// Rounds on each file system.
const ROUNDS: u64 = 300;
/// Writes of each writer in a round: mostly to pages that are dirty already.
const WRITES: u64 = 400;

/// A lane whose volume holds one file for each way of writing to it, and their writers.
struct Field {
    site: Site,
    worker: Worker,
    names: Vec<String>,
    writers: Vec<Writer>,
    // In this order: the device has its file on the disk.
    _device: LoopDevice,
    _disk: LoopFs,
    _elsewhere: tempfile::TempDir,
}

impl Field {
    fn new(kind: Kind) -> Self {
        let disk = LoopFs::new(kind, "1G");
        let (site, elsewhere) = site(&disk);
        let mut names = Vec::new();
        for way in Way::TO_FILES.into_iter().chain([Way::Block]) {
            let name = format!("{way:?}");
            // Written, not only made long: libaio past the page cache would change the size of what is on the disk.
            std::fs::write(site.volume.join(&name), vec![1; Way::BYTES as usize]).unwrap();
            names.push(name);
        }
        let device = LoopDevice::over(&site.volume.join(format!("{:?}", Way::Block)));
        let mut works: Vec<Work> = Way::TO_FILES
            .iter()
            .map(|way| Work::Silent(*way, site.volume.join(format!("{way:?}"))))
            .collect();
        works.push(Work::Silent(Way::Block, device.path().to_owned()));
        let writers = works.iter().map(|work| Writer::start(writer(), work).unwrap()).collect();
        let worker = worker(&site, &Capture::open(Queue::Unlimited).unwrap()).unwrap();
        Self { site, worker, names, writers, _device: device, _disk: disk, _elsewhere: elsewhere }
    }

    /// Names of the files of which the mirror has other bytes than the volume.
    fn differing(&self) -> Vec<&str> {
        let read = |root: &Path, name: &str| std::fs::read(root.join(name)).unwrap();
        let differs = |name: &&String| read(&self.site.volume, name) != read(&self.site.mirror, name);
        self.names.iter().filter(differs).map(String::as_str).collect()
    }

    fn cycle(&mut self, at: &str) -> Option<CycleReport> {
        cycle(&mut self.worker, at)
    }
}

fn rounds(kind: Kind) {
    if !require(&kind.needs()) {
        return;
    }
    let mut field = Field::new(kind);
    field.cycle("the first");
    let begun = Instant::now();
    let mut missed = Vec::new();
    for round in 0..ROUNDS {
        let at = format!("{kind:?}, round {round}");
        field.writers.iter_mut().for_each(|writer| writer.begin(WRITES).unwrap());
        // While they write: what is read now is torn, or old in a moment.
        field.cycle(&at);
        for writer in &mut field.writers {
            assert_eq!(writer.wait().unwrap(), WRITES, "{at}");
        }
        // While they rest, with everything open still: one is enough.
        field.cycle(&at);
        let differing = field.differing();
        if !differing.is_empty() {
            missed.push(format!("round {round}: {differing:?}"));
        }
    }
    println!("{kind:?}: {ROUNDS} rounds in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(missed.is_empty(), "{kind:?}: {} of {ROUNDS} missed: {missed:?}", missed.len());
    assert_eq!(field.worker.writing().len(), field.names.len());
}

#[test]
fn silent_writes_on_ext4_are_found() {
    rounds(Kind::Ext4);
}

#[test]
fn silent_writes_on_xfs_are_found() {
    rounds(Kind::Xfs);
}

#[test]
fn silent_writes_on_btrfs_are_found() {
    rounds(Kind::Btrfs);
}

/// What the agent asks between events: nothing to do at rest, something after a write that sent none.
#[test]
fn a_poll_tells_of_a_silent_write() {
    if !require(&Kind::Ext4.needs()) {
        return;
    }
    let mut field = Field::new(Kind::Ext4);
    let settle = |field: &mut Field| {
        let deadline = Instant::now() + std::time::Duration::from_secs(20);
        while field.cycle("settle").is_some() {
            assert!(Instant::now() < deadline, "there is always something left to do");
        }
    };
    settle(&mut field);
    for which in 0..field.writers.len() {
        assert!(!field.worker.poll_open().unwrap(), "nothing was written");
        field.writers[which].begin(1).unwrap();
        field.writers[which].wait().unwrap();
        assert!(field.worker.poll_open().unwrap(), "{} was written to", field.names[which]);
        settle(&mut field);
        assert!(field.differing().is_empty());
    }
}
