//! `tidegate plan`.

use std::sync::Arc;

use proto::{ExceptionClass, Generation, RelPath, names};
use sys::{Dir, FileKind, Stat, WalkBuffer};

use super::args::PlanArgs;
use super::open_volume;
use super::ui::{Ui, bytes, count};
use crate::config::Excludes;
use crate::cycle::{self, CycleOptions, DeletionLimit, Durability};
use crate::error::{Error, Exit, Result, on_mirror};
use crate::index::{Index, IndexError, Quick, View};
use crate::ledger::MirrorRoot;
use crate::peek::{Peek, Seen};
use crate::volume::Volume;

/// Lines of a kind that are shown without `--all`.
const SHOWN_MAX: usize = 20;
/// Deepest directory that is looked into; a sync quarantines what lies deeper.
const DEPTH_MAX: usize = 200;

/// What a sync would do.
#[derive(Default, serde::Serialize)]
struct Planned {
    /// Generation the mirror holds.
    generation: Generation,
    new: Vec<New>,
    changed: Vec<Changed>,
    /// Written just before they were read, or touched since: they are looked into, and may turn out the same.
    to_be_compared: Vec<RelPath>,
    moved: Vec<Moved>,
    deleted: Vec<Deleted>,
    directories: Vec<RelPath>,
    refused: Vec<Refused>,
    /// Files to copy, those in new directories too.
    files_to_copy: u64,
    /// Their bytes; of a changed large file only a part is sent.
    bytes_to_copy: u64,
    deleted_entries: u64,
    halted: Option<String>,
}

#[derive(serde::Serialize)]
struct New {
    path: RelPath,
    directory: bool,
    /// Of a directory: what it holds.
    files: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    below: Vec<RelPath>,
}

#[derive(serde::Serialize)]
struct Changed {
    path: RelPath,
    bytes: u64,
}

#[derive(serde::Serialize)]
struct Moved {
    from: RelPath,
    to: RelPath,
}

#[derive(serde::Serialize)]
struct Deleted {
    path: RelPath,
    directory: bool,
    entries: u64,
}

#[derive(serde::Serialize)]
struct Refused {
    path: RelPath,
    class: ExceptionClass,
    reason: String,
}

/// Runs the command.
///
/// # Errors
/// Any [`Error`]; nothing was changed anywhere.
pub fn run(args: &PlanArgs, ui: &Ui) -> Result<Exit> {
    let volume = open_volume(&args.source)?;
    let options = options(args);
    let planned = match Peek::look(&args.mirror)? {
        Seen::Lane(peek) => {
            let index = peek.index()?;
            make(&index.view()?, &volume, &options, args.all)?
        }
        Seen::Nothing(root) => {
            unused(&root)?;
            make(&Index::in_memory()?.view()?, &volume, &options, args.all)?
        }
    };
    ui.document(&planned);
    say(&planned, args.all, ui);
    Ok(if planned.halted.is_some() { Exit::Halted } else { Exit::InSync })
}

fn options(args: &PlanArgs) -> CycleOptions {
    CycleOptions {
        durability: Durability::Fsync,
        limit: DeletionLimit {
            entries: args.max_delete,
            percent: args.max_delete_percent,
            empty_volume: false,
            already: 0,
        },
        engine: transfer::Engine::Plain,
        in_flight: 1,
        excludes: Excludes::default(),
        walkers: std::thread::available_parallelism().map_or(2, |n| n.get().min(8)),
        limits: Arc::default(),
        full: false,
    }
}

/// A sync refuses a mirror that holds somebody else's files: so says the plan.
fn unused(root: &MirrorRoot) -> Result<()> {
    let Some(mirror) = root.open()? else { return Ok(()) };
    let listed = mirror.names().map_err(on_mirror(|| "list the mirror".to_owned()))?;
    let known: [&[u8]; 3] = [names::LEDGERS, b"lost+found", b".trashcan"];
    match listed.iter().find(|name| !known.contains(&name.as_slice())) {
        None => Ok(()),
        Some(name) => Err(Error::Guard(format!(
            "{} is not empty (it holds {}) and no ledger of tidegate lies beside it: a sync would refuse it. Move \
             it away, or choose a mirror that does not exist yet",
            root.path().display(),
            proto::path::Escaped(name)
        ))),
    }
}

