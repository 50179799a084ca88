//! Checks of the host: kernel, privileges, fanotify, io_uring, the local disk, Docker, the freezer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::Errno;
use sys::fanotify::{Events, Group, Mode, Queue};

use super::{Context, Finding};
use crate::config::VolumeSource;
use crate::docker::Docker;
use crate::run::Chain;
use crate::state::StateDir;

/// First kernel that tells names at all.
const NAMES_SINCE: (u32, u32) = (5, 9);
/// First kernel that tells a rename as one event, and the object of a name that is made or removed.
const TARGETS_SINCE: (u32, u32) = (5, 17);

/// Least room on the disk of the state directory: a full journal, and the index of some million files.
const ROOM_MIN: u64 = 1 << 30;

/// How long the kernel may take to tell of a file that was just made.
const EVENT_LIMIT: Duration = Duration::from_secs(5);

/// How long the engine may take to answer.
const DOCKER_LIMIT: Duration = Duration::from_secs(5);

/// The kernel's version.
pub(super) fn kernel(_: &Context) -> Vec<Finding> {
    vec![judge_kernel(&sys::host::kernel_release())]
}

/// Pure.
fn judge_kernel(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    let numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
    let [major, minor, ..] = numbers[..] else {
        return Finding::warn(
            CHECK,
            format!("{release:?} is no version that is known here"),
            "see what fanotify says below",
        );
    };
    if (major, minor) >= TARGETS_SINCE {
        return Finding::ok(CHECK, format!("Linux {release}"));
    }
    let remedy = "take Linux 5.17 or newer";
    if (major, minor) >= NAMES_SINCE {
        let found = format!("Linux {release} tells a rename as two events");
        return Finding::warn(CHECK, found, format!("{remedy}, where capture costs less"));
    }
    let found = format!(
        "Linux {release} tells no names: changes cannot be captured, volumes are walked on an interval"
    );
    Finding::warn(CHECK, found, remedy)
}

/// Capabilities, with their numbers (linux/capability.h) and what they are for.
const FOR_FILES: [(u32, &str); 7] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
];
const FOR_CAPTURE: [(u32, &str); 2] = [(2, "CAP_DAC_READ_SEARCH"), (21, "CAP_SYS_ADMIN")];
const FOR_OPEN_FILES: [(u32, &str); 1] = [(19, "CAP_SYS_PTRACE")];

/// Whether every process shows what it has open for writing: of one that hides nobody can tell what it writes to.
pub(super) fn open_files(context: &Context) -> Vec<Finding> {
    const CHECK: &str = "open files";
    let mut scanner = sys::procfs::Scanner::default();
    scanner.harmless.clone_from(&context.not_writers);
    let mut count = 0_u64;
    let finding = match (scanner.scan(&mut |_| count += 1), scanner.refused.take()) {
        (Ok(sys::procfs::Seen::All), _) => {
            Finding::ok(CHECK, format!("all processes show theirs: {count} for writing"))
        }
        (Ok(sys::procfs::Seen::Part), Some((name, pid))) => Finding::warn(
            CHECK,
            format!("process {pid} ({name}) hides what it has open: every cut is called fuzzy"),
            format!("if it writes to no volume: not_writers = [\"{name}\"] in [agent]"),
        ),
        (Ok(sys::procfs::Seen::Part), None) => Finding::warn(
            CHECK,
            "not all loop devices can be asked for their files",
            "mount devtmpfs on /dev",
        ),
        (Err(error), _) => Finding::warn(CHECK, error.to_string(), "mount /proc"),
    };
    vec![finding]
}

/// What this process may do. It has to be run as the agent is.
pub(super) fn capabilities(_: &Context) -> Vec<Finding> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok()) {
        Some(held) => judge_capabilities(held),
        None => vec![Finding::warn("capabilities", "cannot be read from /proc/self/status", "mount /proc")],
    }
}

