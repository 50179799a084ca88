//! A volume as users name it.

use std::path::Path;

use crate::docker::{Docker, VolumeRef};
use crate::error::{Error, Result};
use crate::volume::Volume;

/// Pins the volume that `given` names: a directory, or `docker:NAME` asked of the Docker Engine.
///
/// # Errors
/// [`Error::Volume`], [`Error::Docker`].
pub fn open_volume(given: &str) -> Result<Volume> {
    if !VolumeRef::is_meant_by(given) {
        return Volume::pin(given, Path::new(given));
    }
    let VolumeRef(name) = given.parse().map_err(|e: crate::docker::VolumeNameError| Error::Volume {
        path: given.to_owned(),
        why: e.to_string(),
    })?;
    let volume = Docker::connect()?.inspect_volume(&name)?;
    Volume::pin(given, volume.directory()?)
}
