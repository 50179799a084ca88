//! `tidegate verify`, `status`, `why`, `plan`, run as their users run them, and the exit codes of all commands.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::gate::{Need, require};
use harness::product::{Product, Ran, snapshot};
use harness::trees::{set_mtime, small_mixed};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

struct Site {
    dir: tempfile::TempDir,
    product: Product,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::Builder::new().prefix("verify-").tempdir().unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        fs::create_dir(dir.path().join("mount")).unwrap();
        let product = Product::new(&dir.path().join("state"));
        Site { dir, product }
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn mirror(&self) -> PathBuf {
        self.dir.path().join("mount/mirror")
    }

    fn sync(&self, code: i32) -> Ran {
        let (volume, mirror) = (self.volume(), self.mirror());
        self.product.run(&[Path::new("sync"), &volume, &mirror, Path::new("--once")]).expect(code)
    }

    /// `tidegate COMMAND MIRROR …`.
    fn ask(&self, command: &str, more: &[&str]) -> Ran {
        let mut args = vec![PathBuf::from(command), self.mirror()];
        args.extend(more.iter().map(PathBuf::from));
        self.product.run(&args)
    }

    /// `tidegate COMMAND VOLUME MIRROR …`.
    fn ask_both(&self, command: &str, more: &[&str]) -> Ran {
        let mut args = vec![PathBuf::from(command), self.volume(), self.mirror()];
        args.extend(more.iter().map(PathBuf::from));
        self.product.run(&args)
    }

    /// Everything that a command which only looks could have changed.
    fn everything(&self) -> Vec<String> {
        snapshot(self.dir.path())
    }
}

/// `tree path: what` of each difference.
fn differences(ran: &Ran) -> Vec<String> {
    let document = ran.json();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let list = document["differences"].as_array().unwrap();
    list.iter().map(|d| format!("{} {}: {}", text(d, "tree"), text(d, "path"), text(d, "what"))).collect()
}

fn shell(program: &str, args: &[&str], path: &Path) {
    assert!(Command::new(program).args(args).arg(path).status().unwrap().success(), "{program} {args:?}");
}

/// Runs `change` and puts the times of `path` and of its directory back: nothing but the change itself may tell.
fn without_a_trace(path: &Path, change: impl FnOnce(&Path)) {
    let time = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.mtime(), meta.mtime_nsec() as u32)
    };
    let (above, own) = (path.parent().unwrap(), fs::symlink_metadata(path).is_ok().then(|| time(path)));
    let its = time(above);
    change(path);
    if let (Some(own), true) = (own, fs::symlink_metadata(path).is_ok()) {
        set_mtime(path, own).unwrap();
    }
    set_mtime(above, its).unwrap();
}

