//! Replacing a writer: claim the next epoch, finish what was sealed, take its working directories away.

use std::collections::HashSet;
use std::path::Path;

use proto::{Epoch, Generation, Head, LogHeader, NodeId, Op, RelPath, StagedName, names};
use sys::{Dir, Errno};

use super::epoch::Tenure;
use super::log::{LocalLog, LogFile};
use super::mirror::MirrorDirs;
use super::open::{Ledger, write_small};
use super::publish::{Publish, roll_forward};
use crate::error::{Error, Result, on_mirror};

/// What a barrier record says of the volume it was made from.
const NO_VOLUME: (u64, Option<proto::Time>) = (0, None);

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
    let listed = ledger.dir.names().map_err(on_mirror(|| "list the ledger".to_owned()))?;
    let older: Vec<_> =
        listed.iter().filter(|name| names::parse_working(name).is_some_and(|of| of < epoch)).collect();
    // Once the older directories are gone, only this tells that what lay in them has still to be put back.
    let marker = names::settling(epoch);
    let begun = listed.contains(&marker);
    if older.is_empty() && !begun {
        return Ok(tenure);
    }
    let act = || format!("settle epoch {epoch}");
    if !begun {
        write_small(&ledger.dir, &marker, b"").map_err(on_mirror(act))?;
    }
    if let Some(head) = &head {
        barrier(ledger, &tenure, node, head, scratch, now)?;
    }
    for name in older {
        empty_into(ledger, name, &tenure)?;
    }
    put_back(ledger, &tenure, scratch)?;
    // Also that of an epoch which died in between: what it had cleared away was in its trash and is settled with the rest.
    let older = listed.iter().filter(|name| names::parse_settling(name).is_some_and(|of| of < epoch));
    for name in older.chain([&marker]) {
        match ledger.dir.unlink(name) {
            // A later epoch settles with ours too.
            Err(e) if !e.is_gone() => return Err(on_mirror(act)(e)),
            _ => {}
        }
    }
    Ok(tenure)
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
        volume: NO_VOLUME,
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
fn empty_into(ledger: &Ledger, name: &[u8], tenure: &Tenure) -> Result<()> {
    let act = || format!("take away {}", proto::path::Escaped(name));
    let Some(old) = ledger.working(name)? else { return Ok(()) };
    loop {
        for child in old.names().map_err(on_mirror(act))? {
            match old.rename(&child, &tenure.trash, &child) {
                Err(e) if !e.is_gone() => return Err(on_mirror(act)(e)),
                _ => {}
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

/// The second roll forward: what an old writer took out of the mirror after the first one goes back. It lies in the
/// trash of this epoch, which holds nothing else yet.
fn put_back(ledger: &Ledger, tenure: &Tenure, scratch: &Path) -> Result<()> {
    let listed = tenure.trash.names().map_err(on_mirror(|| "list the trash".to_owned()))?;
    let found: HashSet<StagedName> = listed.iter().filter_map(|name| StagedName::parse(name)).collect();
    if found.is_empty() {
        return Ok(());
    }
    let Some(log) = last_of_a_writer(ledger, scratch)? else { return Ok(()) };
    let mut home: Vec<(StagedName, RelPath)> = Vec::new();
    let mut installed = HashSet::new();
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

/// The newest published log that is no barrier: what an old writer may still be carrying out. It may be newer than what
/// the first roll forward found.
fn last_of_a_writer(ledger: &Ledger, scratch: &Path) -> Result<Option<LocalLog>> {
    let mut generation = ledger.head()?.map_or(0, |head| head.generation.0);
    while generation > 0 {
        let log = ledger.fetch(Generation(generation), scratch)?;
        if log.header.volume != NO_VOLUME {
            return Ok(Some(log));
        }
        generation -= 1;
    }
    Ok(None)
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
