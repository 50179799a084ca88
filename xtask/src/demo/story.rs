//! The story, step by step; every claim is checked, and the first that fails ends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::compare::{self, Options};

use super::site::{Running, Site};
use super::{tell, volume};

/// Files staged when tidegate is killed: far from none, far from all.
const KILL_AT: usize = 1000;
/// No condition waited for here takes this long.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Tells it and returns how many proofs held.
pub fn tell(site: &Site) -> Result<usize> {
    let mut story = Story { site, proofs: 0 };
    story.first_copy()?;
    story.working_day()?;
    story.kill_in_the_middle()?;
    story.recover()?;
    story.lose_a_host()?;
    Ok(story.proofs)
}

struct Story<'a> {
    site: &'a Site,
    proofs: usize,
}

impl Story<'_> {
    fn first_copy(&mut self) -> Result<()> {
        tell::heading("A Jenkins home, and its first copy");
        let begin = Instant::now();
        volume::make(&self.volume(), 1)?;
        tell::text(&format!(
            "{} files and directories in {} made in {:.1} s",
            volume::entries(&self.volume()),
            self.site.host(0).volume,
            begin.elapsed().as_secs_f64()
        ));
        self.sync()?;
        self.generation(1)
    }

    fn working_day(&mut self) -> Result<()> {
        tell::heading("Work goes on: a new build, a log that grows, a job renamed, a build thrown away");
        volume::work(&self.volume())?;
        self.sync()?;
        self.generation(2)?;
        tell::text("And once more, with nothing changed:");
        self.sync()?;
        self.generation(2)
    }

    fn kill_in_the_middle(&mut self) -> Result<()> {
        tell::heading("A large change, and kill -9 in the middle of it");
        volume::make(&self.volume().join("archive"), 2)?;
        let mut running = self.site.start(0, &self.sync_args())?;
        let stage = self.ledger().join("stage.1");
        let staged = wait(&mut running, "enough is staged", || {
            Some(volume::entries(&stage)).filter(|staged| *staged >= KILL_AT)
        })?;
        let pid = running.pid();
        running.kill()?;
        tell::typed(&self.site.host(0).name, &format!("kill -9 {pid}"));
        tell::text(&format!("killed with {staged} names in the stage; what does the other host see?"));
        self.site.tidegate(1, &["verify", &self.site.host(1).mirror], &[0])?;
        self.prove("the mirror is still exactly generation 2");
        self.generation(2)?;
        tell::text("The same command again goes on where it stopped:");
        let mut args = self.sync_args();
        args.push("--json");
        let report: serde_json::Value = serde_json::from_str(&self.site.tidegate(0, &args, &[0])?.stdout)
            .context("the report of sync")?;
        let number = |key: &str| report[key].as_u64().with_context(|| format!("{key} in the report"));
        tell::printed(&format!(
            "generation {}: {} names staged, of which {} files were there already; {} MiB sent",
            number("generation")?,
            number("staged")?,
            number("resumed")?,
            number("bytes_sent")? >> 20
        ));
        ensure!(number("resumed")? > 0, "nothing was resumed");
        self.prove("the killed run's work was not lost");
        self.generation(3)
    }

    fn recover(&mut self) -> Result<()> {
        tell::heading("The other host: recover the volume there");
        let host = self.site.host(1);
        self.site.tidegate(1, &["recover", &host.mirror, &host.volume], &[0])?;
        self.same(&self.volume(), &host.local.join("jenkins_home"))?;
        self.site.tidegate(1, &["verify", &host.volume, &host.mirror], &[0])?;
        self.prove("tidegate verify agrees");
        Ok(())
    }

    fn lose_a_host(&mut self) -> Result<()> {
        tell::heading(if self.site.is_cluster() {
            "The first host dies, all of it, while a sealed generation is being published"
        } else {
            "The first installation dies while a sealed generation is being published"
        });
        let touched = volume::touch_all(&self.volume())?;
        tell::text(&format!("{touched} files changed in as many directories"));
        let mut running = self.site.start(0, &self.sync_args())?;
        // Where the survivor sees it.
        let commit = self.site.host(1).storage.join(".tidegate/blue/commit").join(format!("{:020}", 4));
        wait(&mut running, "generation 4 is sealed", || commit.exists().then_some(()))?;
        if self.site.is_cluster() {
            self.site.kill_first_host()?;
            tell::text("generation 4 is sealed: host0 loses power");
        } else {
            tell::text(&format!("generation 4 is sealed: kill -9 {}", running.pid()));
        }
        running.kill()?;
        let host = self.site.host(1);
        let target = format!("{}-after", host.volume);
        // Not half of it: a recovery refuses what only the writer may finish. Had the publish been faster than
        // the kill, it would simply succeed.
        let first = self.site.tidegate(1, &["recover", &host.mirror, &target], &[0, 3])?;
        if first.code == 3 {
            tell::text("host0 will not come back, so host1 takes the lane over:");
            self.site.tidegate(1, &["recover", &host.mirror, &target, "--take-over"], &[0])?;
            tell::text("(generation 5 is the mark of the take-over; it changes nothing)");
        }
        self.same(&self.volume(), &host.local.join("jenkins_home-after"))?;
        self.site.tidegate(1, &["verify", &host.mirror], &[0])?;
        self.site.tidegate(1, &["status", &host.mirror], &[0])?;
        self.prove("what was sealed is whole, though its writer died in the middle");
        Ok(())
    }

    fn sync_args(&self) -> Vec<&str> {
        vec!["sync", &self.site.host(0).volume, &self.site.host(0).mirror, "--once"]
    }

    fn sync(&self) -> Result<()> {
        self.site.tidegate(0, &self.sync_args(), &[0]).map(drop)
    }

    fn volume(&self) -> PathBuf {
        self.site.host(0).local.join("jenkins_home")
    }

    fn ledger(&self) -> PathBuf {
        self.site.host(0).storage.join(".tidegate/blue")
    }

    /// What is sealed is generation `g` and nothing above it.
    fn generation(&mut self, g: u64) -> Result<()> {
        let commit = self.ledger().join("commit");
        let newest = fs::read_dir(&commit)?.flatten().map(|entry| entry.file_name()).max();
        let expected = format!("{g:020}");
        ensure!(
            newest.as_ref().is_some_and(|name| *name == *expected),
            "newest generation: {newest:?}, not {g}"
        );
        Ok(())
    }

    /// Compares with code that shares nothing with tidegate.
    fn same(&mut self, truth: &Path, copy: &Path) -> Result<()> {
        let begin = Instant::now();
        let report = compare::compare(truth, copy, &Options::default())?;
        ensure!(report.is_same(), "the recovered volume differs:\n{report}");
        self.prove(&format!(
            "{} names, {} files, {} MiB are equal in content, owner, mode, time and attributes ({:.1} s, an independent comparer)",
            report.entries,
            report.files,
            report.bytes >> 20,
            begin.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn prove(&mut self, text: &str) {
        self.proofs += 1;
        tell::proven(text);
    }
}

/// Looks every few milliseconds until there is something, while a command runs.
fn wait<T>(running: &mut Running, what: &str, look: impl Fn() -> Option<T>) -> Result<T> {
    let end = Instant::now() + WAIT_LIMIT;
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if running.has_ended()? {
            bail!("tidegate ended before {what}");
        }
        if Instant::now() >= end {
            bail!("waited {WAIT_LIMIT:?} until {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
