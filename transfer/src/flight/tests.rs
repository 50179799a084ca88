//! A flight in a simulated world: acts complete in any order, short, failing, while the source changes.

use std::collections::HashMap;

use proptest::prelude::*;
use sys::meta::AclsKept;
use sys::{Errno, FileKind, Stat, SysError, Time};

use super::*;
use crate::error::CopyError;
use crate::hash::{BLOCK, ContentHasher, hash_piece};
use crate::holes::data_runs;

/// More steps than any flight here may need.
const STEPS_MAX: usize = 200_000;

#[derive(Clone, Debug)]
struct Scenario {
    seed: u64,
    size: usize,
    unit: u64,
    slots: usize,
    sparse: bool,
    write: bool,
    sync: bool,
    based: bool,
    leftover: bool,
    /// Changes of the source while it is copied.
    changes: u32,
    /// Which act fails, counted from the first.
    fault: Option<(usize, Errno)>,
    /// Small files come whole with the open.
    small: usize,
    /// The source is mapped: what is stored to a page that is dirty already moves no time.
    mapped: bool,
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let faults = prop_oneof![
        4 => Just(None),
        1 => (0..40usize, prop_oneof![Just(Errno::IO), Just(Errno::NOSPC), Just(Errno::XDEV), Just(Errno::INTR)])
            .prop_map(Some),
    ];
    let world = (any::<u64>(), prop_oneof![0..20_000usize, 900_000..3_500_000usize], 1..5usize, 0..5u32);
    let flags = proptest::array::uniform7(any::<bool>());
    (world, flags, faults, any::<bool>()).prop_map(|((seed, size, slots, changes), flags, fault, fine)| {
        let [sparse, hash_only, sync, based, leftover, loads, mapped] = flags;
        let unit = if fine && !based { 128 << 10 } else { BLOCK };
        let (write, small) = (!hash_only || based, if loads { 65536 } else { 0 });
        Scenario {
            seed,
            size,
            unit,
            slots,
            sparse,
            write,
            sync,
            based,
            leftover,
            changes,
            fault,
            small,
            mapped,
        }
    })
}

struct World {
    random: u64,
    sparse: bool,
    source: Vec<u8>,
    version: i64,
    /// What the source's times say.
    time: i64,
    /// Its pages are dirty and mapped: stores to them move no time.
    dirty: bool,
    mapped: bool,
    /// The source when it was last looked at.
    seen: Vec<u8>,
    changes: u32,
    target: Option<Vec<u8>>,
    open: bool,
    synced: bool,
    base: Vec<u8>,
    buffers: HashMap<usize, Vec<u8>>,
    done: usize,
    fault: Option<(usize, Errno)>,
    faulted: bool,
}

