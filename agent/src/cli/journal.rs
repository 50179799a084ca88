//! `tidegate journal`: reads beside the agent, which writes; changes nothing and holds nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::journal::segment::{self, SegmentHeader};
use proto::journal::{BootId, Handle, JournalRecord, Seq};
use proto::{Generation, Note};
use sys::Dir;
use sys::inotify::Watcher;

use super::args::JournalArgs;
use super::named::{self, Named};
use super::open_volume;
use super::ui::Ui;
use crate::error::{Error, Exit, Result, on_state};
use crate::journal::told::{After, Event, Places, Told, sys_handle, tell, tell_begin};
use crate::journal::{Read, Reader};
use crate::state::StateDir;

/// Places that are remembered: beyond that the memory starts anew.
const PLACES_MAX: usize = 1 << 16;

/// Runs the command.
///
/// # Errors
/// [`Error::NoJournal`], [`Error::Journal`], and those of finding the lane.
pub fn run(args: &JournalArgs, ui: &Ui) -> Result<Exit> {
    let named = named::find(&args.of, &args.config)?;
    let dir = journal_of(&args.of, &named)?;
    // Before the first read: what is written behind it is told.
    let mut watch = if args.follow { Some(Watch::new(&dir)?) } else { None };
    let history = History::read(&dir)?;
    let mut out = Out { json: ui.is_json(), to: BufWriter::new(std::io::stdout().lock()) };
    let mut teller = Teller {
        places: Here::new(named.volume.as_deref(), ui),
        from: args.last.map_or(Seq(0), |last| Seq(history.next.0.saturating_sub(last))),
        history,
        before: None,
        is_broken: false,
    };
    let mut reader = Reader::open(&dir)?;
    loop {
        match reader.read()? {
            Read::End => {}
            read => {
                teller.take_in(&read, |told| out.say(told));
                continue;
            }
        }
        let Some(watched) = &watch else { break };
        out.flush();
        teller.places.forget();
        if watched.wait(&dir)? == Seen::Anew {
            watch = Some(Watch::new(&dir)?);
            reader = Reader::open(&dir)?;
            teller.anew(|told| out.say(told));
        }
    }
    out.say(&teller.end());
    out.flush();
    Ok(if teller.is_broken { Exit::Failed } else { Exit::InSync })
}

/// The directory of the lane's journal. The mirror is not looked at: it may be what is sick.
fn journal_of(of: &str, named: &Named) -> Result<PathBuf> {
    let none = |why: String| Error::NoJournal { of: of.to_owned(), why };
    let Some(state) = StateDir::look()? else {
        return Err(none(
            "this host has no state directory of tidegate; does the agent have another TIDEGATE_STATE_DIR?"
                .to_owned(),
        ));
    };
    let mirror = named.mirror.display();
    let remembered = state.remembered(&named.mirror)?;
    let Some(lane) = remembered.as_ref().and_then(|remembered| remembered.lane_dir(&state)) else {
        let failing = named.agent.as_ref().and_then(|lane| lane.error.as_ref());
        let failing = failing.map_or_else(String::new, |why| format!(" The agent says: {why}"));
        return Err(none(format!(
            "nothing was ever replicated from here to {mirror}, as far as {} knows; does the agent have another \
             TIDEGATE_STATE_DIR?{failing}",
            state.path().display()
        )));
    };
    let dir = lane.file("journal");
    match dir.try_exists() {
        Ok(true) => Ok(dir),
        Ok(false) => Err(none(
            "there is none yet. The agent begins one when it opens the lane (`tidegate run`); `tidegate sync` walks and \
             keeps none"
                .to_owned(),
        )),
        Err(e) => Err(on_state("look for", &dir)(e)),
    }
}

/// Which generation took a note in, and where the journal ended when that was read.
#[derive(Default)]
struct History {
    /// Each cursor with its generation, in order.
    cursors: Vec<(Seq, Generation)>,
    next: Seq,
    /// Notes behind the last cursor that speak of the volume, with how many things they speak of.
    waiting: Vec<(Seq, u64)>,
    /// The same of gaps.
    gaps: Vec<Seq>,
}

