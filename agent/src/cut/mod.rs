//! Around the cut: the operator's hooks, and the freezing of containers.
//!
//! What a `pre` hook or a freeze does to an application has to be undone whatever becomes of the agent. So neither is done
//! by the agent: a child of it, the *keeper*, runs `pre`, freezes, and waits for a word. At the word, at its deadline, or
//! when the agent's end of the pipe closes because the agent is gone, it thaws; and then it runs `post`, once. It holds
//! nothing of the volume or the mirror, so that it cannot hang with them.
//!
//! ```text
//! agent    looks for work ── orders ─►             ◄─ begun ── takes the names, copies ── read ─►      ── seals …
//! keeper                              pre, freeze                                          thaw, post ── ended ─►
//! ```
//! In reading order: [`words`] between the two, `program` runs one hook, `cgroup` freezes, [`keeper`] is the child,
//! [`held`] the agent's side.

mod cgroup;
mod held;
mod keeper;
mod program;
mod words;

pub use cgroup::{Cgroup, FreezeError};
pub use held::{Cuts, Extent, Held};
pub use keeper::keep;
