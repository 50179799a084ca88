//! What a comparison found: a bounded list of one-line differences and the counts that prove it looked.

use std::fmt;

/// The property in which two entries differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// In `a`, not in `b`.
    Missing,
    /// In `b`, not in `a`.
    Extra,
    /// A directory listed the same name twice.
    ListedTwice,
    /// File type.
    Type,
    /// Permission bits, 07777.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time.
    Mtime,
    /// Size of a regular file.
    Size,
    /// Bytes of a regular file.
    Content,
    /// A hole of `a` is data in `b`.
    Holes,
    /// Symlink target.
    Target,
    /// A `user.*` xattr.
    Xattr,
    /// A POSIX ACL.
    Acl,
    /// `security.capability` against the policy.
    Capability,
    /// An xattr that is never carried, yet was.
    ForbiddenXattr,
    /// A socket or device node against the policy.
    Special,
    /// The two trees link names differently.
    Links,
    /// A name in `b` has a hard link outside `b`.
    OutsideLink,
    /// It could not be read.
    Unreadable,
}

/// One difference: where, in what, and a sentence with both values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Path below the roots, as bytes; empty for the roots.
    pub path: Vec<u8>,
    /// The property.
    pub aspect: Aspect,
    /// Both values, in words.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { ".".to_owned() } else { escape(&self.path) };
        write!(f, "{path}: {:?}: {}", self.aspect, self.detail)
    }
}

/// Everything one comparison found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first differences, sorted by path; at most `Options::limit`.
    pub differences: Vec<Difference>,
    /// All differences, also those not kept.
    pub count: u64,
    /// Names present in both trees.
    pub entries: u64,
    /// Directories among them, without the roots.
    pub directories: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of content compared (holes known as such are not read).
    pub bytes: u64,
    /// Groups of two or more hard-linked names in `a`.
    pub link_groups: u64,
    /// Sockets and device nodes that the policy left out.
    pub left_out: u64,
}

impl Report {
    /// Nothing differs.
    pub fn is_same(&self) -> bool {
        self.count == 0
    }

    /// Paths and aspects of the kept differences, for tests that expect certain ones.
    pub fn aspects(&self) -> Vec<(String, Aspect)> {
        self.differences.iter().map(|d| (escape(&d.path), d.aspect)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "  {difference}")?;
        }
        let kept = self.differences.len() as u64;
        if self.count > kept {
            writeln!(f, "  … and {} more", self.count - kept)?;
        }
        write!(
            f,
            "  {} differences in {} common entries ({} files, {} bytes read)",
            self.count, self.entries, self.files, self.bytes
        )
    }
}

/// Spells bytes on one line: control characters, quotes and what is not ASCII become escapes.
pub fn escape(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
