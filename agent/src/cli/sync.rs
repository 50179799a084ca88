//! `tidegate sync`.

use std::sync::Arc;
use std::time::Duration;

use proto::Cut;

use super::args::{DurabilityArg, EngineArg, SyncArgs};
use super::open_volume;
use super::ui::{Ui, bytes, count};
use crate::capture::Scan;
use crate::config::Excludes;
use crate::cycle::{
    Cycle, CycleOptions, CycleReport, DeletionLimit, Durability, Progress, Scope, Silent, now,
};
use crate::error::{Error, Exit, Result};
use crate::lane::{Lane, Ownership, absolute};
use crate::state::StateDir;
use crate::volume::Volume;

/// Cycles that `--once` adds while the volume keeps changing under it.
const CYCLES_FOR_EXACT: usize = 3;

/// Runs the command.
///
/// # Errors
/// Any [`Error`].
pub fn run(args: &SyncArgs, ui: &Ui) -> Result<Exit> {
    let volume = open_volume(&args.source)?;
    let mirror = absolute(&args.mirror)?;
    apart(&volume.path, &mirror)?;
    let state = StateDir::open()?;
    let ownership = if args.take_over { Ownership::TakeOver } else { Ownership::Ours };
    let (mut lane, tenure) = Lane::open_writer(&state, &mirror, ownership)?;
    let mut options = options(args, lane.ledger.root.pinned().kind().may_hang(), ui);
    let progress = Arc::new(Progress::default());
    let mut scanner = sys::procfs::Scanner::default();
    loop {
        let shown = ui.show(&progress);
        let mut report = None;
        for _ in 0..CYCLES_FOR_EXACT {
            let silent = open_now(&mut scanner, &volume);
            let mut cycle = Cycle {
                lane: &mut lane,
                tenure: &tenure,
                volume: &volume,
                options: &options,
                progress: &progress,
                scope: Scope::Whole,
                silent: &silent,
                watch: None,
            };
            let this = cycle.run()?;
            options.full = false;
            let settled = !this.published || this.cut == Cut::Exact;
            report = Some(CycleReport::joined(report, this));
            if settled {
                break;
            }
        }
        drop(shown);
        let Some(report) = report else { continue };
        say(&report, ui);
        // The generation stands; what it took out of the mirror is removed behind it.
        lane.ledger.empty_trash(&tenure)?;
        if args.once {
            return Ok(exit(&report));
        }
        std::thread::sleep(Duration::from_secs(args.interval));
    }
}

/// What processes have mapped now. Nobody knows how it was read before, so all of it is compared. Without privilege other
/// users' processes are not seen.
fn open_now(scanner: &mut sys::procfs::Scanner, volume: &Volume) -> Silent {
    let begun = now();
    match Scan::now(scanner) {
        Ok(scan) => {
            let mapped = scan.of(volume.stat.dev).mapped;
            Silent { begun, doubted: mapped.clone(), mapped, ..Silent::nothing() }
        }
        Err(_) => Silent { begun, untold: true, ..Silent::nothing() },
    }
}

fn options(args: &SyncArgs, may_hang: bool, ui: &Ui) -> CycleOptions {
    let engine = match args.engine {
        EngineArg::Plain => transfer::Engine::Plain,
        EngineArg::Ring => transfer::Engine::Ring,
        EngineArg::Auto => {
            let target = if may_hang { transfer::Side::MayHang } else { transfer::Side::Local };
            let options = transfer::Options { target, ..transfer::Options::default() };
            let (engine, why_not) = transfer::Engine::pick_for(&options);
            if let Some(why_not) = why_not {
                ui.remark(format_args!("copying without io_uring: {why_not}"));
            }
            engine
        }
    };
    let limit = if args.approve_deletions {
        DeletionLimit { entries: u64::MAX, percent: 100, empty_volume: true, already: 0 }
    } else {
        DeletionLimit {
            entries: args.max_delete,
            percent: args.max_delete_percent,
            empty_volume: false,
            already: 0,
        }
    };
    CycleOptions {
        durability: match args.durability {
            DurabilityArg::Fsync => Durability::Fsync,
            DurabilityArg::Replicated => Durability::Replicated,
        },
        limit,
        engine,
        in_flight: args.in_flight.into(),
        excludes: Excludes::default(),
        walkers: std::thread::available_parallelism().map_or(2, |n| n.get().min(8)),
        limits: Arc::default(),
        full: args.full,
    }
}

/// A volume that holds its own mirror would be copied into itself for ever.
///
/// # Errors
/// [`Error::Volume`] when one lies inside the other.
pub fn apart(volume: &std::path::Path, mirror: &std::path::Path) -> Result<()> {
    let volume = std::fs::canonicalize(volume).unwrap_or_else(|_| volume.to_owned());
    let parent = mirror.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
    let mirror = match (parent, mirror.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => mirror.to_owned(),
    };
    if mirror.starts_with(&volume) || volume.starts_with(&mirror) {
        return Err(Error::Volume {
            path: volume.display().to_string(),
            why: format!("volume and mirror ({}) must not lie inside each other", mirror.display()),
        });
    }
    Ok(())
}

fn exit(report: &CycleReport) -> Exit {
    if report.halted.is_some() {
        Exit::Halted
    } else if report.totals.quarantined > 0 {
        Exit::Quarantine
    } else {
        Exit::InSync
    }
}

fn say(report: &CycleReport, ui: &Ui) {
    ui.document(report);
    let seconds = &report.seconds;
    if report.published {
        ui.line(format_args!(
            "generation {} ({}): {} staged, {} sent, {} moved, {} deleted in {:.2} s",
            report.generation,
            report.cut,
            count(report.staged),
            bytes(report.bytes_sent),
            count(report.moved),
            count(if report.halted.is_some() { 0 } else { report.deleted }),
            seconds.look + seconds.stage + seconds.seal + seconds.publish,
        ));
        if report.resumed > 0 {
            ui.line(format_args!("{} files were staged by an interrupted run", count(report.resumed)));
        }
    } else {
        ui.line(format_args!(
            "in sync at generation {}: nothing changed among {} names ({:.2} s)",
            report.generation,
            count(report.looked_at),
            seconds.look,
        ));
    }
    let totals = &report.totals;
    if report.published {
        ui.line(format_args!(
            "mirror: {} files, {} directories, {} others, {}",
            count(totals.files),
            count(totals.dirs),
            count(totals.others),
            bytes(totals.bytes)
        ));
    }
    if report.acls_in_ledger_only {
        ui.line("the mirror's mount keeps no ACLs (mount option acl): they are kept in the ledger");
    }
    if totals.left_out > 0 {
        ui.line(format_args!("left out by policy: {} (tidegate status lists them)", count(totals.left_out)));
    }
    if totals.quarantined > 0 {
        ui.remark(format_args!(
            "QUARANTINE: {} paths could not be replicated; tidegate status names them",
            count(totals.quarantined)
        ));
    }
    if let Some(why) = &report.halted {
        ui.remark(format_args!(
            "HALTED: {why}. Nothing was deleted from the mirror; everything else was copied. If the deletions are \
             meant: tidegate sync … --approve-deletions"
        ));
    }
}
