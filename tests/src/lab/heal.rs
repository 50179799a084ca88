//! Waiting for GlusterFS to repair what a fault left behind.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::cluster::Lab;
use super::run::{Seen, wait_until};
use super::xml;

/// How often a heal is asked for while waiting: the daemon alone looks only every ten minutes.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Lab {
    /// Entries of a volume that wait for a heal, as the first host sees it; `None` when a brick could not say.
    /// An entry counts once for each brick that lists it.
    pub fn heal_pending(&self, volume: &str) -> Result<Option<u64>> {
        xml::heal_pending(&self.host(0).gluster_xml(&["volume", "heal", volume, "info"])?)
    }

    /// Waits until nothing of a volume waits for a heal, asking for a heal meanwhile: after a partition
    /// GlusterFS does not start one promptly by itself.
    pub fn wait_healed(&self, volume: &str, limit: Duration) -> Result<()> {
        let mut asked: Option<Instant> = None;
        wait_until(&format!("{volume} is healed"), limit, || {
            let pending = self.heal_pending(volume)?;
            if pending == Some(0) {
                return Ok(Seen::Done(()));
            }
            let mut refusal = String::new();
            if asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
                asked = Some(Instant::now());
                // Refused while a brick or the daemon is away; the count decides.
                if let Err(error) = self.host(0).gluster(&["volume", "heal", volume]) {
                    refusal = format!("; heal refused: {error:#}");
                }
            }
            Ok(Seen::NotYet(format!("pending {pending:?}{refusal}")))
        })
    }
}
