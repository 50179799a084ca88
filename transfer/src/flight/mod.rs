//! Pure decisions: how one file gets copied. No I/O, no clock; it says what to do next and is told what came of it.
//!
//! ```text
//!            ┌───────────── changed, at most 3 times ────────────────┐
//! Start → Opening → (Cleaning) → Moving → Cutting → Looking → Dressing → Syncing → Closing → Over
//!            │                     (create, read, hash, copy, write                  ▲
//!            │                      run beside each other)            any failure ───┴→ Unlinking → Over
//!            └ failed → Over
//! ```
//! The content travels in blocks of [`Plan::unit`] bytes: each is read, hashed, compared and written by itself, and
//! up to [`Plan::slots`] of them are on their way at once. What the target is known to hold (`held`) is kept per
//! block, so that a second try after a change sends only the blocks that differ.
//!
//! Cleaning stands between the look and the read, in this order only ([`Plan::clean`]): what is stored before the look is
//! read; what is stored after the cleaning moves the times, and the next look sees that.

mod did;
mod next;
mod state;
#[cfg(test)]
mod tests;
mod words;

pub use state::Flight;
pub use words::{Act, Base, Block, Did, Hashed, Landed, Loaded, Opened, Plan, Poll, same};