/// Each kind of difference alone, one after the other: verify names it and nothing else. Fails when any of the
/// properties is not compared, or a change of one is told of another.
#[test]
fn every_kind_of_difference_is_named_and_nothing_else() {
    if !require(&[Need::Root, Need::Program("setfattr"), Need::Program("setfacl")]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 1).unwrap();
    site.sync(0);
    site.ask("verify", &[]).expect(0).says("equal: the mirror is as generation 1 says");
    site.ask_both("verify", &[]).expect(0).says("equal: volume and mirror are");

    type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str]);
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[9] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let as_before = |path: &Path, make: &dyn Fn()| {
        // Same owner and mode as what is replaced, so that only the type differs.
        let meta = fs::symlink_metadata(path).unwrap();
        if meta.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        make();
        std::os::unix::fs::lchown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
    };
    let cases: [Case<'_>; 25] = [
        ("large", &flip, &["large: content"]),
        ("deep/x/y/leaf", &flip, &["deep/x/y/leaf: content"]),
        ("page", &|p| File::options().write(true).open(p).unwrap().set_len(4095).unwrap(), &["page: size"]),
        (
            "hole-only",
            &|p| File::options().write(true).open(p).unwrap().set_len(1).unwrap(),
            &["hole-only: size"],
        ),
        (
            "buffer",
            &|p| fs::set_permissions(p, fs::Permissions::from_mode(0o601)).unwrap(),
            &["buffer: mode"],
        ),
        ("empty", &|p| fs::set_permissions(p, fs::Permissions::from_mode(0o1755)).unwrap(), &["empty: mode"]),
        ("fifo", &|p| fs::set_permissions(p, fs::Permissions::from_mode(0o777)).unwrap(), &["fifo: mode"]),
        ("buffer", &|p| chown(p, Some(7), None).unwrap(), &["buffer: owner"]),
        ("empty", &|p| chown(p, None, Some(7)).unwrap(), &["empty: owner"]),
        ("absolute", &|p| std::os::unix::fs::lchown(p, Some(7), None).unwrap(), &["absolute: owner"]),
        (
            "config.xml",
            &|p| shell("setfattr", &["-n", "user.more", "-v", "x"], p),
            &["config-linked.xml: xattr", "config.xml: xattr"],
        ),
        ("page", &|p| shell("setfattr", &["-x", "user.binary"], p), &["page: xattr"]),
        ("jobs", &|p| shell("setfattr", &["-n", "user.on-dir", "-v", "other"], p), &["jobs: xattr"]),
        ("one", &|p| shell("setfacl", &["-x", "u:1234"], p), &["one: xattr"]),
        ("jobs/build", &|p| shell("setfacl", &["-k"], p), &["jobs/build: xattr"]),
        ("dangling", &|p| as_before(p, &|| symlink("elsewhere", p).unwrap()), &["dangling: target"]),
        ("empty", &|p| as_before(p, &|| fs::write(p, "").unwrap()), &["empty: type"]),
        ("zero", &|p| as_before(p, &|| fs::create_dir(p).unwrap()), &["zero: type"]),
        ("fifo", &|p| as_before(p, &|| symlink("zero", p).unwrap()), &["fifo: type"]),
        ("deep/x/y/leaf", &|p| fs::remove_file(p).unwrap(), &["deep/x/y/leaf: missing"]),
        ("deep", &|p| fs::remove_dir_all(p).unwrap(), &["deep: missing"]),
        ("jobs/extra", &|p| fs::write(p, "x").unwrap(), &["jobs/extra: extra"]),
        ("jobs/lost+found", &|p| fs::create_dir(p).unwrap(), &["jobs/lost+found: extra"]),
        (
            "linked-top",
            &|p| {
                // The same content and metadata, but an inode of its own.
                let other = p.with_file_name("copy");
                assert!(Command::new("cp").arg("-a").arg(p).arg(&other).status().unwrap().success());
                fs::rename(other, p).unwrap();
            },
            &["linked-top: link"],
        ),
        (
            "case",
            &|p| {
                // One inode where there should be two; what else differs between them is named too.
                let other = p.with_file_name("Case");
                let meta = fs::metadata(p).unwrap();
                fs::write(&other, fs::read(p).unwrap()).unwrap();
                chown(&other, Some(meta.uid()), Some(meta.gid())).unwrap();
                fs::remove_file(p).unwrap();
                fs::hard_link(&other, p).unwrap();
            },
            &["case: link"],
        ),
    ];
    let saved = site.dir.path().join("saved");
    for (name, change, expected) in cases {
        assert!(Command::new("cp").arg("-a").arg(site.mirror()).arg(&saved).status().unwrap().success());
        without_a_trace(&site.mirror().join(name), change);
        let ran = site.ask("verify", &["--json"]).expect(1);
        let found = differences(&ran);
        let expected: Vec<String> = expected.iter().map(|line| format!("mirror {line}")).collect();
        if name == "case" {
            assert!(found.contains(&expected[0]), "{found:?}");
        } else {
            assert_eq!(found, expected, "{}", ran.stdout);
        }
        assert_eq!(ran.json()["count"], found.len());
        fs::remove_dir_all(site.mirror()).unwrap();
        fs::rename(&saved, site.mirror()).unwrap();
    }
    // And times, which everything above put back.
    for name in ["zero", "deep/x", "dangling", "fifo"] {
        let meta = fs::symlink_metadata(site.mirror().join(name)).unwrap();
        set_mtime(&site.mirror().join(name), (meta.mtime(), (meta.mtime_nsec() as u32 + 1) % 1_000_000_000))
            .unwrap();
        assert_eq!(
            differences(&site.ask("verify", &["--json"]).expect(1)),
            [format!("mirror {name}: mtime")]
        );
        set_mtime(&site.mirror().join(name), (meta.mtime(), meta.mtime_nsec() as u32)).unwrap();
    }
    site.ask("verify", &[]).expect(0);
}

