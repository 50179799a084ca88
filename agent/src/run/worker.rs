//! The cycles of one lane: takes what was touched, brings it into the mirror, puts back what could not be done.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{ExceptionClass, RelPath};

use crate::capture::{Capture, Dirty, Gap, Resolved, Target, resolve};
use crate::config::Excludes;
use crate::cut::{Cuts, Extent, Held};
use crate::cycle::{Cycle, CycleOptions, CycleReport, Progress, Scope, Watch};
use crate::error::{Error, Result};
use crate::lane::Lane;
use crate::ledger::Tenure;
use crate::volume::Volume;

/// How a lane learns what was touched.
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
    /// Time over which deletions are summed.
    pub delete_window: Duration,
    /// What is done around its cuts.
    pub cuts: Option<Cuts>,
    deleted: VecDeque<(Instant, u64)>,
    /// Names that are not in the mirror as they are in the volume, because deletions are halted.
    withheld: Vec<RelPath>,
    /// What was taken out of the mirror by earlier cycles may not be removed yet.
    trash_is_left: bool,
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
        let worker = Self {
            lane,
            tenure,
            volume,
            options,
            progress: Arc::new(Progress::default()),
            watched,
            delete_window,
            cuts: None,
            deleted: VecDeque::new(),
            withheld: Vec::new(),
            trash_is_left: true,
        };
        worker.tell_links()?;
        Ok(worker)
    }

    /// One cycle over all that was touched before now; `retry` looks at the quarantined paths again as well. Without
    /// anything to look at it does nothing and returns nothing.
    ///
    /// # Errors
    /// Those of [`Cycle::run`]; what was to be looked at is to be looked at still.
    pub fn cycle(&mut self, retry: Retry, now: Instant) -> Result<Option<CycleReport>> {
        let retried = if retry == Retry::Yes { self.quarantined()? } else { Vec::new() };
        let mut held = match self.cuts.is_some() {
            true => match self.extent(&retried)? {
                None => return Ok(None),
                Some(extent) => self.cuts.as_mut().map(|cuts| cuts.begin(extent)).transpose()?.flatten(),
            },
            false => None,
        };
        let result = self.cut(&retried, now, held.as_mut());
        if let Some(held) = held {
            held.finish();
        }
        result
    }

    /// How much there is to be done; nothing when there is nothing. What was touched is left where it is: what is done
    /// around a cut has to begin before that is taken.
    fn extent(&self, retried: &[RelPath]) -> Result<Option<Extent>> {
        let mut taken = self.take()?;
        let more = retried.len() + self.withheld.len();
        if taken.is_empty() && more == 0 {
            return Ok(None);
        }
        let names = self.resolve(&mut taken).map(|resolved| resolved.names.len() + more);
        if names == Some(0) {
            return Ok(None);
        }
        self.put_back(taken);
        Ok(Some(names.map_or(Extent::Whole, Extent::Names)))
    }

    fn cut(
        &mut self,
        retried: &[RelPath],
        now: Instant,
        held: Option<&mut Held>,
    ) -> Result<Option<CycleReport>> {
        let mut taken = self.take()?;
        if taken.is_empty() && retried.is_empty() && self.withheld.is_empty() {
            return Ok(None);
        }
        let mut resolved = self.resolve(&mut taken);
        if let Some(resolved) = &mut resolved {
            retried.iter().chain(&self.withheld).for_each(|path| resolved.names.add_path(path));
            if resolved.names.is_empty() {
                return Ok(None);
            }
        }
        match self.run(resolved.as_ref(), now, held) {
            Ok(report) => {
                if let (Some(resolved), false) = (resolved, report.astray.is_empty()) {
                    self.put_back(resolved.part(taken, &report.astray));
                }
                self.withheld.clone_from(&report.withheld);
                if report.published {
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
        self.deleted.clear();
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

    fn take(&self) -> Result<Dirty> {
        match &self.watched {
            Watched::Captured { capture, target } => {
                capture.drain().map_err(|e| self.lost(&e))?;
                Ok(target.take())
            }
            Watched::Walked => {
                let mut all = Dirty::default();
                all.gap(Gap::NoCapture, Instant::now());
                Ok(all)
            }
        }
    }

    fn put_back(&self, taken: Dirty) {
        if let Watched::Captured { target, .. } = &self.watched {
            target.put_back(taken);
        }
    }

    fn lost(&self, error: &sys::SysError) -> Error {
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
        now: Instant,
        held: Option<&mut Held>,
    ) -> Result<CycleReport> {
        while self.deleted.front().is_some_and(|(at, _)| now.duration_since(*at) > self.delete_window) {
            self.deleted.pop_front();
        }
        let mut options = self.options.clone();
        options.limit.already = self.deleted.iter().map(|(_, deleted)| deleted).sum();
        let mut since = match &self.watched {
            Watched::Captured { capture, target } => {
                Some(Since { capture, target, excludes: &self.options.excludes, held })
            }
            Watched::Walked => None,
        };
        let report = Cycle {
            lane: &mut self.lane,
            tenure: &self.tenure,
            volume: &self.volume,
            options: &options,
            progress: &self.progress,
            scope: resolved.map_or(Scope::Whole, |resolved| Scope::Names(&resolved.names)),
            watch: since.as_mut().map(|since| since as &mut dyn Watch),
        }
        .run()?;
        self.options.full = false;
        if report.published && report.deleted > 0 && report.halted.is_none() {
            self.deleted.push_back((now, report.deleted));
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

    fn was_touched(&mut self) -> Result<bool> {
        if self.capture.drain().is_err() {
            // Not known: called fuzzy. The next cycle meets the same error and says it.
            return Ok(true);
        }
        // What is left out may be busy without end: it is no change of what is replicated.
        let taken = self.target.take();
        let is_nothing = taken.is_empty()
            || (taken.whole().is_none()
                && resolve(self.target, &taken, self.excludes)
                    .is_ok_and(|resolved| resolved.names.is_empty()));
        if !is_nothing {
            self.target.put_back(taken);
        }
        Ok(!is_nothing)
    }
}
