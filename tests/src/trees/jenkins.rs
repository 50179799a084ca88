//! A tree shaped like a Jenkins home: many small XML files, logs of all sizes, some large plugins and artifacts.
//!
//! It is planned first (pure, exact counts) and written second.

use super::put::{Putter, write_all};
use super::{Made, Rng};
use anyhow::{Result, ensure};
use std::path::Path;

/// How large a tree to make; the directories count the root, as `find -type d` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JenkinsSize {
    /// Regular files.
    pub files: usize,
    /// Directories, the root among them.
    pub directories: usize,
    /// Bytes of content.
    pub bytes: u64,
    /// Seed of sizes and contents.
    pub seed: u64,
}

impl JenkinsSize {
    /// The reference tree of the measurements: 12,900 files, 5,002 directories, 1.4 GB.
    pub const FULL: JenkinsSize =
        JenkinsSize { files: 12_900, directories: 5_002, bytes: 1_400_000_000, seed: 1 };
    /// A tenth of it: 1,290 files, 501 directories, 138 MB.
    pub const TENTH: JenkinsSize =
        JenkinsSize { files: 1_290, directories: 501, bytes: 138_000_000, seed: 1 };
    /// A hundredth of it: 129 files, 51 directories, 14 MB.
    pub const HUNDREDTH: JenkinsSize =
        JenkinsSize { files: 129, directories: 51, bytes: 14_000_000, seed: 1 };

    /// The reference tree divided by `n`; 10 and 100 are the named sizes.
    pub fn one_in(n: usize) -> Self {
        match n {
            0 | 1 => Self::FULL,
            10 => Self::TENTH,
            100 => Self::HUNDREDTH,
            _ => JenkinsSize {
                files: (Self::FULL.files / n).max(60),
                directories: (Self::FULL.directories / n).max(25),
                bytes: (Self::FULL.bytes / n as u64).max(2_000_000),
                seed: 1,
            },
        }
    }
}

/// One planned file.
struct PlannedFile {
    name: String,
    bytes: u64,
    mode: u32,
}

struct Plan {
    directories: Vec<String>,
    files: Vec<PlannedFile>,
}

/// Makes the tree in `dir`, owned by 1000:1000, with exactly the files, directories and bytes asked for.
///
/// # Errors
/// When the size is too small for the shape, or the filesystem refuses.
pub fn jenkins(dir: &Path, size: JenkinsSize) -> Result<Made> {
    let plan = plan(size)?;
    let mut put = Putter::new(dir);
    let mut rng = Rng::new(size.seed.wrapping_add(1));
    let pool = rng.bytes(POOL);
    for name in &plan.directories {
        put.dir(name.as_bytes())?;
    }
    let mut id = size.seed << 32;
    for file in &plan.files {
        let fd = put.file(file.name.as_bytes(), &[])?;
        let mut at = 0;
        while at < file.bytes {
            let len = CHUNK.min(file.bytes - at);
            id += 1;
            write_chunk(&fd, &pool, &mut rng, id, at, len)?;
            at += len;
        }
        put.made.bytes += file.bytes;
        put.owner(file.name.as_bytes(), OWNER, OWNER)?;
        if file.mode != 0o644 {
            put.mode(file.name.as_bytes(), file.mode)?;
        }
        let time = EPOCH + rng.below(300 * 86_400) as i64;
        put.mtime(file.name.as_bytes(), (time, rng.below(1_000_000_000) as u32))?;
    }
    for name in plan.directories.iter().rev() {
        put.owner(name.as_bytes(), OWNER, OWNER)?;
        if name == "secrets" {
            put.mode(name.as_bytes(), 0o700)?;
        }
        let time = EPOCH + rng.below(300 * 86_400) as i64;
        put.mtime(name.as_bytes(), (time, rng.below(1_000_000_000) as u32))?;
    }
    put.owner(b"", OWNER, OWNER)?;
    Ok(put.made)
}

const OWNER: u32 = 1000;
const EPOCH: i64 = 1_720_000_000;
const POOL: usize = 4 << 20;
const CHUNK: u64 = 256 << 10;

/// Random bytes from the pool, with a number of its own at the front so that no two chunks are equal.
fn write_chunk(
    fd: &std::os::fd::OwnedFd,
    pool: &[u8],
    rng: &mut Rng,
    id: u64,
    at: u64,
    len: u64,
) -> Result<()> {
    let len = len as usize;
    let from = rng.index(POOL - len + 1);
    let stamp = id.to_le_bytes();
    if len <= stamp.len() {
        write_all(fd, &pool[from..from + len], at)?;
        return Ok(());
    }
    write_all(fd, &pool[from..from + len], at)?;
    write_all(fd, &stamp, at)?;
    Ok(())
}

/// Names and sizes; pure.
fn plan(size: JenkinsSize) -> Result<Plan> {
    let mut rng = Rng::new(size.seed);
    let mut plan = Plan { directories: Vec::new(), files: Vec::new() };
    plan.frame(size, &mut rng);
    plan.jobs(size, &mut rng);
    ensure!(
        plan.files.len() <= size.files && plan.directories.len() < size.directories,
        "{} files in {} directories is too small for the shape",
        size.files,
        size.directories
    );
    // What the builds did not fill is what Jenkins keeps beside them: fingerprints.
    while plan.directories.len() + 1 < size.directories {
        let n = plan.directories.len();
        plan.directories.push(format!("fingerprints/{n:04x}"));
    }
    let buckets: Vec<String> =
        plan.directories.iter().filter(|d| d.starts_with("fingerprints")).cloned().collect();
    while plan.files.len() < size.files {
        let n = plan.files.len();
        let name = format!("{}/{:08x}.xml", buckets[n % buckets.len()], rng.bits() as u32);
        plan.file(name, rng.between(300, 1500));
    }
    plan.fit(size.bytes)?;
    Ok(plan)
}

