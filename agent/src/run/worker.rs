//! The cycles of one lane: takes what was touched, brings it into the mirror, puts back what could not be done.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{ExceptionClass, Generation, Note, RelPath, Time};

use super::members::{Members, Polled};
use crate::capture::{Capture, Dirty, Gap, OpenFiles, Resolved, Target, inode, object, resolve};
use crate::config::Excludes;
use crate::cut::{Cuts, Extent, Held};
use crate::cycle::{Again, Cycle, CycleOptions, CycleReport, Made, Progress, Scope, Silent, Watch};
use crate::error::{Error, Result};
use crate::index::View;
use crate::journal::{Appender, Ticket, Want};
use crate::lane::Lane;
use crate::ledger::Tenure;
use crate::volume::Volume;

/// How a lane learns what was touched.
#[derive(Clone)]
pub enum Watched {
    /// The kernel tells.
    Captured {
        /// The agent's capture.
        capture: Arc<Capture>,
        /// This lane's part of it.
        target: Arc<Target>,
    },
    /// Nobody tells: each cycle walks the volume.
    Walked,
}

/// What a worker has in mind from one cycle to the next; it outlives the worker.
#[derive(Default)]
pub struct Memory {
    deleted: VecDeque<(Instant, u64)>,
    /// Names that are not in the mirror as they are in the volume, because deletions are halted or because they changed
    /// while a cycle was at them.
    again: Again,
}

/// One lane at work.
pub struct Worker {
    /// The lane.
    pub lane: Lane,
    /// The right to write it.
    pub tenure: Tenure,
    /// What is replicated.
    pub volume: Volume,
    /// Settings.
    pub options: CycleOptions,
    /// Counters for a display.
    pub progress: Arc<Progress>,
    /// How it learns what was touched.
    pub watched: Watched,
    /// Where that is noted for the next run.
    pub journal: Option<Appender>,
    /// Time over which deletions are summed.
    pub delete_window: Duration,
    /// What is done around its cuts.
    pub cuts: Option<Cuts>,
    /// Files that changed since are compared by content in the next look at all of the volume, when the host stopped
    /// without an end.
    pub doubted_since: Option<Time>,
    /// How old what is known of open files may be when a cycle begins.
    pub scan_age: Duration,
    /// As of when the last cycle knew who had what open.
    pub polled: Instant,
    /// What it has in mind from one cycle to the next.
    pub memory: Memory,
    /// What was taken out of the mirror by earlier cycles may not be removed yet.
    trash_is_left: bool,
    members: Members,
}

