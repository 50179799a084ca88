//! Where a cycle records what it staged, and what an earlier one left.

use std::path::PathBuf;

use proto::Generation;

use super::resume::Resume;
use super::run::Cycle;
use super::spool::Spool;
use crate::error::Result;

impl Cycle<'_> {
    /// Where this run records what it staged, and what an earlier one left. A record is good for the same
    /// epoch and base generation; where files are not fsynced one by one, only for the same boot.
    pub(super) fn spool(&self, nothing: bool) -> Result<(Spool, Resume)> {
        let kept = match self.file_durability() {
            transfer::Durability::PerFile => "durable".to_owned(),
            transfer::Durability::Replicated | transfer::Durability::Deferred => boot_id(),
        };
        let base = self.lane.head.as_ref().map_or(Generation(0), |head| head.generation);
        let name = format!("spool-{}-{base}-{kept}", self.tenure.epoch);
        let path = self.lane.dir.file(&name);
        let mut earlier: Option<PathBuf> = None;
        for old in self.lane.dir.files("spool-")? {
            let old_name = old.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if old_name.trim_end_matches(".earlier") == name && !self.options.full {
                let aside = self.lane.dir.file(&format!("{name}.earlier"));
                if old != aside {
                    append(&old, &aside)?;
                }
                earlier = Some(aside);
            } else {
                let _ = std::fs::remove_file(&old);
            }
        }
        // With nothing to do the mirror's side is left alone: leftovers wait for the next real cycle.
        let resume = if nothing && earlier.is_none() {
            Resume::default()
        } else {
            Resume::load(earlier.as_deref(), self.tenure)?
        };
        Ok((Spool::create(&path)?, resume))
    }

    pub(super) fn forget_spools(&self) -> Result<()> {
        for old in self.lane.dir.files("spool-")? {
            let _ = std::fs::remove_file(old);
        }
        let _ = std::fs::remove_file(self.lane.dir.file("next.log"));
        Ok(())
    }
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn append(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    use crate::error::on_state;
    if !to.exists() {
        return std::fs::rename(from, to).map_err(on_state("rename", from));
    }
    // Records of the older run come first; whole frames only, or the newer ones could not be read.
    let joined = to.with_extension("joined");
    let mut spool = Spool::create(&joined)?;
    for path in [to, from] {
        super::spool::read(path, |op| spool.push(&op))?;
    }
    spool.flush()?;
    std::fs::rename(&joined, to).map_err(on_state("rename", &joined))?;
    std::fs::remove_file(from).map_err(on_state("remove", from))
}
