//! What an operator asks of a lane while its agent works: `tidegate journal` and `tidegate why`, as processes.
//!
//! Fails on a weakened build: leave `was_replaced` out of the journal's reader, or the rule for `.` out of the hints' check
//! (the first test); leave the taking back out of `Lent` (the last one: the index is found locked, and set aside as damaged).

#![forbid(unsafe_code)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use common::host::{Host, WAIT};
use harness::gate::{Need, require};
use harness::lab::{Seen, wait_until};
use nix::mount::{MntFlags, MsFlags, umount2};
use proto::frame::FRAME_HEADER_BYTES;
use serde_json::Value;

const NEEDS: [Need; 2] = [Need::Root, Need::LoopDevices];

/// A `journal --follow --json`, and what it said so far.
struct Followed {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
}

impl Followed {
    fn start(host: &Host, of: &str) -> Self {
        let mut command = host.product.command(&["journal", of, "--follow", "--json"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads on until it says something that `is_it`.
    #[track_caller]
    fn until(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + WAIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let ended = self.child.try_wait();
                panic!("it never said {what} ({ended:?}): {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if is_it(&line) {
                return line;
            }
        }
    }

    #[track_caller]
    fn until_changed(&mut self, what: &str, path: &str) -> u64 {
        let is_it = |line: &Value| line["event"] == "changed" && line["what"] == what && line["path"] == path;
        self.until(path, is_it)["seq"].as_u64().unwrap()
    }

    #[track_caller]
    fn until_published(&mut self, seq: u64) -> u64 {
        let is_it = |line: &Value| {
            line["event"] == "published" && line["upto"].as_u64().is_some_and(|upto| upto >= seq)
        };
        self.until("the cursor", is_it)["generation"].as_u64().unwrap()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lane's journal on the disk.
fn segments(host: &Host) -> Vec<PathBuf> {
    let lanes = fs::read_dir(host.disk.path().join("state/lanes")).unwrap();
    let lane = lanes.map(|lane| lane.unwrap().path()).next().unwrap();
    let files = fs::read_dir(lane.join("journal")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|file| !file.ends_with("journal.new")).collect();
    files.sort();
    files
}

/// Through writes, renames, a directory's mode, kills, stops and the dropping of segments.
#[test]
fn a_journal_is_followed_while_the_agent_writes_it_and_is_killed() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "");
    let volume = host.volume("blue");
    host.start();
    host.flush();
    let mut followed = Followed::start(&host, "team/blue");
    followed.until("where it begins", |line| line["event"] == "begin");
    fs::create_dir_all(volume.join("jobs/a")).unwrap();
    fs::write(volume.join("jobs/a/config.xml"), "one").unwrap();
    let seq = followed.until_changed("name", "jobs/a/config.xml");
    followed.until_published(seq);
    // A directory itself, the root too: it has no other name.
    fs::set_permissions(volume.join("jobs"), PermissionsExt::from_mode(0o711)).unwrap();
    followed.until_changed("directory", "jobs");
    fs::set_permissions(&volume, PermissionsExt::from_mode(0o711)).unwrap();
    let seq = followed.until_changed("directory", ".");
    let generation = followed.until_published(seq);
    assert!(generation > 1);
    // The directory is named as it is now; what was said before stays said.
    fs::rename(volume.join("jobs/a"), volume.join("jobs/b")).unwrap();
    followed.until_changed("name", "jobs/a");
    followed.until_changed("name", "jobs/b");
    fs::write(volume.join("jobs/b/config.xml"), "two").unwrap();
    followed.until_changed("name", "jobs/b/config.xml");

    for round in 0..3 {
        host.kill();
        host.start();
        followed.until("a gap", |line| line["event"] == "gap" && line["cause"] == "lost-descriptor");
        // While everything is to be looked at, names are not told apart.
        host.flush();
        fs::write(volume.join(format!("killed-{round}")), "x").unwrap();
        host.flush();
        let seq = followed.until_changed("name", &format!("killed-{round}"));
        followed.until_published(seq);
    }
    host.stop();
    followed.until("the stop", |line| line["event"] == "stopped");
    host.start();
    followed.until("the start", |line| line["event"] == "begin" && line["after"] == "stop");
    host.flush();
    fs::write(volume.join("last"), "x").unwrap();
    let seq = followed.until_changed("name", "last");
    followed.until_published(seq);
    wait_until("the older segments are dropped", WAIT, || {
        let left = segments(&host);
        Ok(Seen::when(left.len() == 1, || format!("{left:?}")))
    })
    .unwrap();
    let broken = |line: &&Value| ["damaged", "newer", "missed"].iter().any(|event| line["event"] == *event);
    assert_eq!(followed.seen.iter().filter(broken).collect::<Vec<_>>(), Vec::<&Value>::new());
}

/// The directory goes away under the writer and the reader, and comes again.
#[test]
fn a_journal_that_is_removed_is_followed_when_it_begins_anew() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "");
    host.start();
    host.flush();
    let mut followed = Followed::start(&host, "team/blue");
    followed.until("where it begins", |line| line["event"] == "begin");
    fs::remove_dir_all(segments(&host)[0].parent().unwrap()).unwrap();
    let mut n = 0;
    let mut write = |host: &Host| {
        n += 1;
        fs::write(host.volume("blue").join(format!("{n}")), "x").unwrap();
        host.flush();
    };
    // The writer sees it when it syncs, and notes a gap in a new one.
    write(&host);
    followed.until("that it begins anew", |line| line["event"] == "anew");
    followed.until("a gap", |line| line["event"] == "gap" && line["cause"] == "journal-failed");
    write(&host);
    followed.until_changed("name", "2");
}

