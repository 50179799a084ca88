//! One cycle: look at the volume, decide, stage, seal, publish.
//!
//! In reading order: [`silent`] says what no event tells; [`look`] compares volume and index, [`names`] only what was touched; [`plan`] turns what it saw into work (renames found,
//! deletions guarded), [`stage`] copies, [`run`] drives one cycle from end to end.

mod acts;
mod crew;
mod dirs;
mod emit;
mod entries;
mod exceptions;
mod guard;
mod links;
mod listing;
mod look;
mod names;
mod plan;
mod resume;
mod run;
mod silent;
mod spool;
mod spools;
mod stage;
mod tail;

pub use entries::now;
pub use guard::DeletionLimit;
pub use names::Names;
pub use plan::{Again, Plan};
pub use run::{Cycle, CycleOptions, CycleReport, Durability, Made, Scope, Watch, preview};
pub use silent::Silent;
pub use stage::Progress;
