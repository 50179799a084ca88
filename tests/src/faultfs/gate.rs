//! The one way every request takes: counted, held back, numbered, crashed, failed, or carried out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::Errno;

use super::image::Ino;
use super::protocol::{Op, When};
use super::world::World;

/// Longest time a request is stalled; a test that forgets to release must not hang for ever.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// The server's state, shared by FUSE workers and control connections.
#[derive(Debug)]
pub struct Gate {
    world: Mutex<World>,
    /// Signalled when something stalls, is released, dies or boots.
    changed: Condvar,
}

/// What a request is about.
pub enum Target<'a> {
    /// An object.
    Object(Ino),
    /// A name in a directory.
    Entry(Ino, &'a [u8]),
    /// Two names.
    Move((Ino, &'a [u8]), (Ino, &'a [u8])),
    /// An object and a name for it.
    Link(Ino, (Ino, &'a [u8])),
    /// Two objects, the second one changed.
    Copy(Ino, Ino),
}

/// A request, as counted and traced.
pub struct Call<'a> {
    /// Kind.
    pub op: Op,
    /// About what.
    pub target: Target<'a>,
    /// Where.
    pub offset: Option<u64>,
    /// How many bytes.
    pub len: Option<u64>,
}

/// How a request that is carried out has to differ from what was asked.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bound on the bytes moved.
    pub limit: u64,
    /// Spoil the bytes read.
    pub corrupt: bool,
    /// Make nothing durable.
    pub lie: bool,
}

impl Gate {
    /// A gate before this world.
    pub fn new(world: World) -> Gate {
        Gate { world: Mutex::new(world), changed: Condvar::new() }
    }

    /// The state. A poisoned lock means that a worker panicked, which aborts the process anyway.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who wait that the state changed.
    pub fn announce(&self) {
        self.changed.notify_all();
    }

    /// Waits until so many requests are stalled; false when time ran out.
    pub fn await_stalled(&self, count: u32, timeout: Duration) -> bool {
        let waiting = |world: &mut World| world.stalled < count;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Takes one request through all faults and carries it out.
    pub fn pass<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut World, Shape) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut world = self.lock();
        world.alive()?;
        let boot = world.boot;
        let paths = if world.faults.wants_paths(call.op) { paths(&world, &call.target) } else { Vec::new() };
        let verdict = world.faults.meet(call.op, &paths);
        if let Some(millis) = verdict.delay {
            drop(world);
            std::thread::sleep(Duration::from_millis(millis));
            world = self.lock();
        }
        if verdict.stall {
            world = self.stall(world);
        }
        if world.boot != boot {
            return Err(Errno::ENOTCONN);
        }
        world.alive()?;

        let mut limit = verdict.short.map_or(u64::MAX, u64::from);
        let mut crash = None;
        if call.op.mutates() {
            world.disk.begin();
            crash = world.faults.number(call.op, paths, call.offset, call.len);
        }
        let halves = matches!(call.op, Op::Write | Op::CopyFileRange);
        let result = match (crash, verdict.fail) {
            (Some(When::Before), _) => Err(Errno::ENOTCONN),
            (Some(When::Torn), _) if !halves => Err(Errno::ENOTCONN),
            (_, Some(errno)) => {
                if let (Op::Fsync, Target::Object(ino)) = (call.op, &call.target) {
                    world.disk.fsync_failed(*ino);
                }
                Err(Errno::from_i32(errno))
            }
            (crash, None) => {
                if crash == Some(When::Torn) {
                    limit = limit.min(call.len.unwrap_or(0) / 2);
                }
                let (corrupt, lie) = (verdict.corrupt, verdict.lie);
                let shape = Shape { limit, corrupt, lie };
                act(&mut world, shape)
            }
        };
        let result = if crash.is_some() {
            world.dead = true;
            self.announce();
            Err(Errno::ENOTCONN)
        } else {
            result
        };
        if call.op.mutates() {
            world.faults.ended(result.as_ref().err().map_or(0, |e| e.code()));
        }
        result
    }

    fn stall<'a>(&'a self, mut world: MutexGuard<'a, World>) -> MutexGuard<'a, World> {
        let (boot, releases) = (world.boot, world.releases);
        world.stalled += 1;
        self.announce();
        let held = |world: &mut World| !world.dead && world.boot == boot && world.releases == releases;
        let waited = self.changed.wait_timeout_while(world, STALL_MAX, held);
        let (mut world, _) = waited.unwrap_or_else(PoisonError::into_inner);
        world.stalled -= 1;
        world
    }
}

fn paths(world: &World, target: &Target) -> Vec<String> {
    match *target {
        Target::Object(ino) => vec![world.path(ino)],
        Target::Entry(parent, name) => vec![world.path_in(parent, name)],
        Target::Move(from, to) => vec![world.path_in(from.0, from.1), world.path_in(to.0, to.1)],
        Target::Link(ino, to) => vec![world.path(ino), world.path_in(to.0, to.1)],
        Target::Copy(from, to) => vec![world.path(from), world.path(to)],
    }
}
