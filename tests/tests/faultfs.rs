//! faultfs itself: a wrong simulated disk would make wrong tests, so it is held against a real filesystem, each
//! durability rule against a history that tells right from wrong, and each fault against what it promises.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::faultfs::{Action, FaultFs, Match, Op, Rule, Survive, When};
use harness::gate::{Need, require};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

#[track_caller]
fn start() -> Option<FaultFs> {
    require(&[Need::Root, Need::Fuse]).then(|| FaultFs::start().expect("start faultfs"))
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().expect("an errno"))
}

fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

// ---------------------------------------------------------------------------------------------- against a real one

/// A few thousand random calls have the same results and leave the same tree as on a local filesystem.
#[test]
fn random_calls_agree_with_a_local_filesystem() {
    let Some(fs) = start() else { return };
    let mut worked = HashSet::new();
    for seed in 1..=seeds() {
        fs.reset().unwrap();
        let local = local_dir();
        // One level down, for a symbolic link to `../a` must not lead out of the filesystem.
        let roots = [fs.path(), local.path()].map(|root| root.join("t"));
        for root in &roots {
            fs::create_dir(root).unwrap();
        }
        let [ours, theirs] = &roots;
        let mut dice = Dice(seed);
        for step in 0..1000 {
            let call = Call::roll(&mut dice);
            let here = call.perform(ours);
            let there = call.perform(theirs);
            assert_eq!(here, there, "seed {seed} step {step}: {call:?}");
            if here.is_ok() {
                worked.insert(std::mem::discriminant(&call));
            }
            if step % 50 == 49 {
                assert_eq!(tree(ours), tree(theirs), "seed {seed} after step {step}");
            }
        }
        fs.crash().unwrap();
        fs.reboot(Survive::Everything).unwrap();
        assert_eq!(tree(ours), tree(theirs), "seed {seed}: the replayed log is not the live tree");
    }
    assert_eq!(worked.len(), Call::KINDS, "a kind of call never succeeded, so nothing was compared");
}

/// How many histories; `FAULTFS_SEEDS` asks for a longer run.
fn seeds() -> u64 {
    std::env::var("FAULTFS_SEEDS").ok().and_then(|number| number.parse().ok()).unwrap_or(8)
}

/// The local side: a tmpfs where it keeps user xattrs, else wherever temporary files go.
fn local_dir() -> tempfile::TempDir {
    let shm = tempfile::tempdir_in("/dev/shm").ok();
    let keeps = |dir: &tempfile::TempDir| {
        rustix::fs::setxattr(dir.path(), "user.x", b"1", XattrFlags::empty()).is_ok()
    };
    let dir = shm.filter(keeps).unwrap_or_else(|| tempfile::tempdir().unwrap());
    let _absent = rustix::fs::removexattr(dir.path(), "user.x");
    dir
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.roll(choices.len())]
    }

    fn path(&mut self) -> PathBuf {
        let dir = self.of(&["", "", "", "d", "d", "e", "d/d", "a"]);
        let name = match self.roll(40) {
            0 => &[b'n'; 256][..],
            1 => &[b'n'; 255],
            _ => self.of(&[&b"a"[..], b"b", b"d", b"e", b"\xff\x01"]),
        };
        Path::new(dir).join(OsStr::from_bytes(name))
    }
}

