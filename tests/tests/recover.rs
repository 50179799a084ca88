//! `tidegate recover`, run as its users run it; the oracle is the harness's own comparison.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::compare::{Options, SpecialBits, assert_same};
use harness::docker::{Engine, NEEDS};
use harness::gate::{Need, require};
use harness::lab::{Seen, wait_until};
use harness::product::{Product, snapshot};
use harness::trees::{faithful, small_mixed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WAIT: Duration = Duration::from_secs(60);

/// A volume, its mirror, and a place for targets.
struct Site {
    dir: tempfile::TempDir,
    product: Product,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::Builder::new().prefix("recover-").tempdir().unwrap();
        for sub in ["volume", "mount", "targets"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let product = Product::new(&dir.path().join("state"));
        Site { dir, product }
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn mirror(&self) -> PathBuf {
        self.dir.path().join("mount/mirror")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("targets/home")
    }

    /// Names beside the target.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("targets")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn sync(&self) {
        let (volume, mirror) = (self.volume(), self.mirror());
        self.product.run(&[Path::new("sync"), &volume, &mirror, Path::new("--once")]).expect(0);
    }

    #[track_caller]
    fn recover(&self, more: &[&str]) -> harness::product::Ran {
        self.product.run(&self.args(more))
    }

    fn args(&self, more: &[&str]) -> Vec<PathBuf> {
        let mut args = vec![PathBuf::from("recover"), self.mirror(), self.target()];
        args.extend(more.iter().map(PathBuf::from));
        args
    }
}

fn stripped() -> Options {
    Options { root_metadata: true, special_bits: SpecialBits::Stripped, ..Options::default() }
}

fn kept() -> Options {
    Options { root_metadata: true, b_links_closed: true, ..Options::default() }
}

fn old_content(target: &Path) {
    fs::create_dir(target).unwrap();
    fs::write(target.join("old"), "old content").unwrap();
    fs::create_dir(target.join("jobs")).unwrap();
    fs::write(target.join("jobs/old"), "more of it").unwrap();
}

/// P8 on a small tree, and the policy for setuid (D1). Fails when recover takes metadata from the mirror instead
/// of the ledger (the root is 0700 there), forgets links or holes, or keeps setuid bits in a plain directory.
#[test]
fn a_small_tree_comes_back_equal() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 7).unwrap();
    fs::set_permissions(site.volume(), fs::Permissions::from_mode(0o2751)).unwrap();
    std::os::unix::fs::chown(site.volume(), Some(1000), Some(1001)).unwrap();
    // The oracle sees setgid of a chowned directory as it is now.
    fs::set_permissions(site.volume(), fs::Permissions::from_mode(0o2751)).unwrap();
    site.sync();

    let ran = site.recover(&["--json"]).expect(0);
    assert_same(&site.volume(), &site.target(), &stripped());
    let report = ran.json();
    assert_eq!((&report["generation"], &report["rounds"]), (&1.into(), &1.into()));
    assert_eq!(report["special_bits_stripped"], 2, "page-less is 4755, page-more 2711");
    assert_eq!(report["backup"], serde_json::Value::Null);
    assert_eq!(site.beside(), ["home"]);

    for engine in ["ring", "plain"] {
        let ran = site.recover(&["--preserve-suid", "--json", "--engine", engine]).expect(0);
        assert_same(&site.volume(), &site.target(), &kept());
        assert_eq!(ran.json()["special_bits_stripped"], 0);
    }
}

/// P8 with odd names, attributes, times, links and depth. Fails when any of them is lost.
#[test]
fn a_faithful_tree_comes_back_equal() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    let made = faithful(&site.volume(), 7000).unwrap();
    assert!(made.unsupported.is_empty(), "{:?}", made.unsupported);
    site.sync();
    let ran = site.recover(&["--preserve-suid", "--json"]).expect(0);
    assert_same(&site.volume(), &site.target(), &kept());
    assert_eq!(ran.json()["acls_lost"], 0);
}

