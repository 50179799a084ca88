//! Replacing a writer: claim the next epoch, finish what was sealed, take its working directories away.

use std::path::Path;

use proto::{Epoch, Generation, Head, LogHeader, NodeId, Op, RelPath, StagedName, names};
use sys::{Dir, Errno};

use super::epoch::Tenure;
use super::log::LogFile;
use super::mirror::MirrorDirs;
use super::open::Ledger;
use super::publish::{Publish, roll_forward};
use crate::error::{Error, Result, on_mirror};

/// Takes the lane over with a new epoch. After it every late act of an older writer fails in the storage:
/// its stage and trash are gone, and the next generation number is taken by a barrier record.
///
/// # Errors
/// [`Error::Guard`] when somebody else claims at the same moment; [`Error::Mirror`]: run it again, it goes on
/// where it stopped.
pub fn take_over(
    ledger: &Ledger,
    node: NodeId,
    host: &str,
    scratch: &Path,
    now: proto::Time,
) -> Result<Tenure> {
    let epoch = ledger.newest_epoch()?.map_or(Epoch(1), |newest| newest.epoch.next());
    ledger.claim(epoch, node, host, now)?;
    settle(ledger, epoch, node, scratch, now)
}

/// Does what follows a claim; repeated when a crash came between.
pub fn settle(
    ledger: &Ledger,
    epoch: Epoch,
    node: NodeId,
    scratch: &Path,
    now: proto::Time,
) -> Result<Tenure> {
    let head = roll_forward(ledger, epoch, scratch, now)?;
    let tenure = ledger.tenure(epoch)?;
    let older = older_working(ledger, epoch)?;
    if older.is_empty() {
        return Ok(tenure);
    }
    if let Some(head) = &head {
        barrier(ledger, &tenure, node, head, scratch, now)?;
    }
    let mut found = Vec::new();
    for name in older {
        empty_into(ledger, &name, &tenure, &mut found)?;
    }
    put_back(ledger, &tenure, head.map(|head| head.generation), &found, scratch)?;
    Ok(tenure)
}

/// Names of working directories of epochs below `epoch`.
fn older_working(ledger: &Ledger, epoch: Epoch) -> Result<Vec<Vec<u8>>> {
    let listed = ledger.dir.names().map_err(on_mirror(|| "list the ledger".to_owned()))?;
    Ok(listed.into_iter().filter(|name| names::parse_working(name).is_some_and(|of| of < epoch)).collect())
}

/// Takes the next generation number with a log that changes nothing, so that the old writer cannot seal it.
fn barrier(
    ledger: &Ledger,
    tenure: &Tenure,
    node: NodeId,
    head: &Head,
    scratch: &Path,
    now: proto::Time,
) -> Result<()> {
    let header = LogHeader {
        lane: ledger.lane.id,
        generation: head.generation.next(),
        epoch: tenure.epoch,
        node,
        previous: head.log_hash,
        volume: (0, None),
    };
    let log = LogFile::start(scratch, header)?.finish(head.cut, head.totals, head.halted.clone(), now)?;
    match ledger.seal(tenure, &log) {
        Ok(()) => ledger.publish(tenure, &log, Publish::Fresh, now).map(|_| ()),
        // The old writer sealed once more before we came: finish that, then take the next number.
        Err(Error::GenerationTaken(_)) => match roll_forward(ledger, tenure.epoch, scratch, now)? {
            Some(head) => barrier(ledger, tenure, node, &head, scratch, now),
            None => Err(Error::LedgerState("HEAD vanished from the ledger".to_owned())),
        },
        Err(error) => Err(error),
    }
}

/// Moves everything out of an old working directory and removes it. Nothing is deleted: the old writer may be
/// between the two renames of a move, and what lies here may be the only copy of a file.
fn empty_into(ledger: &Ledger, name: &[u8], tenure: &Tenure, found: &mut Vec<StagedName>) -> Result<()> {
    let act = || format!("take away {}", proto::path::Escaped(name));
    let Some(old) = ledger.working(name)? else { return Ok(()) };
    loop {
        for child in old.names().map_err(on_mirror(act))? {
            match old.rename(&child, &tenure.trash, &child) {
                Ok(()) => found.extend(StagedName::parse(&child)),
                Err(e) if e.is_gone() => {}
                Err(e) => return Err(on_mirror(act)(e)),
            }
        }
        match ledger.dir.rmdir(name) {
            Ok(()) => return Ok(()),
            Err(e) if e.is_gone() => return Ok(()),
            // The old writer put something in meanwhile: its directory goes away only when it is empty.
            Err(e) if [Errno::NOTEMPTY, Errno::EXIST].contains(&e.errno) => {}
            Err(e) => return Err(on_mirror(act)(e)),
        }
    }
}

/// The second roll forward: what an old writer took out of the mirror after the first one goes back.
fn put_back(
    ledger: &Ledger,
    tenure: &Tenure,
    generation: Option<Generation>,
    found: &[StagedName],
    scratch: &Path,
) -> Result<()> {
    let (Some(generation), false) = (generation, found.is_empty()) else { return Ok(()) };
    let log = ledger.fetch(generation, scratch)?;
    let mut home: Vec<(StagedName, RelPath)> = Vec::new();
    let mut installed = std::collections::HashSet::new();
    log.ops(|op| {
        match op {
            Op::Out { path, to: proto::Leaves::Trash(name) | proto::Leaves::Stage(name) } => {
                if found.contains(&name) {
                    home.push((name, path));
                }
            }
            Op::Install { path, staged, .. } => {
                if found.contains(&staged) {
                    home.push((staged, path.clone()));
                }
                installed.insert(path);
            }
            Op::Grow { path, via, .. } => {
                if found.contains(&via) {
                    home.push((via, path.clone()));
                }
                installed.insert(path);
            }
            Op::Below { .. } | Op::Dir { .. } | Op::Except { .. } | Op::Clear { .. } | Op::Facts { .. } => {}
        }
        Ok(())
    })?;
    let mut dirs = MirrorDirs::new(&ledger.root);
    for (name, path) in home.into_iter().filter(|(_, path)| installed.contains(path)) {
        let act = || format!("put {path} back into the mirror");
        let (parent, leaf) = dirs.parent(&path).map_err(on_mirror(act))?;
        if !parent.exists(&leaf).map_err(on_mirror(act))? {
            put_one_back(&tenure.trash, name, &parent, &leaf).map_err(on_mirror(act))?;
        }
    }
    Ok(())
}

fn put_one_back(
    from: &Dir,
    name: StagedName,
    parent: &Dir,
    leaf: &[u8],
) -> std::result::Result<(), sys::SysError> {
    match from.rename(&names::staged(name), parent, leaf) {
        Err(e) if e.is_gone() => Ok(()),
        other => other,
    }
}
