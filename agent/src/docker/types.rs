//! Words: volumes, containers and versions as Docker tells them, checked once. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

use super::DockerError;

/// A volume's name by Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`. Safe as a path component and in a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// A volume is a directory of this name on the host.
    const LEN_MAX: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = VolumeNameError;

    fn from_str(text: &str) -> Result<VolumeName, VolumeNameError> {
        let mut bytes = text.bytes();
        let begins_well = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins_well
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
            && text.len() <= Self::LEN_MAX
        {
            return Ok(VolumeName(text.to_owned()));
        }
        Err(VolumeNameError { text: text.to_owned() })
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names no Docker volume.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no name of a Docker volume: it begins with a letter or digit, followed by letters, digits, \
     underscores, dots and dashes, as `docker volume ls` shows it"
)]
pub struct VolumeNameError {
    /// What was given.
    pub text: String,
}

/// A volume as an operator writes it, `docker:NAME`, to tell it from a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeRef(pub VolumeName);

impl VolumeRef {
    const PREFIX: &str = "docker:";

    /// Whether the text is meant as a volume, rightly spelled or not: anything else is a path.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(Self::PREFIX)
    }
}

impl FromStr for VolumeRef {
    type Err = VolumeNameError;

    fn from_str(text: &str) -> Result<VolumeRef, VolumeNameError> {
        match text.strip_prefix(Self::PREFIX) {
            Some(name) => name.parse().map(VolumeRef),
            None => Err(VolumeNameError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

/// A volume as the engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name; as asked for, whatever the engine answered.
    pub name: VolumeName,
    /// The plugin that keeps it: `local` for Docker's own.
    pub driver: String,
    /// Where its files are on the host; empty for some drivers. See [`Volume::directory`].
    pub mountpoint: PathBuf,
    /// What it was created with, such as `device` and `o` for a disguised mount.
    pub options: BTreeMap<String, String>,
    /// Labels it was created with.
    pub labels: BTreeMap<String, String>,
}

impl Volume {
    /// The directory on the host that holds the files, if it is nothing but a directory of Docker's own.
    ///
    /// A volume can also be a name for any mount that whoever created it chose (`-o type=none -o o=bind -o
    /// device=/etc`): copying that would follow a container's user out of Docker's reach.
    ///
    /// # Errors
    /// `ForeignDriver` or `MountInDisguise`, or `StrangeMountpoint` if the directory is no plain absolute path.
    pub fn directory(&self) -> Result<&Path, DockerError> {
        const LOCAL: &str = "local";
        const DISGUISE: [&str; 3] = ["device", "o", "type"];

        if self.driver != LOCAL {
            return Err(DockerError::ForeignDriver { name: self.name.clone(), driver: self.driver.clone() });
        }
        // What else the local driver knows, such as a size limit, leaves it a directory.
        let disguise: Vec<String> = self
            .options
            .iter()
            .filter(|(key, value)| DISGUISE.contains(&key.as_str()) && !value.is_empty())
            .map(|(key, value)| format!("{key}={}", value.escape_debug()))
            .collect();
        if !disguise.is_empty() {
            return Err(DockerError::MountInDisguise {
                name: self.name.clone(),
                options: disguise.join(", "),
            });
        }
        let mut components = self.mountpoint.components();
        let plain = components.next() == Some(Component::RootDir)
            && components.all(|component| matches!(component, Component::Normal(_)))
            && self.mountpoint != Path::new("/");
        if !plain {
            return Err(DockerError::StrangeMountpoint {
                name: self.name.clone(),
                mountpoint: self.mountpoint.clone(),
            });
        }
        Ok(&self.mountpoint)
    }
}

/// A container that uses a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its first name, without Docker's leading slash; the short id if it has none.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
}

/// What a container is doing, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "Docker's own words")]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// A state that a later Docker invented.
    #[serde(untagged)]
    Other(String),
}

impl ContainerState {
    /// Whether the container may be writing now, or begin to without being told. On doubt, yes.
    pub fn may_write(&self) -> bool {
        match self {
            ContainerState::Running
            | ContainerState::Paused
            | ContainerState::Restarting
            | ContainerState::Removing
            | ContainerState::Other(_) => true,
            ContainerState::Created | ContainerState::Exited | ContainerState::Dead => false,
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Paused => "paused",
            ContainerState::Restarting => "restarting",
            ContainerState::Removing => "removing",
            ContainerState::Exited => "exited",
            ContainerState::Dead => "dead",
            ContainerState::Other(word) => word,
        })
    }
}

