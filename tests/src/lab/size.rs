//! Sizes as people write them. Pure.

use anyhow::{Context, Result, bail};

/// Bytes of `512M`, `4G`, `1048576`: a number with an optional binary suffix.
pub(super) fn bytes(text: &str) -> Result<u64> {
    let (digits, factor) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 1 << 10),
        Some('M') => (&text[..text.len() - 1], 1 << 20),
        Some('G') => (&text[..text.len() - 1], 1 << 30),
        Some('0'..='9') => (text, 1),
        _ => bail!("size {text:?}: expected digits and an optional K, M or G"),
    };
    let number: u64 = digits.parse().with_context(|| format!("size {text:?}"))?;
    number.checked_mul(factor).with_context(|| format!("size {text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn suffixes() {
        assert_eq!(bytes("512M").unwrap(), 512 << 20);
        assert_eq!(bytes("4G").unwrap(), 4 << 30);
        assert_eq!(bytes("77").unwrap(), 77);
        for wrong in ["", "G", "4T", "-1M", "99999999999999999999G", "é"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
