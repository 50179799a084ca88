//! The fence on a simulated volume with two clients, at every request of the old writer.
//!
//! Ways to be late: the request is on its way when the writer is replaced and arrives afterwards (`InFlight`), or
//! already before the new writer makes a generation of its own (`Early`); or the process is stopped behind the
//! request, with all its descriptors, and continued (`Stopped`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent::lane::{Lane, Ownership};
use agent::state::StateDir;
use harness::compare::Options;
use harness::faultfs::{Action, FaultFs, Match, Op, Rule};
use harness::gate::{Need, require};
use harness::lab::{Seen, wait_until};
use harness::product::{Product, Ran, snapshot};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::RelPath;

use super::judge::{Books, assert_mirror, assert_refused, touched};
use super::{WAIT, Writer};

const NEEDS: [Need; 2] = [Need::Root, Need::Fuse];

/// Bytes from which on a file that grows keeps its inode in the mirror.
const GROWING: usize = 4 << 20;

/// How the old writer is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// The request was sent before and arrives after.
    InFlight,
    /// As `InFlight`, but the new writer has only taken over: it publishes after the request arrived.
    Early,
    /// The request was done; the process sleeps behind it.
    Stopped,
}

/// What the old writer's volume holds in generation 1.
fn first(volume: &Path) {
    let put = |path: &str, content: &str| std::fs::write(volume.join(path), content).unwrap();
    for dir in ["jobs", "jobs/a", "gone", "x", "y", "turns"] {
        std::fs::create_dir(volume.join(dir)).unwrap();
    }
    put("jobs/a/config.xml", "<a/>");
    put("jobs/log", "started\n");
    put("gone/file", "deleted by the old writer");
    put("x/inside", "x");
    put("y/inside", "y");
    put("turns/file", "in a directory that becomes a file");
    put("kind", "a file that becomes a directory");
    put("linked", "two names");
    std::fs::write(volume.join("grows"), vec![7; GROWING]).unwrap();
    std::fs::hard_link(volume.join("linked"), volume.join("jobs/linked-too")).unwrap();
}

/// What the old writer is about to publish: every kind of operation.
fn second(volume: &Path) {
    let at = |path: &str| volume.join(path);
    std::fs::write(at("jobs/log"), "started\nfinished\n").unwrap();
    std::fs::rename(at("jobs/a"), at("jobs/renamed")).unwrap();
    std::fs::remove_dir_all(at("gone")).unwrap();
    std::fs::rename(at("x"), at("z")).unwrap();
    std::fs::rename(at("y"), at("x")).unwrap();
    std::fs::rename(at("z"), at("y")).unwrap();
    // Taken out and installed under one name: a rename that comes late finds the wrong one.
    std::fs::remove_file(at("kind")).unwrap();
    std::fs::create_dir(at("kind")).unwrap();
    std::fs::write(at("kind/file"), "in it").unwrap();
    std::fs::create_dir(at("new")).unwrap();
    std::fs::write(at("new/file"), "new").unwrap();
    std::os::unix::fs::symlink("file", at("new/link")).unwrap();
    append(&at("grows"), "by the old writer");
    std::fs::write(at("turns/added"), "touches the directory").unwrap();
    std::fs::set_permissions(at("jobs"), PermissionsExt::from_mode(0o711)).unwrap();
    std::fs::write(at("linked"), "both names change").unwrap();
}

