//! Numbers and names with a type of their own.

use std::fmt;

use crate::codec::{Decode, Encode};

/// Number of a committed state of the mirror; 0 means none yet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Tenure of one writer; grows with every takeover, starts at 1, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! decimal {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
decimal!(Generation, Epoch);

/// Random identity of a lane, made once with its ledger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct LaneId(pub [u8; 16]);

/// Random identity of one installation of tidegate (one state directory).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct NodeId(pub [u8; 16]);

/// Name of something in `stage.N` or `trash.N`: random per run, so that a late write of a killed run can
/// never meet a file of the next; and counted within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct StagedName {
    /// Random number of the run.
    pub run: u64,
    /// Counter within the run.
    pub n: u64,
}

impl StagedName {
    /// Parses what [`fmt::Display`] prints.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        let (run, n) = text.split_once('.')?;
        let parsed = Self { run: u64::from_str_radix(run, 16).ok()?, n: u64::from_str_radix(n, 16).ok()? };
        (parsed.to_string() == text).then_some(parsed)
    }
}

impl fmt::Display for StagedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:x}", self.run, self.n)
    }
}

impl fmt::Debug for StagedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! hex {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
hex!(LaneId, NodeId);

/// How a generation relates to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// Equal to the volume at one instant: nothing changed between the last look and the seal.
    Exact,
    /// The volume changed while it was copied; each file is whole, but they may stem from different moments.
    Fuzzy,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Fuzzy => "fuzzy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_names_round_trip_and_nothing_else_parses() {
        let name = StagedName { run: 0x1f, n: 300 };
        assert_eq!(name.to_string(), "000000000000001f.12c");
        assert_eq!(StagedName::parse(name.to_string().as_bytes()), Some(name));
        for bad in ["", ".", "1f.12c", "000000000000001f.012c", "000000000000001F.12c", "x.y"] {
            assert_eq!(StagedName::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
