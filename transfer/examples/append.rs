//! What 1 MiB appended to a large file costs: `append ring|plain FROM_DIR TO_DIR SIZE_MIB`.
//!
//! Makes a file in `FROM_DIR`, copies it whole into `TO_DIR`, appends, and copies it again as a delta.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sys::Dir;
use transfer::{
    Copied, CopyJob, Durability, Engine, Feed, How, Identity, Job, Next, Options, Outcome, Writers, run,
};

struct One {
    job: Option<Job>,
    copied: Option<Copied>,
}

impl Feed for One {
    fn next(&mut self) -> Next {
        self.job.take().map_or(Next::End, |job| Next::Job(0, job))
    }

    fn done(&mut self, _: u64, outcome: Outcome) {
        if let Outcome::Copied(result) = outcome {
            self.copied = Some(result.expect("copy"));
        }
    }
}

fn copy(engine: Engine, from: &Arc<Dir>, to: &Arc<Dir>, name: &str, how: How) -> Copied {
    let stat = from.stat(b"large").expect("stat");
    let job = CopyJob {
        source: (from.clone(), b"large".as_slice().into()),
        expect: Identity { ino: stat.ino, dev: stat.dev },
        target: (to.clone(), name.as_bytes().into()),
        create_as: None,
        replace_leftover: true,
        how,
        writers: Writers::Seen,
        durability: Durability::PerFile,
    };
    let mut feed = One { job: Some(Job::Copy(Box::new(job))), copied: None };
    let begun = Instant::now();
    run(&mut feed, &Options::default(), engine).expect("run");
    let copied = feed.copied.expect("reported");
    println!("{name}: {:.3} s, {} KiB sent", begun.elapsed().as_secs_f64(), copied.bytes_sent >> 10);
    copied
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, engine, from, to, size] = args.as_slice() else { panic!("append ring|plain FROM TO SIZE_MIB") };
    let engine = if engine == "ring" { Engine::Ring } else { Engine::Plain };
    let mib: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let path = Path::new(from).join("large");
    let mut file = std::fs::File::create(&path).expect("create");
    for _ in 0..size.parse::<u32>().expect("size") {
        file.write_all(&mib).expect("write");
    }
    let open = |path: &str| Arc::new(Dir::open(Path::new(path)).expect("open"));
    let (from, to) = (open(from), open(to));
    let whole = copy(engine, &from, &to, "whole", How::Whole);
    file.write_all(&mib).expect("append");
    let base = (to.clone(), b"whole".as_slice().into());
    let how = How::Delta { base, base_size: whole.size, base_blocks: whole.hash.blocks.into() };
    copy(engine, &from, &to, "delta", how);
    copy(engine, &from, &to, "all-over-again", How::Whole);
    for name in ["whole", "delta", "all-over-again"] {
        to.unlink(name.as_bytes()).expect("unlink");
    }
    from.unlink(b"large").expect("unlink");
}
