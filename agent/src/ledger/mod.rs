//! The ledger beside the mirror: who may write, what was sealed, what is published.
//!
//! In reading order: [`open`] finds or makes it, [`epoch`] says who may write, [`log`] carries redo logs between
//! the ledger and local files, [`publish`] brings a sealed log into the mirror, [`takeover`] replaces a writer.

mod epoch;
mod log;
mod mirror;
mod open;
mod publish;
mod takeover;

pub use epoch::Tenure;
pub use log::{LocalLog, LogFile};
pub use mirror::{MirrorDirs, MirrorRoot};
pub use open::Ledger;
pub use publish::{Publish, meta_of, roll_forward};
pub use takeover::{settle, take_over};