/// What the new writer has instead of it, from generation 1 on.
fn third(volume: &Path) {
    let at = |path: &str| volume.join(path);
    std::fs::write(at("jobs/log"), "started\nstarted elsewhere\n").unwrap();
    std::fs::write(at("jobs/a/added"), "by the new writer").unwrap();
    std::fs::remove_dir_all(at("turns")).unwrap();
    std::fs::write(at("turns"), "a file now").unwrap();
    std::fs::remove_dir_all(at("y")).unwrap();
    std::fs::write(at("new"), "not a directory here").unwrap();
    // The same bytes, and the same time: the file stays in the mirror, and must still be there.
    append(&at("grows"), "by the old writer");
    std::fs::set_permissions(at("jobs"), PermissionsExt::from_mode(0o700)).unwrap();
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Two hosts with a volume and a state directory each, and a simulated volume mounted on both.
struct Pair {
    disk: FaultFs,
    dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let disk = FaultFs::start_for_two().unwrap();
        let pair = Self { disk, dir: crate::common::in_memory() };
        std::fs::create_dir(pair.volume(0)).unwrap();
        pair.disk.snapshot("empty").unwrap();
        // Who the host is outlives every rewind.
        StateDir::at(&pair.state(0)).unwrap();
        pair.save("empty");
        first(&pair.volume(0));
        copy(&pair.volume(0), &pair.volume(1));
        third(&pair.volume(1));
        pair.run(0, &pair.sync(0, &[])).expect(0);
        pair.disk.snapshot("one").unwrap();
        pair.save("one");
        second(&pair.volume(0));
        let grown = pair.volume(0).join("grows").metadata().unwrap().modified().unwrap();
        File::options().write(true).open(pair.volume(1).join("grows")).unwrap().set_modified(grown).unwrap();
        pair
    }

    fn volume(&self, host: usize) -> PathBuf {
        self.dir.path().join(format!("volume-{host}"))
    }

    fn state(&self, host: usize) -> PathBuf {
        self.dir.path().join(format!("state-{host}"))
    }

    fn mirror(&self, host: usize) -> PathBuf {
        self.disk.client(host).join("mirror")
    }

    fn ledger(&self) -> PathBuf {
        self.disk.client(1).join(".tidegate/mirror")
    }

    fn product(&self, host: usize) -> Product {
        Product::new(&self.state(host))
    }

    /// Arguments of a sync of a host's own volume, one file after the other so that a point is the same in every run.
    fn sync(&self, host: usize, more: &[&str]) -> Vec<PathBuf> {
        let fixed = ["--once", "--engine", "plain", "--in-flight", "1", "--approve-deletions"];
        let mut args = vec![PathBuf::from("sync"), self.volume(host), self.mirror(host)];
        args.extend(fixed.iter().chain(more).map(PathBuf::from));
        args
    }

    fn run(&self, host: usize, args: &[PathBuf]) -> Ran {
        self.product(host).run(args)
    }

    fn save(&self, name: &str) {
        copy(&self.state(0), &self.dir.path().join(format!("saved-{name}")));
    }

    /// The disk and the old writer's state as saved; the new writer was never here.
    fn rewind(&self, name: &str) {
        self.disk.restore(name).unwrap();
        copy(&self.dir.path().join(format!("saved-{name}")), &self.state(0));
        let _ = std::fs::remove_dir_all(self.state(1));
    }

    /// Starts the old writer and waits until a request is held back by `rule`; nothing if it never is.
    fn start_old(&self, rule: Rule) -> Option<Held<'_>> {
        self.disk.inject(rule).unwrap();
        let child = self.product(0).start(&self.sync(0, &[])).unwrap();
        let mut held = Held { writer: Writer(child), disk: &self.disk };
        let stalled = wait_until("the old writer is at its point", WAIT, || {
            Ok(match (self.disk.status()?.stalled, held.writer.ended()) {
                (1.., _) => Seen::Done(true),
                (0, true) => Seen::Done(false),
                (0, false) => Seen::NotYet("it runs".to_owned()),
            })
        });
        if stalled.unwrap() {
            return Some(held);
        }
        let (status, said) = held.writer.end("undisturbed");
        assert!(status.success(), "undisturbed: {status}: {said}");
        None
    }

    /// The old writer, held back at the marker between the outs and the installs of its publish.
    fn start_in_publish(&self) -> Held<'_> {
        let marker = Rule::new(Op::Create, Action::Stall).path("outs-done.");
        self.start_old(marker).expect("the old writer publishes")
    }

    /// One old writer, late at one request. False when it makes fewer requests.
    fn round(&self, from: &str, of: Match, point: u64, late: Late, seen: &mut Counts) -> bool {
        let at = format!("from {from}, request {point} of {of:?}, {late:?}");
        self.rewind(from);
        let Some(mut old) = self.start_old(Rule::new(of, Action::Stall).nth(point)) else { return false };
        if late == Late::Stopped {
            old.writer.stop();
            self.disk.release().unwrap();
            old.writer.await_stopped();
        }
        let found = Books::read(&self.ledger());

        let (volume, mirror) = (self.volume(1), self.mirror(1));
        if late == Late::Early {
            self.take_over(&at);
        } else {
            let ran = self.run(1, &self.sync(1, &["--take-over"]));
            assert_eq!(ran.code, 0, "{at}: take-over: {}", ran.stderr);
            assert_mirror(&volume, &mirror, &Options::default(), &at);
        }
        let published = Books::read(&self.ledger());
        let shown = || if mirror.exists() { snapshot(&mirror) } else { Vec::new() };
        let before = shown();

        match late {
            Late::InFlight | Late::Early => self.disk.release().unwrap(),
            Late::Stopped => old.writer.go_on(),
        }
        let (status, said) = old.writer.end(&at);
        let goal = if from == "empty" { 1 } else { 2 };
        assert_refused(status, &said, found.generation() >= goal, &at);
        seen.note(status.code(), &said);

        let after = Books::read(&self.ledger());
        if published.head.is_some() {
            after.assert_as(&published, &at);
            after.assert_sound(&at);
        }
        let touched = touched(&before, &shown());
        if touched.is_empty() && late != Late::Early {
            self.run(1, &[PathBuf::from("verify"), volume.clone(), mirror.clone()]).expect(0);
        } else if !touched.is_empty() {
            self.assert_only_let_through(&touched, &after, &at);
            seen.let_through += 1;
        }

        // Life goes on for the new writer.
        std::fs::write(volume.join("later"), format!("{at}\n")).unwrap();
        self.run(1, &self.sync(1, if touched.is_empty() { &[] } else { &["--full"] })).expect(0);
        assert_mirror(&volume, &mirror, &Options::default(), &at);
        Books::read(&self.ledger()).assert_sound(&at);
        std::fs::remove_file(volume.join("later")).unwrap();
        seen.rounds += 1;
        true
    }

    /// Takes the lane over on the second host, which then dies before its first generation.
    fn take_over(&self, at: &str) {
        let state = StateDir::at(&self.state(1)).unwrap();
        let opened = Lane::open_writer(&state, &self.mirror(1), Ownership::TakeOver);
        opened.unwrap_or_else(|e| panic!("{at}: take-over: {}", crate::common::crash::chain(&e)));
    }

    /// What the fence lets through: metadata of directories that the old writer's last log sets where they are, and
    /// the times of a file that it makes grow, whose inode it may hold open. `--full` makes them right.
    fn assert_only_let_through(&self, touched: &[String], books: &Books, at: &str) {
        let dirs = books.dirs_set_by(1);
        let grown = books.grown_by(1);
        for line in touched {
            let is =
                |path: &RelPath| line.starts_with(&format!("{:?} ", self.mirror(1).join(path.to_string())));
            let dir = dirs.iter().any(|path| is(path) && self.mirror(1).join(path.to_string()).is_dir());
            // Inode, mode, size and content: all but the times between them.
            let but_times = |line: &str| {
                let (front, back) = line.split_once(" mtime ").unwrap();
                (front.to_owned(), back.rsplit_once(' ').unwrap().1.to_owned())
            };
            let same = |path: &RelPath| {
                is(path)
                    && touched
                        .iter()
                        .filter(|other| is_of(other, line))
                        .all(|o| but_times(o) == but_times(line))
            };
            assert!(dir || grown.iter().any(same), "{at}: the old writer touched {line}");
        }
    }
}

