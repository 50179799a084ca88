//! Looking at processes from outside their namespaces, through `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

/// Numbers of all processes this process can see.
pub(super) fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Identity of a namespace of a process, such as `mnt:[4026532567]`; `None` when the process is gone.
pub(super) fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

/// Arguments of a process; empty when it is gone, a kernel thread or a zombie.
pub(super) fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// State letter and parent of a process; `None` when it is gone.
pub(super) fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<(char, i32)> {
    // The name in the second field may itself contain spaces and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a process is neither gone nor a zombie.
pub(super) fn is_alive(pid: i32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// Direct children of a process.
pub(super) fn children(parent: i32) -> Vec<i32> {
    pids().into_iter().filter(|pid| state_and_parent(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// One line of a mountinfo file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub minor: u32,
    /// The directory of the filesystem that is mounted; a path for bind mounts.
    pub root: String,
    pub point: PathBuf,
    pub kind: String,
}

/// The mounts a process sees; empty when it is gone.
pub(super) fn mounts(pid: i32) -> Vec<Mount> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines().filter_map(parse_mount).collect()
}

/// The mounts this process sees.
pub(super) fn own_mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (fields, kind) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(2);
    let minor = fields.next()?.split_once(':')?.1.parse().ok()?;
    let (root, point) = (fields.next()?, fields.next()?);
    Some(Mount {
        minor,
        root: unescape(root),
        point: unescape(point).into(),
        kind: kind.split(' ').next()?.to_owned(),
    })
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Loop devices and the files behind them.
pub(super) fn loop_devices() -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let backed = |entry: fs::DirEntry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        Some((entry.file_name().into_string().ok()?, file.trim_end().to_owned()))
    };
    entries.flatten().filter_map(backed).collect()
}

/// A path of a process's mount namespace as seen from outside it.
pub(super) fn through_root(pid: i32, path: &Path) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        assert_eq!(parse_stat("42 (a) b) (c) T 7 42 42 0 -1"), Some(('T', 7)));
        assert_eq!(parse_stat("42 (torn"), None);
    }

    #[test]
    fn mountinfo_line() {
        let line = "36 35 0:57 / /srv/a\\040b rw,relatime shared:1 - fuse.glusterfs host0:/v rw,user_id=0";
        let mount =
            Mount { minor: 57, root: "/".into(), point: "/srv/a b".into(), kind: "fuse.glusterfs".into() };
        assert_eq!(parse_mount(line), Some(mount));
        assert_eq!(parse_mount("36 35 0:57"), None);
    }

    #[test]
    fn paths_through_the_root_of_a_process() {
        assert_eq!(through_root(7, Path::new("/a/b")), Path::new("/proc/7/root/a/b"));
    }
}