/// With SRC, what changed in the volume since is told apart from what is wrong with the mirror. Fails when the
/// two are mixed up, or when what policy leaves out counts as a difference.
#[test]
fn a_volume_that_moved_on_is_told_apart_from_a_wrong_mirror() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 2).unwrap();
    site.sync(0);
    let volume = site.volume();
    without_a_trace(&volume.join("new"), |p| fs::write(p, "new").unwrap());
    without_a_trace(&volume.join("page"), |p| {
        fs::set_permissions(p, fs::Permissions::from_mode(0o600)).unwrap()
    });
    without_a_trace(&volume.join("deep/up"), |p| fs::remove_file(p).unwrap());
    without_a_trace(&volume.join("another-socket"), |p| {
        drop(std::os::unix::net::UnixListener::bind(p).unwrap());
    });
    without_a_trace(&site.mirror().join("one"), |p| fs::write(p, "?").unwrap());
    let ran = site.ask_both("verify", &["--json"]).expect(1);
    assert_eq!(
        differences(&ran),
        ["mirror one: content", "volume deep/up: missing", "volume new: extra", "volume page: mode",]
    );
    site.ask_both("verify", &[])
        .expect(1)
        .says("changed there since generation 1")
        .says("volume new: extra: file");
    // A sync brings what changed, not what was done to the mirror by hand.
    site.sync(0);
    assert_eq!(differences(&site.ask_both("verify", &["--json"]).expect(1)), ["mirror one: content"]);
    site.product
        .run(&[Path::new("sync"), &site.volume(), &site.mirror(), Path::new("--once"), Path::new("--full")])
        .expect(0);
    site.ask_both("verify", &[]).expect(0);
}

/// Names that a terminal would obey are escaped in every line. Fails when one is printed as it is.
#[test]
fn names_are_escaped_everywhere() {
    let site = Site::new();
    fs::write(site.volume().join("a\x1b[2J\nb"), "x").unwrap();
    let shown = "a\\u{1b}[2J\\nb";
    site.ask_both("plan", &["--all"]).expect(0).says(&format!("+ {shown}"));
    site.sync(0);
    site.ask("why", &["a\x1b[2J\nb"]).expect(0).says(&format!("{shown}: file in generation 1"));
    fs::write(site.mirror().join("a\x1b[2J\nb"), "y").unwrap();
    let ran = site.ask("verify", &[]).expect(1);
    ran.says(&format!("mirror {shown}: content"));
    let target = site.dir.path().join("target").display().to_string();
    let ran = site.ask("recover", &[&target]).expect(1);
    ran.says(&format!("\n  {shown} has other content"));
    assert!(!ran.stderr.contains('\x1b') && !ran.stdout.contains('\x1b'));
}

/// Status tells the generation, its writer and its exceptions, changes nothing, and does not stand in a sync's
/// way. Fails when it takes the lane's lock, rolls forward, or opens the index of a running sync.
#[test]
fn status_says_what_the_mirror_holds_and_touches_nothing() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 3).unwrap();
    site.ask("status", &[]).expect(4).says("no ledger of tidegate");
    site.sync(0);
    let before = site.everything();
    let ran = site.ask("status", &["--json"]).expect(0);
    assert_eq!(site.everything(), before);
    let status = ran.json();
    assert_eq!((&status["published"]["generation"], &status["writer"]["epoch"]), (&1.into(), &1.into()));
    assert_eq!(
        (&status["published"]["cut"], &status["writer"]["this_installation"]),
        (&"exact".into(), &true.into())
    );
    assert_eq!((&status["waiting"], &status["working"]), (&Value::Null, &Value::Null));
    assert_eq!(status["left_out"], serde_json::json!({ "device node": 2, "socket": 1 }));
    assert_eq!(status["published"]["totals"]["left_out"], 3);
    assert_eq!(status["quarantine"], serde_json::json!([]));
    let lists = site.ask("status", &["--all"]).expect(0);
    lists.says("left out by policy: 3").says("  null: device node").says("  socket: socket");

    // As while a sync runs: its lock is held. Another installation sees the same.
    let lane = fs::read_dir(site.product.state.join("lanes")).unwrap().next().unwrap().unwrap().path();
    let lock = File::options().write(true).open(lane.join("lock")).unwrap();
    let held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let status = site.ask("status", &["--json"]).expect(0).json();
    assert_eq!(status["working"], std::process::id());
    site.ask("why", &["one"]).expect(0);
    site.ask_both("plan", &[]).expect(0);
    drop(held);
    let standby = Product::new(&site.dir.path().join("state-standby"));
    let status = standby.run(&[Path::new("status"), &site.mirror(), Path::new("--json")]).expect(0).json();
    assert_eq!(status["writer"]["this_installation"], false);
    assert!(!standby.state.exists(), "a look makes no state");
}

