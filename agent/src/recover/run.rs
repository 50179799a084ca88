//! One recovery from end to end: rounds until the fresh tree is exactly one generation, then the swap.
//!
//! The writer may publish while we read. What changed under us shows as a file that is gone or has another hash;
//! then the lane is caught up, what was proven and is still right is kept, and the rest is read again. A tree
//! that is swapped in agrees with one manifest in every name, whatever the mirror did meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Cut, Entry, Generation, RelPath, Totals};
use sys::Dir;
use transfer::Durability;

use super::dress;
use super::fill::{Around, Filled, SpecialBits, fill};
use super::links::{LinkKey, link_key};
use super::mirror::Root;
use super::place::Place;
use super::staging::Staging;
use super::tree::Tree;
use crate::cycle::{Progress, now};
use crate::error::{Error, Result};
use crate::index::View;
use crate::lane::Lane;

/// A writer that changes what we read faster than we can read it five times over needs a pause by hand.
const ROUNDS_MAX: u32 = 5;
/// How long a generation that is being published may take until HEAD names it.
const PUBLISH_MAX: Duration = Duration::from_secs(60);
/// How often HEAD is read while waiting for that: another host's writes send no event.
const HEAD_POLL: Duration = Duration::from_millis(200);

/// What a user may set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// setuid and setgid bits of regular files.
    pub bits: SpecialBits,
    /// Copy engine.
    pub engine: transfer::Engine,
    /// Files in flight.
    pub in_flight: usize,
}

/// What a recovery did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Where it went, as the user named it.
    pub target: String,
    /// The generation that the target holds now.
    pub generation: Generation,
    /// How that relates to the volume.
    pub cut: Cut,
    /// Seconds since it was sealed, by the wall clocks of both hosts.
    pub age_seconds: i64,
    /// Sums over it.
    pub totals: Totals,
    /// Bytes read from the mirror and compared with their hashes.
    pub bytes_read: u64,
    /// Rounds: more than one when the mirror moved on meanwhile.
    pub rounds: u32,
    /// Where the old content of the target is.
    pub backup: Option<String>,
    /// Backups of earlier swaps that had not been ended.
    pub earlier_backups: Vec<String>,
    /// Files whose setuid or setgid bit was taken off.
    pub special_bits_stripped: u64,
    /// Inodes whose ACLs the target's file system refused.
    pub acls_lost: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Fills the target with the last generation of the lane and swaps it in.
///
/// # Errors
/// Any [`Error`]: the target is as it was, and nothing is left beside it.
pub fn recover(lane: &mut Lane, place: Place, options: &Options, progress: &Progress) -> Result<Report> {
    let started = Instant::now();
    let staging = place.begin()?;
    match rounds(lane, &staging, options, progress) {
        Ok((report, tree)) => {
            let swapped = staging.swap(&tree);
            match swapped {
                Ok(backup) => {
                    let earlier_backups = staging.finished.clone();
                    staging.end();
                    let seconds = started.elapsed().as_secs_f64();
                    Ok(Report { backup, earlier_backups, seconds, ..report })
                }
                Err(error) => {
                    staging.abandon();
                    Err(error)
                }
            }
        }
        Err(error) => {
            staging.abandon();
            Err(error)
        }
    }
}

/// Fills trees until one is whole; returns its name.
fn rounds(
    lane: &mut Lane,
    staging: &Staging,
    options: &Options,
    progress: &Progress,
) -> Result<(Report, Vec<u8>)> {
    let mut earlier: Option<(Vec<u8>, Earlier)> = None;
    let mut bytes_read = 0;
    for round in 1..=ROUNDS_MAX {
        let Some(head) = lane.head.clone() else {
            return Err(Error::LedgerState(format!(
                "{} holds no generation yet: its first sync has not ended",
                lane.ledger.root.path().display()
            )));
        };
        let view = lane.index.view()?;
        count(progress, &head.totals);
        let name = format!("fill-{round}").into_bytes();
        let fresh = staging.tree(&name)?;
        let is_network = is_network(staging.place());
        let around = Around {
            view: &view,
            root: Root::of(&lane.ledger.root),
            fresh: fresh.clone(),
            place: staging.place(),
            bits: options.bits,
            durability: if is_network { Durability::PerFile } else { Durability::Deferred },
            progress,
        };
        let engine_options = transfer::Options {
            in_flight: options.in_flight,
            source: side(lane.ledger.root.pinned().kind().may_hang()),
            target: side(is_network),
            ..transfer::Options::default()
        };
        let (old, reuse) = earlier.take().unzip();
        let filled = fill(&around, reuse, &engine_options, options.engine)?;
        bytes_read += filled.bytes_read;
        if let Some(old) = old {
            staging.remove(&old)?;
        }
        if filled.failed == 0 {
            let acls_lost = filled.acls_lost + dress::directories(&view, &fresh, staging.place())?;
            let report = Report {
                target: staging.place().shown().to_owned(),
                generation: head.generation,
                cut: head.cut,
                age_seconds: (now().sec - head.sealed.sec).max(0),
                totals: head.totals,
                bytes_read,
                rounds: round,
                backup: None,
                earlier_backups: Vec::new(),
                special_bits_stripped: filled.stripped,
                acls_lost,
                seconds: 0.0,
            };
            return Ok((report, name));
        }
        if !moved_on(lane, head.generation)? {
            return Err(not_proven(lane, head.generation, &filled));
        }
        earlier = Some((name, Earlier::new(view, fresh)));
    }
    Err(Error::NotProven(format!(
        "the mirror moved on {ROUNDS_MAX} times while it was read; the target is as it was. Run the command again \
         when the writer is quieter, or stop the writer"
    )))
}