impl Plan {
    fn dir(&mut self, name: impl Into<String>) {
        self.directories.push(name.into());
    }

    fn file(&mut self, name: impl Into<String>, bytes: u64) {
        self.files.push(PlannedFile { name: name.into(), bytes, mode: 0o644 });
    }

    /// What a Jenkins home has besides jobs.
    fn frame(&mut self, size: JenkinsSize, rng: &mut Rng) {
        for name in
            ["jobs", "plugins", "secrets", "nodes", "users", "userContent", "updates", "logs", "fingerprints"]
        {
            self.dir(name);
        }
        for name in [
            "config.xml",
            "credentials.xml",
            "hudson.model.UpdateCenter.xml",
            "nodeMonitors.xml",
            "queue.xml",
        ] {
            self.file(name, rng.between(300, 20_000));
        }
        for name in ["master.key", "hudson.util.Secret", "org.jenkinsci.main.modules.instance_identity"] {
            self.files.push(PlannedFile {
                name: format!("secrets/{name}"),
                bytes: rng.between(32, 300),
                mode: 0o600,
            });
        }
        self.file("updates/default.json", rng.between(200_000, 900_000));
        for i in 0..(size.files / 130).max(3) {
            let bytes = rng.between(20_000, 1_500_000);
            self.file(format!("plugins/plugin-{i:03}.jpi"), bytes);
        }
        for i in 0..(size.directories / 500).max(1) {
            self.dir(format!("nodes/agent-{i}"));
            self.file(format!("nodes/agent-{i}/config.xml"), rng.between(500, 2000));
            self.dir(format!("users/user-{i}"));
            self.file(format!("users/user-{i}/config.xml"), rng.between(500, 4000));
        }
    }

    /// Jobs with builds, until nine tenths of the directories are used.
    fn jobs(&mut self, size: JenkinsSize, rng: &mut Rng) {
        let mut job = 0;
        loop {
            self.dir(format!("jobs/job-{job:03}"));
            self.dir(format!("jobs/job-{job:03}/builds"));
            self.file(format!("jobs/job-{job:03}/config.xml"), rng.between(800, 12_000));
            self.file(format!("jobs/job-{job:03}/nextBuildNumber"), 3);
            for build in 1..=rng.between(20, 60) {
                // A build is two directories and at most eight files; stop before either count could be passed.
                if self.directories.len() + 5 > size.directories * 9 / 10
                    || self.files.len() + 30 > size.files
                {
                    return;
                }
                self.build(&format!("jobs/job-{job:03}/builds/{build}"), rng);
            }
            job += 1;
        }
    }

    fn build(&mut self, at: &str, rng: &mut Rng) {
        self.dir(at);
        self.file(format!("{at}/build.xml"), rng.between(1500, 20_000));
        let log = if rng.percent(95) { rng.between(300, 60_000) } else { rng.between(200_000, 4_000_000) };
        self.file(format!("{at}/log"), log);
        self.file(format!("{at}/changelog.xml"), rng.between(300, 3000));
        self.dir(format!("{at}/workflow"));
        for i in 2..2 + rng.between(1, 2) {
            self.file(format!("{at}/workflow/{i}.xml"), rng.between(600, 2500));
        }
    }

    /// Grows a few plugins to 10–60 MB, then one file by what is left, so that the sum is exact.
    fn fit(&mut self, bytes: u64) -> Result<()> {
        let mut sum: u64 = self.files.iter().map(|file| file.bytes).sum();
        // A tree too small for its share of mid-sized files gets smaller ones.
        for file in &mut self.files {
            if sum > bytes && file.bytes > 20_000 {
                sum -= file.bytes - 2_000;
                file.bytes = 2_000;
            }
        }
        ensure!(sum <= bytes, "{bytes} bytes are too few for {} files", self.files.len());
        let plugins = self.files.iter_mut().filter(|file| file.name.starts_with("plugins/"));
        for (step, file) in (0..).zip(plugins) {
            let more = (10_000_000 + step * 7_000_000 % 50_000_000).min(bytes - sum);
            file.bytes += more;
            sum += more;
        }
        if let Some(file) = self.files.iter_mut().find(|file| file.name.starts_with("plugins/")) {
            file.bytes += bytes - sum;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_size_is_planned_exactly() {
        for n in [1, 10, 100, 37] {
            let size = JenkinsSize::one_in(n);
            let plan = plan(size).unwrap();
            assert_eq!(plan.files.len(), size.files, "files of 1/{n}");
            assert_eq!(plan.directories.len() + 1, size.directories, "directories of 1/{n}");
            assert_eq!(plan.files.iter().map(|f| f.bytes).sum::<u64>(), size.bytes, "bytes of 1/{n}");
            let mut names: Vec<&String> =
                plan.files.iter().map(|f| &f.name).chain(&plan.directories).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "a name was planned twice in 1/{n}");
            if n == 1 {
                let small = plan.files.iter().filter(|f| (300..=20_000).contains(&f.bytes)).count();
                let large = plan.files.iter().filter(|f| f.bytes >= 10_000_000).count();
                let largest = plan.files.iter().map(|f| f.bytes).max().unwrap();
                println!("small {small}, 10 MB and more {large}, largest {largest}");
                assert!(
                    small * 10 >= plan.files.len() * 7 && (5..60).contains(&large) && largest < 80_000_000
                );
            }
        }
    }
}
