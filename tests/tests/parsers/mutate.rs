//! Changes of valid input that readers trip over.

use harness::trees::Rng;

/// Bytes at the edges of what lengths, varints and texts have.
const BYTES: [u8; 12] = [0, 1, 0x7f, 0x80, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, b'\n', b'"'];

/// Numbers at the edges of types and limits.
const NUMBERS: [u64; 14] = [
    0,
    1,
    127,
    128,
    255,
    256,
    65_535,
    1 << 20,
    (1 << 20) + 1,
    16 << 20,
    1 << 31,
    u32::MAX as u64,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes `bytes` in up to eight places; `tokens` are pieces that mean something to the reader.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, tokens: &[&[u8]]) {
    for _ in 0..rng.between(1, 8) {
        once(rng, bytes, tokens);
    }
}

fn once(rng: &mut Rng, bytes: &mut Vec<u8>, tokens: &[&[u8]]) {
    let at = rng.index(bytes.len() + 1);
    let some = (rng.index(32) + 1).min(bytes.len() - at);
    match rng.below(10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        1 if at < bytes.len() => bytes[at] = *rng.pick(&BYTES),
        2 => {
            let number = rng.pick(&NUMBERS).to_le_bytes();
            let width = *rng.pick(&[2, 4, 8]).min(&(bytes.len() - at));
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => drop(bytes.drain(at..at + some)),
        4 => {
            let len = rng.index(16);
            let new = rng.bytes(len);
            drop(bytes.splice(at..at, new));
        }
        5 if !tokens.is_empty() => {
            let token = rng.pick(tokens).to_vec();
            drop(bytes.splice(at..at, token));
        }
        6 => {
            let copy = bytes[at..at + some].to_vec();
            let to = rng.index(bytes.len() + 1);
            drop(bytes.splice(to..to, copy));
        }
        7 => bytes.truncate(at),
        8 => bytes.extend(std::iter::repeat_n(*rng.pick(&BYTES), some)),
        _ => bytes[at..at + some].fill(0),
    }
}

/// Up to `most` bytes, often few.
pub fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let most = if rng.percent(70) { most.min(64) } else { most };
    let len = rng.index(most + 1);
    rng.bytes(len)
}
