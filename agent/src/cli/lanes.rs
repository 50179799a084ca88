//! Commands that ask the agent: `status` of lanes, `flush`, `pause`, `resume`, `approve`; and `run`, which is the agent.

use std::time::Duration;

use proto::LaneName;

use super::args::{FlushArgs, LaneArgs, RunArgs, StatusArgs};
use super::ui::{Ui, bytes, count};
use crate::control::{Acted, AgentStatus, Answer, Ask, Request, ask, socket_path};
use crate::error::{Error, Exit, Result};
use crate::run::{LaneStatus, Phase};

/// How long the agent may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exit codes that monitoring plug-ins use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    Warn,
    Alert,
    Unknown,
}

/// The lane that `of` means: all of them without it, none when it is a path.
///
/// # Errors
/// [`Error::BadPath`] of what is neither.
pub(super) fn meant(of: Option<&str>) -> Result<Option<Option<LaneName>>> {
    let Some(of) = of else { return Ok(Some(None)) };
    match of.parse::<LaneName>() {
        // A directory of that name here is meant less often than a lane; `./` says it.
        Ok(lane) => Ok(Some(Some(lane))),
        Err(_) => Ok(None),
    }
}

/// `tidegate run`.
///
/// # Errors
/// Those of [`crate::run::run`].
pub fn run(args: &RunArgs) -> Result<Exit> {
    crate::run::run(&args.config)
}

