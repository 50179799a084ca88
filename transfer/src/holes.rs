//! Pure: which stretches of a block hold anything but zeros.

use std::ops::Range;

/// Holes are looked for in units of one page, the smallest that file systems allocate.
const PAGE: usize = 4096;

/// Stretches of `bytes` to be written so that all else may stay a hole; adjoining pages make one stretch.
pub fn data_runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        if is_zero(page) {
            continue;
        }
        let (start, end) = (index * PAGE, index * PAGE + page.len());
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

fn is_zero(page: &[u8]) -> bool {
    // Or-ing whole words lets the compiler use vector instructions; the early stop is per 256 bytes.
    page.chunks(256).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_pages_that_hold_something() {
        let mut bytes = vec![0; 5 * PAGE + 10];
        assert_eq!(data_runs(&bytes), []);
        bytes[PAGE - 1] = 1;
        bytes[PAGE] = 1;
        bytes[5 * PAGE + 9] = 1;
        assert_eq!(data_runs(&bytes), [0..2 * PAGE, 5 * PAGE..5 * PAGE + 10]);
        assert_eq!(data_runs(&[]), []);
        assert_eq!(data_runs(&[1; 3]), vec![Range { start: 0, end: 3 }]);
    }
}
