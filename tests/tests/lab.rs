//! The lab itself on this machine: a fixture that lies makes every test on top of it worthless.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::gate;
use harness::lab::{self, BrickFs, Lab, Layout, Signal, What, wait_until};

/// Says which directory the lab of the helper below is in.
const DOOMED: &str = "doomed lab: ";
/// Set for the helper below.
const DIE: &str = "TIDEGATE_LAB_HELPER_DIES";

/// One lab and one walk through what it offers: a start costs seconds.
#[test]
fn two_hosts_through_faults() -> Result<()> {
    if !gate::require(lab::NEEDS) {
        return Ok(());
    }
    let start = Instant::now();
    let lab = Lab::builder().hosts(2).brick(BrickFs::Xfs, "1G").start()?;
    eprintln!("start {:?}", start.elapsed());
    lab.volume("v", Layout::Replica(2)).option("network.ping-timeout", "3").create_and_start()?;
    let mounts = [lab.host(0).mount("v", &[])?, lab.host(1).mount("v", &["acl"])?];
    eprintln!("mounted on both {:?}", start.elapsed());

    lab.host(0).write(mounts[0].join("hello"), b"tide")?;
    assert_eq!(lab.host(1).read(mounts[1].join("hello"))?, b"tide");

    profile_counts(&lab, &mounts[0])?;
    killed_brick_heals(&lab, &mounts[0])?;
    eprintln!("healed {:?}", start.elapsed());
    frozen_client(&lab)?;
    partition_is_seen(&lab, &mounts[0])?;
    eprintln!("partition over {:?}", start.elapsed());
    full_and_read_only_brick(&lab)?;
    programs_have_outer_pids(&lab)?;

    // Take it down in a bad state: cut, one client frozen, one dead, a process inside the mount.
    let mut inside = lab.host(0).cmd("sleep");
    let _inside = lab.host(0).spawn(inside.arg("600").current_dir("/"))?;
    let mut outer = lab.host(1).cmd_outer_pids("sleep");
    let _outer = lab.host(1).spawn(outer.arg("600"))?;
    lab.host(0).freeze(What::Client("v"))?;
    lab.host(1).kill(What::Client("v"))?;
    lab.cut(0, 1)?;
    let dir = lab.dir().to_owned();
    let pids: Vec<i32> = lab.hosts().iter().map(lab::Host::init_pid).collect();
    let down = Instant::now();
    lab.down()?;
    eprintln!("down {:?}, all {:?}", down.elapsed(), start.elapsed());
    assert_eq!(Lab::leftovers_of(&dir), Vec::<String>::new());
    ensure!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "hosts alive: {pids:?}");
    Ok(())
}

fn profile_counts(lab: &Lab, mount: &Path) -> Result<()> {
    lab.profile_start("v")?;
    lab.host(0).assert_all_bricks_connected("v")?;
    let before = lab.profile("v")?;
    for number in 0..10 {
        lab.host(0).write(mount.join(format!("counted{number}")), b"x")?;
    }
    let cost = lab.profile("v")?.since(&before);
    lab.host(0).assert_all_bricks_connected("v")?;
    assert_eq!(cost.bricks.len(), 2);
    assert_eq!(cost.count("CREATE"), 20, "{cost:?}");
    ensure!(cost.requests().iter().all(|requests| *requests >= 100), "{cost:?}");
    lab.profile_clear("v")?;
    assert_eq!(lab.profile("v")?.count("CREATE"), 0);
    lab.profile_stop("v")
}

fn killed_brick_heals(lab: &Lab, mount: &Path) -> Result<()> {
    lab.host(1).kill(What::Brick("v"))?;
    ensure!(lab.host(1).kill(What::Brick("v")).is_err(), "a second kill finds nobody");
    wait_until("the client misses the brick", Duration::from_secs(10), || {
        let view = lab.host(0).bricks("v")?;
        Ok(lab::Seen::when(!view.all_up(), || view.summary()))
    })?;
    ensure!(lab.host(0).assert_all_bricks_connected("v").is_err(), "one brick is down");
    lab.host(0).write(mount.join("missed"), vec![7; 100_000])?;
    assert_eq!(lab.heal_pending("v")?, None, "a dead brick cannot say");
    lab.start_force("v")?;
    lab.wait_all_bricks_connected("v")?;
    lab.wait_healed("v", Duration::from_secs(30))?;
    let copy = lab.host(1).outside(lab.host(1).brick_dir().join("v-0/missed"));
    assert_eq!(fs::read(copy)?, vec![7; 100_000], "the returned brick has the data");
    Ok(())
}

fn frozen_client(lab: &Lab) -> Result<()> {
    let pids = lab.host(1).freeze(What::Client("v"))?;
    assert_eq!(pids.len(), 1);
    assert_eq!(lab.host(1).pids(What::Client("v")), pids);
    assert_eq!(lab.host(1).thaw(What::Client("v"))?, pids);
    lab.host(1).assert_all_bricks_connected("v")
}

