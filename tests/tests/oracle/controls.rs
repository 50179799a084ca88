//! Control runs of `compare`: one attribute of a copy is changed, and exactly that difference must come out.

use harness::compare::{Aspect, Capability, Options, SpecialBits, Specials, assert_same, compare};
use harness::gate::{Need, require};
use harness::trees::{sample_acl, set_mtime, small_mixed};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, XattrFlags, chownat, lgetxattr, lsetxattr, mknodat, statat,
};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Copies with coreutils, which is neither the oracle nor the product.
pub fn copy(from: &Path, to: &Path) {
    let done =
        Command::new("cp").args(["-a", "--sparse=always", "-T"]).arg(from).arg(to).status().expect("run cp");
    assert!(done.success(), "cp -a failed");
}

struct Pair {
    _home: TempDir,
    a: PathBuf,
    b: PathBuf,
}

/// A small tree and its faithful copy, without what the policy leaves out.
fn pair() -> Pair {
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (home.path().join("a"), home.path().join("b"));
    fs::create_dir(&a).unwrap();
    let made = small_mixed(&a, 7).unwrap();
    assert!((55..=75).contains(&made.entries()), "{made:?}");
    copy(&a, &b);
    for special in ["socket", "null", "disk"] {
        fs::remove_file(b.join(special)).unwrap();
    }
    Pair { _home: home, a, b }
}

/// Changes something in the copy and puts back the times that the change moved on the way.
fn mutated(pair: &Pair, touched: &[&str], change: &dyn Fn(&Path)) {
    let before: Vec<_> = touched
        .iter()
        .map(|name| {
            let stat = statat(CWD, pair.b.join(name), AtFlags::SYMLINK_NOFOLLOW).unwrap();
            (pair.b.join(name), (stat.st_mtime, stat.st_mtime_nsec as u32))
        })
        .collect();
    change(&pair.b);
    for (path, time) in before.iter().rev() {
        if path.symlink_metadata().is_ok() {
            set_mtime(path, *time).unwrap();
        }
    }
}

