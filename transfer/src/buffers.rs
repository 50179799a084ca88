//! A bounded stock of buffers: small ones for files read in one go, and blocks for all others.

use crate::acts::SMALL;

/// Blocks there are at least, however little memory is granted.
const BLOCKS_MIN: usize = 4;

/// Buffers that come and go; what was allocated once is kept for the next.
#[derive(Debug)]
pub struct Buffers {
    small: Vec<Vec<u8>>,
    blocks: Vec<Vec<u8>>,
    unit: usize,
    /// Blocks that may still be allocated or are in `blocks`.
    left: usize,
}

impl Buffers {
    /// At most `memory` bytes; the small buffers of `in_flight` flights come out of that.
    pub fn new(memory: usize, in_flight: usize, unit: u64) -> Self {
        let unit = unit as usize;
        let left = (memory.saturating_sub(in_flight * SMALL) / unit).max(BLOCKS_MIN);
        Self { small: Vec::new(), blocks: Vec::new(), unit, left }
    }

    /// A small buffer: there is one for each flight.
    pub fn small(&mut self) -> Vec<u8> {
        self.small.pop().unwrap_or_else(|| vec![0; SMALL])
    }

    /// True when a block is to be had.
    pub fn has_block(&self) -> bool {
        self.left > 0
    }

    /// A block, if there is one.
    pub fn block(&mut self) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(1)?;
        Some(self.blocks.pop().unwrap_or_else(|| vec![0; self.unit]))
    }

    /// Takes a buffer back. True when it was a block, for which somebody may be waiting.
    pub fn give_back(&mut self, buffer: Vec<u8>) -> bool {
        match buffer.len() {
            SMALL => {
                self.small.push(buffer);
                false
            }
            _ => {
                self.left += 1;
                self.blocks.push(buffer);
                true
            }
        }
    }
}
