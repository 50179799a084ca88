//! What an index knows of one path: asked of it here, or by the agent that holds it.

use proto::path::Escaped;
use proto::{Body, Entry, Exception, ExceptionClass, RelPath};

use crate::cli::when;
use crate::error::Result;
use crate::index::View;
use crate::recover::link_key;

/// Names of one inode that are listed: a file may have 65,000.
const LINKS_MAX: usize = 1000;

/// What is known of a path. Names are escaped, as people see them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Known {
    /// The path.
    pub path: String,
    /// The generation this is about.
    pub generation: u64,
    /// What the mirror has there.
    pub entry: Option<Shown>,
    /// Of a directory: names directly in it.
    pub holds: Option<u64>,
    /// Other names of the same inode, at most 1,000.
    pub links: Vec<String>,
    /// How many there are.
    pub links_total: u64,
    /// Why it is not in the mirror, or not as it is in the volume.
    pub exception: Option<Excepted>,
    /// What is said of the directories above a path that is not there.
    pub hints: Vec<String>,
    /// Whether that explains it.
    pub explained: bool,
}

/// What the mirror has at a path.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// `file`, `directory`, …
    pub r#type: String,
    /// Bytes of content.
    pub size: u64,
    /// Of a file: hash of its content.
    pub blake3: Option<String>,
    /// Of a symlink: where it points.
    pub target: Option<String>,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was modified.
    pub mtime: String,
    /// Names of its attributes.
    pub xattrs: Vec<String>,
    /// Its inode in the volume.
    pub volume_inode: u64,
    /// It changed just before it was read.
    pub compared_by_content_next_time: bool,
}

/// Why a path is an exception.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Excepted {
    /// Kind.
    pub class: Class,
    /// In words.
    pub reason: String,
    /// Errno, or 0.
    pub errno: i32,
    /// Since when.
    pub since: String,
}

/// Kinds of exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It could not be replicated.
    Quarantined,
    /// It is not replicated by policy.
    LeftOut,
}

impl From<ExceptionClass> for Class {
    fn from(class: ExceptionClass) -> Self {
        match class {
            ExceptionClass::Quarantined => Self::Quarantined,
            ExceptionClass::LeftOut => Self::LeftOut,
        }
    }
}

/// Gathers what `view` knows of `path`.
///
/// # Errors
/// [`crate::Error::Index`].
pub fn gather(view: &View, path: &RelPath) -> Result<Known> {
    let entry = view.entry(path)?;
    let mut others = Vec::new();
    if let Some((entry, key)) = entry.as_ref().and_then(|entry| Some((entry, link_key(entry)?))) {
        for name in view.names_of(entry.origin.ino)? {
            if name != *path && view.entry(&name)?.as_ref().and_then(link_key) == Some(key) {
                others.push(name.to_string());
            }
        }
    }
    others.sort();
    let links_total = others.len() as u64;
    others.truncate(LINKS_MAX);
    let mut holds = None;
    if entry.as_ref().is_some_and(Entry::is_dir)
        && let Some(id) = view.dir_id(path)?
    {
        let mut names = 0;
        view.scan::<crate::Error>(id, |_, _| {
            names += 1;
            Ok(())
        })?;
        holds = Some(names);
    }
    let exception = view.exception(path)?.map(|exception| Excepted {
        class: exception.class.into(),
        reason: exception.reason,
        errno: exception.errno,
        since: when(exception.since),
    });
    let (hints, explained) = if entry.is_none() { hints(view, path)? } else { (Vec::new(), false) };
    Ok(Known {
        path: path.to_string(),
        generation: view.position().generation.0,
        entry: entry.as_ref().map(shown),
        holds,
        links: others,
        links_total,
        exception,
        hints,
        explained,
    })
}

fn shown(entry: &Entry) -> Shown {
    Shown {
        r#type: entry.type_word().to_owned(),
        size: entry.size(),
        blake3: match &entry.body {
            Body::File(file) => Some(file.hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            Body::Dir | Body::Symlink(_) | Body::Fifo => None,
        },
        target: match &entry.body {
            Body::Symlink(text) => Some(Escaped(text).to_string()),
            Body::Dir | Body::File(_) | Body::Fifo => None,
        },
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        mtime: when(entry.mtime),
        xattrs: entry.xattrs.iter().map(|(name, _)| Escaped(name).to_string()).collect(),
        volume_inode: entry.origin.ino,
        compared_by_content_next_time: entry.origin.racy,
    }
}

/// Why a path may be missing: what is said of the directories above it.
fn hints(view: &View, path: &RelPath) -> Result<(Vec<String>, bool)> {
    let mut hints = Vec::new();
    let mut explained = false;
    let mut at = path.clone();
    while let Some((above, _)) = at.split_last() {
        if let Some(Exception { class, reason, .. }) = view.exception(&above)? {
            let word = match class {
                ExceptionClass::Quarantined => "is in quarantine",
                ExceptionClass::LeftOut => "is left out",
            };
            hints.push(format!("{above}, above it, {word}: {reason}"));
            explained = true;
        }
        match view.entry(&above)? {
            Some(entry) if entry.is_dir() => {}
            Some(entry) => {
                hints.push(format!("{above}, above it, is a {}", entry.type_word()));
                explained = true;
            }
            None if above.is_root() => {}
            None => hints.push(format!("{above}, above it, is not in the generation either")),
        }
        at = above;
    }
    Ok((hints, explained))
}
