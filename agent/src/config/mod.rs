//! The configuration of the agent, `/etc/tidegate/tidegate.toml`.
//!
//! In reading order: `keys` tables every key, by the kinds of values in `kinds` and `units`; `read` turns a
//! text into a [`Config`], `cross` holds its lanes against each other, and whatever is wrong becomes a
//! `problem` with a place in the `source`, all of them at once. `docs/configuration.md` is held to the table.

mod cross;
mod excludes;
mod keys;
mod kinds;
mod lane;
mod load;
mod path;
mod preset;
mod problem;
mod read;
mod render;
mod source;
mod suggest;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod units;

pub use excludes::{Excludes, Pattern, PatternError};
pub use keys::{Row, Section, rows};
pub use kinds::Every;
pub use lane::{EngineChoice, Hooks, LaneConfig, Settings, VolumeSource};
pub use load::ConfigError;
pub use preset::Preset;
pub use problem::{Problem, ProblemJson, Related, Report, Severity};
pub use source::{CONFIG_BYTES_MAX, Place, Source, Span};
pub use units::{Bytes, BytesPerSecond};

/// Where the configuration is unless told otherwise.
pub const CONFIG_PATH: &str = "/etc/tidegate/tidegate.toml";

/// A configuration to begin with, every key in it explained.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A configuration without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The host's part.
    pub agent: AgentConfig,
    /// Its lanes in the order of the file; names, volumes and mirrors are all different.
    pub lanes: Vec<LaneConfig>,
}

/// The host's part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// How this host is called; nothing means by its host name.
    pub host: Option<String>,
    /// Group that may read the control socket; nothing means root alone.
    pub status_group: Option<String>,
    /// Processes that hide what they have open and write to no volume, by their names of up to 15 bytes.
    pub not_writers: Vec<String>,
    /// Most that the journals take.
    pub journal_max: Bytes,
    /// What is logged.
    pub log: LogLevel,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// That a lane cannot go on.
    Error,
    /// What is worth a look.
    Warn,
    /// Each generation.
    Info,
    /// Each step.
    Debug,
    /// Everything.
    Trace,
}

impl Config {
    /// Reads a text. The report beside a configuration holds warnings alone.
    ///
    /// # Errors
    /// The report with everything that is wrong: at least one error in it.
    pub fn parse(source: Source) -> Result<(Config, Report), Report> {
        read::config(source)
    }
}

/// The word for a value of a key.
fn word<T: Copy + PartialEq>(key: &keys::Key<kinds::WordKind<T>>, value: T) -> String {
    key.kind.0.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word).to_owned()
}