impl World {
    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below.max(1)
    }

    fn stat(&self) -> Stat {
        let size = self.source.len() as u64;
        let time = Time { sec: self.time, nsec: 0 };
        Stat {
            ino: 1,
            dev: (0, 1),
            mount: 0,
            mount_root: false,
            kind: FileKind::File,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            size,
            allocated: if self.sparse { size / 2 } else { size },
            mtime: time,
            ctime: time,
            btime: None,
        }
    }

    fn fill(&mut self, from: usize, to: usize) {
        for at in from..to.min(self.source.len()) {
            // Pages of zeros now and then, so that holes come and go.
            self.source[at] = if (at / 4096 + self.version as usize).is_multiple_of(3) {
                0
            } else {
                (at * 31) as u8 ^ self.version as u8
            };
        }
    }

    fn change(&mut self) {
        self.changes -= 1;
        self.version += 1;
        let len = self.source.len();
        let (at, reach) = (self.random(len), self.random(50_000));
        let kind = self.random(3);
        let is_store = kind == 0 && self.mapped;
        if !(is_store && self.dirty) {
            self.time += 1;
        }
        self.dirty |= is_store;
        match kind {
            0 => self.fill(at, at + reach),
            1 => {
                self.source.resize(len + reach, 0);
                self.fill(len, len + reach);
            }
            _ => self.source.truncate(at),
        }
    }

    /// Some of `len`, sometimes all.
    fn short(&mut self, len: usize) -> usize {
        if self.random(3) == 0 { 1 + self.random(len) } else { len }
    }

    fn perform(&mut self, act: Act) -> Did {
        self.done += 1;
        let failing = match self.fault {
            Some((when, errno)) if when <= self.done && !self.faulted => {
                Some(SysError::new("be", b"", errno))
            }
            _ => None,
        };
        // Hashing cannot fail: the fault waits for the next act.
        if let (Some(error), false) = (failing, matches!(act, Act::Hash { .. })) {
            self.faulted = true;
            return match act {
                Act::Open => Did::Open(Err(CopyError::Source(error))),
                Act::Clean => Did::Clean(Err(error)),
                Act::Create { .. } => Did::Create(Err(error)),
                Act::Clear => Did::Clear(Err(error)),
                Act::OpenBase => Did::OpenBase(Err(error)),
                Act::CopyRange { .. } => Did::CopyRange(Err(error)),
                Act::NextData { .. } => Did::NextData(Err(error)),
                Act::Read { slot, .. } => Did::Read(slot, Err(error)),
                Act::Write { slot, .. } => Did::Write(slot, Err(error)),
                Act::Truncate { .. } => Did::Truncate(Err(error)),
                Act::Look { .. } => Did::Look(Err(error)),
                Act::Dress { .. } => Did::Dress(Err(error)),
                Act::Sync => Did::Sync(Err(error)),
                Act::Close => {
                    self.open = false;
                    Did::Close(Err(error))
                }
                Act::Unlink => Did::Unlink(Err(error)),
                Act::Hash { .. } => unreachable!(),
            };
        }
        self.succeed(act)
    }

    fn succeed(&mut self, act: Act) -> Did {
        match act {
            Act::Create { .. } if self.target.is_some() => {
                Did::Create(Err(SysError::new("create", b"", Errno::EXIST)))
            }
            Act::Create { .. } => {
                self.target = Some(Vec::new());
                self.open = true;
                Did::Create(Ok(()))
            }
            Act::Clear | Act::Unlink => {
                assert!(!self.open, "removed while open");
                self.target = None;
                if act == Act::Clear { Did::Clear(Ok(())) } else { Did::Unlink(Ok(())) }
            }
            Act::Clean => {
                self.dirty = false;
                Did::Clean(Ok(()))
            }
            Act::OpenBase => Did::OpenBase(Ok(())),
            Act::CopyRange { offset, len } => {
                let offset = offset as usize;
                let n = self.short(len as usize).min(self.base.len().saturating_sub(offset));
                let bytes = self.base[offset..offset + n].to_vec();
                self.put(offset, &bytes);
                Did::CopyRange(Ok(n as u64))
            }
            Act::NextData { offset, size } => {
                let size = (size as usize).min(self.source.len());
                let from = (offset as usize).min(size);
                let run = data_runs(&self.source[from..size]).into_iter().next();
                Did::NextData(Ok(run.map(|run| ((from + run.start) as u64, (from + run.end) as u64))))
            }
            Act::Read { slot, at, len, offset, block_len } => {
                let from = (offset as usize).min(self.source.len());
                let n = self.short(len).min(self.source.len() - from);
                let buffer = self.buffers.entry(slot).or_default();
                if at == 0 {
                    *buffer = vec![0xee; block_len];
                }
                buffer[at..at + n].copy_from_slice(&self.source[from..from + n]);
                Did::Read(slot, Ok(n))
            }
            Act::Hash { slot, block } => {
                let buffer = self.buffers.entry(slot).or_default();
                buffer.resize(block.len, 0xdd);
                buffer[block.filled.unwrap_or(0)..block.len].fill(0);
                Did::Hash(slot, hashed(block, &buffer[..block.len]))
            }
            Act::Write { slot, at, len, offset } => {
                let n = self.short(len);
                let bytes = self.buffers[&slot][at..at + n].to_vec();
                self.put(offset as usize, &bytes);
                Did::Write(slot, Ok(n))
            }
            Act::Truncate { size } => {
                self.target.as_mut().unwrap().resize(size as usize, 0);
                Did::Truncate(Ok(()))
            }
            Act::Look { .. } => {
                self.seen = self.source.clone();
                Did::Look(Ok(self.stat()))
            }
            Act::Dress { .. } => Did::Dress(Ok(AclsKept::All)),
            Act::Sync => {
                self.synced = true;
                Did::Sync(Ok(()))
            }
            Act::Close => {
                assert!(self.open, "closed twice");
                self.open = false;
                Did::Close(Ok(()))
            }
            Act::Open => unreachable!("done by the test itself"),
        }
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(self.open, "written after close");
        let target = self.target.as_mut().unwrap();
        target.resize(target.len().max(offset + bytes.len()), 0);
        target[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn open(&mut self, small: usize) -> Did {
        let stat = self.stat();
        let mut loaded = None;
        if self.source.len() <= small {
            // Between the look and the read, and between that and the cleaning.
            if self.changes > 0 && self.random(4) == 0 {
                self.change();
            }
            self.dirty = false;
            let mut bytes = self.source.clone();
            bytes.resize(stat.size as usize, 0);
            let block = Block {
                offset: 0,
                len: bytes.len(),
                filled: Some(bytes.len()),
                place: crate::hash::Place::Only,
                sparse: self.sparse,
            };
            let hashed = hashed(block, &bytes);
            self.buffers.insert(0, bytes.clone());
            if self.changes > 0 && self.random(4) == 0 {
                self.change();
            }
            self.seen = self.source.clone();
            loaded = Some(Loaded { hashed, after: self.stat() });
        }
        Did::Open(Ok(Opened { stat, loaded }))
    }
}

fn hashed(block: Block, bytes: &[u8]) -> Hashed {
    let runs = match (block.filled, block.sparse) {
        (None, _) => Vec::new(),
        (_, true) => data_runs(bytes).into_iter().map(|run| (run.start, run.len())).collect(),
        (_, false) => vec![(0, bytes.len())],
    };
    Hashed { value: hash_piece(block.offset, bytes, block.place), runs }
}

fn content_hash(bytes: &[u8]) -> crate::ContentHash {
    let mut hasher = ContentHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Runs a scenario to its end: the world, how it ended, and whether the source changed at all.
fn fly(scenario: &Scenario) -> (World, Result<Landed, CopyError>) {
    let mut world = World {
        random: scenario.seed | 1,
        sparse: scenario.sparse,
        source: vec![0; scenario.size],
        version: 1,
        time: 1,
        dirty: true,
        mapped: scenario.mapped,
        seen: Vec::new(),
        changes: scenario.changes,
        target: scenario.leftover.then(|| b"leftover".to_vec()),
        open: false,
        synced: false,
        base: Vec::new(),
        buffers: HashMap::new(),
        done: 0,
        fault: scenario.fault,
        faulted: false,
    };
    world.fill(0, scenario.size);
    world.base = world.source.clone();
    let reach = world.random(scenario.size + 1);
    world.version = 2;
    world.fill(reach, reach + 30_000);
    let base = scenario
        .based
        .then(|| Base { size: world.base.len() as u64, blocks: content_hash(&world.base).blocks.into() });
    let mut flight = Flight::new(Plan {
        write: scenario.write,
        base,
        replace_leftover: true,
        sync: scenario.sync,
        clean: scenario.mapped,
        unit: scenario.unit,
        slots: scenario.slots,
        size_limit: 1 << 40,
    });
    let mut under_way: Vec<Act> = Vec::new();
    for _ in 0..STEPS_MAX {
        if world.changes > 0 && world.random(12) == 0 {
            world.change();
        }
        let room = world.random(3) > 0;
        let mut idle = false;
        match flight.poll(room) {
            Poll::Act(act) => under_way.push(act),
            Poll::NeedsRoom => assert!(!room),
            Poll::Wait => idle = true,
            Poll::Over => {
                assert!(under_way.is_empty(), "over with {under_way:?} under way");
                return (world, flight.outcome().expect("over"));
            }
        }
        assert!(!idle || !under_way.is_empty(), "waits for nothing");
        if !under_way.is_empty() && (idle || world.random(3) == 0) {
            let at = world.random(under_way.len());
            let did = match under_way.swap_remove(at) {
                Act::Open if scenario.fault.is_none_or(|(when, _)| when > 0) => world.open(scenario.small),
                act => world.perform(act),
            };
            flight.did(did);
        }
    }
    panic!("no end in sight: {flight:?}");
}

fn check(scenario: &Scenario) {
    let (world, result) = fly(scenario);
    assert!(!world.open, "left open");
    match result {
        Ok(landed) => {
            let bytes = match (&world.target, scenario.write) {
                (Some(target), true) => target,
                (None, true) => panic!("no target"),
                (_, false) => &world.seen,
            };
            if scenario.write || !landed.changed {
                assert_eq!(landed.size, bytes.len() as u64);
                assert!(landed.hash == content_hash(bytes), "the hash is not that of the target");
            }
            if !landed.changed {
                assert!(*bytes == world.seen, "not what the source was when it was looked at");
            }
            assert!(!scenario.write || world.synced == scenario.sync);
            assert!(!landed.changed || scenario.changes > 0);
            // Survivable faults are those that only mean "send it instead" and the call that was interrupted.
            assert!(!world.faulted || matches!(scenario.fault, Some((_, Errno::XDEV | Errno::INTR))));
        }
        Err(CopyError::Source(_) | CopyError::Replaced) => {
            assert!(world.faulted);
            let created = world.target.as_deref().is_some_and(|target| target != b"leftover");
            assert!(!created, "half a file is left");
        }
        Err(CopyError::Target(_)) => assert!(world.faulted),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn content_and_hash_agree_whatever_happens(scenario in scenarios()) {
        check(&scenario);
    }
}

/// The base is worth its while: with one it sends less.
#[test]
fn a_base_saves_sending() {
    let scenario = Scenario {
        seed: 7,
        size: 3_400_000,
        unit: BLOCK,
        slots: 3,
        sparse: false,
        write: true,
        sync: true,
        based: true,
        leftover: true,
        changes: 0,
        fault: None,
        small: 0,
        mapped: false,
    };
    let (_, landed) = fly(&scenario);
    assert!(landed.unwrap().sent <= 2 * BLOCK);
    let (_, landed) = fly(&Scenario { based: false, ..scenario });
    assert_eq!(landed.unwrap().sent, 3_400_000);
}
