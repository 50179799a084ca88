//! A host with an agent, as processes: a disk with volumes and mirrors, a state and a runtime directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::compare::{Options, compare};
use harness::lab::{Seen, wait_until};
use harness::product::{Product, Ran, agent_table};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::loopfs::LoopFs;

/// Longer than anything of a test takes, even on a busy machine.
pub const WAIT: Duration = Duration::from_secs(60);

/// The host.
pub struct Host {
    pub disk: LoopFs,
    pub product: Product,
    pub lanes: Vec<&'static str>,
    pub agent: Option<Child>,
}

impl Host {
    /// Lanes `team/NAME` with a volume and a mirror each, `more` in the settings of all.
    pub fn new(lanes: &[&'static str], more: &str) -> Self {
        let disk = LoopFs::ext4("2G");
        let base = disk.path().to_owned();
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o700)).unwrap();
        let mut text = format!("{}[defaults]\n{more}\n", agent_table());
        for lane in lanes {
            std::fs::create_dir_all(base.join("volumes").join(lane)).unwrap();
            std::fs::create_dir_all(base.join("store")).unwrap();
            text += &format!(
                "[[lane]]\nteam = \"team\"\nenv = \"{lane}\"\nvolume = \"{0}/volumes/{lane}\"\nmirror = \"{0}/store/{lane}\"\n",
                base.display()
            );
        }
        std::fs::write(base.join("tidegate.toml"), text).unwrap();
        let mut product = Product::new(&base.join("state"));
        product.env.push(("TIDEGATE_RUNTIME_DIR".to_owned(), base.join("run").display().to_string()));
        Self { disk, product, lanes: lanes.to_vec(), agent: None }
    }

    pub fn volume(&self, lane: &str) -> PathBuf {
        self.disk.path().join("volumes").join(lane)
    }

    pub fn mirror(&self, lane: &str) -> PathBuf {
        self.disk.path().join("store").join(lane)
    }

    pub fn config(&self) -> PathBuf {
        self.disk.path().join("tidegate.toml")
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) {
        let log = std::fs::File::create(self.disk.path().join("log")).unwrap();
        let mut command = self.product.command(&[Path::new("run"), Path::new("--config"), &self.config()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
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
        std::fs::read_to_string(self.disk.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    pub fn flush(&self) {
        let ran = self.ask(&["flush"]);
        assert_eq!(ran.code, 0, "{}{}\n{}", ran.stdout, ran.stderr, self.log());
    }

    #[track_caller]
    pub fn assert_equal(&self, at: &str) {
        for lane in &self.lanes {
            let report = compare(&self.volume(lane), &self.mirror(lane), &Options::default()).unwrap();
            if !report.is_same() {
                let name = report.to_string().split_once(": ").unwrap().0.trim().to_owned();
                let why = self.ask(&["why", self.mirror(lane).to_str().unwrap(), &name]);
                let ls = Command::new("find")
                    .arg(self.volume(lane))
                    .args(["-printf", "%i %n %P\n"])
                    .output()
                    .unwrap();
                panic!(
                    "{at}: {lane}: {report}\n{}\n{}\n{}",
                    self.log(),
                    why.stdout,
                    String::from_utf8_lossy(&ls.stdout)
                );
            }
        }
    }

    /// Tells it to end; how long that took.
    pub fn stop(&mut self) -> Duration {
        let mut agent = self.agent.take().expect("it runs");
        let begun = Instant::now();
        kill(Pid::from_raw(agent.id() as i32), Signal::SIGTERM).unwrap();
        let status = wait_until("the agent has ended", WAIT, || {
            Ok(agent.try_wait()?.map_or(Seen::NotYet("it runs".to_owned()), Seen::Done))
        });
        assert!(status.unwrap().success(), "{}", self.log());
        begun.elapsed()
    }

    pub fn kill(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn lane_status(&self, lane: &str) -> serde_json::Value {
        let status = self.ask(&["status", &format!("team/{lane}"), "--json"]);
        serde_json::from_str::<serde_json::Value>(&status.stdout)
            .unwrap_or_else(|e| panic!("{e}: {status:?}"))["lanes"][0]
            .clone()
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
