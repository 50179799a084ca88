//! Reading from a peer until a moment that it cannot put off.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A stream that is read until a deadline: a timeout for each read alone would let a peer that sends a byte now and then hold
/// us for as long as it likes.
pub(super) struct Until<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl<'a> Until<'a> {
    /// From now on for `limit`.
    pub fn new(stream: &'a UnixStream, limit: Duration) -> Self {
        Self { stream, end: Instant::now() + limit }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Each byte comes in time, all of them never do.
    #[test]
    fn a_peer_that_goes_on_and_on_is_left_at_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let limit = Duration::from_millis(300);
        let begun = Instant::now();
        let mut until = Until::new(&ours, limit);
        let error = loop {
            theirs.write_all(b"x").unwrap();
            match until.read(&mut [0]) {
                Ok(n) => assert_eq!(n, 1),
                Err(error) => break error,
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it is read without end");
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() >= limit);
        // And one that says nothing.
        let mut until = Until::new(&theirs, Duration::from_millis(1));
        assert!(matches!(
            until.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut
        ));
    }
}
