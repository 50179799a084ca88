//! Counting file operations on the bricks: the cost of a method, free of the noise of time.

use std::collections::BTreeMap;

use anyhow::Result;

use super::cluster::Lab;
use super::xml;

/// Bookkeeping inside a brick that no request causes.
const NOT_REQUESTS: [&str; 3] = ["FORGET", "RELEASE", "RELEASEDIR"];

/// File operations since the last clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Count of each operation (`LOOKUP`, `CREATE`, …) by the name of the brick (`host0:/path`). An operation
    /// that did not happen is missing.
    pub bricks: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Profile {
    /// Requests each brick answered, in the order of brick names.
    pub fn requests(&self) -> Vec<u64> {
        let is_request = |(name, _): &(&String, &u64)| !NOT_REQUESTS.contains(&name.as_str());
        self.bricks.values().map(|fops| fops.iter().filter(is_request).map(|(_, hits)| hits).sum()).collect()
    }

    /// One operation over all bricks.
    pub fn count(&self, fop: &str) -> u64 {
        self.bricks.values().filter_map(|fops| fops.get(fop)).sum()
    }

    /// What happened after `earlier`, read since the same clear.
    pub fn since(&self, earlier: &Profile) -> Profile {
        let mut later = self.clone();
        for (brick, fops) in &mut later.bricks {
            let before = earlier.bricks.get(brick);
            for (fop, hits) in fops.iter_mut() {
                *hits = hits.saturating_sub(before.and_then(|fops| fops.get(fop)).copied().unwrap_or(0));
            }
            fops.retain(|_, hits| *hits > 0);
        }
        later
    }
}

impl Lab {
    /// Begins to count the file operations of a volume. They include those of the self-heal daemon and of the
    /// kernel's own lookups, so compare with an idle run when single operations matter.
    pub fn profile_start(&self, volume: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "profile", volume, "start"]).map(drop)
    }

    /// Sets all counts to zero.
    pub fn profile_clear(&self, volume: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "profile", volume, "info", "clear"]).map(drop)
    }

    /// Reads the counts; bricks that are down are missing.
    pub fn profile(&self, volume: &str) -> Result<Profile> {
        let text = self.host(0).gluster_xml(&["volume", "profile", volume, "info", "cumulative"])?;
        Ok(Profile { bricks: xml::profile(&text)? })
    }

    /// Ends counting.
    pub fn profile_stop(&self, volume: &str) -> Result<()> {
        self.host(0).gluster(&["volume", "profile", volume, "stop"]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(hits: &[(&str, u64)]) -> Profile {
        let fops = hits.iter().map(|(fop, hits)| ((*fop).to_owned(), *hits)).collect();
        Profile { bricks: BTreeMap::from([("host0:/b".to_owned(), fops)]) }
    }

    #[test]
    fn differences_and_sums() {
        let later = profile(&[("LOOKUP", 5), ("WRITE", 2), ("RELEASE", 9)]);
        let delta = later.since(&profile(&[("LOOKUP", 5), ("WRITE", 1)]));
        assert_eq!(delta, profile(&[("WRITE", 1), ("RELEASE", 9)]));
        assert_eq!((delta.requests(), delta.count("RELEASE")), (vec![1], 9));
    }
}
