//! Held against a real filesystem: the same calls, the same results, the same tree.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use harness::faultfs::Survive;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::start;

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
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
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
