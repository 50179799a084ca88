//! Words: what can differ between a tree and its generation.

use std::fmt;

use proto::RelPath;

/// One difference of one path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// `mirror` or `volume`.
    pub tree: &'static str,
    /// Path.
    pub path: RelPath,
    /// In what.
    pub what: What,
    /// Both sides in words.
    pub detail: String,
}

/// The property that differs. The words are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words say it")]
pub enum What {
    Missing,
    Extra,
    Type,
    Size,
    Content,
    Target,
    Mode,
    Owner,
    Mtime,
    Xattr,
    Link,
    Unreadable,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Mtime => "mtime",
            Self::Xattr => "xattr",
            Self::Link => "link",
            Self::Unreadable => "unreadable",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.tree, self.path, self.what)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}
