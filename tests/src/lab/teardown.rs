//! Taking a lab down, sweeping labs whose owner died, and looking for remains.
//!
//! A lab is a directory, locked by its owner. Everything else it uses can be found from the name of that
//! directory: its processes live in mount namespaces that show it, its loop devices are backed by files in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::cluster::Lab;
use super::init::Init;
use super::procfs;
use super::run::{Seen, check, run, wait_until};

const PREFIX: &str = "tidegate-lab-";
const LABS_MAX: u32 = 1000;
const STEP_LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(5);

/// Where labs live: `TIDEGATE_LAB_DIR`, or `/var/tmp`, which unlike `/tmp` is rarely held in memory.
fn base() -> PathBuf {
    std::env::var_os("TIDEGATE_LAB_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// Makes and locks the directory of a new lab.
pub(super) fn claim() -> Result<(PathBuf, File)> {
    let base = base();
    let _creating = lock_base(&base)?;
    for number in 0..LABS_MAX {
        let dir = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => {
                let lock = try_lock(&dir)?
                    .with_context(|| format!("{} is locked by somebody else", dir.display()))?;
                return Ok((dir, lock));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("create {}", dir.display())),
        }
    }
    bail!("{LABS_MAX} labs of this process in {}", base.display())
}

/// Between making a directory and locking it, nobody may take it for abandoned.
fn lock_base(base: &Path) -> Result<File> {
    wait_until(&format!("{} can be locked", base.display()), STEP_LIMIT, || {
        Ok(match try_lock(base)? {
            Some(lock) => Seen::Done(lock),
            None => Seen::NotYet("locked".into()),
        })
    })
}

/// Locks a directory; `None` when somebody else has it. The lock is on the open directory, not on a file in
/// it, so it needs no cleaning up.
fn try_lock(dir: &Path) -> Result<Option<File>> {
    let file = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("lock {}", dir.display())),
    }
}

impl Lab {
    /// Takes the lab down and reports what would not go; dropping the lab does the same and prints it.
    pub fn down(mut self) -> Result<()> {
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<()> {
        save_logs(&self.dir);
        let inits = std::mem::take(&mut self.inits);
        self.hosts.clear();
        let mut problems = end_processes(&self.dir, &inits);
        for init in inits {
            let pid = init.pid;
            if !init.reap(STEP_LIMIT) {
                problems.push(format!("host process {pid} does not end"));
            }
        }
        if self.switch.take().is_some_and(|switch| !switch.stop(SHORT)) {
            problems.push("the switch does not end".into());
        }
        remove_files(&self.dir, &mut problems);
        report(&self.dir, problems)
    }

    /// Takes down what labs of dead processes left behind. Every start does this first.
    pub fn sweep() -> Result<()> {
        let mut problems = Vec::new();
        for (dir, _lock) in abandoned()? {
            problems.extend(end_processes(&dir, &[]));
            remove_files(&dir, &mut problems);
        }
        report(Path::new("abandoned labs"), problems)
    }

    /// What is left on this machine of labs that nobody owns any more, one line each; empty when all is well.
    pub fn leftovers() -> Result<Vec<String>> {
        let base = base();
        let alive: Vec<String> = {
            let _creating = lock_base(&base)?;
            let is_locked = |dir: &PathBuf| try_lock(dir).is_ok_and(|lock| lock.is_none());
            lab_dirs(&base)?
                .into_iter()
                .filter(is_locked)
                .filter_map(|dir| lab_in(&dir.to_string_lossy()))
                .collect()
        };
        Ok(remains(|lab| !alive.iter().any(|alive| alive == lab)))
    }

    /// What is left on this machine of the lab with that [`Lab::dir`].
    pub fn leftovers_of(dir: &Path) -> Vec<String> {
        let name = lab_in(&dir.to_string_lossy());
        remains(|lab| Some(lab) == name.as_deref())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.inits.is_empty() && self.switch.is_none() && !self.dir.exists() {
            return;
        }
        if let Err(error) = self.tear_down() {
            eprintln!("lab: tear-down: {error:#}");
        }
    }
}

/// Copies the logs of all hosts to where the environment asks for them.
fn save_logs(lab: &Path) {
    let (Some(to), Some(name)) = (std::env::var_os("TIDEGATE_LAB_LOGS"), lab.file_name()) else { return };
    let to = Path::new(&to).join(name);
    for host in fs::read_dir(lab).into_iter().flatten().flatten() {
        let to = to.join(host.file_name());
        let copied = fs::create_dir_all(&to).map_err(anyhow::Error::from).and_then(|()| {
            check(Command::new("cp").arg("-a").arg(host.path().join("log/.")).arg(&to), SHORT)
        });
        if let Err(error) = copied {
            eprintln!("lab: keep the logs: {error:#}");
        }
    }
}

fn report(dir: &Path, problems: Vec<String>) -> Result<()> {
    if !problems.is_empty() {
        bail!("{}: {}", dir.display(), problems.join("; "));
    }
    Ok(())
}

/// Directories of labs whose owner is dead, each locked for us.
fn abandoned() -> Result<Vec<(PathBuf, File)>> {
    let base = base();
    let _creating = lock_base(&base)?;
    let mut found = Vec::new();
    for dir in lab_dirs(&base)? {
        // Gone between listing and opening: its owner has just cleaned up.
        if let Ok(Some(lock)) = try_lock(&dir) {
            found.push((dir, lock));
        }
    }
    Ok(found)
}

fn lab_dirs(base: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(base).with_context(|| format!("list {}", base.display()))?;
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect())
}

