//! Reading one directory of the volume, and the fingerprint by which two looks are compared.

use std::hash::{DefaultHasher, Hash, Hasher};

use sys::{Dir, Stat, SysError, WalkBuffer};

/// What one directory held at one moment.
pub struct Listing {
    /// The directory itself, looked at before its names were read.
    pub stat: Stat,
    /// Its names, sorted, each with what `statx` said.
    pub names: Vec<(Box<[u8]>, Stat)>,
}

/// Reads a directory. Names that vanish between the listing and the look at them are left out: they are gone.
///
/// # Errors
/// Of reading the directory itself; then nothing is known of what it holds.
pub fn read(dir: &mut Dir, buffer: &mut WalkBuffer) -> Result<Listing, SysError> {
    let stat = dir.stat_self()?;
    let names = names(dir, buffer)?;
    let mut listed = Vec::with_capacity(names.len());
    for name in names.iter() {
        // Another file system may be mounted on the name, and its server may be silent.
        match dir.glance(name) {
            Ok(stat) => listed.push((name.into(), stat)),
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Listing { stat, names: listed })
}

/// The names of a directory, sorted, in one allocation for all: a directory may hold a million.
pub fn names(dir: &mut Dir, buffer: &mut WalkBuffer) -> Result<Names, SysError> {
    let mut bytes = Vec::new();
    let mut spans = Vec::new();
    dir.read_through(buffer, |entry| {
        let start = bytes.len();
        bytes.extend_from_slice(entry.name);
        // A name has at most 255 bytes; a directory of 4 GiB of names is beyond every file system.
        spans.push((start as u32, entry.name.len() as u16));
    })?;
    spans.sort_unstable_by(|a, b| span(&bytes, a).cmp(span(&bytes, b)));
    // A directory that is changed while it is read may show a name twice.
    spans.dedup_by(|a, b| span(&bytes, a) == span(&bytes, b));
    Ok(Names { bytes, spans })
}

/// Sorted names.
pub struct Names {
    bytes: Vec<u8>,
    spans: Vec<(u32, u16)>,
}

fn span<'a>(bytes: &'a [u8], (start, len): &(u32, u16)) -> &'a [u8] {
    &bytes[*start as usize..*start as usize + *len as usize]
}

impl Names {
    /// How many.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|at| span(&self.bytes, at))
    }
}

/// Sum over all names of a tree of what was seen of each, in no particular order: two equal sums say that
/// nothing changed between two looks. 64 bits: a chance of 1 in 10^19 to miss a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Adds one name.
    pub fn add(&mut self, parent: u64, name: &[u8], stat: &Stat) {
        self.0 = self.0.wrapping_add(one(parent, name, stat));
    }

    /// Takes one name back.
    pub fn subtract(&mut self, parent: u64, name: &[u8], stat: &Stat) {
        self.0 = self.0.wrapping_sub(one(parent, name, stat));
    }

    /// Adds another part's sum.
    pub fn merge(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

fn one(parent: u64, name: &[u8], stat: &Stat) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, name, stat.ino, stat.size, stat.mtime, stat.ctime).hash(&mut hasher);
    hasher.finish()
}