/// A name too deep to be replicated: quarantine is shown and is exit code 5 everywhere. Fails when any command
/// says 0 over a quarantine (P2).
#[test]
fn a_quarantine_is_listed_and_is_exit_code_5() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    fs::write(site.volume().join("file"), "x").unwrap();
    let mut deep = site.volume();
    for _ in 0..201 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    site.sync(5);
    let status = site.ask("status", &["--json"]).expect(5).json();
    let listed = status["quarantine"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{status}");
    let path = listed[0]["path"].as_str().unwrap();
    site.ask("status", &[]).expect(5).says("QUARANTINE: 1 paths").says(path);
    site.ask("why", &[path]).expect(0).says("QUARANTINE: lies deeper than 200 directories");
    site.ask("why", &[&format!("{path}/below")]).expect(0).says("above it, is in quarantine");
    let target = site.dir.path().join("target").display().to_string();
    site.ask("recover", &[&target]).expect(5).says("QUARANTINE: 1 paths");
    assert!(Path::new(&target).join("file").exists());
    // It ends when the reason does.
    fs::remove_dir_all(site.volume().join("d")).unwrap();
    site.sync(0);
    site.ask("status", &[]).expect(0);
}

/// Everything of one path, and its way through the generations. Fails when renames are not followed back, when
/// links or exceptions are left out, or when nothing at all is called something.
#[test]
fn why_tells_the_story_of_a_path() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 4).unwrap();
    site.sync(0);
    let volume = site.volume();
    fs::rename(volume.join("jobs"), volume.join("moved")).unwrap();
    site.sync(0);
    fs::write(volume.join("moved/build/2/build.xml"), "another").unwrap();
    fs::remove_file(volume.join("one")).unwrap();
    site.sync(0);

    let why = site.ask("why", &["moved/build/2/build.xml", "--json"]).expect(0).json();
    let story: Vec<(u64, &str)> = why["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|touch| (touch["generation"].as_u64().unwrap(), touch["what"].as_str().unwrap()))
        // A file that is younger than its file system's clock tick is looked at again: as the machine is fast.
        .filter(|(_, what)| !what.starts_with("looked at again"))
        .collect();
    assert_eq!(story.len(), 3, "{why}");
    assert_eq!(story[0], (3, "copied: file, 7 B"));
    assert_eq!(story[1], (2, "renamed with moved, from jobs"));
    assert_eq!(story[2].0, 1);
    assert_eq!(why["entry"]["blake3"], blake3::hash(b"another").to_string());
    assert_eq!(why["entry"]["size"], 7);

    let ran = site.ask("why", &["config.xml"]).expect(0);
    ran.says("same file as config-linked.xml").says("attributes user.empty, user.tidegate.test");
    site.ask("why", &["page-less"]).expect(0).says("mode 4755");
    site.ask("why", &["./moved/"])
        .expect(0)
        .says("moved: directory in generation 3")
        .says("renamed from jobs");
    site.ask("why", &["dangling"]).expect(0).says("points to no/such/name");
    site.ask("why", &["one"])
        .expect(0)
        .says("one: not in generation 3")
        .says("generation 3 (")
        .says("removed");
    site.ask("why", &["socket"]).expect(0).says("left out: socket");
    site.ask("why", &["absolute/below"]).expect(0).says("absolute, above it, is a symlink");
    site.ask("why", &["never/was"]).expect(1).says("never, above it, is not in the generation either");
    site.ask("why", &["../outside"]).expect(2).says("not a path inside the volume");
}