impl Worker {
    /// A worker that has done nothing yet.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn new(
        lane: Lane,
        tenure: Tenure,
        volume: Volume,
        options: CycleOptions,
        watched: Watched,
        delete_window: Duration,
    ) -> Result<Self> {
        let open_files = match &watched {
            Watched::Captured { capture, .. } => capture.open_files(),
            Watched::Walked => OpenFiles::start(),
        };
        let worker = Self {
            members: Members::new(open_files),
            lane,
            tenure,
            volume,
            options,
            progress: Arc::new(Progress::default()),
            watched,
            journal: None,
            delete_window,
            cuts: None,
            doubted_since: None,
            scan_age: Duration::ZERO,
            polled: Instant::now(),
            memory: Memory::default(),
            trash_is_left: true,
        };
        worker.tell_links()?;
        Ok(worker)
    }

    /// One cycle over all that was touched before now, and over the files that are open for writing and changed without an
    /// event; `retry` looks at the quarantined paths again as well. Without
    /// anything to look at it does nothing and returns nothing.
    ///
    /// # Errors
    /// Those of [`Cycle::run`]; what was to be looked at is to be looked at still.
    pub fn cycle(&mut self, retry: Retry, now: Instant) -> Result<Option<CycleReport>> {
        let mut held = match self.cuts.is_some() {
            true => match self.extent(retry)? {
                None => return Ok(None),
                Some(extent) => self.cuts.as_mut().map(|cuts| cuts.begin(extent)).transpose()?.flatten(),
            },
            false => None,
        };
        let result = self.cut(retry, now, held.as_mut());
        if let Some(held) = held {
            held.finish();
        }
        result
    }

    /// How much there is to be done; nothing when there is nothing. What was touched is left where it is: what is done
    /// around a cut has to begin before that is taken.
    fn extent(&mut self, retry: Retry) -> Result<Option<Extent>> {
        let Some(work) = self.gather(retry)? else { return Ok(None) };
        self.put_back(work.taken);
        Ok(Some(work.resolved.map_or(Extent::Whole, |resolved| Extent::Names(resolved.names.len()))))
    }

    /// Takes out what is to be looked at; nothing when there is nothing.
    fn gather(&mut self, retry: Retry) -> Result<Option<Work>> {
        // First who has what open, then the events: of whoever is found, they say how it came to be in the volume.
        let Polled { at, mut silent, changed, held } =
            self.members.poll(&self.lane.index.view()?, &self.volume, self.scan_age)?;
        self.polled = at;
        if let Watched::Captured { target, .. } = &self.watched {
            target.held(held);
        }
        let (mut taken, ticket) = self.take()?;
        let retried = match self.keep_known(&mut taken) {
            Ok(()) if retry == Retry::Yes => self.quarantined(),
            result => result.map(|()| Vec::new()),
        };
        let retried = match retried {
            Ok(retried) => retried,
            Err(error) => {
                self.put_back(taken);
                return Err(error);
            }
        };
        if taken.is_empty() && retried.is_empty() && self.memory.again.is_empty() && changed.is_empty() {
            self.done(ticket, None);
            return Ok(None);
        }
        // Whatever their times say: it is not their content that is in doubt.
        silent.doubted.extend(&self.memory.again.inodes);
        silent.doubted_since = self.doubted_since;
        let mut resolved = self.resolve(&mut taken);
        if let Some(resolved) = &mut resolved {
            retried.iter().chain(&self.memory.again.names).for_each(|path| resolved.names.add_path(path));
            self.memory.again.trees.iter().for_each(|path| resolved.names.add_whole(path.clone(), None));
            changed.iter().chain(&self.memory.again.inodes).for_each(|ino| resolved.names.add_inode(*ino));
            if resolved.names.is_empty() {
                self.done(ticket, None);
                return Ok(None);
            }
        }
        tracing::debug!(volume = %self.volume.given, gap = ?taken.whole(), names = ?resolved.as_ref().map(|r| &r.names), "cycle");
        Ok(Some(Work { taken, ticket, resolved, silent }))
    }

    fn cut(&mut self, retry: Retry, now: Instant, held: Option<&mut Held>) -> Result<Option<CycleReport>> {
        let Some(Work { taken, ticket, resolved, silent }) = self.gather(retry)? else { return Ok(None) };
        match self.run(resolved.as_ref(), &silent, now, held) {
            Ok(report) => {
                self.members.cleaned(&report.cleaned);
                if resolved.is_none() {
                    self.doubted_since = None;
                }
                if let (Some(resolved), false) = (resolved, report.astray.is_empty())
                    && let Watched::Captured { target, .. } = &self.watched
                {
                    target.put_back_part(resolved.part(taken, &report.astray));
                }
                self.memory.again = report.again.clone();
                self.memory.again.names.extend(report.withheld.iter().cloned());
                self.done(ticket, Some(&report));
                if report.noted {
                    self.tell_links()?;
                }
                Ok(Some(report))
            }
            Err(error) => {
                self.put_back(taken);
                Err(error)
            }
        }
    }

    /// Looks at the files that are open for writing: true when a cycle would find one changed, or cannot tell without
    /// reading it. For the time between events: they send none.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn poll_open(&mut self) -> Result<bool> {
        let polled = self.members.poll(&self.lane.index.view()?, &self.volume, Duration::ZERO)?;
        Ok(!polled.changed.is_empty())
    }

    /// Files of the mirror that somebody had open for writing at the last poll or cycle: after an unclean stop of the
    /// host their times are not to be believed.
    pub fn writing(&self) -> Vec<RelPath> {
        self.members.writing().to_vec()
    }

    /// Publishes the deletions that were withheld: the next cycle may delete whatever it finds gone.
    ///
    /// # Errors
    /// Those of [`Worker::cycle`].
    pub fn approve(&mut self, now: Instant) -> Result<Option<CycleReport>> {
        let limit = self.options.limit;
        self.options.limit.entries = u64::MAX;
        self.options.limit.empty_volume = true;
        let result = self.cycle(Retry::No, now);
        self.options.limit = limit;
        self.memory.deleted.clear();
        result
    }

    /// Empties the trash behind a cycle that published, or that an earlier one left: an idle lane does not look at its mirror.
    ///
    /// # Errors
    /// As [`Worker::empty_trash`].
    pub fn empty_trash_if(&mut self, published: bool) -> Result<()> {
        if published || self.trash_is_left {
            self.trash_is_left = true;
            self.empty_trash()?;
            self.trash_is_left = false;
        }
        Ok(())
    }

    /// Empties the trash: after a publish, when there is time.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Mirror`].
    pub fn empty_trash(&self) -> Result<u64> {
        self.lane.ledger.empty_trash(&self.tenure)
    }

    fn take(&self) -> Result<(Dirty, Option<Ticket>)> {
        match &self.watched {
            Watched::Captured { capture, target } => capture.take(target).map_err(|e| self.lost(&e)),
            Watched::Walked => {
                let mut all = Dirty::default();
                all.gap(Gap::NoCapture, Instant::now());
                Ok((all, None))
            }
        }
    }

    /// Tells the journal that everything before `ticket` is in the mirror or in the quarantine: a restart need not look at
    /// it. While something is to be looked at again it does: that is known to nobody but this process.
    fn done(&self, ticket: Option<Ticket>, report: Option<&CycleReport>) {
        let (Some(journal), Some(mut ticket)) = (&self.journal, ticket) else { return };
        if !self.memory.again.is_empty() {
            return;
        }
        let Ok(numbers) = ticket.written() else { return };
        let generation = self.lane.head.as_ref().map_or(Generation(0), |head| head.generation);
        let mut notes = vec![Note::Published { upto: numbers.first, generation }];
        if let Some(report) = report.filter(|report| report.published) {
            notes.insert(0, Note::Cut { upto: numbers.first, cut: report.cut });
            notes.insert(1, Note::Sealed { upto: numbers.first, generation });
        }
        // A journal that cannot be written says so itself, as a gap.
        let _ = journal.append(crate::cycle::now(), notes, Want::Written);
    }

    /// Drops what was told of files that are not in the volume: of a change of its link count a file's place is not told.
    fn keep_known(&self, taken: &mut Dirty) -> Result<()> {
        let Watched::Captured { target, .. } = &self.watched else { return Ok(()) };
        let view = self.lane.index.view()?;
        taken.keep_objects(|key| is_known(&view, target, key))
    }

    fn put_back(&self, taken: Dirty) {
        if let Watched::Captured { target, .. } = &self.watched {
            target.put_back(taken);
        }
    }

    fn lost(&self, error: &sys::SysError) -> Error {
        if error.errno == sys::Errno::CANCELED {
            return Error::Stopped;
        }
        Error::Volume {
            path: self.volume.given.clone(),
            why: format!("its changes cannot be captured: {error}"),
        }
    }

    /// Paths of what was taken; nothing when all of the volume has to be looked at.
    fn resolve(&self, taken: &mut Dirty) -> Option<Resolved> {
        let Watched::Captured { target, .. } = &self.watched else { return None };
        if taken.whole().is_some() {
            return None;
        }
        match resolve(target, taken, &self.options.excludes) {
            Ok(resolved) => Some(resolved),
            Err(error) => {
                tracing::warn!(%error, volume = %self.volume.given, "directories cannot be found by their handles; \
                    all of the volume is looked at");
                taken.gap(Gap::LostHandle, Instant::now());
                None
            }
        }
    }

    fn run(
        &mut self,
        resolved: Option<&Resolved>,
        silent: &Silent,
        now: Instant,
        held: Option<&mut Held>,
    ) -> Result<CycleReport> {
        while self.memory.deleted.front().is_some_and(|(at, _)| now.duration_since(*at) > self.delete_window)
        {
            self.memory.deleted.pop_front();
        }
        let mut options = self.options.clone();
        options.limit.already = self.memory.deleted.iter().map(|(_, deleted)| deleted).sum();
        let mut since = match &self.watched {
            Watched::Captured { capture, target } => Some(Since {
                capture,
                target,
                excludes: &self.options.excludes,
                members: &self.members,
                volume: &self.volume,
                view: self.lane.index.view()?,
                held,
            }),
            Watched::Walked => None,
        };
        let report = Cycle {
            lane: &mut self.lane,
            tenure: &self.tenure,
            volume: &self.volume,
            options: &options,
            progress: &self.progress,
            scope: resolved.map_or(Scope::Whole, |resolved| Scope::Names(&resolved.names)),
            silent,
            watch: since.as_mut().map(|since| since as &mut dyn Watch),
        }
        .run()?;
        self.options.full = false;
        if report.published && report.deleted > 0 && report.halted.is_none() {
            self.memory.deleted.push_back((now, report.deleted));
        }
        Ok(report)
    }

    fn quarantined(&self) -> Result<Vec<RelPath>> {
        let exceptions = self.lane.index.view()?.exceptions()?;
        let quarantined = exceptions.into_iter().filter(|(_, e)| e.class == ExceptionClass::Quarantined);
        Ok(quarantined.map(|(path, _)| path).collect())
    }

    /// Tells capture which inodes can be written to under names that are not in the volume.
    fn tell_links(&self) -> Result<()> {
        if let Watched::Captured { target, .. } = &self.watched {
            let linked = self.lane.index.view()?.linked()?.collect::<Result<HashSet<u64>, _>>()?;
            target.set_linked(linked);
        }
        Ok(())
    }
}