/// Never merged: what was there is kept whole under a name of its own. Fails when the target is filled in place,
/// when an empty target gets a backup, or when a second backup of the same second replaces the first.
#[test]
fn what_was_there_is_kept_and_never_merged() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 1).unwrap();
    site.sync();

    fs::create_dir(site.target()).unwrap();
    assert_eq!(site.recover(&["--json"]).expect(0).json()["backup"], serde_json::Value::Null);
    assert_eq!(site.beside(), ["home"]);
    fs::remove_dir_all(site.target()).unwrap();

    old_content(&site.target());
    let before = snapshot(&site.target());
    let mut backups = Vec::new();
    for _ in 0..3 {
        let ran = site.recover(&["--json"]).expect(0);
        backups.push(ran.json()["backup"].as_str().unwrap().to_owned());
        assert_same(&site.volume(), &site.target(), &stripped());
        assert!(!site.target().join("old").exists());
    }
    let time = backups[0].strip_prefix("home-backup-").unwrap();
    assert!(time.len() >= 16 && time.as_bytes()[8] == b'T' && time.as_bytes()[15] == b'Z', "{time}");
    let kept = site.dir.path().join("targets").join(&backups[0]);
    let after: Vec<String> = snapshot(&kept);
    // The same inodes with the same content; only the moved directory's own line differs, by name and ctime.
    assert_eq!(before.len(), after.len());
    assert_eq!(fs::read(kept.join("old")).unwrap(), b"old content");
    assert_eq!(fs::read(kept.join("jobs/old")).unwrap(), b"more of it");
    backups.sort();
    backups.dedup();
    assert_eq!(backups.len(), 3, "each backup has a name of its own");
    assert_eq!(site.beside().len(), 4, "{:?}", site.beside());
}

/// A9: symlinks in the target, and the target itself a symlink. Fails when recover writes through names that are
/// already there.
#[test]
fn symlinks_at_the_destination_are_not_followed() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 2).unwrap();
    site.sync();
    let outside = site.dir.path().join("outside");
    fs::create_dir_all(outside.join("build")).unwrap();
    fs::write(outside.join("canary"), "untouched").unwrap();
    let canary = snapshot(&outside);

    fs::create_dir(site.target()).unwrap();
    symlink(outside.join("canary"), site.target().join("config.xml")).unwrap();
    symlink(&outside, site.target().join("jobs")).unwrap();
    symlink(outside.join("absent"), site.target().join("zero")).unwrap();
    site.recover(&[]).expect(0);
    assert_same(&site.volume(), &site.target(), &stripped());
    assert_eq!(snapshot(&outside), canary);

    fs::rename(site.target(), site.dir.path().join("targets/real")).unwrap();
    symlink(&outside, site.target()).unwrap();
    site.recover(&[]).expect(1).says("is a symlink");
    assert_eq!(snapshot(&outside), canary);
    assert!(fs::symlink_metadata(site.target()).unwrap().is_symlink());
}

/// A mirror that was changed by hand, or by who can reach the storage. Fails when hashes are not compared, when a
/// symlink in the mirror is followed, or when the swap comes before the proof.
#[test]
fn a_tampered_mirror_is_refused_and_the_target_untouched() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 3).unwrap();
    site.sync();
    old_content(&site.target());
    let target = snapshot(&site.target());
    let mirror = site.mirror();
    // An exact copy outside: only the symlink tells that it is not the mirror.
    let outside = site.dir.path().join("outside");
    let copied = Command::new("cp").arg("-a").arg(mirror.join("jobs")).arg(&outside).status().unwrap();
    assert!(copied.success());

    type Tamper<'a> = (&'a str, &'a dyn Fn(&Path));
    let tampers: [Tamper<'_>; 6] = [
        ("large", &|path| {
            // Same size, same times: only the hash can tell.
            let meta = fs::metadata(path).unwrap();
            let mut bytes = fs::read(path).unwrap();
            bytes[70_000] ^= 1;
            fs::write(path, bytes).unwrap();
            let time = (meta.mtime(), meta.mtime_nsec() as u32);
            harness::trees::set_mtime(path, time).unwrap();
        }),
        ("one", &|path| fs::write(path, "longer than it was").unwrap()),
        ("config-linked.xml", &|path| fs::remove_file(path).unwrap()),
        ("page", &|path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
        ("page-more", &|path| {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("jobs", &|path| {
            fs::rename(path, path.with_file_name("jobs-away")).unwrap();
            symlink(&outside, path).unwrap();
        }),
    ];
    let saved = site.dir.path().join("saved");
    for (name, tamper) in tampers {
        let copied = Command::new("cp").arg("-a").arg(&mirror).arg(&saved).status().unwrap();
        assert!(copied.success());
        tamper(&mirror.join(name));
        let ran = site.recover(&[]).expect(1);
        ran.says(&format!("\n  {name} ")).says("tidegate verify").says("the target is as it was");
        assert_eq!(snapshot(&site.target()), target, "after {name}");
        assert_eq!(site.beside(), ["home"], "after {name}");
        fs::remove_dir_all(&mirror).unwrap();
        fs::rename(&saved, &mirror).unwrap();
    }
    site.recover(&[]).expect(0);
}

/// The mirror keeps content; metadata comes from the ledger. Fails when owner, mode, times or attributes of the
/// mirror's files are trusted: whoever can chmod there could plant a setuid program.
#[test]
fn metadata_comes_from_the_ledger() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 4).unwrap();
    site.sync();
    let mirror = site.mirror();
    fs::set_permissions(mirror.join("one"), fs::Permissions::from_mode(0o6777)).unwrap();
    std::os::unix::fs::chown(mirror.join("page"), Some(0), Some(0)).unwrap();
    fs::set_permissions(mirror.join("jobs"), fs::Permissions::from_mode(0o777)).unwrap();
    harness::trees::set_mtime(&mirror.join("jobs/build"), (5, 5)).unwrap();
    let attr = |args: &[&str], path: &str| {
        let done = Command::new("setfattr").args(args).arg(mirror.join(path)).status();
        // Without the program the other attributes still tell.
        drop(done);
    };
    attr(&["-n", "user.planted", "-v", "x"], "config.xml");
    attr(&["-x", "user.empty"], "config.xml");
    site.recover(&["--preserve-suid"]).expect(0);
    assert_same(&site.volume(), &site.target(), &kept());
}

