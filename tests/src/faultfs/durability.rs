//! What of the tree would be found after a power failure.
//!
//! The model is a journalled filesystem under GlusterFS. Changes of metadata survive as a prefix of their order that
//! reaches at least to the last fsync of *any* regular file; an fsync of a directory makes nothing durable. The bytes
//! of a file are safe only once that file was fsynced after they were written; until then each write may be lost, torn,
//! kept, or leave zeros where the length grew. Truncation is metadata.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::Content;
use super::image::{Image, Ino, MetaOp, Time};
use super::protocol::Survive;
use super::rng::Rng;

/// One change of a file's bytes.
#[derive(Clone, Debug)]
pub enum DataOp {
    /// Bytes stored, growing the file where needed.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// A range turned into a hole.
    Punch {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Length grown without data.
    Extend(u64),
    /// Length set; a change of metadata, hence subject to the prefix rule.
    Truncate(u64),
}

/// A change of bytes that no fsync has covered.
#[derive(Clone, Debug)]
struct Unsynced {
    seq: u64,
    op: DataOp,
    /// An fsync of the file failed after this: caches forget such a write although it stays readable until the crash.
    forgotten: bool,
}

/// The running tree together with everything needed to say what a crash would leave of it.
#[derive(Clone, Debug)]
pub struct Disk {
    live: Image,
    durable: Image,
    pending: Vec<(u64, Time, MetaOp)>,
    unsynced: HashMap<Ino, Vec<Unsynced>>,
    /// Number of the running request.
    seq: u64,
    /// Requests up to this number have durable metadata.
    committed: u64,
    stored: u64,
}

impl Disk {
    /// A disk on which all of `image` is durable.
    pub fn new(image: Image) -> Disk {
        let stored = image.stored();
        Disk {
            durable: image.clone(),
            live: image,
            pending: Vec::new(),
            unsynced: HashMap::new(),
            seq: 0,
            committed: 0,
            stored,
        }
    }

    /// The tree as running programs see it.
    pub fn live(&self) -> &Image {
        &self.live
    }

    /// Bytes held by regular files.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Starts the next request: what it changes stands or falls together.
    pub fn begin(&mut self) {
        self.seq += 1;
    }

    /// Changes metadata and returns the object that lost its last name; it stays readable until [`Disk::forget`].
    pub fn change(&mut self, op: MetaOp, now: Time) -> Option<Ino> {
        let orphan = self.live.apply(&op, now);
        self.pending.push((self.seq, now, op));
        orphan
    }

    /// Changes the bytes of a regular file.
    pub fn change_data(&mut self, ino: Ino, op: DataOp) {
        let Some(content) = self.live.content_mut(ino) else {
            return;
        };
        self.stored -= content.stored();
        perform(content, &op);
        self.stored += content.stored();
        self.unsynced.entry(ino).or_default().push(Unsynced { seq: self.seq, op, forgotten: false });
    }

    /// Makes all metadata so far and the bytes of this regular file durable.
    pub fn fsync(&mut self, ino: Ino) {
        replay(&mut self.durable, self.pending.drain(..));
        self.committed = self.seq;
        let records = self.unsynced.remove(&ino).unwrap_or_default();
        let (Some(durable), Some(live)) =
            (self.durable.content_mut(ino), self.live.get(ino).and_then(|inode| inode.content()))
        else {
            return;
        };
        *durable = if records.iter().any(|record| record.forgotten) {
            survivor(durable, &records, u64::MAX, |_| Fate::Kept)
        } else {
            live.clone()
        };
    }

    /// Records that an fsync of this file failed: what it should have saved is marked clean and never written.
    pub fn fsync_failed(&mut self, ino: Ino) {
        for record in self.unsynced.get_mut(&ino).into_iter().flatten() {
            record.forgotten |= !matches!(record.op, DataOp::Truncate(_));
        }
    }

    /// Drops an object that has no name and no user any more.
    pub fn forget(&mut self, ino: Ino) {
        if let Some(inode) = self.live.forget(ino) {
            self.stored -= inode.content().map_or(0, Content::stored);
        }
        if self.durable.get(ino).is_none() {
            self.unsynced.remove(&ino);
        }
    }

    /// The tree a crash right now would leave.
    pub fn after_crash(&self, survive: Survive) -> Image {
        match survive {
            Survive::Everything => self.crash_image(u64::MAX, |_, _| Fate::Kept),
            Survive::AllMetadataNoData => self.crash_image(u64::MAX, |_, _| Fate::Lost),
            Survive::OnlySynced => self.crash_image(0, |_, _| Fate::Lost),
            Survive::Seeded(seed) => self.seeded(seed),
        }
    }

