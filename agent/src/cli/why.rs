//! `tidegate why`.

use std::collections::HashMap;
use std::time::Duration;

use proto::{DirWork, ExceptionClass, Generation, Leaves, Op, RelPath, Source};

use super::args::WhyArgs;
use super::named;
use super::ui::{Ui, bytes, count, when};
use crate::control::{Answer, Request, ask, socket_path};
use crate::error::{Error, Exit, Result};
use crate::index::Index;
use crate::lane::user_path;
use crate::peek::Peek;
use crate::run::{Chain, LaneStatus};
use crate::why::{Class, Known, gather};

/// Logs that are searched for what happened to a path.
const LOGS_MAX: u64 = 200;
/// Names of one inode that are listed.
const LINKS_MAX: usize = 20;
/// How long the agent may take: it counts the names in a directory, whose number has no limit.
const PATIENCE: Duration = Duration::from_secs(60);

const REMOVED_WITH: &str = "removed with ";
const REMOVED_WITH_ALL: &str = "removed with the whole mirror, which was made anew";

/// What is known of a path.
#[derive(serde::Serialize)]
struct Why {
    #[serde(flatten)]
    known: Known,
    /// How its lane is, if an agent has it: then the agent was asked.
    agent: Option<LaneStatus>,
    history: Vec<Touch>,
    /// The oldest generation that was searched for the history; 0 when none was.
    searched_back_to: Generation,
    /// Why there is no history: the ledger lies on the mirror, and that may be sick.
    history_error: Option<String>,
}

#[derive(serde::Serialize)]
struct Touch {
    generation: Generation,
    sealed: String,
    what: String,
}

/// Runs the command. What the index knows is asked of the agent, if one has the lane, for nobody else can read it then; what
/// the logs say is read here, for the agent must not wait for a mirror.
///
/// # Errors
/// [`Error::NoSuchPath`] when nothing at all is known of the path; any other [`Error`].
pub fn run(args: &WhyArgs, ui: &Ui) -> Result<Exit> {
    let path = user_path(&args.path)?;
    let named = named::find(&args.of, &args.config)?;
    let asked = match &named.agent {
        Some(lane) => ask_agent(lane, &path)?,
        None => None,
    };
    let (known, peek) = match asked {
        Some(known) => (known, Peek::open(&named.mirror)),
        None => {
            let peek = Peek::open(&named.mirror)?;
            let index: Index = peek.index()?;
            let known = gather(&index.view()?, &path)?;
            (known, Ok(peek))
        }
    };
    let told = peek.and_then(|peek| history(&peek, &path));
    let (history, searched_back_to, failed) = match told {
        Ok((history, oldest)) => (history, oldest, None),
        Err(error) => (Vec::new(), Generation(0), Some(error)),
    };
    let history_error = failed.as_ref().map(|error| Chain(error).to_string());
    let why = Why { known, agent: named.agent, history, searched_back_to, history_error };
    let known = &why.known;
    let is_unknown =
        known.entry.is_none() && known.exception.is_none() && why.history.is_empty() && !known.explained;
    ui.document(&why);
    say(&why, ui);
    if let (Some(error), Some(why)) = (&failed, &why.history_error) {
        ui.remark(format_args!("which generations touched it cannot be told: {why}"));
        return Ok(error.exit());
    }
    if is_unknown {
        return Err(Error::NoSuchPath { path });
    }
    Ok(Exit::InSync)
}

