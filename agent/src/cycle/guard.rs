//! Pure decision: may this many deletions be published?

use std::fmt;

/// How much one cycle may delete without a person's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletionLimit {
    /// Up to this many entries are always allowed.
    pub entries: u64,
    /// Beyond that, up to this share of all entries, in percent.
    pub percent: u64,
    /// Whether an empty volume may empty the mirror.
    pub empty_volume: bool,
    /// Entries that cycles shortly before deleted: they count too, or `rm -rf` would pass in small portions.
    pub already: u64,
}

impl Default for DeletionLimit {
    /// 1,000 entries or 25 %: a cleaned-up job history passes, an emptied volume does not.
    fn default() -> Self {
        Self { entries: 1000, percent: 25, empty_volume: false, already: 0 }
    }
}

/// What the guard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Publish the deletions.
    Allow,
    /// Publish everything but the deletions, and say this.
    Halt(String),
}

impl DeletionLimit {
    /// Decides on `deleted` of `total` entries, with a volume that holds nothing any more or still something.
    pub fn judge(&self, deleted: u64, total: u64, is_empty_volume: bool) -> Verdict {
        if deleted == 0 {
            return Verdict::Allow;
        }
        if is_empty_volume && !self.empty_volume {
            return Verdict::Halt(format!(
                "mass-delete: the volume is empty and the mirror holds {total} entries"
            ));
        }
        let (gone, before) = (deleted.saturating_add(self.already), total.saturating_add(self.already));
        let share = u128::from(gone) * 100 > u128::from(before) * u128::from(self.percent);
        if gone > self.entries && share {
            return Verdict::Halt(format!(
                "mass-delete: {gone} of {before} entries are gone from the volume (limit: {self})"
            ));
        }
        Verdict::Allow
    }
}

impl fmt::Display for DeletionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries or {} %", self.entries, self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_proportionate_deletions_pass() {
        let limit = DeletionLimit::default();
        for (deleted, total, is_empty, halts) in [
            (0, 0, true, false),
            (1, 1, true, true),
            (1, 2, false, false),
            (1000, 1001, false, false),
            (1001, 1002, false, true),
            (1001, 100_000, false, false),
            (25_001, 100_000, false, true),
            (50_000, 100_000, true, true),
        ] {
            let verdict = limit.judge(deleted, total, is_empty);
            assert_eq!(matches!(verdict, Verdict::Halt(_)), halts, "{deleted} of {total}: {verdict:?}");
        }
    }

    #[test]
    fn what_was_deleted_before_counts() {
        let limit = DeletionLimit { already: 900, ..DeletionLimit::default() };
        assert_eq!(limit.judge(100, 3000, false), Verdict::Allow);
        // 1,001 of what were 3,900 entries.
        assert!(matches!(limit.judge(101, 3000, false), Verdict::Halt(_)));
        assert_eq!(limit.judge(101, 3200, false), Verdict::Allow);
    }
}
