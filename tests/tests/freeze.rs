//! Freezing real containers of a real Docker engine.
//!
//! Fails on a weakened build, each tried: see the single tests.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::solo::{Host, WAIT};
use harness::docker::{Engine, NEEDS};
use harness::gate::{Need, require};
use harness::lab::{Seen, wait_until};
use nix::sys::signal::Signal;

fn is_met() -> bool {
    let cgroups = Need::Check("containers with cgroups of version 2", || match unified() {
        Some(point) if point.join("docker").exists() || point.join("cgroup.controllers").exists() => Ok(()),
        _ => Err("no cgroup2 is mounted".to_owned()),
    });
    require(NEEDS) && require(&[Need::LoopDevices, Need::Program("tar"), cgroups])
}

fn unified() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    Some(PathBuf::from(line.split(' ').nth(1)?))
}

/// A volume in which a container writes without end: first `a`, then `b`, the same number into each.
struct Writing {
    host: Host,
    cgroup: PathBuf,
    volume: PathBuf,
    engine: Engine,
}

const WRITER: &str = "i=0; while :; do i=$((i+1)); echo $i > /data/new; mv /data/new /data/a; echo $i > /data/new; \
                      mv /data/new /data/b; done";

impl Writing {
    fn new(more: &str) -> Self {
        let engine = Engine::start().unwrap();
        engine.host_image("host").unwrap();
        engine.cli(&["volume", "create", "home"]).unwrap();
        let volume = engine.volumes().join("home/_data").canonicalize().unwrap();
        let mut host = Host::new("");
        host.source = "docker:home".to_owned();
        host.configure(more);
        host.product.env.push(("DOCKER_HOST".to_owned(), format!("unix://{}", engine.socket().display())));
        host.product.env.push(("TIDEGATE_LOG".to_owned(), "debug".to_owned()));
        host.start();
        host.flush();
        let id = engine
            .cli(&[
                "run",
                "-d",
                "--name",
                "writer",
                "--network",
                "none",
                "-v",
                "/usr:/usr:ro",
                "-v",
                "home:/data",
                "host",
                "/bin/sh",
                "-c",
                WRITER,
            ])
            .unwrap();
        let pid = engine.cli(&["inspect", "-f", "{{.State.Pid}}", &id]).unwrap();
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        assert!(path.contains(&id), "the container has a cgroup of its own: {path}");
        let cgroup = unified().unwrap().join(path.trim_start_matches('/'));
        wait_until("the container writes", WAIT, || {
            Ok(Seen::when(volume.join("b").exists(), || "nothing yet".to_owned()))
        })
        .unwrap();
        Self { host, cgroup, volume, engine }
    }

    fn number(dir: &std::path::Path, name: &str) -> i64 {
        fs::read_to_string(dir.join(name)).unwrap().trim().parse().unwrap()
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.cgroup.join("cgroup.events")).unwrap().contains("frozen 1")
    }

    fn writes_on(&self) {
        let before = Self::number(&self.volume, "b");
        wait_until("the container writes on", WAIT, || {
            let now = fs::read_to_string(self.volume.join("b"))
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok());
            Ok(Seen::when(now.is_some_and(|now| now > before), || {
                format!("{now:?}, frozen: {}", self.is_frozen())
            }))
        })
        .unwrap();
    }

    /// Cuts of a volume that never rests: how many were exact.
    fn exact_of(&self, cuts: usize) -> usize {
        let mut exact = 0;
        for n in 0..cuts {
            // Something to be copied meanwhile: long enough to be written beside.
            fs::write(self.volume.join("ballast"), vec![n as u8 + 1; 16 << 20]).unwrap();
            self.host.flush();
            if self.host.lane()["cut"] == "exact" {
                exact += 1;
                let (a, b) = (Self::number(&self.host.mirror(), "a"), Self::number(&self.host.mirror(), "b"));
                assert!(a == b || a == b + 1, "no instant of the volume had {a} and {b}");
            }
            self.writes_on();
        }
        exact
    }
}

/// With `Frozen::freeze` that does nothing, hardly a cut is exact: that is the second half.
#[test]
fn a_volume_that_never_rests_is_cut_exactly() {
    if !is_met() {
        return;
    }
    const CUTS: usize = 12;
    let mut writing = Writing::new("freeze = true\nquiet = \"1m\"\nmax_age = \"1m\"");
    writing.exact_of(1);
    let frozen = writing.exact_of(CUTS);
    let log = writing.host.log();
    let times: Vec<&str> = log.lines().filter_map(|line| line.split("milliseconds=").nth(1)).collect();
    eprintln!("frozen: {frozen} of {CUTS} cuts exact; milliseconds frozen: {times:?}");
    assert!(!times.is_empty() && !log.contains("nothing is frozen"), "{log}");

    writing.host.kill();
    writing.host.configure("freeze = false\nquiet = \"1m\"\nmax_age = \"1m\"");
    writing.host.start();
    writing.host.flush();
    let free = writing.exact_of(CUTS);
    eprintln!("not frozen: {free} of {CUTS} cuts exact");
    assert!(frozen + 1 >= CUTS && free < frozen, "frozen {frozen}, not frozen {free} of {CUTS}\n{log}");
    writing.engine.stop().unwrap();
}

/// With a keeper that waits for a word alone, the container stays frozen: for ever after a kill, and for as long as the
/// agent hangs.
#[test]
fn a_container_is_thawed_though_the_agent_dies_or_hangs() {
    if !is_met() {
        return;
    }
    let mut writing = Writing::new("freeze = true\nquiet = \"10ms\"\nmax_age = \"100ms\"");
    for signal in [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGKILL] {
        let end = Instant::now() + WAIT;
        while !writing.is_frozen() {
            assert!(Instant::now() < end, "it is never frozen: {}", writing.host.log());
        }
        writing.host.signal(signal);
        writing.writes_on();
        wait_until("it is thawed", Duration::from_secs(5), || {
            Ok(Seen::when(!writing.is_frozen(), || "frozen".to_owned()))
        })
        .unwrap();
        if signal == Signal::SIGSTOP {
            writing.host.signal(Signal::SIGCONT);
        } else {
            writing.host.kill();
            writing.host.start();
        }
        writing.host.flush();
    }
    // What somebody else has paused is left as it is.
    // (Where the host has cgroups of both versions, `docker pause` takes version 1: so this is done as it does it elsewhere.)
    fs::write(writing.cgroup.join("cgroup.freeze"), "1").unwrap();
    wait_until("it is paused", WAIT, || Ok(Seen::when(writing.is_frozen(), || "not yet".to_owned())))
        .unwrap();
    for n in 0..3 {
        fs::write(writing.volume.join("touched"), n.to_string()).unwrap();
        writing.host.flush();
        assert!(writing.is_frozen(), "a paused container was let go");
    }
    fs::write(writing.cgroup.join("cgroup.freeze"), "0").unwrap();
    writing.writes_on();
    writing.engine.stop().unwrap();
}
