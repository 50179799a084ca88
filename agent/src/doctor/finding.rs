//! What a check says.

use std::fmt;

use proto::LaneName;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// tidegate works, but not as well as it could.
    Warn,
    /// Something that is wanted does not work.
    Fail,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The check, a word for scripts.
    pub check: &'static str,
    /// The lane it is about, if it is about one.
    pub lane: Option<LaneName>,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, in one line.
    pub found: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, lane: None, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    /// It works, but.
    pub fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (found, remedy) = (found.into(), Some(remedy.into()));
        Self { check, lane: None, verdict: Verdict::Warn, found, remedy }
    }

    /// It does not work.
    pub fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(check, found, remedy) }
    }

    /// About this lane.
    pub(super) fn of(self, lane: &LaneName) -> Self {
        Self { lane: Some(lane.clone()), ..self }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  ", self.verdict)?;
        if let Some(lane) = &self.lane {
            write!(f, "{lane} ")?;
        }
        write!(f, "{}: {}", self.check, self.found)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n      -> {remedy}"),
            None => Ok(()),
        }
    }
}
