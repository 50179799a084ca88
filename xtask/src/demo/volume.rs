//! The volume of the story: a Jenkins home, and what happens in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::trees::{JenkinsSize, jenkins};

/// Jobs that every tree made here has.
const JOBS: usize = 4;
/// Owner of a Jenkins home; only root can give files away.
const JENKINS: u32 = 1000;

/// Makes a Jenkins home of a tenth of the reference tree: 1,290 files, 138 MB. `seed` makes another one.
pub fn make(dir: &Path, seed: u64) -> Result<()> {
    fs::create_dir_all(dir)?;
    let uid = nix::unistd::geteuid();
    if uid.is_root() || uid.as_raw() == JENKINS {
        jenkins(dir, JenkinsSize { seed, ..JenkinsSize::TENTH }).map(drop)
    } else {
        plain(dir, seed)
    }
}

/// The same shape for a user who cannot give files to Jenkins.
fn plain(dir: &Path, seed: u64) -> Result<()> {
    for job in 0..JOBS {
        for build in 1..=150 {
            let build = dir.join(format!("jobs/job-{job:03}/builds/{build}"));
            fs::create_dir_all(&build)?;
            fs::write(build.join("build.xml"), format!("<build seed='{seed}'/>\n").repeat(100))?;
            fs::write(build.join("changelog.xml"), "<changes/>\n")?;
            fs::write(build.join("log"), format!("{seed} {job} ok\n").repeat(10_000))?;
        }
    }
    Ok(())
}

/// A working day: a build begins, a log grows, a job is renamed, an old build is thrown away.
pub fn work(dir: &Path) -> Result<()> {
    let jobs = dir.join("jobs");
    let build = jobs.join("job-000/builds/1001");
    fs::create_dir_all(&build)?;
    fs::write(build.join("build.xml"), "<build><result>SUCCESS</result></build>\n")?;
    fs::write(build.join("log"), "Started by timer\n".repeat(5000))?;
    append(&jobs.join("job-000/builds/1/log"), "Finished: SUCCESS\n")?;
    fs::rename(jobs.join("job-001"), jobs.join("job-renamed"))?;
    fs::remove_dir_all(jobs.join("job-000/builds/2")).context("throw a build away")
}

/// Every build of all jobs gets a line more: many small changes in many directories. Returns how many.
pub fn touch_all(dir: &Path) -> Result<usize> {
    let mut touched = 0;
    for job in list(&dir.join("jobs"))? {
        for build in list(&job.join("builds"))? {
            append(&build.join("build.xml"), "<!-- seen -->\n")?;
            touched += 1;
        }
    }
    Ok(touched)
}

/// Names below `dir`, counted while somebody else writes there.
pub fn entries(dir: &Path) -> usize {
    let Ok(listed) = fs::read_dir(dir) else { return 0 };
    listed
        .flatten()
        .map(
            |entry| {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) { 1 + entries(&entry.path()) } else { 1 }
            },
        )
        .sum()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    listed.map(|entry| Ok(entry?.path())).collect()
}

fn append(path: &Path, text: &str) -> Result<()> {
    let mut file = File::options().append(true).open(path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}
