//! What is large and changes little: a directory renamed, a file appended to.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use harness::trees::Rng;
use serde_json::json;

use super::cluster::{Cluster, Way, cost};
use crate::report::{Report, Reports};

const MIB: usize = 1 << 20;
/// Files of ten megabytes in the directory.
const FILES: usize = 100;
/// Times each is measured: what is changed is changed again.
const ROUNDS: usize = 3;
const WAYS: [Way; 2] = [Way::Rsync, Way::Durable];

/// Runs the cases that are wanted.
pub fn run(cluster: &Cluster, wanted: &dyn Fn(&str) -> bool, reports: &mut Reports) -> Result<()> {
    let bricks = cluster.brick.name();
    if wanted("rename-1g") {
        let volume = cluster.local("rename")?;
        fs::create_dir(volume.join("directory-0"))?;
        let mut rng = Rng::new(1);
        for n in 0..FILES {
            fill(&volume.join(format!("directory-0/file-{n}")), 10, &mut rng)?;
        }
        for way in WAYS {
            cluster.copy(way, &volume, &format!("rename-{}", way.name()))?;
        }
        let about = json!({ "bricks": bricks, "files": FILES, "bytes": FILES * 10 * MIB });
        let mut report = Report::new(&format!("rename-1g-{bricks}"), about);
        for round in 0..ROUNDS {
            let at = |n: usize| volume.join(format!("directory-{n}"));
            fs::rename(at(round), at(round + 1))?;
            for way in WAYS {
                let (seconds, spent) = cluster.copy(way, &volume, &format!("rename-{}", way.name()))?;
                report.measured(way.name(), seconds, cost(&spent, 1));
            }
        }
        reports.add(report)?;
        fs::remove_dir_all(volume)?;
    }
    if wanted("append-1g") {
        let volume = cluster.local("append")?;
        let log = volume.join("log");
        let mut rng = Rng::new(2);
        fill(&log, 1024, &mut rng)?;
        for way in WAYS {
            cluster.copy(way, &volume, &format!("append-{}", way.name()))?;
        }
        let mut report = Report::new(
            &format!("append-1g-{bricks}"),
            json!({ "bricks": bricks, "bytes": 1024 * MIB, "appended": MIB }),
        );
        for _ in 0..ROUNDS {
            File::options().append(true).open(&log)?.write_all(&rng.bytes(MIB))?;
            for way in WAYS {
                let (seconds, spent) = cluster.copy(way, &volume, &format!("append-{}", way.name()))?;
                report.measured(way.name(), seconds, cost(&spent, 1));
            }
        }
        reports.add(report)?;
    }
    Ok(())
}

/// Writes that many MiB nobody can compress or find twice.
fn fill(path: &Path, mib: usize, rng: &mut Rng) -> Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..mib {
        file.write_all(&rng.bytes(MIB))?;
    }
    Ok(())
}
