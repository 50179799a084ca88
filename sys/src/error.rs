//! One error type for every kernel call: which act, on what, and the positive errno.

use std::fmt;

pub use rustix::io::Errno;

/// A kernel call that failed: the act, the object it was done to, and the errno.
///
/// The object is a name or path as bytes; it is escaped when printed, because a container chooses it.
#[derive(Clone, PartialEq, Eq)]
pub struct SysError {
    /// The act, named after the system call or the step (`"rename"`, `"open for reading"`).
    pub op: &'static str,
    /// The name or path the act was done to.
    pub object: Box<[u8]>,
    /// What the kernel answered; positive.
    pub errno: Errno,
}

impl SysError {
    /// An error of `op` on `object`.
    pub fn new(op: &'static str, object: &[u8], errno: Errno) -> Self {
        Self { op, object: object.into(), errno }
    }

    /// True for an errno that says the thing is not there (any more): `ENOENT` and `ESTALE`.
    pub fn is_gone(&self) -> bool {
        self.errno == Errno::NOENT || self.errno == Errno::STALE
    }
}

/// `.map_err(ctx("rename", name))` for results of `rustix`.
pub fn ctx<'a>(op: &'static str, object: &'a [u8]) -> impl FnOnce(Errno) -> SysError + 'a {
    move |errno| SysError::new(op, object, errno)
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = std::io::Error::from_raw_os_error(self.errno.raw_os_error());
        write!(f, "{} {}: {error}", self.op, Escaped(&self.object))
    }
}

impl fmt::Debug for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for SysError {}

/// Prints bytes that a container chose: printable text as it is, everything else as `\xNN`, `\n`, `\\`.
///
/// Control characters of both ranges (C0 and C1) are escaped, so that no file name can move a terminal's
/// cursor or forge a log line.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() || is_invisible(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Characters that change how the text around them is shown: bidirectional overrides and joiners.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{61c}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let shown = Escaped(b"a\x1b[2J\n\xff\xc2\x9b\\ \xe2\x80\xae").to_string();
        assert_eq!(shown, "a\\u{1b}[2J\\n\\xff\\u{9b}\\\\ \\u{202e}");
    }
}
