//! What people and scripts see.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cycle::Progress;

/// Where output goes, and in which form.
pub struct Ui {
    json: bool,
}

impl Ui {
    /// Text for people, or JSON for scripts.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// True for scripts.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// One line for people; nothing in JSON.
    pub fn line(&self, text: impl std::fmt::Display) {
        if !self.json {
            let _ = writeln!(anstream::stdout(), "{text}");
        }
    }

    /// One document for scripts; nothing for people.
    pub fn document(&self, value: &impl serde::Serialize) {
        if self.json
            && let Ok(text) = serde_json::to_string(value)
        {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// A remark that must be seen in either form, on standard error.
    pub fn remark(&self, text: impl std::fmt::Display) {
        let _ = writeln!(anstream::stderr(), "{text}");
    }

    /// Shows `progress` until the guard is dropped: on a terminal, and only for people.
    pub fn show(&self, progress: &Arc<Progress>) -> Shown {
        if self.json || !std::io::stderr().is_terminal() {
            return Shown { stop: Arc::new(AtomicBool::new(true)), thread: None };
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, progress) = (stop.clone(), progress.clone());
        let thread = std::thread::spawn(move || draw(&progress, &seen));
        Shown { stop, thread: Some(thread) }
    }
}

/// A progress display; gone when dropped.
pub struct Shown {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn draw(progress: &Progress, stop: &AtomicBool) {
    let bar = ProgressBar::new(0);
    let template = "{bar:28} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    while !stop.load(Ordering::Relaxed) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let known = load(&progress.entries_known);
        if known > 0 {
            bar.set_length(load(&progress.bytes_known).max(1));
            bar.set_position(load(&progress.bytes));
            bar.set_message(format!("{} of {known} files", load(&progress.entries)));
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    bar.finish_and_clear();
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A number with thousands separated.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// A length of time as people say it.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A point in time as people read it, in UTC.
pub fn when(time: proto::Time) -> String {
    match jiff::Timestamp::new(time.sec, time.nsec.try_into().unwrap_or(0)) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        // Files may carry times that no calendar has.
        Err(_) => format!("{}.{:09} s", time.sec, time.nsec),
    }
}
