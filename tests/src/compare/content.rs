//! Compares the bytes of two regular files, and where they are holes.

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, Result, pread, retry_on_intr};
use std::os::fd::BorrowedFd;

const BUFFER: usize = 256 << 10;

/// Up to this size every byte is read; above it, a range that both filesystems call a hole is taken to be zeros, so that
/// a file of a terabyte with one page of data can be judged at all.
const READ_WHOLE: u64 = 16 << 20;

/// A half-open range of bytes.
pub(super) type Range = (u64, u64);

/// Compares contents; keeps its buffers between files.
pub(super) struct ContentReader {
    a: Vec<u8>,
    b: Vec<u8>,
    pub(super) bytes: u64,
}

impl ContentReader {
    pub(super) fn new() -> Self {
        ContentReader { a: vec![0; BUFFER], b: vec![0; BUFFER], bytes: 0 }
    }

    /// The offset of the first byte that differs in two files of the same size.
    pub(super) fn first_difference(
        &mut self,
        a: BorrowedFd<'_>,
        b: BorrowedFd<'_>,
        size: u64,
    ) -> Result<Option<u64>> {
        let ranges = if size <= READ_WHOLE {
            vec![(0, size)]
        } else {
            let mut both = data_ranges(a, size)?;
            both.extend(data_ranges(b, size)?);
            merged(both)
        };
        for (start, end) in ranges {
            let mut at = start;
            while at < end {
                let len = BUFFER.min(usize::try_from(end - at).unwrap_or(BUFFER));
                read_full(a, &mut self.a[..len], at)?;
                read_full(b, &mut self.b[..len], at)?;
                if let Some(i) = first_mismatch(&self.a[..len], &self.b[..len]) {
                    return Ok(Some(at + i as u64));
                }
                self.bytes += len as u64;
                at += len as u64;
            }
        }
        Ok(None)
    }
}

fn read_full(fd: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match retry_on_intr(|| pread(fd, &mut buf[done..], at + done as u64))? {
            // Shorter than its size said: it changed while we looked, or the filesystem lies.
            0 => return Err(Errno::IO),
            n => done += n,
        }
    }
    Ok(())
}

fn first_mismatch(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(x, y)| x != y)
}

/// The ranges a filesystem calls data, in order; the whole file where it cannot say.
pub(super) fn data_ranges(fd: BorrowedFd<'_>, size: u64) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(vec![(0, size)]),
            Err(errno) => return Err(errno),
        };
        let end = seek(fd, SeekFrom::Hole(start))?.min(size);
        if start >= size || end <= start || start < at {
            break;
        }
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}

/// Bytes that are in `b` but in no range of `a`; both in order and without overlap.
pub(super) fn only_in_b(a: &[Range], b: &[Range]) -> u64 {
    let mut only = 0;
    let mut a = a.iter().peekable();
    for &(start, end) in b {
        let mut at = start;
        while at < end {
            match a.peek() {
                Some(&&(_, a_end)) if a_end <= at => {
                    a.next();
                }
                Some(&&(a_start, a_end)) if a_start <= at => at = a_end.min(end),
                Some(&&(a_start, _)) => {
                    only += a_start.min(end) - at;
                    at = a_start.min(end);
                }
                None => {
                    only += end - at;
                    at = end;
                }
            }
        }
    }
    only
}

fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_only_in_b_are_counted_across_ranges() {
        for (a, b, only) in [
            (vec![], vec![(0, 10)], 10),
            (vec![(0, 10)], vec![], 0),
            (vec![(0, 10)], vec![(0, 10)], 0),
            (vec![(2, 4), (6, 8)], vec![(0, 10)], 6),
            (vec![(0, 100)], vec![(2, 4), (50, 60)], 0),
            (vec![(5, 15)], vec![(0, 10), (12, 20)], 10),
        ] {
            assert_eq!(only_in_b(&a, &b), only, "{a:?} {b:?}");
        }
    }

    #[test]
    fn merging_joins_touching_ranges() {
        assert_eq!(merged(vec![(8, 9), (0, 4), (4, 6), (1, 2)]), vec![(0, 6), (8, 9)]);
    }
}
