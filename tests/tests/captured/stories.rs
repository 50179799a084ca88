//! Changes that were missed once, found by [`super::chaos`]: each as short as it can be told.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::capture::Capture;
use agent::run::{Watched, Worker};
use harness::compare::{Options, assert_same};
use harness::gate::require;
use sys::fanotify::Queue;

use crate::common::Site;
use crate::common::loopfs::{Kind, LoopFs};
use crate::{cycle, worker};

/// A volume with a directory beside it on the same file system.
struct Scene {
    site: Site,
    capture: Arc<Capture>,
    worker: Worker,
    beside: PathBuf,
    _disk: LoopFs,
}

impl Scene {
    /// One that `first` fills, and that is in the mirror.
    fn new(first: impl Fn(&Path, &Path)) -> Option<Self> {
        if !require(&Kind::Ext4.needs()) {
            return None;
        }
        let disk = LoopFs::ext4("256M");
        let site = Site::below(disk.path());
        let beside = disk.path().join("beside");
        fs::create_dir(&beside).unwrap();
        first(&site.volume, &beside);
        let capture = Capture::open(Queue::Unlimited).unwrap();
        let worker = worker(&site, &capture).unwrap();
        let mut scene = Self { site, capture, worker, beside, _disk: disk };
        scene.settle();
        Some(scene)
    }

    /// Cycles until there is nothing to do; then the mirror is what the volume is.
    #[track_caller]
    fn settle(&mut self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while cycle(&mut self.worker, "settle").is_some() {
            assert!(std::time::Instant::now() < deadline, "there is always something left to do");
        }
        assert_same(&self.site.volume, &self.site.mirror, &Options::default());
        self.worker.lane.index.view().unwrap().audit().unwrap();
    }

    /// The events so far are sorted, as the thread that reads them does all the time.
    fn sort(&self) {
        self.capture.drain().unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.site.volume.join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.beside.join(name)
    }
}

/// The story: the queue was asked how many bytes are in it, and answers for the fixed part of each event alone. So a fourth of
/// what was queued was taken in, and the rest found later: a cut was called exact while it was not.
#[test]
fn all_that_is_queued_is_taken_in_at_once() {
    let Some(mut scene) = Scene::new(|_, _| {}) else { return };
    const FILES: usize = 20_000;
    for n in 0..FILES {
        fs::write(scene.at(&n.to_string()), []).unwrap();
    }
    scene.sort();
    let Watched::Captured { target, .. } = &scene.worker.watched else { unreachable!("made so") };
    assert_eq!(target.peek(|dirty| dirty.len()), FILES);
    scene.settle();
}

/// The story: a file that the mirror had got a second name beside the volume. The event of that speaks of no name, and
/// inodes with one name were not asked for; so what was written through the second name was not seen either.
#[test]
fn a_file_gets_a_name_elsewhere_and_is_written_to_there() {
    let Some(mut scene) = Scene::new(|volume, _| fs::write(volume.join("f"), b"one").unwrap()) else {
        return;
    };
    fs::hard_link(scene.at("f"), scene.outside("o")).unwrap();
    scene.sort();
    fs::write(scene.outside("o"), b"two").unwrap();
    scene.settle();
    fs::write(scene.outside("o"), b"three").unwrap();
    scene.settle();
}

/// The story: what became linked only while a cycle was at work was known as linked when it was over. What was written to it
/// elsewhere between was an event of another place.
#[test]
fn a_name_comes_in_and_is_written_to_elsewhere_before_the_cycle_ends() {
    let Some(scene) = Scene::new(|_, beside| {
        fs::write(beside.join("o"), b"one").unwrap();
        fs::hard_link(beside.join("o"), beside.join("p")).unwrap();
    }) else {
        return;
    };
    let Watched::Captured { target, .. } = &scene.worker.watched else { unreachable!("made so") };
    fs::rename(scene.outside("p"), scene.at("p")).unwrap();
    scene.sort();
    // As a cycle does it: takes the names, looks at them, and tells in the end what is linked.
    drop(target.take());
    fs::write(scene.outside("o"), b"another").unwrap();
    scene.sort();
    assert!(target.peek(|dirty| dirty.is_empty()), "nobody knows yet that it is linked");
    let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(scene.at("p")).unwrap());
    target.set_linked([ino].into());
    assert_eq!(target.peek(|dirty| dirty.len()), 1);
}

