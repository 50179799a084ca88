//! The bytes of one regular file, as a sparse page map.
//!
//! Cloning shares every page, so an image with a snapshot costs only what was written since.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Granularity of sharing and of holes; the page size of the local filesystems faultfs is compared with.
pub const PAGE: u64 = 4096;

type Page = [u8; PAGE as usize];

/// Contents of a regular file; a page that is absent reads as zeros and is a hole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    size: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Content {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes held in pages, the number that `st_blocks` and the space limit are made of.
    pub fn stored(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Bytes in `offset..offset + len` that exist; short at the end of the file.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len));
        if offset >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - offset) as usize];
        for (&index, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = (index * PAGE).max(offset);
            let stop = (index * PAGE + PAGE).min(end);
            let within = (start - index * PAGE) as usize..(stop - index * PAGE) as usize;
            out[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(&page[within]);
        }
        out
    }

    /// Stores `data` at `offset`, growing the file where needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let step = rest.len().min(PAGE as usize - within);
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[within..within + step].copy_from_slice(&rest[..step]);
            at += step as u64;
            rest = &rest[step..];
        }
        self.size = self.size.max(at);
    }

    /// Sets the length; bytes beyond a shorter length are gone, not hidden.
    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.pages.split_off(&size.div_ceil(PAGE));
            self.zero_within_page(size, PAGE - size % PAGE);
        }
        self.size = size;
    }

    /// Grows to `size`, never shrinks; the new range is a hole.
    pub fn extend(&mut self, size: u64) {
        self.size = self.size.max(size);
    }

    /// Turns a range into zeros, dropping whole pages; the length stays.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let first_whole = offset.div_ceil(PAGE);
        let end_whole = end / PAGE;
        if first_whole > end_whole {
            self.zero_within_page(offset, len);
            return;
        }
        let mut tail = self.pages.split_off(&first_whole);
        self.pages.append(&mut tail.split_off(&end_whole));
        self.zero_within_page(offset, first_whole * PAGE - offset);
        self.zero_within_page(end_whole * PAGE, end - end_whole * PAGE);
    }

    /// First byte of data at or after `offset`, `None` when only a hole is left.
    pub fn seek_data(&self, offset: u64) -> Option<u64> {
        let (&index, _) = self.pages.range(offset / PAGE..).next()?;
        Some((index * PAGE).max(offset)).filter(|&found| found < self.size)
    }

    /// First byte of a hole at or after `offset`; the end of the file counts as one.
    pub fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut hole = offset / PAGE;
        for (&index, _) in self.pages.range(hole..) {
            if index != hole {
                break;
            }
            hole += 1;
        }
        Some((hole * PAGE).max(offset).min(self.size))
    }

    /// Space that storing `len` bytes at `offset` would add.
    pub fn growth(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let touched = offset / PAGE..(offset + len).div_ceil(PAGE);
        let wanted = touched.end - touched.start;
        (wanted - self.pages.range(touched).count() as u64) * PAGE
    }

    fn zero_within_page(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        if let Some(page) = self.pages.get_mut(&(offset / PAGE)) {
            let within = (offset % PAGE) as usize;
            let stop = (within + len as usize).min(PAGE as usize);
            Arc::make_mut(page)[within..stop].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_plain_vector() {
        let mut model: Vec<u8> = Vec::new();
        let mut content = Content::default();
        let mut seed = 0x9e37_79b9_u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        for round in 0..4000_u64 {
            let offset = next(20_000);
            let len = next(9_000);
            match next(4) {
                0 => {
                    model.resize(offset as usize, 0);
                    content.truncate(offset);
                }
                1 => {
                    content.punch(offset, len);
                    let end = model.len().min((offset + len) as usize);
                    if (offset as usize) < end {
                        model[offset as usize..end].fill(0);
                    }
                }
                2 => {
                    let wanted = (offset + len) as usize;
                    content.extend(wanted as u64);
                    let longer = model.len().max(wanted);
                    model.resize(longer, 0);
                }
                _ => {
                    let data = vec![round as u8 | 1; len as usize];
                    content.write(offset, &data);
                    let end = offset as usize + data.len();
                    if !data.is_empty() {
                        let longer = model.len().max(end);
                        model.resize(longer, 0);
                        model[offset as usize..end].copy_from_slice(&data);
                    } else {
                        let longer = model.len().max(content.size() as usize);
                        model.resize(longer, 0);
                    }
                }
            }
            assert_eq!(content.size(), model.len() as u64, "round {round}");
            assert!(content.read(0, u64::MAX) == model, "content differs in round {round}");
        }
    }

    #[test]
    fn a_huge_hole_costs_nothing() {
        let mut content = Content::default();
        content.truncate(i64::MAX as u64);
        content.write(1 << 62, b"needle");
        assert_eq!(content.stored(), PAGE);
        assert_eq!(content.seek_data(0), Some(1 << 62));
        assert_eq!(content.seek_hole(1 << 62), Some((1 << 62) + PAGE));
        assert_eq!(content.seek_data((1 << 62) + PAGE), None);
        content.punch(0, i64::MAX as u64);
        assert_eq!(content.stored(), 0);
    }
}