#[derive(Debug)]
enum Call {
    Mkdir(PathBuf, u32),
    Rmdir(PathBuf),
    Unlink(PathBuf),
    Create(PathBuf, OFlags, u32, usize),
    Write(PathBuf, u64, usize),
    Append(PathBuf, usize),
    Truncate(PathBuf, u64),
    Allocate(PathBuf, FallocateFlags, u64, u64),
    CopyRange(PathBuf, u64, PathBuf, u64, usize),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(&'static str, PathBuf),
    Fifo(PathBuf, u32),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32, u32),
    Times(PathBuf, i64, u32),
    SetXattr(PathBuf, &'static str, usize, XattrFlags),
    GetXattr(PathBuf, &'static str),
    RemoveXattr(PathBuf, &'static str),
    Read(PathBuf, u64, usize),
    ReadLink(PathBuf),
    List(PathBuf),
}

impl Call {
    const KINDS: usize = 22;

    fn roll(dice: &mut Dice) -> Call {
        let path = dice.path();
        let mode = dice.of(&[0o644, 0o600, 0o755, 0o6755, 0o2775, 0o1777, 0]);
        let offset = dice.of(&[0, 1, 100, 4095, 4096, 5000, 12_288, 1 << 40]);
        let len = dice.of(&[1, 10, 4096, 5000, 20_000, 300_000]);
        let xattr = dice.of(&["user.a", "user.b", "trusted.c"]);
        match dice.roll(30) {
            0..=2 => Call::Mkdir(path, mode),
            3 => Call::Rmdir(path),
            4 | 5 => Call::Unlink(path),
            6..=9 => {
                let flags = dice.of(&[OFlags::empty(), OFlags::EXCL, OFlags::TRUNC, OFlags::NOFOLLOW]);
                Call::Create(path, flags, mode, len)
            }
            10 | 11 => Call::Write(path, offset, len),
            12 => Call::Append(path, len),
            13 => Call::Truncate(path, offset),
            14 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let flags = dice.of(&[FallocateFlags::empty(), FallocateFlags::KEEP_SIZE, punch]);
                Call::Allocate(path, flags, offset.min(20_000), len as u64)
            }
            15 | 16 => Call::CopyRange(path, offset, dice.path(), dice.of(&[0, 4096, 7000]), len),
            17..=19 => Call::Rename(path, dice.path()),
            20 => Call::Link(path, dice.path()),
            21 => Call::Symlink(dice.of(&["a", "d", "../a", "nowhere"]), path),
            22 => Call::Fifo(path, mode & 0o777),
            23 => Call::Chmod(path, mode),
            24 => Call::Chown(path, dice.of(&[0, 1000]), dice.of(&[0, 50])),
            25 => Call::Times(path, dice.of(&[0, 77, -1, -100_000]), dice.of(&[0, 1, 500_000_000])),
            26 => {
                let flags = dice.of(&[XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE]);
                Call::SetXattr(path, xattr, len % 300, flags)
            }
            27 => dice.of(&[Call::GetXattr, Call::RemoveXattr])(path, xattr),
            28 => Call::Read(path, offset, len),
            _ => dice.of(&[Call::List, Call::ReadLink])(path),
        }
    }

    /// Does it below `root`; what it says, or the errno.
    fn perform(&self, root: &Path) -> Result<Vec<u8>, Errno> {
        let nothing = |()| Vec::new();
        let open = |path: &Path, flags: OFlags| {
            // Without NONBLOCK a FIFO would wait for a partner.
            rustix::fs::open(root.join(path), flags | OFlags::NONBLOCK, Mode::empty())
        };
        let fill = |len: usize| -> Vec<u8> { (0..len).map(|i| (i / 7) as u8 | 1).collect() };
        match self {
            Call::Mkdir(path, mode) => rustix::fs::mkdir(root.join(path), Mode::from(*mode)).map(nothing),
            Call::Rmdir(path) => rustix::fs::rmdir(root.join(path)).map(nothing),
            Call::Unlink(path) => rustix::fs::unlink(root.join(path)).map(nothing),
            Call::Create(path, flags, mode, len) => {
                let flags = *flags | OFlags::CREATE | OFlags::RDWR | OFlags::NONBLOCK;
                let file = rustix::fs::open(root.join(path), flags, Mode::from(*mode))?;
                rustix::io::pwrite(&file, &fill(*len % 9000), 0).map(|n| n.to_le_bytes().to_vec())
            }
            Call::Write(path, offset, len) => {
                rustix::io::pwrite(open(path, OFlags::RDWR)?, &fill(*len), *offset)
                    .map(|n| n.to_le_bytes().to_vec())
            }
            Call::Append(path, len) => {
                // Not WRONLY: a FIFO then asks for a reader, and a process forked by another test may hold one.
                let file = open(path, OFlags::RDWR | OFlags::APPEND)?;
                // A FIFO would take what fits its buffer, which is not the filesystem's business.
                rustix::fs::seek(&file, SeekFrom::Current(0))?;
                rustix::io::write(file, &fill(*len)).map(|n| n.to_le_bytes().to_vec())
            }
            Call::Truncate(path, size) => {
                rustix::fs::ftruncate(open(path, OFlags::RDWR)?, *size).map(nothing)
            }
            Call::Allocate(path, flags, offset, len) => {
                rustix::fs::fallocate(open(path, OFlags::RDWR)?, *flags, *offset, *len).map(nothing)
            }
            Call::CopyRange(from, at, to, into, len) => {
                let (mut at, mut into) = (*at, *into);
                let (from, to) = (open(from, OFlags::RDONLY)?, open(to, OFlags::RDWR)?);
                rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut into), *len)
                    .map(|n| n.to_le_bytes().to_vec())
            }
            Call::Rename(from, to) => rustix::fs::rename(root.join(from), root.join(to)).map(nothing),
            Call::Link(from, to) => rustix::fs::link(root.join(from), root.join(to)).map(nothing),
            Call::Symlink(target, path) => rustix::fs::symlink(*target, root.join(path)).map(nothing),
            Call::Fifo(path, mode) => {
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(CWD, root.join(path), kind, Mode::from(*mode), 0).map(nothing)
            }
            Call::Chmod(path, mode) => rustix::fs::chmod(root.join(path), Mode::from(*mode)).map(nothing),
            Call::Chown(path, uid, gid) => {
                let (uid, gid) = (rustix::fs::Uid::from_raw(*uid), rustix::fs::Gid::from_raw(*gid));
                rustix::fs::chownat(CWD, root.join(path), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map(nothing)
            }
            Call::Times(path, secs, nanos) => {
                let at = Timespec { tv_sec: *secs, tv_nsec: i64::from(*nanos) };
                let times = Timestamps { last_access: at, last_modification: at };
                rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                let stat = rustix::fs::lstat(root.join(path))?;
                Ok(format!(
                    "{}.{:09} {}.{:09}",
                    stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec
                )
                .into())
            }
            Call::SetXattr(path, name, len, flags) => {
                rustix::fs::lsetxattr(root.join(path), *name, &fill(*len), *flags).map(nothing)
            }
            Call::GetXattr(path, name) => {
                let mut value = vec![0; 1000];
                let len = rustix::fs::lgetxattr(root.join(path), *name, &mut value)?;
                value.truncate(len);
                Ok(value)
            }
            Call::RemoveXattr(path, name) => rustix::fs::lremovexattr(root.join(path), *name).map(nothing),
            Call::Read(path, offset, len) => {
                let mut data = vec![0; *len];
                let len = rustix::io::pread(open(path, OFlags::RDONLY)?, &mut data, *offset)?;
                data.truncate(len);
                Ok(data)
            }
            Call::ReadLink(path) => {
                rustix::fs::readlink(root.join(path), Vec::new()).map(|target| target.into_bytes())
            }
            Call::List(path) => {
                let dir = rustix::fs::Dir::new(open(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
                let mut found = BTreeSet::new();
                for entry in dir {
                    let entry = entry?;
                    found.insert(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
                }
                Ok(format!("{found:?}").into())
            }
        }
    }
}

/// All that a copier could see of a tree, by path.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut seen = BTreeMap::new();
    let mut first_name: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let name = path.strip_prefix(root).unwrap().as_os_str().to_owned().into_vec();
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut children: Vec<_> = Vec::new();
        let kind = meta.file_type();
        let body = if kind.is_dir() {
            children = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            children.reverse();
            String::new()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_fifo() {
            "fifo".into()
        } else {
            digest(&path, meta.len())
        };
        let size = if kind.is_dir() { 0 } else { meta.len() };
        // Times of now differ by nature, times that were set do not.
        let mtime = if meta.mtime() < 1_000_000 {
            format!("{}.{}", meta.mtime(), meta.mtime_nsec())
        } else {
            "now".into()
        };
        let group = first_name.entry(meta.ino()).or_insert_with(|| name.clone()).escape_ascii().to_string();
        let facts = format!(
            "{:o} {}:{} links {} size {size} mtime {mtime} like {group} {body} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            xattrs(&path)
        );
        seen.insert(name, facts);
        todo.extend(children);
    }
    seen
}

/// Content by its data ranges, so that a terabyte of hole is not read; zeros and holes look the same.
fn digest(path: &Path, size: u64) -> String {
    let mut file = File::open(path).unwrap();
    let mut hash = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        file.seek(io::SeekFrom::Start(data)).unwrap();
        let mut bytes = Vec::new();
        (&file).take(hole - data).read_to_end(&mut bytes).unwrap();
        for (index, page) in bytes.chunks(4096).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                hash.update(&(data + index as u64 * 4096).to_le_bytes());
                hash.update(page);
            }
        }
        at = hole;
    }
    hash.finalize().to_hex().to_string()
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    // Security labels come from the host, not from the test.
    let names = names.filter(|name| !name.starts_with(b"security."));
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..len].to_vec())
        })
        .collect()
}