/// A plan lists what the sync then does, and changes nothing: not the mirror, not the ledger, not the state, and
/// makes no lane. Fails when it takes a lock, rolls forward, or leaves a file anywhere.
#[test]
fn a_plan_says_what_a_sync_does_and_does_nothing() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 5).unwrap();
    let before = site.everything();
    let plan = site.ask_both("plan", &["--json"]).expect(0).json();
    assert_eq!(site.everything(), before, "no state, no lane, no mirror");
    assert_eq!(plan["generation"], 0);
    assert_eq!(plan["new"][0]["path"], ".");
    let synced = site.ask_both("sync", &["--once", "--json"]).expect(0).json();
    // Names of regular files, links counted by name.
    assert_eq!(plan["files_to_copy"], synced["totals"]["files"]);
    assert_eq!(plan["bytes_to_copy"], synced["totals"]["bytes"]);
    assert_eq!(plan["refused"].as_array().unwrap().len(), 3);
    site.ask_both("plan", &[]).expect(0).says("nothing to do: the volume is as generation 1 has it");

    let volume = site.volume();
    fs::write(volume.join("new"), "four").unwrap();
    fs::create_dir_all(volume.join("tree/sub")).unwrap();
    fs::write(volume.join("tree/sub/a"), [1; 1000]).unwrap();
    fs::write(volume.join("tree/b"), [1; 24]).unwrap();
    fs::write(volume.join("page"), "changed").unwrap();
    fs::rename(volume.join("jobs"), volume.join("work")).unwrap();
    fs::remove_file(volume.join("hole-only")).unwrap();
    fs::remove_dir_all(volume.join("deep")).unwrap();
    fs::set_permissions(volume.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    let before = site.everything();
    let ran = site.ask_both("plan", &[]).expect(0);
    assert_eq!(site.everything(), before);
    for line in [
        "+ new (4 B)",
        "+ tree/ (2 files, 1.00 KiB)",
        "~ page (7 B)",
        "> jobs -> work",
        "- hole-only\n",
        "- deep/ (",
        ". empty/",
        "! socket (left out: socket)",
        "2 new, 1 changed, 1 moved, 2 deleted",
    ] {
        ran.says(line);
    }
    site.ask_both("plan", &["--all"]).expect(0).says("+ tree/sub/a");
    let plan = site.ask_both("plan", &["--json"]).expect(0).json();
    let synced = site.ask_both("sync", &["--once", "--json"]).expect(0).json();
    assert_eq!((&plan["deleted_entries"], plan["moved"].as_array().unwrap().len()), (&synced["deleted"], 1));
    assert_eq!(synced["moved"], 1);
    site.ask_both("plan", &[]).expect(0).says("nothing to do");
}

/// The deletion guard's verdict, in the plan as in the sync and in the status. Fails when a plan says 0 where a
/// sync would say 3.
#[test]
fn a_plan_that_would_be_halted_says_so() {
    let site = Site::new();
    for n in 0..40 {
        fs::write(site.volume().join(format!("f{n}")), "x").unwrap();
    }
    site.sync(0);
    for n in 0..30 {
        fs::remove_file(site.volume().join(format!("f{n}"))).unwrap();
    }
    site.ask_both("plan", &[]).expect(0).says("30 deleted");
    site.ask_both("plan", &["--max-delete", "5"]).expect(3).says("WOULD BE HALTED: mass-delete: 30 of 40");
    site.ask_both("sync", &["--once", "--max-delete", "5"]).expect(3).says("HALTED");
    site.ask("status", &[]).expect(3).says("HALTED: mass-delete");
    site.ask("verify", &[]).expect(0);
}

/// The table in `docs/operations.md`. Fails when a code changes its meaning.
#[test]
fn exit_codes() {
    let site = Site::new();
    fs::write(site.volume().join("file"), "x").unwrap();
    let absent = site.dir.path().join("mount/absent");
    let target = site.dir.path().join("target");
    for command in ["status", "verify"] {
        site.product.run(&[Path::new(command), &absent]).expect(4);
    }
    site.product.run(&[Path::new("why"), &absent, Path::new("file")]).expect(4);
    site.product.run(&[Path::new("recover"), &absent, &target]).expect(4);
    for wrong in [
        &["status", "./x", "--check"][..],
        &["why", "x"],
        &["plan", "x"],
        &["verify"],
        &["verify", "a", "b", "c"],
        &["recover", "x"],
        &["unheard-of"],
    ] {
        site.product.run(wrong).expect(2);
    }
    site.product
        .run(&[Path::new("plan"), Path::new("/no/such/volume"), &absent])
        .expect(1)
        .says("does not exist");
    // A mirror that holds somebody else's files.
    fs::create_dir(&absent).unwrap();
    fs::write(absent.join("theirs"), "x").unwrap();
    site.product
        .run(&[Path::new("plan"), &site.volume(), &absent])
        .expect(3)
        .says("is not empty (it holds theirs)");
    // Errors are documents too.
    let ran = site.product.run(&[Path::new("status"), &absent, Path::new("--json")]).expect(4);
    assert_eq!(ran.json()["exit"], 4);
    // The ledger vanished under a mirror that this host knows.
    site.sync(0);
    fs::rename(site.dir.path().join("mount/.tidegate"), site.dir.path().join("away")).unwrap();
    for command in ["status", "verify"] {
        site.ask(command, &[]).expect(4).says("is not the mirror it was");
    }
    site.ask_both("plan", &[]).expect(4).says("is not the mirror it was");
    site.ask("recover", &[&target.display().to_string()]).expect(4);
    assert!(!target.exists());
}
