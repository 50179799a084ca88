//! The agent as it is run: `tidegate run`, its lanes and its control socket, as processes.
//!
//! Fails on a weakened build: an `as_of` that moves when a cycle fails (a flush says done over a dead mirror); a dirty set
//! that is dropped while a lane is paused; `is_trusted` that trusts everybody.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::host::{Host, WAIT};
use harness::compare::{Options, compare};
use harness::docker::Engine;
use harness::gate::{Need, require};
use harness::lab::{Seen, wait_until};
use harness::ops::Workload;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NEEDS: [Need; 2] = [Need::Root, Need::LoopDevices];
/// A random life of two volumes, the agent killed and ended in between: at every barrier mirror and volume are equal.
#[test]
fn lanes_are_kept_up_to_date_whatever_ends_the_agent() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue", "green"], "");
    let mut works: Vec<_> =
        (0..2).map(|n| Workload::new(n + 21, &host.volume(["blue", "green"][n as usize])).unwrap()).collect();
    for round in 0..12 {
        if host.agent.is_none() {
            host.start();
        }
        for work in &mut works {
            (0..25).for_each(|_| drop(work.step().unwrap()));
        }
        match round % 4 {
            1 => host.kill(),
            3 => assert!(host.stop() < Duration::from_secs(5)),
            _ => {
                host.flush();
                host.assert_equal(&format!("round {round}"));
                let check = host.ask(&["status", "--check"]).expect(0);
                check.says("OK: team/blue sync lag: ").says("OK: team/green sync lag: ");
            }
        }
        // What is changed while no agent runs is found by the next.
        if host.agent.is_none() {
            (0..10).for_each(|_| drop(works[0].step().unwrap()));
        }
    }
    host.start();
    host.flush();
    host.assert_equal("at the end");
    assert!(host.stop() < Duration::from_secs(5));
    host.ask(&["status", "--check"]).expect(3).says("UNKNOWN");
}

#[test]
fn changes_arrive_by_themselves_and_soon() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "");
    std::fs::write(host.volume("blue").join("log"), "started\n").unwrap();
    host.start();
    host.flush();
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let text = format!("line {n}\n");
        std::fs::write(host.volume("blue").join("log"), &text).unwrap();
        let begun = Instant::now();
        wait_until("the mirror has it", WAIT, || {
            let seen = std::fs::read_to_string(host.mirror("blue").join("log")).unwrap_or_default();
            Ok(Seen::when(seen == text, || seen))
        })
        .unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("a write is in the mirror after {slowest:?} at most");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_mass_deletion_is_withheld_until_it_is_approved() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "max_delete = 10\nmax_delete_percent = 20\n");
    let volume = host.volume("blue");
    let put = |name: String| std::fs::write(volume.join(name), "x").unwrap();
    (0..50).for_each(|n| put(format!("f{n}")));
    host.start();
    host.flush();
    // In portions that each would pass.
    for portion in 0..2 {
        (0..8).for_each(|n| std::fs::remove_file(volume.join(format!("f{}", portion * 8 + n))).unwrap());
        let ran = host.ask(&["flush"]);
        assert_eq!(ran.code, portion, "{}{}", ran.stdout, ran.stderr);
    }
    host.ask(&["status"]).expect(3).says("HALTED: mass-delete: 16 of 50");
    host.ask(&["status", "--check"]).expect(1).says("WARN: team/blue").says("deletions are halted");
    put("new".to_owned());
    // What is new goes on being copied, and the halt is not forgotten over it.
    wait_until("what is new is in the mirror", WAIT, || {
        Ok(Seen::when(host.mirror("blue").join("new").exists(), || host.log()))
    })
    .unwrap();
    assert!(host.mirror("blue").join("f8").exists());
    host.ask(&["flush"]).expect(1).says("tidegate approve team/blue");
    host.ask(&["approve", "team/blue"]).expect(0);
    host.flush();
    host.assert_equal("approved");
    host.ask(&["status"]).expect(0);
}

