//! `tidegate doctor` as users run it: on file systems of every kind, with and without privilege, Docker and a configuration.
//!
//! Fails on a weakened build: a `captured` that always says yes; an exit code that is that of the last finding instead of the worst.

#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::in_memory;
use common::loopfs::LoopFs;
use harness::docker::Engine;
use harness::gate::{Need, require};
use harness::product::{Product, Ran, agent_table, program};
use serde_json::Value;

const NEEDS: [Need; 2] = [Need::Root, Need::LoopDevices];

/// A host with a configuration of `lanes`: names with volumes.
struct Host {
    dir: tempfile::TempDir,
    product: Product,
}

impl Host {
    fn new(lanes: &[(&str, String)], more: &str) -> Self {
        let dir = in_memory();
        let mut text = format!("{}[defaults]\n{more}\n", agent_table());
        for (env, volume) in lanes {
            let mirror = dir.path().join("store").join(env);
            text += &format!(
                "[[lane]]\nteam = \"team\"\nenv = \"{env}\"\nvolume = \"{volume}\"\nmirror = \"{}\"\n",
                mirror.display()
            );
        }
        fs::write(dir.path().join("tidegate.toml"), text).unwrap();
        let product = Product::new(&dir.path().join("state"));
        Self { dir, product }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("tidegate.toml")
    }

    fn doctor(&self, more: &[&str]) -> Ran {
        let config = self.config();
        let mut args = vec!["doctor", "--config", config.to_str().unwrap()];
        args.extend(more);
        self.product.run(&args)
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Mounted for a test; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, args: &[&str]) -> Self {
        fs::create_dir_all(at).unwrap();
        let args: Vec<&str> = args.iter().copied().chain([at.to_str().unwrap()]).collect();
        run("mount", &args);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What is said of a check, of a lane or of the host.
fn of<'a>(document: &'a Value, check: &str, lane: Option<&str>) -> &'a Value {
    let findings = document["findings"].as_array().unwrap();
    let lane = lane.map_or(Value::Null, Value::from);
    let found = findings.iter().find(|finding| finding["check"] == check && finding["lane"] == lane);
    found.unwrap_or_else(|| panic!("nothing is said of {check} of {lane}: {document:#}"))
}

#[test]
fn volumes_are_judged_by_what_the_kernel_does_with_them() {
    if !require(&NEEDS) {
        return;
    }
    let disk = LoopFs::ext4("256M");
    let good = disk.path().join("good");
    fs::create_dir(&good).unwrap();
    // An ext4 of old: inodes of 128 bytes.
    let base = in_memory();
    let old_image = base.path().join("old.img");
    let (old_image, old) = (old_image.to_str().unwrap(), base.path().join("old"));
    run("truncate", &["-s", "16M", old_image]);
    run("mkfs.ext4", &["-q", "-I", "128", old_image]);
    let _old = Mounted::new(&old, &["-o", "loop", old_image]);
    // A container's own layer.
    for name in ["lower", "upper", "work"] {
        fs::create_dir(disk.path().join(name)).unwrap();
    }
    let options =
        ["lower", "upper", "work"].map(|name| format!("{name}dir={0}/{name}", disk.path().display()));
    let layer = base.path().join("layer");
    let _layer = Mounted::new(&layer, &["-t", "overlay", "overlay", "-o", &options.join(",")]);

    let shown = |path: &Path| path.display().to_string();
    let lanes = [
        ("good", shown(&good)),
        ("old", shown(&old)),
        ("layer", shown(&layer)),
        ("gone", shown(&base.path().join("no"))),
    ];
    let host = Host::new(&lanes, "fallback_interval = \"7m\"");
    let before = harness::product::snapshot(&good);
    let json = host.doctor(&["--json"]).expect(2).json();
    assert_eq!(json["verdict"], "fail");
    for (lane, check, verdict, word) in [
        ("good", "volume", "ok", "ext4"),
        ("good", "capture", "ok", "changes are captured"),
        ("old", "times", "warn", "whole seconds"),
        ("old", "capture", "ok", "changes are captured"),
        ("layer", "volume", "ok", "overlay"),
        ("layer", "capture", "warn", "walked every 420s"),
        ("gone", "volume", "fail", "does not exist"),
    ] {
        let said = of(&json, check, Some(&format!("team/{lane}")));
        assert_eq!(said["verdict"], verdict, "{said:#}");
        assert!(said["found"].as_str().unwrap().contains(word), "{said:#}");
        assert_eq!(said["remedy"].is_string(), verdict != "ok", "{said:#}");
    }
    assert!(
        of(&json, "capture", Some("team/layer"))["remedy"].as_str().unwrap().contains("below the overlay")
    );
    assert_eq!(harness::product::snapshot(&good), before, "an examination changes nothing");
    assert!(!host.dir.path().join("state").exists() && !host.dir.path().join("store").exists());

    // One lane alone: the others' troubles are not its own.
    let one = host.doctor(&["team/layer"]);
    one.says("warn  team/layer capture: ")
        .says("      -> put the volume on the file system below the overlay");
    assert!(one.code >= 1 && !one.stdout.contains("team/gone"), "{}", one.stdout);
    host.doctor(&["team/red"])
        .expect(2)
        .says("has no lane team/red")
        .says("it has team/good, team/old, team/layer, team/gone");
}