/// An ACL decides the mode, the mode changes the ACL, and children inherit: the same as locally.
#[test]
fn acls_follow_modes_as_on_a_local_filesystem() {
    let Some(fs) = start() else { return };
    let local = local_dir();
    if let Err(Errno::OPNOTSUPP) = set_acl(local.path(), "access", 0o7, 0o5) {
        eprintln!("no ACLs on the local filesystem: only faultfs is looked at");
        set_acl(fs.path(), "access", 0o7, 0o5).unwrap();
        assert_eq!(fs::metadata(fs.path()).unwrap().mode() & 0o777, 0o750);
        return;
    }
    let here = acl_story(fs.path());
    assert_eq!(here, acl_story(local.path()));
    assert!(here.values().any(|facts| facts.contains("posix_acl_access")), "{here:#?}");

    fs.acl(false).unwrap();
    assert_eq!(set_acl(&fs.path().join("dir"), "access", 0o7, 0o5), Err(Errno::OPNOTSUPP));
    assert!(xattrs(&fs.path().join("dir")).is_empty());
}

fn acl_story(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let dir = root.join("dir");
    fs::create_dir(&dir).unwrap();
    set_acl(&dir, "access", 0o7, 0o5).unwrap();
    // Write for the group, which the umask would take away.
    set_acl(&dir, "default", 0o6, 0o6).unwrap();
    File::create(dir.join("inherits")).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    symlink("x", dir.join("link")).unwrap();
    File::create(dir.join("sub/changed")).unwrap();
    fs::set_permissions(dir.join("sub/changed"), fs::Permissions::from_mode(0o624)).unwrap();
    File::create(root.join("plain")).unwrap();
    set_acl(&root.join("plain"), "access", 0o6, 0o4).unwrap();
    rustix::fs::removexattr(root.join("plain"), "system.posix_acl_access").unwrap();
    let mut found = tree(root);
    found.remove(&b""[..]);
    found
}

/// `user::rwx, user:1000:named, group::r-x, mask::mask, other::---`.
fn set_acl(path: &Path, which: &str, named: u16, mask: u16) -> Result<(), Errno> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1, 7, u32::MAX), (2, named, 1000), (4, 5, u32::MAX), (16, mask, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(u16::to_le_bytes(tag));
        value.extend(u16::to_le_bytes(perm));
        value.extend(u32::to_le_bytes(id));
    }
    rustix::fs::setxattr(path, format!("system.posix_acl_{which}"), &value, XattrFlags::empty())
}

/// Names come back complete and once, through many pages of a listing.
#[test]
fn a_large_directory_lists_completely() {
    let Some(fs) = start() else { return };
    let made: BTreeSet<String> = (0..3000).map(|i| format!("a-rather-long-name-of-file-{i:05}")).collect();
    for name in &made {
        File::create(fs.path().join(name)).unwrap();
    }
    let listed: Vec<_> =
        fs::read_dir(fs.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed.len(), made.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), made);
}

/// Holes cost nothing, are found, and survive a copy inside the filesystem.
#[test]
fn sparse_files_stay_sparse() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("huge");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let end = i64::MAX as u64;
    file.set_len(end).unwrap();
    file.write_all_at(b"needle", 1 << 50).unwrap();
    assert_eq!(fs.status().unwrap().stored, 4096);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(0)), Ok(1 << 50));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(1 << 50)), Ok((1 << 50) + 4096));
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data((1 << 50) + 4096)), Err(Errno::NXIO));
    assert_eq!(fs::metadata(&path).unwrap().len(), end);
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 8);

    let copy = File::create(fs.path().join("copy")).unwrap();
    let (mut from, mut to) = ((1 << 50) - (1 << 20), 0);
    let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 2 << 20).unwrap();
    assert_eq!((copied, copy.metadata().unwrap().len()), (2 << 20, 2 << 20));
    assert_eq!(fs.status().unwrap().stored, 8192);

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, end).unwrap();
    assert_eq!(fs.status().unwrap().stored, 4096);
}

/// What a GlusterFS mount refuses is refused here.
#[test]
fn refuses_what_glusterfs_refuses() {
    let Some(fs) = start() else { return };
    let (a, b) = (fs.path().join("a"), fs.path().join("b"));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    let free = fs.path().join("free");
    for (flags, to) in [(RenameFlags::NOREPLACE, &free), (RenameFlags::EXCHANGE, &b)] {
        assert_eq!(rustix::fs::renameat_with(CWD, &a, CWD, to, flags), Err(Errno::INVAL), "{flags:?}");
    }
    let tmpfile = rustix::fs::open(fs.path(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(tmpfile.err(), Some(Errno::OPNOTSUPP));
    File::open(fs.path()).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"a");
}

// -------------------------------------------------------------------------------------------------- after a crash

/// The classical accident: written and renamed without fsync, the name survives and the bytes do not.
#[test]
fn unsynced_file_is_empty_after_a_rename() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::write(at("tmp"), "unsynced").unwrap();
    fs::rename(at("tmp"), at("final")).unwrap();
    write_synced(&at("safe.tmp"), b"synced").unwrap();
    fs::rename(at("safe.tmp"), at("safe")).unwrap();
    fs.crash().unwrap();
    fs.reboot(Survive::AllMetadataNoData).unwrap();
    assert_eq!(fs::read(at("final")).unwrap(), b"");
    assert_eq!(fs::read(at("safe")).unwrap(), b"synced");
    assert_eq!(names(fs.path()), ["final", "safe"].map(String::from).into());
}

