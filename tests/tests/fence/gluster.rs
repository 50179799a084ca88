//! The fence on two real hosts with a replicated volume, at moments of every kind.
//!
//! The bricks are watched from below: as soon as they show the moment the old writer is stopped, and what was really
//! reached by then is read from the ledger afterwards.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::compare::{Aspect, Options, compare};
use harness::gate::require;
use harness::lab::{BrickFs, HostProcess, Lab, Layout, Seen, wait_until};
use proto::{Epoch, Generation, names};

use super::WAIT;
use super::judge::{Books, assert_mirror, assert_refused, threads};

/// Files that the old writer moves from one directory to another: two renames each.
const MOVED: usize = 24;
/// Bytes in each: a small file would be sent again instead.
const MOVED_SIZE: usize = 64 << 10;
/// Files that it deletes, and as many that it makes.
const OTHERS: usize = 12;
/// Longest that one command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the old writer is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Files are being staged, nothing is sealed.
    Staging,
    /// Sealed; not everything that leaves the mirror has left it.
    Sealed,
    /// All outs are done, not all that was moved is back: between the two legs.
    Between,
    /// Everything is in its place, HEAD still names the generation before.
    BeforeHead,
}

const MOMENTS: [Moment; 4] = [Moment::Staging, Moment::Sealed, Moment::Between, Moment::BeforeHead];

/// A ledger and its mirror, seen below a directory: a mount, or a brick.
struct Place {
    ledger: PathBuf,
    mirror: PathBuf,
}

impl Place {
    fn below(dir: &Path, lane: &str) -> Self {
        Self { ledger: dir.join(".tidegate").join(lane), mirror: dir.join(lane) }
    }

    fn in_ledger(&self, dir: Vec<u8>) -> PathBuf {
        self.ledger.join(OsString::from_vec(dir))
    }

    /// Where the writer of epoch 1 is on its way to generation 2; nothing when it has only begun or is done.
    fn moment(&self) -> Option<Moment> {
        let stage = self.in_ledger(names::stage(Epoch(1)));
        let sealed = self.ledger.join("commit").join(OsString::from_vec(names::generation(Generation(2))));
        let marker = stage.join(OsString::from_vec(names::outs_done(Generation(2))));
        if !sealed.exists() {
            return (count(&stage) >= 3).then_some(Moment::Staging);
        }
        if marker.exists() {
            let back = count(&self.mirror.join("to")) == MOVED && self.mirror.join("fresh-0").exists();
            return Some(if back { Moment::BeforeHead } else { Moment::Between });
        }
        // The marker is made after the outs and removed after HEAD.
        (count(&self.mirror.join("from")) > 0).then_some(Moment::Sealed)
    }
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

struct Hosts {
    lab: Lab,
    mounts: [PathBuf; 2],
    dir: tempfile::TempDir,
}

/// One lane with two volumes: the old writer's on host 0, the new one's on host 1.
struct Lane<'a> {
    hosts: &'a Hosts,
    name: String,
    dir: PathBuf,
}

