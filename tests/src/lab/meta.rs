//! What a client says about its bricks in `.meta`. Pure.

use std::collections::BTreeMap;

/// A client's own view of the bricks of its volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrickView {
    /// Connection of each brick, by the number in `VOL-client-N`.
    pub connected: BTreeMap<u32, bool>,
    /// What replication believes of each child, by the number in `VOL-replicate-N` and the child's position.
    /// This is the better sign: after a failed health check it drops half a minute before `connected`.
    pub child_up: BTreeMap<u32, Vec<bool>>,
}

impl BrickView {
    /// Reads lines of the form `VOL-client-0/private:connected = 1`, as `grep -H` prints them.
    pub fn parse(volume: &str, lines: &str) -> Self {
        let mut view = BrickView::default();
        for line in lines.lines() {
            let Some((file, fact)) = line.split_once("/private:") else { continue };
            let Some((key, value)) = fact.split_once(" = ") else { continue };
            let up = value.trim() == "1";
            if let (Some(brick), "connected") = (numbered(file, volume, "client"), key) {
                view.connected.insert(brick, up);
            }
            if let (Some(set), true) = (numbered(file, volume, "replicate"), key.starts_with("child_up[")) {
                // Children are listed in order, so their position is their number.
                view.child_up.entry(set).or_default().push(up);
            }
        }
        view
    }

    /// Whether there are bricks and all of them are connected and used by replication.
    pub fn all_up(&self) -> bool {
        let replicas = self.child_up.values().flatten();
        !self.connected.is_empty()
            && self.connected.values().all(|up| *up)
            && replicas.clone().count() > 0
            && replicas.clone().all(|up| *up)
    }

    /// The whole view in one line, for error messages: `connected 10, child_up 10`.
    pub fn summary(&self) -> String {
        let bits = |ups: Vec<bool>| ups.into_iter().map(|up| if up { '1' } else { '0' }).collect::<String>();
        let sets: Vec<_> = self.child_up.values().map(|set| bits(set.clone())).collect();
        format!("connected {}, child_up {}", bits(self.connected.values().copied().collect()), sets.join(" "))
    }
}

/// The number in `VOL-KIND-N`; `None` for others such as `VOL-client-0-utime`, which is not a brick.
fn numbered(directory: &str, volume: &str, kind: &str) -> Option<u32> {
    directory.strip_prefix(volume)?.strip_prefix('-')?.strip_prefix(kind)?.strip_prefix('-')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
v-client-0/private:[xlator.protocol.client.v-client-0.priv]
v-client-0/private:connected = 1
v-client-0/private:ping_timeout = 42
v-client-1/private:connected = 0
v-client-1-utime/private:connected = 1
v-replicate-0/private:[cluster/replicate.v-replicate-0]
v-replicate-0/private:child_count = 2
v-replicate-0/private:child_up[0] = 1
v-replicate-0/private:halo_child_up[0] = 0
v-replicate-0/private:child_up[1] = 0
v-replicate-0/private:up = 1
";

    #[test]
    fn one_brick_down() {
        let view = BrickView::parse("v", LINES);
        assert_eq!(view.connected, BTreeMap::from([(0, true), (1, false)]));
        assert_eq!(view.child_up, BTreeMap::from([(0, vec![true, false])]));
        assert!(!view.all_up());
        assert_eq!(view.summary(), "connected 10, child_up 10");
    }

    #[test]
    fn all_up_needs_both_signs() {
        let connected = LINES.replace("v-client-1/private:connected = 0", "v-client-1/private:connected = 1");
        assert!(!BrickView::parse("v", &connected).all_up());
        assert!(BrickView::parse("v", &connected.replace("child_up[1] = 0", "child_up[1] = 1")).all_up());
        assert!(!BrickView::parse("v", "").all_up());
        assert!(!BrickView::parse("other", LINES).all_up());
    }
}
