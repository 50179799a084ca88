//! Patterns of what is left out of the mirror: the simple core of gitignore's, on bytes.
//!
//! | pattern | matches |
//! |---|---|
//! | `*.tmp` | no slash: a name at any depth |
//! | `/war`, `jobs/*/workspace` | a slash before the end: a path from the volume's root |
//! | `caches/` | a slash at the end: directories only |
//! | `a/**/b`, `**/b`, `a/**` | `**`: any number of directories, none too; at the end all that is below |
//!
//! `*` and `?` match no slash, `[a-z]` one character of a class, `{a,b}` one of several, `\` takes the next character
//! as it is. What lies in a directory that matches is left out with it. There is no negation.

use std::fmt;
use std::sync::Arc;

use globset::{Candidate, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use proto::RelPath;

/// Longest pattern, in bytes: one that is longer is a slip.
pub const PATTERN_BYTES_MAX: usize = 1024;
/// Most patterns of a lane: each costs at every name that is looked at.
pub const PATTERNS_MAX: usize = 256;

/// Compiled patterns; cheap to clone.
#[derive(Clone, Default)]
pub struct Excludes(Arc<Compiled>);

#[derive(Default)]
struct Compiled {
    set: GlobSet,
    /// In the order of the set.
    patterns: Vec<Pattern>,
}

/// One pattern, checked and compiled.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    only_dirs: bool,
    glob: globset::Glob,
    /// The same on its own.
    matcher: GlobMatcher,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `!`.
    #[error(
        "{0:?} begins with !: there is no negation, list only what is left out (a name that begins with ! is \
         written \\!)"
    )]
    Negation(String),
    /// It names nothing a path could be.
    #[error("{0:?} matches no path: a pattern has names between single slashes, and neither . nor ..")]
    NoPath(String),
    /// Nothing would be left.
    #[error("{0:?} matches everything: the mirror would stay empty; set `start = false` to leave a lane out")]
    Everything(String),
    /// Too long.
    #[error("a pattern of {0} bytes is too long: at most {PATTERN_BYTES_MAX}")]
    Long(usize),
    /// The glob's syntax.
    #[error("{text:?} is no glob: {why}")]
    Glob {
        /// The pattern.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::Long(text.len()));
        }
        if text.starts_with('!') {
            return Err(PatternError::Negation(text.to_owned()));
        }
        let only_dirs = text.ends_with('/');
        let path = text.strip_suffix('/').unwrap_or(text);
        let anchored = path.contains('/');
        let path = path.strip_prefix('/').unwrap_or(path);
        let no_name = |name: &str| matches!(name, "" | "." | "..") || name.contains('\0');
        if path.split('/').any(no_name) {
            return Err(PatternError::NoPath(text.to_owned()));
        }
        let glob = if anchored { path.to_owned() } else { format!("**/{path}") };
        let glob = GlobBuilder::new(&glob)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|e| PatternError::Glob { text: text.to_owned(), why: e.kind().to_string() })?;
        let matcher = glob.compile_matcher();
        if matches_everything(&matcher) {
            return Err(PatternError::Everything(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), only_dirs, glob, matcher })
    }
}

/// True when every name at the top matches, as far as short ones of ASCII can tell.
fn matches_everything(matcher: &GlobMatcher) -> bool {
    let matches = |name: &[u8]| matcher.is_match_candidate(&Candidate::from_bytes(name));
    let names = (b'!'..=b'~').filter(|byte| *byte != b'/');
    names.into_iter().all(|byte| matches(&[byte]) && matches(&[byte, b'.', byte]))
}

impl Pattern {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        (is_dir || !self.only_dirs) && self.matcher.is_match_candidate(&Candidate::from_bytes(path))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Excludes {
    /// All of `patterns`; of several that match, the first one is named.
    ///
    /// # Errors
    /// Together they are larger than a set of globs may be.
    pub fn new(patterns: Vec<Pattern>) -> Result<Self, PatternError> {
        let mut set = GlobSetBuilder::new();
        for pattern in &patterns {
            set.add(pattern.glob.clone());
        }
        let set = set.build().map_err(|e| PatternError::Glob {
            text: format!("{} patterns together", patterns.len()),
            why: e.kind().to_string(),
        })?;
        Ok(Self(Arc::new(Compiled { set, patterns })))
    }

    /// True when nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.0.patterns.is_empty()
    }

