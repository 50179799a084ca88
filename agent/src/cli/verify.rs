//! `tidegate verify`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proto::{Generation, Head};

use super::args::VerifyArgs;
use super::open_volume;
use super::recover::engine;
use super::ui::{Ui, bytes, count};
use crate::cycle::Progress;
use crate::error::{Error, Exit, Result};
use crate::lane::{Lane, Ownership, absolute};
use crate::state::StateDir;
use crate::verify::{Compared, Difference, Subject, compare};
use crate::volume::Volume;

/// How often everything is compared again because a writer published meanwhile.
const ROUNDS_MAX: u32 = 3;

/// What was found.
#[derive(serde::Serialize)]
struct Report {
    generation: Generation,
    equal: bool,
    /// How many differences there are; the list is cut at 100,000 per tree.
    count: u64,
    differences: Vec<Difference>,
    files_read: u64,
    bytes_read: u64,
    /// False where a mount keeps no ACLs.
    acls_compared: bool,
    /// True when the writer published again and again: some differences may be its work.
    moved_meanwhile: bool,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// Any [`Error`].
pub fn run(args: &VerifyArgs, ui: &Ui) -> Result<Exit> {
    let started = Instant::now();
    let (source, mirror) = match args.places.as_slice() {
        [source, mirror] => (Some(source), mirror),
        [mirror] => (None, mirror),
        _ => return Err(Error::BadPath { path: args.places.join(" ") }),
    };
    let volume = source.map(|source| open_volume(source)).transpose()?;
    let state = StateDir::open()?;
    let mut lane = Lane::open_reader(&state, &absolute(Path::new(mirror))?, Ownership::Ours)?;
    let engine = engine(args.engine, ui);
    let progress = Arc::new(Progress::default());
    let shown = ui.show(&progress);
    let mut round = 1;
    let (mut report, head) = loop {
        let Some(head) = lane.head.clone() else {
            return Err(Error::LedgerState(format!(
                "{} holds no generation yet: its first sync has not ended",
                lane.ledger.root.path().display()
            )));
        };
        let report = compare_all(&lane, &head, volume.as_ref(), engine, &progress)?;
        if report.equal || !moved(&mut lane, &head)? {
            break (report, head);
        }
        if round == ROUNDS_MAX {
            break (Report { moved_meanwhile: true, ..report }, head);
        }
        round += 1;
    };
    drop(shown);
    report.seconds = started.elapsed().as_secs_f64();
    ui.document(&report);
    say(&report, &head, volume.is_some(), ui);
    Ok(if report.equal { Exit::InSync } else { Exit::Failed })
}

fn compare_all(
    lane: &Lane,
    head: &Head,
    volume: Option<&Volume>,
    engine: transfer::Engine,
    progress: &Progress,
) -> Result<Report> {
    let trees = 1 + u64::from(volume.is_some());
    let totals = &head.totals;
    progress.entries.store(0, Ordering::Relaxed);
    progress.bytes.store(0, Ordering::Relaxed);
    progress.entries_known.store(trees * (totals.files + totals.dirs + totals.others), Ordering::Relaxed);
    progress.bytes_known.store(trees * totals.bytes, Ordering::Relaxed);
    let view = lane.index.view()?;
    let mirror = Subject::mirror(&lane.ledger.root)?;
    let mut acls_compared = mirror.acls;
    let mut all: Compared = compare(&view, &mirror, engine, progress)?;
    if let Some(volume) = volume {
        let subject = Subject::volume(volume, &view)?;
        acls_compared &= subject.acls;
        let more = compare(&view, &subject, engine, progress)?;
        all.differences.extend(more.differences);
        all.count += more.count;
        all.files += more.files;
        all.bytes += more.bytes;
    }
    Ok(Report {
        generation: head.generation,
        equal: all.count == 0,
        count: all.count,
        differences: all.differences,
        files_read: all.files,
        bytes_read: all.bytes,
        acls_compared,
        moved_meanwhile: false,
        seconds: 0.0,
    })
}

/// True when the writer published since `head`, or is about to: what differs may be its work.
fn moved(lane: &mut Lane, head: &Head) -> Result<bool> {
    let now = lane.ledger.head()?;
    if now.as_ref().is_some_and(|now| now.generation > head.generation) {
        lane.head = now;
        lane.catch_up()?;
        return Ok(true);
    }
    lane.ledger.is_sealed(head.generation.next())
}

fn say(report: &Report, head: &Head, with_volume: bool, ui: &Ui) {
    for difference in &report.differences {
        ui.line(difference);
    }
    let listed = report.differences.len() as u64;
    if report.count > listed {
        ui.line(format_args!("… and {} more", count(report.count - listed)));
    }
    let what = if with_volume { "volume and mirror are" } else { "the mirror is" };
    let read = format!(
        "{} files, {} read and hashed in {:.2} s",
        count(report.files_read),
        bytes(report.bytes_read),
        report.seconds
    );
    if report.equal {
        ui.line(format_args!("equal: {what} as generation {} says ({read})", report.generation));
    } else {
        ui.line(format_args!(
            "{} differences from generation {} ({read})",
            count(report.count),
            report.generation
        ));
    }
    if with_volume && report.differences.iter().any(|difference| difference.tree == "volume") {
        ui.line(format_args!(
            "lines that begin with `volume` are what changed there since generation {}; the next sync brings them",
            report.generation
        ));
    }
    if !report.acls_compared {
        ui.line("ACLs were not compared: a mount keeps none (mount option acl)");
    }
    if report.moved_meanwhile {
        ui.remark("the writer published again and again meanwhile: some differences may be its work");
    }
    if head.totals.quarantined > 0 {
        ui.remark(format_args!(
            "{} paths of the volume are in quarantine (tidegate status names them)",
            count(head.totals.quarantined)
        ));
    }
}
