//! What a process used, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

/// Units of utime and stime in `/proc` (`USER_HZ`), on every architecture that Linux has left.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters of a process and all of its threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// utime + stime in seconds; ended threads are in it.
    pub cpu: f64,
    /// Time on a processor in seconds, to the nanosecond, of the threads that live.
    pub on_cpu: f64,
    /// Voluntary context switches of the threads that live.
    pub voluntary: u64,
    /// Involuntary ones.
    pub involuntary: u64,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Of it what is backed by no file.
    pub anonymous: u64,
    /// Its peak.
    pub peak: u64,
    /// Threads.
    pub threads: u64,
}

impl Usage {
    /// Of a process, now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may have spaces and parentheses in it.
        let (_, fields) = stat.rsplit_once(") ").context("the name in a stat")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("a short stat")?.parse()?) };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut usage = Self {
            cpu: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
            rss: number(&status, "VmRSS:") << 10,
            anonymous: number(&status, "RssAnon:") << 10,
            peak: number(&status, "VmHWM:") << 10,
            threads: number(&status, "Threads:"),
            ..Self::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may have ended meanwhile.
            let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
            usage.voluntary += number(&status, "voluntary_ctxt_switches:");
            usage.involuntary += number(&status, "nonvoluntary_ctxt_switches:");
            let Ok(run) = fs::read_to_string(task.join("schedstat")) else { continue };
            let nanos: u64 = run.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            usage.on_cpu += Duration::from_nanos(nanos).as_secs_f64();
        }
        Ok(usage)
    }

    /// What was used after `earlier`; memory as it is now.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            cpu: self.cpu - earlier.cpu,
            on_cpu: self.on_cpu - earlier.on_cpu,
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
            ..*self
        }
    }

    /// For a report.
    pub fn json(&self) -> Value {
        json!({
            "cpu_seconds": rounded(self.cpu),
            "on_cpu_seconds": rounded(self.on_cpu),
            "voluntary_switches": self.voluntary,
            "involuntary_switches": self.involuntary,
            "rss_mb": mega(self.rss),
            "anonymous_mb": mega(self.anonymous),
            "peak_mb": mega(self.peak),
            "threads": self.threads,
        })
    }
}

/// CPU seconds of the children that ended and were waited for.
///
/// # Errors
/// Never in practice.
pub fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// Processes that ran or wanted to, over the last minute: how far a time can be trusted.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Share of the machine's processor time since `earlier` that somebody used, from `/proc/stat`.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    busy: f64,
    all: f64,
}

impl Machine {
    /// As of now.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("an empty stat")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        let all: f64 = ticks.iter().take(8).sum();
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        Ok(Self { busy: (all - idle) / TICKS_PER_SECOND, all: all / TICKS_PER_SECOND })
    }

    /// CPU seconds that everybody used since `earlier`.
    pub fn busy_since(&self, earlier: &Machine) -> f64 {
        self.busy - earlier.busy
    }

    /// Of how many.
    pub fn all_since(&self, earlier: &Machine) -> f64 {
        self.all - earlier.all
    }
}

/// Three digits behind the point are more than any of these figures has.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Bytes in megabytes, with one digit.
pub fn mega(bytes: u64) -> f64 {
    (bytes as f64 / 1e5).round() / 10.0
}

fn number(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id() as i32).unwrap();
        assert!(usage.rss > 0 && usage.peak >= usage.rss && usage.threads >= 1, "{usage:?}");
        assert_eq!(number("A:\t7 kB\nB:\t8\n", "B:"), 8);
    }
}