/// What one cycle is about.
struct Work {
    taken: Dirty,
    /// Place in the journal behind all that was taken.
    ticket: Option<Ticket>,
    /// Nothing when all of the volume is looked at.
    resolved: Option<Resolved>,
    silent: Silent,
}

/// Whether a cycle looks at the quarantined paths again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It does.
    Yes,
    /// Only if they were touched.
    No,
}

/// What happened since the cycle's names were taken.
struct Since<'a> {
    capture: &'a Capture,
    target: &'a Target,
    excludes: &'a Excludes,
    members: &'a Members,
    volume: &'a Volume,
    /// The index as the cycle found it.
    view: View,
    /// What is held around the cut.
    held: Option<&'a mut Held>,
}

impl Watch for Since<'_> {
    fn planned(&mut self, bytes: Option<u64>) {
        if let Some(held) = &mut self.held {
            held.planned(bytes);
        }
    }

    fn has_read(&mut self) {
        if let Some(held) = &mut self.held {
            held.has_read();
        }
    }

    fn was_touched(&mut self, made: Made<'_>) -> Result<bool> {
        // Members first: who leaves the set later sends an event.
        if self.members.were_touched(&self.view, self.volume, &mut *made)? {
            return fuzzy("a file that is open for writing");
        }
        // Not known: called fuzzy. The next cycle meets the same error and says it.
        if self.capture.drain().is_err() {
            return fuzzy("events cannot be read");
        }
        // What is left out may be busy without end: it is no change of what is replicated.
        let is_excluded = !self.excludes.is_empty()
            && self.target.peek(|dirty| {
                dirty.whole().is_none()
                    && dirty.only_objects().is_none()
                    && resolve(self.target, dirty, self.excludes)
                        .is_ok_and(|resolved| resolved.names.is_empty())
            });
        if is_excluded {
            return Ok(false);
        }
        let objects =
            self.target.peek(|dirty| Some(dirty.only_objects()?.map(Box::from).collect::<Vec<Box<[u8]>>>()));
        // Link counts of files in other places say nothing.
        let Some(objects) = objects else { return fuzzy("names were touched") };
        for key in &objects {
            if is_known(&self.view, self.target, key)? {
                return fuzzy("a file was touched");
            }
        }
        let objects: HashSet<u64> = objects.iter().filter_map(|key| inode(self.target, key)).collect();
        match objects.is_empty() || made(&objects)?.is_empty() {
            true => Ok(false),
            false => fuzzy("a file that was staged was touched"),
        }
    }
}

/// True when the object is a file that the index has, or that cannot be said. Its number alone does not tell: the mirror may
/// have been given that of a file that was in the volume a moment ago.
fn is_known(view: &View, target: &Target, key: &[u8]) -> Result<bool> {
    let stat = match object(target, key) {
        Ok(stat) => stat,
        Err(error) => return Ok(error.errno != sys::Errno::STALE),
    };
    let names = view.names_of(stat.ino)?;
    let Some((parent, name)) = names.first().and_then(|path| path.split_last()) else { return Ok(false) };
    let row = view.dir_id(&parent)?.map(|dir| view.facts(dir, name)).transpose()?.flatten();
    Ok(row.is_none_or(|row| row.is_inode(&stat)))
}

/// What was touched since, and why that is said.
fn fuzzy(why: &str) -> Result<bool> {
    tracing::debug!(why, "the cut is fuzzy");
    Ok(true)
}