    /// The patterns as they were written, in their order.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.patterns.iter().map(Pattern::as_str)
    }

    /// The pattern by which `path` is left out, itself or with a directory above it; never the root.
    pub fn matches(&self, path: &RelPath, is_dir: bool) -> Option<&str> {
        if self.is_empty() {
            return None;
        }
        let bytes = path.as_bytes();
        let above = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &bytes[..at]);
        above
            .map(|dir| (dir, true))
            .chain((!path.is_root()).then_some((bytes, is_dir)))
            .find_map(|(path, is_dir)| self.first(path, is_dir))
    }

    /// The pattern that matches `path` itself: enough for a walk, which never enters what is left out.
    pub fn matches_entry(&self, path: &RelPath, is_dir: bool) -> Option<&str> {
        if self.is_empty() || path.is_root() { None } else { self.first(path.as_bytes(), is_dir) }
    }

    fn first(&self, path: &[u8], is_dir: bool) -> Option<&str> {
        let candidate = Candidate::from_bytes(path);
        // Nearly every name matches nothing, which the set says in one pass.
        if !self.0.set.is_match_candidate(&candidate) {
            return None;
        }
        self.0.patterns.iter().find(|pattern| pattern.matches(path, is_dir)).map(Pattern::as_str)
    }
}

impl fmt::Debug for Excludes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.patterns()).finish()
    }
}

impl PartialEq for Excludes {
    fn eq(&self, other: &Self) -> bool {
        self.patterns().eq(other.patterns())
    }
}

impl serde::Serialize for Excludes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.patterns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(patterns: &[&str]) -> Excludes {
        Excludes::new(patterns.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn path(bytes: impl AsRef<[u8]>) -> RelPath {
        RelPath::new(bytes.as_ref()).unwrap()
    }

    #[test]
    fn patterns_match_as_documented() {
        // pattern, path (a directory if it ends with a slash), whether it is left out
        for (pattern, at, out) in [
            ("*.tmp", "a.tmp", true),
            ("*.tmp", "x/y/a.tmp", true),
            ("*.tmp", "a.tmp/x", true),
            ("*.tmp", "a.tmpx", false),
            ("/a", "a", true),
            ("/a", "x/a", false),
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", true),
            ("a/b", "x/a/b", false),
            ("a/*", "a/b", true),
            ("a/*", "a", false),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a/", "a/", true),
            ("a/", "a", false),
            ("a/", "x/a/", true),
            ("a/", "x/a/y", true),
            ("/a/", "x/a/", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**", "a/x", true),
            ("a/**", "a/", false),
            ("**/b", "b", true),
            ("**/b", "a/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[ab]", "x/b", true),
            ("[!ab]", "b", false),
            ("[!ab]", "c", true),
            ("{x,y}.z", "a/y.z", true),
            ("\\!a", "!a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*/*", "a/b", true),
            ("*/*", "a", false),
            (".a", ".a", true),
            ("[!x]*", "a", true),
            ("[!x]*", "x", false),
            ("?", "ab", false),
        ] {
            let (name, is_dir) = at.strip_suffix('/').map_or((at, false), |name| (name, true));
            let found = excludes(&[pattern]);
            let expected = out.then_some(pattern);
            assert_eq!(found.matches(&path(name), is_dir), expected, "{pattern} on {at}");
        }
    }

    #[test]
    fn names_are_bytes_and_the_root_is_never_left_out() {
        let found = excludes(&["a?b", "x*"]);
        assert_eq!(found.matches(&path(b"a\xffb"), false), Some("a?b"));
        assert_eq!(found.matches(&path(b"x\xff\n\xfe"), false), Some("x*"));
        assert_eq!(excludes(&["?"]).matches(&RelPath::root(), true), None);
        assert_eq!(Excludes::default().matches(&path("a"), true), None);
    }

    #[test]
    fn the_first_pattern_that_matches_the_outermost_is_named() {
        let found = excludes(&["b", "*.x", "a/", "a/b"]);
        assert_eq!(found.matches(&path("a/b"), false), Some("a/"));
        assert_eq!(found.matches_entry(&path("a/b"), false), Some("b"));
        assert_eq!(found.matches_entry(&path("q/c"), false), None);
        assert_eq!(found.matches(&path("a/b.x"), false), Some("a/"), "a directory above it");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let refused = |text: &str| text.parse::<Pattern>().unwrap_err();
        assert!(matches!(refused("!a"), PatternError::Negation(_)));
        for text in ["", "/", "//", "a//b", "./a", "a/..", "a/./b", "//a", "a//", "a\0"] {
            assert!(matches!(refused(text), PatternError::NoPath(_)), "{text:?}");
        }
        for text in ["*", "**", "/*", "/**", "*/", "**/*", "/**/**/", "***", "?*", "{*,a}"] {
            assert!(matches!(refused(text), PatternError::Everything(_)), "{text:?}");
        }
        for text in ["[a", "{a", "a}", "[z-a]", "a\\"] {
            assert!(matches!(refused(text), PatternError::Glob { .. }), "{text:?}");
        }
        assert!(matches!(refused(&"a".repeat(1025)), PatternError::Long(1025)));
    }
}