/// The writer publishes while a recovery on another host reads. Fails when rounds stop at the first mismatch, or
/// when the tree swapped in mixes two generations.
#[test]
fn a_generation_published_meanwhile_is_followed() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    let volume = site.volume();
    // One file after the other: hashing the hole takes a while, and what comes behind it changes meanwhile.
    let slow = fs::File::create(volume.join("a-slow")).unwrap();
    slow.set_len(8 << 30).unwrap();
    // A file that is read soon after its change is read once more by the next sync, which would take as long as the recovery.
    let changed = std::time::Instant::now();
    wait_until("the change is old", WAIT, || {
        Ok(Seen::when(changed.elapsed() > std::time::Duration::from_millis(500), || "young".to_owned()))
    })
    .unwrap();
    fs::write(volume.join("b-steady"), "steady").unwrap();
    for n in 0..50 {
        fs::write(volume.join(format!("z-{n:02}")), format!("first {n}")).unwrap();
    }
    fs::create_dir(volume.join("zz")).unwrap();
    fs::write(volume.join("zz/gone"), "gone").unwrap();
    fs::hard_link(volume.join("z-10"), volume.join("z-link")).unwrap();
    site.sync();

    let standby = Product::new(&site.dir.path().join("state-standby"));
    let mut recovery =
        standby.start(&site.args(&["--json", "--in-flight", "1", "--engine", "plain"])).unwrap();
    started(&site);
    for n in 0..50 {
        fs::remove_file(volume.join(format!("z-{n:02}"))).unwrap();
        fs::write(volume.join(format!("z-{n:02}")), format!("second, longer {n}")).unwrap();
    }
    fs::remove_dir_all(volume.join("zz")).unwrap();
    fs::create_dir(volume.join("zzz")).unwrap();
    fs::write(volume.join("zzz/new"), "new").unwrap();
    site.sync();
    let is_over = recovery.try_wait().unwrap().is_some();
    let done = recovery.wait_with_output().unwrap();
    assert!(!is_over, "the recovery ended too early to prove anything: {done:?}");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{text} {}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["generation"], &report["rounds"]), (&2.into(), &2.into()), "{report}");
    // The hole was read once: what one round proved the next one takes over.
    assert!(report["bytes_read"].as_u64().unwrap() < 9 << 30, "{report}");
    assert_same(&volume, &site.target(), &kept());
    assert_eq!(site.beside(), ["home"]);
}