fn make(view: &View, volume: &Volume, options: &CycleOptions, all: bool) -> Result<Planned> {
    let plan = cycle::preview(view, volume, options)?;
    let mut planned = Planned {
        generation: view.position().generation,
        deleted_entries: plan.deleted_entries,
        halted: plan.halted.clone(),
        ..Planned::default()
    };
    for found in &plan.new {
        planned.add_new(volume, &found.path, &found.stat, all);
    }
    for (found, quick) in &plan.changed {
        planned.add_changed(&found.path, &found.stat, *quick);
    }
    for link in plan.rest.links.values().flatten() {
        match link.quick {
            None => planned.add_new(volume, &link.found.path, &link.found.stat, all),
            Some(Quick::Same) => {}
            Some(quick) => planned.add_changed(&link.found.path, &link.found.stat, quick),
        }
    }
    for this in &plan.moves {
        planned.moved.push(Moved { from: this.old.clone(), to: this.found.path.clone() });
    }
    for missing in &plan.deletes {
        let mut entries = 1;
        view.walk::<IndexError>(&missing.old, |_, _| {
            entries += 1;
            Ok(())
        })?;
        let directory = missing.facts.kind == FileKind::Dir;
        planned.deleted.push(Deleted { path: missing.old.clone(), directory, entries });
    }
    for found in &plan.dirs {
        let as_it_was = view.entry(&found.old)?.is_some_and(|entry| {
            let mtime = crate::index::time(found.stat.mtime);
            let stat = &found.stat;
            (entry.mode, entry.uid, entry.gid, entry.mtime) == (stat.mode, stat.uid, stat.gid, mtime)
        });
        let list = if as_it_was { &mut planned.to_be_compared } else { &mut planned.directories };
        list.push(found.path.clone());
    }
    for refusal in &plan.rest.refused {
        planned.refused.push(Refused {
            path: refusal.path.clone(),
            class: refusal.class,
            reason: refusal.reason.clone(),
        });
    }
    planned.sort();
    Ok(planned)
}

impl Planned {
    fn add_new(&mut self, volume: &Volume, path: &RelPath, stat: &Stat, all: bool) {
        let mut new = New {
            path: path.clone(),
            directory: stat.kind == FileKind::Dir,
            files: 0,
            bytes: 0,
            below: Vec::new(),
        };
        if new.directory {
            self.walk(volume, &mut new, all);
        } else if stat.kind == FileKind::File {
            (new.files, new.bytes) = (1, stat.size);
        }
        self.files_to_copy += new.files;
        self.bytes_to_copy += new.bytes;
        self.new.push(new);
    }

    fn add_changed(&mut self, path: &RelPath, stat: &Stat, quick: Quick) {
        if quick == Quick::Touched {
            self.to_be_compared.push(path.clone());
            return;
        }
        let bytes = if stat.kind == FileKind::File { stat.size } else { 0 };
        self.files_to_copy += u64::from(stat.kind == FileKind::File);
        self.bytes_to_copy += bytes;
        self.changed.push(Changed { path: path.clone(), bytes });
    }

    /// Counts what a new directory holds: a plan looks at no more than names and sizes there.
    fn walk(&mut self, volume: &Volume, new: &mut New, all: bool) {
        let mut buffer = WalkBuffer::default();
        // A directory is opened when its turn comes: of a wide tree only one way down is held open.
        let mut stack: Vec<(Arc<Dir>, Option<Vec<u8>>, RelPath)> = Vec::new();
        match volume.root.open_below(new.path.components()) {
            Ok(dir) => stack.push((Arc::new(dir), None, new.path.clone())),
            Err(e) => self.unreadable(&new.path, &e),
        }
        while let Some((above, name, at)) = stack.pop() {
            let mut listed = Vec::new();
            let opened = match name {
                None => Ok(above),
                Some(name) => above.open_dir(&name).map(Arc::new),
            };
            let read = opened.and_then(|dir| {
                dir.read(&mut buffer, |entry| listed.push(entry.name.to_vec()))?;
                Ok(dir)
            });
            let dir = match read {
                Ok(dir) => dir,
                Err(e) if e.is_gone() => continue,
                Err(e) => {
                    self.unreadable(&at, &e);
                    continue;
                }
            };
            for name in listed {
                let path = at.join(&name);
                let stat = match dir.stat(&name) {
                    Ok(stat) => stat,
                    Err(e) if e.is_gone() => continue,
                    Err(e) => {
                        self.unreadable(&path, &e);
                        continue;
                    }
                };
                let why = if stat.mount_root || stat.dev != volume.stat.dev || stat.mount != volume.stat.mount
                {
                    "another file system is mounted here"
                } else {
                    match stat.kind {
                        FileKind::Socket => "socket",
                        FileKind::Device => "device node",
                        _ => "",
                    }
                };
                if !why.is_empty() {
                    let reason = why.to_owned();
                    self.refused.push(Refused { path, class: ExceptionClass::LeftOut, reason });
                    continue;
                }
                match stat.kind {
                    FileKind::File => {
                        new.files += 1;
                        new.bytes += stat.size;
                    }
                    FileKind::Dir if path.depth() < DEPTH_MAX => {
                        stack.push((dir.clone(), Some(name), path.clone()));
                    }
                    _ => {}
                }
                if all {
                    new.below.push(path);
                }
            }
        }
        new.below.sort();
    }