#[test]
fn a_paused_lane_keeps_what_changes() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue", "green"], "");
    host.start();
    host.flush();
    host.ask(&["pause", "team/blue"]).expect(0);
    for lane in ["blue", "green"] {
        std::fs::write(host.volume(lane).join("file"), "content").unwrap();
    }
    host.ask(&["flush", "team/green"]).expect(0);
    host.ask(&["flush", "team/blue"]).expect(1).says("tidegate resume team/blue");
    assert!(!host.mirror("blue").join("file").exists(), "it went on");
    assert_eq!(host.lane_status("blue")["phase"], "paused");
    host.ask(&["resume", "team/blue"]).expect(0);
    host.flush();
    host.assert_equal("resumed");
    host.ask(&["pause", "team/red"]).expect(1).says("no lane team/red; it has team/blue, team/green");
}

#[test]
fn what_the_configuration_leaves_out_stays_out_and_makes_no_cut_fuzzy() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "exclude = [\"workspace/\", \"*.tmp\"]\n");
    let volume = host.volume("blue");
    std::fs::create_dir_all(volume.join("job/workspace/deep")).unwrap();
    std::fs::write(volume.join("job/workspace/deep/file"), "out").unwrap();
    std::fs::write(volume.join("job/config.xml"), "in").unwrap();
    std::fs::write(volume.join("job/x.tmp"), "out").unwrap();
    host.start();
    host.flush();
    let mirror = host.mirror("blue");
    assert!(mirror.join("job/config.xml").exists());
    assert!(!mirror.join("job/workspace").exists() && !mirror.join("job/x.tmp").exists());
    let generation = host.lane_status("blue")["generation"].as_u64();
    for n in 0..20 {
        std::fs::write(volume.join("job/workspace/deep").join(format!("{n}")), "busy").unwrap();
    }
    host.flush();
    let status = host.lane_status("blue");
    assert_eq!(status["generation"].as_u64(), generation, "nothing that is replicated changed");
    assert_eq!(status["cut"], "exact", "{}", host.log());
    assert_eq!(status["left_out"], 2);
}

/// The volume that a mirror lies on goes away and comes back: the lane says so meanwhile and loses nothing, and the other
/// lane goes on.
#[test]
fn a_lane_without_its_mirror_waits_and_the_others_go_on() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue", "green"], "");
    let store = host.disk.path().join("mount");
    std::fs::create_dir(&store).unwrap();
    let image = host.disk.path().join("image");
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().unwrap();
        assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let (image, place) = (image.to_str().unwrap().to_owned(), store.to_str().unwrap().to_owned());
    run("truncate", &["-s", "64M", &image]);
    run("mkfs.ext4", &["-q", &image]);
    run("mount", &["-o", "loop", &image, &place]);
    let config = std::fs::read_to_string(host.config()).unwrap();
    let old = format!("mirror = \"{}\"", host.mirror("blue").display());
    std::fs::write(host.config(), config.replace(&old, &format!("mirror = \"{place}/blue\""))).unwrap();
    std::fs::write(host.volume("blue").join("one"), "1").unwrap();
    host.start();
    host.flush();
    run("umount", &["-l", &place]);
    std::fs::write(host.volume("blue").join("two"), "2").unwrap();
    std::fs::write(host.volume("green").join("two"), "2").unwrap();
    host.ask(&["flush", "team/blue"]).expect(1);
    host.ask(&["flush", "team/green"]).expect(0);
    assert_eq!(host.lane_status("blue")["phase"], "failing");
    host.ask(&["status", "--check"]).expect(1).says("WARN: team/blue").says("OK: team/green");
    assert!(
        std::fs::read_dir(&store).unwrap().next().is_none(),
        "something was written into the bare directory"
    );
    run("mount", &["-o", "loop", &image, &place]);
    wait_until("the lane goes on", WAIT, || {
        let ran = host.ask(&["flush", "team/blue"]);
        Ok(Seen::when(ran.code == 0, || ran.stderr))
    })
    .unwrap();
    assert_eq!(std::fs::read(store.join("blue/two")).unwrap(), b"2");
    assert!(host.stop() < Duration::from_secs(5));
    run("umount", &[&place]);
}

