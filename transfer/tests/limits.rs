//! Both engines under limits, by the clock: what is copied takes as long as the rate says, whatever it is made of.
//!
//! Fails on a weakened build: charge nothing in `cost`, begin with a full bucket, or leave `cut` out.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Place, engines, noise, run_jobs};
use transfer::{Engine, Feed, How, Job, Limits, Next, Options, Outcome, Rates, Side, run};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn limited(rates: Rates, target: Side) -> Options {
    Options { target, limits: Arc::new(Limits::new(rates)), ..Options::default() }
}

fn bytes(rate: usize) -> Rates {
    Rates { bytes: Some(rate as u64), ops: None }
}

fn seconds(time: Duration, ideal: f64, what: &str) {
    let took = time.as_secs_f64();
    assert!(took >= ideal && took <= 1.5 * ideal, "{what} took {took:.3} s instead of {ideal:.3}");
    eprintln!("{what}: {took:.3} s for {ideal:.3}");
}

fn copies(place: &Place, names: impl IntoIterator<Item = String>) -> Vec<Job> {
    names.into_iter().map(|name| Job::Copy(Box::new(place.job(&name, How::Whole)))).collect()
}

#[test]
fn a_single_large_file_takes_its_size_over_the_rate() {
    for engine in engines() {
        for target in [Side::Local, Side::MayHang] {
            let place = Place::new();
            place.put("large", &noise(6 * MIB, 1));
            let jobs = copies(&place, ["large".to_owned()]);
            let begin = Instant::now();
            let outcomes = run_jobs(engine, &limited(bytes(4 * MIB), target), jobs);
            seconds(begin.elapsed(), 1.5, &format!("{engine:?}, {target:?}, 6 MiB at 4 MiB/s"));
            assert!(
                matches!(&outcomes[&0], Outcome::Copied(Ok(copied)) if copied.bytes_sent == 6 * MIB as u64)
            );
            assert!(common::read(&place.target_path("large")) == noise(6 * MIB, 1));
        }
    }
}

#[test]
fn many_small_files_take_their_sum_over_the_rate() {
    for engine in engines() {
        let place = Place::new();
        let names: Vec<String> = (0..48).map(|n| format!("f{n}")).collect();
        names.iter().for_each(|name| place.put(name, &noise(40 * KIB, 3)));
        let jobs = copies(&place, names);
        let begin = Instant::now();
        run_jobs(engine, &limited(bytes(2 * MIB), Side::MayHang), jobs);
        seconds(
            begin.elapsed(),
            (48 * 40) as f64 / 2048.0,
            &format!("{engine:?}, 48 files of 40 KiB at 2 MiB/s"),
        );
    }
}

/// A rate far below the size of a block: the block is written in pieces that the rate lets through.
#[test]
fn a_rate_below_a_block_is_kept() {
    for engine in engines() {
        let place = Place::new();
        place.put("f", &noise(96 * KIB, 5));
        let begin = Instant::now();
        let outcomes =
            run_jobs(engine, &limited(bytes(64 * KIB), Side::MayHang), copies(&place, ["f".into()]));
        seconds(begin.elapsed(), 1.5, &format!("{engine:?}, 96 KiB at 64 KiB/s"));
        assert!(matches!(&outcomes[&0], Outcome::Copied(Ok(_))));
    }
}

#[test]
fn operations_are_counted_too() {
    for engine in engines() {
        let calls: Vec<Job> = (0..60).map(|n| Job::Call(Box::new(move || Box::new(n)))).collect();
        let begin = Instant::now();
        run_jobs(engine, &limited(Rates { bytes: None, ops: Some(50) }, Side::MayHang), calls);
        seconds(begin.elapsed(), 1.2, &format!("{engine:?}, 60 calls at 50 a second"));

        // create, write, metadata, fsync, close
        let place = Place::new();
        let names: Vec<String> = (0..10).map(|n| format!("f{n}")).collect();
        names.iter().for_each(|name| place.put(name, b"content"));
        let begin = Instant::now();
        let options = limited(Rates { bytes: None, ops: Some(50) }, Side::MayHang);
        run_jobs(engine, &options, copies(&place, names));
        seconds(begin.elapsed(), 1.0, &format!("{engine:?}, 10 files of 5 operations at 50 a second"));
    }
}

/// Lifts the limits while the copy is under way.
struct Lifting {
    jobs: Vec<(u64, Job)>,
    done: Vec<u64>,
    limits: Arc<Limits>,
    begun: Instant,
    lift: Lift,
}

#[derive(Clone, Copy, PartialEq)]
enum Lift {
    /// After this time, when the engine asks whether to abort: it does so a few times a second.
    After(Duration),
    /// When so many are done.
    Done(usize),
}

/// Nothing here takes as long, unless it does not work.
const TOO_LONG: Duration = Duration::from_secs(20);

impl Feed for Lifting {
    fn next(&mut self) -> Next {
        self.jobs.pop().map_or(Next::End, |(tag, job)| Next::Job(tag, job))
    }

    fn done(&mut self, tag: u64, outcome: Outcome) {
        assert!(matches!(outcome, Outcome::Copied(Ok(_))));
        self.done.push(tag);
        if self.lift == Lift::Done(self.done.len()) {
            self.limits.set(Rates::default());
        }
    }

    fn abort(&self) -> bool {
        let after = match self.lift {
            Lift::After(after) => after,
            Lift::Done(_) => TOO_LONG,
        };
        if self.begun.elapsed() >= after {
            self.limits.set(Rates::default());
        }
        false
    }
}

fn lifted(engine: Engine, jobs: Vec<(u64, Job)>, lift: Lift) -> (Vec<u64>, Duration) {
    let options = limited(bytes(64 * KIB), Side::MayHang);
    let begun = Instant::now();
    let mut feed = Lifting { jobs, done: Vec::new(), limits: options.limits.clone(), begun, lift };
    run(&mut feed, &options, engine).unwrap();
    (feed.done, begun.elapsed())
}

#[test]
fn limits_change_for_what_is_under_way() {
    let after = Duration::from_millis(400);
    for engine in engines() {
        let place = Place::new();
        place.put("large", &noise(16 * MIB, 1));
        let jobs = vec![(7, Job::Copy(Box::new(place.job("large", How::Whole))))];
        let (done, took) = lifted(engine, jobs, Lift::After(after));
        assert_eq!(done, [7]);
        assert!(took >= after && took < TOO_LONG, "{engine:?}: {took:?}; at the old rate it is 256 s");
        assert!(common::read(&place.target_path("large")) == noise(16 * MIB, 1));
    }
}

/// What costs the mirror nothing goes on, and is reported, while a write waits for its turn.
#[test]
fn what_waits_for_the_limits_blocks_nothing_else() {
    for engine in engines() {
        let place = Place::new();
        place.put("large", &noise(16 * MIB, 1));
        let mut jobs = Vec::new();
        for n in 1..=40 {
            place.put(&format!("f{n}"), &noise(300 * KIB, n));
            jobs.push((n, Job::Copy(Box::new(place.job(&format!("f{n}"), How::HashOnly)))));
        }
        // Begun first: the list is taken from its end.
        jobs.push((0, Job::Copy(Box::new(place.job("large", How::Whole)))));
        let (done, took) = lifted(engine, jobs, Lift::Done(40));
        assert_eq!(done.len(), 41);
        assert!(took < TOO_LONG, "{engine:?}: {took:?}");
        assert_eq!(done.last(), Some(&0), "{engine:?}: {done:?}");
    }
}
