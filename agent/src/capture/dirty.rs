//! Pure: the set of what has to be looked at again in one volume. No I/O, no clock.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// A directory or object as the kernel names it: the bytes of an event's handle, kept as they are.
pub type Key = Box<[u8]>;

/// Most names that are kept apart: beyond that a walk costs less than asking for each.
pub const NAMES_MAX: usize = 1_000_000;

/// Why changes may have been missed: all of the volume has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gap {
    /// Nothing was known before: the agent has just begun to watch.
    Start,
    /// The kernel's queue was full, or it had no memory for an event.
    QueueOverflow,
    /// The kernel sent something that could not be understood.
    UnknownRecord,
    /// A handle could not be resolved for another reason than that it is gone.
    LostHandle,
    /// More names than are worth being kept apart.
    TooMany,
    /// The time for a safety walk has come.
    Safety,
    /// A directory came from where nobody watched, and the kernel (before 5.17) does not say which.
    Arrived,
    /// A person asked for it.
    Asked,
    /// Nothing is captured here: it is looked at on an interval.
    NoCapture,
    /// The journal of the run before does not tell all that happened since.
    Journal,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "nothing was watched before",
            Self::QueueOverflow => "the kernel's queue of events overflowed",
            Self::UnknownRecord => "the kernel sent an event that is not understood",
            Self::LostHandle => "a directory could not be found by its handle",
            Self::TooMany => "too many names changed at once to be told apart",
            Self::Safety => "the time of the safety walk has come",
            Self::Arrived => "a directory came from where nobody watched",
            Self::Asked => "it was asked for",
            Self::NoCapture => "changes cannot be captured here",
            Self::Journal => "the journal does not tell all that happened before the agent began",
        })
    }
}

/// What has to be looked at again.
#[derive(Debug, Default)]
pub struct Dirty {
    /// By directory: each name, with the object that an event about its content spoke of.
    pub(super) dirs: HashMap<Key, HashMap<Box<[u8]>, Option<Key>>>,
    /// Objects whose names are not known.
    pub(super) objects: HashSet<Key>,
    /// Directories that were renamed, perhaps from outside the volume: what was done in them there is not known.
    pub(super) arrived: HashSet<Key>,
    names: usize,
    gap: Option<Gap>,
    oldest: Option<Instant>,
    newest: Option<Instant>,
}

impl Dirty {
    /// Takes in a name of a directory; `.` is the directory itself. True when that was not known yet.
    pub fn name(&mut self, dir: &[u8], name: &[u8], object: Option<&[u8]>, now: Instant) -> bool {
        self.touched(now);
        if self.gap.is_some() {
            return false;
        }
        let names = match self.dirs.get_mut(dir) {
            Some(names) => names,
            None => self.dirs.entry(dir.into()).or_default(),
        };
        match names.get_mut(name) {
            Some(known) => {
                let is_news = object.is_some() && known.as_deref() != object;
                if let (Some(object), true) = (object, is_news) {
                    // The one that had this name before may have another.
                    if let Some(before) = known.replace(object.into()) {
                        self.object(&before, now);
                    }
                }
                is_news
            }
            None => {
                names.insert(name.into(), object.map(Key::from));
                self.names += 1;
                if self.names > NAMES_MAX {
                    self.gap(Gap::TooMany, now);
                }
                true
            }
        }
    }

    /// Takes in an object whose names only the index knows. True when it was not known yet.
    pub fn object(&mut self, key: &[u8], now: Instant) -> bool {
        self.touched(now);
        let is_news = self.gap.is_none() && !self.objects.contains(key);
        if is_news {
            self.objects.insert(key.into());
            if self.objects.len() > NAMES_MAX {
                self.gap(Gap::TooMany, now);
            }
        }
        is_news
    }

    /// Takes in a directory that may have been outside the volume before.
    pub fn arrived(&mut self, key: &[u8], now: Instant) {
        self.touched(now);
        if self.gap.is_none() {
            self.arrived.insert(key.into());
        }
    }

    /// Objects whose names were not told.
    pub fn objects(&self) -> impl Iterator<Item = &[u8]> {
        self.objects.iter().map(|key| &**key)
    }

    /// Drops the objects that are not `known`: of another place of the file system.
    ///
    /// # Errors
    /// Of `known`.
    pub fn keep_objects<E>(&mut self, mut known: impl FnMut(&[u8]) -> Result<bool, E>) -> Result<(), E> {
        for key in std::mem::take(&mut self.objects) {
            if known(&key)? {
                self.objects.insert(key);
            }
        }
        if self.gap.is_none() && self.names == 0 && self.objects.is_empty() && self.arrived.is_empty() {
            self.take();
        }
        Ok(())
    }

