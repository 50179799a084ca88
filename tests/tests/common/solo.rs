//! A host with an agent and one lane, `team/blue`, whose volume, disk and way to be started a test chooses.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use harness::compare::{Options, compare};
use harness::lab::{Seen, wait_until};
use harness::product::{Product, Ran, agent_table};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::loopfs::LoopFs;

/// More than anything takes.
pub const WAIT: Duration = Duration::from_secs(60);

/// One lane, `team/blue`.
pub struct Host {
    pub disk: LoopFs,
    pub product: Product,
    /// `docker:NAME`, or the volume's directory.
    pub source: String,
    pub agent: Option<Child>,
}

impl Host {
    /// A lane with `more` in its settings.
    pub fn new(more: &str) -> Self {
        Self::on(LoopFs::ext4("2G"), more)
    }

    /// The same with everything on `disk`.
    pub fn on(disk: LoopFs, more: &str) -> Self {
        let base = disk.path().to_owned();
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::create_dir(base.join("volume")).unwrap();
        std::fs::create_dir(base.join("store")).unwrap();
        let mut product = Product::new(&base.join("state"));
        product.env.push(("TIDEGATE_RUNTIME_DIR".to_owned(), base.join("run").display().to_string()));
        product.env.push(("NO_COLOR".to_owned(), "1".to_owned()));
        let source = base.join("volume").display().to_string();
        let host = Self { disk, product, source, agent: None };
        host.configure(more);
        host
    }

    pub fn configure(&self, more: &str) {
        let text = format!(
            "{}[[lane]]\nteam = \"team\"\nenv = \"blue\"\nvolume = \"{}\"\nmirror = \"{}\"\n{more}\n",
            agent_table(),
            self.source,
            self.mirror().display()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    pub fn volume(&self) -> PathBuf {
        self.at("volume")
    }

    pub fn mirror(&self) -> PathBuf {
        self.at("store").join("blue")
    }

    pub fn config(&self) -> PathBuf {
        self.at("tidegate.toml")
    }

    /// A program in the volume's disk, of `text`.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) {
        let mut command = self.product.command(&[Path::new("run"), Path::new("--config"), &self.config()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.start_as(command);
    }

    pub fn start_as(&mut self, mut command: std::process::Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.at("log")).unwrap();
        self.agent = Some(command.stderr(log).spawn().unwrap());
        wait_until("the agent answers", WAIT, || {
            let ran = self.ask(&["status"]);
            Ok(Seen::when(!ran.stderr.contains("no agent runs here"), || ran.stderr))
        })
        .unwrap();
    }

    pub fn ask(&self, args: &[&str]) -> Ran {
        self.product.run(args)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn flush(&self) {
        let ran = self.ask(&["flush"]);
        assert_eq!(ran.code, 0, "{}{}\n{}", ran.stdout, ran.stderr, self.log());
    }

    #[track_caller]
    pub fn assert_equal(&self) {
        let report = compare(&self.volume(), &self.mirror(), &Options::default()).unwrap();
        assert!(report.is_same(), "{report}\n{}", self.log());
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.agent.as_ref().expect("it runs").id() as i32)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn kill(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Ends it as a supervisor does.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let mut agent = self.agent.take().expect("it runs");
        let status = wait_until("the agent has ended", WAIT, || {
            Ok(agent.try_wait()?.map_or(Seen::NotYet("it runs".to_owned()), Seen::Done))
        });
        assert!(status.unwrap().success(), "{}", self.log());
    }

    pub fn lane(&self) -> serde_json::Value {
        let status = self.ask(&["status", "team/blue", "--json"]);
        serde_json::from_str::<serde_json::Value>(&status.stdout)
            .unwrap_or_else(|e| panic!("{e}: {status:?}"))["lanes"][0]
            .clone()
    }

    #[track_caller]
    pub fn wait_for_phase(&self, phase: &str) {
        wait_until(phase, WAIT, || {
            let lane = self.lane();
            Ok(Seen::when(lane["phase"] == phase, || lane.to_string()))
        })
        .unwrap();
    }

    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(text, WAIT, || Ok(Seen::when(self.log().contains(text), || self.log()))).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