/// A version of the Engine API, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Before the dot.
    pub major: u16,
    /// After the dot: 1.9 is older than 1.41.
    pub minor: u16,
}

impl ApiVersion {
    /// The oldest we have been tried with: Docker 20.10, and Podman.
    pub const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 41 };
    /// The newest we know the words of: Docker 27.
    pub const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 47 };
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<ApiVersion, Self::Err> {
        // Without a dot the whole is tried as the minor number too, and the empty rest is the error.
        let (major, minor) = text.split_once('.').unwrap_or((text, ""));
        Ok(ApiVersion { major: major.parse()?, minor: minor.parse()? })
    }
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersion {
    /// The product's version, such as `20.10.24`.
    pub version: String,
    /// The newest API it speaks.
    pub api: ApiVersion,
    /// The oldest API it still speaks.
    pub api_min: ApiVersion,
}

impl EngineVersion {
    /// The newest API that both of us speak.
    pub fn agree(&self) -> Result<ApiVersion, DockerError> {
        let common = self.api.min(ApiVersion::NEWEST);
        if common < self.api_min.max(ApiVersion::OLDEST) {
            return Err(DockerError::IncompatibleApi {
                version: self.version.clone(),
                engine_min: self.api_min,
                engine_max: self.api,
            });
        }
        Ok(common)
    }
}

/// `GET /version`. Newer engines leave out what is not set, older ones send null.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawVersion {
    #[serde(default)]
    pub version: Option<String>,
    pub api_version: String,
    #[serde(default, rename = "MinAPIVersion")]
    pub min_api_version: Option<String>,
}

/// One volume, inspected or just created.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawVolume {
    pub driver: String,
    #[serde(default)]
    pub mountpoint: PathBuf,
    #[serde(default)]
    pub options: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

impl RawVolume {
    pub fn named(self, name: &VolumeName) -> Volume {
        Volume {
            name: name.clone(),
            driver: self.driver,
            mountpoint: self.mountpoint,
            options: self.options.unwrap_or_default(),
            labels: self.labels.unwrap_or_default(),
        }
    }
}

/// One line of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RawContainer {
    pub id: String,
    #[serde(default)]
    pub names: Option<Vec<String>>,
    pub state: ContainerState,
}

impl From<RawContainer> for Container {
    fn from(raw: RawContainer) -> Container {
        // A container linked by another has a second name, `/other/alias`.
        let names = raw.names.unwrap_or_default();
        let own = names.iter().find_map(|name| name.strip_prefix('/').filter(|name| !name.contains('/')));
        let name = own.unwrap_or_else(|| raw.id.get(..12).unwrap_or(&raw.id)).to_owned();
        Container { id: raw.id, name, state: raw.state }
    }
}

/// What inspecting a container gives, as far as we ask.
#[derive(Debug, Deserialize)]
pub(super) struct RawInspected {
    #[serde(rename = "State")]
    state: RawState,
}

#[derive(Debug, Deserialize)]
struct RawState {
    #[serde(rename = "Running")]
    running: bool,
    #[serde(rename = "Pid")]
    pid: i64,
}

