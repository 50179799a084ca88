//! Reads the configuration as the agent does that is started with it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::problem::Report;
use super::source::Source;
use super::{Config, LaneConfig};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {path} (`tidegate config example` prints one to begin with): {source}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("the configuration is wrong\n{0}")]
    Wrong(Box<Report>),
    /// Somebody else may change what runs with our rights.
    #[error(
        "{path} has hooks, which are run as the agent, but {why}: chown root:root {path} && chmod 644 {path}"
    )]
    Untrusted {
        /// Its path.
        path: String,
        /// Who may change it.
        why: String,
    },
}

impl Config {
    /// Reads the file at `path`. The report beside a configuration holds warnings alone.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<(Config, Report), ConfigError> {
        let name = || path.display().to_string();
        let unread = |source| ConfigError::Read { path: name(), source };
        let (config, report) = Config::parse(Source::read(path).map_err(unread)?)
            .map_err(|e| ConfigError::Wrong(Box::new(e)))?;
        let has_hooks =
            |lane: &LaneConfig| lane.settings.hooks.pre.is_some() || lane.settings.hooks.post.is_some();
        if config.lanes.iter().any(has_hooks) {
            let file = std::fs::metadata(path).map_err(unread)?;
            if let Some(why) = foreign(file.uid(), file.mode(), sys::host::effective_owner().0) {
                return Err(ConfigError::Untrusted { path: name(), why });
            }
        }
        Ok((config, report))
    }
}

/// Who else may change a file, if anybody.
fn foreign(owner: u32, mode: u32, us: u32) -> Option<String> {
    if owner != 0 && owner != us {
        Some(format!("it belongs to user {owner}"))
    } else if mode & 0o022 != 0 {
        Some(format!("its mode {:03o} lets others write it", mode & 0o777))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_change_is_foreign() {
        for (owner, mode, us, refused) in [
            (0, 0o100_644, 0, false),
            (0, 0o100_644, 1000, false),
            (1000, 0o100_600, 1000, false),
            (1000, 0o100_600, 0, true),
            (0, 0o100_664, 0, true),
            (0, 0o100_646, 0, true),
        ] {
            assert_eq!(foreign(owner, mode, us).is_some(), refused, "{owner} {mode:o} {us}");
        }
    }
}