/// Nothing while the agent has not opened the lane: then nobody holds its index.
fn ask_agent(lane: &LaneStatus, path: &RelPath) -> Result<Option<Known>> {
    let request = Request::why(lane.lane.clone(), path.clone());
    match ask(&socket_path(), &request, PATIENCE) {
        Ok(Answer::Why(known)) => Ok(known.map(|known| *known)),
        Ok(_) => Err(Error::Agent("the agent answered something else".to_owned())),
        // It ended meanwhile.
        Err(Error::NoAgent(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the newest logs say of a path, following it back through renames of itself and of what is above it.
fn history(peek: &Peek, path: &RelPath) -> Result<(Vec<Touch>, Generation)> {
    let Some(head) = &peek.head else { return Ok((Vec::new(), Generation(0))) };
    let mut at = path.clone();
    let mut touches = Vec::new();
    let mut oldest = head.generation;
    let last = Generation(head.generation.0.saturating_sub(LOGS_MAX - 1).max(1));
    peek.logs_back(head.generation, |log| {
        oldest = log.header.generation;
        let mut left: HashMap<proto::StagedName, RelPath> = HashMap::new();
        let mut came_from = None;
        let mut words = Vec::new();
        log.ops(|op| {
            match op {
                Op::Out { path, to: Leaves::Stage(name) } => drop(left.insert(name, path)),
                Op::Out { path, to: Leaves::Trash(_) } if path == at => words.push("removed".to_owned()),
                Op::Out { path, to: Leaves::Trash(_) } if at.is_within(&path) => {
                    words.push(if path.is_root() {
                        REMOVED_WITH_ALL.to_owned()
                    } else {
                        format!("{REMOVED_WITH}{path}")
                    });
                }
                Op::Install { path, staged, source: Source::Moved, .. } if at.is_within(&path) => {
                    if let Some(from) = left.get(&staged) {
                        words.push(if path == at {
                            format!("renamed from {from}")
                        } else {
                            format!("renamed with {path}, from {from}")
                        });
                        came_from = at.rebase(&path, from);
                    }
                }
                Op::Install { path, entry, .. } if path == at => {
                    words.push(format!("copied: {}, {}", entry.type_word(), bytes(entry.size())));
                }
                Op::Below { path, entry } if path == at => {
                    words.push(format!(
                        "came with a new directory: {}, {}",
                        entry.type_word(),
                        bytes(entry.size())
                    ));
                }
                Op::Dir { path, work, .. } if path == at => words.push(match work {
                    DirWork::Times => {
                        "times of the directory set, because something in it changed".to_owned()
                    }
                    DirWork::All => "metadata of the directory set".to_owned(),
                }),
                Op::Grow { path, from, tail, entry, .. } if path == at => words.push(match tail {
                    Some(_) => format!("grew from {} to {}", bytes(from), bytes(entry.size())),
                    None => "metadata of the large file set, content kept".to_owned(),
                }),
                Op::Facts { path, .. } if path == at => {
                    words.push("looked at again: nothing to change in the mirror".to_owned());
                }
                Op::Except { path, exception } if path == at => words.push(format!(
                    "{}: {}",
                    if exception.class == ExceptionClass::LeftOut { "left out" } else { "quarantined" },
                    exception.reason
                )),
                Op::Clear { path } if path == at => words.push("no longer an exception".to_owned()),
                _ => {}
            }
            Ok(())
        })?;
        touches.extend(words.into_iter().map(|what| Touch {
            generation: log.header.generation,
            sealed: when(log.trailer.sealed),
            what,
        }));
        if let Some(from) = came_from {
            at = from;
        }
        Ok(log.header.generation > last)
    })?;
    // That something above it left says nothing of a path that no older log put there.
    let known_before = oldest > Generation(1);
    while !known_before && touches.last().is_some_and(|touch| touch.is_removal_of_another()) {
        touches.pop();
    }
    Ok((touches, oldest))
}

impl Touch {
    fn is_removal_of_another(&self) -> bool {
        self.what.starts_with(REMOVED_WITH) || self.what == REMOVED_WITH_ALL
    }
}

fn say(whole: &Why, ui: &Ui) {
    let why = &whole.known;
    match &why.entry {
        None => ui.line(format_args!("{}: not in generation {}", why.path, why.generation)),
        Some(entry) => {
            ui.line(format_args!("{}: {} in generation {}", why.path, entry.r#type, why.generation));
            if entry.r#type == "file" {
                ui.line(format_args!("  size {} ({})", count(entry.size), bytes(entry.size)));
            }
            if let Some(hash) = &entry.blake3 {
                ui.line(format_args!("  blake3 {hash}"));
            }
            if let Some(target) = &entry.target {
                ui.line(format_args!("  points to {target}"));
            }
            if let Some(names) = why.holds {
                ui.line(format_args!("  holds {} names", count(names)));
            }
            ui.line(format_args!(
                "  mode {}, owner {}:{}, modified {}",
                entry.mode, entry.uid, entry.gid, entry.mtime
            ));
            if !entry.xattrs.is_empty() {
                ui.line(format_args!("  attributes {}", entry.xattrs.join(", ")));
            }
            for link in why.links.iter().take(LINKS_MAX) {
                ui.line(format_args!("  same file as {link}"));
            }
            if why.links_total > LINKS_MAX as u64 {
                ui.line(format_args!("  … and {} more names", why.links_total - LINKS_MAX as u64));
            }
            if entry.compared_by_content_next_time {
                ui.line("  it changed just before it was read: the next cycle compares its content");
            }
        }
    }
    if let Some(exception) = &why.exception {
        let word = match exception.class {
            Class::Quarantined => "QUARANTINE",
            Class::LeftOut => "left out",
        };
        ui.line(format_args!("  {word}: {}, since {}", exception.reason, exception.since));
    }
    for hint in &why.hints {
        ui.line(format_args!("  {hint}"));
    }
    if let Some(lane) = &whole.agent {
        let lag = lane.lag_seconds.map_or_else(|| "unknown".to_owned(), |lag| format!("{lag:.1} s"));
        let waiting = match (&lane.gap, lane.waiting) {
            (Some(gap), _) => format!("all of the volume is to be looked at: {gap}"),
            (None, 1) => "1 name waits".to_owned(),
            (None, waiting) => format!("{} names wait", count(waiting)),
        };
        ui.line(format_args!("  the agent: lag {lag}, {waiting}"));
        if let Some(why) = lane.error.as_ref().or(lane.halted.as_ref()) {
            ui.line(format_args!("  the agent: {why}"));
        }
    }
    for touch in &whole.history {
        ui.line(format_args!("  generation {} ({}): {}", touch.generation, touch.sealed, touch.what));
    }
    if whole.searched_back_to > Generation(1) {
        ui.line(format_args!("  (searched back to generation {})", whole.searched_back_to));
    }
}
