//! Everything that can be done to a small tree, at random, together with others who do the same: nobody keeps a list of
//! what is there, and whatever a race makes impossible is left undone.
//!
//! Names say what may be done: `d` is a directory, `f` a file, `m` a file of fixed size that is mapped (cutting it would
//! end whoever stores behind the end), `x` anything but an `m`. An inode keeps its kind of name wherever it goes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Uid, XattrFlags,
};
use sys::map::SharedMap;

use crate::trees::Rng;

/// Size of an `m`.
const MAPPED: usize = 16 << 10;
/// Mappings and descriptors a writer keeps at a time.
const HELD: usize = 4;

/// One writer.
pub(super) struct Chaos {
    rng: Rng,
    volume: PathBuf,
    beside: PathBuf,
    maps: Vec<SharedMap>,
    files: Vec<File>,
}

/// A kind of name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dir,
    File,
    Mapped,
}

impl Chaos {
    pub(super) fn new(seed: u64, volume: &Path, beside: &Path) -> Self {
        let (volume, beside) = (volume.to_owned(), beside.to_owned());
        Self { rng: Rng::new(seed), volume, beside, maps: Vec::new(), files: Vec::new() }
    }

    /// One change.
    pub(super) fn act(&mut self) -> Result<()> {
        match self.rng.below(44) {
            0..4 => self.create(),
            4..7 => self.overwrite(),
            7..9 => self.append(),
            9 => self.cut(),
            10 => self.punch(),
            11..14 => self.rename(),
            14 => self.exchange(),
            15..17 => self.link(),
            17..20 => Ok(fs::remove_file(self.any_file())?),
            20 => Ok(fs::remove_dir(self.path(Kind::Dir))?),
            21 => Ok(fs::remove_dir_all(self.path(Kind::Dir))?),
            22..24 => self.mode(),
            24 => self.owner(),
            25..27 => self.xattr(),
            27..29 => self.map(),
            29..33 => self.store(),
            33 => self.unnamed(),
            34..36 => self.deep(),
            36 => self.link_beside(),
            37 => self.write_beside(),
            38..40 => self.cross(),
            40 => self.special(),
            41 => self.times(),
            42 => self.hold(),
            _ => self.write_held(),
        }
    }

