//! Secrets outside the volume: nothing may read them into a mirror, and nothing may touch them.

use crate::compare::escape;
use crate::trees::Rng;
use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, XattrFlags, lgetxattr, llistxattr, openat, statat,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A directory of secret files, with a record of everything about them.
pub struct Canary {
    dir: PathBuf,
    marker: Vec<u8>,
    recorded: BTreeMap<Vec<u8>, Record>,
}

/// All that a touch could change; reading changes none of it (access times are left out).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    inode: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: i64,
    mtime: (i64, u64),
    /// Moves even with a change to the same value.
    ctime: (i64, u64),
    attrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Option<Vec<u8>>,
}

impl Canary {
    /// Makes a new directory `dir` with one secret file, `secret`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn plant(dir: &Path) -> Result<Self> {
        Self::plant_names(dir, &[])
    }

    /// Also makes a secret file at each of `names`: those of a directory under attack, so that what is opened or changed
    /// through a flipped parent meets a file here.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn plant_names(dir: &Path, names: &[&[u8]]) -> Result<Self> {
        std::fs::create_dir(dir).with_context(|| format!("plant {}", dir.display()))?;
        // Different in every process and for every canary: a marker must not be found where an old run left it.
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
        let mut rng = Rng::new(seed ^ u64::from(std::process::id()) << 40);
        let marker = format!("canary-{:016x}{:016x}", rng.bits(), rng.bits()).into_bytes();
        let mut canary = Canary { dir: dir.to_path_buf(), marker, recorded: BTreeMap::new() };
        let only_here = canary.name_only_here();
        for name in [b"secret".as_slice(), only_here.as_bytes()].into_iter().chain(names.iter().copied()) {
            let path = canary.path(name);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(CWD, &path, flags, Mode::from_raw_mode(0o600))
                .with_context(|| format!("plant {}", path.display()))?;
            // Repeated, so that any piece of some size holds a whole one.
            crate::trees::write_all(&file, &canary.marker.repeat(200), 0)?;
            match rustix::fs::fsetxattr(&file, "user.canary", &canary.marker, XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        canary.recorded = canary.record()?;
        // Older kernels stamp with the grain of their tick: a touch within the same one would not move ctime.
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok(canary)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that is always there.
    pub fn secret(&self) -> PathBuf {
        self.dir.join("secret")
    }

    /// The bytes that must turn up nowhere.
    pub fn marker(&self) -> &[u8] {
        &self.marker
    }

    /// Compares everything with what was planted: names, bytes, mode, owner, links, attributes, mtime and ctime.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check(&self) -> Result<()> {
        let now = self.record().context("the canary cannot be read")?;
        for (name, was) in &self.recorded {
            let told = escape(name);
            let is = now.get(name).with_context(|| format!("canary: {told} was removed"))?;
            ensure!(is == was, "canary: {told} was touched:\n  was {}\n  is  {}", was.brief(), is.brief());
        }
        let added = now.keys().find(|name| !self.recorded.contains_key(*name));
        ensure!(added.is_none(), "canary: {} was put there", escape(added.map_or(b"", Vec::as_slice)));
        Ok(())
    }

    /// `check`, for tests.
    ///
    /// # Panics
    /// When anything was touched.
    #[track_caller]
    pub fn assert_untouched(&self) {
        if let Err(difference) = self.check() {
            panic!("{difference:#}");
        }
    }

    /// The marker is nowhere in a tree: not in content, attributes or names, the names that only exist outside included.
    ///
    /// A symlink's target may name the canary: it is data of whoever planted the link.
    ///
    /// # Panics
    /// When it is found, with the path, or when the tree cannot be read.
    #[track_caller]
    pub fn assert_not_in(&self, tree: &Path) {
        match self.find_in(tree) {
            Ok(found) => assert!(found.is_empty(), "the canary's secret is in {}: {found:?}", tree.display()),
            Err(error) => panic!("cannot search {} for the canary: {error:#}", tree.display()),
        }
    }

    /// Where in a tree the marker is: one line per place.
    ///
    /// # Errors
    /// When the tree cannot be read.
    pub fn find_in(&self, tree: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let root = open_dir(tree)?;
        // Descriptors instead of paths: a mirror may be deeper than a path can be long.
        let mut todo = vec![(std::rc::Rc::new(root), Vec::new(), Vec::new())];
        let mut buffer = Vec::new();
        while let Some((parent, at, name)) = todo.pop() {
            let dir = if Vec::is_empty(&name) {
                parent
            } else {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                std::rc::Rc::new(openat(&*parent, name.as_slice(), flags, Mode::empty())?)
            };
            for entry in Dir::read_from(&*dir)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let path: Vec<u8> =
                    if at.is_empty() { name.to_vec() } else { [&at[..], b"/", name].concat() };
                self.search(&dir, name, &path, &mut buffer, &mut found)?;
                let stat = statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    todo.push((dir.clone(), path, name.to_vec()));
                }
            }
        }
        Ok(found)
    }

    fn search(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        path: &[u8],
        buffer: &mut Vec<u8>,
        found: &mut Vec<String>,
    ) -> Result<()> {
        if contains(name, &self.marker) {
            found.push(format!("{}: its name", escape(path)));
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(dir, name, flags, Mode::empty())?;
            if self.is_in_file(&file, buffer)? {
                found.push(format!("{}: its content", escape(path)));
            }
            for (attr, value) in attrs(format!("/proc/self/fd/{}", file.as_raw_fd()), true)? {
                if contains(&value, &self.marker) {
                    found.push(format!("{}: xattr {}", escape(path), escape(&attr)));
                }
            }
        }
        Ok(())
    }

    fn is_in_file(&self, file: &OwnedFd, buffer: &mut Vec<u8>) -> Result<bool> {
        const CHUNK: usize = 1 << 20;
        let overlap = self.marker.len() - 1;
        buffer.resize(CHUNK, 0);
        let mut kept = 0;
        loop {
            let n = rustix::io::retry_on_intr(|| rustix::io::read(file.as_fd(), &mut buffer[kept..]))?;
            if n == 0 {
                return Ok(false);
            }
            let end = kept + n;
            if contains(&buffer[..end], &self.marker) {
                return Ok(true);
            }
            let from = end.saturating_sub(overlap);
            buffer.copy_within(from..end, 0);
            kept = end - from;
        }
    }

    /// A name that exists nowhere but in the canary's directory: a listing of a flipped directory would show it.
    fn name_only_here(&self) -> String {
        format!("only-{}", String::from_utf8_lossy(&self.marker))
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        self.dir.join(std::ffi::OsStr::from_bytes(name))
    }

    fn record(&self) -> Result<BTreeMap<Vec<u8>, Record>> {
        let mut records = BTreeMap::from([(Vec::new(), record(&self.dir)?)]);
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            records.insert(entry.file_name().as_bytes().to_vec(), record(&entry.path())?);
        }
        Ok(records)
    }
}