/// Waits until a recovery has begun to fill its tree.
fn started(site: &Site) {
    wait_until("the recovery fills its tree", WAIT, || {
        let staging = site.beside().into_iter().find(|name| name.starts_with(".home.tidegate-recover-"));
        let Some(staging) = staging else { return Ok(Seen::NotYet("no staging directory".into())) };
        let tree = site.dir.path().join("targets").join(staging).join("fill-1");
        Ok(Seen::when(tree.join("a-slow").exists(), || format!("{} is not begun", tree.display())))
    })
    .unwrap();
}

/// kill -9 in the middle. Fails when the target is touched before the end, when the next recovery trips over what
/// was left or leaves it, or when two recoveries of one target run at once.
#[test]
fn a_killed_recovery_leaves_the_old_content() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 5).unwrap();
    fs::File::create(site.volume().join("a-slow")).unwrap().set_len(3 << 30).unwrap();
    site.sync();
    old_content(&site.target());
    let before = snapshot(&site.target());

    let mut recovery = site.product.start(&site.args(&["--in-flight", "1", "--engine", "plain"])).unwrap();
    started(&site);
    let second = Product::new(&site.dir.path().join("state-second"));
    second.run(&site.args(&[])).expect(1).says("another recovery of it is running");
    kill(Pid::from_raw(recovery.id() as i32), Signal::SIGKILL).unwrap();
    assert!(!recovery.wait().unwrap().success());
    assert_eq!(snapshot(&site.target()), before);
    assert!(site.beside().len() > 1, "nothing was left: it was killed too late");

    let backup = site.recover(&["--json"]).expect(0).json()["backup"].as_str().unwrap().to_owned();
    assert_same(&site.volume(), &site.target(), &stripped());
    assert_eq!(site.beside(), ["home".to_owned(), backup]);
}

/// A run that died between the exchange and the backup's rename: what lies in its staging directory is the old
/// content. Fails when leftovers are removed without a look at what they are.
#[test]
fn a_swap_that_was_cut_is_ended_by_the_next_recovery() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    small_mixed(&site.volume(), 6).unwrap();
    site.sync();
    site.recover(&[]).expect(0);
    // As the swap leaves it: a directory that is another inode than its name says.
    let staging = site.dir.path().join("targets/.home.tidegate-recover-00000000000000aa");
    fs::create_dir(&staging).unwrap();
    let new = fs::metadata(site.target()).unwrap().ino();
    old_content(&staging.join(format!("ready-{new}")));
    // And one that died before its exchange.
    let staging = site.dir.path().join("targets/.home.tidegate-recover-00000000000000bb");
    fs::create_dir_all(staging.join("x")).unwrap();
    let ready = fs::metadata(staging.join("x")).unwrap().ino();
    fs::write(staging.join("x/half"), "never swapped in").unwrap();
    fs::rename(staging.join("x"), staging.join(format!("ready-{ready}"))).unwrap();

    let report = site.recover(&["--json"]).expect(0).json();
    let ended = report["earlier_backups"].as_array().unwrap();
    assert_eq!(ended.len(), 1, "{report}");
    let ended = ended[0].as_str().unwrap().to_owned();
    assert_eq!(fs::read(site.dir.path().join("targets").join(&ended).join("old")).unwrap(), b"old content");
    let mut expected = vec!["home".to_owned(), ended, report["backup"].as_str().unwrap().to_owned()];
    expected.sort();
    assert_eq!(site.beside(), expected);
}

