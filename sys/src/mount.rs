//! The kernel's mount list, read without touching any mount: parsers are pure and take bytes.
//!
//! Nothing here opens, stats or walks a path below a mountpoint, so nothing here can hang on a dead or frozen
//! FUSE client. What is learned is the table as it stood when it was read; whoever acts on it compares the
//! mount id of the descriptor it then holds.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// The calling thread's own view: a thread in another mount namespace than the process's first one would be
/// told lies by `/proc/self`.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// One line of mountinfo, unescaped. Everything that a mounter can choose is bytes, not text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Mount id: unique among the mounts that exist now, reused once a mount is gone and no descriptor pins it.
    pub id: u64,
    /// Id of the mount this one sits on; itself, or an id not in the list, for a root.
    pub parent: u64,
    /// `(major, minor)` of the superblock. On btrfs files report another number than their superblock.
    pub dev: (u32, u32),
    /// Which part of the filesystem is mounted: `/`, or the subtree of a bind mount.
    pub root: OsString,
    /// Where, as seen from the reading thread's root.
    pub mountpoint: PathBuf,
    /// Options of this mount alone, comma separated.
    pub options: OsString,
    /// Type with subtype, such as `ext4` or `fuse.glusterfs`.
    pub fstype: OsString,
    /// What was mounted, such as `/dev/sda1` or `vm1:/vol`. May be empty.
    pub source: OsString,
    /// Options of the superblock, shared by all its mounts.
    pub super_options: OsString,
}

impl MountEntry {
    /// Whether writes through this mount are refused, by the mount itself or by its superblock.
    ///
    /// The kernel prints `ro` or `rw` first, ahead of whatever the mounter wrote.
    pub fn is_read_only(&self) -> bool {
        first_option(&self.options) == b"ro" || first_option(&self.super_options) == b"ro"
    }
}

fn first_option(options: &OsStr) -> &[u8] {
    options.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default()
}

/// A mountinfo line this parser does not understand.
///
/// A list with a hole in it must not be used to decide where a path lives, so one bad line fails the whole list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("mountinfo line {line}: {what}")]
pub struct MountInfoError {
    /// Counted from one.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Reads and parses the calling thread's mountinfo.
///
/// # Errors
/// `/proc` is not readable, or (as `InvalidData`) a line is malformed.
pub fn read_mountinfo() -> io::Result<Vec<MountEntry>> {
    parse_mountinfo(&fs::read(MOUNTINFO)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Parses the text of a mountinfo file, in its order.
///
/// # Errors
/// Names the first line that is not of the form given in proc_pid_mountinfo(5).
pub fn parse_mountinfo(text: &[u8]) -> Result<Vec<MountEntry>, MountInfoError> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| parse_line(line).map_err(|what| MountInfoError { line: index + 1, what }))
        .collect()
}

/// `36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Result<MountEntry, &'static str> {
    // Single spaces divide, and a run of them is not one: the source of `mount -t tmpfs ""` is an empty field.
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = |what| fields.next().ok_or(what);

    let id = number(next("no mount id")?).ok_or("mount id is not a number")?;
    let parent = number(next("no parent id")?).ok_or("parent id is not a number")?;
    let dev = device(next("no device")?).ok_or("device is not major:minor")?;
    let root = unescape(next("no root")?);
    let mountpoint = unescape(next("no mountpoint")?);
    let options = unescape(next("no mount options")?);
    if mountpoint.first() != Some(&b'/') {
        return Err("mountpoint is not an absolute path");
    }
    // Any number of optional fields (shared:N, master:N, whatever comes later) up to a lone dash.
    while next("no separator after the optional fields")? != b"-" {}
    let fstype = unescape(next("no filesystem type")?);
    let source = unescape(next("no mount source")?);
    let super_options = unescape(next("no super options")?);

    Ok(MountEntry {
        id,
        parent,
        dev,
        root: OsString::from_vec(root),
        mountpoint: PathBuf::from(OsString::from_vec(mountpoint)),
        options: OsString::from_vec(options),
        fstype: OsString::from_vec(fstype),
        source: OsString::from_vec(source),
        super_options: OsString::from_vec(super_options),
    })
}

fn number<N: std::str::FromStr>(field: &[u8]) -> Option<N> {
    // `parse` alone would take a leading plus sign.
    if !field.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

/// Turns `\040` into a space and so on; a backslash that does not start three octal digits stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, octal(tail)) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits: &[u8; 3] = digits.get(..3)?.try_into().ok()?;
    let mut value = 0_u16;
    for digit in digits {
        match digit {
            b'0'..=b'7' => value = value * 8 + u16::from(digit - b'0'),
            _ => return None,
        }
    }
    u8::try_from(value).ok()
}

