//! Which files other processes may write to, as far as `/proc` and `/sys` tell: inode numbers only.
//!
//! Nothing that a process holds is opened. Its descriptors are looked at through the links of `/proc`, which lead to the
//! open file itself and not along the path that they show, and without asking a file server: a dead mount cannot hold a
//! look up. Listing the mappings of a process waits for its address space, though: on a hung mount that may be long, so a
//! scan belongs on a thread that may hang.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs as rfs;

use crate::dir::{Dir, WalkBuffer};
use crate::error::{Errno, SysError, ctx};
use crate::stat::{FileKind, Stat, WANTED};

/// A file that somebody may write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writable {
    /// Device as `stat` reports it.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// It can be written to by plain stores into memory.
    pub mapped: bool,
}

/// Whether all that there is was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what was not seen may be written to"]
pub enum Seen {
    /// All of it.
    All,
    /// Some process or loop device refused.
    Part,
}

/// A mapping may be split or joined between being listed and being looked at: then its process is listed again.
const LISTED_MAX: usize = 4;

/// Looks at processes, with memory that is used again.
#[derive(Default)]
pub struct Scanner {
    buffer: WalkBuffer,
    names: Vec<Vec<u8>>,
    text: Vec<u8>,
    /// Processes, by their names of up to 15 bytes in `/proc/PID/comm`, that may refuse to be looked at and are taken to
    /// write to nothing.
    pub harmless: Vec<String>,
    /// Name and number of a process that refused in the last scan and is not one of those.
    pub refused: Option<(String, u32)>,
}

