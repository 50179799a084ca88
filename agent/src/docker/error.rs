//! Words: what can go wrong between us and Docker, and what to do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{ApiVersion, VolumeName};

/// A question to Docker that got no usable answer, or an answer we refuse to act on.
///
/// `act` is what was asked, in words that follow "cannot", such as `inspect volume jenkins`.
#[derive(Debug, Error)]
pub enum DockerError {
    /// Nobody listens at the socket.
    #[error(
        "no Docker Engine at {}: is dockerd running? Set DOCKER_HOST=unix:///path/to/docker.sock if it listens elsewhere",
        socket.display()
    )]
    NoEngine {
        /// Where it was looked for.
        socket: PathBuf,
    },

    /// The socket is there, and not for us.
    #[error(
        "no permission to use the Docker Engine at {}: run as root, or as a member of the socket's group (docker)",
        socket.display()
    )]
    PermissionDenied {
        /// The socket.
        socket: PathBuf,
    },

    /// DOCKER_HOST names an engine that is not behind a Unix socket of this host.
    #[error(
        "DOCKER_HOST={value} cannot be used: volumes are read as files of this host, so the engine must be this \
         host's. Set DOCKER_HOST=unix:///path/to/docker.sock, or unset it"
    )]
    NotThisHost {
        /// What it is set to.
        value: String,
    },

    /// The client could not be set up.
    #[error("cannot set up the client of the Docker Engine at {}", socket.display())]
    StartClient {
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The socket could not be connected to, for a reason without a case of its own.
    #[error("cannot connect to the Docker Engine at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The engine took too long; whether it did what was asked is not known.
    #[error(
        "cannot {act}: the Docker Engine at {} did not answer within {:.1} s. See `systemctl status docker` and its \
         journal", socket.display(), waited.as_secs_f64()
    )]
    Timeout {
        /// What was asked.
        act: String,
        /// Where.
        socket: PathBuf,
        /// How long it was given.
        waited: Duration,
    },

    /// The connection broke, or what came over it was no HTTP.
    #[error("cannot {act}: the exchange with {} broke off. Is that a Docker Engine's socket?", socket.display())]
    Exchange {
        /// What was asked.
        act: String,
        /// Where.
        socket: PathBuf,
        /// What broke.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },

    /// The answer does not end within reason.
    #[error("cannot {act}: the answer from {} is larger than {limit} bytes. Is that a Docker Engine's socket?", socket.display())]
    AnswerTooLarge {
        /// What was asked.
        act: String,
        /// Where.
        socket: PathBuf,
        /// How many bytes were read.
        limit: usize,
    },

    /// The answer is HTTP, and not what the API promises.
    #[error("cannot {act}: the answer from {} is malformed. Is that a Docker Engine's socket?", socket.display())]
    MalformedAnswer {
        /// What was asked.
        act: String,
        /// Where.
        socket: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },

    /// The engine is too old or too new for us.
    #[error(
        "Docker Engine {version} speaks API {engine_min} to {engine_max}, and tidegate {} to {}: upgrade the older \
         of the two",
        ApiVersion::OLDEST,
        ApiVersion::NEWEST
    )]
    IncompatibleApi {
        /// The engine's product version.
        version: String,
        /// The oldest API it speaks.
        engine_min: ApiVersion,
        /// The newest API it speaks.
        engine_max: ApiVersion,
    },

    /// The engine said no, for a reason without a case of its own.
    #[error("cannot {act}: the Docker Engine answered {status}: {message}")]
    Refused {
        /// What was asked.
        act: String,
        /// The HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },

    /// There is no volume of this name.
    #[error(
        "there is no Docker volume {name}: `docker volume ls` lists them, `docker volume create {name}` makes it"
    )]
    NoSuchVolume {
        /// The name.
        name: VolumeName,
    },

    /// A volume that a container refers to cannot be removed.
    #[error("cannot remove volume {name}, since a container uses it: {message}. Remove the container first")]
    VolumeInUse {
        /// The volume.
        name: VolumeName,
        /// The engine's words; they name the container.
        message: String,
    },

    /// A volume that is kept by a plugin.
    #[error(
        "Docker volume {name} is kept by the driver {driver}, so its files may not be on this host, and need not stay \
         where they are. Use a volume of the driver local, or give the directory itself instead of docker:{name}"
    )]
    ForeignDriver {
        /// The volume.
        name: VolumeName,
        /// Its driver.
        driver: String,
    },

    /// A volume that is a name for a mount.
    #[error(
        "Docker volume {name} is a mount in disguise ({options}): whoever created it chose what it shows, and its \
         directory is empty while no container runs. Use a volume created without these options, or give the \
         directory itself instead of docker:{name}"
    )]
    MountInDisguise {
        /// The volume.
        name: VolumeName,
        /// The options that make it so.
        options: String,
    },

    /// A mountpoint that is no plain absolute path.
    #[error(
        "the Docker Engine says that volume {name} is at {mountpoint:?}, which is no plain absolute path. Check the \
         engine's data-root"
    )]
    StrangeMountpoint {
        /// The volume.
        name: VolumeName,
        /// As the engine gave it.
        mountpoint: PathBuf,
    },
}
