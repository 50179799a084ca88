//! The index: what the mirror holds at one generation, keyed `(directory, name)`.
//!
//! It is a materialised view of the redo logs and nothing else: the only way to change it is to apply a log
//! ([`Applying`]), on the writer as on any host that reads the lane. So a lost index is rebuilt from the ledger
//! and is then the same, to the byte.

mod apply;
mod row;
mod shelf;
mod store;

pub use apply::Applying;
pub use row::{DirId, Quick, ROOT, Row, RowFacts, facts_of, time};
pub use shelf::{Lent, Shelf};
pub use store::{Index, IndexError, Position, View};
