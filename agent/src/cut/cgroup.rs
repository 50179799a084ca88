//! Freezing a container: which cgroup is its own, and the kernel's freezer of version 2.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Shorter text in a cgroup's name could be anything; Docker's ids have 64 digits.
const ID_MIN: usize = 12;

/// Why nothing was frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// No such file, or no right to it.
    #[error("{act} {path:?}: {source}")]
    File {
        /// What was being done.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A process does not come to a stop: one in uninterruptible sleep cannot be frozen.
    #[error("{0:?} was not frozen within {1:?}")]
    Slow(PathBuf, Duration),
    /// The container's cgroup cannot be told, or is one that must not be frozen.
    #[error("{0}")]
    NotOurs(String),
}

/// A cgroup of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// That at `dir`.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// That of the container `id`, whose first process is `pid`.
    ///
    /// # Errors
    /// [`FreezeError::File`], [`FreezeError::NotOurs`].
    pub fn of_container(id: &str, pid: u32) -> Result<Self, FreezeError> {
        let no = |why: String| FreezeError::NotOurs(why);
        let text = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let own = read(Path::new("/proc/self/cgroup"))?;
        let mounts = read(Path::new("/proc/self/mountinfo"))?;
        let (point, root) = mount_of(&mounts)
            .ok_or_else(|| no("this host has no cgroups of version 2 (no cgroup2 is mounted)".to_owned()))?;
        let all = unified(&text)
            .ok_or_else(|| no(format!("process {pid} of the container is in no cgroup of version 2")))?;
        // A number is used again; a name with the container's id in it is not.
        let path = of_id(all, id).ok_or_else(|| {
            no(format!(
                "the container's processes are not in a cgroup of their own (process {pid} is in {all:?})"
            ))
        })?;
        if unified(&own).is_some_and(|own| is_within(own, path)) {
            return Err(no(format!("cgroup {path:?} is not frozen: the agent runs in it")));
        }
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        Ok(Self { dir: Path::new(point).join(below.trim_start_matches('/')) })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether somebody wants it frozen: `docker pause` does it the same way.
    ///
    /// # Errors
    /// [`FreezeError::File`]: the kernel is older than 5.2, for one.
    pub fn is_wanted_frozen(&self) -> Result<bool, FreezeError> {
        Ok(read(&self.dir.join("cgroup.freeze"))?.trim() == "1")
    }

    fn want(&self, frozen: bool) -> Result<(), FreezeError> {
        let path = self.dir.join("cgroup.freeze");
        std::fs::write(&path, if frozen { "1" } else { "0" }).map_err(|source| FreezeError::File {
            act: "write",
            path,
            source,
        })
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`FreezeError::File`].
    pub fn thaw(&self) -> Result<(), FreezeError> {
        self.want(false)
    }

    /// Waits until the kernel says that every process in it has stopped.
    fn wait_until_frozen(&self, begun: Instant, limit: Duration) -> Result<(), FreezeError> {
        let path = self.dir.join("cgroup.events");
        let failed = |act, source| FreezeError::File { act, path: path.clone(), source };
        let mut file = File::open(&path).map_err(|e| failed("open", e))?;
        loop {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|e| failed("read", e))?;
            if text.lines().any(|line| line == "frozen 1") {
                return Ok(());
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(FreezeError::Slow(self.dir.clone(), limit));
            }
            sys::host::wait_changed(&file, left);
        }
    }
}

/// Cgroups that are frozen; dropping it thaws them.
#[derive(Debug)]
pub struct Frozen {
    cgroups: Vec<Cgroup>,
    since: Instant,
}

impl Frozen {
    /// Freezes all of them, or none.
    ///
    /// # Errors
    /// [`FreezeError`].
    pub fn freeze(cgroups: &[PathBuf], limit: Duration) -> Result<Self, FreezeError> {
        let begun = Instant::now();
        let mut frozen = Self { cgroups: Vec::new(), since: begun };
        for dir in cgroups {
            let cgroup = Cgroup::at(dir);
            // Whoever paused it is the one to let it go on.
            if cgroup.is_wanted_frozen()? {
                continue;
            }
            // First in the list: an error on the way thaws it too.
            frozen.cgroups.push(cgroup);
            if let Some(cgroup) = frozen.cgroups.last() {
                cgroup.want(true)?;
            }
        }
        for cgroup in &frozen.cgroups {
            cgroup.wait_until_frozen(begun, limit)?;
        }
        Ok(frozen)
    }

    /// Thaws them; how long they were frozen.
    pub fn thaw(self) -> Duration {
        let since = self.since;
        drop(self);
        since.elapsed()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for cgroup in &self.cgroups {
            match cgroup.thaw() {
                Err(FreezeError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(
                    cgroup = %cgroup.dir.display(),
                    %error,
                    "a container cannot be thawed: write 0 to its cgroup.freeze"
                ),
                Ok(()) => {}
            }
        }
    }
}

fn read(path: &Path) -> Result<String, FreezeError> {
    std::fs::read_to_string(path).map_err(|source| FreezeError::File {
        act: "read",
        path: path.to_owned(),
        source,
    })
}

/// Pure: the path in the hierarchy of version 2, out of `/proc/PID/cgroup`.
fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

/// Pure: the part of `path` that ends with the component named after the container. What lies below, a container's own
/// systemd may have made.
fn of_id<'a>(path: &'a str, id: &str) -> Option<&'a str> {
    if id.len() < ID_MIN {
        return None;
    }
    let at = path.find(id)?;
    let end = path[at..].find('/').map_or(path.len(), |slash| at + slash);
    Some(&path[..end])
}

/// Pure: whether a process in `own` would be frozen with `frozen`.
fn is_within(own: &str, frozen: &str) -> bool {
    own.strip_prefix(frozen).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Pure: where the hierarchy of version 2 is mounted, and which part of it.
fn mount_of(mountinfo: &str) -> Option<(&str, &str)> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.split(' ').next() == Some("cgroup2") && !root.starts_with("/..")).then_some((point, root))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_containers_cgroup_is_the_one_that_bears_its_id() {
        let docker = format!("/docker/{ID}");
        let scope = format!("/system.slice/docker-{ID}.scope");
        for (path, own) in [
            (docker.clone(), Some(docker.as_str())),
            (format!("{docker}/init.scope"), Some(docker.as_str())),
            (scope.clone(), Some(scope.as_str())),
            (format!("{scope}/a/b"), Some(scope.as_str())),
            ("/".to_owned(), None),
            ("/system.slice/docker.service".to_owned(), None),
        ] {
            assert_eq!(of_id(&path, ID), own, "{path}");
        }
        assert_eq!(of_id("/docker/a", "a"), None, "too short to be an id");
    }

    #[test]
    fn what_holds_the_agent_is_told() {
        assert!(is_within("/a/b", "/a/b") && is_within("/a/b/c", "/a/b") && is_within("/a", ""));
        assert!(!is_within("/a/bc", "/a/b") && !is_within("/a", "/a/b"));
    }

    #[test]
    fn the_hierarchy_of_version_2_is_found() {
        assert_eq!(unified("9:name=systemd:/x\n0::/docker/a\n"), Some("/docker/a"));
        assert_eq!(unified("9:freezer:/x\n"), None);
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/freezer rw shared:9 - cgroup cgroup rw,freezer\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of(hybrid), Some(("/sys/fs/cgroup/unified", "/")));
        assert_eq!(mount_of("30 24 0:26 / /sys rw - sysfs sysfs rw\n"), None);
        assert_eq!(
            mount_of("31 24 0:27 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            None,
            "out of our sight"
        );
    }
}
