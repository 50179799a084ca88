//! Tree generators: deterministic by seed, each into an existing, empty directory.

mod faithful;
mod jenkins;
mod million;
mod put;
mod rng;
mod small;

pub use faithful::{FaithfulOptions, faithful, faithful_with, odd_names};
pub use jenkins::{JenkinsSize, jenkins};
pub use million::{PER_DIRECTORY, million};
pub use put::{AclTag, Putter, Time, acl, sample_acl, set_mtime, write_all};
pub use rng::Rng;
pub use small::small_mixed;

/// What a generator made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Regular files, not counting further hard links.
    pub files: u64,
    /// Directories, without the root.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links beyond the first name.
    pub links: u64,
    /// FIFOs.
    pub fifos: u64,
    /// Sockets and device nodes.
    pub specials: u64,
    /// Bytes written (apparent sizes of holes are not in it).
    pub bytes: u64,
    /// Attributes set, ACLs among them.
    pub xattrs: u64,
    /// What the filesystem could not hold, one sentence each; empty on ext4 and xfs.
    pub unsupported: Vec<String>,
}

impl Made {
    /// All names made.
    pub fn entries(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.links + self.fifos + self.specials
    }
}
