//! How everything in the ledger is spelled, in one place.

use crate::ids::{Epoch, Generation, StagedName};

/// Directory of all ledgers beside the mirrors.
pub const LEDGERS: &[u8] = b".tidegate";
/// Identity of the lane.
pub const LANE: &[u8] = b"lane";
/// Published pointer.
pub const HEAD: &[u8] = b"HEAD";
/// Directory of redo logs.
pub const COMMIT: &[u8] = b"commit";
/// Directory of manifests.
pub const MANIFEST: &[u8] = b"manifest";
/// Directory of epoch claims.
pub const EPOCH: &[u8] = b"epoch";

/// `stage.<N>`.
pub fn stage(epoch: Epoch) -> Vec<u8> {
    format!("stage.{epoch}").into_bytes()
}

/// `trash.<N>`.
pub fn trash(epoch: Epoch) -> Vec<u8> {
    format!("trash.{epoch}").into_bytes()
}

/// In the ledger: epoch N has begun to clear the directories of older ones and not ended.
pub fn settling(epoch: Epoch) -> Vec<u8> {
    format!("settling.{epoch}").into_bytes()
}

/// Name in `commit/` or `manifest/`: 20 digits, so that names sort as numbers.
pub fn generation(generation: Generation) -> Vec<u8> {
    format!("{:020}", generation.0).into_bytes()
}

/// Name in `epoch/`.
pub fn epoch(epoch: Epoch) -> Vec<u8> {
    format!("{epoch}").into_bytes()
}

/// Name of something staged or trashed.
pub fn staged(name: StagedName) -> Vec<u8> {
    name.to_string().into_bytes()
}

/// In `stage.<N>`: says that every `Out` of generation g is done, so that none is done twice.
pub fn outs_done(generation: Generation) -> Vec<u8> {
    format!("outs-done.{generation}").into_bytes()
}

/// Parses what [`generation`] spells.
pub fn parse_generation(name: &[u8]) -> Option<Generation> {
    let number: u64 = std::str::from_utf8(name).ok()?.parse().ok()?;
    (generation(Generation(number)) == name).then_some(Generation(number))
}

/// Parses what [`epoch`] spells.
pub fn parse_epoch(name: &[u8]) -> Option<Epoch> {
    let number: u64 = std::str::from_utf8(name).ok()?.parse().ok()?;
    (epoch(Epoch(number)) == name).then_some(Epoch(number))
}

/// Parses what [`settling`] spells.
pub fn parse_settling(name: &[u8]) -> Option<Epoch> {
    parse_epoch(name.strip_prefix(b"settling.")?)
}

/// The epoch of a name `stage.<N>` or `trash.<N>`.
pub fn parse_working(name: &[u8]) -> Option<Epoch> {
    let number = name.strip_prefix(b"stage.").or_else(|| name.strip_prefix(b"trash."))?;
    parse_epoch(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_round_trips() {
        assert_eq!(parse_generation(&generation(Generation(42))), Some(Generation(42)));
        assert_eq!(parse_generation(b"42"), None);
        assert_eq!(parse_generation(b"+0000000000000000042"), None);
        assert_eq!(parse_epoch(&epoch(Epoch(7))), Some(Epoch(7)));
        assert_eq!(parse_epoch(b"07"), None);
        assert_eq!(parse_working(&stage(Epoch(3))), Some(Epoch(3)));
        assert_eq!(parse_working(&trash(Epoch(3))), Some(Epoch(3)));
        assert_eq!(parse_working(b"stage.x"), None);
        assert_eq!(parse_settling(&settling(Epoch(3))), Some(Epoch(3)));
        assert_eq!(parse_settling(b"settling.03"), None);
    }
}
