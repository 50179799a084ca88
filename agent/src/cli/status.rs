//! `tidegate status`.

use std::collections::BTreeMap;
use std::path::Path;

use proto::{Cut, Epoch, Exception, ExceptionClass, Generation, RelPath, Time, Totals};

use super::args::StatusArgs;
use super::ui::{Ui, bytes, count, span, when};
use crate::cycle::now;
use crate::error::{Error, Exit, Result};
use crate::peek::Peek;

/// Paths of a kind that are listed without `--all`.
const LISTED_MAX: usize = 20;

/// What is known of a lane.
#[derive(serde::Serialize)]
struct Status {
    mirror: String,
    lane: String,
    /// Nothing before the end of the first sync.
    published: Option<Published>,
    writer: Option<Writer>,
    /// A generation that is sealed, but not yet in the mirror as a whole.
    waiting: Option<Generation>,
    /// Process of this host that works on the lane; 0 when it cannot be seen.
    working: Option<u32>,
    quarantine: Vec<Listed>,
    left_out: BTreeMap<String, u64>,
    left_out_paths: Vec<Listed>,
    /// False when older logs are gone and the lists may lack something.
    lists_complete: bool,
}

#[derive(serde::Serialize)]
struct Published {
    generation: Generation,
    epoch: Epoch,
    cut: Cut,
    sealed: String,
    age_seconds: i64,
    halted: Option<String>,
    totals: Totals,
}

#[derive(serde::Serialize)]
struct Writer {
    epoch: Epoch,
    host: String,
    this_installation: bool,
    claimed: String,
}

#[derive(serde::Serialize)]
struct Listed {
    path: RelPath,
    reason: String,
    errno: i32,
    since: String,
    since_seconds: i64,
}

/// Runs the command.
///
/// # Errors
/// Any [`crate::Error`].
pub fn run(args: &StatusArgs, ui: &Ui) -> Result<Exit> {
    if let Some(lane) = super::lanes::meant(args.of.as_deref())? {
        return super::lanes::status(lane.as_ref(), args, ui);
    }
    let mirror = Path::new(args.of.as_deref().unwrap_or_default());
    if args.check || args.watch {
        let why = "--check and --watch ask the agent: name a lane as team/env, or none for all of them";
        return Err(Error::BadPath { path: format!("{}: {why}", mirror.display()) });
    }
    let peek = Peek::open(mirror)?;
    let status = gather(&peek, args.all)?;
    ui.document(&status);
    say(&status, args.all, ui);
    Ok(match &status.published {
        None => Exit::Failed,
        Some(published) if published.halted.is_some() => Exit::Halted,
        Some(published) if published.totals.quarantined > 0 => Exit::Quarantine,
        Some(_) => Exit::InSync,
    })
}

fn gather(peek: &Peek, all: bool) -> Result<Status> {
    let now = now();
    let next = peek.head.as_ref().map_or(Generation(1), |head| head.generation.next());
    let newest = peek.ledger.newest_epoch()?;
    let (exceptions, lists_complete) = peek.exceptions()?;
    let of = |class: ExceptionClass| exceptions.iter().filter(move |(_, exception)| exception.class == class);
    let mut left_out = BTreeMap::new();
    for (_, exception) in of(ExceptionClass::LeftOut) {
        *left_out.entry(kind_of(exception)).or_insert(0) += 1;
    }
    Ok(Status {
        mirror: peek.ledger.root.path().display().to_string(),
        lane: peek.ledger.lane.id.to_string(),
        published: peek.head.as_ref().map(|head| Published {
            generation: head.generation,
            epoch: head.epoch,
            cut: head.cut,
            sealed: when(head.sealed),
            age_seconds: (now.sec - head.sealed.sec).max(0),
            halted: head.halted.clone(),
            totals: head.totals,
        }),
        writer: newest.map(|epoch| Writer {
            epoch: epoch.epoch,
            host: epoch.host,
            this_installation: peek.state.as_ref().is_some_and(|state| state.node() == epoch.node),
            claimed: when(epoch.claimed),
        }),
        waiting: peek.ledger.is_sealed(next)?.then_some(next),
        working: peek.worker(),
        quarantine: of(ExceptionClass::Quarantined).map(|e| listed(e, now)).collect(),
        left_out,
        left_out_paths: if all {
            of(ExceptionClass::LeftOut).map(|e| listed(e, now)).collect()
        } else {
            Vec::new()
        },
        lists_complete,
    })
}

