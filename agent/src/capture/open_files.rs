//! The W-set: files that somebody has open for writing, or mapped, right now.
//!
//! Four kinds of write send no event while a file stays open: stores through a mapping, libaio, a loop device, another
//! listener's descriptor. Leaving the set always sends one (`CLOSE_WRITE`), so only members have to be looked at again and
//! again. A scan is not of one instant: what is handed on while it runs can be missed for one round.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use proto::Time;
use sys::SysError;
use sys::procfs::{Scanner, Seen};

/// How long a lane waits for a scan. One takes milliseconds; it takes longer only where a process hangs on a dead mount
/// and keeps its address space locked.
const DEADLINE: Duration = Duration::from_secs(2);

/// Lanes that rest have this part of a core for scans, all together.
const SHARE: u32 = 1000;

/// And wait no longer than this for one, whatever it costs.
const AGE_MAX: Duration = Duration::from_secs(30);

/// Files of one device that are open for writing, by inode number. Those that are mapped too, or only, are in `mapped`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WSet {
    /// Through a descriptor, or behind a loop device.
    pub open: HashSet<u64>,
    /// Mapped shared, and writable or to be made so.
    pub mapped: HashSet<u64>,
}

impl WSet {
    /// All of them, each once, in order.
    pub fn members(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.open.union(&self.mapped).copied().collect();
        all.sort_unstable();
        all
    }
}

/// What one scan of the host found.
#[derive(Debug)]
pub struct Scan {
    /// When it was begun.
    pub at: Instant,
    /// The same by the wall clock.
    pub begun: Time,
    devices: HashMap<(u32, u32), WSet>,
    /// All processes and loop devices could be looked at.
    pub complete: bool,
    /// A process that did not let itself be looked at, and its number.
    pub refused: Option<(String, u32)>,
    /// How long it took.
    pub took: Duration,
}