#[test]
fn a_journal_says_what_was_taken_in_and_what_waits() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "");
    let (volume, mirror) = (host.volume("blue"), host.mirror("blue"));
    let (mirror, config) = (mirror.to_str().unwrap(), host.config());
    let config = config.to_str().unwrap();
    host.start();
    host.flush();
    fs::write(volume.join("one"), "1").unwrap();
    fs::write(volume.join(OsStr::from_bytes(b"\xff\x1b[2J")), "raw").unwrap();
    host.flush();
    let generation = host.lane_status("blue")["generation"].as_u64().unwrap();
    // The ledger lies on the same file system, and a link of it that goes is told without a name: to be asked for, once.
    let ran = wait_until("nothing waits", WAIT, || {
        host.flush();
        let ran = host.ask(&["journal", "team/blue"]).expect(0);
        Ok(if ran.stdout.contains("nothing waits") { Seen::Done(ran) } else { Seen::NotYet(ran.stdout) })
    })
    .unwrap();
    ran.says("begin: the oldest segment that is kept")
        .says(&format!("changed: \"one\" -> generation {generation}"))
        .says(&format!("changed: \"\\xff\\u{{1b}}[2J\" -> generation {generation}"))
        .says("gap: ")
        .says("cursor: all up to #")
        .says(&format!("is in generation {generation}, nothing waits"));
    assert!(!ran.stdout.contains('\x1b'), "a name steers the terminal: {:?}", ran.stdout);
    // By the mirror it is the same one.
    assert_eq!(host.ask(&["journal", mirror]).expect(0).stdout, ran.stdout);
    let last = host.ask(&["journal", mirror, "--last", "1"]).expect(0);
    assert_eq!(last.stdout.lines().count(), 2, "{}", last.stdout);

    host.ask(&["pause", "team/blue"]).expect(0);
    fs::write(volume.join("two"), "2").unwrap();
    wait_until("the change is noted", WAIT, || {
        let ran = host.ask(&["journal", "team/blue"]).expect(0);
        let seen = ran.stdout.contains("changed: \"two\" -> waits");
        Ok(Seen::when(seen && !ran.stdout.contains("nothing waits"), || ran.stdout))
    })
    .unwrap();
    let json = host.ask(&["journal", "team/blue", "--json"]).expect(0).stdout;
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.last().unwrap();
    assert_eq!((&end["event"], &end["generation"]), (&"end".into(), &generation.into()));
    assert!(end["waiting"].as_u64().unwrap() > 0 && end["gaps"] == 0, "{end}");
    let two = lines.iter().find(|line| line["path"] == "two").unwrap();
    assert!(two["generation"].is_null() && two["what"] == "name" && two["at"].is_string(), "{two}");

    host.ask(&["journal", "team/red"]).expect(1).says("no lane team/red; it has team/blue");
    host.stop();
    // The configuration knows the volume, too; a mirror's path leads to the journal without anybody.
    host.ask(&["journal", "team/blue", "--config", config]).expect(0).says("changed: \"two\"");
    host.ask(&["journal", mirror])
        .expect(0)
        .says("changed: \"two\" in ")
        .says("stop: the agent stopped in order");
    host.ask(&["journal", "team/red", "--config", config]).expect(1).says("there is no lane team/red in");
    let none = host.ask(&["journal", "team/blue", "--config", "/nonexistent/tidegate.toml"]).expect(1);
    none.says("no agent runs here that would know team/blue").says("/nonexistent/tidegate.toml");
}

