//! Several threads on one growing pile of work: a walk whose directories bring more directories.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

struct Shared<T> {
    tasks: Vec<T>,
    /// Workers that have something to do.
    busy: usize,
    failed: Option<Error>,
}

/// Carries out `first` and all tasks that come of it on `threads` threads, and returns the workers.
///
/// Each worker goes on with what it found last, so that what is open stays near the depth of the tree; it gives of
/// its oldest tasks, those with most below them, only when somebody waits.
///
/// # Errors
/// The first of `step`; the others stop at their next task.
pub fn crew<T: Send, W: Send>(
    first: T,
    threads: usize,
    worker: impl Fn() -> W + Sync,
    step: impl Fn(&mut W, T, &mut Vec<T>) -> Result<()> + Sync,
) -> Result<Vec<W>> {
    let threads = threads.max(1);
    let shared = Mutex::new(Shared { tasks: vec![first], busy: threads, failed: None });
    let more = Condvar::new();
    let waiting = AtomicUsize::new(0);
    let lock = || -> MutexGuard<'_, Shared<T>> { shared.lock().unwrap_or_else(PoisonError::into_inner) };
    let work = || {
        let mut me = worker();
        let mut own: Vec<T> = Vec::new();
        loop {
            if own.is_empty() {
                let mut guard = lock();
                guard.busy -= 1;
                waiting.fetch_add(1, Ordering::Relaxed);
                while guard.tasks.is_empty() && guard.busy > 0 && guard.failed.is_none() {
                    guard = more.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                waiting.fetch_sub(1, Ordering::Relaxed);
                match guard.tasks.pop() {
                    Some(task) if guard.failed.is_none() => own.push(task),
                    _ => {
                        // Nobody has anything left: the others may go too.
                        more.notify_all();
                        return me;
                    }
                }
                guard.busy += 1;
            }
            let Some(task) = own.pop() else { continue };
            if let Err(error) = step(&mut me, task, &mut own) {
                own.clear();
                lock().failed.get_or_insert(error);
            } else if own.len() > 1 && waiting.load(Ordering::Relaxed) > 0 {
                let given = own.drain(..own.len() / 2);
                lock().tasks.extend(given);
                more.notify_all();
            }
        }
    };
    let workers = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut workers = vec![work()];
        for helper in helpers {
            workers.push(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        workers
    });
    match shared.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
        Some(error) => Err(error),
        None => Ok(workers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once() {
        for threads in [1, 2, 7] {
            // A task is a number that brings all smaller powers of two below it: 2^n tasks in all.
            let workers = crew(
                12u32,
                threads,
                || 0u64,
                |count, task, more| {
                    *count += 1;
                    more.extend(0..task);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(workers.len(), threads);
            assert_eq!(workers.iter().sum::<u64>(), 1 << 12, "{threads} threads");
        }
    }

    /// The story: with what is given away lost, the test above passed, for its tasks were over before anybody waited.
    #[test]
    fn what_is_given_to_others_is_done() {
        let (workers, helped, made) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(1));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let done = crew(
            (),
            2,
            || (workers.fetch_add(1, Ordering::Relaxed), 0),
            |(_, count), (), more| {
                // There is more to do until each of the two has done something.
                if *count == 0 {
                    helped.fetch_add(1, Ordering::Relaxed);
                }
                *count += 1;
                if helped.load(Ordering::Relaxed) < 2 && std::time::Instant::now() < deadline {
                    made.fetch_add(2, Ordering::Relaxed);
                    more.extend([(), ()]);
                    std::thread::yield_now();
                }
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(helped.into_inner(), 2, "nothing was given away");
        assert_eq!(done.iter().map(|(_, count)| count).sum::<usize>(), made.into_inner());
    }

    #[test]
    fn the_first_error_ends_it() {
        let result = crew(
            0u64,
            3,
            || (),
            |(), task, more| {
                if task == 100 {
                    return Err(Error::LedgerState("enough".to_owned()));
                }
                // Without the error this would never end.
                more.extend([task + 1, task + 1]);
                Ok(())
            },
        );
        assert!(matches!(result, Err(Error::LedgerState(_))));
    }
}
