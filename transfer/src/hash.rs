//! Pure: content hashes. One pass gives both plain BLAKE3 (what `b3sum` prints) and one value per 1 MiB block.

use blake3::Hasher;
use blake3::hazmat::{self, HasherExt, Mode};

/// Bytes of one block: a power-of-two number of BLAKE3 chunks, so that each block is a subtree of the hash.
pub const BLOCK: u64 = 1 << 20;

/// A BLAKE3 hash, or the chaining value of one block.
pub type Hash = [u8; 32];

/// What a file's content hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentHash {
    /// Plain BLAKE3 of the whole content.
    pub root: Hash,
    /// Chaining values of the 1 MiB blocks; empty when the content fits into one block.
    pub blocks: Vec<Hash>,
}

impl ContentHash {
    /// Puts together the values of all blocks of one content, as [`hash_block`] gave them.
    pub fn from_blocks(values: Vec<Hash>) -> Self {
        Self::from_pieces(values, BLOCK)
    }

    /// As [`ContentHash::from_blocks`], from pieces that are smaller than a block by a power of two.
    pub(crate) fn from_pieces(values: Vec<Hash>, piece: u64) -> Self {
        let root = match values.as_slice() {
            [] => hash_block(0, &[], Place::Only),
            [only] => *only,
            more => merge_root(more),
        };
        let per_block = usize::try_from(BLOCK / piece).unwrap_or(1).max(1);
        let blocks = match values.len() {
            few if few <= per_block => Vec::new(),
            _ if per_block == 1 => values,
            _ => values.chunks(per_block).map(merge).collect(),
        };
        Self { root, blocks }
    }
}

/// Whether a block is all there is (its value then is the root hash) or one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The content has no other block.
    Only,
    /// The content has more than one block.
    OneOfMany,
}

/// Number of blocks a content of `size` bytes has; an empty one has one.
pub fn block_count(size: u64) -> u64 {
    size.div_ceil(BLOCK).max(1)
}

/// Value of block number `block`, whose bytes are `bytes` (at most [`BLOCK`], less only for the last block).
pub fn hash_block(block: u64, bytes: &[u8], place: Place) -> Hash {
    debug_assert!(bytes.len() as u64 <= BLOCK);
    hash_piece(block * BLOCK, bytes, place)
}

/// Value of one block of several, taken in piece by piece; it can be asked for at any time.
pub struct BlockHasher(Hasher);

impl BlockHasher {
    /// Starts block number `block`.
    pub fn new(block: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(block * BLOCK);
        Self(hasher)
    }

    /// Takes in the next bytes; no more than [`BLOCK`] in all.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Value of what was taken in, as a block that is not the only one.
    pub fn value(&self) -> Hash {
        self.0.finalize_non_root()
    }
}

/// Value of a subtree: a piece of a power of two of bytes, at a multiple of its own size.
pub(crate) fn hash_piece(offset: u64, bytes: &[u8], place: Place) -> Hash {
    match place {
        Place::Only => *blake3::hash(bytes).as_bytes(),
        Place::OneOfMany => Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root(),
    }
}

/// Root hash of a content of at least two blocks.
fn merge_root(blocks: &[Hash]) -> Hash {
    let (left, right) = split(blocks);
    *hazmat::merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes()
}

/// Recursion is as deep as the tree is high: 43 for the largest file there can be.
fn merge(blocks: &[Hash]) -> Hash {
    match blocks {
        [one] => *one,
        more => {
            let (left, right) = split(more);
            hazmat::merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The left subtree is complete: the largest power of two that leaves something to the right.
fn split(blocks: &[Hash]) -> (&[Hash], &[Hash]) {
    blocks.split_at(1 << (blocks.len() - 1).ilog2())
}

/// Hashes a content that arrives front to back in pieces of any size.
pub struct ContentHasher {
    block: Hasher,
    filled: u64,
    done: Vec<Hash>,
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self { block: Hasher::new(), filled: 0, done: Vec::new() }
    }
}

impl ContentHasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // A full block is closed only when more follows: whether it is the only one decides its value.
            if self.filled == BLOCK {
                self.done.push(self.block.finalize_non_root());
                // Not `reset`: that keeps the old input offset.
                self.block = Hasher::new();
                self.block.set_input_offset(self.done.len() as u64 * BLOCK);
                self.filled = 0;
            }
            let room = usize::try_from(BLOCK - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.block.update(now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    /// The hash of all that was taken in.
    pub fn finish(mut self) -> ContentHash {
        if self.done.is_empty() {
            return ContentHash { root: *self.block.finalize().as_bytes(), blocks: Vec::new() };
        }
        self.done.push(self.block.finalize_non_root());
        ContentHash::from_blocks(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64) -> Vec<u8> {
        (0..size).map(|i| (i * 31 + i / 251 + (i >> 16)) as u8).collect()
    }

    fn sizes() -> Vec<u64> {
        let mut sizes = vec![0, 1, 63, 64, 65, 1023, 1024, 1025, 4095, 4096, 65536];
        for blocks in [1, 2, 3, 4, 5, 7, 8, 9] {
            sizes.extend([blocks * BLOCK - 1, blocks * BLOCK, blocks * BLOCK + 1, blocks * BLOCK + 1025]);
        }
        sizes
    }

    #[test]
    fn blocks_merge_to_plain_blake3() {
        for size in sizes() {
            let bytes = content(size);
            let place = if block_count(size) == 1 { Place::Only } else { Place::OneOfMany };
            let values: Vec<_> = if size == 0 {
                vec![hash_block(0, &[], place)]
            } else {
                bytes
                    .chunks(BLOCK as usize)
                    .enumerate()
                    .map(|(i, b)| hash_block(i as u64, b, place))
                    .collect()
            };
            assert_eq!(values.len() as u64, block_count(size));
            let hash = ContentHash::from_blocks(values);
            assert_eq!(hash.root, *blake3::hash(&bytes).as_bytes(), "size {size}");
            assert_eq!(hash.blocks.is_empty(), size <= BLOCK, "size {size}");
        }
    }

    #[test]
    fn smaller_pieces_give_the_same() {
        for size in sizes() {
            let bytes = content(size);
            let mut whole = ContentHasher::default();
            whole.update(&bytes);
            let whole = whole.finish();
            for piece in [128 << 10, 256 << 10, BLOCK] {
                let place = if size <= piece { Place::Only } else { Place::OneOfMany };
                let values = bytes.chunks(piece as usize).enumerate();
                let values = values.map(|(i, b)| hash_piece(i as u64 * piece, b, place)).collect();
                assert_eq!(ContentHash::from_pieces(values, piece), whole, "size {size}, pieces of {piece}");
            }
        }
    }

    #[test]
    fn streaming_agrees_whatever_the_pieces() {
        for size in sizes() {
            let bytes = content(size);
            for piece in [1021, 65536, BLOCK as usize, 3 * BLOCK as usize + 7] {
                let mut hasher = ContentHasher::default();
                bytes.chunks(piece).for_each(|piece| hasher.update(piece));
                let hash = hasher.finish();
                assert_eq!(hash.root, *blake3::hash(&bytes).as_bytes(), "size {size}, pieces of {piece}");
                let again = ContentHash::from_blocks(hash.blocks.clone());
                assert!(hash.blocks.is_empty() || again == hash);
            }
        }
    }
}