impl Record {
    fn brief(&self) -> String {
        let mut brief = self.clone();
        // The bytes are the secret, and long.
        let hash = brief.content.take().map(|content| blake3::hash(&content).to_hex().to_string());
        format!("{brief:?} content {hash:?}")
    }
}

fn record(path: &Path) -> Result<Record> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let record = Record {
        inode: (stat.st_dev, stat.st_ino),
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        links: stat.st_nlink,
        size: stat.st_size,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        ctime: (stat.st_ctime, stat.st_ctime_nsec),
        attrs: attrs(path, false)?,
        content: if is_file { Some(std::fs::read(path)?) } else { None },
    };
    Ok(record)
}

fn attrs(path: impl AsRef<Path>, follow: bool) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = path.as_ref();
    let mut names = vec![0; 64 << 10];
    let mut value = vec![0; 64 << 10];
    let listed =
        if follow { rustix::fs::listxattr(path, &mut names[..]) } else { llistxattr(path, &mut names[..]) };
    let listed = match listed {
        Ok(len) => len,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut attrs = BTreeMap::new();
    for name in names[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let read = if follow {
            rustix::fs::getxattr(path, name, &mut value[..])
        } else {
            lgetxattr(path, name, &mut value[..])
        };
        if let Ok(len) = read {
            attrs.insert(name.to_vec(), value[..len].to_vec());
        }
    }
    Ok(attrs)
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).with_context(|| path.display().to_string())
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    let mut at = 0;
    while let Some(next) = hay[at..].iter().position(|byte| byte == first) {
        at += next + 1;
        if hay[at..].starts_with(rest) {
            return true;
        }
    }
    false
}