/// Metadata falls back to the last fsync of a file; an fsync of a directory changes nothing about that.
#[test]
fn only_a_file_fsync_is_a_barrier() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("other"), "never synced").unwrap();
    write_synced(&at("barrier"), b"x").unwrap();
    fs::rename(at("dir"), at("moved")).unwrap();
    fs::write(at("late"), "late").unwrap();
    File::open(fs.path()).unwrap().sync_all().unwrap();
    fs.crash().unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(names(fs.path()), ["barrier", "dir", "other"].map(String::from).into());
    assert_eq!(fs::read(at("barrier")).unwrap(), b"x");
    assert_eq!(fs::read(at("other")).unwrap(), b"", "bytes of another file are not synced by the barrier");
}

/// Under every seed the surviving changes of metadata are a prefix that reaches at least to the last fsync.
#[test]
fn metadata_survives_as_a_prefix() {
    let Some(fs) = start() else { return };
    let mut lengths = BTreeSet::new();
    for seed in 0..60 {
        fs.reset().unwrap();
        for step in 0..10 {
            fs::create_dir(fs.path().join(format!("{step}"))).unwrap();
            if step == 4 {
                write_synced(&fs.path().join("barrier"), b"x").unwrap();
            }
        }
        fs.crash().unwrap();
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let mut left = names(fs.path());
        assert!(left.remove("barrier"), "seed {seed}");
        let prefix: BTreeSet<String> = (0..left.len()).map(|step| step.to_string()).collect();
        assert_eq!(left, prefix, "seed {seed}");
        assert!(left.len() >= 5, "seed {seed} lost what the fsync covered");
        lengths.insert(left.len());
    }
    assert_eq!(lengths, (5..=10).collect(), "not every cut was reached");
}

/// Unsynced bytes meet every fate over the seeds, synced ones always stay.
#[test]
fn unsynced_bytes_are_lost_torn_zeroed_or_kept() {
    let Some(fs) = start() else { return };
    let (old, new) = (vec![b'o'; 8192], vec![b'n'; 8192]);
    let mut fates = BTreeSet::new();
    for seed in 0..120 {
        fs.reset().unwrap();
        let path = fs.path().join("file");
        write_synced(&path, &old).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&new, 4096).unwrap();
        drop(file);
        fs.crash().unwrap();
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let found = fs::read(&path).unwrap();
        assert_eq!(
            found[..4096],
            old[..4096],
            "seed {seed} touched bytes that were synced and not written again"
        );
        assert!(found.len() >= old.len(), "seed {seed} shortened a synced file");
        let count = |byte: u8| found[4096..].iter().filter(|b| **b == byte).count();
        fates.insert(match (found.len(), count(b'n'), count(0)) {
            (8192, 0, 0) => "lost",
            (12_288, 8192, 0) => "kept",
            (12_288, 0, 4096) => "length only",
            (_, 1.., 0) => "torn",
            other => panic!("seed {seed}: a state that no crash leaves: {other:?}"),
        });
    }
    assert_eq!(fates, ["kept", "length only", "lost", "torn"].into());
}

/// A truncation is metadata: it survives without the bytes around it, and later bytes do not survive without it.
#[test]
fn truncation_is_ordered_with_metadata() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let story = |fs: &FaultFs| {
        fs.reset().unwrap();
        write_synced(&path, b"old old old").unwrap();
        fs::write(&path, "new").unwrap();
        fs.crash().unwrap();
    };
    story(&fs);
    fs.reboot(Survive::AllMetadataNoData).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    story(&fs);
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old old old");
    for seed in 0..60 {
        story(&fs);
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let found = fs::read(&path).unwrap();
        let possible = found == b"old old old" || found.iter().all(|b| *b == 0) || b"new".starts_with(&found);
        assert!(possible, "seed {seed}: {:?}", found.escape_ascii().to_string());
    }
}

/// A length is metadata: bytes written after what was lost do not make a file longer, those written in place may stay.
#[test]
fn a_file_does_not_grow_beyond_the_cut() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let (mut grown, mut in_place) = (0, 0);
    for seed in 0..150 {
        fs.reset().unwrap();
        write_synced(&path, b"old").unwrap();
        fs::create_dir(fs.path().join("earlier")).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"NEW and longer", 0).unwrap();
        fs.reboot(Survive::Seeded(seed)).unwrap();
        let found = fs::read(&path).unwrap();
        if fs.path().join("earlier").exists() {
            grown += usize::from(found.len() > 3);
        } else {
            assert_eq!(found.len(), 3, "seed {seed}: {:?}", found.escape_ascii().to_string());
            in_place += usize::from(found == b"NEW");
        }
    }
    assert!(grown > 0 && in_place > 0, "{grown} {in_place}");
}

/// A seed says it all: the same history and the same seed give the same tree.
#[test]
fn a_seed_replays() {
    let Some(fs) = start() else { return };
    let mut differing = BTreeSet::new();
    for seed in 0..20 {
        let run = || {
            fs.reset().unwrap();
            for i in 0..5 {
                fs::write(fs.path().join(format!("{i}")), vec![b'x'; 5000]).unwrap();
            }
            fs.crash().unwrap();
            fs.reboot(Survive::Seeded(seed)).unwrap();
            let found = tree(fs.path());
            found
                .into_iter()
                .map(|(name, facts)| (name, facts.split(" like ").next().unwrap().to_owned()))
                .collect()
        };
        let first: BTreeMap<Vec<u8>, String> = run();
        assert_eq!(first, run(), "seed {seed}");
        differing.insert(first);
    }
    assert!(differing.len() > 5, "seeds make no difference");
}

