//! Absolute paths as the configuration has them: one spelling for each.

use std::path::{Component, Path, PathBuf};

/// Longest path that Linux takes, in bytes.
const PATH_MAX: usize = 4096;

/// Takes an absolute path; slashes too many go, so that equal places are equal paths.
///
/// # Errors
/// What is wrong, to be put behind the path.
pub fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    if text.contains('\0') || text.len() >= PATH_MAX {
        return Err("is no path of this system");
    }
    let path = Path::new(text);
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err("is relative: it must begin with a slash, because the agent is started anywhere");
    }
    if text.split('/').any(|name| name == "." || name == "..") {
        return Err("has . or .. in it: write where it leads");
    }
    if components.next().is_none() {
        return Err("is the root of the file system");
    }
    // Collecting drops doubled and trailing slashes.
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each_place() {
        assert_eq!(absolute("//a//b/").unwrap().as_os_str(), "/a/b");
        for bad in ["", "a", "./a", "~/a", "/", "//", "/a/../b", "/a/./b", "/a/..", "/a\0"] {
            assert!(absolute(bad).is_err(), "{bad:?}");
        }
        assert!(absolute(&format!("/{}", "a".repeat(5000))).is_err());
    }
}