/// What is touched, how, and what must come out of it.
type Control<'c> = (&'c str, &'c [&'c str], &'c dyn Fn(&Path), &'c [(&'c str, Aspect)]);

#[test]
fn a_faithful_copy_has_no_difference() {
    if !require(&[Need::Root]) {
        return;
    }
    let pair = pair();
    let report = assert_same(&pair.a, &pair.b, &Options::default());
    assert_eq!(report.left_out, 3, "the socket and the two device nodes");
    assert_eq!(report.link_groups, 2);
    let closed = Options { root_metadata: true, b_links_closed: true, ..Options::default() };
    copy_root_attributes(&pair);
    assert_same(&pair.a, &pair.b, &closed);
}

fn copy_root_attributes(pair: &Pair) {
    let stat = statat(CWD, &pair.a, AtFlags::empty()).unwrap();
    set_mtime(&pair.b, (stat.st_mtime, stat.st_mtime_nsec as u32)).unwrap();
}

#[test]
fn each_kind_of_difference_is_seen_alone() {
    if !require(&[Need::Root]) {
        return;
    }
    let log = "jobs/build/1/log";
    let controls: &[Control<'_>] = &[
        (
            "content byte",
            &["large"],
            &|b| flip_byte(&b.join("large"), 1 << 20),
            &[("large", Aspect::Content)],
        ),
        (
            "content byte of a page",
            &["page"],
            &|b| flip_byte(&b.join("page"), 4095),
            &[("page", Aspect::Content)],
        ),
        ("size", &["page"], &|b| set_len(&b.join("page"), 4095), &[("page", Aspect::Size)]),
        ("size zero", &["one"], &|b| set_len(&b.join("one"), 0), &[("one", Aspect::Size)]),
        ("mode", &[], &|b| chmod(&b.join("one"), 0o600), &[("one", Aspect::Mode), ("one", Aspect::Acl)]),
        ("mode of a directory", &[], &|b| chmod(&b.join("empty"), 0o700), &[("empty", Aspect::Mode)]),
        ("setuid bit", &[], &|b| chmod(&b.join("page-less"), 0o755), &[("page-less", Aspect::Mode)]),
        ("sticky bit", &[], &|b| chmod(&b.join("deep"), 0o777), &[("deep", Aspect::Mode)]),
        ("uid", &[], &|b| chown(&b.join("HEAD"), Some(77), None), &[("HEAD", Aspect::Uid)]),
        ("gid", &[], &|b| chown(&b.join("HEAD"), None, Some(77)), &[("HEAD", Aspect::Gid)]),
        (
            "uid of a symlink",
            &[],
            &|b| chown(&b.join("dangling"), Some(77), None),
            &[("dangling", Aspect::Uid)],
        ),
        ("mtime of a file", &[], &|b| add_a_nanosecond(&b.join("case")), &[("case", Aspect::Mtime)]),
        ("mtime of a directory", &[], &|b| add_a_nanosecond(&b.join("deep/x")), &[("deep/x", Aspect::Mtime)]),
        ("mtime of a symlink", &[], &|b| add_a_nanosecond(&b.join("loop-a")), &[("loop-a", Aspect::Mtime)]),
        ("mtime of a FIFO", &[], &|b| add_a_nanosecond(&b.join("fifo")), &[("fifo", Aspect::Mtime)]),
        ("xattr value", &[], &|b| xattr(&b.join("page"), "user.binary", b"x"), &[("page", Aspect::Xattr)]),
        (
            "xattr removed",
            &[],
            &|b| drop_xattr(&b.join("config.xml"), "user.empty"),
            &[("config-linked.xml", Aspect::Xattr), ("config.xml", Aspect::Xattr)],
        ),
        ("xattr added", &[], &|b| xattr(&b.join("empty"), "user.more", b""), &[("empty", Aspect::Xattr)]),
        (
            "ACL changed",
            &[],
            &|b| xattr(&b.join("one"), "system.posix_acl_access", &sample_acl(1235, 5678)),
            &[("one", Aspect::Acl)],
        ),
        (
            "default ACL removed",
            &[],
            &|b| drop_xattr(&b.join("jobs/build"), "system.posix_acl_default"),
            &[("jobs/build", Aspect::Acl)],
        ),
        (
            "symlink target",
            &["dangling"],
            &|b| retarget(&b.join("dangling"), "no/such/nam"),
            &[("dangling", Aspect::Target)],
        ),
        (
            "symlink target, 4095 bytes",
            &["long-target"],
            &|b| retarget(&b.join("long-target"), &format!("{}u", "t".repeat(4094))),
            &[("long-target", Aspect::Target)],
        ),
        (
            "broken hard link",
            &["linked-top"],
            &|b| break_link(&b.join("linked-top")),
            &[("linked-top", Aspect::Links)],
        ),
        (
            "broken hard link deep",
            &["jobs/build/2/log-linked", "jobs/build/2"],
            &|b| break_link(&b.join("jobs/build/2/log-linked")),
            &[("jobs/build/2/log-linked", Aspect::Links)],
        ),
        (
            "filled hole",
            &["hole-first"],
            &|b| fill(&b.join("hole-first"), 0, 1 << 20),
            &[("hole-first", Aspect::Holes)],
        ),
        (
            "filled tail",
            &["hole-last"],
            &|b| fill(&b.join("hole-last"), 4096, (1 << 20) - 4096),
            &[("hole-last", Aspect::Holes)],
        ),
        (
            "missing file",
            &["jobs/build/1"],
            &|b| fs::remove_file(b.join("jobs/build/1/build.xml")).unwrap(),
            &[("jobs/build/1/build.xml", Aspect::Missing)],
        ),
        (
            "missing name of a link group",
            &["jobs/build/1"],
            &|b| fs::remove_file(b.join(log)).unwrap(),
            &[("jobs/build/1/log", Aspect::Missing)],
        ),
        (
            "missing directory",
            &[""],
            &|b| fs::remove_dir(b.join("empty")).unwrap(),
            &[("empty", Aspect::Missing)],
        ),
        (
            "missing FIFO",
            &["deep"],
            &|b| fs::remove_file(b.join("deep/fifo")).unwrap(),
            &[("deep/fifo", Aspect::Missing)],
        ),
        (
            "missing symlink",
            &[""],
            &|b| fs::remove_file(b.join("absolute")).unwrap(),
            &[("absolute", Aspect::Missing)],
        ),
        (
            "extra file",
            &["empty"],
            &|b| fs::write(b.join("empty/new"), "").unwrap(),
            &[("empty/new", Aspect::Extra)],
        ),
        (
            "extra directory",
            &["deep"],
            &|b| fs::create_dir(b.join("deep/new")).unwrap(),
            &[("deep/new", Aspect::Extra)],
        ),
        (
            "extra socket",
            &["deep"],
            &|b| node(&b.join("deep/s"), FileType::Socket),
            &[("deep/s", Aspect::Extra)],
        ),
        (
            "socket against the policy",
            &[""],
            &|b| node(&b.join("socket"), FileType::Socket),
            &[("socket", Aspect::Special)],
        ),
        (
            "FIFO became a file",
            &["fifo"],
            &|b| replace(&b.join("fifo"), &|path| fs::write(path, "").unwrap()),
            &[("fifo", Aspect::Type)],
        ),
        (
            "file became a FIFO",
            &["one"],
            &|b| replace(&b.join("one"), &|path| node(path, FileType::Fifo)),
            &[("one", Aspect::Type)],
        ),
        (
            "file became a symlink to a twin",
            &["one"],
            &|b| replace(&b.join("one"), &|path| symlink("/etc/hostname", path).unwrap()),
            &[("one", Aspect::Type)],
        ),
        (
            "directory became a file",
            &["empty"],
            &|b| {
                fs::remove_dir(b.join("empty")).unwrap();
                fs::write(b.join("empty"), "").unwrap();
            },
            &[("empty", Aspect::Type)],
        ),
    ];
    for (name, touched, change, expected) in controls {
        let pair = pair();
        mutated(&pair, touched, change);
        let report = compare(&pair.a, &pair.b, &Options::default()).unwrap();
        let expected: Vec<_> = expected.iter().map(|(path, aspect)| ((*path).to_owned(), *aspect)).collect();
        assert_eq!(report.aspects(), expected, "control \"{name}\":\n{report}");
        assert_eq!(report.count, expected.len() as u64);
    }
    println!("{} controls", controls.len());
}

/// Linking two equal files that the truth keeps apart is invisible to content, and must still be seen.
#[test]
fn an_extra_hard_link_is_seen() {
    if !require(&[Need::Root]) {
        return;
    }
    let pair = pair();
    for tree in [&pair.a, &pair.b] {
        for name in ["empty/x", "empty/y"] {
            fs::write(tree.join(name), "same").unwrap();
            set_mtime(&tree.join(name), (5, 5)).unwrap();
        }
        set_mtime(&tree.join("empty"), (6, 6)).unwrap();
    }
    assert_same(&pair.a, &pair.b, &Options::default());
    mutated(&pair, &["empty"], &|b| {
        fs::remove_file(b.join("empty/y")).unwrap();
        fs::hard_link(b.join("empty/x"), b.join("empty/y")).unwrap();
    });
    let report = compare(&pair.a, &pair.b, &Options::default()).unwrap();
    assert_eq!(report.aspects(), vec![("empty/y".to_owned(), Aspect::Links)], "{report}");
}

/// A name of the copy that shares its inode with something outside is a way to write into the copy unseen.
#[test]
fn a_link_from_outside_is_seen_on_request() {
    if !require(&[Need::Root]) {
        return;
    }
    let pair = pair();
    fs::hard_link(pair.b.join("page"), pair.b.parent().unwrap().join("outside")).unwrap();
    assert_same(&pair.a, &pair.b, &Options::default());
    let closed = Options { b_links_closed: true, ..Options::default() };
    let report = compare(&pair.a, &pair.b, &closed).unwrap();
    assert_eq!(report.aspects(), vec![("page".to_owned(), Aspect::OutsideLink)], "{report}");
}

#[test]
fn options_excuse_what_they_say_and_no_more() {
    if !require(&[Need::Root]) {
        return;
    }
    let pair = pair();
    fs::create_dir(pair.b.join(".tidegate")).unwrap();
    fs::write(pair.b.join(".tidegate/lane"), "").unwrap();
    let seen = compare(&pair.a, &pair.b, &Options::default()).unwrap();
    assert_eq!(seen.aspects(), vec![(".tidegate".to_owned(), Aspect::Extra)]);
    assert_same(&pair.a, &pair.b, &Options::default().exclude(".tidegate"));
    fs::remove_dir_all(pair.b.join(".tidegate")).unwrap();

    // Only the top level is excluded.
    fs::create_dir(pair.b.join("empty/.tidegate")).unwrap();
    set_mtime(&pair.b.join("empty"), mtime(&pair.a.join("empty"))).unwrap();
    let seen = compare(&pair.a, &pair.b, &Options::default().exclude(".tidegate")).unwrap();
    assert_eq!(seen.aspects(), vec![("empty/.tidegate".to_owned(), Aspect::Extra)]);
    fs::remove_dir(pair.b.join("empty/.tidegate")).unwrap();
    set_mtime(&pair.b.join("empty"), mtime(&pair.a.join("empty"))).unwrap();

    drop_xattr(&pair.b.join("jobs/build"), "system.posix_acl_default");
    assert_same(&pair.a, &pair.b, &Options { acls: false, ..Options::default() });
    fill(&pair.b.join("hole-only"), 0, 1 << 20);
    set_mtime(&pair.b.join("hole-only"), mtime(&pair.a.join("hole-only"))).unwrap();
    assert_same(&pair.a, &pair.b, &Options { acls: false, holes: false, ..Options::default() });
    chmod(&pair.b.join("page-less"), 0o755);
    chmod(&pair.b.join("page-more"), 0o711);
    let stripped =
        Options { acls: false, holes: false, special_bits: SpecialBits::Stripped, ..Options::default() };
    assert_same(&pair.a, &pair.b, &stripped);

    let compared = Options { specials: Specials::Compared, ..stripped.clone() };
    let seen = compare(&pair.a, &pair.b, &compared).unwrap();
    assert_eq!(seen.count, 3, "socket and device nodes are missing:\n{seen}");
    assert_same(&pair.a, &pair.b, &Options { specials: Specials::Ignored, ..stripped });
}

/// `security.capability` with CAP_NET_RAW effective: version 2, permitted bit 13.
#[test]
fn a_file_capability_must_be_dropped() {
    if !require(&[Need::Root]) {
        return;
    }
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let pair = pair();
    xattr(&pair.a.join("page"), "security.capability", &capability);
    assert_same(&pair.a, &pair.b, &Options::default());
    let kept = Options { capability: Capability::Kept, ..Options::default() };
    assert_eq!(
        compare(&pair.a, &pair.b, &kept).unwrap().aspects(),
        vec![("page".to_owned(), Aspect::Capability)]
    );
    xattr(&pair.b.join("page"), "security.capability", &capability);
    assert_same(&pair.a, &pair.b, &kept);
    let seen = compare(&pair.a, &pair.b, &Options::default()).unwrap();
    assert_eq!(seen.aspects(), vec![("page".to_owned(), Aspect::Capability)], "{seen}");
}

#[test]
fn a_trusted_xattr_must_not_be_carried() {
    if !require(&[Need::Root]) {
        return;
    }
    let pair = pair();
    xattr(&pair.b.join("page"), "trusted.afr.dirty", b"x");
    assert_same(&pair.a, &pair.b, &Options::default());
    xattr(&pair.a.join("page"), "trusted.afr.dirty", b"x");
    let seen = compare(&pair.a, &pair.b, &Options::default()).unwrap();
    assert_eq!(seen.aspects(), vec![("page".to_owned(), Aspect::ForbiddenXattr)], "{seen}");
}

/// Deeper than a path can be long, and far deeper than a thread's stack would carry a recursion.
#[test]
fn depth_costs_no_stack() {
    const DEPTH: usize = 10_000;
    // In memory where possible: removing so deep a tree takes a disk filesystem minutes when others sync on it.
    let memory = Path::new("/dev/shm");
    let home = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
    for tree in ["a", "b"] {
        let top = home.path().join(tree);
        fs::create_dir(&top).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let mut at = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, "deeper", Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, "deeper", flags, Mode::empty()).unwrap();
        }
        if tree == "b" {
            rustix::fs::mkdirat(&at, "end", Mode::from_raw_mode(0o755)).unwrap();
        }
    }
    let options = Options { mtimes: false, ..Options::default() };
    let report = compare(&home.path().join("a"), &home.path().join("b"), &options).unwrap();
    assert_eq!((report.count, report.directories), (1, DEPTH as u64));
    assert_eq!(report.differences[0].path.len(), DEPTH * 7 + 3);
    let gone = Command::new("rm").arg("-rf").arg(home.path()).status().unwrap();
    assert!(gone.success());
}

