//! Flips a name between two or more things as fast as the kernel allows, by exchanging names.
//!
//! `RENAME_EXCHANGE` leaves no instant at which the name is missing, so whoever looks always finds one of the shapes:
//! the hardest case for a check that is not made on the descriptor that is used.

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, openat, renameat_with};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running attack on one name; ends when dropped.
pub struct Flipper {
    stop: Arc<AtomicBool>,
    flips: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// The name under attack and what it will be exchanged with.
pub struct FlipMaker {
    target: PathBuf,
    partners: Vec<PathBuf>,
    hidden_in: Option<PathBuf>,
}

impl FlipMaker {
    /// Attacks `target`, which exists: a file or a directory.
    pub fn of(target: &Path) -> Self {
        FlipMaker { target: target.to_path_buf(), partners: Vec::new(), hidden_in: None }
    }

    /// Keeps the things that wait for their turn in another directory of the same filesystem. Without this they lie
    /// beside the target, as those of an attacker inside the volume must.
    #[must_use]
    pub fn hidden_in(mut self, dir: &Path) -> Self {
        self.hidden_in = Some(dir.to_path_buf());
        self
    }

    /// It becomes a symlink to `outside`: a file for a leaf, a directory for a parent.
    ///
    /// # Errors
    /// When the symlink cannot be made.
    pub fn symlink_to(mut self, outside: &Path) -> Result<Self> {
        let partner = self.partner()?;
        std::os::unix::fs::symlink(outside, &partner).with_context(|| partner.display().to_string())?;
        Ok(self)
    }

    /// It becomes a regular file with these bytes.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn file(mut self, content: &[u8]) -> Result<Self> {
        let partner = self.partner()?;
        std::fs::write(&partner, content).with_context(|| partner.display().to_string())?;
        Ok(self)
    }

    /// It becomes a directory with one file in it.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn directory(mut self) -> Result<Self> {
        let partner = self.partner()?;
        std::fs::create_dir(&partner).with_context(|| partner.display().to_string())?;
        std::fs::write(partner.join("inside"), "inside\n")?;
        Ok(self)
    }

    /// It becomes a FIFO that nobody writes to: opening it without `O_NONBLOCK` waits for ever.
    ///
    /// # Errors
    /// When the FIFO cannot be made.
    pub fn fifo(mut self) -> Result<Self> {
        let partner = self.partner()?;
        mknodat(CWD, &partner, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        Ok(self)
    }

    /// It becomes what already lies at another path of the same filesystem.
    #[must_use]
    pub fn existing(mut self, partner: &Path) -> Self {
        self.partners.push(partner.to_path_buf());
        self
    }

    /// Starts flipping: the target takes the shape of each partner in turn, and its own again, round and round.
    ///
    /// # Errors
    /// When a parent directory cannot be opened.
    ///
    /// # Panics
    /// Without a partner.
    pub fn start(self) -> Result<Flipper> {
        assert!(!self.partners.is_empty(), "nothing to flip {} with", self.target.display());
        let target = held(&self.target)?;
        let partners = self.partners.iter().map(|path| held(path)).collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let flips = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, flips) = (stop.clone(), flips.clone());
            move || flip(&target, &partners, &stop, &flips)
        });
        Ok(Flipper { stop, flips, thread: Some(thread) })
    }

    fn partner(&mut self) -> Result<PathBuf> {
        let name = self.target.file_name().context("a target with a name")?;
        let dir = match &self.hidden_in {
            Some(dir) => dir.clone(),
            None => self.target.parent().context("a target with a parent")?.to_path_buf(),
        };
        let mut partner = OsString::from(".");
        partner.push(name);
        partner.push(format!(".flip{}", self.partners.len()));
        let partner = dir.join(partner);
        self.partners.push(partner.clone());
        Ok(partner)
    }
}

impl Flipper {
    /// Exchanges so far.
    pub fn flips(&self) -> u64 {
        self.flips.load(Ordering::Relaxed)
    }

    /// Waits until at least `flips` exchanges were made, or the attack ended by itself.
    ///
    /// # Panics
    /// When that takes longer than `deadline`.
    pub fn wait_for(&self, flips: u64, deadline: Duration) {
        let start = Instant::now();
        while self.flips() < flips && self.is_running() {
            assert!(start.elapsed() < deadline, "{} of {flips} flips after {deadline:?}", self.flips());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// False once an exchange failed, for one because somebody removed a name.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the attack with every name back in its first place; returns the number of exchanges.
    ///
    /// # Errors
    /// When an exchange had failed.
    pub fn stop(mut self) -> Result<u64> {
        self.end()?;
        Ok(self.flips())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!("the flipping thread panicked"),
        }
    }
}

impl Drop for Flipper {
    fn drop(&mut self) {
        // Who wants to know calls `stop`; the test may be unwinding already.
        let _ = self.end();
    }
}

/// A name below a held directory: one lookup per exchange, and immune to flips of its own parents.
struct Held {
    dir: OwnedFd,
    name: OsString,
}

fn held(path: &Path) -> Result<Held> {
    let parent = path.parent().context("a path with a parent")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, parent, flags, Mode::empty()).with_context(|| parent.display().to_string())?;
    Ok(Held { dir, name: path.file_name().context("a path with a name")?.to_owned() })
}

fn flip(target: &Held, partners: &[Held], stop: &AtomicBool, flips: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for partner in partners {
            // There and back, so that a stop at any time finds everything where it was.
            for _ in 0..2 {
                renameat_with(&target.dir, &target.name, &partner.dir, &partner.name, RenameFlags::EXCHANGE)
                    .context("exchange")?;
                flips.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}