/// The name of the lab that a path or a text belongs to.
fn lab_in(text: &str) -> Option<String> {
    let name = &text[text.find(PREFIX)?..];
    let ends = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '-');
    Some(name[..name.find(ends).unwrap_or(name.len())].to_owned())
}

/// The lab whose files a mount shows.
fn lab_of_mount(mount: &procfs::Mount) -> Option<String> {
    lab_in(&mount.root).or_else(|| lab_in(&mount.point.to_string_lossy()))
}

/// Processes outside our own mount namespace that live on a host of a lab, with the name of the lab.
fn members() -> Vec<(i32, String)> {
    let ours = procfs::namespace(std::process::id() as i32, "mnt");
    // Many processes share a namespace; each is read once.
    let mut known: BTreeMap<PathBuf, Option<String>> = BTreeMap::new();
    let lab_of = |pid: i32| {
        let namespace = procfs::namespace(pid, "mnt").filter(|namespace| Some(namespace) != ours.as_ref())?;
        known
            .entry(namespace)
            .or_insert_with(|| procfs::mounts(pid).iter().find_map(lab_of_mount))
            .clone()
            .map(|lab| (pid, lab))
    };
    procfs::pids().into_iter().filter(|pid| procfs::is_alive(*pid)).filter_map(lab_of).collect()
}

