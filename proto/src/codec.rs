//! The one module that names `bincode`: configuration, size limit, and the two functions everything uses.
//!
//! bincode 2.0.1 is no longer maintained upstream. It is pinned, its output is frozen by golden bytes in
//! `proto/tests/data/`, and this module is all that a replacement would have to touch.

pub use bincode::{Decode, Encode};

/// Largest body of one frame: a path of 4 KiB, 64 KiB of extended attributes, and the block hashes of a file
/// of 128 GiB (131,072 × 32 bytes) fit.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// What one decoding may claim: a forged length cannot make a reader allocate more. The decoder counts sizes in
/// memory (8 bytes for each integer, 48 for each attribute), so this is larger than the greatest body: else one
/// that was written and sealed could not be read.
const CLAIM_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<CLAIM_BYTES_MAX>,
> = bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>();

/// Why bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes do not decode, or ask for more than any body could need.
    #[error("cannot be decoded: {0}")]
    Malformed(String),
    /// Bytes are left over behind the value: the writer meant something else.
    #[error("{0} bytes behind the value")]
    Trailing(usize),
    /// The value is larger than [`BODY_BYTES_MAX`].
    #[error("too large to encode: {0}")]
    TooLarge(String),
}

/// Encodes a value.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, CONFIG).map_err(|e| CodecError::TooLarge(e.to_string()))?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(CodecError::TooLarge(format!("{} bytes", bytes.len())));
    }
    Ok(bytes)
}

/// Decodes a value that must fill the bytes exactly.
///
/// # Errors
/// [`CodecError::Malformed`], [`CodecError::Trailing`].
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::decode_from_slice::<T, _>(bytes, CONFIG)
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    Ok(value)
}
