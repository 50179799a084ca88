//! The switch between the hosts, and cutting it.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::host::{Host, SEARCH_PATH};
use super::procfs;
use super::run::{Seen, run_with_input, wait_child, wait_until};

/// First three bytes of every address. All labs use the same ones: each has a switch of its own, so they never
/// meet.
const NETWORK: &str = "10.78.0";
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// Address of a host, by its number.
pub(super) fn address(host: usize) -> String {
    format!("{NETWORK}.{}", 10 + host)
}

/// `/etc/hosts` of every host.
pub(super) fn hosts_file(names: &[String]) -> String {
    let lines = names.iter().enumerate().map(|(host, name)| format!("{} {name}\n", address(host)));
    std::iter::once("127.0.0.1 localhost\n".to_owned()).chain(lines).collect()
}

/// A network namespace with a bridge, held by a process that ends with its owner.
#[derive(Debug)]
pub(super) struct Switch {
    holder: Child,
    input: ChildStdin,
}

impl Switch {
    pub(super) fn start() -> Result<Switch> {
        let mut holder = Command::new("unshare")
            .args(["--net", "cat"])
            .env("PATH", SEARCH_PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start unshare")?;
        let input = holder.stdin.take().context("unshare without an input")?;
        let switch = Switch { holder, input };
        let ours = procfs::namespace(std::process::id() as i32, "net");
        wait_until("the switch has its own network namespace", STEP_LIMIT, || {
            let seen = procfs::namespace(switch.pid(), "net");
            Ok(Seen::when(seen.is_some() && seen != ours, || format!("{seen:?}")))
        })?;
        switch.ip("link add switch type bridge\nlink set switch up\n")?;
        Ok(switch)
    }

    /// Gives a host an interface `eth0` that ends in the switch.
    pub(super) fn connect(&self, host: usize, init: i32) -> Result<()> {
        self.ip(&format!("link add host{host} type veth peer name eth0 netns {init}\nlink set host{host} master switch up\n"))
    }

    /// Ends the holder; the bridge goes with it. False when it is stuck.
    pub(super) fn stop(mut self, limit: Duration) -> bool {
        drop(self.input);
        let _ = self.holder.kill();
        wait_child(&mut self.holder, limit).is_ok_and(|status| status.is_some())
    }

    fn pid(&self) -> i32 {
        self.holder.id() as i32
    }

    fn ip(&self, batch: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid().to_string(), "--net", "ip", "-batch", "-"])
            .env("PATH", SEARCH_PATH);
        let done = run_with_input(&mut command, batch.as_bytes(), STEP_LIMIT)?;
        if !done.status.success() {
            bail!("ip in the switch, {batch:?}: {}", done.explain());
        }
        Ok(())
    }
}

/// Silent loss on `eth0`, in both directions, to and from `$peers` (an address or a network).
///
/// Own chains in the raw table come before everything a Docker engine on the host sets up, also catch the
/// traffic of its containers, and can be emptied without touching its rules.
const DROP: &str = r#"
peers=$1 own=$2
if ! iptables -w -t raw -n -L LAB-IN >/dev/null 2>&1; then
    iptables -w -t raw -N LAB-IN
    iptables -w -t raw -N LAB-OUT
    iptables -w -t raw -I PREROUTING -j LAB-IN
    iptables -w -t raw -I OUTPUT -j LAB-OUT
    iptables -w -t raw -A LAB-IN ! -i eth0 -d "$own" -j RETURN
fi
iptables -w -t raw -A LAB-IN -i eth0 -s "$peers" -j DROP
iptables -w -t raw -A LAB-IN ! -i eth0 -d "$peers" -j DROP
iptables -w -t raw -A LAB-OUT -o eth0 -d "$peers" -j DROP
"#;

const RESTORE: &str = r#"
if iptables -w -t raw -n -L LAB-IN >/dev/null 2>&1; then
    iptables -w -t raw -F LAB-IN
    iptables -w -t raw -F LAB-OUT
    iptables -w -t raw -A LAB-IN ! -i eth0 -d "$1" -j RETURN
fi
"#;

impl Host {
    /// Silently drops all traffic between this host and every other one; connections stay open and starve.
    /// The host still reaches itself.
    pub fn partition(&self) -> Result<()> {
        self.drop_traffic(&format!("{NETWORK}.0/24"))
    }

    /// Drops what this host sends to and receives from one address.
    pub(super) fn drop_traffic(&self, peers: &str) -> Result<()> {
        self.run(&["bash", "-euc", DROP, "drop", peers, self.address()]).map(drop)
    }

    /// Lifts every partition and cut of this host.
    pub fn restore_network(&self) -> Result<()> {
        self.run(&["bash", "-euc", RESTORE, "restore", self.address()]).map(drop)
    }

    /// Whether a TCP connection to `glusterd` on another host can be made within a second.
    pub fn reaches(&self, other: &Host) -> Result<bool> {
        let script = format!("exec timeout 1 bash -c '</dev/tcp/{}/24007'", other.address());
        Ok(self.finish(&["bash", "-c", &script], STEP_LIMIT)?.status.success())
    }
}