    /// Objects, if there is nothing else.
    pub fn only_objects(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let only = self.gap.is_none() && self.names == 0 && self.arrived.is_empty();
        only.then(|| self.objects.iter().map(|key| &**key))
    }

    /// From now on nothing less than all of the volume will do. The first cause is kept.
    pub fn gap(&mut self, gap: Gap, now: Instant) {
        self.touched(now);
        self.gap.get_or_insert(gap);
        self.dirs = HashMap::new();
        self.objects = HashSet::new();
        self.arrived = HashSet::new();
        self.names = 0;
    }

    fn touched(&mut self, now: Instant) {
        self.oldest.get_or_insert(now);
        self.newest = Some(now);
    }

    /// Takes everything out.
    pub fn take(&mut self) -> Dirty {
        std::mem::take(self)
    }

    /// Puts back what was taken out and could not be done; what came meanwhile stays.
    pub fn put_back(&mut self, taken: Dirty) {
        let (newest, oldest) = (self.newest, taken.oldest);
        if let (Some(gap), Some(at)) = (taken.gap, taken.oldest) {
            self.gap(gap, at);
        }
        if let Some(at) = taken.oldest {
            for (dir, names) in &taken.dirs {
                for (name, object) in names {
                    self.name(dir, name, object.as_deref(), at);
                }
            }
            for object in &taken.objects {
                self.object(object, at);
            }
            for dir in &taken.arrived {
                self.arrived(dir, at);
            }
        }
        self.oldest = oldest.into_iter().chain(self.oldest).min();
        self.newest = newest.or(self.newest);
    }

    /// True when nothing has to be looked at.
    pub fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    /// Why all has to be looked at, if so.
    pub fn whole(&self) -> Option<Gap> {
        self.gap
    }

    /// Names and objects, as far as they are told apart.
    pub fn len(&self) -> usize {
        self.names + self.objects.len() + self.arrived.len()
    }

    /// When the first of it was seen.
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// When the last of it was seen.
    pub fn newest(&self) -> Option<Instant> {
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_put_back_keeps_its_age_and_joins_what_came_meanwhile() {
        let begin = Instant::now();
        let later = begin + Duration::from_secs(3);
        let mut dirty = Dirty::default();
        dirty.name(b"d", b"a", None, begin);
        dirty.object(b"o", begin);
        let taken = dirty.take();
        assert!(dirty.is_empty() && dirty.oldest().is_none());
        dirty.name(b"d", b"b", Some(b"x"), later);
        dirty.put_back(taken);
        assert_eq!(dirty.len(), 3);
        assert_eq!((dirty.oldest(), dirty.newest()), (Some(begin), Some(later)));
        assert_eq!(dirty.dirs[&b"d"[..]][&b"b"[..]].as_deref(), Some(&b"x"[..]));
    }

    /// The story: a file was written to through a descriptor whose name had gone, and then another was made under that name.
    /// The first had a second name; nobody looked at it.
    #[test]
    fn an_object_is_not_forgotten_for_the_next_one_of_its_name() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        dirty.name(b"d", b"a", Some(b"x"), now);
        dirty.name(b"d", b"a", None, now);
        dirty.name(b"d", b"a", Some(b"y"), now);
        assert_eq!(dirty.dirs[&b"d"[..]][&b"a"[..]].as_deref(), Some(&b"y"[..]));
        assert_eq!(dirty.objects().collect::<Vec<_>>(), [b"x"]);
    }

    #[test]
    fn a_gap_swallows_names_and_is_not_swallowed() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        dirty.name(b"d", b"a", None, now);
        dirty.gap(Gap::QueueOverflow, now);
        dirty.name(b"d", b"b", None, now);
        dirty.gap(Gap::Safety, now);
        assert_eq!((dirty.whole(), dirty.len()), (Some(Gap::QueueOverflow), 0));
        let taken = dirty.take();
        assert_eq!(dirty.whole(), None);
        dirty.name(b"d", b"c", None, now);
        dirty.put_back(taken);
        assert_eq!((dirty.whole(), dirty.len()), (Some(Gap::QueueOverflow), 0));
    }

    #[test]
    fn the_set_is_bounded() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        for n in 0..=NAMES_MAX as u32 {
            assert_eq!(dirty.whole(), None, "{n}");
            dirty.name(b"d", &n.to_le_bytes(), None, now);
        }
        assert_eq!((dirty.whole(), dirty.len()), (Some(Gap::TooMany), 0));
    }
}