/// Pure: what a set of capabilities lets us do.
fn judge_capabilities(held: u64) -> Vec<Finding> {
    const CHECK: &str = "capabilities";
    let lacks = |wanted: &[(u32, &str)]| {
        let missing = wanted.iter().filter(|(bit, _)| held >> bit & 1 == 0);
        let missing: Vec<&str> = missing.map(|(_, name)| *name).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    };
    let mut findings = Vec::new();
    let remedy = "run it as root, or with these in the unit's CapabilityBoundingSet";
    if let Some(missing) = lacks(&FOR_FILES) {
        let found =
            format!("{missing} missing: files of other users cannot be read, or made with their owners");
        findings.push(Finding::fail(CHECK, found, remedy));
    }
    if let Some(missing) = lacks(&FOR_CAPTURE) {
        let found =
            format!("{missing} missing: changes cannot be captured, volumes are walked on an interval");
        findings.push(Finding::warn(CHECK, found, remedy));
    }
    if let Some(missing) = lacks(&FOR_OPEN_FILES) {
        let found = format!(
            "{missing} missing: files that other users' processes have open for writing are not found"
        );
        findings.push(Finding::warn(CHECK, found, remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "all that are needed are held"));
    }
    findings
}

/// Which ways of telling the kernel has, and whether a change is really told: in a directory of our own.
pub(super) fn fanotify(_: &Context) -> Vec<Finding> {
    const CHECK: &str = "fanotify";
    let tried: Vec<(Mode, Result<(), Errno>)> =
        Mode::ALL.into_iter().map(|mode| (mode, Group::try_mode(mode))).collect();
    let works: Vec<&str> =
        tried.iter().filter(|(_, tried)| tried.is_ok()).map(|(mode, _)| mode.word()).collect();
    if let Some((_, Err(errno))) = tried.iter().find(|(mode, tried)| *mode == Mode::Names && tried.is_err()) {
        let remedy = match *errno {
            Errno::PERM => "run it as root: CAP_SYS_ADMIN is needed",
            Errno::INVAL | Errno::NOSYS => "take Linux 5.9 or newer, built with CONFIG_FANOTIFY",
            Errno::MFILE => "other programs hold all groups of this user: raise fs.fanotify.max_user_groups",
            _ => "look for a seccomp filter or a security module that forbids it",
        };
        let found =
            format!("a group that tells names cannot be opened ({errno}): volumes are walked on an interval");
        return vec![Finding::warn(CHECK, found, remedy)];
    }
    let modes = format!("report modes {}", works.join(", "));
    let whole = works.contains(&Mode::Targets.word());
    match is_told() {
        Ok(took) if whole => {
            vec![Finding::ok(
                CHECK,
                format!("{modes}; a change was told after {:.1} ms", took.as_secs_f64() * 1e3),
            )]
        }
        Ok(_) => vec![Finding::warn(
            CHECK,
            format!("{modes}; not the one with targets"),
            "take Linux 5.17 or newer, where capture costs less",
        )],
        Err(why) => vec![Finding::warn(
            CHECK,
            format!("{modes}; but a change could not be seen in {}: {why}", std::env::temp_dir().display()),
            "if the lanes below are captured, all is well: only that directory cannot be watched. TMPDIR names another",
        )],
    }
}

/// Watches a directory of our own, makes a file there, and waits until the kernel tells its name.
fn is_told() -> Result<Duration, String> {
    let place = Place::new().map_err(|e| e.to_string())?;
    let dir = fs::File::open(&place.0).map_err(|e| e.to_string())?;
    let group = Group::open(Queue::Limited).map_err(|e| e.to_string())?;
    group.mark(&dir).map_err(|e| e.to_string())?;
    let begun = Instant::now();
    fs::write(place.0.join("told"), b"x").map_err(|e| e.to_string())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = EVENT_LIMIT.saturating_sub(begun.elapsed());
        if left.is_zero() || !sys::host::wait_readable(&group, left) {
            return Err(format!("nothing was told within {EVENT_LIMIT:?}"));
        }
        let n = group.read(&mut buffer).map_err(|e| e.to_string())?;
        let mut events = Events::new(&buffer[..n]).flatten();
        if events.any(|event| event.at.is_some_and(|at| at.name == b"told")) {
            return Ok(begun.elapsed());
        }
    }
}

/// A directory for a trial; gone with its value.
struct Place(PathBuf);

impl Place {
    fn new() -> std::io::Result<Self> {
        Self::below(&std::env::temp_dir())
    }

