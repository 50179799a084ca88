//! Where the old content of a target is kept: beside it, or in a Docker volume of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use sys::Dir;

use super::place::refused;
use crate::docker::{Docker, DockerError, VolumeName};
use crate::error::Result;

/// Label of a backup volume: the volume it was taken from.
const LABEL: &str = "tidegate.backup-of";

/// Backups made in the same second are told apart by a number up to this.
const SAME_SECOND_MAX: u32 = 99;

/// How a target's old content is kept.
pub enum Keep {
    /// Renamed beside it.
    Beside,
    /// As the files of a new Docker volume.
    Volume {
        /// The engine.
        docker: Docker,
        /// The target's name.
        name: VolumeName,
    },
}

/// A place that is ready to take the old content by one rename.
pub struct Backup {
    /// Directory.
    pub dir: Dir,
    /// Name in it: absent, or an empty directory.
    pub name: Vec<u8>,
    /// For people.
    pub shown: String,
}

impl Keep {
    /// Makes a place for the old content of the target `name` in `parent`.
    ///
    /// # Errors
    /// [`crate::Error::Target`], [`crate::Error::Docker`]: nothing was changed but, at most, an empty volume made.
    pub fn prepare(&self, parent: &Arc<Dir>, name: &[u8], shown: &str) -> Result<Backup> {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let taken = || refused(shown, "there are backups of this second already; run the command again");
        let suffixes = std::iter::once(String::new()).chain((2..=SAME_SECOND_MAX).map(|n| format!("-{n}")));
        match self {
            Keep::Beside => {
                for more in suffixes {
                    let backup = [name, format!("-backup-{time}{more}").as_bytes()].concat();
                    if !parent
                        .exists(&backup)
                        .map_err(|e| refused(shown, &format!("find a name for its backup: {e}")))?
                    {
                        let dir = parent.reopen().map_err(|e| refused(shown, &e.to_string()))?;
                        let shown = proto::path::Escaped(&backup).to_string();
                        return Ok(Backup { dir, name: backup, shown });
                    }
                }
                Err(taken())
            }
            Keep::Volume { docker, name } => {
                for more in suffixes {
                    let backup: VolumeName = format!("{name}-backup-{time}{more}")
                        .parse()
                        .map_err(|e: crate::docker::VolumeNameError| refused(shown, &e.to_string()))?;
                    match docker.inspect_volume(&backup) {
                        Ok(_) => {}
                        Err(DockerError::NoSuchVolume { .. }) => return volume(docker, &backup, name, shown),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(taken())
            }
        }
    }
}

fn volume(docker: &Docker, backup: &VolumeName, of: &VolumeName, shown: &str) -> Result<Backup> {
    let labels = BTreeMap::from([(LABEL.to_owned(), of.to_string())]);
    let made = docker.create_volume(backup, &labels)?;
    let path = made.directory()?;
    let (Some(above), Some(name)) = (path.parent(), path.file_name().map(OsStr::as_bytes)) else {
        return Err(refused(shown, &format!("volume {backup} has no directory of its own")));
    };
    let unusable = |why: String| refused(shown, &format!("volume {backup} cannot take its backup: {why}"));
    let above = above.canonicalize().map_err(|e| unusable(e.to_string()))?;
    let dir = Dir::open(&above).map_err(|e| unusable(e.to_string()))?;
    Ok(Backup { dir, name: name.to_vec(), shown: format!("docker:{backup}") })
}