    fn leaf(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Dir if self.rng.percent(10) => format!("x{}", self.rng.below(3)),
            Kind::File if self.rng.percent(10) => format!("x{}", self.rng.below(3)),
            Kind::Dir => format!("d{}", self.rng.below(4)),
            Kind::File => format!("f{}", self.rng.below(8)),
            Kind::Mapped => format!("m{}", self.rng.below(4)),
        }
    }

    /// A path in the volume, up to three directories deep.
    fn path(&mut self, kind: Kind) -> PathBuf {
        let mut path = self.volume.clone();
        for _ in 0..self.rng.below(4) {
            path.push(self.leaf(Kind::Dir));
        }
        path.join(self.leaf(kind))
    }

    fn file_kind(&mut self) -> Kind {
        if self.rng.percent(30) { Kind::Mapped } else { Kind::File }
    }

    fn any_kind(&mut self) -> Kind {
        if self.rng.percent(35) { Kind::Dir } else { self.file_kind() }
    }

    fn any_file(&mut self) -> PathBuf {
        let kind = self.file_kind();
        self.path(kind)
    }

    fn any(&mut self) -> PathBuf {
        let kind = self.any_kind();
        self.path(kind)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.rng.below(most) as usize;
        self.rng.bytes(len)
    }

    /// Never waits: the name may be a FIFO by now.
    fn open(path: &Path, options: &mut fs::OpenOptions) -> Result<File> {
        Ok(options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?)
    }

    fn create(&mut self) -> Result<()> {
        let path = self.path(Kind::File);
        let file = Self::open(&path, File::options().write(true).create(true).truncate(true))?;
        let most = if self.rng.percent(5) { 400_000 } else { 9000 };
        Ok(file.write_all_at(&self.bytes(most), 0)?)
    }

    fn overwrite(&mut self) -> Result<()> {
        let file = Self::open(&self.any_file(), File::options().write(true))?;
        // No longer than an `m` either way.
        let at = self.rng.below(MAPPED as u64 - 2000);
        Ok(file.write_all_at(&self.bytes(2000), at)?)
    }

    fn append(&mut self) -> Result<()> {
        let file = Self::open(&self.path(Kind::File), File::options().append(true))?;
        Ok(std::io::Write::write_all(&mut &file, &self.bytes(3000))?)
    }

    fn cut(&mut self) -> Result<()> {
        let file = Self::open(&self.path(Kind::File), File::options().write(true))?;
        Ok(file.set_len(self.rng.below(20_000))?)
    }

    fn punch(&mut self) -> Result<()> {
        let file = Self::open(&self.path(Kind::File), File::options().write(true))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&file, flags, self.rng.below(4) * 4096, 4096)?)
    }

    fn rename(&mut self) -> Result<()> {
        let kind = self.any_kind();
        Ok(fs::rename(self.path(kind), self.path(kind))?)
    }

    fn exchange(&mut self) -> Result<()> {
        let kind = self.any_kind();
        let (a, b) = (self.path(kind), self.path(kind));
        Ok(rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    }

    fn link(&mut self) -> Result<()> {
        let kind = self.file_kind();
        Ok(fs::hard_link(self.path(kind), self.path(kind))?)
    }

    fn mode(&mut self) -> Result<()> {
        let mode = *self.rng.pick(&[0o600, 0o644, 0o755, 0o700, 0o444]);
        Ok(rustix::fs::chmodat(CWD, self.any(), Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    fn owner(&mut self) -> Result<()> {
        let id = self.rng.below(3) as u32 * 1000;
        let (uid, gid) = (Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
        Ok(rustix::fs::chownat(CWD, self.any(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn xattr(&mut self) -> Result<()> {
        let (path, name) = (self.any(), *self.rng.pick(&["user.a", "user.b"]));
        if self.rng.percent(40) {
            return Ok(rustix::fs::lremovexattr(&path, name)?);
        }
        Ok(rustix::fs::lsetxattr(&path, name, &self.bytes(40), XattrFlags::empty())?)
    }

    /// Makes or opens an `m`, maps it and forgets the descriptor.
    fn map(&mut self) -> Result<()> {
        let path = self.path(Kind::Mapped);
        let file = Self::open(&path, File::options().read(true).write(true).create(true).truncate(false))?;
        let map = SharedMap::of(&file, MAPPED)?;
        if self.maps.len() >= HELD {
            let at = self.rng.index(HELD);
            self.maps.swap_remove(at);
        }
        self.maps.push(map);
        self.store()
    }

    fn store(&mut self) -> Result<()> {
        if self.maps.is_empty() {
            bail!("nothing is mapped");
        }
        let (which, at) = (self.rng.index(self.maps.len()), self.rng.index(MAPPED - 8));
        let bits = self.rng.bits().to_le_bytes();
        self.maps[which].write(at, &bits);
        Ok(())
    }

    /// A file that gets its name when it is written.
    fn unnamed(&mut self) -> Result<()> {
        let dir = self.path(Kind::Dir);
        let fd = rustix::fs::open(&dir, OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o640))?;
        let file = File::from(fd);
        file.write_all_at(&self.bytes(5000), 0)?;
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let name = dir.join(self.leaf(Kind::File));
        rustix::fs::linkat(CWD, from, CWD, name, AtFlags::SYMLINK_FOLLOW)?;
        // Its events go on speaking of the name that it never had.
        file.write_all_at(&self.bytes(5000), 100)?;
        self.keep(file);
        Ok(())
    }

    fn deep(&mut self) -> Result<()> {
        let mut path = self.path(Kind::Dir);
        path.push(self.leaf(Kind::Dir));
        path.push(self.leaf(Kind::Dir));
        fs::create_dir_all(&path)?;
        for _ in 0..self.rng.below(4) {
            let path = path.join(self.leaf(Kind::File));
            let file = Self::open(&path, File::options().write(true).create(true).truncate(true))?;
            file.write_all_at(&self.bytes(500), 0)?;
        }
        Ok(())
    }

    fn outside(&mut self, kind: Kind) -> PathBuf {
        let leaf = self.leaf(kind);
        self.beside.join(leaf)
    }

    /// A second name beside the volume, or in it.
    fn link_beside(&mut self) -> Result<()> {
        let kind = self.file_kind();
        let (inside, outside) = (self.path(kind), self.outside(kind));
        if self.rng.percent(30) {
            return Ok(fs::hard_link(outside, inside)?);
        }
        let _ = fs::remove_file(&outside);
        Ok(fs::hard_link(inside, outside)?)
    }

    /// To what may be in the volume under another name.
    fn write_beside(&mut self) -> Result<()> {
        let kind = self.file_kind();
        let path = self.outside(kind);
        if self.rng.percent(30) {
            return Ok(rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(0o604), AtFlags::empty())?);
        }
        let file = Self::open(&path, File::options().write(true))?;
        let at = self.rng.below(MAPPED as u64 - 2000);
        Ok(file.write_all_at(&self.bytes(2000), at)?)
    }

    /// Out of the volume, or back.
    fn cross(&mut self) -> Result<()> {
        let kind = self.any_kind();
        let (inside, outside) = (self.path(kind), self.outside(kind));
        if self.rng.percent(50) { Ok(fs::rename(inside, outside)?) } else { Ok(fs::rename(outside, inside)?) }
    }

    fn special(&mut self) -> Result<()> {
        let path = self.path(Kind::File);
        match self.rng.below(3) {
            0 => Ok(std::os::unix::fs::symlink(format!("f{}", self.rng.below(8)), path)?),
            1 => Ok(rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o640), 0)?),
            // Another type under a name that was there.
            _ => {
                let path = path.with_file_name(format!("x{}", self.rng.below(3)));
                let _ = fs::remove_file(&path);
                Ok(fs::create_dir(path)?)
            }
        }
    }

    fn times(&mut self) -> Result<()> {
        let time = Timespec { tv_sec: 1_000_000 + self.rng.below(3) as i64, tv_nsec: 7 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, self.any(), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn hold(&mut self) -> Result<()> {
        let file = Self::open(&self.any_file(), File::options().read(true).write(true))?;
        self.keep(file);
        Ok(())
    }

    fn keep(&mut self, file: File) {
        if self.files.len() >= HELD {
            let at = self.rng.index(HELD);
            self.files.swap_remove(at);
        }
        self.files.push(file);
    }

    /// Through a descriptor whose name may be another by now, or gone.
    fn write_held(&mut self) -> Result<()> {
        if self.files.is_empty() {
            bail!("nothing is held");
        }
        let (which, at) = (self.rng.index(self.files.len()), self.rng.below(MAPPED as u64 - 2000));
        let bytes = self.bytes(2000);
        Ok(self.files[which].write_all_at(&bytes, at)?)
    }
}