    fn below(above: &Path) -> std::io::Result<Self> {
        let path = above.join(format!("tidegate-doctor-{:016x}", u64::from_le_bytes(sys::host::random())));
        std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in ["told", "cgroup.freeze"] {
            // The kernel's own files of a cgroup stay, and go with it.
            let _ = fs::remove_file(self.0.join(name));
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// A ring is set up and asked what it can do.
pub(super) fn io_uring(_: &Context) -> Vec<Finding> {
    const CHECK: &str = "io_uring";
    use sys::uring::Unavailable;
    let why = match sys::uring::probe() {
        Ok(()) => return vec![Finding::ok(CHECK, "works, with all operations that are needed")],
        Err(why) => why,
    };
    let remedy = match why {
        Unavailable::Forbidden => {
            "sysctl kernel.io_uring_disabled=0; in a container, allow io_uring in its seccomp profile"
        }
        Unavailable::NoSuchCall | Unavailable::TooOld => "take Linux 5.11 or newer",
        Unavailable::Other(_) => "look at the kernel log, and at ulimit -l",
    };
    vec![Finding::warn(
        CHECK,
        format!("{why}: files are copied and the journal written with plain calls"),
        remedy,
    )]
}

/// The local disk that index and journal lie on.
pub(super) fn state(_: &Context) -> Vec<Finding> {
    const CHECK: &str = "state directory";
    let elsewhere = "set TIDEGATE_STATE_DIR to a directory on a local disk, private to who runs the agent";
    let path = match StateDir::look() {
        Ok(Some(state)) => state.path().to_owned(),
        Ok(None) => match StateDir::place() {
            Ok(path) => path,
            Err(error) => return vec![Finding::fail(CHECK, Chain(&error).to_string(), elsewhere)],
        },
        Err(error) => return vec![Finding::fail(CHECK, Chain(&error).to_string(), elsewhere)],
    };
    // Not made yet: where it will be.
    let Some(there) = path.ancestors().find(|at| at.is_dir()) else {
        return vec![Finding::fail(CHECK, format!("{} cannot be made", path.display()), elsewhere)];
    };
    let shown = path.display();
    let mounts = sys::mount::read_mountinfo().unwrap_or_default();
    if let Some(mount) = sys::mount::covering(&mounts, there)
        && fsprobe::FsKind::of(&mount.fstype).may_hang()
    {
        let found = format!("{shown} lies on {}, which can hang", mount.fstype.to_string_lossy());
        return vec![Finding::fail(CHECK, found, elsewhere)];
    }
    let room = match nix::sys::statvfs::statvfs(there) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(errno) => {
            return vec![Finding::fail(CHECK, format!("{shown} cannot be looked at: {errno}"), elsewhere)];
        }
    };
    let found = format!("{shown}, {} free", crate::cli::bytes(room));
    if room < ROOM_MIN {
        return vec![Finding::warn(CHECK, found, "make room: with a full disk nothing is replicated")];
    }
    vec![Finding::ok(CHECK, found)]
}

/// Whether the engine answers, if a lane needs it.
pub(super) fn docker(context: &Context) -> Vec<Finding> {
    const CHECK: &str = "docker";
    let needs = context.wants(|lane| matches!(lane.volume, VolumeSource::Docker(_)));
    let engine = Docker::find(DOCKER_LIMIT).and_then(|docker| docker.ping().map(|()| docker));
    vec![match (engine, needs) {
        (Ok(docker), _) => Finding::ok(
            CHECK,
            format!("{} answers at {}", docker.engine().version, docker.socket().display()),
        ),
        (Err(_), None) => Finding::ok(CHECK, "no engine answers, and no lane needs one"),
        (Err(error), Some(lane)) => Finding::fail(
            CHECK,
            format!("the volume of {} is Docker's, and no engine answers: {}", lane.name, Chain(&error)),
            "systemctl start docker; DOCKER_HOST names another socket",
        ),
    }]
}

/// Freezes an empty group of our own for a moment: what would be done to a container at a cut.
pub(super) fn freezer(context: &Context) -> Vec<Finding> {
    const CHECK: &str = "freezer";
    let wanted = context.wants(|lane| lane.settings.freeze);
    let mounts = sys::mount::read_mountinfo().unwrap_or_default();
    let tried = match mounts.iter().find(|mount| mount.fstype == "cgroup2") {
        Some(mount) => freeze_nothing(&mount.mountpoint),
        None => Err("no cgroup v2 is mounted".to_owned()),
    };
    let why = match tried {
        Ok(()) => return vec![Finding::ok(CHECK, "a cgroup can be frozen and thawed")],
        Err(why) => why,
    };
    let remedy =
        "mount cgroup v2, writable (systemd.unified_cgroup_hierarchy=1 on the kernel's command line)";
    let found = format!("no cgroup can be frozen: {why}; a cut of a busy volume may be fuzzy");
    vec![match wanted {
        Some(lane) => Finding::fail(CHECK, format!("{found}; {} asks for it", lane.name), remedy),
        None => Finding::warn(CHECK, found, remedy),
    }]
}

fn freeze_nothing(root: &Path) -> Result<(), String> {
    let place = Place::below(root).map_err(|e| format!("make a group: {e}"))?;
    for (word, frozen) in [("1", "frozen 1"), ("0", "frozen 0")] {
        fs::write(place.0.join("cgroup.freeze"), word).map_err(|e| format!("write cgroup.freeze: {e}"))?;
        // With nobody in it, it is done when the write returns.
        let events = fs::read_to_string(place.0.join("cgroup.events"))
            .map_err(|e| format!("read cgroup.events: {e}"))?;
        if !events.lines().any(|line| line == frozen) {
            return Err(format!("cgroup.events does not say {frozen:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn kernels_are_judged_by_what_they_tell() {
        for (release, verdict, word) in [
            ("6.18.44", Verdict::Ok, "6.18.44"),
            ("5.17.0-rc1+", Verdict::Ok, "5.17"),
            ("5.15.0-91-generic", Verdict::Warn, "two events"),
            ("5.9-custom", Verdict::Warn, "two events"),
            ("5.4.0", Verdict::Warn, "no names"),
            ("4.18.0-553.el8_10.x86_64", Verdict::Warn, "no names"),
            ("mystery", Verdict::Warn, "no version"),
            ("", Verdict::Warn, "no version"),
        ] {
            let finding = judge_kernel(release);
            assert_eq!(finding.verdict, verdict, "{finding}");
            assert!(finding.found.contains(word), "{finding}");
            assert_eq!(finding.remedy.is_some(), verdict != Verdict::Ok, "{finding}");
        }
    }

    #[test]
    fn each_capability_that_is_missing_is_named_with_what_it_costs() {
        let all = (1 << 41) - 1;
        assert_eq!(judge_capabilities(all).len(), 1);
        assert_eq!(judge_capabilities(all)[0].verdict, Verdict::Ok);
        for (held, expected) in [
            (all & !(1 << 21), vec![(Verdict::Warn, "CAP_SYS_ADMIN missing: changes")]),
            (all & !(1 << 19), vec![(Verdict::Warn, "CAP_SYS_PTRACE missing: files")]),
            (all & !(1 << 0 | 1 << 7), vec![(Verdict::Fail, "CAP_CHOWN, CAP_SETUID missing: files")]),
            (
                all & !(1 << 2),
                vec![
                    (Verdict::Fail, "CAP_DAC_READ_SEARCH missing"),
                    (Verdict::Warn, "CAP_DAC_READ_SEARCH missing"),
                ],
            ),
            (0, vec![(Verdict::Fail, "CAP_CHOWN"), (Verdict::Warn, "SYS_ADMIN"), (Verdict::Warn, "PTRACE")]),
        ] {
            let findings = judge_capabilities(held);
            assert_eq!(findings.len(), expected.len(), "{findings:?}");
            for (finding, (verdict, text)) in findings.iter().zip(expected) {
                assert_eq!(finding.verdict, verdict, "{finding}");
                assert!(finding.found.contains(text), "{finding}");
            }
        }
    }

    #[test]
    fn a_group_is_frozen_and_thawed_and_what_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        // A directory that only looks like one takes the word and never says that it is frozen.
        assert!(freeze_nothing(dir.path()).unwrap_err().contains("cgroup.events"));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "something is left");
        let mount = |kind: &str| {
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(None::<&str>, dir.path(), Some(kind), flags, None::<&str>)
        };
        if let Err(errno) = mount("cgroup2") {
            assert!(std::env::var_os("REQUIRE_ALL").is_none(), "mount cgroup2: {errno}");
            eprintln!("SKIPPED: mount cgroup2: {errno}");
            return;
        }
        let tried = freeze_nothing(dir.path());
        let left = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("tidegate-doctor-"));
        nix::mount::umount(dir.path()).unwrap();
        assert_eq!((tried, left), (Ok(()), false));
    }
}
