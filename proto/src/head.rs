//! The small files of the ledger: `lane`, `epoch/<N>`, `HEAD`. Each is one frame.

use crate::codec::{Decode, Encode};
use crate::entry::Time;
use crate::ids::{Cut, Epoch, Generation, LaneId, NodeId};
use crate::log::Totals;

/// The file `lane`: identity of the lane, and the marker that proves the mirror is the mirror.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LaneRecord {
    /// Identity.
    pub id: LaneId,
    /// When it was made, for people.
    pub created: Time,
    /// Host that made it, for people.
    pub host: String,
}

/// A file `epoch/<N>`: who holds epoch N. Made by `link(2)`, never changed, never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EpochRecord {
    /// N.
    pub epoch: Epoch,
    /// Holder.
    pub node: NodeId,
    /// Holder's host name, for people.
    pub host: String,
    /// When it was claimed, for people.
    pub claimed: Time,
}

/// The file `HEAD`: the generation that the mirror holds, whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// Generation.
    pub generation: Generation,
    /// Epoch that published it.
    pub epoch: Epoch,
    /// Hash of its log.
    pub log_hash: [u8; 32],
    /// Newest manifest: the logs after it, up to `generation`, complete it. 0: none, all logs are there.
    pub manifest: Generation,
    /// How it relates to the volume.
    pub cut: Cut,
    /// Sums.
    pub totals: Totals,
    /// Why deletions are halted, if they are.
    pub halted: Option<String>,
    /// When it was sealed, by the writer's wall clock.
    pub sealed: Time,
    /// When its publish ended, by the publisher's wall clock.
    pub published: Time,
}