/// A reason without what is particular to one path.
fn kind_of(exception: &Exception) -> String {
    exception.reason.split_once(':').map_or(exception.reason.as_str(), |(kind, _)| kind).to_owned()
}

fn listed((path, exception): &(RelPath, Exception), now: Time) -> Listed {
    Listed {
        path: path.clone(),
        reason: exception.reason.clone(),
        errno: exception.errno,
        since: when(exception.since),
        since_seconds: (now.sec - exception.since.sec).max(0),
    }
}

fn say(status: &Status, all: bool, ui: &Ui) {
    ui.line(format_args!("mirror: {}", status.mirror));
    match &status.published {
        None => ui.line("generation: none yet; the first sync has not ended"),
        Some(published) => {
            let totals = &published.totals;
            ui.line(format_args!(
                "generation: {} ({}), sealed {} ({} ago)",
                published.generation,
                published.cut,
                published.sealed,
                span(published.age_seconds)
            ));
            ui.line(format_args!(
                "holds: {} files, {} directories, {} others, {}",
                count(totals.files),
                count(totals.dirs),
                count(totals.others),
                bytes(totals.bytes)
            ));
        }
    }
    if let Some(writer) = &status.writer {
        let here = if writer.this_installation { ", this installation" } else { "" };
        ui.line(format_args!(
            "writer: {}{here}, epoch {} since {}",
            writer.host, writer.epoch, writer.claimed
        ));
    }
    match status.working {
        Some(0) => ui.line("now: a process of this host works on it"),
        Some(pid) => ui.line(format_args!("now: process {pid} works on it")),
        None => ui.line("now: no process of this host works on it"),
    }
    if let Some(waiting) = status.waiting {
        ui.line(format_args!(
            "generation {waiting} is sealed and not yet in the mirror as a whole: the next command of its writer \
             that works on the lane finishes it"
        ));
    }
    if let Some(why) = status.published.as_ref().and_then(|published| published.halted.as_ref()) {
        ui.line(format_args!(
            "HALTED: {why}. If the deletions are meant: tidegate sync … --approve-deletions"
        ));
    }
    if !status.lists_complete {
        ui.line("older logs are gone: the lists below may lack something");
    }
    list("QUARANTINE", &status.quarantine, all, ui);
    if !status.left_out.is_empty() {
        let total: u64 = status.left_out.values().sum();
        let kinds: Vec<String> =
            status.left_out.iter().map(|(kind, n)| format!("{} {kind}", count(*n))).collect();
        ui.line(format_args!("left out by policy: {} ({})", count(total), kinds.join(", ")));
        for item in &status.left_out_paths {
            ui.line(format_args!("  {}: {}", item.path, item.reason));
        }
    }
}

fn list(title: &str, items: &[Listed], all: bool, ui: &Ui) {
    if items.is_empty() {
        return;
    }
    ui.line(format_args!("{title}: {} paths, tried again in every cycle", count(items.len() as u64)));
    let shown = if all { items.len() } else { LISTED_MAX };
    for item in items.iter().take(shown) {
        let errno = if item.errno == 0 { String::new() } else { format!(" [errno {}]", item.errno) };
        ui.line(format_args!(
            "  {}: {}{errno}, since {} ({})",
            item.path,
            item.reason,
            item.since,
            span(item.since_seconds)
        ));
    }
    if items.len() > shown {
        ui.line(format_args!("  … and {} more (--all lists them)", count((items.len() - shown) as u64)));
    }
}
