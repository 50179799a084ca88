//! Checks of one lane: its volume, and whether the kernel tells what changes in it.

use sys::fanotify::Queue;

use super::Finding;
use crate::capture::{Begin, Capture};
use crate::config::{LaneConfig, VolumeSource};
use crate::run::Chain;
use crate::volume::Volume;

/// Inode number of the root of every subvolume of btrfs.
const BTRFS_SUBVOLUME: u64 = 256;
/// The top of a btrfs in its mount's root.
const BTRFS_TOP: &str = "/";

/// The volume: whether it is there, on what, and how its changes are found.
pub(super) fn volume(lane: &LaneConfig) -> Vec<Finding> {
    const CHECK: &str = "volume";
    let volume = match crate::cli::open_volume(&lane.volume.to_string()) {
        Ok(volume) => volume,
        Err(error) => {
            let remedy = match &lane.volume {
                VolumeSource::Docker(name) => format!("docker volume inspect {name}"),
                VolumeSource::Directory(path) => format!("ls -ld {}", path.display()),
            };
            return vec![Finding::fail(CHECK, Chain(&error).to_string(), remedy)];
        }
    };
    let on = On::of(&volume);
    let mut findings = vec![Finding::ok(CHECK, format!("{} on {on}", volume.path.display()))];
    findings.extend(judge_times(&on));
    findings.push(captured(&volume, &on, lane));
    findings
}

/// What a volume lies on.
struct On {
    fstype: String,
    source: String,
    /// Part of the file system that is mounted.
    part: String,
    is_subvolume: bool,
    has_birth_times: bool,
}

impl On {
    fn of(volume: &Volume) -> Self {
        let mounts = sys::mount::read_mountinfo().unwrap_or_default();
        let mount = sys::mount::by_id(&mounts, volume.stat.mount);
        let mount = mount.or_else(|| sys::mount::covering(&mounts, &volume.path));
        let text = |of: fn(&sys::mount::MountEntry) -> &std::ffi::OsStr| {
            mount.map_or_else(|| "unknown".to_owned(), |mount| sys::mount::escape_text(of(mount)))
        };
        let (fstype, part) = (text(|mount| &mount.fstype), text(|mount| &mount.root));
        // A directory deeper in a subvolume has another number: then the mount tells.
        let is_subvolume = fstype == "btrfs" && (volume.stat.ino == BTRFS_SUBVOLUME || part != BTRFS_TOP);
        let has_birth_times = volume.stat.btime.is_some();
        Self { fstype, source: text(|mount| &mount.source), part, is_subvolume, has_birth_times }
    }
}

impl std::fmt::Display for On {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.fstype, self.source)?;
        if self.is_subvolume {
            write!(f, ", subvolume {}", self.part)?;
        }
        Ok(())
    }
}

/// Inodes of 128 bytes have room neither for a time of birth nor for parts of a second.
fn judge_times(on: &On) -> Option<Finding> {
    let is_coarse = matches!(on.fstype.as_str(), "ext2" | "ext3" | "ext4") && !on.has_birth_times;
    is_coarse.then(|| {
        Finding::warn(
            "times",
            "its inodes keep whole seconds alone: what changes twice in one is compared by content",
            "make the file system anew with inodes of 256 bytes (mkfs.ext4 -I 256)",
        )
    })
}

/// Watched as the agent would watch it, and let go again.
fn captured(volume: &Volume, on: &On, lane: &LaneConfig) -> Finding {
    const CHECK: &str = "capture";
    let tried = Capture::open(Queue::Limited)
        .and_then(|capture| capture.watch(volume.root.clone(), Begin::unknown(None)));
    let Err(why) = tried else {
        return Finding::ok(CHECK, format!("{} is watched as a whole: changes are captured", on.fstype));
    };
    let found = format!(
        "changes are not captured, the volume is walked every {:?}: {why}",
        lane.settings.fallback_interval
    );
    Finding::warn(CHECK, found, remedy(on))
}

/// What makes a file system one that is watched.
fn remedy(on: &On) -> String {
    match on.fstype.as_str() {
        "btrfs" => format!(
            "mount its top (mount -o subvolid=5 {} /mnt) and name the volume through that",
            on.source
        ),
        "overlay" => "put the volume on the file system below the overlay: a Docker volume, not a container's own layer".to_owned(),
        fstype if fstype.starts_with("fuse") || fstype.starts_with("nfs") || fstype == "cifs" => {
            "put the volume on a local disk: others change a network file system without this kernel".to_owned()
        }
        _ => "run it as root, on ext4 or xfs; or set fallback_interval to the recovery point that is wanted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(fstype: &str, has_birth_times: bool) -> On {
        let text = |text: &str| text.to_owned();
        On {
            fstype: text(fstype),
            source: text("/dev/sdb1"),
            part: text("/@data"),
            is_subvolume: fstype == "btrfs",
            has_birth_times,
        }
    }

    #[test]
    fn each_file_system_has_its_way_out() {
        for (fstype, way) in [
            ("btrfs", "subvolid=5 /dev/sdb1"),
            ("overlay", "below the overlay"),
            ("fuse.glusterfs", "local disk"),
            ("nfs4", "local disk"),
            ("vfat", "ext4 or xfs"),
        ] {
            assert!(remedy(&on(fstype, true)).contains(way), "{fstype}");
        }
        assert_eq!(on("btrfs", true).to_string(), "btrfs (/dev/sdb1), subvolume /@data");
        assert!(judge_times(&on("ext4", true)).is_none() && judge_times(&on("xfs", false)).is_none());
        assert!(judge_times(&on("ext4", false)).is_some());
    }
}