/// The report stays small when everything differs.
#[test]
fn the_list_is_bounded_and_the_count_is_not() {
    let home = tempfile::tempdir().unwrap();
    let (a, b) = (home.path().join("a"), home.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    for i in 0..3000 {
        fs::write(a.join(format!("{i}")), "").unwrap();
    }
    let report = compare(&a, &b, &Options { limit: 10, ..Options::default() }).unwrap();
    assert_eq!((report.differences.len(), report.count), (10, 3000));
    assert!(report.to_string().contains("and 2990 more"));
}

fn flip_byte(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn set_len(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mtime(path: &Path) -> (i64, u32) {
    let stat = path.symlink_metadata().unwrap();
    (stat.mtime(), stat.mtime_nsec() as u32)
}

fn add_a_nanosecond(path: &Path) {
    let (seconds, nanoseconds) = mtime(path);
    let next = if nanoseconds == 999_999_999 { (seconds + 1, 0) } else { (seconds, nanoseconds + 1) };
    set_mtime(path, next).unwrap();
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn drop_xattr(path: &Path, name: &str) {
    rustix::fs::lremovexattr(path, name).unwrap();
}

/// Puts something else at a name, with the owner, mode and time it had, so that only the type differs.
fn replace(path: &Path, make: &dyn Fn(&Path)) {
    fs::remove_file(path).unwrap();
    make(path);
    set_mtime(path.parent().unwrap(), mtime(path.parent().unwrap())).unwrap();
}

fn retarget(path: &Path, target: &str) {
    let stat = path.symlink_metadata().unwrap();
    fs::remove_file(path).unwrap();
    symlink(target, path).unwrap();
    chown(path, Some(stat.uid()), Some(stat.gid()));
}

/// Gives one name of a group an inode of its own that is equal in all else.
fn break_link(path: &Path) {
    let twin = path.with_file_name("twin");
    copy(path, &twin);
    fs::rename(&twin, path).unwrap();
}

fn fill(path: &Path, at: u64, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; len as usize], at).unwrap();
}

fn node(path: &Path, kind: FileType) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), 0).unwrap();
}

/// Reads an xattr through the same call the oracle uses, to know that the fixture has it.
#[test]
fn the_fixture_really_has_an_acl() {
    if !require(&[Need::Root]) {
        return;
    }
    let pair = pair();
    let mut value = [0; 256];
    let len = lgetxattr(pair.b.join("one"), "system.posix_acl_access", &mut value[..]).unwrap();
    assert_eq!(len, 4 + 6 * 8, "a version and six entries");
}
