//! The product as its users have it: the program `tidegate`, run with a state directory of its own.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Finished, run};

/// More than any command of a test takes, even in a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// The program: `TIDEGATE_BIN`, or the one built beside the running test.
///
/// # Panics
/// It was not built: `cargo build -p tidegate` does that.
pub fn program() -> PathBuf {
    if let Some(given) = env::var_os("TIDEGATE_BIN") {
        return given.into();
    }
    let test = env::current_exe().expect("a test knows where it is");
    let built = test.ancestors().skip(1).take(3).map(|dir| dir.join("tidegate")).find(|path| path.is_file());
    built.unwrap_or_else(|| panic!("no program beside {}: cargo build -p tidegate", test.display()))
}

/// One installation: a host, as far as the product can tell.
#[derive(Clone, Debug)]
pub struct Product {
    /// Its state directory.
    pub state: PathBuf,
    /// Further environment.
    pub env: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it remarked.
    pub stderr: String,
}

impl Product {
    /// An installation whose state is in `state`, which need not exist.
    pub fn new(state: &Path) -> Product {
        Product { state: state.to_owned(), env: Vec::new() }
    }

    /// A command, not yet started.
    pub fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(program());
        command.args(args).env("TIDEGATE_STATE_DIR", &self.state).env_remove("TIDEGATE_LOG");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// It did not start, did not end in time, or was killed.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Ran {
        let finished: Finished = match run(&mut self.command(args), LIMIT) {
            Ok(finished) => finished,
            Err(error) => panic!("{error:#}"),
        };
        let Some(code) = finished.status.code() else { panic!("killed: {}", finished.explain()) };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code, stdout: text(&finished.stdout), stderr: text(&finished.stderr) }
    }

    /// Starts a command and lets it run.
    ///
    /// # Errors
    /// It did not start.
    pub fn start<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Child> {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("start the product")
    }
}

impl Ran {
    /// Demands an exit code.
    ///
    /// # Panics
    /// It was another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The document of `--json`.
    ///
    /// # Panics
    /// It is not exactly one.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Demands that a text appears in one of the outputs.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Ran {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "{text:?} is not in stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Every name below `dir` with what a change would leave its mark on: inode, mode, size, both times, content.
///
/// # Panics
/// Something cannot be read.
pub fn snapshot(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let content = if meta.is_file() {
            blake3::hash(&fs::read(&path).unwrap()).to_string()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        lines.push(format!(
            "{:?} ino {} mode {:o} size {} mtime {}.{} ctime {}.{} {content}",
            path,
            meta.ino(),
            meta.mode(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        ));
        if meta.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

/// The table `[agent]` of a configuration on this machine: processes that hide even from root, which no test starts, write
/// to no volume.
pub fn agent_table() -> String {
    let mut scanner = sys::procfs::Scanner::default();
    while let Ok(sys::procfs::Seen::Part) = scanner.scan(&mut |_| {}) {
        match scanner.refused.take() {
            Some((name, _)) => scanner.harmless.push(name),
            None => break,
        }
    }
    format!("[agent]\nnot_writers = {:?}\n", scanner.harmless)
}
