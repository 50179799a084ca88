//! Threads for what blocks, started as they are needed and never more than agreed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::error::EngineError;

/// Runs tasks that each give one message. How many tasks wait is bounded by the window of who puts them in.
pub struct Pool<M: Send + 'static> {
    tasks: Sender<Task<M>>,
    queue: Receiver<Task<M>>,
    done: Sender<std::thread::Result<M>>,
    results: Receiver<std::thread::Result<M>>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
    /// Tasks put in whose message was not taken out.
    out: usize,
    after: Option<AfterTask>,
}

type Task<M> = Box<dyn FnOnce(&mut Scratch) -> M + Send>;
type AfterTask = std::sync::Arc<dyn Fn() + Send + Sync>;

/// Memory that a thread keeps from task to task.
#[derive(Default)]
pub struct Scratch {
    /// Buffers of the plain engine.
    pub buffer: Vec<u8>,
}

impl<M: Send + 'static> Pool<M> {
    /// A pool without threads as yet. `after` is called by the threads after each message.
    pub fn new(threads_max: usize, after: Option<AfterTask>) -> Self {
        let (tasks, queue) = unbounded();
        let (done, results) = unbounded();
        Self {
            tasks,
            queue,
            done,
            results,
            threads: Vec::new(),
            threads_max: threads_max.max(1),
            out: 0,
            after,
        }
    }

    /// Puts in a task.
    ///
    /// # Errors
    /// `Spawn` when there is not a single thread.
    pub fn put(&mut self, task: impl FnOnce(&mut Scratch) -> M + Send + 'static) -> Result<(), EngineError> {
        self.out += 1;
        if self.threads.len() < self.out.min(self.threads_max) {
            match self.spawn() {
                Ok(thread) => self.threads.push(thread),
                Err(error) if self.threads.is_empty() => return Err(EngineError::Spawn(error)),
                Err(_) => self.threads_max = self.threads.len(),
            }
        }
        // The queue lives as long as the pool: this cannot fail.
        let _ = self.tasks.send(Box::new(task));
        Ok(())
    }

    fn spawn(&self) -> std::io::Result<JoinHandle<()>> {
        let (queue, done, after) = (self.queue.clone(), self.done.clone(), self.after.clone());
        std::thread::Builder::new().name("copy".into()).spawn(move || {
            let mut scratch = Scratch::default();
            for task in queue {
                let message = catch_unwind(AssertUnwindSafe(|| task(&mut scratch)));
                if done.send(message).is_err() {
                    return;
                }
                if let Some(after) = &after {
                    after();
                }
            }
        })
    }

    /// The messages there are, without waiting. A task that panicked panics here.
    pub fn take(&mut self) -> Option<M> {
        let message = self.results.try_recv().ok()?;
        Some(self.taken(message))
    }

    /// True when there is a message.
    pub fn has_message(&self) -> bool {
        !self.results.is_empty()
    }

    /// Waits for a message, at most `timeout`.
    pub fn wait(&mut self, timeout: std::time::Duration) -> Option<M> {
        let message = self.results.recv_timeout(timeout).ok()?;
        Some(self.taken(message))
    }

    fn taken(&mut self, message: std::thread::Result<M>) -> M {
        self.out -= 1;
        message.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }
}

impl<M: Send + 'static> Drop for Pool<M> {
    /// Waits for the threads only if nothing is under way: who leaves in the middle of things must not hang here.
    fn drop(&mut self) {
        let (closed, _) = unbounded();
        self.tasks = closed;
        if self.out == 0 {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}
