//! What a user means by a lane's name or a mirror's path: asked of the agent, else looked up in the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::LaneName;

use super::lanes::meant;
use crate::config::{Config, LaneConfig};
use crate::control::{AgentStatus, Answer, Ask, Request, ask, socket_path};
use crate::error::{Error, Result};
use crate::lane::absolute;
use crate::run::{Chain, LaneStatus};

/// How long the agent may take to say which lanes it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// A lane as it was named.
pub(super) struct Named {
    /// Where its mirror is; absolute.
    pub mirror: PathBuf,
    /// What is replicated, if anybody here knows.
    pub volume: Option<String>,
    /// What the agent says of it, if it has it.
    pub agent: Option<LaneStatus>,
}

/// Finds what `of` names.
///
/// # Errors
/// [`Error::Agent`] when there is no such lane; [`Error::Config`] when no agent runs and the configuration does not tell.
pub(super) fn find(of: &str, config: &Path) -> Result<Named> {
    match meant(Some(of))?.flatten() {
        Some(lane) => by_name(&lane, config),
        None => by_mirror(Path::new(of), config),
    }
}

fn by_name(lane: &LaneName, config: &Path) -> Result<Named> {
    match status(Some(lane)) {
        Ok(status) => status.lanes.into_iter().next().map(of_agent).ok_or_else(|| not_understood("no lane")),
        Err(Error::NoAgent(_)) => {
            let (found, _) = Config::load(config).map_err(|e| {
                Error::Agent(format!(
                    "no agent runs here that would know {lane}, and the configuration does not tell: {}",
                    Chain(&e)
                ))
            })?;
            let lanes: Vec<String> = found.lanes.iter().map(|lane| lane.name.to_string()).collect();
            let lane = found.lanes.into_iter().find(|other| other.name == *lane).ok_or_else(|| {
                let known = if lanes.is_empty() { "none".to_owned() } else { lanes.join(", ") };
                Error::Agent(format!(
                    "there is no lane {lane} in {}, which has {known}; no agent runs here",
                    config.display()
                ))
            })?;
            Ok(of_config(&lane))
        }
        Err(error) => Err(error),
    }
}

/// A mirror needs nobody to know it; who knows more of it is asked, and need not answer.
fn by_mirror(mirror: &Path, config: &Path) -> Result<Named> {
    let mirror = absolute(mirror)?;
    let lanes = status(None).map(|status| status.lanes).unwrap_or_default();
    if let Some(lane) = lanes.into_iter().find(|lane| Path::new(&lane.mirror) == mirror) {
        return Ok(of_agent(lane));
    }
    let configured = Config::load(config).map(|(config, _)| config.lanes).unwrap_or_default();
    let lane = configured.iter().find(|lane| lane.mirror == mirror).map(of_config);
    Ok(lane.unwrap_or(Named { mirror, volume: None, agent: None }))
}

fn of_agent(lane: LaneStatus) -> Named {
    let (mirror, volume) = (PathBuf::from(&lane.mirror), Some(lane.volume.clone()));
    Named { mirror, volume, agent: Some(lane) }
}

fn of_config(lane: &LaneConfig) -> Named {
    Named { mirror: lane.mirror.clone(), volume: Some(lane.volume.to_string()), agent: None }
}

/// How the agent's lanes are.
///
/// # Errors
/// [`Error::NoAgent`], [`Error::Agent`].
pub(super) fn status(lane: Option<&LaneName>) -> Result<AgentStatus> {
    match ask(&socket_path(), &Request::new(Ask::Status, lane.cloned()), PATIENCE)? {
        Answer::Status(status) => Ok(status),
        _ => Err(not_understood("something else")),
    }
}

fn not_understood(what: &str) -> Error {
    Error::Agent(format!("the agent answered {what}; are program and agent of one version?"))
}
