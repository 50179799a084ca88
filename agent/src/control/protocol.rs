//! What is said over the control socket: one line of JSON each way.

use proto::{LaneName, RelPath};

use crate::run::LaneStatus;
use crate::why::Known;

/// Longest request in bytes, with its line feed.
pub const REQUEST_MAX: u64 = 64 << 10;

/// Longest answer in bytes, with its line feed: thousands of lanes, or a path with all its names.
pub const ANSWER_MAX: u64 = 16 << 20;

/// Version of what is said. A peer of another version is refused by name instead of being misunderstood.
pub const VERSION: u32 = 1;

/// A request.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub ask: Ask,
    /// Of which lane; of all where that makes sense.
    #[serde(default)]
    pub lane: Option<LaneName>,
    /// Of which path in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<AskedPath>,
}

/// A path as it is asked for: text, or its bytes as numbers where it is no UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "WirePath", into = "WirePath")]
pub struct AskedPath(pub RelPath);

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum WirePath {
    Text(String),
    Bytes(Vec<u8>),
}

impl TryFrom<WirePath> for AskedPath {
    type Error = &'static str;

    fn try_from(wire: WirePath) -> Result<Self, Self::Error> {
        let bytes = match wire {
            WirePath::Text(text) => text.into_bytes(),
            WirePath::Bytes(bytes) => bytes,
        };
        RelPath::new(&bytes).map(Self).ok_or("not a path relative to a volume's root")
    }
}

impl From<AskedPath> for WirePath {
    fn from(AskedPath(path): AskedPath) -> Self {
        match String::from_utf8(path.as_bytes().to_vec()) {
            Ok(text) => Self::Text(text),
            Err(e) => Self::Bytes(e.into_bytes()),
        }
    }
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// How the lanes are.
    Status,
    /// Bring everything up to now into the mirror, and answer when that is done.
    Flush,
    /// No cycles until `Resume`.
    Pause,
    /// Cycles again.
    Resume,
    /// Publish the deletions that are withheld.
    Approve,
    /// What the lane's index knows of a path.
    Why,
}

impl Ask {
    /// True for what changes something.
    pub fn acts(self) -> bool {
        !matches!(self, Ask::Status | Ask::Why)
    }

    /// True for what tells more than how the lanes are: names, sizes and hashes of what is in a volume.
    pub fn is_private(self) -> bool {
        self == Ask::Why
    }
}

impl Request {
    /// A request of this program's version.
    pub fn new(ask: Ask, lane: Option<LaneName>) -> Self {
        Self { version: VERSION, ask, lane, path: None }
    }

    /// What is known of `path` in `lane`.
    pub fn why(lane: LaneName, path: RelPath) -> Self {
        Self { path: Some(AskedPath(path)), ..Self::new(Ask::Why, Some(lane)) }
    }
}

/// An answer.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To `Status`.
    Status(AgentStatus),
    /// To what acts: one for each lane.
    Acted(Vec<Acted>),
    /// To `Why`; nothing while the lane is not open.
    Why(Option<Box<Known>>),
    /// It could not be done at all.
    Refused(String),
}

/// How the agent is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it runs, in seconds.
    pub up_seconds: f64,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
}

/// What came of an act on one lane.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Acted {
    /// The lane.
    pub lane: LaneName,
    /// Of `Flush` and `Approve`: the generation that has it.
    pub generation: Option<u64>,
    /// Of `Flush`: how long it took until everything from before was sealed and published, in seconds.
    pub lag_seconds: Option<f64>,
    /// Why it was not done.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_on_the_wire_are_these() {
        let request = Request::new(Ask::Flush, Some("devops/blue".parse().unwrap()));
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"version":1,"ask":"flush","lane":"devops/blue"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let short = serde_json::from_str::<Request>(r#"{"version":1,"ask":"status"}"#).unwrap();
        assert_eq!(short, Request::new(Ask::Status, None));
        let why = |path: &[u8]| Request::why("devops/blue".parse().unwrap(), RelPath::new(path).unwrap());
        for (path, wire) in [(&b"a/\"b"[..], r#""a/\"b""#), (b"\xff", "[255]"), (b"", r#""""#)] {
            let text = serde_json::to_string(&why(path)).unwrap();
            assert_eq!(text, format!(r#"{{"version":1,"ask":"why","lane":"devops/blue","path":{wire}}}"#));
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), why(path));
        }
        for wrong in [
            r#"{"version":1,"ask":"why","lane":"devops/blue","path":"../etc"}"#,
            r#"{"version":1,"ask":"why","lane":"devops/blue","path":[46,46]}"#,
            r#"{"version":1,"ask":"explode"}"#,
            r#"{"version":1,"ask":"flush","lane":"../etc"}"#,
            r#"{"version":1,"ask":"flush","force":true}"#,
            "",
            "[]",
        ] {
            assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
        }
    }
}