impl Lane<'_> {
    fn volume(&self, host: usize) -> PathBuf {
        self.dir.join(format!("volume-{host}"))
    }

    /// As a host's mount shows it.
    fn seen_by(&self, host: usize) -> Place {
        Place::below(&self.hosts.lab.host(host).outside(&self.hosts.mounts[host]), &self.name)
    }

    /// As the brick of a host holds it: no cache of a client in between.
    fn on_brick(&self, host: usize) -> Place {
        let host = self.hosts.lab.host(host);
        Place::below(&host.outside(host.brick_dir().join("v-0")), &self.name)
    }

    fn command(&self, host: usize, args: &[&str]) -> std::process::Command {
        let mut command = self.hosts.lab.host(host).cmd("env");
        let state = self.dir.join(format!("state-{host}"));
        command.arg(format!("TIDEGATE_STATE_DIR={}", state.display())).arg(harness::product::program());
        command.args(args);
        command
    }

    fn sync(&self, host: usize, more: &[&str]) -> std::process::Command {
        let (volume, mirror) = (self.volume(host), self.hosts.mounts[host].join(&self.name));
        let mut args = vec!["sync", volume.to_str().unwrap(), mirror.to_str().unwrap(), "--once"];
        args.push("--approve-deletions");
        args.extend(more);
        self.command(host, &args)
    }

    fn run(&self, mut command: std::process::Command, at: &str) {
        let done = harness::lab::run(&mut command, LIMIT).unwrap();
        assert!(done.status.success(), "{at}: {}", done.explain());
    }

    /// Generation 1 in both volumes, and what each host makes of it.
    fn fill(&self) {
        let old = self.volume(0);
        let put = |path: String, content: &str| fs::write(old.join(path), content).unwrap();
        for dir in ["from", "to", "gone", "kept"] {
            fs::create_dir_all(old.join(dir)).unwrap();
        }
        (0..MOVED).for_each(|i| put(format!("from/moved-{i}"), &format!("{i:08}").repeat(MOVED_SIZE / 8)));
        (0..OTHERS).for_each(|i| put(format!("gone/{i}"), "deleted"));
        (0..OTHERS).for_each(|i| put(format!("kept/{i}"), "kept"));
        let copied = std::process::Command::new("cp").arg("-a").args([&old, &self.volume(1)]).status();
        assert!(copied.unwrap().success());
        self.run(self.sync(0, &[]), "first sync");

        (0..MOVED).for_each(|i| {
            fs::rename(old.join(format!("from/moved-{i}")), old.join(format!("to/moved-{i}"))).unwrap();
        });
        (0..OTHERS).for_each(|i| fs::remove_file(old.join(format!("gone/{i}"))).unwrap());
        (0..OTHERS).for_each(|i| put(format!("fresh-{i}"), "fresh"));
        let new = self.volume(1);
        let put = |path: &str, content: &str| fs::write(new.join(path), content).unwrap();
        put("kept/0", "changed by the new writer");
        put("from/moved-1", "changed by the new writer");
        put("fresh-1", "another file of that name");
        fs::remove_dir_all(new.join("to")).unwrap();
        put("to", "a file");
    }

    /// Runs the old writer and stops it as soon as the brick shows the moment; where it really stands then.
    fn stop_at(&self, moment: Moment, log: &Path) -> (HostProcess, Option<Moment>) {
        let brick = self.on_brick(0);
        let host = self.hosts.lab.host(0);
        let mut old = host.spawn_logged(&mut self.sync(0, &[]), log).unwrap();
        let begin = Instant::now();
        // A poll without a pause: the moments are a few milliseconds long.
        while brick.moment().is_none_or(|now| now < moment) && old.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < LIMIT, "the old writer never comes to {moment:?}");
        }
        if old.try_wait().unwrap().is_some() {
            return (old, None);
        }
        old.freeze().unwrap();
        wait_until("the old writer has stopped", WAIT, || {
            let states = threads(old.pid());
            Ok(Seen::when(states.iter().all(|state| *state == 'T'), || format!("{states:?}")))
        })
        .unwrap();
        let stands = brick.moment();
        (old, stands)
    }

    /// The mirror is the new writer's volume, on both bricks and as clients see it. How many directories have other
    /// metadata than it gave them, which only the old writer's last log may have done.
    fn judge(&self, at: &str) -> usize {
        let volume = self.volume(1);
        let dirs = Books::read(&self.on_brick(1).ledger).dirs_set_by(1);
        let dirs: BTreeSet<String> = dirs.iter().map(ToString::to_string).collect();
        let judge = |mirror: &Path, options: &Options| -> Result<BTreeSet<String>, String> {
            let report = compare(&volume, mirror, options).unwrap();
            let late = |(path, aspect): &(String, Aspect)| {
                dirs.contains(path) && [Aspect::Mtime, Aspect::Mode].contains(aspect)
            };
            let all = report.aspects();
            if all.iter().all(late) {
                Ok(all.into_iter().map(|(path, _)| path).collect())
            } else {
                Err(report.to_string())
            }
        };
        // GlusterFS keeps times in an attribute of its own.
        let stored = Options { mtimes: false, ..options() };
        for host in [0, 1] {
            judge(&self.on_brick(host).mirror, &stored)
                .unwrap_or_else(|e| panic!("{at}: brick of host {host}: {e}"));
        }
        // The client of host 0 may remember for a second what was there before.
        wait_until("both clients see what the new writer published", WAIT, || {
            let seen = [0, 1].map(|host| judge(&self.seen_by(host).mirror, &options()));
            Ok(match seen {
                [Ok(a), Ok(b)] if a == b => Seen::Done(b.len()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .unwrap_or_else(|e| panic!("{at}: {e:#}"))
    }
}

/// Holes are the mount's affair.
fn options() -> Options {
    Options { holes: false, ..Options::default() }
}

/// One old writer stopped and woken. Where it stood; nothing if it was too quick.
fn round(hosts: &Hosts, number: usize, moment: Moment) -> Option<Moment> {
    let name = format!("lane-{number}");
    let lane = Lane { hosts, dir: hosts.dir.path().join(&name), name };
    fs::create_dir_all(lane.volume(0)).unwrap();
    // A state directory must not lie where everybody may write, and other tests clear the umask of this process.
    fs::set_permissions(&lane.dir, fs::Permissions::from_mode(0o700)).unwrap();
    lane.fill();
    let log = lane.dir.join("old.log");
    let (mut old, stands) = lane.stop_at(moment, &log);
    let stands = stands?;
    let at = format!("lane {number}, stopped at {stands:?}");

    lane.run(lane.sync(1, &["--take-over"]), &at);
    assert_mirror(&lane.volume(1), &lane.seen_by(1).mirror, &options(), &at);
    let published = Books::read(&lane.on_brick(1).ledger);
    published.assert_sound(&at);
    assert_eq!(published.head.as_ref().unwrap().epoch, Epoch(2), "{at}");

    old.thaw().unwrap();
    let status = old.wait(LIMIT).unwrap();
    assert_refused(status, &fs::read_to_string(&log).unwrap(), false, &at);

    for host in [0, 1] {
        let after = Books::read(&lane.on_brick(host).ledger);
        after.assert_as(&published, &at);
        after.assert_sound(&at);
    }
    let late = lane.judge(&at);
    eprintln!("{at}: {late} directories with late metadata");
    assert!(late == 0 || stands == Moment::BeforeHead, "{at}: {late} directories changed late");
    if late == 0 {
        let (volume, mirror) = (lane.volume(1), hosts.mounts[1].join(&lane.name));
        lane.run(lane.command(1, &["verify", volume.to_str().unwrap(), mirror.to_str().unwrap()]), &at);
    }
    // Life goes on for the new writer; the old one is told, however often it is started.
    fs::write(lane.volume(1).join("later"), "later").unwrap();
    lane.run(lane.sync(1, if late == 0 { &[] } else { &["--full"] }), &at);
    assert_mirror(&lane.volume(1), &lane.seen_by(1).mirror, &options(), &at);
    wait_until("the old writer is told who has the lane", WAIT, || {
        let done = harness::lab::run(&mut lane.sync(0, &[]), LIMIT)?;
        assert!(!done.status.success(), "{at}: {}", done.explain());
        // For a second after `--full` the kernel of host 0 shows it a mirror that is gone.
        let said = done.explain();
        if said.contains("is a stale handle") {
            return Ok(Seen::NotYet(said));
        }
        assert_refused(done.status, &said, false, &at);
        Ok(Seen::Done(()))
    })
    .unwrap();
    Books::read(&lane.on_brick(0).ledger).assert_sound(&at);
    Some(stands)
}

#[test]
fn stopped_on_one_host_replaced_on_the_other() {
    if !require(harness::lab::NEEDS) {
        return;
    }
    let lab = Lab::builder().hosts(2).brick(BrickFs::Xfs, "3G").start().unwrap();
    lab.volume("v", Layout::Replica(2)).create_and_start().unwrap();
    let mounts = [0, 1].map(|host| lab.host(host).mount("v", &["acl"]).unwrap());
    let hosts = Hosts { lab, mounts, dir: crate::common::in_memory() };
    let mut reached = Vec::new();
    let mut number = 0;
    for moment in MOMENTS.repeat(2) {
        // The moment may have passed before the signal arrived: another try, with a lane of its own.
        let mut tries = 0;
        loop {
            (number, tries) = (number + 1, tries + 1);
            let stands = round(&hosts, number, moment);
            reached.extend(stands);
            if stands == Some(moment) {
                break;
            }
            assert!(tries < 5, "never stopped at {moment:?}, only at {reached:?}");
        }
    }
    eprintln!("{number} old writers, stopped at {reached:?}");
    hosts.lab.host(0).assert_all_bricks_connected("v").unwrap();
}