/// Targets that are none. Fails when something of the user's is replaced or the mirror is recovered into itself.
#[test]
fn targets_that_are_none_are_refused() {
    if !require(&[Need::Root]) {
        return;
    }
    let site = Site::new();
    fs::write(site.volume().join("file"), "x").unwrap();
    site.sync();
    let refused = |target: &Path, code: i32, text: &str| {
        let before = snapshot(&site.dir.path().join("targets"));
        let mirror = snapshot(&site.mirror());
        site.product.run(&[Path::new("recover"), &site.mirror(), target]).expect(code).says(text);
        assert_eq!(snapshot(&site.dir.path().join("targets")), before);
        assert_eq!(snapshot(&site.mirror()), mirror);
    };
    fs::write(site.target(), "a file").unwrap();
    refused(&site.target(), 1, "is not a directory");
    fs::remove_file(site.target()).unwrap();
    nix::unistd::mkfifo(&site.target(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&site.target(), 1, "is not a directory");
    assert!(fs::metadata(site.target()).unwrap().file_type().is_fifo());
    refused(&site.dir.path().join("targets/no/such/parent"), 1, "cannot be found");
    refused(&site.mirror(), 1, "inside each other");
    refused(&site.mirror().join("sub"), 1, "inside each other");
    refused(&site.dir.path().join("mount"), 1, "inside each other");
    refused(&site.dir.path().join("mount/.tidegate/mirror/x"), 1, "inside each other");
    refused(Path::new("docker:../etc"), 1, "no name of a Docker volume");

    let nothing = site.dir.path().join("mount/nothing");
    site.product
        .run(&[Path::new("recover"), &nothing, &site.target()])
        .expect(4)
        .says("no ledger of tidegate");
    site.product.run(&["recover"]).expect(2);
}

/// A Docker volume on a real engine: created, refilled with a backup volume, refused while a container may write.
/// Fails when the swap forgets the backup, strips setuid bits, or does not ask who uses the volume.
#[test]
fn a_docker_volume_is_filled_and_its_old_content_kept() {
    if !require(NEEDS) {
        return;
    }
    let engine = Engine::start().unwrap();
    let mut site = Site::new();
    let socket = format!("unix://{}", engine.socket().display());
    site.product.env.push(("DOCKER_HOST".to_owned(), socket));
    small_mixed(&site.volume(), 8).unwrap();
    site.sync();
    let recover = || {
        let mirror = site.mirror();
        site.product.run(&[Path::new("recover"), &mirror, Path::new("docker:home"), Path::new("--json")])
    };
    let data = |name: &str| engine.volumes().join(name).join("_data");
    let volumes = || {
        let mut names: Vec<String> =
            engine.cli(&["volume", "ls", "-q"]).unwrap().lines().map(str::to_owned).collect();
        names.sort();
        names
    };

    // Created where there was none; and gone again when nothing comes of it.
    let hidden = site.mirror().with_file_name("hidden");
    fs::rename(site.mirror(), &hidden).unwrap();
    recover().expect(1);
    assert!(volumes().is_empty(), "{:?}", volumes());
    fs::rename(&hidden, site.mirror()).unwrap();
    assert_eq!(recover().expect(0).json()["backup"], serde_json::Value::Null);
    assert_same(&site.volume(), &data("home"), &kept());
    assert_eq!(volumes(), ["home"]);

    // A container that is only created does not write.
    engine.empty_image("empty").unwrap();
    engine
        .cli(&["create", "--name", "jenkins", "--network", "none", "-v", "home:/data", "empty", "/none"])
        .unwrap();
    fs::write(data("home").join("written-since"), "since").unwrap();
    let backup = recover().expect(0).json()["backup"].as_str().unwrap().to_owned();
    assert_same(&site.volume(), &data("home"), &kept());
    let name = backup.strip_prefix("docker:").unwrap().to_owned();
    assert!(name.starts_with("home-backup-"), "{name}");
    assert_eq!(fs::read(data(&name).join("written-since")).unwrap(), b"since");
    assert_eq!(
        engine.cli(&["volume", "inspect", "-f", "{{json .Labels}}", &name]).unwrap(),
        "{\"tidegate.backup-of\":\"home\"}"
    );
    assert_eq!(volumes(), ["home".to_owned(), name]);
    let beside: Vec<_> = fs::read_dir(engine.volumes().join("home")).unwrap().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");

    // One that runs may.
    runnable_image(&engine, site.dir.path());
    engine
        .cli(&[
            "run",
            "-d",
            "--name",
            "busy",
            "--network",
            "none",
            "-v",
            "home:/data",
            "sleeper",
            "/bin/sleep",
            "300",
        ])
        .unwrap();
    let before = snapshot(&data("home"));
    recover().expect(1).says("busy (running)").says("docker stop busy");
    assert_eq!(snapshot(&data("home")), before);
    engine.cli(&["kill", "busy"]).unwrap();
    recover().expect(0);
}

/// An image with just enough of this machine in it to sleep.
fn runnable_image(engine: &Engine, dir: &Path) {
    let listed = Command::new("ldd").arg("/bin/sleep").output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    let archive = dir.join("sleeper.tar");
    let made =
        Command::new("tar").arg("-chPf").arg(&archive).arg("/bin/sleep").args(libraries).status().unwrap();
    assert!(made.success());
    engine.cli(&["import", &archive.display().to_string(), "sleeper"]).unwrap();
}