#[test]
fn a_subvolume_of_btrfs_is_told_from_its_top() {
    if !require(&NEEDS) || !require(&[Need::Program("mkfs.btrfs"), Need::Program("btrfs")]) {
        return;
    }
    let base = in_memory();
    let (image, top) = (base.path().join("image"), base.path().join("top"));
    let image = image.to_str().unwrap();
    run("truncate", &["-s", "256M", image]);
    run("mkfs.btrfs", &["-q", image]);
    let _top = Mounted::new(&top, &["-o", "loop", image]);
    let sub = top.join("sub");
    run("btrfs", &["subvolume", "create", sub.to_str().unwrap()]);
    let lanes = [("top", top.display().to_string()), ("sub", sub.display().to_string())];
    let json = Host::new(&lanes, "").doctor(&["--json"]).json();
    assert_eq!(of(&json, "capture", Some("team/top"))["verdict"], "ok", "{json:#}");
    let said = of(&json, "capture", Some("team/sub"));
    assert_eq!(said["verdict"], "warn", "{said:#}");
    assert!(said["remedy"].as_str().unwrap().contains("subvolid=5 /dev/loop"), "{said:#}");
}

/// Where everything is there, everything is said to be there: each check of the host has a line, and each was really tried.
#[test]
fn the_host_is_examined_with_and_without_privilege_and_configuration() {
    if !require(&[Need::Root]) {
        return;
    }
    let host = Host::new(&[], "");
    let whole = host.doctor(&["--json"]);
    let json = whole.json();
    for check in [
        "configuration",
        "kernel",
        "capabilities",
        "fanotify",
        "io_uring",
        "state directory",
        "docker",
        "open files",
        "freezer",
    ] {
        of(&json, check, None);
    }
    assert_eq!(of(&json, "capabilities", None)["verdict"], "ok", "{json:#}");
    assert_eq!(of(&json, "open files", None)["verdict"], "ok", "those that hide are named: {json:#}");
    let told = of(&json, "fanotify", None)["found"].as_str().unwrap();
    assert!(told.contains("DFID_NAME_TARGET; a change was told after "), "{told}");
    let ring = sys::uring::probe().is_ok();
    assert_eq!(of(&json, "io_uring", None)["verdict"], if ring { "ok" } else { "warn" });
    let worst =
        json["findings"].as_array().unwrap().iter().map(|finding| match finding["verdict"].as_str() {
            Some("ok") => 0,
            Some("warn") => 1,
            _ => 2,
        });
    assert_eq!(whole.code, worst.max().unwrap());

    // Nobody in particular: says what is missing, and what that costs.
    let open = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    open(host.dir.path());
    let state = host.dir.path().join("mine");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    let copy = host.dir.path().join("tidegate");
    fs::copy(program(), &copy).unwrap();
    let done = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["doctor", "--json", "--config"])
        .arg(host.config())
        .env("TIDEGATE_STATE_DIR", &state)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    let said = of(&json, "capabilities", None);
    assert_eq!(said["verdict"], "fail");
    assert!(said["found"].as_str().unwrap().starts_with("CAP_CHOWN, CAP_DAC_OVERRIDE"), "{said:#}");
    assert_eq!(of(&json, "fanotify", None)["verdict"], "warn", "{json:#}");

    // A wrong configuration, and none.
    fs::write(host.config(), "[[lane]]\nteam = 7\n").unwrap();
    host.doctor(&[]).expect(2).says("FAIL  configuration: ").says("-> tidegate config check");
    fs::remove_file(host.config()).unwrap();
    host.doctor(&[]).expect(2).says("FAIL  configuration: read the configuration");
}

#[test]
fn docker_is_asked_and_missed_only_by_lanes_that_need_it() {
    if !require(&[Need::Root]) || !require(harness::docker::NEEDS) {
        return;
    }
    let mut engine = Engine::start().unwrap();
    engine.cli(&["volume", "create", "home"]).unwrap();
    let mut host = Host::new(&[("blue", "docker:home".to_owned()), ("green", "docker:none".to_owned())], "");
    host.product.env.push(("DOCKER_HOST".to_owned(), format!("unix://{}", engine.socket().display())));
    let json = host.doctor(&["--json"]).expect(2).json();
    assert_eq!(of(&json, "docker", None)["verdict"], "ok", "{json:#}");
    assert_eq!(of(&json, "volume", Some("team/blue"))["verdict"], "ok", "{json:#}");
    let said = of(&json, "volume", Some("team/green"));
    assert_eq!((&said["verdict"], &said["remedy"]), (&"fail".into(), &"docker volume inspect none".into()));
    engine.stop().unwrap();
    let said = host.doctor(&["team/blue"]).expect(2);
    said.says("FAIL  docker: the volume of team/blue is Docker's, and no engine answers")
        .says("systemctl start docker");
    let mut without = Host::new(&[], "");
    without.product.env.clone_from(&host.product.env);
    without.doctor(&[]).says("ok    docker: no engine answers, and no lane needs one");
}