fn partition_is_seen(lab: &Lab, mount: &Path) -> Result<()> {
    let (one, other) = (lab.host(0), lab.host(1));
    ensure!(one.reaches(other)?, "the hosts are connected");
    other.partition()?;
    ensure!(!one.reaches(other)? && !other.reaches(one)?, "the hosts are cut off");
    ensure!(one.reaches(one)?, "a host always reaches itself");
    wait_until("the client gives up on the other brick", Duration::from_secs(20), || {
        let view = one.bricks("v")?;
        Ok(lab::Seen::when(!view.all_up(), || view.summary()))
    })?;
    one.write(mount.join("alone"), b"x")?;
    lab.heal_network()?;
    lab.wait_all_bricks_connected("v")?;
    ensure!(one.reaches(other)?, "the cut is healed");
    Ok(())
}

fn full_and_read_only_brick(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let file = host.brick_dir().join("probe");
    host.fill_brick()?;
    ensure!(host.write(&file, [1; 8192]).is_err(), "the brick is full");
    host.unfill_brick()?;
    host.write(&file, [1; 8192])?;
    host.brick_readonly()?;
    ensure!(host.write(&file, b"x").is_err(), "the brick is read-only");
    host.brick_readwrite()?;
    host.run(&["rm", &file.to_string_lossy()]).map(drop)
}

fn programs_have_outer_pids(lab: &Lab) -> Result<()> {
    let host = lab.host(0);
    let mut sleeper = host.spawn(host.cmd("sleep").arg("600"))?;
    let name = fs::read_to_string(format!("/proc/{}/comm", sleeper.pid()))?;
    assert_eq!(name.trim(), "sleep");
    sleeper.freeze()?;
    sleeper.thaw()?;
    ensure!(sleeper.try_wait()?.is_none(), "still asleep");
    let status = sleeper.kill()?;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::SIGKILL as i32));

    let outer = host.spawn(host.cmd_outer_pids("sleep").arg("600"))?;
    ensure!(
        fs::read_link(format!("/proc/{}/ns/pid", outer.pid()))? == fs::read_link("/proc/self/ns/pid")?,
        "kept the pids"
    );
    ensure!(
        fs::read_link(format!("/proc/{}/ns/net", outer.pid()))? != fs::read_link("/proc/self/ns/net")?,
        "entered the network"
    );
    Ok(())
}

/// Two labs live side by side, one with an arbiter over three hosts and a delay, and leave the machine as it was.
#[test]
fn arbiter_with_delay_beside_a_dying_lab() -> Result<()> {
    if !gate::require(lab::NEEDS) {
        return Ok(());
    }
    let namespaces = named_namespaces()?;
    let lab = Lab::builder().hosts(3).start()?;
    lab.volume("a", Layout::Arbiter).create_and_start()?;
    let mount = lab.host(2).mount("a", &[])?;
    ensure!(lab.host(2).bricks("a")?.connected.len() == 3, "three bricks");

    let write = || -> Result<Duration> {
        let start = Instant::now();
        lab.host(2)
            .sh(&format!("for n in 1 2 3 4 5; do mkdir {0}/d$n; rmdir {0}/d$n; done", mount.display()))?;
        Ok(start.elapsed())
    };
    let plain = write()?;
    lab.set_brick_delay("a", 20_000)?;
    let delayed = write()?;
    ensure!(delayed > plain + Duration::from_millis(400), "plain {plain:?}, delayed {delayed:?}");
    lab.set_brick_delay("a", 0)?;
    ensure!(write()? < delayed, "the delay is gone");

    // The other owner dies without a chance to clean up; what the kernel does not end, a sweep does: this one,
    // or that of another lab starting at this moment, which is why it is waited for.
    let doomed = start_doomed_lab()?;
    Lab::sweep()?;
    wait_until("nothing is left of the doomed lab", Duration::from_secs(20), || {
        let left = Lab::leftovers_of(Path::new(&doomed));
        Ok(lab::Seen::when(left.is_empty(), || format!("{left:?}")))
    })?;
    lab.host(2).assert_all_bricks_connected("a").context("a living lab is not swept")?;
    lab.host(2).unmount("a")?;
    ensure!(lab.host(2).pids(What::Client("a")).is_empty(), "the client is gone");
    let dir = lab.dir().to_owned();
    drop(lab);
    assert_eq!(Lab::leftovers_of(&dir), Vec::<String>::new());
    assert_eq!(named_namespaces()?, namespaces);
    Ok(())
}

/// Runs the helper below in a process of its own and returns the directory of its lab when that process is dead.
fn start_doomed_lab() -> Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "helper_dies_with_a_lab", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIE, "1")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once(DOOMED));
    Ok(line
        .with_context(|| format!("helper: {text} {}", String::from_utf8_lossy(&output.stderr)))?
        .1
        .to_owned())
}

#[test]
#[ignore = "dies on purpose; run by the test of the sweep"]
fn helper_dies_with_a_lab() {
    // A run of all ignored tests must not die of it.
    if std::env::var_os(DIE).is_none() {
        return;
    }
    let lab = Lab::builder().hosts(1).start().expect("a lab with one host");
    println!("{DOOMED}{}", lab.dir().display());
    std::process::abort();
}

fn named_namespaces() -> Result<BTreeSet<String>> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(BTreeSet::new()) };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