/// At every point of a history: nothing before it is missing, nothing after it is there, the caller sees ENOTCONN.
#[test]
fn every_crash_point_cuts_the_history() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::write(at("seen"), "before").unwrap();
    fs.snapshot("start").unwrap();
    let story = || -> io::Result<()> {
        fs::create_dir(at("d"))?;
        write_synced(&at("d/tmp"), &[b'x'; 1000])?;
        fs::rename(at("d/tmp"), at("d/file"))?;
        fs::hard_link(at("d/file"), at("name"))?;
        symlink("d", at("s"))?;
        fs::set_permissions(at("name"), fs::Permissions::from_mode(0o600))?;
        fs::remove_file(at("d/file"))
    };
    fs.restore("start").unwrap();
    story().unwrap();
    let trace = fs.trace().unwrap();
    let ops: Vec<Op> = trace.iter().map(|entry| entry.op).collect();
    use Op::{Create, Fsync, Link, Mkdir, Rename, Setattr, Symlink, Unlink, Write};
    assert_eq!(ops, [Mkdir, Create, Write, Fsync, Rename, Link, Symlink, Setattr, Unlink]);
    assert_eq!(trace.iter().map(|entry| entry.n).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(trace[4].paths, ["d/tmp", "d/file"]);
    assert_eq!((trace[2].offset, trace[2].len), (Some(0), Some(1000)));

    let mut expected = Vec::new();
    for point in 1..=ops.len() as u64 {
        for when in [When::Before, When::Torn, When::After] {
            fs.restore("start").unwrap();
            fs.crash_at(point, when).unwrap();
            assert_eq!(errno(story()), libc::ENOTCONN, "{point} {when:?}");
            assert!(fs.status().unwrap().dead);
            assert_eq!(errno(fs::metadata(at("seen"))), libc::ENOTCONN);
            assert_eq!(fs.trace().unwrap().len() as u64, point);
            fs.reboot(Survive::Everything).unwrap();
            assert_eq!(fs.status().unwrap().mutations, 0);
            assert_eq!(fs::read(at("seen")).unwrap(), b"before");
            let size = fs::metadata(at("d/tmp")).map(|meta| meta.len()).ok();
            expected.push((point, when, names(fs.path()).into_iter().collect::<Vec<_>>().join(" "), size));
        }
    }
    // Spelled out where the three differ: the directory, the bytes, the rename.
    let found = |point, when| {
        let entry = expected.iter().find(|(p, w, ..)| (*p, *w) == (point, when)).unwrap();
        (entry.2.as_str(), entry.3)
    };
    assert_eq!(found(1, When::Before), ("seen", None));
    assert_eq!(found(1, When::Torn), ("seen", None));
    assert_eq!(found(1, When::After), ("d seen", None));
    assert_eq!(found(3, When::Before), ("d seen", Some(0)));
    assert_eq!(found(3, When::Torn), ("d seen", Some(500)));
    assert_eq!(found(3, When::After), ("d seen", Some(1000)));
    assert_eq!(found(5, When::Before), ("d seen", Some(1000)));
    assert_eq!(found(5, When::After), ("d seen", None));
    assert_eq!(found(7, When::After), ("d name s seen", None));
}

/// Nothing of an earlier life is seen through a cache, a name or an open descriptor.
#[test]
fn nothing_stale_after_restore_or_reboot() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    fs::create_dir(fs.path().join("dir")).unwrap();
    write_synced(&path, b"one").unwrap();
    fs.snapshot("one").unwrap();
    for _ in 0..20 {
        let mut held = File::options().read(true).write(true).open(&path).unwrap();
        fs::write(&path, "something longer").unwrap();
        fs::write(fs.path().join("dir/new"), "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"something longer");
        fs.restore("one").unwrap();
        // Before the kernel has any reason to doubt the descriptor, and after.
        assert_eq!(errno(held.write(b"zombie")), libc::ESTALE);
        assert_eq!(errno(held.read(&mut [0; 3])), libc::ESTALE);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().len(), 3);
        assert_eq!(names(&fs.path().join("dir")), BTreeSet::new());
        assert!(errno(held.write(b"zombie")) != 0, "a descriptor survived");
        assert!(errno(held.read(&mut [0; 3])) != 0, "a descriptor survived");
        assert_eq!(fs::read(&path).unwrap(), b"one");

        // A name that becomes another kind of object.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs.reboot(Survive::OnlySynced).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
    assert!(fs.restore("unknown").is_err());
}

/// Numbers identify a file across a reboot and are not given to another one afterwards.
#[test]
fn inode_numbers_are_stable_and_not_reused() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    write_synced(&at("kept"), b"x").unwrap();
    let kept = fs::metadata(at("kept")).unwrap().ino();
    fs::write(at("lost"), "x").unwrap();
    let lost = fs::metadata(at("lost")).unwrap().ino();
    fs.reboot(Survive::OnlySynced).unwrap();
    fs::write(at("next"), "x").unwrap();
    assert_eq!(fs::metadata(at("kept")).unwrap().ino(), kept);
    assert!(fs::metadata(at("next")).unwrap().ino() > lost);
}

/// A file without a name lives as long as it is open and gives its space back.
#[test]
fn unlinked_files_live_while_open() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(b"still here", 0).unwrap();
    fs::remove_file(&path).unwrap();
    let mut found = [0; 10];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"still here");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs.status().unwrap().stored, 4096);
    drop(file);
    // The kernel says so in its own time.
    let patience = Instant::now() + Duration::from_secs(10);
    while fs.status().unwrap().stored != 0 {
        assert!(Instant::now() < patience, "the space of a closed file without a name is not free");
        thread::yield_now();
    }

    let file = File::create(&path).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    fs::remove_file(&path).unwrap();
    fs.reboot(Survive::Everything).unwrap();
    assert_eq!(fs.status().unwrap().stored, 0);
}