#[test]
fn what_is_no_journal_or_a_broken_one_is_told_with_its_place() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "");
    let (volume, mirror) = (host.volume("blue"), host.mirror("blue"));
    let mirror = mirror.to_str().unwrap();
    host.ask(&["journal", mirror]).expect(1).says("no state directory").says("TIDEGATE_STATE_DIR");
    host.ask(&["sync", volume.to_str().unwrap(), mirror, "--once"]).expect(0);
    host.ask(&["journal", mirror]).expect(1).says("there is none yet").says("tidegate run");
    host.ask(&["journal", "/nowhere/at/all"]).expect(1).says("nothing was ever replicated from here");
    let json = host.ask(&["journal", "/nowhere/at/all", "--json"]).expect(1);
    assert_eq!(json.json()["exit"], 1);

    host.start();
    for n in 0..5 {
        fs::write(volume.join(format!("{n}")), "x").unwrap();
        host.flush();
    }
    host.stop();
    let segment = segments(&host).pop().unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    let whole = fs::read(&segment).unwrap();
    host.ask(&["journal", mirror]).expect(0);

    // What a writer that died leaves, and what one in the middle of a write does.
    fs::write(&segment, &whole[..whole.len() - 3]).unwrap();
    let torn = host.ask(&["journal", mirror]).expect(0);
    assert!(!torn.stdout.contains("stop: ") && !torn.stdout.contains("DAMAGED"), "{}", torn.stdout);

    let starts = starts(&whole);
    let at = starts[starts.len() / 2];
    let mut flipped = whole.clone();
    flipped[at + FRAME_HEADER_BYTES] ^= 1;
    fs::write(&segment, &flipped).unwrap();
    host.ask(&["journal", mirror]).expect(1).says(&format!("DAMAGED: {name} at byte {at};"));
    let json = host.ask(&["journal", mirror, "--json"]).expect(1).stdout;
    let damaged: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["event"] == "damaged")
        .collect();
    assert_eq!(
        damaged,
        [serde_json::json!({
            "seq": null, "at": null, "event": "damaged", "segment": name, "offset": at
        })]
    );

    // A frame of the next version of the format, sound as its writer made it.
    let body = b"what nobody knows yet";
    let covered = [&(body.len() as u32).to_le_bytes()[..], &[17, proto::frame::VERSION + 1], body].concat();
    let mut newer = whole.clone();
    newer.extend_from_slice(&covered[..4]);
    newer.extend_from_slice(&blake3::hash(&covered).as_bytes()[..8]);
    newer.extend_from_slice(&covered[4..]);
    fs::write(&segment, &newer).unwrap();
    let told = host.ask(&["journal", mirror]).expect(1);
    told.says(&format!("NEWER: {name} at byte {}", whole.len()))
        .says("a format that this program does not know");
}

/// Where the frames of a segment start.
fn starts(segment: &[u8]) -> Vec<usize> {
    let mut at = proto::journal::segment::MAGIC.len();
    let mut starts = Vec::new();
    while at < segment.len() {
        starts.push(at);
        at += proto::frame::take(&segment[at..]).unwrap().len;
    }
    starts
}

