//! A real GlusterFS cluster on one machine, for tests and benches.
//!
//! A host is a network, mount, PID and UTS namespace with its own `glusterd`, `/etc/hosts`, `/run` and a
//! brick filesystem on a loop device. The hosts hang on a bridge in a network namespace of its own, so
//! neither the machine's firewall nor its interfaces can touch them. None of the namespaces has a name:
//! they live as long as their processes, and those end when the test process ends, however it ends.
//!
//! ```no_run
//! use harness::lab::{BrickFs, Lab, Layout};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().hosts(2).brick(BrickFs::Xfs, "4G").start()?;
//! lab.volume("v", Layout::Replica(2)).option("network.ping-timeout", "5").create_and_start()?;
//! let mirror = lab.host(0).mount("v", &[])?;
//! lab.host(0).write(mirror.join("hello"), b"tide")?;
//! lab.host(1).partition()?;
//! lab.heal_network()?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod cluster;
mod fault;
mod heal;
mod host;
mod init;
mod meta;
mod mount;
mod network;
mod process;
mod procfs;
mod profile;
mod run;
mod size;
mod teardown;
mod volume;
mod xml;

pub use cluster::{Builder, Lab, NEEDS};
pub use fault::What;
pub use host::Host;
pub use init::BrickFs;
pub use meta::BrickView;
pub use nix::sys::signal::Signal;
pub use process::HostProcess;
pub use profile::Profile;
pub use run::{Finished, Seen, run, wait_until};
pub use volume::{Layout, VolumeBuilder};
