//! The cases.

mod cluster;
mod gluster;
mod large;
mod local;
mod million;

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
