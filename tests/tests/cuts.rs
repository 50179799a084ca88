//! What happens around a cut, with the agent as it is run: limits, hooks, and the child that undoes what they did.
//!
//! Fails on a weakened build, each tried: see the single tests.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::solo::{Host, WAIT};
use harness::gate::{Need, require};
use harness::lab::{Seen, wait_until};
use harness::product::program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NEEDS: [Need; 2] = [Need::Root, Need::LoopDevices];

/// Content that no block of is like another.
fn noise(mib: usize) -> Vec<u8> {
    (0..mib << 17).flat_map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// With `Limits::wait` and `take` that always let pass, the first flush is over at once; with a reload that begins the lane
/// anew, its log says so.
#[test]
fn a_lane_keeps_to_its_bandwidth_until_a_reload_lifts_it() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new("bandwidth = \"2MiB/s\"");
    host.start();
    host.flush();
    fs::write(host.volume().join("small"), noise(6)).unwrap();
    let begun = Instant::now();
    host.flush();
    let took = begun.elapsed().as_secs_f64();
    // A second's worth may have been saved up before.
    assert!((2.0..=4.5).contains(&took), "6 MiB took {took:.2} s at 2 MiB/s");
    eprintln!("6 MiB at 2 MiB/s: {took:.2} s");

    fs::write(host.volume().join("large"), noise(128)).unwrap();
    host.wait_for_phase("cycling");
    host.configure("iops = 1000000");
    host.signal(Signal::SIGHUP);
    host.wait_for_log("was read again");
    let begun = Instant::now();
    host.flush();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}; at the old rate it is 64 s", begun.elapsed());
    assert!(host.log().contains("ended=0"), "{}", host.log());
    host.assert_equal();
}

/// A hook's log, and a file that makes `pre` fail.
fn hooks(host: &Host, pre: &str, post: &str) -> String {
    let log = host.at("hooks.log");
    let note = format!("echo \"$TIDEGATE_PHASE\" >> {}", log.display());
    let pre = host.script("pre", &format!("{note}\n{pre}"));
    let post = host.script("post", &format!("{note}\n{post}"));
    format!("hooks = {{ pre = {pre:?}, post = {post:?}, timeout = \"5s\" }}")
}

fn ran(host: &Host) -> String {
    fs::read_to_string(host.at("hooks.log")).unwrap_or_default().replace('\n', " ")
}

/// With `Worker::extent` that always finds something, idle barriers and excluded files run the hooks.
#[test]
fn hooks_are_run_around_cuts_and_only_around_cuts() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new("");
    let fail = host.at("fail");
    let pre = format!(
        "[ ! -e {} ] || {{ echo not now; exit 7; }}; echo \"$1\" > $TIDEGATE_VOLUME/by-pre",
        fail.display()
    );
    let settings = hooks(&host, &pre, "");
    host.configure(&format!("exclude = [\"*.tmp\"]\nquiet = \"10ms\"\n{settings}"));
    host.start();
    host.flush();
    assert_eq!(ran(&host), "pre post ");
    assert_eq!(
        fs::read_to_string(host.mirror().join("by-pre")).unwrap(),
        "team/blue\n",
        "what pre does is in the cut"
    );
    fs::write(host.volume().join("a.tmp"), "left out").unwrap();
    for _ in 0..3 {
        host.flush();
    }
    assert_eq!(ran(&host), "pre post ", "nothing was to be done\n{}", host.log());

    fs::write(host.volume().join("file"), "one").unwrap();
    host.flush();
    assert_eq!(ran(&host), "pre post pre post ");
    host.assert_equal_but_tmp();

    fs::write(&fail, "").unwrap();
    fs::write(host.volume().join("file"), "two").unwrap();
    let flushed = host.ask(&["flush"]);
    let text = format!("{}{}", flushed.stdout, flushed.stderr);
    assert!(flushed.code != 0 && text.contains("hooks.pre") && text.contains("not now"), "{text}");
    assert!(text.contains("exit status 7"), "{text}");
    assert_eq!(host.lane()["phase"], "failing");
    assert!(
        ran(&host).starts_with("pre post pre post pre post "),
        "post is run behind a pre that failed: {}",
        ran(&host)
    );
    assert_eq!(fs::read_to_string(host.mirror().join("file")).unwrap(), "one", "there was no cut");
    fs::remove_file(&fail).unwrap();
    host.ask(&["resume", "team/blue"]);
    host.flush();
    host.assert_equal_but_tmp();
}

impl Host {
    #[track_caller]
    fn assert_equal_but_tmp(&self) {
        for name in ["file", "by-pre"] {
            assert_eq!(
                fs::read(self.volume().join(name)).unwrap(),
                fs::read(self.mirror().join(name)).unwrap(),
                "{name}"
            );
        }
        assert!(!self.mirror().join("a.tmp").exists());
    }
}

#[test]
fn a_pre_without_end_is_killed_and_a_post_that_fails_is_a_warning() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new("");
    let hang = host.at("hang");
    let pre = format!("[ ! -e {} ] || sleep 1000", hang.display());
    let settings = hooks(&host, &pre, "echo cannot; exit 1").replace("5s", "1s");
    host.configure(&settings);
    host.start();
    host.flush();
    host.wait_for_log("hooks.post");
    let log = host.log();
    let line = log.lines().find(|line| line.contains("hooks.post")).unwrap();
    assert!(line.contains("WARN") && line.contains("cannot"), "{line}");
    assert!(!log.contains("ERROR"), "{log}");

    fs::write(&hang, "").unwrap();
    fs::write(host.volume().join("file"), "one").unwrap();
    let flushed = host.ask(&["flush"]);
    assert!(
        flushed.code != 0 && flushed.stderr.contains("did not end within")
            || flushed.stdout.contains("did not end within"),
        "{flushed:?}"
    );
    assert!(!host.mirror().join("file").exists());
    assert!(host.log().contains("ERROR"), "a lane that cannot go on");
    fs::remove_file(&hang).unwrap();
    host.ask(&["resume", "team/blue"]);
    host.flush();
    host.assert_equal();
}

