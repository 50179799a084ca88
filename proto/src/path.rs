//! Relative paths as bytes, checked once.

use std::fmt;

use crate::codec::{Decode, Encode};

/// A path below a volume or mirror: components separated by `/`, none of them empty, `.` or `..`; the empty
/// path is the root itself. Any bytes but NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct RelPath(Vec<u8>);

/// Longest path we carry, in bytes: Linux's PATH_MAX for a directory, and one name in it, because a name that is
/// refused for its length is still listed as an exception. GlusterFS stops at about 4,020.
pub const PATH_BYTES_MAX: usize = 4096 + 256;

impl RelPath {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks and takes a path.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let sound = bytes.is_empty()
            || (bytes.len() <= PATH_BYTES_MAX
                && bytes
                    .split(|b| *b == b'/')
                    .all(|c| !c.is_empty() && c != b"." && c != b".." && !c.contains(&0)));
        sound.then(|| Self(bytes.to_vec()))
    }

    /// True when the value still obeys the rules after coming from disk.
    pub fn is_sound(&self) -> bool {
        Self::new(&self.0).is_some()
    }

    /// This path with one more component; `name` must be a valid single name.
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/'));
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True for the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// Number of components.
    pub fn depth(&self) -> usize {
        if self.0.is_empty() { 0 } else { 1 + self.0.iter().filter(|b| **b == b'/').count() }
    }

    /// The directory and the last component; nothing for the root.
    pub fn split_last(&self) -> Option<(RelPath, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => Some((Self(self.0[..slash].to_vec()), &self.0[slash + 1..])),
            None => Some((Self::root(), &self.0)),
        }
    }

    /// True when `self` is `above` or lies below it.
    pub fn is_within(&self, above: &RelPath) -> bool {
        above.0.is_empty()
            || (self.0.starts_with(&above.0) && matches!(self.0.get(above.0.len()), None | Some(b'/')))
    }

    /// This path with the leading `from` replaced by `to`; nothing if it does not lie within `from`.
    pub fn rebase(&self, from: &RelPath, to: &RelPath) -> Option<RelPath> {
        if !self.is_within(from) {
            return None;
        }
        let mut moved = to.clone();
        let skip = from.depth();
        for component in self.components().skip(skip) {
            moved = moved.join(component);
        }
        Some(moved)
    }
}

impl fmt::Display for RelPath {
    /// Escaped like every name a container chose; the root prints as `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str(".") } else { escape(&self.0, f) }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for RelPath {
    /// As the escaped text that people see.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn escape(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\\' => f.write_str("\\\\")?,
                // Control characters, bidirectional overrides and joiners: a name must not steer a terminal.
                c if c.is_control()
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{61c}' | '\u{2060}'..='\u{2069}' | '\u{feff}') =>
                {
                    write!(f, "\\u{{{:x}}}", c as u32)?;
                }
                c => f.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Prints bytes escaped as [`RelPath`] does, for names that are not paths.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_paths_are_taken() {
        for good in ["", "a", "a/b", "...", "a b/\n", "-rf"] {
            assert!(RelPath::new(good.as_bytes()).is_some(), "{good:?}");
        }
        for bad in ["/", "/a", "a/", "a//b", ".", "a/../b", "a/.", "\0"] {
            assert!(RelPath::new(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn rebase_moves_only_what_lies_within() {
        let p = |s: &str| RelPath::new(s.as_bytes()).unwrap();
        assert_eq!(p("a/b/c").rebase(&p("a/b"), &p("x")), Some(p("x/c")));
        assert_eq!(p("a/b").rebase(&p("a/b"), &p("x/y")), Some(p("x/y")));
        assert_eq!(p("a/bc").rebase(&p("a/b"), &p("x")), None);
        assert!(p("a").is_within(&RelPath::root()) && !p("ab").is_within(&p("a")));
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(
            RelPath::new(b"a\x1b[2J\n\xff\xc2\x9b\\").unwrap().to_string(),
            "a\\u{1b}[2J\\n\\xff\\u{9b}\\\\"
        );
    }
}