// ---------------------------------------------------------------------------------------------------------- faults

/// The n-th, every one, only on a path, only mutating ones: exactly these fail, and with that errno.
#[test]
fn chosen_requests_fail_with_the_chosen_errno() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    let mkdir = |name: &str| errno(fs::create_dir(at(name)));
    fs.fail(Op::Mkdir, 2, libc::EDQUOT).unwrap();
    assert_eq!(["a", "b", "c"].map(mkdir), [0, libc::EDQUOT, 0]);
    assert_eq!(names(fs.path()), ["a", "c"].map(String::from).into());
    assert_eq!(fs.status().unwrap().struck, 1);
    assert_eq!(fs.trace().unwrap()[1].errno, libc::EDQUOT);

    fs.inject(Rule::new(Op::Mkdir, Action::Fail(libc::EROFS)).path("stage").nth(2).every()).unwrap();
    assert_eq!(
        ["d", "stage1", "e", "stage2", "f", "stage3"].map(mkdir),
        [0, 0, 0, libc::EROFS, 0, libc::EROFS]
    );
    fs.clear_faults().unwrap();
    assert_eq!(mkdir("stage4"), 0);

    fs.fail(Match::Mutating, 1, libc::EIO).unwrap();
    fs::metadata(at("a")).unwrap();
    assert_eq!(errno(fs::rename(at("a"), at("z"))), libc::EIO);
    assert!(at("a").exists() && !at("z").exists());

    for number in
        [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::ENOTCONN, libc::ESTALE, libc::EROFS, libc::ENOMEM]
    {
        fs.inject(Rule::new(Op::Create, Action::Fail(number)).every()).unwrap();
        assert_eq!(errno(File::create(at("new"))), number);
        fs.clear_faults().unwrap();
    }

    // The kernel itself tries once more after an ESTALE.
    fs.fail(Op::Create, 1, libc::ESTALE).unwrap();
    File::create(at("new")).unwrap();
    assert_eq!(fs.status().unwrap().struck, 1);
}

/// Each kind of request that the kernel sends for a call can be failed, so no rule is a dead letter.
#[test]
fn every_kind_of_request_can_fail() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("f"), "x").unwrap();
    symlink("t", at("s")).unwrap();
    rustix::fs::setxattr(at("f"), "user.a", b"1", XattrFlags::empty()).unwrap();
    fs.snapshot("start").unwrap();
    let io = |error: Errno| io::Error::from(error);
    let open = || File::options().read(true).write(true).open(at("f"));
    for op in Op::ALL {
        fs.restore("start").unwrap();
        let file = open().unwrap();
        fs.inject(Rule::new(op, Action::Fail(libc::EUCLEAN)).every()).unwrap();
        let result = match op {
            Op::Lookup | Op::Getattr => fs::metadata(at("f")).map(drop),
            Op::Setattr => fs::set_permissions(at("f"), fs::Permissions::from_mode(0o600)),
            Op::Readlink => fs::read_link(at("s")).map(drop),
            Op::Mknod => {
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(CWD, at("fifo"), kind, Mode::RUSR, 0).map_err(io)
            }
            Op::Mkdir => fs::create_dir(at("new")),
            Op::Unlink => fs::remove_file(at("f")),
            Op::Rmdir => fs::remove_dir(at("empty")),
            Op::Symlink => symlink("x", at("new")),
            Op::Rename => fs::rename(at("f"), at("g")),
            Op::Link => fs::hard_link(at("f"), at("g")),
            Op::Open => open().map(drop),
            Op::Read => file.read_at(&mut [0], 0).map(drop),
            Op::Write => file.write_at(b"y", 0).map(drop),
            // The standard library hides what close says.
            Op::Flush => nix::unistd::close(open().unwrap()).map_err(io::Error::from),
            Op::Fsync => file.sync_all(),
            Op::Fsyncdir => File::open(at("d")).unwrap().sync_all(),
            Op::Opendir => fs::read_dir(at("d")).map(drop),
            Op::Readdir => fs::read_dir(at("d")).and_then(|mut dir| dir.next().transpose()).map(drop),
            Op::Statfs => rustix::fs::statfs(at("f")).map(drop).map_err(io),
            Op::Setxattr => rustix::fs::setxattr(at("f"), "user.b", b"1", XattrFlags::empty()).map_err(io),
            Op::Getxattr => rustix::fs::getxattr(at("f"), "user.a", &mut [0; 10]).map(drop).map_err(io),
            Op::Listxattr => rustix::fs::listxattr(at("f"), &mut [0; 100]).map(drop).map_err(io),
            Op::Removexattr => rustix::fs::removexattr(at("f"), "user.a").map_err(io),
            Op::Access => rustix::fs::access(at("f"), rustix::fs::Access::READ_OK).map_err(io),
            Op::Create => File::create(at("new")).map(drop),
            Op::Fallocate => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 10).map_err(io),
            Op::Lseek => rustix::fs::seek(&file, SeekFrom::Data(0)).map(drop).map_err(io),
            Op::CopyFileRange => {
                let (mut from, mut to) = (0, 10);
                rustix::fs::copy_file_range(&file, Some(&mut from), open().unwrap(), Some(&mut to), 1)
                    .map(drop)
                    .map_err(io)
            }
        };
        assert_eq!(errno(result), libc::EUCLEAN, "{op:?}");
    }
}

/// Short reads and writes arrive as such and end where they say.
#[test]
fn short_reads_and_writes() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs.short(Op::Write, 2, 3).unwrap();
    assert_eq!(file.write_at(b"abcdef", 0).unwrap(), 6);
    assert_eq!(file.write_at(b"ABCDEF", 0).unwrap(), 3);
    fs.short(Op::Read, 1, 4).unwrap();
    let mut found = [0; 6];
    assert_eq!(file.read_at(&mut found, 0).unwrap(), 4);
    assert_eq!(file.read_at(&mut found, 0).unwrap(), 6);
    assert_eq!(&found, b"ABCdef");
}