/// Children of the agent: the keeper of a cut, if there is one.
fn keeper(host: &Host) -> Option<Pid> {
    let agent = host.pid().to_string();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        (parent == agent && String::from_utf8_lossy(&line).contains("keep-cut")).then(|| Pid::from_raw(pid))
    })
}

/// A lane in the middle of a cut: `pre` was run, and what is copied takes its time.
fn in_a_cut(more: &str) -> (Host, Pid) {
    let mut host = Host::new("");
    let settings = hooks(&host, "", more);
    host.configure(&format!("bandwidth = \"64KiB/s\"\n{settings}"));
    fs::write(host.volume().join("large"), noise(8)).unwrap();
    host.start();
    let keeper = wait_until("there is a keeper", WAIT, || {
        Ok(keeper(&host).map_or_else(|| Seen::NotYet(host.log()), Seen::Done))
    });
    let keeper = keeper.unwrap();
    wait_until("pre was run", WAIT, || Ok(Seen::when(ran(&host) == "pre ", || ran(&host)))).unwrap();
    host.wait_for_phase("cycling");
    (host, keeper)
}

fn wait_for_post(host: &Host) {
    wait_until("post was run", WAIT, || Ok(Seen::when(ran(host) == "pre post ", || ran(host)))).unwrap();
}

/// With a keeper that SIGTERM ends, `post` is missing.
#[test]
fn post_is_run_though_the_agent_was_killed() {
    if !require(&NEEDS) {
        return;
    }
    let (mut host, keeper) = in_a_cut("");
    // As a supervisor does that ends everything of a service.
    kill(keeper, Signal::SIGTERM).unwrap();
    assert_eq!(ran(&host), "pre ");
    host.kill();
    wait_for_post(&host);
    wait_until("the keeper has ended", WAIT, || {
        let gone = !Path::new(&format!("/proc/{keeper}")).exists() || is_zombie(keeper);
        Ok(Seen::when(gone, || "it runs".to_owned()))
    })
    .unwrap();
    assert_eq!(ran(&host), "pre post ", "once");
}

fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// With `pre` left alone when the agent's end of the pipe closes, it runs on.
#[test]
fn post_is_run_though_the_agent_was_killed_during_pre() {
    if !require(&NEEDS) {
        return;
    }
    let mut host = Host::new("");
    let pid = host.at("pid");
    let settings = hooks(&host, &format!("echo $$ > {}; exec sleep 1000", pid.display()), "");
    host.configure(&settings.replace("5s", "5m"));
    host.start();
    wait_until("pre runs", WAIT, || Ok(Seen::when(pid.exists() && ran(&host) == "pre ", || ran(&host))))
        .unwrap();
    host.kill();
    wait_for_post(&host);
    let pid = fs::read_to_string(&pid).unwrap().trim().to_owned();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!line.contains("sleep"), "pre runs still");
}

/// With an agent that does nothing in place of its keeper, `post` is missing.
#[test]
fn post_is_run_though_the_keeper_was_killed() {
    if !require(&NEEDS) {
        return;
    }
    let (host, keeper) = in_a_cut("");
    kill(keeper, Signal::SIGKILL).unwrap();
    host.configure(
        &fs::read_to_string(host.config())
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("hooks"))
            .collect::<String>(),
    );
    host.signal(Signal::SIGHUP);
    host.wait_for_log("was read again");
    host.flush();
    wait_until("post was run", WAIT, || Ok(Seen::when(ran(&host).starts_with("pre post "), || ran(&host))))
        .unwrap();
    assert!(host.log().contains("the keeper of a cut is gone"), "{}", host.log());
    host.assert_equal();
}

/// What systemd thinks of the unit, and what must never come into it.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/tidegate.service");
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    for needed in [
        "Type=notify",
        "WatchdogSec=30",
        "FileDescriptorStoreMax=16",
        "Restart=always",
        "RuntimeDirectory=tidegate",
        "StateDirectory=tidegate",
        "KillMode=process",
    ] {
        assert!(lines.contains(&needed), "{needed}");
    }
    for harm in [
        "ProtectSystem",
        "ProtectHome",
        "Private",
        "ProtectKernel",
        "ProtectControlGroups",
        "ProtectProc",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "RestrictSUIDSGID",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "MountFlags",
    ] {
        assert!(!lines.iter().any(|line| line.starts_with(harm)), "{harm} breaks the agent");
    }
    let caps: String = lines.iter().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=")).collect();
    for cap in ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"] {
        assert!(caps.contains(cap), "{cap}");
    }
    if !require(&[Need::Program("systemd-analyze")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("tidegate.service");
    fs::write(&copy, text.replace("/usr/local/bin/tidegate", &program().display().to_string())).unwrap();
    let done = Command::new("systemd-analyze").arg("verify").arg(&copy).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && !said.contains("tidegate.service"), "{said}");
}
