//! The line between a writer and whoever drives it: a number of changes each way.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::chaos::Chaos;
use super::silent::{Silent, Way};

/// What a writer does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Writes to one file without an event, again and again.
    Silent(Way, PathBuf),
    /// Anything, from a seed: in a volume, and in a directory beside it on the same file system.
    Chaos(u64, PathBuf, PathBuf),
}

/// A writer, seen from outside. Dropped, it is killed.
pub struct Writer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Writer {
    /// Starts the program `writer`, which is at `program`.
    ///
    /// # Errors
    /// It cannot be started, or its file cannot be opened.
    pub fn start(program: &Path, work: &Work) -> Result<Self> {
        let mut command = Command::new(program);
        match work {
            Work::Silent(way, file) => command.arg("silent").arg(way.name()).arg(file),
            Work::Chaos(seed, volume, beside) => {
                command.arg("chaos").arg(seed.to_string()).arg(volume).arg(beside)
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let orders = child.stdin.take().context("its standard input")?;
        let answers = BufReader::new(child.stdout.take().context("its standard output")?);
        let mut writer = Self { child, orders, answers };
        writer.wait()?;
        Ok(writer)
    }

    /// Has it make `changes`, and does not wait for that.
    ///
    /// # Errors
    /// It has ended.
    pub fn begin(&mut self, changes: u64) -> Result<()> {
        writeln!(self.orders, "{changes}").context("tell a writer to go on")
    }

    /// Waits until it is at rest; returns how many of its changes took place.
    ///
    /// # Errors
    /// It has ended.
    pub fn wait(&mut self) -> Result<u64> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "a writer has ended: {:?}", self.child.wait());
        line.trim().parse().with_context(|| format!("a writer said {line:?}"))
    }
}

/// All make `changes` each, and `meanwhile` is called once and again until all rest; returns how many changes took place.
///
/// # Errors
/// A writer has ended.
pub fn stir(writers: &mut [Writer], changes: u64, mut meanwhile: impl FnMut()) -> Result<u64> {
    writers.iter_mut().try_for_each(|writer| writer.begin(changes))?;
    let (count, (said, heard)) = (writers.len(), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        for writer in writers {
            let said = said.clone();
            scope.spawn(move || said.send(writer.wait()));
        }
        let mut rested = Vec::new();
        while rested.len() < count {
            meanwhile();
            rested.extend(heard.try_iter());
        }
        rested.into_iter().sum()
    })
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program `writer`: carries out orders until there are no more.
///
/// # Errors
/// Wrong arguments, or its file cannot be opened.
pub fn serve(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<()> {
    let mut next = || args.next().context("an argument is missing");
    let mode = next()?;
    let mut act: Box<dyn FnMut() -> Result<bool>> = match mode.to_str() {
        Some("silent") => {
            let mut silent = Silent::open(Way::parse(&next()?)?, Path::new(&next()?))?;
            Box::new(move || silent.act().map(|()| true))
        }
        Some("chaos") => {
            let seed = next()?.to_string_lossy().parse().context("a seed")?;
            let mut chaos = Chaos::new(seed, Path::new(&next()?), Path::new(&next()?));
            // What a race with the others makes impossible is no error.
            Box::new(move || Ok(chaos.act().is_ok()))
        }
        _ => bail!("no such work: {mode:?}"),
    };
    let answer = |n: u64| -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{n}")?;
        out.flush().context("answer")
    };
    answer(0)?;
    for order in std::io::stdin().lock().lines() {
        let mut done = 0;
        for _ in 0..order?.trim().parse::<u64>().context("an order")? {
            done += u64::from(act()?);
        }
        answer(done)?;
    }
    Ok(())
}
