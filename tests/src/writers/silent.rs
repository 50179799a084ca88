//! Writes that send no event while the file stays open.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sys::aio::{Aio, PAGE, Page};
use sys::map::SharedMap;

use crate::trees::Rng;

/// Pages that are written to, few and far between: mostly they are dirty already.
const HOT: [u64; 4] = [0, 3, 17, 63];
/// Stores into memory that take about as long as a write by the kernel: so they go on while a cycle reads.
const STORES: usize = 5000;
/// Pages of the file.
const PAGES: u64 = 64;

/// How they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Stores into memory, through a mapping that outlives the descriptor.
    Map,
    /// libaio, through the page cache.
    Aio,
    /// libaio, past the page cache.
    DirectAio,
    /// A block device with the file behind it.
    Block,
}

impl Way {
    /// All that write to the file itself.
    pub const TO_FILES: [Way; 3] = [Way::Map, Way::Aio, Way::DirectAio];

    /// Bytes a file must have.
    pub const BYTES: u64 = PAGES * PAGE as u64;

    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Map => "map",
            Way::Aio => "aio",
            Way::DirectAio => "direct-aio",
            Way::Block => "block",
        }
    }

    pub(super) fn parse(name: &OsStr) -> Result<Self> {
        for way in [Way::Map, Way::Aio, Way::DirectAio, Way::Block] {
            if name == way.name() {
                return Ok(way);
            }
        }
        bail!("no way to write: {name:?}")
    }
}

/// A writer with its file open.
pub(super) struct Silent {
    rng: Rng,
    hand: Hand,
}

enum Hand {
    Map(SharedMap),
    Aio(Aio, File),
}

impl Silent {
    pub(super) fn open(way: Way, path: &Path) -> Result<Self> {
        let flags = if matches!(way, Way::DirectAio | Way::Block) { libc::O_DIRECT } else { 0 };
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        let hand = match way {
            Way::Map => Hand::Map(SharedMap::of(&file, Way::BYTES as usize)?),
            _ => Hand::Aio(Aio::new()?, file),
        };
        Ok(Self { rng: Rng::new(path.as_os_str().len() as u64), hand })
    }

    pub(super) fn act(&mut self) -> Result<()> {
        let page = *self.rng.pick(&HOT) * PAGE as u64;
        let bits = self.rng.bits().to_le_bytes();
        match &mut self.hand {
            Hand::Map(map) => {
                for _ in 0..STORES {
                    let page = *self.rng.pick(&HOT) as usize * PAGE;
                    map.write(page + self.rng.index(PAGE - 8), &self.rng.bits().to_le_bytes());
                }
            }
            Hand::Aio(aio, file) => {
                let mut content = Page([bits[0]; PAGE]);
                content.0[..8].copy_from_slice(&bits);
                aio.write(file, &content, page)?;
            }
        }
        Ok(())
    }
}
