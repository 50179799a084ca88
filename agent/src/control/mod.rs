//! The control socket of the agent: `status`, `why`, `flush`, `pause`, `resume`, `approve`.
//!
//! One request and one answer a connection, each a line of JSON. Whoever may connect may read how the lanes are; to act, or to ask
//! for what is in a volume, one has to be root or the user that the agent runs as. In reading order: [`protocol`], [`server`], [`client`].

mod client;
mod protocol;
mod server;
mod until;

pub use client::{ask, understand};
pub use protocol::{ANSWER_MAX, Acted, AgentStatus, Answer, Ask, AskedPath, REQUEST_MAX, Request};
pub use server::{Server, parse, serve};

use std::path::PathBuf;

/// Directory of the control socket: `TIDEGATE_RUNTIME_DIR`, else `/run/tidegate` for root, else `tidegate` in the XDG runtime
/// directory.
pub fn runtime_dir() -> PathBuf {
    if let Some(given) = std::env::var_os("TIDEGATE_RUNTIME_DIR").filter(|given| !given.is_empty()) {
        return given.into();
    }
    let is_root = sys::host::effective_owner().0 == 0;
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|given| !given.is_empty()) {
        Some(given) if !is_root => PathBuf::from(given).join("tidegate"),
        _ => PathBuf::from("/run/tidegate"),
    }
}

/// The control socket.
pub fn socket_path() -> PathBuf {
    runtime_dir().join("tidegate.sock")
}
