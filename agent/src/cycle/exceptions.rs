//! Paths that are not, or not currently, replicated: what is told to the ledger about them.

use std::collections::BTreeMap;

use proto::{Exception, ExceptionClass, Op, RelPath};
use sys::Dir;

use super::entries::now;
use super::look::Refusal;
use crate::error::Result;
use crate::index::View;

/// How the reason begins for a path that is replicated, but without some of its attributes.
pub const ATTRIBUTES: &str = "attributes not carried: ";

/// Everything refused in this cycle, and everything that was replicated after having been refused before.
#[derive(Default)]
pub struct Exceptions {
    refused: BTreeMap<RelPath, Refusal>,
}

impl Exceptions {
    /// Takes in a refusal; of several for one path the last counts.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refused.insert(refusal.path.clone(), refusal);
    }

    /// Paths refused as they are now.
    pub fn refused(&self) -> impl Iterator<Item = &Refusal> {
        self.refused.values()
    }

    /// Operations that bring the ledger's list up to date; none when it is.
    ///
    /// `staged` tells whether a path was replicated in this cycle, `covered` whether it was looked at.
    ///
    /// # Errors
    /// [`crate::Error::Index`].
    pub fn ops(
        &self,
        view: &View,
        root: &Dir,
        staged: impl Fn(&RelPath) -> bool,
        covered: impl Fn(&RelPath) -> bool,
    ) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        for (path, old) in view.exceptions()? {
            let now_refused = self.refused.get(&path);
            let keeps = match now_refused {
                Some(refusal) => refusal.class == old.class && refusal.reason == old.reason,
                None => false,
            };
            if keeps {
                continue;
            }
            if now_refused.is_some() || !covered(&path) {
                continue;
            }
            // A path that was looked at and that nothing was found wrong with is in the mirror now.
            // Attributes left out of a file are only seen when the file is copied.
            let only_attributes = old.class == ExceptionClass::LeftOut && old.reason.starts_with(ATTRIBUTES);
            let unseen = only_attributes && !staged(&path) && exists(root, &path);
            if !unseen {
                ops.push(Op::Clear { path });
            }
        }
        for (path, refusal) in &self.refused {
            let old = view.exception(path)?;
            if old.as_ref().is_some_and(|old| old.class == refusal.class && old.reason == refusal.reason) {
                continue;
            }
            let since = old.map_or_else(now, |old| old.since);
            let exception = Exception {
                class: refusal.class,
                reason: refusal.reason.clone(),
                errno: refusal.errno,
                since,
            };
            ops.push(Op::Except { path: path.clone(), exception });
        }
        Ok(ops)
    }
}

fn exists(root: &Dir, path: &RelPath) -> bool {
    let Some((parent, name)) = path.split_last() else { return true };
    // Any doubt keeps the path listed.
    match root.open_below(parent.components()).and_then(|dir| dir.exists(name)) {
        Ok(there) => there,
        Err(e) => !(e.is_gone() || e.errno == sys::Errno::NOTDIR),
    }
}