/// Ends every process of a lab, in the one order that leaves none hanging; returns what would not go.
fn end_processes(dir: &Path, inits: &[Init]) -> Vec<String> {
    let name = lab_in(&dir.to_string_lossy());
    // The process that waits for a host's first one has entered the namespaces too. It ends by itself, and
    // killed earlier it could not collect its child.
    let waits = |pid: i32| inits.iter().any(|init| init.outer_pid() == pid);
    let of_lab = || {
        let ours = members().into_iter().filter(|(pid, lab)| Some(lab) == name.as_ref() && !waits(*pid));
        ours.map(|(pid, _)| pid).collect::<Vec<_>>()
    };
    let inits: Vec<i32> = inits.iter().map(|init| init.pid).collect();
    let mut all = of_lab();
    all.extend(&inits);
    // 1. An aborted FUSE connection answers everyone who waits for it, so that they can be killed.
    abort_fuse(&all);
    // 2. A stopped client would not see its connection end, and a stopped process not its other signals.
    for pid in &all {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
    }
    // 3. The first process of a host takes all others in its pid namespace with it. Programs that kept the
    //    outer pids are killed by name; new ones may come as long as old ones live.
    let gone = wait_until("the processes of the lab have ended", STEP_LIMIT, || {
        let rest: Vec<_> =
            of_lab().into_iter().chain(inits.iter().copied().filter(|pid| procfs::is_alive(*pid))).collect();
        for pid in &rest {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        Ok(Seen::when(rest.is_empty(), || {
            format!("{:?}", rest.iter().map(|pid| (pid, procfs::arguments(*pid))).collect::<Vec<_>>())
        }))
    });
    gone.err().map(|error| format!("{error:#}")).into_iter().collect()
}

/// Aborts and detaches the FUSE mounts of these processes, leaving alone those that the whole machine has.
fn abort_fuse(pids: &[i32]) {
    let ours: Vec<u32> = procfs::own_mounts().iter().map(|mount| mount.minor).collect();
    let mut seen = Vec::new();
    for pid in pids {
        let Some(namespace) = procfs::namespace(*pid, "mnt") else { continue };
        if seen.contains(&namespace) {
            continue;
        }
        let is_fuse = |mount: &procfs::Mount| {
            mount.kind == "fuse" || mount.kind == "fuseblk" || mount.kind.starts_with("fuse.")
        };
        let fuse: Vec<_> = procfs::mounts(*pid)
            .into_iter()
            .filter(|mount| is_fuse(mount) && !ours.contains(&mount.minor))
            .collect();
        for mount in &fuse {
            let abort = procfs::through_root(*pid, Path::new("/sys/fs/fuse/connections"))
                .join(mount.minor.to_string())
                .join("abort");
            let _ = fs::write(abort, "1");
        }
        if !fuse.is_empty() {
            let mut umount = Command::new("nsenter");
            umount.args(["--target", &pid.to_string(), "--mount", "umount", "-l", "--"]);
            // Best effort: the mounts also end with their namespace.
            let _ = run(umount.args(fuse.iter().map(|mount| &mount.point)), SHORT);
        }
        seen.push(namespace);
    }
}

/// Waits for the loop devices to go and removes the directory.
fn remove_files(dir: &Path, problems: &mut Vec<String>) {
    let name = lab_in(&dir.to_string_lossy());
    let devices = || {
        procfs::loop_devices()
            .into_iter()
            .filter(|(_, file)| lab_in(file) == name)
            .map(|(device, _)| device)
            .collect::<Vec<_>>()
    };
    // They detach by themselves when the last mount is gone, which the kernel does behind our back.
    let detached = wait_until("the loop devices are detached", STEP_LIMIT, || {
        let rest = devices();
        Ok(Seen::when(rest.is_empty(), || format!("{rest:?}")))
    });
    if let Err(error) = detached {
        problems.push(format!("{error:#}"));
        for device in devices() {
            let _ = run(Command::new("losetup").args(["--detach", &format!("/dev/{device}")]), SHORT);
        }
    }
    // Nothing of ours is ever mounted in the machine's own namespace; removing through a mount would be grave.
    if let Some(mount) = procfs::own_mounts().iter().find(|mount| lab_of_mount(mount) == name) {
        problems.push(format!("{} is mounted here; directory left alone", mount.point.display()));
        return;
    }
    if let Err(error) = remove_tree(dir) {
        problems.push(format!("{error:#}"));
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A test guarded a mount point with the immutable flag.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error).with_context(|| format!("remove {}", dir.display())),
    }
    check(Command::new("chattr").args(["-R", "-f", "-i"]).arg(dir), STEP_LIMIT)?;
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// Everything on this machine that belongs to one of the `wanted` labs.
fn remains(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let is_wanted = |lab: Option<String>| lab.is_some_and(|lab| wanted(&lab));
    let mut found = Vec::new();
    for dir in lab_dirs(&base()).unwrap_or_default() {
        if is_wanted(lab_in(&dir.to_string_lossy())) {
            found.push(format!("directory {}", dir.display()));
        }
    }
    for (device, file) in procfs::loop_devices() {
        if is_wanted(lab_in(&file)) {
            found.push(format!("loop device {device} on {file}"));
        }
    }
    for mount in procfs::own_mounts() {
        if is_wanted(lab_of_mount(&mount)) {
            found.push(format!("mount {}", mount.point.display()));
        }
    }
    for (pid, lab) in members() {
        if wanted(&lab) {
            found.push(format!("process {pid} of {lab}: {:?}", procfs::arguments(pid)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_are_told_apart_by_their_whole_name() {
        assert_eq!(
            lab_in("/var/tmp/tidegate-lab-12-3/host0/brick.img (deleted)").as_deref(),
            Some("tidegate-lab-12-3")
        );
        assert_eq!(lab_in("/tidegate-lab-12-34").as_deref(), Some("tidegate-lab-12-34"));
        assert_eq!(lab_in("/var/tmp/other"), None);
    }

    #[test]
    fn an_owned_directory_cannot_be_locked_again() {
        let dir = tempfile::tempdir().unwrap();
        let lock = try_lock(dir.path()).unwrap();
        assert!(lock.is_some());
        assert!(try_lock(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(try_lock(dir.path()).unwrap().is_some());
    }
}
