//! Files that can be written to without an event, and without their times telling.

use std::collections::HashSet;

use proto::Time;
use sys::{FileKind, Stat};
use transfer::Writers;

use super::entries::now;
use crate::index::time;

/// What was known of such files before a cycle.
///
/// A store through a mapping moves the change time only when the page was clean. So the pages of a mapped file are
/// cleaned between the look at it and the read ([`Writers::Mapped`]), and from then on its times tell. Where that was
/// not done, they do not: the file is in doubt.
#[derive(Clone, Debug)]
pub struct Silent {
    /// When it was looked who has what open. Whoever mapped a file later has moved its change time since.
    pub begun: Time,
    /// Inodes that processes have mapped.
    pub mapped: HashSet<u64>,
    /// It could not be said who has what mapped: every file may be.
    pub untold: bool,
    /// Inodes that are compared whatever their times say.
    pub doubted: HashSet<u64>,
    /// The host stopped without an end: of what changed since this moment the times may have outlived the content, and it
    /// is compared as well.
    pub doubted_since: Option<Time>,
}

impl Silent {
    /// Nothing is written so.
    pub fn nothing() -> Self {
        Self {
            begun: now(),
            mapped: HashSet::new(),
            untold: false,
            doubted: HashSet::new(),
            doubted_since: None,
        }
    }

    /// True when the times of a file say nothing of its content.
    pub fn doubts(&self, stat: &Stat) -> bool {
        stat.kind != FileKind::Dir
            && (self.doubted.contains(&stat.ino)
                || self.doubted_since.is_some_and(|since| time(stat.ctime) >= since))
    }

    /// How the inode may be changing while it is read.
    pub fn writers(&self, ino: u64) -> Writers {
        if self.untold || self.mapped.contains(&ino) { Writers::Mapped } else { Writers::Seen }
    }
}