/// The agent holds the index, so it is asked; the logs lie on the mirror, so they are not asked of it.
#[test]
fn why_asks_the_agent_that_has_the_lane() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue", "green"], "exclude = [\"*.tmp\"]\n");
    let (volume, mirror) = (host.volume("blue"), host.mirror("blue"));
    let raw = OsStr::from_bytes(b"dir/\xffraw");
    fs::create_dir(volume.join("dir")).unwrap();
    fs::write(volume.join("dir/file"), "content").unwrap();
    fs::hard_link(volume.join("dir/file"), volume.join("linked")).unwrap();
    fs::write(volume.join(raw), "raw").unwrap();
    fs::write(volume.join("x.tmp"), "out").unwrap();
    let store = mirror.parent().unwrap();
    let hide = |yes: bool| {
        let (here, there) = (store.join(".tidegate"), store.join("hidden"));
        let (from, to) = if yes { (&here, &there) } else { (&there, &here) };
        fs::rename(from, to).unwrap();
    };
    let below = host.disk.path().join("below");
    fs::create_dir(&below).unwrap();
    let mount = || {
        nix::mount::mount(Some(&below), store, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    };
    mount();
    host.start();
    host.flush();
    let why = |host: &Host, of: &OsStr, path: &OsStr, more: &[&str]| {
        let mut args = vec![OsStr::new("why"), of, path];
        args.extend(more.iter().map(OsStr::new));
        host.product.run(&args)
    };
    let lane = OsStr::new("team/blue");
    for of in [lane, mirror.as_os_str()] {
        let ran = why(&host, of, "dir/file".as_ref(), &[]).expect(0);
        ran.says("dir/file: file in generation 1").says("same file as linked").says("the agent: lag ");
        ran.says("came with a new directory");
        let json = why(&host, of, "linked".as_ref(), &["--json"]).expect(0).json();
        assert_eq!(json["links"], serde_json::json!(["dir/file"]));
        assert_eq!((&json["agent"]["lane"], &json["history_error"]), (&"team/blue".into(), &Value::Null));
        why(&host, of, raw, &[]).expect(0).says("dir/\\xffraw: file");
        why(&host, of, "dir".as_ref(), &[]).expect(0).says("holds 2 names");
        why(&host, of, "x.tmp".as_ref(), &[]).expect(0).says("left out");
        why(&host, of, "nothing".as_ref(), &[]).expect(1).says("neither in the volume's last generation");
    }
    why(&host, lane, "../up".as_ref(), &[]).expect(2);
    why(&host, "team/red".as_ref(), "a".as_ref(), &[]).expect(1).says("it has team/blue, team/green");

    // With the ledger out of sight what is said can be the agent's alone.
    hide(true);
    for of in [lane, mirror.as_os_str()] {
        let ran = why(&host, of, "dir/file".as_ref(), &[]).expect(4);
        ran.says("dir/file: file in generation 1").says("which generations touched it cannot be told: ");
        let json = why(&host, of, "dir/file".as_ref(), &["--json"]).expect(4).json();
        assert_eq!((&json["entry"]["size"], &json["history"]), (&7.into(), &serde_json::json!([])));
        assert!(json["history_error"].is_string(), "{json}");
    }
    hide(false);
    // A lane that fails is closed, and its index with it; it is asked all the while.
    umount2(store, MntFlags::MNT_DETACH).unwrap();
    fs::write(volume.join("more"), "x").unwrap();
    host.ask(&["flush", "team/blue"]).expect(1);
    why(&host, lane, "dir/file".as_ref(), &[]).expect(4).says(mirror.to_str().unwrap());
    mount();
    wait_until("the lane goes on", WAIT, || {
        why(&host, lane, "dir/file".as_ref(), &[]);
        let ran = host.ask(&["flush", "team/blue"]);
        Ok(Seen::when(ran.code == 0, || ran.stderr))
    })
    .unwrap();
    why(&host, lane, "more".as_ref(), &[]).expect(0).says("more: file in generation 2");
    let log = host.log();
    assert!(!log.contains("cannot be opened"), "an index was taken for damaged: {log}");

    host.stop();
    why(&host, lane, "more".as_ref(), &["--config", host.config().to_str().unwrap()])
        .expect(0)
        .says("more: file in generation 2");
    let json = why(&host, mirror.as_os_str(), "more".as_ref(), &["--json"]).expect(0).json();
    assert_eq!((&json["agent"], &json["generation"]), (&Value::Null, &2.into()));
}
