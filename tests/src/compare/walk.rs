//! Walks two trees side by side: a shared stack of work, a few threads, descriptors instead of paths.
//!
//! A work item holds its parent directory's descriptors, and the stack is last in, first out, so the number of open
//! descriptors is bounded by the depth of branching and not by the number of directories.

use super::entry::{EntryJudge, Side, file_type};
use super::links::{self, Linked};
use super::options::{Options, Specials};
use super::report::{Aspect, Difference, Report};
use anyhow::Context;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

const THREADS: usize = 2;

/// Names per work item: large directories are shared between the threads.
const BATCH: usize = 256;

/// A directory that both trees have.
struct DirPair {
    a: OwnedFd,
    b: OwnedFd,
    path: Vec<u8>,
}

enum Work {
    /// Open this name in both, list it, queue what is in it.
    Directory(Arc<DirPair>, Vec<u8>),
    /// Compare these common names.
    Names(Arc<DirPair>, Vec<Vec<u8>>),
}

#[derive(Default)]
struct Stack {
    work: Vec<Work>,
    busy: usize,
}

struct Shared<'o> {
    options: &'o Options,
    stack: Mutex<Stack>,
    changed: Condvar,
}

/// What one thread found; merged at the end, so that threads do not wait for each other.
#[derive(Default)]
struct Found {
    report: Report,
    linked: Vec<Linked>,
}

pub(super) fn compare(a: &Path, b: &Path, options: &Options) -> anyhow::Result<Report> {
    let a = open_root(a).with_context(|| format!("open root {}", a.display()))?;
    let b = open_root(b).with_context(|| format!("open root {}", b.display()))?;
    let root = Arc::new(DirPair { a, b, path: Vec::new() });
    let mut total = Found::default();
    if options.root_metadata {
        let (stat_a, stat_b) = (fstat(&root.a)?, fstat(&root.b)?);
        let (a, b) = (side(&root.a, &stat_a), side(&root.b, &stat_b));
        for (aspect, detail) in EntryJudge::new(options).judge(b"", a, b) {
            total.differ(options, Vec::new(), aspect, detail);
        }
    }
    let shared = Shared { options, stack: Mutex::default(), changed: Condvar::new() };
    shared.push(vec![Work::Directory(root, Vec::new())]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| run(&shared))).collect();
        for thread in threads {
            total.merge(thread.join().expect("a comparing thread panicked"));
        }
    });
    let (differences, groups) = links::judge(std::mem::take(&mut total.linked), options.b_links_closed);
    let mut report = total.report;
    report.link_groups = groups;
    report.count += differences.len() as u64;
    report.differences.extend(differences);
    report.differences.sort_unstable();
    report.differences.truncate(options.limit);
    Ok(report)
}

fn run(shared: &Shared<'_>) -> Found {
    let mut found = Found::default();
    let mut judge = EntryJudge::new(shared.options);
    while let Some(work) = shared.next() {
        let _done = Done(shared);
        match work {
            Work::Directory(parent, name) => list(shared, &mut found, &parent, &name),
            Work::Names(dir, names) => {
                for name in names {
                    compare_name(shared, &mut found, &mut judge, &dir, name);
                }
            }
        }
    }
    found.report.bytes = judge.content.bytes;
    found
}

impl Shared<'_> {
    fn push(&self, work: Vec<Work>) {
        self.stack.lock().expect("stack lock").work.extend(work);
        self.changed.notify_all();
    }

    /// The next item, or nothing once all is done.
    fn next(&self) -> Option<Work> {
        let mut stack = self.stack.lock().expect("stack lock");
        loop {
            if let Some(work) = stack.work.pop() {
                stack.busy += 1;
                return Some(work);
            }
            if stack.busy == 0 {
                return None;
            }
            stack = self.changed.wait(stack).expect("stack lock");
        }
    }
}

/// Tells the other threads that an item is finished, also when its thread panics: they would wait for ever.
struct Done<'s, 'o>(&'s Shared<'o>);

impl Drop for Done<'_, '_> {
    fn drop(&mut self) {
        if let Ok(mut stack) = self.0.stack.lock() {
            stack.busy -= 1;
        }
        self.0.changed.notify_all();
    }
}

impl Found {
    fn differ(&mut self, options: &Options, path: Vec<u8>, aspect: Aspect, detail: String) {
        self.report.count += 1;
        if self.report.differences.len() < options.limit {
            self.report.differences.push(Difference { path, aspect, detail });
        }
    }

    fn merge(&mut self, other: Found) {
        self.report.differences.extend(other.report.differences);
        self.report.count += other.report.count;
        self.report.entries += other.report.entries;
        self.report.directories += other.report.directories;
        self.report.files += other.report.files;
        self.report.bytes += other.report.bytes;
        self.report.left_out += other.report.left_out;
        self.linked.extend(other.linked);
    }
}

