//! What must hold once the old writer has woken and ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use harness::compare::{Options, compare};
use proto::log::{LogReader, LogRecord};
use proto::{FrameKind, Head, LogHeader, LogTrailer, Op, RelPath, frame};

/// Messages a replaced writer may end with: each says that somebody else has the lane.
const CLEAR: [&str; 5] = [
    "the lane is written by",
    "was replaced by",
    "was sealed by another writer",
    "was claimed by another writer",
    "another process made this lane's ledger",
];

/// A redo log, decoded.
pub struct Log {
    pub header: LogHeader,
    pub trailer: LogTrailer,
    pub ops: Vec<Op>,
}

/// The parts of a ledger that say who wrote what, as bytes and decoded.
pub struct Books {
    /// `HEAD`, `commit/*` and `epoch/*`.
    files: BTreeMap<PathBuf, Vec<u8>>,
    pub head: Option<Head>,
    pub logs: Vec<Log>,
}

impl Books {
    /// Reads the ledger in `dir`; one that is not there yet is empty.
    pub fn read(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        for sub in ["commit", "epoch"] {
            let Ok(listed) = fs::read_dir(dir.join(sub)) else { continue };
            for entry in listed {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(dir).unwrap().to_owned();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
        let head = fs::read(dir.join("HEAD")).ok();
        files.extend(head.clone().map(|bytes| (PathBuf::from("HEAD"), bytes)));
        let head = head.map(|bytes| frame::decode_file(FrameKind::Head, &bytes).unwrap());
        let mut logs: Vec<Log> = files
            .iter()
            .filter(|(name, _)| name.starts_with("commit"))
            .map(|(_, bytes)| log(bytes))
            .collect();
        logs.sort_by_key(|log| log.header.generation);
        Self { files, head, logs }
    }

    /// Generation that HEAD names; 0 for none.
    pub fn generation(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.generation.0)
    }

    /// Every generation once, each following the one before, no writer sealing after its successor did, and HEAD
    /// the last of them.
    pub fn assert_sound(&self, at: &str) {
        let mut previous = [0; 32];
        let mut epoch = 0;
        for (i, log) in self.logs.iter().enumerate() {
            let header = &log.header;
            assert_eq!(header.generation.0, i as u64 + 1, "{at}: a generation is missing or sealed twice");
            assert_eq!(header.previous, previous, "{at}: generation {} breaks the chain", header.generation);
            assert!(header.epoch.0 >= epoch, "{at}: epoch {epoch} was replaced before {}", header.generation);
            (previous, epoch) = (log.trailer.hash, header.epoch.0);
        }
        let last = self.logs.last().unwrap_or_else(|| panic!("{at}: no generation"));
        let head = self.head.as_ref().unwrap_or_else(|| panic!("{at}: no HEAD"));
        assert_eq!(
            (head.generation, head.epoch, head.log_hash),
            (last.header.generation, last.header.epoch, last.trailer.hash),
            "{at}: HEAD is not the last generation"
        );
    }

    /// Not a byte of it differs from what it was.
    pub fn assert_as(&self, before: &Books, at: &str) {
        let names = |books: &Books| books.files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(before), "{at}: the old writer made or removed something");
        for (name, bytes) in &self.files {
            assert!(*bytes == before.files[name], "{at}: the old writer changed {}", name.display());
        }
    }

    /// Directories whose metadata an epoch set where they are.
    pub fn dirs_set_by(&self, epoch: u64) -> Vec<RelPath> {
        let ops = self.ops_of(epoch);
        ops.filter_map(|op| if let Op::Dir { path, .. } = op { Some(path.clone()) } else { None }).collect()
    }

    /// Files that an epoch made grow, keeping their inodes.
    pub fn grown_by(&self, epoch: u64) -> Vec<RelPath> {
        let ops = self.ops_of(epoch);
        ops.filter_map(|op| if let Op::Grow { path, .. } = op { Some(path.clone()) } else { None }).collect()
    }

    fn ops_of(&self, epoch: u64) -> impl Iterator<Item = &Op> {
        self.logs.iter().filter(move |log| log.header.epoch.0 == epoch).flat_map(|log| &log.ops)
    }
}

fn log(bytes: &[u8]) -> Log {
    let (mut header, mut trailer, mut ops) = (None, None, Vec::new());
    let (mut reader, mut at) = (LogReader::default(), 0);
    while !reader.is_complete() {
        let (record, used) = reader.next(&bytes[at..]).expect("a sealed log is whole");
        at += used;
        match record {
            LogRecord::Header(h) => header = Some(h),
            LogRecord::Op(op) => ops.push(op),
            LogRecord::Trailer(t) => trailer = Some(t),
        }
    }
    Log { header: header.unwrap(), trailer: trailer.unwrap(), ops }
}

/// The old writer failed and said why; done is only what was in the mirror before it was replaced.
pub fn assert_refused(status: ExitStatus, said: &str, was_done: bool, at: &str) {
    if was_done && status.success() {
        return;
    }
    let code = status.code();
    assert!(code.is_some_and(|code| code != 0), "{at}: the old writer ended with {status}: {said}");
    assert!(CLEAR.iter().any(|text| said.contains(text)), "{at}: {status}, and all it says is {said:?}");
}

/// The mirror is the new writer's volume.
pub fn assert_mirror(volume: &Path, mirror: &Path, options: &Options, at: &str) {
    let report = compare(volume, mirror, options).unwrap();
    assert!(report.is_same(), "{at}: the mirror is not what the new writer published: {report}");
}

/// What differs between two of `harness::product::snapshot` of the mirror, by path. The inode's change time tells
/// of every touch.
pub fn touched(before: &[String], after: &[String]) -> Vec<String> {
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|line| b.binary_search(line).is_err()).cloned().collect()
    };
    [only(before, after), only(after, before)].concat()
}

/// State of each thread of a process, as `ps` shows it.
pub fn threads(pid: i32) -> Vec<char> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}