fn count(progress: &Progress, totals: &Totals) {
    use std::sync::atomic::Ordering::Relaxed;
    progress.entries.store(0, Relaxed);
    progress.bytes.store(0, Relaxed);
    progress.entries_known.store(totals.files + totals.dirs + totals.others, Relaxed);
    progress.bytes_known.store(totals.bytes, Relaxed);
}

/// Brings the lane to the generation after `from`, if there is one or one is being published. False when nothing
/// moved: what is wrong with the mirror is no writer's work.
fn moved_on(lane: &mut Lane, from: Generation) -> Result<bool> {
    let until = Instant::now() + PUBLISH_MAX;
    loop {
        let head = lane.ledger.head()?;
        if head.as_ref().is_some_and(|head| head.generation > from) {
            lane.head = head;
            lane.catch_up()?;
            return Ok(true);
        }
        if !lane.ledger.is_sealed(from.next())? {
            return Ok(false);
        }
        if Instant::now() >= until {
            let newest = lane.ledger.newest_epoch()?;
            let (host, epoch) = newest.map(|e| (e.host, e.epoch)).unwrap_or_default();
            return Err(Error::Unpublished { generation: from.next(), host, epoch });
        }
        std::thread::park_timeout(HEAD_POLL);
    }
}

fn not_proven(lane: &Lane, generation: Generation, filled: &Filled) -> Error {
    let mut text =
        format!("the mirror does not hold what generation {generation} says; the target is as it was");
    for (path, why) in &filled.failures {
        text.push_str(&format!("\n  {path} {why}"));
    }
    let more = filled.failed.saturating_sub(filled.failures.len() as u64);
    if more > 0 {
        text.push_str(&format!("\n  … and {more} more"));
    }
    let mirror = lane.ledger.root.path();
    text.push_str(&format!(
        "\nSomebody changed the mirror by hand, or the storage lost it. `tidegate verify {0}` lists everything that \
         differs; `tidegate sync SRC {0} --full` makes the mirror anew",
        mirror.display()
    ));
    Error::NotProven(text)
}

fn side(may_hang: bool) -> transfer::Side {
    if may_hang { transfer::Side::MayHang } else { transfer::Side::Local }
}

/// True where a syncfs asks nobody: each file is fsynced then.
fn is_network(place: &Place) -> bool {
    let mounts = sys::mount::read_mountinfo().unwrap_or_default();
    let found = sys::mount::covering(&mounts, place.path());
    found.is_some_and(|mount| fsprobe::FsKind::of(&mount.fstype).may_hang())
}

/// The tree of a round that came out incomplete: every file in it is proven.
pub struct Earlier {
    view: View,
    tree: Tree,
    /// Inodes with several names that were taken once: a second name must not become a link by accident.
    taken: HashSet<LinkKey>,
}

impl Earlier {
    fn new(view: View, tree: Arc<Dir>) -> Self {
        Self { view, tree: Tree::new(tree), taken: HashSet::new() }
    }

    /// Moves a file over, if it is what `entry` says. False: it has to be read.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn take(&mut self, path: &RelPath, name: &[u8], entry: &Entry, to: &Dir) -> Result<bool> {
        let Some(old) = self.view.entry(path)? else { return Ok(false) };
        if !old.same_in_mirror(entry) {
            return Ok(false);
        }
        if link_key(&old).is_some_and(|key| !self.taken.insert(key)) {
            return Ok(false);
        }
        let Some((above, _)) = path.split_last() else { return Ok(false) };
        // It may be one of those that could not be made.
        Ok(self.tree.dir(&above).and_then(|dir| dir.rename(name, to, name)).is_ok())
    }
}