impl Scanner {
    /// Calls `each` for every regular file that another process than this one has open for writing, or mapped shared and
    /// writable, or that backs a writable loop device; more than once where several have it. Files without a name are left
    /// out.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn scan(&mut self, each: &mut dyn FnMut(Writable)) -> Result<Seen, SysError> {
        let proc = Dir::open(Path::new("/proc"))?;
        let own = std::process::id();
        let mut pids: Vec<u32> = Vec::new();
        proc.read(&mut self.buffer, |entry| pids.extend(number(entry.name)))?;
        let mut all = true;
        self.refused = None;
        for pid in pids.into_iter().filter(|pid| *pid != own) {
            let Ok(at) = proc.open_dir(pid.to_string().as_bytes()) else { continue };
            let seen = self.process(&at, each);
            all &= is_told(&seen) || self.is_harmless(&at, pid);
        }
        all &= is_told(&self.loops(each));
        Ok(if all { Seen::All } else { Seen::Part })
    }

    fn is_harmless(&mut self, at: &Dir, pid: u32) -> bool {
        let name = comm(at);
        let is_harmless = self.harmless.contains(&name);
        if !is_harmless {
            self.refused.get_or_insert((name, pid));
        }
        is_harmless
    }

    fn process(&mut self, at: &Dir, each: &mut dyn FnMut(Writable)) -> Result<(), SysError> {
        let mappings = self.mappings(at, each);
        if self.descriptors(at, each)? == 0 {
            // A kernel thread; or a process whose first thread has ended before the others: those have all of it.
            let own = at.stat_self()?.ino;
            for task in at.open_dir(b"task")?.names()? {
                let task = at.open_dir(b"task")?.open_dir(&task)?;
                if task.stat_self()?.ino != own && self.descriptors(&task, each)? > 0 {
                    break;
                }
            }
        }
        mappings
    }

    /// Open descriptors of a process or thread; returns how many there are.
    fn descriptors(&mut self, at: &Dir, each: &mut dyn FnMut(Writable)) -> Result<usize, SysError> {
        let links = at.open_dir(b"fd")?;
        let (names, mut count) = (&mut self.names, 0);
        names.clear();
        links.read(&mut self.buffer, |entry| {
            names.push(entry.name.to_vec());
            count += 1;
        })?;
        for name in names.iter() {
            let found = open_for_writing(&links, name);
            match found {
                Ok(Some(stat)) => each(Writable { dev: stat.dev, ino: stat.ino, mapped: false }),
                Ok(None) => {}
                Err(e) if is_over(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(count)
    }

    /// Shared mappings of a process through descriptors that were open for writing. One that is read-only at the moment
    /// counts too: `mprotect(2)` makes it writable again, and its dirty pages stay so.
    fn mappings(&mut self, at: &Dir, each: &mut dyn FnMut(Writable)) -> Result<(), SysError> {
        for _ in 0..LISTED_MAX {
            self.text.clear();
            let maps =
                rfs::openat(at, "maps", rfs::OFlags::RDONLY | rfs::OFlags::CLOEXEC, rfs::Mode::empty())
                    .map_err(ctx("open", b"maps"))?;
            match std::fs::File::from(maps).read_to_end(&mut self.text) {
                Ok(_) => {}
                Err(e) => {
                    return Err(SysError::new(
                        "read",
                        b"maps",
                        Errno::from_io_error(&e).unwrap_or(Errno::IO),
                    ));
                }
            }
            let mut links = None;
            let mut moved = false;
            for name in shared(&self.text) {
                let links = match &links {
                    Some(links) => links,
                    None => links.insert(at.open_dir(b"map_files")?),
                };
                match open_for_writing(links, name.as_bytes()) {
                    Ok(Some(stat)) => each(Writable { dev: stat.dev, ino: stat.ino, mapped: true }),
                    Ok(None) => {}
                    Err(e) if is_over(&e) => moved = true,
                    Err(e) => return Err(e),
                }
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// Files behind loop devices: the kernel itself writes to them.
    fn loops(&mut self, each: &mut dyn FnMut(Writable)) -> Result<(), SysError> {
        let devices = match Dir::open(Path::new("/sys/devices/virtual/block")) {
            Ok(devices) => devices,
            Err(e) if e.is_gone() => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        devices.read(&mut self.buffer, |entry| {
            if entry.name.starts_with(b"loop") {
                names.push(entry.name.to_vec());
            }
        })?;
        for name in names {
            // Only one with a file has this directory.
            match devices.open_dir(&name).and_then(|device| device.open_dir(b"loop")) {
                Ok(_) => {}
                Err(e) if is_over(&e) => continue,
                Err(e) => return Err(e),
            }
            match backing(&name) {
                Ok(Some((dev, ino))) => each(Writable { dev, ino, mapped: false }),
                Ok(None) => {}
                // Bound no more.
                Err(e) if matches!(e.errno, Errno::NXIO) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// What a link of `/proc` leads to, if it is a regular file with a name that was opened for writing: the link's own
/// permission bits tell that.
fn open_for_writing(links: &Dir, name: &[u8]) -> Result<Option<Stat>, SysError> {
    if links.glance(name)?.mode & 0o200 == 0 {
        return Ok(None);
    }
    let flags = rfs::AtFlags::STATX_DONT_SYNC | rfs::AtFlags::NO_AUTOMOUNT;
    let look = |wanted| rfs::statx(links, name, flags, wanted);
    let stat = match look(WANTED) {
        Ok(stx) => Stat::from(&stx),
        // A FUSE mount that is its user's alone says nothing else; where that is refused too, the process is hidden.
        Err(Errno::ACCESS | Errno::PERM) if look(rfs::StatxFlags::empty()).is_ok() => return Ok(None),
        // The file system of the file is broken: nobody writes there.
        Err(Errno::IO | Errno::NOTCONN) => return Ok(None),
        Err(errno) => return Err(SysError::new("look at what is open as", name, errno)),
    };
    Ok((stat.kind == FileKind::File && stat.nlink > 0).then_some(stat))
}

/// What a process is called; nothing if that cannot be read.
fn comm(at: &Dir) -> String {
    let flags = rfs::OFlags::RDONLY | rfs::OFlags::CLOEXEC;
    let mut name = String::new();
    if let Ok(file) = rfs::openat(at, "comm", flags, rfs::Mode::empty()) {
        let _ = std::fs::File::from(file).read_to_string(&mut name);
    }
    name.trim_end_matches('\n').to_owned()
}

/// The process, descriptor, mapping or device is not there any more.
fn is_over(error: &SysError) -> bool {
    error.is_gone() || matches!(error.errno, Errno::SRCH | Errno::NODEV)
}

fn is_told(result: &Result<(), SysError>) -> bool {
    result.as_ref().err().is_none_or(is_over)
}

fn number(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Names in `map_files` of the shared file mappings that `text` (proc_pid_maps(5)) lists.
fn shared(text: &[u8]) -> impl Iterator<Item = String> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (range, flags) = (fields.next()?, fields.next()?);
        let ino = fields.nth(2)?;
        if flags.get(3) != Some(&b's') || ino == b"0" {
            return None;
        }
        let (start, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
        // Listed with leading zeros, named without.
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some(format!("{:x}-{:x}", hex(start)?, hex(end)?))
    })
}

/// Device and inode of a file.
type FileId = ((u32, u32), u64);

/// The file behind the loop device `name`; nothing if it is never written to.
fn backing(name: &[u8]) -> Result<Option<FileId>, SysError> {
    /// `LOOP_GET_STATUS64` and the size of its `struct loop_info64`, linux/loop.h.
    const GET_STATUS: libc::c_ulong = 0x4c05;
    const INFO_WORDS: usize = 232 / 8;
    const READ_ONLY: u64 = 1;
    let failed = |errno| SysError::new("ask for the file of", name, errno);
    let flags = rfs::OFlags::RDONLY | rfs::OFlags::NONBLOCK | rfs::OFlags::NOFOLLOW | rfs::OFlags::CLOEXEC;
    let dev = Dir::open(Path::new("/dev"))?;
    // The type first: nothing but a loop device of this host is opened.
    let seen = rfs::statat(&dev, name, rfs::AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let is_block = rfs::FileType::from_raw_mode(seen.st_mode) == rfs::FileType::BlockDevice;
    if !is_block || rfs::major(seen.st_rdev) != 7 {
        return Err(failed(Errno::NOTBLK));
    }
    let device = rfs::openat(&dev, name, flags, rfs::Mode::empty()).map_err(failed)?;
    let mut info = [0u64; INFO_WORDS];
    // SAFETY: the kernel fills one `struct loop_info64`, which is as long as `info` and has words for its widest fields.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS as _, info.as_mut_ptr()) };
    if result != 0 {
        return Err(failed(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)));
    }
    // Words 0 and 1: device, as new_encode_dev(9) packs it, and inode. Flags: the second half of word 6.
    let flags = u64::from(info[6].to_ne_bytes()[4]);
    let (packed, ino) = (info[0], info[1]);
    let dev = ((packed >> 8 & 0xfff) as u32, (packed & 0xff | packed >> 12 & 0xf_ff00) as u32);
    Ok((flags & READ_ONLY == 0).then_some((dev, ino)))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn only_shared_file_mappings_are_looked_at() {
        let text = b"00400000-00401000 r-xp 00000000 fe:00 12 /bin/a\n\
            7f0000000000-7f0000001000 rw-s 00000000 fe:00 34 /a file\n\
            7f0000002000-7f0000003000 rw-s 00000000 00:01 0 \n\
            00700000-00701000 r--s 00001000 00:2b 56 /v/b\n\
            nonsense";
        assert_eq!(shared(text).collect::<Vec<_>>(), ["7f0000000000-7f0000001000", "700000-701000"]);
    }

    /// A process with standard input and output on these, which waits until it is killed.
    fn holder(input: std::fs::File, output: std::fs::File) -> Child {
        Command::new("sleep").arg("600").stdin(input).stdout(output).stderr(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn files_open_for_writing_are_found_and_others_are_not() {
        let at = tempfile::tempdir().unwrap();
        let path = |name: &str| at.path().join(name);
        let make = |name: &str| std::fs::File::create(path(name)).unwrap();
        let id =
            |file: &std::fs::File| crate::file::stat(file, b"").map(|stat| (stat.dev, stat.ino)).unwrap();
        let (written, removed) = (make("written"), make("removed"));
        make("read");
        let read = std::fs::File::open(path("read")).unwrap();
        let ids = [id(&written), id(&read), id(&removed)];
        std::fs::remove_file(path("removed")).unwrap();
        // Ours: never a member.
        let own = make("own");
        let mut one = holder(read, written);
        let mut two = holder(std::fs::File::open("/dev/null").unwrap(), removed);
        let mut found = Vec::new();
        let seen = Scanner::default().scan(&mut |file| found.push(file)).unwrap();
        for child in [&mut one, &mut two] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let has = |id: FileId| found.iter().any(|file| (file.dev, file.ino) == id);
        assert_eq!(ids.map(has), [true, false, false], "{seen:?}");
        assert!(!has(id(&own)));
        assert!(found.iter().all(|file| !file.mapped || file.ino > 0));
    }
}
