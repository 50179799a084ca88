//! All valid sequences of a few operations, from a few starting states, in a fixed order.
//!
//! Nothing is left out as symmetric. `a` and `b` look interchangeable, but a copier that sorts names, and symlinks that
//! point from one to the other, tell them apart.

use super::model::Model;
use super::op::{Name, Op};
use anyhow::Result;
use std::path::Path;

/// The state a sequence starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seed {
    /// An empty directory.
    Empty,
    /// A file `a`, a directory `d` with a file `d/c`.
    Tree,
    /// A file with the names `a` and `b`, a directory `d` with a symlink `d/c`.
    Linked,
}

impl Seed {
    /// All starting states.
    pub const ALL: [Seed; 3] = [Seed::Empty, Seed::Tree, Seed::Linked];

    /// The operations that make it; their stamps start at `FIRST_STAMP`.
    fn ops(self) -> Vec<Op> {
        let [a, b, d, c] = [Name(0), Name(1), Name(2), Name(3)];
        match self {
            Seed::Empty => vec![],
            Seed::Tree => vec![Op::Create(a), Op::Mkdir(d), Op::Create(c)],
            Seed::Linked => vec![Op::Create(a), Op::Link(a, b), Op::Mkdir(d), Op::Symlink(c)],
        }
    }

    /// The state as a model.
    pub fn model(self) -> Model {
        let mut model = Model::default();
        for (i, op) in self.ops().into_iter().enumerate() {
            model.apply(op, FIRST_STAMP + i as u64);
        }
        model
    }

    /// Makes the state in an empty directory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn build_real(self, dir: &Path) -> Result<()> {
        for (i, op) in self.ops().into_iter().enumerate() {
            op.apply_real(dir, FIRST_STAMP + i as u64)?;
        }
        Ok(())
    }
}

/// Stamps of the starting state; those of a sequence are 1, 2, 3 …
const FIRST_STAMP: u64 = 900;

/// Which sequences to visit.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    longest: usize,
    only_longest: bool,
    shard: u64,
    shards: u64,
}

/// How many sequences there are, and how many of them were visited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Per starting state and length: `all[seed][length - 1]`.
    pub all: Vec<(Seed, Vec<u64>)>,
    /// Handed to the visitor: fewer in a shard.
    pub visited: u64,
}

impl Counts {
    /// All sequences of all shards.
    pub fn total(&self) -> u64 {
        self.all.iter().flat_map(|(_, lengths)| lengths).sum()
    }
}

impl Sequences {
    /// Every sequence of 1 to `longest` operations.
    pub fn up_to(longest: usize) -> Self {
        Sequences { longest, only_longest: false, shard: 0, shards: 1 }
    }

    /// Only those of exactly `length` operations. A test that judges after every operation needs no others: every state
    /// has a valid operation, so each shorter sequence is the beginning of one of these.
    pub fn exactly(length: usize) -> Self {
        Sequences { only_longest: true, ..Self::up_to(length) }
    }

    /// Only every `shards`-th sequence, starting with number `shard`: all shards together visit each exactly once, and a
    /// shard is spread over all states and operations.
    ///
    /// # Panics
    /// Unless `shard < shards`.
    #[must_use]
    pub fn shard(self, shard: u64, shards: u64) -> Self {
        assert!(shard < shards, "shard {shard} of {shards}");
        Sequences { shard, shards, ..self }
    }

    /// Visits them, depth first.
    pub fn for_each(&self, mut visit: impl FnMut(Seed, &[Op])) -> Counts {
        let mut counts = Counts::default();
        let mut number = 0;
        for seed in Seed::ALL {
            let mut lengths = vec![0; self.longest];
            let mut ops: Vec<Op> = Vec::new();
            // One frame per operation chosen: the state before it and the operations still to try there.
            let first = seed.model();
            let mut frames = vec![(first.valid_ops().into_iter(), first)];
            while let Some((left, state)) = frames.last_mut() {
                let Some(op) = left.next() else {
                    frames.pop();
                    ops.pop();
                    continue;
                };
                let mut next = state.clone();
                ops.push(op);
                next.apply(op, ops.len() as u64);
                if !self.only_longest || ops.len() == self.longest {
                    lengths[ops.len() - 1] += 1;
                    if number % self.shards == self.shard {
                        counts.visited += 1;
                        visit(seed, &ops);
                    }
                    number += 1;
                }
                if ops.len() < self.longest {
                    frames.push((next.valid_ops().into_iter(), next));
                } else {
                    ops.pop();
                }
            }
            counts.all.push((seed, lengths));
        }
        counts
    }
}

/// Visits every valid sequence of 1 to `longest` operations from every starting state.
pub fn for_each_sequence(longest: usize, visit: impl FnMut(Seed, &[Op])) -> Counts {
    Sequences::up_to(longest).for_each(visit)
}
