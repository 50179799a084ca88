//! The name of a lane, `team/env`.

use std::fmt;
use std::str::FromStr;

/// Longest team or env, in bytes: both are names of directories, and together part of longer ones.
pub const LANE_PART_MAX: usize = 64;

/// A team or an env: 1 to 64 of `[a-z0-9._-]`, beginning with a letter or digit. Safe as a path component, in a
/// label and on a command line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct LanePart(String);

impl LanePart {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LanePart {
    type Err = LaneNameError;

    fn from_str(text: &str) -> Result<Self, LaneNameError> {
        let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let begins_well = text.bytes().next().is_some_and(sound);
        if begins_well
            && text.len() <= LANE_PART_MAX
            && text.bytes().all(|byte| sound(byte) || b"._-".contains(&byte))
        {
            return Ok(Self(text.to_owned()));
        }
        Err(LaneNameError::Part { text: text.to_owned() })
    }
}

impl fmt::Display for LanePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LanePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a lane, `team/env`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneName {
    team: LanePart,
    env: LanePart,
}

impl LaneName {
    /// The name made of both parts.
    pub fn new(team: LanePart, env: LanePart) -> Self {
        Self { team, env }
    }

    /// Whose it is.
    pub fn team(&self) -> &LanePart {
        &self.team
    }

    /// Which of theirs: `blue`, `green`.
    pub fn env(&self) -> &LanePart {
        &self.env
    }
}

impl FromStr for LaneName {
    type Err = LaneNameError;

    fn from_str(text: &str) -> Result<Self, LaneNameError> {
        let (team, env) =
            text.split_once('/').ok_or_else(|| LaneNameError::NoSlash { text: text.to_owned() })?;
        Ok(Self { team: team.parse()?, env: env.parse()? })
    }
}

impl fmt::Display for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.team, self.env)
    }
}

impl fmt::Debug for LaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> serde::Deserialize<'de> for LaneName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for LaneName {
    /// As people write it.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that names no lane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneNameError {
    /// One part only.
    #[error("{text:?} is no name of a lane: it is written team/env, as devops/blue")]
    NoSlash {
        /// What was given.
        text: String,
    },
    /// A team or env that cannot be one.
    #[error(
        "{text:?} cannot be a team or env: it is 1 to 64 of a-z, 0-9, dot, underscore and dash, and begins with a \
         letter or digit"
    )]
    Part {
        /// What was given.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in ["devops/blue", "0/1", "a.b_c-d/e..f", &format!("{0}/{0}", "x".repeat(64))] {
            assert_eq!(text.parse::<LaneName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_else_is_a_name() {
        let long = format!("a/{}", "x".repeat(65));
        let bad = [
            "", "/", "a", "a/", "/b", "a/b/c", "a/..", "./b", ".a/b", "a/-b", "A/b", "a/ä", "a /b", "a/b\n",
            "a\0/b", &long,
        ];
        for text in bad {
            assert!(text.parse::<LaneName>().is_err(), "{text:?}");
        }
    }
}
