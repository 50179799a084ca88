//! `tidegate why`.

use std::collections::HashMap;

use proto::path::Escaped;
use proto::{Body, DirWork, Entry, Exception, ExceptionClass, Generation, Leaves, Op, RelPath, Source};

use super::args::WhyArgs;
use super::ui::{Ui, bytes, count, when};
use crate::error::{Error, Exit, Result};
use crate::index::{Index, View};
use crate::lane::user_path;
use crate::peek::Peek;
use crate::recover::link_key;

/// Logs that are searched for what happened to a path.
const LOGS_MAX: u64 = 200;
/// Names of one inode that are listed.
const LINKS_MAX: usize = 20;

const REMOVED_WITH: &str = "removed with ";
const REMOVED_WITH_ALL: &str = "removed with the whole mirror, which was made anew";

/// What is known of a path.
#[derive(serde::Serialize)]
struct Why {
    path: RelPath,
    generation: Generation,
    entry: Option<Shown>,
    /// Of a directory: names directly in it.
    holds: Option<u64>,
    /// Other names of the same inode.
    links: Vec<RelPath>,
    exception: Option<Excepted>,
    /// What is said of the directories above a path that is not there.
    hints: Vec<String>,
    /// Whether that explains it.
    explained: bool,
    history: Vec<Touch>,
    /// The oldest generation that was searched for the history.
    searched_back_to: Generation,
}

#[derive(serde::Serialize)]
struct Shown {
    r#type: &'static str,
    size: u64,
    blake3: Option<String>,
    target: Option<String>,
    mode: String,
    uid: u32,
    gid: u32,
    mtime: String,
    xattrs: Vec<String>,
    volume_inode: u64,
    compared_by_content_next_time: bool,
}

#[derive(serde::Serialize)]
struct Excepted {
    class: ExceptionClass,
    reason: String,
    errno: i32,
    since: String,
}

#[derive(serde::Serialize)]
struct Touch {
    generation: Generation,
    sealed: String,
    what: String,
}

/// Runs the command.
///
/// # Errors
/// [`Error::NoSuchPath`] when nothing at all is known of the path; any other [`Error`].
pub fn run(args: &WhyArgs, ui: &Ui) -> Result<Exit> {
    let path = user_path(&args.path)?;
    let peek = Peek::open(&args.mirror)?;
    let index: Index = peek.index()?;
    let view = index.view()?;
    let why = gather(&peek, &view, path)?;
    ui.document(&why);
    say(&why, ui);
    if why.entry.is_none() && why.exception.is_none() && why.history.is_empty() && !why.explained {
        return Err(Error::NoSuchPath { path: why.path });
    }
    Ok(Exit::InSync)
}

fn gather(peek: &Peek, view: &View, path: RelPath) -> Result<Why> {
    let generation = view.position().generation;
    let entry = view.entry(&path)?;
    let mut links = Vec::new();
    if let Some(key) = entry.as_ref().and_then(link_key) {
        view.walk::<Error>(&RelPath::root(), |at, row| {
            let facts = row.facts().filter(|facts| facts.linked && facts.ino == key.0);
            if facts.is_some() && *at != path && row.entry().as_ref().and_then(link_key) == Some(key) {
                links.push(at.clone());
            }
            Ok(())
        })?;
    }
    let mut holds = None;
    if entry.as_ref().is_some_and(Entry::is_dir)
        && let Some(id) = view.dir_id(&path)?
    {
        let mut names = 0;
        view.scan::<Error>(id, |_, _| {
            names += 1;
            Ok(())
        })?;
        holds = Some(names);
    }
    let exception = view.exception(&path)?.map(|exception| Excepted {
        class: exception.class,
        reason: exception.reason,
        errno: exception.errno,
        since: when(exception.since),
    });
    let (hints, explained) = if entry.is_none() { hints(view, &path)? } else { (Vec::new(), false) };
    let (history, searched_back_to) = history(peek, &path)?;
    let entry = entry.as_ref().map(shown);
    Ok(Why { path, generation, entry, holds, links, exception, hints, explained, history, searched_back_to })
}

fn shown(entry: &Entry) -> Shown {
    Shown {
        r#type: entry.type_word(),
        size: entry.size(),
        blake3: match &entry.body {
            Body::File(file) => Some(file.hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            Body::Dir | Body::Symlink(_) | Body::Fifo => None,
        },
        target: match &entry.body {
            Body::Symlink(text) => Some(Escaped(text).to_string()),
            Body::Dir | Body::File(_) | Body::Fifo => None,
        },
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        mtime: when(entry.mtime),
        xattrs: entry.xattrs.iter().map(|(name, _)| Escaped(name).to_string()).collect(),
        volume_inode: entry.origin.ino,
        compared_by_content_next_time: entry.origin.racy,
    }
}

/// Why a path may be missing: what is said of the directories above it.
fn hints(view: &View, path: &RelPath) -> Result<(Vec<String>, bool)> {
    let mut hints = Vec::new();
    let mut explained = false;
    let mut at = path.clone();
    while let Some((above, _)) = at.split_last() {
        if let Some(Exception { class, reason, .. }) = view.exception(&above)? {
            let word = match class {
                ExceptionClass::Quarantined => "is in quarantine",
                ExceptionClass::LeftOut => "is left out",
            };
            hints.push(format!("{above}, above it, {word}: {reason}"));
            explained = true;
        }
        match view.entry(&above)? {
            Some(entry) if entry.is_dir() => {}
            Some(entry) => {
                hints.push(format!("{above}, above it, is a {}", entry.type_word()));
                explained = true;
            }
            None if above.is_root() => {}
            None => hints.push(format!("{above}, above it, is not in the generation either")),
        }
        at = above;
    }
    Ok((hints, explained))
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

fn say(why: &Why, ui: &Ui) {
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
            if why.links.len() > LINKS_MAX {
                ui.line(format_args!("  … and {} more names", why.links.len() - LINKS_MAX));
            }
            if entry.compared_by_content_next_time {
                ui.line("  it changed just before it was read: the next cycle compares its content");
            }
        }
    }
    if let Some(exception) = &why.exception {
        let word = match exception.class {
            ExceptionClass::Quarantined => "QUARANTINE",
            ExceptionClass::LeftOut => "left out",
        };
        ui.line(format_args!("  {word}: {}, since {}", exception.reason, exception.since));
    }
    for hint in &why.hints {
        ui.line(format_args!("  {hint}"));
    }
    for touch in &why.history {
        ui.line(format_args!("  generation {} ({}): {}", touch.generation, touch.sealed, touch.what));
    }
    if why.searched_back_to > Generation(1) {
        ui.line(format_args!("  (searched back to generation {})", why.searched_back_to));
    }
}