/// Spells bytes the way the kernel does: blanks, backslashes, controls and everything beyond ASCII as `\ooo`.
///
/// The result is printable on any terminal, and [`unescape_text`] gives the bytes back.
pub fn escape_text(bytes: &OsStr) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes.as_bytes() {
        match byte {
            b'\\' | 0..=b' ' | 0x7f.. => out.push_str(&format!("\\{byte:03o}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// The bytes that [`escape_text`] spelled.
pub fn unescape_text(text: &str) -> OsString {
    OsString::from_vec(unescape(text.as_bytes()))
}

/// The mount a path lies on, found the way the kernel would walk there: from the root, crossing each mountpoint
/// on the way into the topmost mount on it.
///
/// Comparing prefixes alone would name a mount that a later one above it has hidden. The path must be absolute
/// and free of `..`; symlinks in it are the caller's to resolve. `None` if it is not, or if nothing covers it
/// (inside a chroot whose root is no mountpoint).
pub fn covering<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let path = normalised(path)?;
    let mut here: Option<&MountEntry> = None;
    // Every step goes one mount deeper, so a list whose parents form a circle ends here too.
    for _ in 0..=mounts.len() {
        let mut crossed: Option<&MountEntry> = None;
        for entry in mounts.iter().filter(|entry| sits_on(mounts, entry, here)) {
            let mountpoint = entry.mountpoint.as_os_str().as_bytes();
            let first_on_the_way =
                crossed.is_none_or(|best| mountpoint.len() <= best.mountpoint.as_os_str().len());
            if first_on_the_way && is_at_or_below(path.as_os_str().as_bytes(), mountpoint) {
                crossed = Some(entry);
            }
        }
        match crossed {
            Some(entry) => here = Some(entry),
            None => break,
        }
    }
    here
}

/// Whether `entry` is mounted on `mount`; on nothing that is listed, if there is no `mount` yet.
fn sits_on(mounts: &[MountEntry], entry: &MountEntry, mount: Option<&MountEntry>) -> bool {
    match mount {
        Some(mount) => entry.parent == mount.id && entry.id != mount.id,
        None => entry.parent == entry.id || !mounts.iter().any(|other| other.id == entry.parent),
    }
}

/// The mount with this id.
pub fn by_id(mounts: &[MountEntry], id: u64) -> Option<&MountEntry> {
    mounts.iter().find(|entry| entry.id == id)
}

/// Whether `path` is `ancestor` or lies below it. Both absolute; compared as bytes, because `Path` would take
/// the `//deleted` that the kernel appends to a removed mountpoint for a name.
fn is_at_or_below(path: &[u8], ancestor: &[u8]) -> bool {
    match path.strip_prefix(ancestor) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || ancestor == b"/",
        None => false,
    }
}

/// Without repeated or trailing slashes and dots. `None` unless absolute and free of `..`.
fn normalised(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::Normal(_) => clean.push(component),
            Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    clean.is_absolute().then_some(clean)
}

/// One line of an fstab: what somebody wants mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FstabEntry {
    /// `fs_spec`, such as `vm1:/vol` or `UUID=…`.
    pub source: OsString,
    /// `fs_file`, without a trailing slash.
    pub mountpoint: PathBuf,
    /// `fs_vfstype`, such as `glusterfs`: not the name mountinfo uses for a FUSE filesystem.
    pub fstype: OsString,
    /// `fs_mntops`, comma separated; empty if left out.
    pub options: OsString,
}

/// Parses an fstab. Comments, swap, and lines that are no mount (people write these files) are left out.
pub fn parse_fstab(text: &[u8]) -> Vec<FstabEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_fstab_line).collect()
}

fn parse_fstab_line(line: &[u8]) -> Option<FstabEntry> {
    let mut fields = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|field| !field.is_empty())
        .map(|field| OsString::from_vec(unescape(field)));
    let source = fields.next().filter(|source| source.as_bytes()[0] != b'#')?;
    let mountpoint = normalised(Path::new(&fields.next()?))?;
    let fstype = fields.next()?;
    let options = fields.next().unwrap_or_default();
    Some(FstabEntry { source, mountpoint, fstype, options })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw
