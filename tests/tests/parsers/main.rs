//! What others wrote is read without harm: the journal's bytes, the kernel's events, the words on the control socket. No bytes
//! make a reader panic, go on for ever, or allocate without bound; and what is sound is read as it was meant.
//!
//! A few thousand cases each. `TIDEGATE_CASES=1000000 cargo test --release -p tidegate-tests --test parsers -- --nocapture` is the
//! long run; `TIDEGATE_CASE=N` runs the one case that a failure names. (The configuration's reader: `--test config`.)
//!
//! Fails on a weakened build: leave the comparison of a record's length with what is left out of `sys::fanotify`'s parser, or
//! the limit out of `proto::codec`; let `understand` take an answer without its line feed.

#![forbid(unsafe_code)]

mod control;
mod events;
mod journal;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use harness::trees::Rng;

/// Cases of each reader, unless `TIDEGATE_CASES` says otherwise.
const CASES: u64 = 4000;

/// Bytes that a reader may hold at once for an input of so many: some that it takes whatever comes, and so many times the input.
struct Bound {
    always: u64,
    times: u64,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Makes an input for each case and lets `judge` read it; counts what that allocates.
fn run<T>(name: &str, bound: Bound, make: impl Fn(&mut Rng) -> (Vec<u8>, T), judge: impl Fn(&[u8], T)) {
    let cases = match number("TIDEGATE_CASE") {
        Some(one) => one..one + 1,
        None => 0..number("TIDEGATE_CASES").unwrap_or(CASES),
    };
    let (begun, count) = (Instant::now(), cases.end - cases.start);
    let (mut most, mut bytes) = (0, 0);
    for case in cases {
        let mut rng = Rng::new(case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (input, meant) = make(&mut rng);
        let mut outcome = Ok(());
        let used = allocation_counter::measure(|| {
            outcome = catch_unwind(AssertUnwindSafe(|| judge(&input, meant)));
        });
        if let Err(panic) = outcome {
            eprintln!("{name}: case {case} (TIDEGATE_CASE={case} runs it alone): {input:02x?}");
            resume_unwind(panic);
        }
        let limit = bound.always + bound.times * input.len() as u64;
        assert!(
            used.bytes_max <= limit,
            "{name}: case {case} held {} bytes for an input of {}, where {limit} may be",
            used.bytes_max,
            input.len()
        );
        most = most.max(used.bytes_max);
        bytes += input.len() as u64;
    }
    eprintln!(
        "{name}: {count} cases in {:.1} s, {} bytes each, at most {most} bytes held",
        begun.elapsed().as_secs_f64(),
        bytes / count.max(1)
    );
}
