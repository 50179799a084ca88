//! `tidegate recover`.

use std::sync::Arc;

use super::args::{EngineArg, RecoverArgs};
use super::ui::{Ui, bytes, count, span};
use crate::cycle::Progress;
use crate::error::{Exit, Result};
use crate::lane::{Lane, Ownership, absolute};
use crate::recover::{Options, Place, Report, SpecialBits, apart, recover};
use crate::state::StateDir;

/// Runs the command.
///
/// # Errors
/// Any [`crate::Error`]; the target is then as it was.
pub fn run(args: &RecoverArgs, ui: &Ui) -> Result<Exit> {
    let mirror = absolute(&args.mirror)?;
    let state = StateDir::open()?;
    let ownership = if args.take_over { Ownership::TakeOver } else { Ownership::Ours };
    let mut lane = Lane::open_reader(&state, &mirror, ownership)?;
    let place = Place::open(&args.target)?;
    apart(&place, &mirror)?;
    let bits = if place.is_volume() || args.preserve_suid { SpecialBits::Keep } else { SpecialBits::Strip };
    let options = Options { bits, engine: engine(args.engine, ui), in_flight: args.in_flight.into() };
    let progress = Arc::new(Progress::default());
    let shown = ui.show(&progress);
    let done = recover(&mut lane, place, &options, &progress);
    drop(shown);
    let report = done?;
    say(&report, ui);
    Ok(if report.totals.quarantined > 0 { Exit::Quarantine } else { Exit::InSync })
}

/// The engine that was asked for, or the best there is.
pub fn engine(arg: EngineArg, ui: &Ui) -> transfer::Engine {
    match arg {
        EngineArg::Plain => transfer::Engine::Plain,
        EngineArg::Ring => transfer::Engine::Ring,
        EngineArg::Auto => {
            let (engine, why_not) = transfer::Engine::pick();
            if let Some(why_not) = why_not {
                ui.remark(format_args!("copying without io_uring: {why_not}"));
            }
            engine
        }
    }
}

fn say(report: &Report, ui: &Ui) {
    ui.document(report);
    let totals = &report.totals;
    ui.line(format_args!(
        "{} holds generation {} ({}, sealed {} ago): {} files, {} directories, {} others, {} in {:.2} s",
        report.target,
        report.generation,
        report.cut,
        span(report.age_seconds),
        count(totals.files),
        count(totals.dirs),
        count(totals.others),
        bytes(totals.bytes),
        report.seconds,
    ));
    ui.line("every file was compared with its hash before the swap");
    match &report.backup {
        Some(backup) => ui.line(format_args!("what was there is kept as {backup}")),
        None => ui.line("nothing was there before"),
    }
    for backup in &report.earlier_backups {
        ui.line(format_args!(
            "an earlier recovery had not ended its swap: what was there then is now {backup}"
        ));
    }
    if report.rounds > 1 {
        ui.line(format_args!("the writer published meanwhile: {} rounds", report.rounds));
    }
    if report.special_bits_stripped > 0 {
        ui.line(format_args!(
            "setuid and setgid bits were taken off {} files (--preserve-suid keeps them)",
            count(report.special_bits_stripped)
        ));
    }
    if report.acls_lost > 0 {
        ui.remark(format_args!(
            "ACLs of {} files and directories could not be set: the target's file system keeps none",
            count(report.acls_lost)
        ));
    }
    if totals.left_out > 0 {
        ui.line(format_args!(
            "left out by policy when it was made: {} (tidegate status lists them)",
            count(totals.left_out)
        ));
    }
    if totals.quarantined > 0 {
        ui.remark(format_args!(
            "QUARANTINE: {} paths of the volume are not in this generation, or not as they were; tidegate status \
             names them",
            count(totals.quarantined)
        ));
    }
}