impl RawInspected {
    /// The number of a process, where there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        u32::try_from(self.state.pid).ok().filter(|pid| self.state.running && *pid > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(driver: &str, mountpoint: &str, options: &[(&str, &str)]) -> Volume {
        Volume {
            name: "jenkins".parse().unwrap(),
            driver: driver.into(),
            mountpoint: mountpoint.into(),
            options: options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["a", "0", "jenkins_home", "a.b-c_D9", &"x".repeat(255)] {
            let reference: VolumeRef = format!("docker:{good}").parse().unwrap();
            assert_eq!(reference.0.as_str(), good);
            assert_eq!(reference.to_string(), format!("docker:{good}"));
        }
        for bad in
            ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "a%2f", "ä", "../a", "a?x=y", &"x".repeat(256)]
        {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
            assert!(format!("docker:{bad}").parse::<VolumeRef>().is_err(), "{bad:?}");
        }
        assert!("jenkins".parse::<VolumeRef>().is_err());
        assert!(VolumeRef::is_meant_by("docker:") && !VolumeRef::is_meant_by("/srv/docker:x"));
    }

    /// H4: a volume that is a mount in disguise, or kept by somebody else, is refused with the way out.
    #[test]
    fn only_a_plain_local_volume_has_a_directory() {
        let place = "/var/lib/docker/volumes/jenkins/_data";
        assert_eq!(volume("local", place, &[]).directory().unwrap(), Path::new(place));
        assert_eq!(
            volume("local", place, &[("size", "10g"), ("o", "")]).directory().unwrap(),
            Path::new(place)
        );

        for options in [
            &[("device", "/etc"), ("o", "bind"), ("type", "none")][..],
            &[("device", "/etc")],
            &[("o", "bind")],
            &[("type", "nfs")],
        ] {
            let error = volume("local", place, options).directory().unwrap_err();
            assert!(matches!(error, DockerError::MountInDisguise { .. }));
            let text = error.to_string();
            assert!(text.contains("jenkins") && text.contains(options[0].1), "{text}");
        }
        let error = volume("rexray/ebs", place, &[]).directory().unwrap_err();
        assert!(error.to_string().contains("rexray/ebs"), "{error}");
        for strange in ["", "/", "relative", "/var/../etc"] {
            let error = volume("local", strange, &[]).directory().unwrap_err();
            assert!(matches!(error, DockerError::StrangeMountpoint { .. }), "{strange:?}");
        }
    }

    #[test]
    fn versions_compare_as_numbers_and_agree_or_not() {
        let engine = |min: &str, max: &str| EngineVersion {
            version: "x".into(),
            api: max.parse().unwrap(),
            api_min: min.parse().unwrap(),
        };
        for (min, max, agreed) in [
            ("1.12", "1.41", Some("1.41")),
            ("1.24", "1.47", Some("1.47")),
            ("1.44", "1.52", Some("1.47")),
            ("1.48", "1.60", None),
            ("1.12", "1.40", None),
            ("1.9", "1.9", None),
            ("2.0", "2.1", None),
        ] {
            let outcome = engine(min, max).agree();
            assert_eq!(outcome.as_ref().ok().map(ToString::to_string).as_deref(), agreed, "{min} to {max}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains(&format!("{min} to {max}")), "{error}");
            }
        }
        for bad in ["", "1", "1.", ".1", "1.x", "-1.4", "1.99999"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn containers_are_named_by_their_own_name() {
        let parse = |text: &str| Container::from(serde_json::from_str::<RawContainer>(text).unwrap());
        let container =
            parse(r#"{"Id":"0123456789abcdef","Names":["/web/db","/db"],"State":"running","New":1}"#);
        assert_eq!((container.name.as_str(), container.state), ("db", ContainerState::Running));
        let container = parse(r#"{"Id":"0123456789abcdef","Names":null,"State":"hibernating"}"#);
        assert_eq!(container.name, "0123456789ab");
        assert!(container.state.may_write());
        assert_eq!(container.state.to_string(), "hibernating");
        assert!(!parse(r#"{"Id":"é","State":"exited"}"#).state.may_write());
    }
}