/// `tidegate status` of the agent.
///
/// # Errors
/// [`Error::Agent`].
pub(super) fn status(lane: Option<&LaneName>, args: &StatusArgs, ui: &Ui) -> Result<Exit> {
    if args.check {
        return Ok(check(lane, ui));
    }
    loop {
        let status = asked(lane)?;
        ui.document(&status);
        if args.watch && !ui.is_json() {
            // Home, and what is below is cleared: the rest of the terminal stays.
            ui.line("\x1b[H\x1b[J");
        }
        say(&status, ui);
        if !args.watch {
            return Ok(worst(&status));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn asked(lane: Option<&LaneName>) -> Result<AgentStatus> {
    match ask(&socket_path(), &Request::new(Ask::Status, lane.cloned()), PATIENCE)? {
        Answer::Status(status) => Ok(status),
        _ => Err(Error::Agent("the agent answered something else".to_owned())),
    }
}

fn worst(status: &AgentStatus) -> Exit {
    let is = |test: fn(&LaneStatus) -> bool| status.lanes.iter().any(test);
    if is(|lane| lane.error.is_some()) {
        Exit::Failed
    } else if is(|lane| lane.halted.is_some()) {
        Exit::Halted
    } else if is(|lane| lane.quarantined > 0) {
        Exit::Quarantine
    } else {
        Exit::InSync
    }
}

fn check(lane: Option<&LaneName>, ui: &Ui) -> Exit {
    let (mut worst, mut lines) = (Verdict::Ok, Vec::new());
    match asked(lane) {
        Ok(status) if status.lanes.is_empty() => {
            (worst, lines) = (Verdict::Unknown, vec!["UNKNOWN: the agent has no lanes".to_owned()]);
        }
        Ok(status) => {
            for lane in &status.lanes {
                let (verdict, line) = judge(lane);
                worst = worst.max(verdict);
                lines.push(line);
            }
        }
        Err(error) => (worst, lines) = (Verdict::Unknown, vec![format!("UNKNOWN: {error}")]),
    }
    ui.document(&serde_json::json!({ "exit": worst as u8, "lines": lines }));
    lines.iter().for_each(|line| ui.line(line));
    match worst {
        Verdict::Ok => Exit::InSync,
        Verdict::Warn => Exit::Failed,
        Verdict::Alert => Exit::Usage,
        Verdict::Unknown => Exit::Halted,
    }
}

/// One lane for a monitoring system.
fn judge(lane: &LaneStatus) -> (Verdict, String) {
    let name = &lane.lane;
    let Some(lag) = lane.lag_seconds else {
        let why = lane.error.as_deref().unwrap_or("its first cycle is not over");
        return (Verdict::Unknown, format!("UNKNOWN: {name} was never in sync since the agent began: {why}"));
    };
    let (lag, limit) = (lag.ceil() as u64, lane.alert_after_seconds as u64);
    let because = lane.error.as_ref().or(lane.halted.as_ref());
    let because = because.map_or_else(String::new, |why| format!(": {why}"));
    if lag > limit {
        return (Verdict::Alert, format!("ALERT: {name} sync lag: {lag}s (threshold: {limit}s){because}"));
    }
    let remark = if lane.halted.is_some() {
        format!(", deletions are halted{because}")
    } else if lane.error.is_some() {
        format!(", failing{because}")
    } else if lane.quarantined > 0 {
        format!(", {} paths in quarantine", lane.quarantined)
    } else if lane.phase == Phase::Paused {
        ", paused".to_owned()
    } else {
        return (Verdict::Ok, format!("OK: {name} sync lag: {lag}s"));
    };
    (Verdict::Warn, format!("WARN: {name} sync lag: {lag}s{remark}"))
}

fn say(status: &AgentStatus, ui: &Ui) {
    if status.lanes.is_empty() {
        ui.line("the agent runs and has no lanes");
    }
    for lane in &status.lanes {
        let lag = lane.lag_seconds.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s"));
        let phase = match lane.phase {
            Phase::Opening => "opening",
            Phase::Resting => "in sync",
            Phase::Cycling => "cycle under way",
            Phase::Paused => "paused",
            Phase::Failing => "failing",
            Phase::Stopped => "stopped",
        };
        ui.line(format_args!("{}: {phase}, lag {lag}", lane.lane));
        ui.line(format_args!("  {} -> {}", lane.volume, lane.mirror));
        let cut = lane.cut.as_deref().map_or_else(String::new, |cut| format!(" ({cut})"));
        ui.line(format_args!(
            "  generation {}{cut}: {} files, {} directories, {} others, {}",
            lane.generation,
            count(lane.files),
            count(lane.dirs),
            count(lane.others),
            bytes(lane.bytes)
        ));
        if lane.waiting > 0 {
            ui.line(format_args!("  {} names wait", count(lane.waiting)));
        }
        if let Some(gap) = &lane.gap {
            ui.line(format_args!("  all of the volume will be looked at: {gap}"));
        }
        if let Some(why) = &lane.not_captured {
            ui.line(format_args!("  walked on an interval, for changes are not captured: {why}"));
        }
        if lane.left_out > 0 {
            ui.line(format_args!(
                "  left out by policy: {} (tidegate status {})",
                count(lane.left_out),
                lane.mirror
            ));
        }
        if lane.quarantined > 0 {
            ui.remark(format_args!(
                "  QUARANTINE: {} paths could not be replicated; tidegate status {} names them",
                count(lane.quarantined),
                lane.mirror
            ));
        }
        if let Some(why) = &lane.halted {
            ui.remark(format_args!(
                "  HALTED: {why}. If the deletions are meant: tidegate approve {}",
                lane.lane
            ));
        }
        if let Some(why) = &lane.journal {
            ui.remark(format_args!(
                "  JOURNAL: {why}; nothing is lost, but a restart will have to walk the volume"
            ));
        }
        if let Some(why) = &lane.error {
            let next = lane.next_try_seconds.map_or_else(String::new, |s| format!(" (next try in {s:.0} s)"));
            ui.remark(format_args!("  FAILING: {why}{next}"));
        }
    }
}

/// `tidegate flush`.
///
/// # Errors
/// [`Error::Agent`].
pub fn flush(args: &FlushArgs, ui: &Ui) -> Result<Exit> {
    let request = Request::new(Ask::Flush, args.lane.clone());
    acted(&request, Duration::from_secs(args.timeout), ui, |done| {
        format!(
            "everything up to now is in generation {} ({:.2} s)",
            done.generation.unwrap_or_default(),
            done.lag_seconds.unwrap_or_default()
        )
    })
}

/// `tidegate pause`.
///
/// # Errors
/// [`Error::Agent`].
pub fn pause(args: &LaneArgs, ui: &Ui) -> Result<Exit> {
    acted(&Request::new(Ask::Pause, Some(args.lane.clone())), PATIENCE, ui, |_| "paused".to_owned())
}

/// `tidegate resume`.
///
/// # Errors
/// [`Error::Agent`].
pub fn resume(args: &LaneArgs, ui: &Ui) -> Result<Exit> {
    acted(&Request::new(Ask::Resume, Some(args.lane.clone())), PATIENCE, ui, |_| "goes on".to_owned())
}

/// `tidegate approve`.
///
/// # Errors
/// [`Error::Agent`].
pub fn approve(args: &LaneArgs, ui: &Ui) -> Result<Exit> {
    let request = Request::new(Ask::Approve, Some(args.lane.clone()));
    acted(&request, Duration::from_secs(600), ui, |done| {
        format!("the deletions are in generation {}", done.generation.unwrap_or_default())
    })
}

fn acted(request: &Request, limit: Duration, ui: &Ui, said: impl Fn(&Acted) -> String) -> Result<Exit> {
    let Answer::Acted(acted) = ask(&socket_path(), request, limit)? else {
        return Err(Error::Agent("the agent answered something else".to_owned()));
    };
    ui.document(&acted);
    for done in &acted {
        match &done.error {
            None => ui.line(format_args!("{}: {}", done.lane, said(done))),
            Some(why) => ui.remark(format_args!("{}: not done: {why}", done.lane)),
        }
    }
    let failed = acted.iter().any(|done| done.error.is_some());
    Ok(if failed { Exit::Failed } else { Exit::InSync })
}