    fn seeded(&self, seed: u64) -> Image {
        let mut rng = Rng::new(seed);
        let cut = self.committed + 1 + rng.below(self.seq - self.committed + 1);
        let mut modes: HashMap<Ino, Mode> = HashMap::new();
        let mut files: Vec<_> = self.unsynced.iter().collect();
        files.sort_unstable_by_key(|(ino, _)| **ino);
        for (ino, records) in files {
            modes.insert(*ino, Mode::roll(&mut rng, records));
        }
        self.crash_image(cut, |ino, index| modes[&ino].fate(index))
    }

    /// Metadata of requests numbered below `cut`, bytes as `fate` says.
    fn crash_image(&self, cut: u64, fate: impl Fn(Ino, usize) -> Fate) -> Image {
        let mut image = self.durable.clone();
        let cut = cut.max(self.committed + 1);
        let surviving = self.pending.iter().filter(|(seq, ..)| *seq < cut);
        replay(&mut image, surviving.cloned());
        for (&ino, records) in &self.unsynced {
            if let Some(content) = image.content_mut(ino) {
                *content = survivor(content, records, cut, |i| fate(ino, i));
            }
        }
        image
    }
}

fn replay(image: &mut Image, ops: impl Iterator<Item = (u64, Time, MetaOp)>) {
    for (_, time, op) in ops {
        if let Some(orphan) = image.apply(&op, time) {
            image.forget(orphan);
        }
    }
}

/// What becomes of one unsynced write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Kept,
    /// Only the first bytes, in thousandths of its length.
    Torn(u64),
    /// The length grew, the bytes did not arrive.
    Zeros,
}

/// How the writes of one file fare, so that seeds reach whole-file outcomes and not only noise.
enum Mode {
    All(Fate),
    Prefix { whole: usize, torn: u64 },
    Each(Vec<Fate>),
}

impl Mode {
    fn roll(rng: &mut Rng, records: &[Unsynced]) -> Mode {
        match rng.below(6) {
            0 => Mode::All(Fate::Lost),
            1 => Mode::All(Fate::Kept),
            2 => Mode::All(Fate::Zeros),
            3 | 4 => {
                Mode::Prefix { whole: rng.below(records.len() as u64 + 1) as usize, torn: rng.below(1000) }
            }
            _ => Mode::Each(
                records
                    .iter()
                    .map(|_| match rng.below(4) {
                        0 => Fate::Lost,
                        1 => Fate::Zeros,
                        2 => Fate::Torn(rng.below(1000)),
                        _ => Fate::Kept,
                    })
                    .collect(),
            ),
        }
    }

    fn fate(&self, index: usize) -> Fate {
        match self {
            Mode::All(fate) => *fate,
            Mode::Prefix { whole, torn } => match index.cmp(whole) {
                std::cmp::Ordering::Less => Fate::Kept,
                std::cmp::Ordering::Equal => Fate::Torn(*torn),
                std::cmp::Ordering::Greater => Fate::Lost,
            },
            Mode::Each(fates) => fates[index],
        }
    }
}

/// The bytes of a file after a crash, `base` being those of its last fsync.
fn survivor(base: &Content, records: &[Unsynced], cut: u64, fate: impl Fn(usize) -> Fate) -> Content {
    let mut content = base.clone();
    for (index, record) in records.iter().enumerate() {
        let committed = record.seq < cut;
        if let DataOp::Truncate(_) = record.op {
            if !committed {
                // Later writes went to blocks that only this truncation's commit would have shown.
                break;
            }
            perform(&mut content, &record.op);
            continue;
        }
        let fate = if record.forgotten { Fate::Lost } else { fate(index) };
        let before = content.size();
        match (fate, &record.op) {
            (Fate::Lost, _) => {}
            (Fate::Torn(share), DataOp::Write { offset, data }) => {
                let kept = (data.len() as u64 * share / 1000) as usize;
                content.write(*offset, &data[..kept]);
            }
            (Fate::Zeros, DataOp::Write { offset, data }) => {
                content.extend(offset + data.len() as u64);
            }
            (Fate::Kept | Fate::Torn(_) | Fate::Zeros, op) => perform(&mut content, op),
        }
        if !committed && content.size() > before {
            // The length is metadata too; beyond the cut only bytes written in place can have arrived.
            content.truncate(before);
        }
    }
    content
}

fn perform(content: &mut Content, op: &DataOp) {
    match op {
        DataOp::Write { offset, data } => content.write(*offset, data),
        DataOp::Punch { offset, len } => content.punch(*offset, *len),
        DataOp::Extend(size) => content.extend(*size),
        DataOp::Truncate(size) => content.truncate(*size),
    }
}