/// Two lines of snapshots that speak of one path.
fn is_of(a: &str, b: &str) -> bool {
    a.split_once(" ino ").unwrap().0 == b.split_once(" ino ").unwrap().0
}

/// An old writer with a request held back: let go before it is killed, for the kernel waits for the answer.
struct Held<'a> {
    writer: Writer,
    disk: &'a FaultFs,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.disk.clear_faults();
        let _ = self.disk.release();
    }
}

/// What all rounds together saw.
#[derive(Debug, Default)]
struct Counts {
    rounds: u64,
    /// Rounds in which metadata arrived late that nothing stops.
    let_through: u64,
    /// Exit code and the end of the message, without numbers.
    ends: BTreeMap<String, u64>,
}

impl Counts {
    fn note(&mut self, code: Option<i32>, said: &str) {
        let last = said.lines().last().unwrap_or_default();
        let text: String = last.chars().filter(|c| !c.is_ascii_digit()).collect();
        *self.ends.entry(format!("{code:?} {text}")).or_default() += 1;
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Every point, each with each of these ways of being late.
fn every_point(pair: &Pair, from: &str, of: Match, ways: &[Late], least: u64) {
    let mut seen = Counts::default();
    let mut point = 1;
    while ways.iter().all(|late| pair.round(from, of, point, *late, &mut seen)) {
        point += 1;
    }
    eprintln!("from {from}, {of:?}, {ways:?}: {} points, {seen:#?}", point - 1);
    assert!(point > least, "only {} points: the writer is not held back", point - 1);
}

/// Behind every read too: what was read before must not guide what is done afterwards.
#[test]
fn at_every_request_of_a_sync() {
    if require(&NEEDS) {
        let pair = Pair::new();
        every_point(&pair, "one", Match::Any, &[Late::Stopped], 200);
        every_point(&pair, "one", Match::Mutating, &[Late::InFlight], 50);
    }
}

/// The first copy, from before there is a ledger.
#[test]
fn at_every_change_of_a_first_copy() {
    if require(&NEEDS) {
        every_point(&Pair::new(), "empty", Match::Mutating, &[Late::InFlight, Late::Stopped], 60);
    }
}

/// The take-over alone has to hold, before any generation of the new writer.
#[test]
fn at_every_change_before_the_next_generation() {
    if require(&NEEDS) {
        let pair = Pair::new();
        every_point(&pair, "one", Match::Mutating, &[Late::Early], 50);
        every_point(&pair, "empty", Match::Mutating, &[Late::Early], 60);
    }
}

/// A writer that was killed in the middle of its publish is started again and finishes it, as a restarted host does.
#[test]
fn at_every_request_of_a_roll_forward() {
    if !require(&NEEDS) {
        return;
    }
    let pair = Pair::new();
    pair.rewind("one");
    let held = pair.start_in_publish();
    held.writer.stop();
    pair.disk.release().unwrap();
    held.writer.await_stopped();
    drop(held);
    pair.disk.snapshot("torn").unwrap();
    pair.save("torn");
    every_point(&pair, "torn", Match::Any, &[Late::Stopped], 100);
    every_point(&pair, "torn", Match::Mutating, &[Late::InFlight], 20);
}

/// A writer of the first generation is replaced while its seal is on its way: no barrier can stop it, for there is no
/// generation yet that a barrier could follow. What it seals can never be published and must not block the lane.
#[test]
fn a_first_seal_arrives_after_the_take_over() {
    if !require(&NEEDS) {
        return;
    }
    let at = "first seal";
    let pair = Pair::new();
    pair.rewind("empty");
    let mut old = pair.start_old(Rule::new(Op::Link, Action::Stall).path("commit/")).unwrap();
    pair.take_over(at);
    pair.disk.release().unwrap();
    let (status, said) = old.writer.end(at);
    assert_refused(status, &said, false, at);
    assert_eq!(Books::read(&pair.ledger()).logs.len(), 1, "the seal came too late to be seen");

    pair.run(1, &pair.sync(1, &[])).expect(0);
    assert_mirror(&pair.volume(1), &pair.mirror(1), &Options::default(), at);
    let books = Books::read(&pair.ledger());
    books.assert_sound(at);
    assert_eq!(books.logs[0].header.epoch.0, 2, "generation 1 is the new writer's");
    pair.run(1, &[PathBuf::from("verify"), pair.volume(1), pair.mirror(1)]).expect(0);
}

/// A rename of the old writer arrives in the middle of the take-over, between its first roll forward and its clearing
/// of the old directories: what the rename took out of the mirror is put back. Both writers go on side by side; or the
/// old one alone, as far as it comes, before the take-over goes on.
///
/// The story: an old writer that had taken a growing file out and found its end gone cut the file to what it was before
/// and put it back, though its successor had published it with the end. Side by side it was seen one time in ten.
#[test]
fn every_rename_arrives_during_the_take_over() {
    if !require(&NEEDS) {
        return;
    }
    let pair = Pair::new();
    pair.rewind("one");
    pair.run(0, &pair.sync(0, &[])).expect(0);
    let trace = pair.disk.trace().unwrap();
    let renames: Vec<_> =
        trace.iter().filter(|entry| entry.op == Op::Rename).map(|entry| &entry.paths).collect();
    let (head, others) = renames.split_last().unwrap();
    assert!(head[1].ends_with("HEAD") && others.len() >= 10, "{renames:?}");
    for ((point, paths), alone) in (1..).zip(others).flat_map(|rename| [(rename, false), (rename, true)]) {
        let at = format!("rename {point}, {paths:?}, {}", if alone { "alone" } else { "side by side" });
        pair.rewind("one");
        let mut old = pair.start_old(Rule::new(Op::Rename, Action::Stall).nth(point)).unwrap();
        pair.disk.inject(Rule::new(Op::Mkdir, Action::Stall).path("stage.2")).unwrap();
        let child = pair.product(1).start(&pair.sync(1, &["--take-over"])).unwrap();
        let mut new = Held { writer: Writer(child), disk: &pair.disk };
        pair.disk.await_stalled(2).unwrap();
        if alone {
            new.writer.stop();
        }
        pair.disk.release().unwrap();
        if alone {
            new.writer.await_stopped();
            let (status, said) = old.writer.end(&at);
            assert_refused(status, &said, false, &at);
            new.writer.go_on();
        }
        let (status, said) = new.writer.end(&at);
        assert!(status.success(), "{at}: take-over: {status}: {said}");
        if !alone {
            let (status, said) = old.writer.end(&at);
            assert_refused(status, &said, false, &at);
        }
        assert_mirror(&pair.volume(1), &pair.mirror(1), &Options::default(), &at);
        Books::read(&pair.ledger()).assert_sound(&at);
        pair.run(1, &[PathBuf::from("verify"), pair.volume(1), pair.mirror(1)]).expect(0);
    }
    eprintln!("{} renames arrived during a take-over, each in two ways", others.len());
}

/// As before with the rename of a file that grows; then the successor dies at each of its changes and is started again.
///
/// The story: it knew what it had cleared away only from its memory, and looked for where that belongs only in the log
/// that its first roll forward had seen. Killed behind the clearing, it emptied the file into its trash for good.
#[test]
fn a_take_over_that_dies_is_ended_by_the_next() {
    if !require(&NEEDS) {
        return;
    }
    let pair = Pair::new();
    pair.rewind("one");
    pair.run(0, &pair.sync(0, &[])).expect(0);
    let trace = pair.disk.trace().unwrap();
    let renames = trace.iter().filter(|entry| entry.op == Op::Rename);
    let place = renames.map(|entry| &entry.paths).position(|paths| paths[0].ends_with("grows"));
    let rename = place.unwrap_or_else(|| panic!("nothing grows: {trace:?}")) as u64 + 1;
    let mut point = 1;
    loop {
        let at = format!("the successor dies at change {point}");
        pair.rewind("one");
        let mut old = pair.start_old(Rule::new(Op::Rename, Action::Stall).nth(rename)).unwrap();
        pair.disk.inject(Rule::new(Op::Mkdir, Action::Stall).path("stage.2")).unwrap();
        let take_over = pair.sync(1, &["--take-over"]);
        let start = || Writer(pair.product(1).start(&take_over).unwrap());
        let mut new = Held { writer: start(), disk: &pair.disk };
        pair.disk.await_stalled(2).unwrap();
        // The old writer's rename arrives, and no more of it.
        old.writer.stop();
        pair.disk.inject(Rule::new(Match::Mutating, Action::Stall).nth(point)).unwrap();
        pair.disk.release().unwrap();
        old.writer.await_stopped();
        let died = wait_until("the successor is at its point", WAIT, || {
            Ok(match (pair.disk.status()?.stalled, new.writer.ended()) {
                (1.., _) => Seen::Done(true),
                (0, true) => Seen::Done(false),
                (0, false) => Seen::NotYet("it runs".to_owned()),
            })
        });
        let died = died.unwrap();
        if died {
            kill(Pid::from_raw(new.writer.pid()), Signal::SIGKILL).unwrap();
            pair.disk.release().unwrap();
        }
        let (status, said) = new.writer.end(&at);
        assert_eq!(status.success(), !died, "{at}: {status}: {said}");
        pair.run(1, &take_over).expect(0);
        assert_mirror(&pair.volume(1), &pair.mirror(1), &Options::default(), &at);
        Books::read(&pair.ledger()).assert_sound(&at);
        pair.run(1, &[PathBuf::from("verify"), pair.volume(1), pair.mirror(1)]).expect(0);
        old.writer.go_on();
        let (status, said) = old.writer.end(&at);
        assert_refused(status, &said, false, &at);
        if !died {
            break;
        }
        point += 1;
    }
    assert!(point > 30, "only {point} points: the successor is not held back");
}