#[test]
fn a_changed_configuration_is_read_at_a_signal() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue", "green"], "");
    host.start();
    host.flush();
    let both = std::fs::read_to_string(host.config()).unwrap();
    let hangup = |host: &Host, text: &str| {
        std::fs::write(host.config(), text).unwrap();
        kill(Pid::from_raw(host.agent.as_ref().unwrap().id() as i32), Signal::SIGHUP).unwrap();
    };
    let lanes = |host: &Host| host.ask(&["status", "--json"]).json()["lanes"].as_array().unwrap().len();
    let until = |host: &Host, n: usize| {
        wait_until("the lanes are as configured", WAIT, || Ok(Seen::when(lanes(host) == n, || host.log())))
            .unwrap();
    };
    let one = both.split_at(both.rfind("[[lane]]").unwrap()).0.to_owned();
    hangup(&host, &one);
    until(&host, 1);
    // A mistake leaves what runs as it is.
    hangup(&host, "[[lane]]\nteam = 7\n");
    wait_until("it says what is wrong", WAIT, || {
        Ok(Seen::when(host.log().contains("the old one stays in force"), || host.log()))
    })
    .unwrap();
    assert_eq!(lanes(&host), 1);
    hangup(&host, &both);
    until(&host, 2);
    std::fs::write(host.volume("green").join("file"), "x").unwrap();
    wait_until("the new lane works", WAIT, || {
        let ran = host.ask(&["flush"]);
        Ok(Seen::when(ran.code == 0, || ran.stderr))
    })
    .unwrap();
    host.assert_equal("reloaded");
}

#[test]
fn only_root_may_act_and_a_second_agent_is_refused() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new(&["blue"], "");
    let config = std::fs::read_to_string(host.config()).unwrap();
    std::fs::write(host.config(), config.replace("[agent]\n", "[agent]\nstatus_group = \"nogroup\"\n"))
        .unwrap();
    host.start();
    host.flush();
    let second = host.ask(&["run", "--config", host.config().to_str().unwrap()]).expect(1);
    second.says("another agent runs already");

    // The socket alone is reachable: what lies around it is private.
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(host.disk.path(), 0o711);
    open(host.disk.path().parent().unwrap(), 0o711);
    let as_user = |group: &str, ask: &str| {
        let socket = host.disk.path().join("run/tidegate.sock").display().to_string();
        let talk = "my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die \"connect: $!\"; \
                    print $s \"{\\\"version\\\":1,\\\"ask\\\":\\\"$ARGV[1]\\\"}\\n\"; print <$s>";
        let done = Command::new("setpriv")
            .args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"])
            .args(["/usr/bin/perl", "-MIO::Socket::UNIX", "-e", talk, &socket, ask])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
    };
    assert!(
        as_user("nogroup", "status").contains("\"lane\":\"team/blue\""),
        "{}",
        as_user("nogroup", "status")
    );
    assert!(as_user("nogroup", "flush").contains("only root may do that"));
    assert!(as_user("nogroup", "why").contains("only root may ask for what is in a volume"));
    assert!(as_user("12345", "status").contains("Permission denied"), "{}", as_user("12345", "status"));
}

/// What a container does: another mount namespace, a bind mount of the volume.
#[test]
fn writes_of_a_container_are_captured() {
    if !require(&NEEDS) || !require(harness::docker::NEEDS) {
        return;
    }
    let mut engine = Engine::start().unwrap();
    engine.cli(&["volume", "create", "home"]).unwrap();
    let volume = engine.volumes().join("home/_data").canonicalize().unwrap();
    let mut host = Host::new(&["blue"], "");
    let config = std::fs::read_to_string(host.config()).unwrap();
    let old = format!("volume = \"{}\"", host.volume("blue").display());
    std::fs::write(host.config(), config.replace(&old, "volume = \"docker:home\"")).unwrap();
    host.product.env.push(("DOCKER_HOST".to_owned(), format!("unix://{}", engine.socket().display())));
    host.start();
    host.flush();
    let captured = host.lane_status("blue")["capture"] == "fanotify";
    let inside = "mount --bind \"$0\" /mnt && cd /mnt && mkdir -p a/b && echo one > a/b/file && ln a/b/file a/link && \
                  mv a/b a/c && echo two >> a/c/file && sync";
    let done = Command::new("unshare").args(["-m", "sh", "-ec", inside]).arg(&volume).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    host.flush();
    let report = compare(&volume, &host.mirror("blue"), &Options::default()).unwrap();
    assert!(report.is_same(), "{report}\n{}", host.log());
    assert!(
        captured,
        "the file system of the engine's data cannot be captured: {}",
        host.lane_status("blue")
    );
    host.stop();
    engine.stop().unwrap();
}
