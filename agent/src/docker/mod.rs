//! Shell: asking Docker about volumes and the containers that use them, over its Unix socket.
//!
//! A client of our own, because it has to speak to engines that share no API version: 20.10 ends at 1.41, and 29
//! begins at 1.44. The version is agreed on with each engine. Only what is listed in [`Docker`] can be asked: the
//! socket is as good as root, so nothing here executes, builds or copies into a container.
//!
//! In reading order: [`Volume`] and its companions, [`DockerError`], `http` makes one bounded exchange,
//! [`Docker`] is the front door.

mod client;
mod error;
mod http;
mod types;

pub use client::Docker;
pub use error::DockerError;
pub use types::{
    ApiVersion, Container, ContainerState, EngineVersion, Volume, VolumeName, VolumeNameError, VolumeRef,
};
