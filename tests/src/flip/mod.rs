//! Attack helpers: names that change their type under a reader, and a canary outside that must not notice.

mod canary;
mod flipper;

pub use canary::Canary;
pub use flipper::{FlipMaker, Flipper};