40 22 0:45 / /mnt/sync rw,relatime shared:3 master:1 propagate_from:2 - fuse.glusterfs vm1:/vol rw,user_id=0
41 22 0:46 / /mnt/with\\040blank\\011and\\134 ro - tmpfs  rw
";

    fn host() -> Vec<MountEntry> {
        parse_mountinfo(HOST.as_bytes()).unwrap()
    }

    fn covering_id(mounts: &[MountEntry], path: &str) -> Option<u64> {
        covering(mounts, Path::new(path)).map(|entry| entry.id)
    }

    #[test]
    fn reads_every_field() {
        let mounts = host();
        assert_eq!(mounts.len(), 4);
        let sync = &mounts[2];
        assert_eq!((sync.id, sync.parent, sync.dev), (40, 22, (0, 45)));
        assert_eq!(sync.root, "/");
        assert_eq!(sync.mountpoint, Path::new("/mnt/sync"));
        assert_eq!(sync.options, "rw,relatime");
        assert_eq!(sync.fstype, "fuse.glusterfs");
        assert_eq!(sync.source, "vm1:/vol");
        assert_eq!(sync.super_options, "rw,user_id=0");
    }

    #[test]
    fn unescapes_names_and_keeps_an_empty_source() {
        let odd = &host()[3];
        assert_eq!(odd.mountpoint, Path::new("/mnt/with blank\tand\\"));
        assert_eq!(odd.source, "");
        assert!(odd.is_read_only());
        assert!(!host()[0].is_read_only(), "errors=remount-ro is not ro");
    }

    #[test]
    fn keeps_bytes_that_are_no_utf8() {
        let line = b"1 0 0:1 / /a\xff\xfe rw - fuse.\x80 s\xc3 rw\n";
        let mounts = parse_mountinfo(line).unwrap();
        assert_eq!(mounts[0].mountpoint.as_os_str().as_bytes(), b"/a\xff\xfe");
        assert_eq!(mounts[0].fstype.as_bytes(), b"fuse.\x80");
        assert_eq!(mounts[0].source.as_bytes(), b"s\xc3");
    }

    #[test]
    fn one_bad_line_fails_the_list_and_is_named() {
        for (bad, what) in [
            ("x 1 8:1 / / rw - ext4 s rw", "mount id is not a number"),
            ("+1 1 8:1 / / rw - ext4 s rw", "mount id is not a number"),
            ("1", "no parent id"),
            ("1 1 81 / / rw - ext4 s rw", "device is not major:minor"),
            ("1 1 8:99999999999 / / rw - ext4 s rw", "device is not major:minor"),
            ("1 1 8:1 / relative rw - ext4 s rw", "mountpoint is not an absolute path"),
            ("1 1 8:1 / / rw shared:1 ext4 s rw", "no separator after the optional fields"),
            ("1 1 8:1 / / rw -", "no filesystem type"),
            ("1 1 8:1 / / rw - ext4", "no mount source"),
            ("1 1 8:1 / / rw - ext4 s", "no super options"),
            (" ", "mount id is not a number"),
        ] {
            let text = format!("22 1 8:1 / / rw - ext4 s rw\n{bad}\n");
            assert_eq!(parse_mountinfo(text.as_bytes()), Err(MountInfoError { line: 2, what }), "{bad}");
        }
    }

    #[test]
    fn escapes_that_are_none_stand_for_themselves() {
        for (text, bytes) in [
            (&b"a\\040b"[..], &b"a b"[..]),
            (b"\\", b"\\"),
            (b"\\04", b"\\04"),
            (b"\\088", b"\\088"),
            (b"\\777", b"\\777"),
            (b"\\377", b"\xff"),
            (b"\\134040", b"\\040"),
        ] {
            assert_eq!(unescape(text), bytes);
        }
    }

    #[test]
    fn finds_the_covering_mount() {
        let mounts = host();
        for (path, id) in [
            ("/", 22),
            ("/mnt", 22),
            ("/mnt/sync", 40),
            ("/mnt//sync/./blue/", 40),
            ("/mnt/sync2/blue", 22),
            ("/proc/self", 23),
        ] {
            assert_eq!(covering_id(&mounts, path), Some(id), "{path}");
        }
        assert_eq!(covering_id(&mounts, "mnt/sync"), None);
        assert_eq!(covering_id(&mounts, "/mnt/../proc"), None);
    }

    #[test]
    fn the_last_mount_on_a_mountpoint_wins_and_a_hidden_one_never_does() {
        let text = "\
1 1 8:1 / / rw - rootfs r rw
2 1 8:1 / / rw - ext4 r rw
3 2 8:2 / /a/b rw - ext4 deep rw
4 2 8:3 / /a rw - ext4 above rw
5 4 8:4 / /a rw - ext4 stacked rw
6 2 8:5 / /gone//deleted rw - ext4 gone rw
";
        let mounts = parse_mountinfo(text.as_bytes()).unwrap();
        assert_eq!(covering_id(&mounts, "/x"), Some(2));
        assert_eq!(covering_id(&mounts, "/a"), Some(5));
        assert_eq!(covering_id(&mounts, "/a/b/c"), Some(5), "/a/b was hidden by the mount on /a");
        assert_eq!(covering_id(&mounts, "/gone/deleted/x"), Some(2));
    }

    #[test]
    fn a_chroot_without_a_root_mount_has_no_cover_there() {
        let mounts = parse_mountinfo(b"7 6 8:1 / /data rw - ext4 r rw\n").unwrap();
        assert_eq!(covering_id(&mounts, "/etc"), None);
        assert_eq!(covering_id(&mounts, "/data/x"), Some(7));
    }

    #[test]
    fn reads_an_fstab() {
        let text =
            b"# a comment\n\n\t/dev/sda1  /  ext4 defaults 0 1\nvm1:/vol\t/mnt/with\\040blank/ glusterfs\n\
            UUID=1 none swap sw 0 0\nhalf /line\n  #indented / ext4 x\nproc /proc proc\n";
        let entries = parse_fstab(text);
        let points: Vec<_> = entries.iter().map(|entry| entry.mountpoint.to_str().unwrap()).collect();
        assert_eq!(points, ["/", "/mnt/with blank", "/proc"]);
        assert_eq!(entries[1].source, "vm1:/vol");
        assert_eq!(entries[1].options, "");
    }

    /// A few thousand words of noise, the same in each run.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn bytes(&mut self, up_to: u64, alphabet: &[u8]) -> Vec<u8> {
            let len = self.next() % (up_to + 1);
            (0..len).map(|_| alphabet[(self.next() % alphabet.len() as u64) as usize]).collect()
        }
    }

    #[test]
    fn noise_neither_panics_nor_makes_up_entries() {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        for _ in 0..20_000 {
            let text = noise.bytes(60, b"0123456789 :-/\\ab\n\t#\xff\0");
            if let Ok(mounts) = parse_mountinfo(&text) {
                let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
                assert_eq!(mounts.len(), lines);
            }
            parse_fstab(&text);
        }
    }

    #[test]
    fn what_is_spelled_can_be_read_back() {
        let mut noise = Noise(7);
        let every_byte: Vec<u8> = (0..=255).collect();
        for _ in 0..2_000 {
            let name = OsString::from_vec(noise.bytes(40, &every_byte));
            let text = escape_text(&name);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            assert_eq!(unescape_text(&text), name);

            let line = format!("1 0 0:1 /{text} /{text} rw {text}x - {text} {text} {text}\n");
            let entry = &parse_mountinfo(line.as_bytes()).unwrap()[0];
            assert_eq!(entry.source, name);
            assert_eq!(entry.fstype, name);
            assert_eq!(&entry.mountpoint.as_os_str().as_bytes()[1..], name.as_bytes());
        }
    }

    /// Against a table built at random (parents in circles, ids used twice, mounts nobody can reach): the answer
    /// is always one whose mountpoint contains the path, and never one hidden behind another child of its parent.
    #[test]
    fn lookup_ends_and_answers_with_a_prefix_on_any_table() {
        let mut noise = Noise(11);
        for _ in 0..5_000 {
            let text: String = (0..noise.next() % 8)
                .map(|_| {
                    let point = String::from_utf8(noise.bytes(4, b"/ab")).unwrap();
                    format!("{} {} 0:1 / /{point} rw - t s rw\n", noise.next() % 6, noise.next() % 6)
                })
                .collect();
            let mounts = parse_mountinfo(text.as_bytes()).unwrap();
            let path = PathBuf::from(format!("/{}", String::from_utf8(noise.bytes(5, b"/ab")).unwrap()));
            if let Some(found) = covering(&mounts, &path) {
                assert!(path.starts_with(&found.mountpoint), "{path:?} {found:?}");
            }
        }
    }

    #[test]
    fn reads_this_host() {
        let mounts = read_mountinfo().unwrap();
        assert!(covering(&mounts, Path::new("/proc/self")).is_some_and(|entry| entry.fstype == "proc"));
    }
}