impl Scan {
    /// Looks at all processes of this host but our own. May wait for as long as one of them hangs: [`OpenFiles`] does not.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn now(scanner: &mut Scanner) -> Result<Self, SysError> {
        let (at, begun) = (Instant::now(), crate::cycle::now());
        let mut devices: HashMap<(u32, u32), WSet> = HashMap::new();
        let seen = scanner.scan(&mut |file| {
            let set = devices.entry(file.dev).or_default();
            let kind = if file.mapped { &mut set.mapped } else { &mut set.open };
            kind.insert(file.ino);
        })?;
        let (complete, refused) = (seen == Seen::All, scanner.refused.take());
        Ok(Self { at, begun, devices, complete, refused, took: at.elapsed() })
    }

    #[cfg(test)]
    fn of_nothing(took: Duration) -> Self {
        let (at, begun) = (Instant::now(), crate::cycle::now());
        Self { at, begun, devices: HashMap::new(), complete: true, refused: None, took }
    }

    /// Members on the device that `stat` reports for the root of a volume. On btrfs that is its subvolume.
    pub fn of(&self, dev: (u32, u32)) -> WSet {
        self.devices.get(&dev).cloned().unwrap_or_default()
    }

    /// How many files are open for writing or mapped on the whole host.
    pub fn len(&self) -> usize {
        self.devices.values().map(|set| set.open.union(&set.mapped).count()).sum()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why there is no scan.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoScan {
    /// A process does not let itself be looked at: it hangs.
    #[error("some process has hung for {0:?} while it was asked what it has open")]
    Late(Duration),
    /// `/proc` cannot be read.
    #[error(transparent)]
    Proc(SysError),
}

/// Scans on a thread of its own, for all lanes of an agent: a scan may hang, who asks for it does not.
pub struct OpenFiles {
    shared: Arc<Shared>,
    ask: Sender<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// Scans that were begun.
    begun: u64,
    harmless: Vec<String>,
    /// The last one that ended, and its number.
    last: Option<(u64, Result<Arc<Scan>, SysError>)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFiles {
    /// Starts the thread. It ends with the last owner, after the scan under way.
    pub fn start() -> Arc<Self> {
        let mut scanner = Scanner::default();
        Self::start_with(move |harmless| {
            scanner.harmless = harmless;
            Scan::now(&mut scanner)
        })
    }

    /// Processes, by their names of up to 15 bytes, that may hide what they have open: they are taken to write to nothing.
    pub fn set_harmless(&self, names: Vec<String>) {
        self.shared.lock().harmless = names;
    }

    fn start_with(mut scan: impl FnMut(Vec<String>) -> Result<Scan, SysError> + Send + 'static) -> Arc<Self> {
        let (ask, asked) = bounded(1);
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let work = move || {
            while asked.recv().is_ok() {
                let (number, harmless) = {
                    let mut state = theirs.lock();
                    state.begun += 1;
                    (state.begun, state.harmless.clone())
                };
                let result = scan(harmless).map(Arc::new);
                theirs.lock().last = Some((number, result));
                theirs.done.notify_all();
            }
        };
        // Without a thread every look is late, which is the safe side.
        if let Err(error) = std::thread::Builder::new().name("open-files".to_owned()).spawn(work) {
            tracing::warn!(%error, "no thread to look who has what open");
        }
        Arc::new(Self { shared, ask })
    }

    /// A scan that began after this call did.
    ///
    /// # Errors
    /// [`NoScan`].
    pub fn look(&self) -> Result<Arc<Scan>, NoScan> {
        self.look_within(DEADLINE)
    }

    /// One that began `age` before this call at the earliest: lanes that rest share it. Older ones will do where a scan
    /// takes so long that more of them would cost more than 1/[`SHARE`] of a core.
    ///
    /// # Errors
    /// [`NoScan`].
    pub fn look_back(&self, age: Duration) -> Result<Arc<Scan>, NoScan> {
        if let Some((_, Ok(scan))) = &self.shared.lock().last
            && !age.is_zero()
            && scan.at.elapsed() < age.max((scan.took * SHARE).min(AGE_MAX))
        {
            return Ok(scan.clone());
        }
        self.look()
    }

    fn look_within(&self, limit: Duration) -> Result<Arc<Scan>, NoScan> {
        let mut state = self.shared.lock();
        // The one under way may have passed by what matters already.
        let wanted = state.begun + 1;
        // Full: the next one is asked for and has not begun.
        let _ = self.ask.try_send(());
        let deadline = Instant::now() + limit;
        loop {
            if let Some((number, result)) = &state.last
                && *number >= wanted
            {
                return result.clone().map_err(NoScan::Proc);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoScan::Late(limit));
            }
            state = self.shared.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_scan_that_began_before_it_was_asked_for_is_not_taken() {
        let (begin, end) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let mut count = 0;
        let files = {
            let (begin, end) = (begin.clone(), end.clone());
            OpenFiles::start_with(move |_| {
                count += 1;
                if count == 1 {
                    begin.wait();
                    end.wait();
                }
                Ok(Scan::of_nothing(Duration::from_secs(count)))
            })
        };
        let first = std::thread::spawn({
            let files = files.clone();
            move || files.look_within(Duration::from_secs(60)).unwrap().took
        });
        begin.wait();
        // The first is under way: it may take as long as it likes, and is not the answer.
        assert!(matches!(files.look_within(Duration::from_millis(1)), Err(NoScan::Late(_))));
        end.wait();
        assert_eq!(files.look_within(Duration::from_secs(60)).unwrap().took, Duration::from_secs(2));
        assert!(first.join().unwrap() >= Duration::from_secs(1));
    }

    #[test]
    fn who_rests_shares_a_scan() {
        let mut count = 0;
        let files = OpenFiles::start_with(move |_| {
            count += 1;
            Ok(Scan::of_nothing(Duration::from_secs(count)))
        });
        let number = |scan: Result<Arc<Scan>, NoScan>| scan.unwrap().took.as_secs();
        assert_eq!(number(files.look_back(Duration::from_secs(60))), 1, "there was none");
        assert_eq!(number(files.look_back(Duration::from_secs(60))), 1);
        assert_eq!(number(files.look_back(Duration::ZERO)), 2, "none is young enough");
        assert_eq!(number(files.look()), 3);
        assert_eq!(
            number(files.look_back(Duration::from_nanos(1))),
            3,
            "it takes too long to be made so often"
        );
    }
}
