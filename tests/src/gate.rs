//! What a test needs from the machine, and what happens when it is not there.
//!
//! A skip is never silent: it is printed past the capture of the test runner, counted, and with
//! `REQUIRE_ALL=1` in the environment it is a failure.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::Location;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Something a test cannot do without.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Effective user 0 with CAP_SYS_ADMIN.
    Root,
    /// A program that is found in `PATH` or in the usual directories for administration.
    Program(&'static str),
    /// A usable `/dev/fuse`.
    Fuse,
    /// Loop devices.
    LoopDevices,
    /// New mount, network, pid and UTS namespaces.
    Namespaces,
    /// At least this kernel, as major and minor number.
    Kernel(u32, u32),
    /// Anything else: a name and a check that says what is missing.
    Check(&'static str, fn() -> Result<(), String>),
}

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Whether everything in `needs` is there. When not, the test has to return at once: the skip has been printed
/// and counted.
///
/// # Panics
/// Something is missing and `REQUIRE_ALL` is set to anything but `0` or nothing.
#[must_use = "a test whose needs are not met has to return"]
#[track_caller]
pub fn require(needs: &[Need]) -> bool {
    let Some(reason) = needs.iter().find_map(|need| need.missing()) else { return true };
    let thread = thread::current();
    let place = Location::caller();
    // The test runner names the thread after the test, unless it runs all of them in the first thread.
    let name = thread
        .name()
        .filter(|name| *name != "main")
        .map_or_else(|| format!("{}:{}", place.file(), place.line()), str::to_owned);
    if env::var_os("REQUIRE_ALL").is_some_and(|value| !value.is_empty() && value != "0") {
        panic!("REQUIRE_ALL is set, but {name} cannot run: {reason}");
    }
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    // The macros for printing would be captured by the runner and thrown away for a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
    false
}

/// How many tests of this process were skipped so far.
pub fn skipped() -> usize {
    SKIPPED.load(Ordering::Relaxed)
}

impl Need {
    /// Why this is not there; `None` when it is.
    fn missing(&self) -> Option<String> {
        match *self {
            Need::Root => (!is_admin()).then(|| "needs root with CAP_SYS_ADMIN".into()),
            Need::Program(name) => (!has_program(name)).then(|| format!("needs the program {name}")),
            Need::Fuse => cannot_open("/dev/fuse"),
            Need::LoopDevices => cannot_open("/dev/loop-control"),
            Need::Namespaces => {
                (!can_unshare()).then(|| "needs mount, network, pid and UTS namespaces".into())
            }
            Need::Kernel(major, minor) => (kernel() < (major, minor))
                .then(|| format!("needs kernel {major}.{minor}, runs {:?}", kernel())),
            Need::Check(name, check) => check().err().map(|why| format!("needs {name}: {why}")),
        }
    }
}

fn is_admin() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has_cap = effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_SYS_ADMIN & 1 == 1);
    rustix::process::geteuid().is_root() && has_cap
}

fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(OsStr::new).map(Into::into);
    env::split_paths(&path).chain(usual).any(|dir| dir.join(name).is_file())
}

fn cannot_open(device: &str) -> Option<String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .err()
        .map(|error| format!("needs {device}: {error}"))
}

fn can_unshare() -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--uts", "--pid", "--fork", "true"]);
    unshare
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn kernel() -> (u32, u32) {
    parse_kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

fn parse_kernel(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases() {
        assert_eq!(parse_kernel("6.18.44-fc\n"), (6, 18));
        assert_eq!(parse_kernel("7.0-rc1"), (7, 0));
        assert_eq!(parse_kernel("odd"), (0, 0));
    }

    #[test]
    fn what_is_missing_says_why() {
        let never = Need::Check("the moon", || Err("it is day".into()));
        assert_eq!(never.missing().unwrap(), "needs the moon: it is day");
        assert_eq!(Need::Program("no-such-program").missing().unwrap(), "needs the program no-such-program");
        assert!(Need::Program("sh").missing().is_none());
        assert!(Need::Kernel(99, 0).missing().is_some());
    }
}