/// A stalled request waits for its release, alone; one that dies waiting says so.
#[test]
fn a_stalled_request_waits_alone() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs.stall(Op::Mkdir, 1).unwrap();
    thread::scope(|scope| {
        let stalled = scope.spawn(|| fs::create_dir(at("d/stalled")));
        fs.await_stalled(1).unwrap();
        fs::write(at("meanwhile"), "works").unwrap();
        assert!(!stalled.is_finished());
        assert_eq!(fs.status().unwrap().stalled, 1);
        assert!(!fs.trace().unwrap().iter().any(|entry| entry.paths == ["d/stalled"]));
        fs.release().unwrap();
        stalled.join().unwrap().unwrap();
    });
    assert!(at("d/stalled").is_dir());

    fs.stall(Op::Unlink, 1).unwrap();
    thread::scope(|scope| {
        let stalled = scope.spawn(|| fs::remove_file(at("meanwhile")));
        fs.await_stalled(1).unwrap();
        fs.reboot(Survive::Everything).unwrap();
        assert_eq!(errno(stalled.join().unwrap()), libc::ENOTCONN);
    });
    assert!(at("meanwhile").exists(), "a request of an earlier life was carried out");
}

/// Dropping the filesystem frees whoever is stuck in it.
#[test]
fn dropping_frees_stalled_callers() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("d");
    fs.stall(Op::Mkdir, 1).unwrap();
    let stalled = thread::spawn(move || fs::create_dir(path));
    fs.await_stalled(1).unwrap();
    drop(fs);
    assert_ne!(errno(stalled.join().unwrap()), 0);
}

/// A test process that is killed while one of its threads waits in the mount ends all the same, the mount with it.
#[test]
fn a_killed_test_process_ends() {
    if std::env::var_os("FAULTFS_TEST_VICTIM").is_some() {
        let fs = FaultFs::start().expect("start faultfs");
        fs.stall(Op::Mkdir, 1).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| fs::create_dir(fs.path().join("stuck")));
            fs.await_stalled(1).unwrap();
            // Past the capture of the test runner.
            writeln!(io::stderr(), "stuck {}", fs.path().display()).unwrap();
            thread::park();
        });
    }
    if !require(&[Need::Root, Need::Fuse]) {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_process_ends", "--nocapture"])
        .env("FAULTFS_TEST_VICTIM", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stderr.take().unwrap()).lines().map_while(Result::ok);
    let path = lines.filter_map(|line| line.strip_prefix("stuck ").map(PathBuf::from)).next().unwrap();
    victim.kill().unwrap();
    let killed = Instant::now();
    victim.wait().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(30), "it took {:?}", killed.elapsed());
    // Only the directories are left soon: a mountpoint cannot be removed, and the abort comes before the unmount.
    while errno(fs::remove_dir(&path)) != 0 {
        assert!(killed.elapsed() < Duration::from_secs(30), "the mount is still there");
        thread::yield_now();
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// A delayed request takes its time and then does its work, while others do not wait for it.
#[test]
fn a_delayed_request_is_late() {
    let Some(fs) = start() else { return };
    // On a busy machine the others may be slow for reasons of their own; a longer delay tells the two apart.
    let overtaken = [100, 400, 1600, 6400].map(Duration::from_millis).into_iter().any(|time| {
        fs.reset().unwrap();
        fs.delay(Op::Mkdir, 1, time).unwrap();
        let began = Instant::now();
        let overtaken = thread::scope(|scope| {
            let late = scope.spawn(|| fs::create_dir(fs.path().join("late")));
            while !fs.counts().unwrap().contains_key(&Op::Mkdir) {
                thread::yield_now();
            }
            fs::metadata(fs.path()).unwrap();
            // An answer from a server that slept meanwhile comes after the delay.
            let overtaken = began.elapsed() < time && !late.is_finished();
            late.join().unwrap().unwrap();
            overtaken
        });
        assert!(began.elapsed() >= time);
        assert!(fs.path().join("late").is_dir());
        overtaken
    });
    assert!(overtaken, "others waited for the delayed request");
}

/// A full disk refuses bytes, not names, and has room again after a removal.
#[test]
fn a_full_disk() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs.full(Some(8192)).unwrap();
    fs::write(at("a"), [1; 8000]).unwrap();
    assert_eq!(errno(fs::write(at("b"), [1])), libc::ENOSPC);
    assert_eq!(fs::metadata(at("b")).unwrap().len(), 0);
    assert_eq!(rustix::fs::statfs(fs.path()).unwrap().f_bavail, 0);
    fs::write(at("a"), [2; 4000]).unwrap();
    fs::write(at("b"), [1]).unwrap();
    assert_eq!(errno(fs::write(at("c"), [1])), libc::ENOSPC);
    fs.full(None).unwrap();
    fs::write(at("c"), [1]).unwrap();
}

/// A lying fsync reports success and a crash finds out.
#[test]
fn a_lying_fsync() {
    let Some(fs) = start() else { return };
    fs.lie_fsync().unwrap();
    write_synced(&fs.path().join("file"), b"bytes").unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(names(fs.path()), BTreeSet::new());
    write_synced(&fs.path().join("file"), b"bytes").unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(fs::read(fs.path().join("file")).unwrap(), b"bytes", "the lie outlived the reboot");
}

/// After a failed fsync the next one succeeds and the bytes are lost all the same; only writing them again helps.
#[test]
fn retrying_a_failed_fsync_does_not_help() {
    let Some(fs) = start() else { return };
    let (retried, rewritten) = (fs.path().join("retried"), fs.path().join("rewritten"));
    for path in [&retried, &rewritten] {
        let mut file = File::create(path).unwrap();
        file.write_all(b"bytes").unwrap();
        fs.fail(Op::Fsync, 1, libc::EIO).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EIO);
        if path == &rewritten {
            file.write_all_at(b"bytes", 0).unwrap();
        }
        file.sync_all().unwrap();
    }
    assert_eq!(fs::read(&retried).unwrap(), b"bytes", "readable until the crash");
    fs.reboot(Survive::Everything).unwrap();
    assert_eq!(fs::read(&retried).unwrap(), b"");
    assert_eq!(fs::read(&rewritten).unwrap(), b"bytes");
}

