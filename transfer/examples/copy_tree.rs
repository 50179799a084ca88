//! Copies a tree and says how long it took: `copy_tree ring|plain FROM TO [local|mount] [in_flight] [threads] [fsync]`.
//!
//! `TO` must not exist. Directories are made on the fly and keep our own times: this measures the copying of files.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sys::{Dir, EntryType, FileKind, WalkBuffer};
use transfer::{
    CopyJob, Durability, Engine, Feed, How, Identity, Job, Next, Options, Outcome, Side, Writers, run,
};

/// Directories whose files are handed out by turns: creating names in one directory is one at a time.
const SIDE_BY_SIDE: usize = 8;

/// Walks depth first and hands out the files of a few directories by turns.
struct Walk {
    files: VecDeque<Vec<CopyJob>>,
    dirs: Vec<(Arc<Dir>, Arc<Dir>)>,
    buffer: WalkBuffer,
    durability: Durability,
    failed: u64,
}

impl Walk {
    fn enter(&mut self, from: Arc<Dir>, to: Arc<Dir>) {
        let (mut names, mut files) = (Vec::new(), Vec::new());
        from.read(&mut self.buffer, |entry| names.push((entry.name.to_vec(), entry.kind)))
            .expect("read directory");
        for (name, kind) in names {
            match kind {
                EntryType::Dir => {
                    to.mkdir(&name, 0o755).expect("mkdir");
                    let below = (from.open_dir(&name).expect("open"), to.open_dir(&name).expect("open"));
                    self.dirs.push((Arc::new(below.0), Arc::new(below.1)));
                }
                _ => {
                    let stat = from.stat(&name).expect("stat");
                    if stat.kind != FileKind::File {
                        continue;
                    }
                    files.push(CopyJob {
                        source: (from.clone(), name.as_slice().into()),
                        expect: Identity { ino: stat.ino, dev: stat.dev },
                        target: (to.clone(), name.into()),
                        create_as: None,
                        replace_leftover: false,
                        how: How::Whole,
                        writers: Writers::Seen,
                        durability: self.durability,
                    });
                }
            }
        }
        if !files.is_empty() {
            self.files.push_back(files);
        }
    }
}

impl Feed for Walk {
    fn next(&mut self) -> Next {
        while self.files.len() < SIDE_BY_SIDE
            && let Some((from, to)) = self.dirs.pop()
        {
            self.enter(from, to);
        }
        let Some(mut files) = self.files.pop_front() else { return Next::End };
        let Some(job) = files.pop() else { return Next::End };
        if !files.is_empty() {
            self.files.push_back(files);
        }
        Next::Job(0, Job::Copy(Box::new(job)))
    }

    fn done(&mut self, _: u64, outcome: Outcome) {
        if let Outcome::Copied(Err(error)) = outcome {
            self.failed += 1;
            eprintln!("{error:?}");
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, engine, from, to, rest @ ..] = args.as_slice() else {
        panic!("copy_tree ring|plain FROM TO ...")
    };
    let engine = match engine.as_str() {
        "ring" => Engine::Ring,
        "plain" => Engine::Plain,
        other => panic!("no engine {other}"),
    };
    let number =
        |index: usize, default: usize| rest.get(index).map_or(default, |text| text.parse().expect("number"));
    let defaults = Options::default();
    let options = Options {
        target: if rest.first().is_some_and(|side| side == "local") { Side::Local } else { Side::MayHang },
        in_flight: number(1, defaults.in_flight),
        pool_threads: number(2, defaults.pool_threads),
        ..defaults
    };
    let durability = if rest.get(3).is_some_and(|word| word == "fsync") {
        Durability::PerFile
    } else {
        Durability::Deferred
    };
    sys::host::clear_umask();
    let begun = Instant::now();
    std::fs::create_dir(to).expect("make TO");
    let open = |path: &str| Arc::new(Dir::open(Path::new(path)).expect("open"));
    let mut walk = Walk {
        files: VecDeque::new(),
        dirs: vec![(open(from), open(to))],
        buffer: WalkBuffer::default(),
        durability,
        failed: 0,
    };
    let stats = run(&mut walk, &options, engine).expect("run");
    println!(
        "{:.3} s, {} files, {} MiB, {} failed",
        begun.elapsed().as_secs_f64(),
        stats.files,
        stats.bytes >> 20,
        walk.failed
    );
}
