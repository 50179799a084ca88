//! The text of a configuration file, and where in it something is.

use std::path::Path;

/// Largest file that is read: a thousand lanes with comments are a tenth of it.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A range of bytes in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A place as editors count it, both from 1; a column is a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    bytes: Vec<u8>,
    /// Offset of the first byte of each line.
    lines: Vec<usize>,
}

impl Source {
    /// Bytes that are called `name` in messages.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let breaks = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), bytes, lines }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What the system said; a file that is longer than [`CONFIG_BYTES_MAX`] is refused.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(std::io::Error::other("it is larger than 1 MiB, which no configuration is"));
        }
        Ok(Self::new(path.display().to_string(), bytes))
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The line and column of a byte; of the end for what lies behind it.
    pub fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.bytes.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let before = &self.bytes[self.lines[line - 1]..offset];
        Place { line, column: String::from_utf8_lossy(before).chars().count() + 1 }
    }

    /// A line without its end, numbered from 1, and the offset of its first byte.
    pub fn line(&self, number: usize) -> (usize, &[u8]) {
        let start = self.lines[number - 1];
        let end = self.lines.get(number).map_or(self.bytes.len(), |next| next - 1);
        let line = &self.bytes[start..end];
        (start, line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// The span, moved inside the text.
    pub fn clamp(&self, span: Span) -> Span {
        let start = span.start.min(self.bytes.len());
        Span { start, end: span.end.clamp(start, self.bytes.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_editors_do() {
        let source = Source::new("x", "a\r\nüb\n\nc".as_bytes());
        for (offset, line, column) in
            [(0, 1, 1), (3, 2, 1), (5, 2, 2), (7, 3, 1), (8, 4, 1), (9, 4, 2), (99, 4, 2)]
        {
            assert_eq!(source.place(offset), Place { line, column }, "byte {offset}");
        }
        assert_eq!(source.line(1), (0, &b"a"[..]));
        assert_eq!(source.line(2), (3, "üb".as_bytes()));
        assert_eq!(source.line(3), (7, &b""[..]));
        assert_eq!(source.line(4), (8, &b"c"[..]));
        assert_eq!(Source::new("x", "").place(0), Place { line: 1, column: 1 });
    }
}
