//! What a comparison looks at, and what the product's policy lets the copy leave out.

/// How to judge; the default is the whole promise P8 with the default policy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compare mode, owner, times and xattrs of the two roots themselves.
    pub root_metadata: bool,
    /// Names directly below the roots that are looked at in neither tree.
    pub exclude_top: Vec<Vec<u8>>,
    /// Compare POSIX ACLs, byte for byte as the kernel hands them out.
    pub acls: bool,
    /// Compare `user.*` xattrs.
    pub xattrs: bool,
    /// Compare owner and group.
    pub owners: bool,
    /// Compare modification times to the nanosecond.
    pub mtimes: bool,
    /// Expect holes to stay holes; switch off where the copy's filesystem keeps none.
    pub holes: bool,
    /// Bytes per file that may be data in `b` though they are a hole in `a`.
    ///
    /// Filesystems round holes to their own block size (up to 64 KiB seen), so zero would judge the filesystem.
    pub hole_slack: u64,
    /// Demand that nothing outside tree `b` shares an inode with a name inside it.
    pub b_links_closed: bool,
    /// What becomes of sockets and device nodes.
    pub specials: Specials,
    /// What becomes of `security.capability`.
    pub capability: Capability,
    /// What becomes of setuid and setgid bits of regular files.
    pub special_bits: SpecialBits,
    /// Differences kept word for word; the rest are only counted.
    pub limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            root_metadata: false,
            exclude_top: Vec::new(),
            acls: true,
            xattrs: true,
            owners: true,
            mtimes: true,
            holes: true,
            hole_slack: 64 << 10,
            b_links_closed: false,
            specials: Specials::LeftOut,
            capability: Capability::Dropped,
            special_bits: SpecialBits::Kept,
            limit: 200,
        }
    }
}

impl Options {
    /// Leaves `name`, directly below both roots, out of the comparison.
    #[must_use]
    pub fn exclude(mut self, name: impl AsRef<[u8]>) -> Self {
        self.exclude_top.push(name.as_ref().to_vec());
        self
    }
}

/// Policy for sockets and device nodes in `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// They must be missing in `b`; their number is reported.
    LeftOut,
    /// They must be in `b`, of the same type and device number.
    Compared,
    /// They are not looked at in either tree.
    Ignored,
}

/// Policy for file capabilities in `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `b` must not carry any.
    Dropped,
    /// `b` must carry the same.
    Kept,
    /// They are not looked at.
    Ignored,
}

/// Policy for setuid and setgid bits of regular files in `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialBits {
    /// `b` must have the same.
    Kept,
    /// `b` must have neither, and the same mode otherwise.
    Stripped,
}
