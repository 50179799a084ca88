//! Frames: the envelope of every record on disk, checked before anything in it is believed.
//!
//! ```text
//! len u32 | checksum [8] | kind u8 | version u8 | body (len bytes)
//! ```
//! `len` counts the body alone, little-endian. `checksum` is the first 8 bytes of BLAKE3 over
//! `len | kind | version | body`.

use crate::codec::BODY_BYTES_MAX;

/// Bytes before the body.
pub const FRAME_HEADER_BYTES: usize = 4 + 8 + 1 + 1;

/// What a frame holds. Numbers are part of the format: append only, never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Start of a redo log or manifest.
    LogHeader = 1,
    /// One operation of a redo log, or one entry of a manifest.
    LogOp = 2,
    /// End of a redo log or manifest: counts and hash of all before it.
    LogTrailer = 3,
    /// The file `HEAD`.
    Head = 4,
    /// The file `lane`.
    Lane = 5,
    /// A file `epoch/<N>`.
    Epoch = 6,
    /// Start of a segment of a journal.
    JournalHeader = 16,
    /// One record of a journal.
    JournalRecord = 17,
}

/// Version written today, of every kind.
pub const VERSION: u8 = 1;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside the frame: a torn tail.
    #[error("ends in the middle of a frame")]
    Truncated,
    /// The checksum does not match.
    #[error("checksum does not match")]
    Checksum,
    /// The length is beyond every limit.
    #[error("length {0} is beyond the limit")]
    Length(u64),
    /// A kind that is not expected here.
    #[error("kind {0} is not expected here")]
    Kind(u8),
    /// A version this program does not know.
    #[error("format version {0} is newer than this program knows; upgrade tidegate on this host")]
    Version(u8),
    /// The body does not decode.
    #[error("body {0}")]
    Body(#[from] crate::codec::CodecError),
    /// The records are all sound but do not add up.
    #[error("{0}")]
    Inconsistent(String),
}

/// Appends a frame to `out`.
pub fn put(out: &mut Vec<u8>, kind: FrameKind, body: &[u8]) {
    let len = u32::try_from(body.len()).unwrap_or_else(|_| unreachable!("codec bounds every body"));
    out.reserve(FRAME_HEADER_BYTES + body.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&checksum(len, kind as u8, VERSION, body));
    out.push(kind as u8);
    out.push(VERSION);
    out.extend_from_slice(body);
}

/// A checked frame and where the next one starts.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Kind as stored.
    pub kind: u8,
    /// Body, checksum verified.
    pub body: &'a [u8],
    /// Length of the whole frame.
    pub len: usize,
}

/// Reads the frame at the start of `bytes`.
///
/// # Errors
/// [`FrameError::Truncated`] when more bytes are needed; the others when no more bytes would help.
pub fn take(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    if bytes.len() < FRAME_HEADER_BYTES {
        return Err(FrameError::Truncated);
    }
    let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if len as usize > BODY_BYTES_MAX {
        return Err(FrameError::Length(u64::from(len)));
    }
    let (kind, version) = (bytes[12], bytes[13]);
    let body =
        bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + len as usize).ok_or(FrameError::Truncated)?;
    if bytes[4..12] != checksum(len, kind, version, body) {
        return Err(FrameError::Checksum);
    }
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    Ok(Frame { kind, body, len: FRAME_HEADER_BYTES + len as usize })
}

/// Encodes one value as a file of a single frame.
///
/// # Errors
/// [`FrameError::Body`] when the value is too large.
pub fn encode_file<T: crate::codec::Encode>(kind: FrameKind, value: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    put(&mut out, kind, &crate::codec::encode(value)?);
    Ok(out)
}

/// Decodes a file that is a single frame of `kind`.
///
/// # Errors
/// Any [`FrameError`]; trailing bytes are [`FrameError::Inconsistent`].
pub fn decode_file<T: crate::codec::Decode<()>>(kind: FrameKind, bytes: &[u8]) -> Result<T, FrameError> {
    let frame = take(bytes)?;
    if frame.kind != kind as u8 {
        return Err(FrameError::Kind(frame.kind));
    }
    if frame.len != bytes.len() {
        return Err(FrameError::Inconsistent(format!("{} bytes behind the record", bytes.len() - frame.len)));
    }
    Ok(crate::codec::decode(frame.body)?)
}

fn checksum(len: u32, kind: u8, version: u8, body: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(&[kind, version]);
    hasher.update(body);
    let mut short = [0; 8];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let mut whole = Vec::new();
        put(&mut whole, FrameKind::LogOp, b"body of a frame");
        assert_eq!(take(&whole).unwrap().body, b"body of a frame");
        for cut in 0..whole.len() {
            assert_eq!(take(&whole[..cut]).unwrap_err(), FrameError::Truncated, "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(take(&bad).is_err(), "bit {bit} flipped unseen");
        }
    }
}
