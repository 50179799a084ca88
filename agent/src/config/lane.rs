//! A lane as the configuration has it, everything resolved: what it says itself, else `[defaults]`, else the default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::LaneName;

use super::excludes::Excludes;
use super::kinds::Every;
use super::path;
use super::preset::Preset;
use super::units::{BytesPerSecond, say_duration};
use crate::cycle::{DeletionLimit, Durability};
use crate::docker::{VolumeName, VolumeRef};

/// A lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneConfig {
    /// `team/env`.
    pub name: LaneName,
    /// What is replicated.
    pub volume: VolumeSource,
    /// Where to; absolute.
    pub mirror: PathBuf,
    /// How.
    pub settings: Settings,
}

/// What is replicated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VolumeSource {
    /// A Docker volume.
    Docker(VolumeName),
    /// A directory; absolute.
    Directory(PathBuf),
}

/// Everything about a lane but its name and its two ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether the agent works on it.
    pub start: bool,
    /// Patterns for a known program; they are in `excludes` already, before those of the operator.
    pub preset: Preset,
    /// What is left out.
    pub excludes: Excludes,
    /// A cut is made when nothing changed for this long.
    pub quiet: Duration,
    /// Or so early that the oldest change is in the mirror at this age; never less than `quiet`.
    pub max_age: Duration,
    /// When the volume is walked although no gap is known.
    pub reconcile: Every,
    /// Time between walks where changes cannot be captured.
    pub fallback_interval: Duration,
    /// Lag beyond which `status --check` fails.
    pub alert_after: Duration,
    /// How much may be deleted within `delete_window`.
    pub limit: DeletionLimit,
    /// Time over which deletions are summed.
    pub delete_window: Duration,
    /// When a generation is called sealed.
    pub durability: Durability,
    /// How files are copied.
    pub engine: EngineChoice,
    /// Files being copied at once; 1 to 512.
    pub in_flight: usize,
    /// Most bytes sent in a second; nothing means no limit.
    pub bandwidth: Option<BytesPerSecond>,
    /// Most operations on the mirror in a second; nothing means no limit.
    pub iops: Option<u64>,
    /// Whether the container is frozen for the moment of the cut.
    pub freeze: bool,
    /// Programs around the cut.
    pub hooks: Hooks,
}

/// Programs around the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Before it; absolute.
    pub pre: Option<PathBuf>,
    /// After it; absolute.
    pub post: Option<PathBuf>,
    /// How long each may take.
    pub timeout: Duration,
}

/// How files are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// io_uring if it is to be had.
    Auto,
    /// io_uring.
    Ring,
    /// Plain calls on threads.
    Plain,
}

impl VolumeSource {
    /// Reads `docker:NAME` or an absolute path.
    ///
    /// # Errors
    /// What is wrong, to be put behind the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if VolumeRef::is_meant_by(text) {
            let VolumeRef(name) = text.parse().map_err(|_| {
                "is no name of a Docker volume: behind docker: a letter or digit, then letters, digits, \
                 underscores, dots and dashes, as `docker volume ls` shows it"
                    .to_owned()
            })?;
            return Ok(Self::Docker(name));
        }
        path::absolute(text).map(Self::Directory).map_err(|why| match text.contains('/') {
            true => why.to_owned(),
            false => format!("{why}; a Docker volume is written docker:{text}"),
        })
    }

    /// Where it lies; for a Docker volume where Docker puts it unless told otherwise. Good enough to find two
    /// lanes that are in each other's way; whoever opens the volume asks Docker.
    pub fn usual_place(&self) -> PathBuf {
        match self {
            Self::Docker(name) => Path::new("/var/lib/docker/volumes").join(name.as_str()).join("_data"),
            Self::Directory(path) => path.clone(),
        }
    }
}

impl fmt::Display for VolumeSource {
    /// As [`VolumeSource::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(name) => VolumeRef(name.clone()).fmt(f),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for LaneConfig {
    /// One line with everything that was resolved.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.name, self.volume, self.mirror.display())?;
        self.settings.words().into_iter().try_for_each(|(name, value)| write!(f, "; {name} {value}"))
    }
}

impl LaneConfig {
    /// True when `other` can be put in force while the lane goes on: it is the same lane, but for how fast it may be.
    pub fn differs_in_limits_alone(&self, other: &LaneConfig) -> bool {
        let Settings { bandwidth, iops, .. } = self.settings;
        let settings = Settings { bandwidth, iops, ..other.settings.clone() };
        *self == LaneConfig { settings, ..other.clone() }
    }
}

impl Settings {
    /// The limits of what is sent to the mirror.
    pub fn rates(&self) -> transfer::Rates {
        transfer::Rates { bytes: self.bandwidth.map(|rate| rate.0), ops: self.iops }
    }

    /// The operator's patterns: all but those of the preset, which come first.
    pub fn own_patterns(&self) -> Vec<&str> {
        self.excludes.patterns().skip(self.preset.patterns().len()).collect()
    }

    /// Each setting by its key, as it would be typed; what is not set at all is left out.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let yes = |flag: bool| if flag { "true" } else { "false" }.to_owned();
        let time = |time: Duration| say_duration(time);
        let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
        let mut words = vec![
            ("start", yes(self.start)),
            ("preset", super::word(&super::keys::PRESET, self.preset)),
            ("exclude", format!("{:?}", self.own_patterns())),
            ("quiet", time(self.quiet)),
            ("max_age", time(self.max_age)),
            (
                "reconcile",
                match self.reconcile {
                    Every::Never => "never".to_owned(),
                    Every::Interval(interval) => time(interval),
                },
            ),
            ("fallback_interval", time(self.fallback_interval)),
            ("alert_after", time(self.alert_after)),
            ("max_delete", self.limit.entries.to_string()),
            ("max_delete_percent", self.limit.percent.to_string()),
            ("delete_window", time(self.delete_window)),
            ("durability", super::word(&super::keys::DURABILITY, self.durability)),
            ("engine", super::word(&super::keys::ENGINE, self.engine)),
            ("in_flight", self.in_flight.to_string()),
            ("bandwidth", or_none(self.bandwidth.map(|rate| rate.to_string()))),
            ("iops", or_none(self.iops.map(|iops| iops.to_string()))),
            ("freeze", yes(self.freeze)),
        ];
        let hooks = [("hooks.pre", &self.hooks.pre), ("hooks.post", &self.hooks.post)];
        let set = hooks.into_iter().filter_map(|(name, hook)| Some((name, hook.as_ref()?)));
        words.extend(set.map(|(name, hook)| (name, hook.display().to_string())));
        if self.hooks.pre.is_some() || self.hooks.post.is_some() {
            words.push(("hooks.timeout", time(self.hooks.timeout)));
        }
        words
    }
}

impl serde::Serialize for LaneConfig {
    /// One object, settings as they would be typed; `exclude` is a list with the preset's patterns in it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("lane", &self.name)?;
        map.serialize_entry("volume", &self.volume.to_string())?;
        map.serialize_entry("mirror", &self.mirror.display().to_string())?;
        for (name, value) in self.settings.words() {
            match name {
                "exclude" => map.serialize_entry(name, &self.settings.excludes)?,
                _ => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}