impl History {
    /// Reads all that is there once.
    fn read(dir: &Path) -> Result<Self> {
        let mut history = Self::default();
        let mut reader = Reader::open(dir)?;
        loop {
            match reader.read()? {
                Read::Record(record) => history.take_in(&record),
                Read::End => return Ok(history),
                Read::Begun(_) | Read::Missed { .. } | Read::Damaged { .. } | Read::Newer { .. } => {}
            }
        }
    }

    fn take_in(&mut self, record: &JournalRecord) {
        self.next = record.next().unwrap_or(record.seq);
        match &record.note {
            Note::Published { upto, generation } => {
                // A segment that is begun repeats the last one.
                if self.cursors.last().is_none_or(|(last, _)| last < upto) {
                    self.cursors.push((*upto, *generation));
                }
                self.waiting.retain(|(seq, _)| seq > upto);
                self.gaps.retain(|seq| seq > upto);
            }
            Note::Hint(_) | Note::Hints(_) => self.waiting.push((record.seq, record.note.numbers())),
            Note::Gap(_) => self.gaps.push(record.seq),
            Note::Writing { .. }
            | Note::Cut { .. }
            | Note::Sealed { .. }
            | Note::Quarantined { .. }
            | Note::Barrier { .. }
            | Note::Paused
            | Note::Resumed
            | Note::CleanStop => {}
        }
    }

    fn taken_in(&self, seq: Seq) -> Option<Generation> {
        let at = self.cursors.partition_point(|(upto, _)| *upto < seq);
        self.cursors.get(at).map(|(_, generation)| *generation)
    }
}

/// Turns what is read into what is said.
struct Teller {
    places: Here,
    /// Notes before this are not said.
    from: Seq,
    history: History,
    before: Option<Before>,
    /// Something could not be read.
    is_broken: bool,
}

/// What came last.
struct Before {
    boot: BootId,
    is_stop: bool,
}

impl Teller {
    fn take_in(&mut self, read: &Read, mut say: impl FnMut(&Told)) {
        match read {
            Read::Begun(header) => {
                let told = self.begun(header);
                if header.first >= self.from {
                    say(&told);
                }
            }
            Read::Record(record) => {
                if let Some(before) = &mut self.before {
                    before.is_stop = record.note == Note::CleanStop;
                }
                if record.seq >= self.history.next {
                    self.history.take_in(record);
                }
                if record.next().is_some_and(|next| next > self.from) {
                    let history = &self.history;
                    let told = tell(record, &mut self.places, |seq| history.taken_in(seq));
                    told.iter().filter(|told| told.seq >= Some(self.from)).for_each(say);
                }
            }
            Read::Missed { from, to } => {
                say(&Told { seq: Some(*from), at: None, event: Event::Missed { to: *to } });
            }
            Read::Damaged { segment, at } => {
                self.is_broken = true;
                let event = Event::Damaged { segment: segment::name(*segment), offset: *at };
                say(&Told { seq: None, at: None, event });
            }
            Read::Newer { segment, at } => {
                self.is_broken = true;
                let event = Event::Newer { segment: segment::name(*segment), offset: *at };
                say(&Told { seq: None, at: None, event });
            }
            Read::End => {}
        }
    }

    fn begun(&mut self, header: &SegmentHeader) -> Told {
        let after = match &self.before {
            None => After::Nothing,
            Some(before) if before.boot != header.boot => After::Boot,
            Some(before) if before.is_stop => After::Stop,
            Some(_) => After::Segment,
        };
        self.before = Some(Before { boot: header.boot, is_stop: false });
        tell_begin(header, after)
    }

    fn anew(&mut self, mut say: impl FnMut(&Told)) {
        (self.before, self.from, self.history) = (None, Seq(0), History::default());
        say(&Told { seq: None, at: None, event: Event::Anew });
    }

    fn end(&self) -> Told {
        let History { cursors, waiting, gaps, .. } = &self.history;
        let event = Event::End {
            cursor: cursors.last().map(|(upto, _)| *upto),
            generation: cursors.last().map(|(_, generation)| *generation),
            waiting: waiting.iter().map(|(_, count)| count).sum(),
            gaps: gaps.len() as u64,
        };
        Told { seq: None, at: None, event }
    }
}