fn list(shared: &Shared<'_>, found: &mut Found, parent: &Arc<DirPair>, name: &[u8]) {
    let options = shared.options;
    let path = joined(&parent.path, name);
    let opened = (|| -> Result<_, Errno> {
        let here: &[u8] = if name.is_empty() { b"." } else { name };
        let (a, b) = (open_dir(parent.a.as_fd(), here)?, open_dir(parent.b.as_fd(), here)?);
        let (names_a, names_b) = (names_of(&a)?, names_of(&b)?);
        Ok((a, b, names_a, names_b))
    })();
    let (a, b, mut names_a, mut names_b) = match opened {
        Ok(opened) => opened,
        Err(errno) => {
            return found.differ(options, path, Aspect::Unreadable, format!("list directory: {errno}"));
        }
    };
    if path.is_empty() {
        names_a.retain(|name| !options.exclude_top.contains(name));
        names_b.retain(|name| !options.exclude_top.contains(name));
    }
    let dir = Arc::new(DirPair { a, b, path });
    for (tree, names) in [("a", &names_a), ("b", &names_b)] {
        let mut seen = BTreeSet::new();
        for pair in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            if seen.insert(&pair[0]) {
                found.differ(options, joined(&dir.path, &pair[0]), Aspect::ListedTwice, format!("in {tree}"));
            }
        }
    }
    names_a.dedup();
    names_b.dedup();
    let common = pair_up(options, found, &dir, names_a, names_b);
    let mut work: Vec<Work> = Vec::new();
    for batch in common.chunks(BATCH) {
        work.push(Work::Names(dir.clone(), batch.to_vec()));
    }
    shared.push(work);
}

/// Reports names that only one tree has; returns those of both.
fn pair_up(
    options: &Options,
    found: &mut Found,
    dir: &DirPair,
    names_a: Vec<Vec<u8>>,
    names_b: Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let mut common = Vec::new();
    let (mut a, mut b) = (names_a.into_iter().peekable(), names_b.into_iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.cmp(y),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return common,
        };
        match order {
            Ordering::Equal => {
                b.next();
                common.extend(a.next());
            }
            Ordering::Less => only_one(options, found, dir, Aspect::Missing, &a.next().unwrap_or_default()),
            Ordering::Greater => only_one(options, found, dir, Aspect::Extra, &b.next().unwrap_or_default()),
        }
    }
}

fn only_one(options: &Options, found: &mut Found, dir: &DirPair, aspect: Aspect, name: &[u8]) {
    let (fd, tree) = if aspect == Aspect::Missing { (&dir.a, "a") } else { (&dir.b, "b") };
    let path = joined(&dir.path, name);
    match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let kind = file_type(&stat);
            let excused = match options.specials {
                Specials::LeftOut => aspect == Aspect::Missing && is_special(kind),
                Specials::Ignored => is_special(kind),
                Specials::Compared => false,
            };
            if excused {
                found.report.left_out += 1;
            } else {
                found.differ(options, path, aspect, format!("{kind:?} only in {tree}"));
            }
        }
        Err(errno) => found.differ(options, path, Aspect::Unreadable, format!("stat in {tree}: {errno}")),
    }
}

fn compare_name(
    shared: &Shared<'_>,
    found: &mut Found,
    judge: &mut EntryJudge<'_>,
    dir: &Arc<DirPair>,
    name: Vec<u8>,
) {
    let options = shared.options;
    let stat = |fd: &OwnedFd| statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
    let (a, b) = match (stat(&dir.a), stat(&dir.b)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(errno), _) | (_, Err(errno)) => {
            return found.differ(
                options,
                joined(&dir.path, &name),
                Aspect::Unreadable,
                format!("stat: {errno}"),
            );
        }
    };
    let (kind_a, kind_b) = (file_type(&a), file_type(&b));
    match options.specials {
        Specials::LeftOut if is_special(kind_a) => {
            let detail = format!("{kind_a:?} in a is left out by policy, b has a {kind_b:?}");
            return found.differ(options, joined(&dir.path, &name), Aspect::Special, detail);
        }
        Specials::Ignored if is_special(kind_a) && is_special(kind_b) => {
            return found.report.left_out += 1;
        }
        _ => {}
    }
    found.report.entries += 1;
    for (aspect, detail) in judge.judge(&name, side(&dir.a, &a), side(&dir.b, &b)) {
        found.differ(options, joined(&dir.path, &name), aspect, detail);
    }
    if kind_a != kind_b {
        return;
    }
    if kind_a == FileType::Directory {
        found.report.directories += 1;
        shared.push(vec![Work::Directory(dir.clone(), name)]);
        return;
    }
    if kind_a == FileType::RegularFile {
        found.report.files += 1;
    }
    if a.st_nlink > 1 || b.st_nlink > 1 {
        found.linked.push(Linked {
            path: joined(&dir.path, &name),
            a: (a.st_dev, a.st_ino),
            b: (b.st_dev, b.st_ino),
            b_nlink: b.st_nlink,
        });
    }
}

fn side<'a>(dir: &'a OwnedFd, stat: &'a Stat) -> Side<'a> {
    Side { dir: dir.as_fd(), stat }
}

fn is_special(kind: FileType) -> bool {
    matches!(kind, FileType::Socket | FileType::BlockDevice | FileType::CharacterDevice)
}

fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open_dir(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

/// The names of a directory, sorted, without `.` and `..`.
fn names_of(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() || name.is_empty() {
        return [dir, name].concat();
    }
    [dir, b"/", name].concat()
}
