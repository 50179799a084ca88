//! Who may write: epochs, claimed by `link(2)`, and the working directories that fence an old holder.

use std::sync::Arc;

use proto::{Epoch, EpochRecord, FrameKind, NodeId, frame, names};
use sys::{Dir, Errno, SysError};

use super::open::{Ledger, link_new, make_dir, read_small};
use crate::error::{Error, Result, on_mirror};

/// The right to write, as descriptors: every change of the mirror has one leg in these directories, and a
/// successor removes them.
pub struct Tenure {
    /// The epoch.
    pub epoch: Epoch,
    /// `stage.<epoch>`.
    pub stage: Arc<Dir>,
    /// `trash.<epoch>`.
    pub trash: Arc<Dir>,
}

impl Ledger {
    /// The newest epoch; nothing in a lane that nobody wrote yet.
    ///
    /// # Errors
    /// [`Error::Mirror`], [`Error::LedgerFile`].
    pub fn newest_epoch(&self) -> Result<Option<EpochRecord>> {
        let act = || "read the epochs".to_owned();
        let listed = self.epochs.names().map_err(on_mirror(act))?;
        let Some(newest) = listed.iter().filter_map(|name| names::parse_epoch(name)).max() else {
            return Ok(None);
        };
        let name = names::epoch(newest);
        let file = || format!("epoch/{newest}");
        let bytes = read_small(&self.epochs, &name).map_err(on_mirror(act))?;
        let bytes =
            bytes.ok_or_else(|| Error::LedgerState(format!("{} vanished from the ledger", file())))?;
        let record: EpochRecord = frame::decode_file(FrameKind::Epoch, &bytes)
            .map_err(|source| Error::LedgerFile { file: file(), source })?;
        Ok(Some(record))
    }

    /// Claims `epoch`; of several claimants one succeeds.
    ///
    /// # Errors
    /// [`Error::Guard`] when somebody else has it.
    pub fn claim(&self, epoch: Epoch, node: NodeId, host: &str, now: proto::Time) -> Result<()> {
        let record = EpochRecord { epoch, node, host: host.to_owned(), claimed: now };
        let bytes = frame::encode_file(FrameKind::Epoch, &record)
            .map_err(|source| Error::LedgerFile { file: format!("epoch/{epoch}"), source })?;
        match link_new(&self.dir, &self.epochs, &names::epoch(epoch), &bytes) {
            Ok(()) => Ok(()),
            Err(e) if e.errno == Errno::EXIST => {
                Err(Error::Guard(format!("epoch {epoch} was claimed by another writer at the same moment")))
            }
            Err(e) => Err(on_mirror(|| format!("claim epoch {epoch}"))(e)),
        }
    }

    /// Makes or opens the working directories of an epoch that is ours.
    ///
    /// # Errors
    /// [`Error::Fenced`] when a successor took them away at the same moment; [`Error::Mirror`].
    pub fn tenure(&self, epoch: Epoch) -> Result<Tenure> {
        self.working_dirs(epoch, |name| {
            // Opened first: in a lane that was written before, that is all there is to do.
            match self.dir.open_dir(name) {
                Err(e) if e.errno == Errno::NOENT => {
                    make_dir(&self.dir, name)?;
                    self.dir.open_dir(name)
                }
                other => other,
            }
        })
    }

    /// Opens the working directories that the writer of a sealed generation left. They are never made anew: where
    /// they are gone a successor has published that generation and taken them away, and whoever made them again would
    /// be outside the fence.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Mirror`].
    pub fn tenure_left(&self, epoch: Epoch) -> Result<Tenure> {
        self.working_dirs(epoch, |name| self.dir.open_dir(name))
    }

    fn working_dirs(
        &self,
        epoch: Epoch,
        open: impl Fn(&[u8]) -> std::result::Result<Dir, SysError>,
    ) -> Result<Tenure> {
        let hold = |name: Vec<u8>| match open(&name) {
            Ok(dir) => Ok(Arc::new(dir)),
            Err(e) => {
                let act = || format!("open the working directories of epoch {epoch}");
                Err(self.fenced_or(epoch, on_mirror(act)(e)))
            }
        };
        Ok(Tenure { epoch, stage: hold(names::stage(epoch))?, trash: hold(names::trash(epoch))? })
    }

    /// Fails when a successor took the working directories of `epoch` away.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Mirror`].
    pub fn still_working(&self, epoch: Epoch) -> Result<()> {
        let act = || format!("look for the stage of epoch {epoch}");
        if self.dir.exists(&names::stage(epoch)).map_err(on_mirror(act))? {
            return Ok(());
        }
        let gone = Error::LedgerState(format!("stage.{epoch} is gone from the ledger"));
        Err(self.fenced_or(epoch, gone))
    }
}