    fn unreadable(&mut self, path: &RelPath, error: &sys::SysError) {
        let reason = format!("cannot be read: {error}");
        self.refused.push(Refused { path: path.clone(), class: ExceptionClass::Quarantined, reason });
    }

    fn sort(&mut self) {
        self.new.sort_by(|a, b| a.path.cmp(&b.path));
        self.changed.sort_by(|a, b| a.path.cmp(&b.path));
        self.to_be_compared.sort();
        self.moved.sort_by(|a, b| a.to.cmp(&b.to));
        self.deleted.sort_by(|a, b| a.path.cmp(&b.path));
        self.directories.sort();
        self.refused.sort_by(|a, b| a.path.cmp(&b.path));
    }

    fn is_empty(&self) -> bool {
        self.new.is_empty()
            && self.changed.is_empty()
            && self.moved.is_empty()
            && self.deleted.is_empty()
            && self.directories.is_empty()
            && self.halted.is_none()
    }
}

fn say(planned: &Planned, all: bool, ui: &Ui) {
    let slash = |directory: bool| if directory { "/" } else { "" };
    let mut lines = Vec::new();
    for new in &planned.new {
        lines.push(if new.directory {
            format!("+ {}/ ({} files, {})", new.path, count(new.files), bytes(new.bytes))
        } else {
            format!("+ {} ({})", new.path, bytes(new.bytes))
        });
        lines.extend(new.below.iter().map(|path| format!("+ {path}")));
    }
    show(lines, all, ui);
    let changed =
        planned.changed.iter().map(|changed| format!("~ {} ({})", changed.path, bytes(changed.bytes)));
    show(changed.collect(), all, ui);
    show(planned.moved.iter().map(|moved| format!("> {} -> {}", moved.from, moved.to)).collect(), all, ui);
    let deleted = planned.deleted.iter().map(|deleted| {
        let with = if deleted.entries > 1 {
            format!(" ({} entries)", count(deleted.entries))
        } else {
            String::new()
        };
        format!("- {}{}{with}", deleted.path, slash(deleted.directory))
    });
    show(deleted.collect(), all, ui);
    show(planned.directories.iter().map(|path| format!(". {path}/")).collect(), all, ui);
    let refused = planned.refused.iter().map(|refused| {
        let word = if refused.class == ExceptionClass::LeftOut { "left out" } else { "quarantined" };
        format!("! {} ({word}: {})", refused.path, refused.reason)
    });
    show(refused.collect(), all, ui);
    if !planned.to_be_compared.is_empty() {
        ui.line(format_args!(
            "{} paths were written just before they were read, or touched since: a sync compares them again",
            count(planned.to_be_compared.len() as u64)
        ));
        if all {
            show(planned.to_be_compared.iter().map(|path| format!("? {path}")).collect(), all, ui);
        }
    }
    if planned.is_empty() {
        ui.line(format_args!("nothing to do: the volume is as generation {} has it", planned.generation));
        return;
    }
    ui.line(format_args!(
        "after generation {}: {} new, {} changed, {} moved, {} deleted with {} entries, {} directories touched; up \
         to {} files and {} to copy",
        planned.generation,
        count(planned.new.len() as u64),
        count(planned.changed.len() as u64),
        count(planned.moved.len() as u64),
        count(planned.deleted.len() as u64),
        count(planned.deleted_entries),
        count(planned.directories.len() as u64),
        count(planned.files_to_copy),
        bytes(planned.bytes_to_copy),
    ));
    if let Some(why) = &planned.halted {
        ui.remark(format_args!(
            "WOULD BE HALTED: {why}. A sync would delete nothing and copy everything else. If the deletions are \
             meant: tidegate sync … --approve-deletions"
        ));
    }
}

fn show(lines: Vec<String>, all: bool, ui: &Ui) {
    let shown = if all { lines.len() } else { SHOWN_MAX };
    for line in lines.iter().take(shown) {
        ui.line(line);
    }
    if lines.len() > shown {
        ui.line(format_args!("  … and {} more (--all lists them)", count((lines.len() - shown) as u64)));
    }
}