/// The story: a directory was moved out, changed there, and moved back to where it was: the same inode under the same name.
/// What was done in it meanwhile was done outside.
#[test]
fn a_directory_is_changed_while_it_is_away() {
    let Some(mut scene) = Scene::new(|volume, _| {
        fs::create_dir_all(volume.join("d/e")).unwrap();
        fs::write(volume.join("d/e/f"), b"one").unwrap();
    }) else {
        return;
    };
    fs::rename(scene.at("d"), scene.outside("d")).unwrap();
    scene.sort();
    fs::write(scene.outside("d/e/f"), b"two").unwrap();
    fs::write(scene.outside("d/e/g"), b"new").unwrap();
    scene.sort();
    fs::rename(scene.outside("d"), scene.at("d")).unwrap();
    scene.settle();
}

/// The story: the second name of a file came in with a new directory. That was copied as a whole, with a copy of the file of
/// its own, and no event spoke of the first name: both seemed to be as they should from then on.
#[test]
fn a_second_name_comes_in_a_new_directory() {
    let Some(mut scene) = Scene::new(|volume, beside| {
        fs::write(volume.join("f"), b"one").unwrap();
        fs::create_dir(beside.join("d")).unwrap();
        fs::hard_link(volume.join("f"), beside.join("d/o")).unwrap();
        std::os::unix::fs::symlink("f", volume.join("s")).unwrap();
        fs::hard_link(volume.join("s"), beside.join("d/t")).unwrap();
    }) else {
        return;
    };
    fs::rename(scene.outside("d"), scene.at("d")).unwrap();
    scene.settle();
}

/// The story: a file came in as a link and lost the name it had outside, but was still held open under that. What was written
/// through it was an event of the name outside, and the file had one name only.
#[test]
fn a_file_is_held_open_under_a_name_that_was_outside() {
    let Some(mut scene) = Scene::new(|_, beside| fs::write(beside.join("o"), b"one").unwrap()) else {
        return;
    };
    let held = File::options().write(true).open(scene.outside("o")).unwrap();
    fs::hard_link(scene.outside("o"), scene.at("f")).unwrap();
    fs::remove_file(scene.outside("o")).unwrap();
    scene.settle();
    held.write_all_at(b"two", 0).unwrap();
    scene.settle();
    held.write_all_at(b"three", 0).unwrap();
    drop(held);
    scene.settle();
}

/// The story: a file was written to through a descriptor whose name was gone, in a directory that was gone or had left the
/// volume when the names were resolved. The names of such a directory were left out, and with them the file, which had
/// another one.
#[test]
fn a_file_is_held_open_under_a_name_in_a_directory_that_goes() {
    for leaves in [true, false] {
        let Some(mut scene) = Scene::new(|volume, _| {
            fs::create_dir(volume.join("d")).unwrap();
            fs::write(volume.join("d/f"), b"one").unwrap();
            fs::hard_link(volume.join("d/f"), volume.join("g")).unwrap();
        }) else {
            return;
        };
        let held = File::options().write(true).open(scene.at("d/f")).unwrap();
        fs::remove_file(scene.at("d/f")).unwrap();
        scene.settle();
        held.write_all_at(b"two", 0).unwrap();
        scene.sort();
        if leaves {
            fs::rename(scene.at("d"), scene.outside("d")).unwrap();
        } else {
            fs::remove_dir(scene.at("d")).unwrap();
        }
        scene.settle();
        held.write_all_at(b"three", 0).unwrap();
        scene.settle();
    }
}

/// The story: a directory was renamed, and before that one was taken out of it. What was seen inside the second goes by its old
/// path; it was forgotten together with what had been seen in the first at its old place.
#[test]
fn a_directory_is_taken_out_of_one_that_is_renamed() {
    let Some(mut scene) = Scene::new(|volume, _| {
        fs::create_dir_all(volume.join("a/b/c")).unwrap();
        fs::create_dir(volume.join("z")).unwrap();
        fs::write(volume.join("a/b/c/f"), b"one").unwrap();
    }) else {
        return;
    };
    fs::rename(scene.at("a/b/c"), scene.at("k")).unwrap();
    fs::write(scene.at("k/f"), b"another").unwrap();
    fs::write(scene.at("k/g"), b"new").unwrap();
    fs::rename(scene.at("a"), scene.at("z/a")).unwrap();
    scene.settle();
}
