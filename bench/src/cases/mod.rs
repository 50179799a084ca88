//! The cases.

mod cluster;
mod gluster;
mod idle;
mod lag;
mod large;
mod local;
mod million;
mod place;
mod ten_changed;
mod two_million;
mod untar;

use anyhow::Result;
use harness::lab::BrickFs;

use crate::Args;
use crate::report::Reports;
use cluster::Cluster;

/// Names, and what each measures.
pub const ALL: &[(&str, &str)] = &[
    ("gluster-first", "first copy of a Jenkins home to a two-host volume, with requests per file"),
    ("gluster-unchanged", "the same again with nothing changed"),
    ("gluster-10-changed", "the same with ten files changed"),
    ("gluster-delay", "first copy of 1/30 of it with every brick operation delayed"),
    ("rename-1g", "a directory of 1 GB renamed, on xfs and on ext4 bricks"),
    ("append-1g", "1 MB appended to a file of 1 GB, on xfs and on ext4 bricks"),
    ("local", "first copy between directories of one local filesystem, warm cache"),
    ("million", "nothing changed among a million files: time and peak memory beside a bare walk"),
    (
        "capture-untar",
        "100,000 small files untarred into a volume with and without the agent, mirror on another disk",
    ),
    ("capture-untar-gluster", "the same with the mirror on a two-host volume"),
    ("idle", "the agent with ten idle lanes: processor time, context switches, memory"),
    ("idle-gluster", "the same with mirrors on a two-host volume: and requests to it"),
    ("two-million", "memory of the agent that knows 2,000,000 files, mirror on another disk"),
    ("ten-changed", "ten files changed among 1,000 to 1,000,000, until published on a two-host volume"),
    ("lag", "fifty files changed a second for five minutes, lag at the second of two hosts"),
];

/// Runs what is wanted, sharing clusters between cases.
///
/// # Errors
/// Something failed, or a brick was away during a measurement.
pub fn run(args: &Args, wanted: &dyn Fn(&str) -> bool, reports: &mut Reports) -> Result<()> {
    if wanted("local") {
        local::run(args, reports)?;
    }
    if wanted("million") {
        million::run(args, reports)?;
    }
    untar::run(args, wanted, reports)?;
    idle::run(args, wanted, reports)?;
    if wanted("two-million") {
        two_million::run(args, reports)?;
    }
    if wanted("ten-changed") {
        ten_changed::run(args, reports)?;
    }
    if wanted("lag") {
        lag::run(args, reports)?;
    }
    let gluster = ["gluster-first", "gluster-unchanged", "gluster-10-changed", "gluster-delay"];
    if gluster.into_iter().any(wanted) {
        let cluster = Cluster::start(args, args.brick().unwrap_or(BrickFs::Xfs))?;
        gluster::run(&cluster, args, wanted, reports)?;
        cluster.down()?;
    }
    if wanted("rename-1g") || wanted("append-1g") {
        let both = [BrickFs::Xfs, BrickFs::Ext4];
        for brick in args.brick().map_or(both.to_vec(), |brick| vec![brick]) {
            let cluster = Cluster::start(args, brick)?;
            large::run(&cluster, wanted, reports)?;
            cluster.down()?;
        }
    }
    Ok(())
}