/// Lines or documents on standard output.
struct Out<W: Write> {
    json: bool,
    to: BufWriter<W>,
}

impl<W: Write> Out<W> {
    fn say(&mut self, told: &Told) {
        // A pipe that was closed ends the process by its signal.
        if self.json {
            let _ = serde_json::to_writer(&mut self.to, told);
            let _ = self.to.write_all(b"\n");
        } else {
            let _ = writeln!(self.to, "{told}");
        }
    }

    fn flush(&mut self) {
        let _ = self.to.flush();
    }
}

/// Finds things in the volume by their handles, if there is a volume and we may.
struct Here {
    root: Option<(Arc<Dir>, [u8; 8])>,
    known: HashMap<Handle, Option<Vec<u8>>>,
}

impl Here {
    fn new(volume: Option<&str>, ui: &Ui) -> Self {
        let root = volume.and_then(|volume| match open_volume(volume) {
            Ok(volume) => {
                let fsid = sys::handle::fsid(volume.root.as_ref()).ok()?;
                Some((volume.root, fsid))
            }
            Err(error) => {
                ui.remark(format_args!(
                    "directories are shown as the kernel calls them, for the volume cannot be opened: {}",
                    crate::run::Chain(&error)
                ));
                None
            }
        });
        Self { root, known: HashMap::new() }
    }

    /// Directories may have been renamed since.
    fn forget(&mut self) {
        self.known.clear();
    }

    fn look(&self, handle: &Handle) -> Option<Vec<u8>> {
        let (root, fsid) = self.root.as_ref()?;
        if handle.fsid != *fsid {
            return None;
        }
        let held = sys_handle(handle).hold(root.as_ref()).ok()?;
        let path = sys::handle::path_of(&held).ok()?;
        let above = sys::handle::path_of(root.as_ref()).ok()?;
        crate::capture::below(&above, &path).map(<[u8]>::to_vec)
    }
}

impl Places for Here {
    fn find(&mut self, handle: &Handle) -> Option<Vec<u8>> {
        if let Some(known) = self.known.get(handle) {
            return known.clone();
        }
        if self.known.len() >= PLACES_MAX {
            self.known.clear();
        }
        let found = self.look(handle);
        self.known.insert(handle.clone(), found.clone());
        found
    }
}

/// Waits for a journal to be written to.
struct Watch {
    watcher: Watcher,
    /// Which directory it is.
    is: (u64, u64),
}

#[derive(PartialEq, Eq)]
enum Seen {
    /// It may have been written to.
    More,
    /// The directory was removed, and there is another one.
    Anew,
}

impl Watch {
    fn new(dir: &Path) -> Result<Self> {
        let watcher = Watcher::new().map_err(|e| on_state("watch", dir)(e.errno.into()))?;
        let is = add(&watcher, dir)?;
        if let Some(above) = dir.parent() {
            add(&watcher, above)?;
        }
        Ok(Self { watcher, is })
    }

    fn wait(&self, dir: &Path) -> Result<Seen> {
        loop {
            self.watcher.wait(None).map_err(|e| on_state("watch", dir)(e.errno.into()))?;
            match fs::metadata(dir) {
                Ok(now) if (now.dev(), now.ino()) == self.is => return Ok(Seen::More),
                Ok(_) => return Ok(Seen::Anew),
                // Its writer makes another one, beside which we wait; with the lane's directory gone, there is no such place.
                Err(e) if e.kind() == ErrorKind::NotFound && dir.parent().is_some_and(Path::exists) => {}
                Err(e) => return Err(on_state("look for", dir)(e)),
            }
        }
    }
}

/// Watches a directory; says which it is.
fn add(watcher: &Watcher, dir: &Path) -> Result<(u64, u64)> {
    let file = File::open(dir).map_err(on_state("open", dir))?;
    watcher.add(&file).map_err(|e| on_state("watch", dir)(e.errno.into()))?;
    let now = file.metadata().map_err(on_state("look at", dir))?;
    Ok((now.dev(), now.ino()))
}