/// One bit of one read is wrong, the file is not.
#[test]
fn a_corrupt_read() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("file");
    fs::write(&path, [7; 100]).unwrap();
    let file = File::open(&path).unwrap();
    fs.corrupt_read(2).unwrap();
    let mut reads = [[0; 100]; 3];
    for found in &mut reads {
        file.read_exact_at(found, 0).unwrap();
    }
    assert_eq!((reads[0], reads[2]), ([7; 100], [7; 100]));
    let flipped: u32 = reads[1].iter().map(|byte| (byte ^ 7).count_ones()).sum();
    assert_eq!(flipped, 1);
}

/// A stage that another client removed fails the way it was measured on GlusterFS.
#[test]
fn removed_behind_our_back() {
    let Some(fs) = start() else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir_all(at("stage.1/dir")).unwrap();
    fs::create_dir(at("data")).unwrap();
    fs::write(at("data/p"), "p").unwrap();
    let held = File::create(at("stage.1/x")).unwrap();
    let stage = rustix::fs::open(at("stage.1"), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    let data = rustix::fs::open(at("data"), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    fs.remove_behind("stage.1").unwrap();
    assert_eq!(names(fs.path()), ["data"].map(String::from).into());
    assert_eq!(rustix::fs::renameat(&stage, "x", &data, "p"), Err(Errno::NOENT));
    assert_eq!(rustix::fs::renameat(&data, "p", &stage, "y"), Err(Errno::NOENT));
    assert_eq!(rustix::fs::renameat(&stage, "dir", &data, "dir"), Err(Errno::NOENT));
    let create = rustix::fs::openat(&stage, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
    assert_eq!(create.err(), Some(Errno::STALE));
    assert_eq!(rustix::fs::mkdirat(&stage, "new", Mode::RWXU), Err(Errno::STALE));
    assert_eq!(errno(held.write_at(b"late", 0)), libc::ESTALE);
    assert_eq!(errno(held.sync_all()), libc::ESTALE);
    assert_eq!(fs::read(at("data/p")).unwrap(), b"p");
    assert!(fs.remove_behind("stage.1").is_err());
}

/// A killed server is the kernel's ENOTCONN, and the guard still cleans up.
#[test]
fn a_killed_server() {
    let Some(mut fs) = start() else { return };
    fs::write(fs.path().join("file"), "x").unwrap();
    fs.kill().unwrap();
    assert_eq!(errno(fs::metadata(fs.path().join("file"))), libc::ENOTCONN);
    assert!(fs.status().is_err());
    let path = fs.path().to_owned();
    drop(fs);
    assert!(!path.exists(), "the mount was left behind");
}

/// Many threads at once: nothing is lost and every request has its own number.
#[test]
fn many_threads() {
    let Some(fs) = start() else { return };
    thread::scope(|scope| {
        for worker in 0..6 {
            let dir = fs.path().join(worker.to_string());
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                for i in 0..50 {
                    write_synced(&dir.join("tmp"), &[worker; 5000]).unwrap();
                    fs::rename(dir.join("tmp"), dir.join(i.to_string())).unwrap();
                }
            });
        }
    });
    fs.reboot(Survive::OnlySynced).unwrap();
    for worker in 0..6 {
        let dir = fs.path().join(worker.to_string());
        assert!(names(&dir).len() >= 50);
        assert_eq!(fs::read(dir.join("0")).unwrap(), [worker; 5000]);
    }
}

/// A round of a crash test is cheap: restore, some hundred calls, crash, reboot, look.
#[test]
fn a_round_is_cheap() {
    let Some(fs) = start() else { return };
    const ROUNDS: u32 = 100;
    for dir in 0..20 {
        fs::create_dir(fs.path().join(format!("{dir}"))).unwrap();
        for file in 0..20 {
            fs::write(fs.path().join(format!("{dir}/{file}")), [1; 6000]).unwrap();
        }
    }
    fs.snapshot("prepared").unwrap();
    let (mut restore, mut reboot) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    for round in 0..ROUNDS {
        let mark = Instant::now();
        fs.restore("prepared").unwrap();
        restore += mark.elapsed();
        fs.crash_at(u64::from(100 + round), When::After).unwrap();
        let mut crashed = false;
        for i in 0..100 {
            let (tmp, place) = (fs.path().join("tmp"), fs.path().join(format!("{}/{i}", i % 20)));
            crashed |= write_synced(&tmp, &[2; 6000]).and_then(|()| fs::rename(&tmp, &place)).is_err();
            if crashed {
                break;
            }
        }
        assert!(crashed);
        let mark = Instant::now();
        fs.reboot(Survive::Seeded(round.into())).unwrap();
        reboot += mark.elapsed();
        assert_eq!(names(fs.path()).len() - usize::from(fs.path().join("tmp").exists()), 20);
    }
    let each = |total: Duration| total / ROUNDS;
    eprintln!(
        "round {:?}, of which restore {:?}, reboot {:?}",
        each(began.elapsed()),
        each(restore),
        each(reboot)
    );
    assert!(each(restore) + each(reboot) < Duration::from_millis(50), "restore and reboot have become slow");
}

/// Opened for appending and synchronously: each write is durable without an fsync.
#[test]
fn synchronous_writes_are_durable() {
    let Some(fs) = start() else { return };
    let path = fs.path().join("log");
    let mut log =
        OpenOptions::new().append(true).create(true).custom_flags(libc::O_DSYNC).open(&path).unwrap();
    log.write_all(b"one").unwrap();
    log.write_all(b"two").unwrap();
    fs.reboot(Survive::OnlySynced).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"onetwo");
}
