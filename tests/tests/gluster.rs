//! The main job on real GlusterFS: two hosts, a replicated volume, the program itself, killed again and again.
//!
//! Fails on a weakened build: as `crash.rs` says; and if anything relied on what only a local file system does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::compare::{Options, assert_same, compare};
use harness::gate::require;
use harness::lab::{BrickFs, Lab, Layout};
use harness::ops::Workload;

const LIMIT: Duration = Duration::from_secs(120);

struct Lane {
    lab: Lab,
    dir: tempfile::TempDir,
    /// The GlusterFS mount on each host, as the host sees it.
    mounts: [PathBuf; 2],
}

impl Lane {
    fn up() -> Self {
        let lab = Lab::builder().hosts(2).brick(BrickFs::Xfs, "3G").start().unwrap();
        lab.volume("v", Layout::Replica(2)).create_and_start().unwrap();
        let mounts = [0, 1].map(|host| lab.host(host).mount("v", &["acl"]).unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("volume")).unwrap();
        Self { lab, dir, mounts }
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// The mirror on a host's mount, seen from here.
    fn mirror(&self, host: usize) -> PathBuf {
        self.lab.host(host).outside(self.mounts[host].join("mirror"))
    }

    /// The program on a host, with a state directory of its own.
    fn tidegate(&self, host: usize, args: &[&str]) -> std::process::Command {
        let mut command = self.lab.host(host).cmd("env");
        let state = self.dir.path().join(format!("state-{host}"));
        command.arg(format!("TIDEGATE_STATE_DIR={}", state.display())).arg(harness::product::program());
        command.args(args);
        command
    }

    fn sync(&self, args: &[&str]) -> std::process::Command {
        let (volume, mirror) = (self.volume(), self.mounts[0].join("mirror"));
        let mut all = vec!["sync", volume.to_str().unwrap(), mirror.to_str().unwrap(), "--once"];
        all.extend(args);
        self.tidegate(0, &all)
    }

    fn run(&self, mut command: std::process::Command) -> String {
        let done = harness::lab::run(&mut command, LIMIT).unwrap();
        assert!(done.status.success(), "{}", done.explain());
        done.text()
    }
}

/// Attributes that the mount changes or the two sides legitimately do not share.
fn options() -> Options {
    Options { holes: false, ..Options::default() }
}

fn seeded(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *state >> 33
}

#[test]
fn killed_at_random_it_ends_old_or_new_and_is_recovered_on_the_other_host() {
    if !require(harness::lab::NEEDS) {
        return;
    }
    let lane = Lane::up();
    let (volume, here) = (lane.volume(), lane.mirror(0));
    std::fs::create_dir(volume.join("home")).unwrap();
    harness::trees::jenkins(&volume.join("home"), harness::trees::JenkinsSize::HUNDREDTH).unwrap();
    std::fs::create_dir(volume.join("work")).unwrap();
    lane.run(lane.sync(&[]));
    lane.lab.host(0).assert_all_bricks_connected("v").unwrap();
    assert_same(&volume, &here, &options());

    let before = lane.dir.path().join("before");
    let mut workload = Workload::new(5, &volume.join("work")).unwrap();
    let (mut seed, mut killed, mut old, mut new) = (42, 0, 0, 0);
    for round in 0..20 {
        copy(&volume, &before);
        for _ in 0..40 {
            workload.step().unwrap();
        }
        let begin = Instant::now();
        let patience = Duration::from_millis(5 + seeded(&mut seed) % 400);
        let mut process = lane.lab.host(0).spawn(&mut lane.sync(&[])).unwrap();
        while begin.elapsed() < patience && process.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        if process.try_wait().unwrap().is_none() {
            process.kill().unwrap();
            killed += 1;
        }
        // `recover` is the reader here: it may finish what was sealed, and must find one state or the other.
        let found = lane.dir.path().join(format!("recovered-{round}"));
        let mirror = lane.mounts[0].join("mirror");
        let args = ["recover", mirror.to_str().unwrap(), found.to_str().unwrap(), "--preserve-suid"];
        lane.run(lane.tidegate(0, &args));
        if compare(&volume, &found, &options()).unwrap().is_same() {
            new += 1;
        } else {
            assert_same(&before, &found, &options());
            old += 1;
        }
        std::fs::remove_dir_all(&found).unwrap();
        lane.run(lane.sync(&[]));
        assert_same(&volume, &here, &options());
    }
    eprintln!("{killed} kills in 20 rounds: {old} found the old generation, {new} the new one");
    assert!(killed >= 5 && old > 0, "{killed} kills, {old} old, {new} new: the kills come too late");
    lane.lab.host(0).assert_all_bricks_connected("v").unwrap();

    // The other host reads the same generation through its own mount.
    let target = lane.dir.path().join("on-the-other-host");
    let mirror = lane.mounts[1].join("mirror");
    let (mirror, target_text) = (mirror.to_str().unwrap(), target.to_str().unwrap());
    lane.run(lane.tidegate(1, &["verify", mirror]));
    lane.run(lane.tidegate(1, &["recover", mirror, target_text, "--preserve-suid"]));
    assert_same(&volume, &target, &options());
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}
