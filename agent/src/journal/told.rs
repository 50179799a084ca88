//! What a journal says, in words for people and as documents for scripts.

use std::fmt;

use proto::journal::segment::SegmentHeader;
use proto::journal::{DirHandle, GapCause, Handle, Hint, Listed, Seq};
use proto::path::Escaped;
use proto::{Cut, Generation, JournalRecord, Note, Time};
use sys::Errno;

/// One thing that a journal says. `Display` is one line for people, which nothing should parse; as JSON it is one document
/// for scripts, tabled in `docs/operations.md`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Told {
    /// Number of the note; of what is said about a segment, its first.
    pub seq: Option<Seq>,
    /// When it was noted.
    pub at: Option<String>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Event {
    /// A segment begins: with each start of the agent, and every 8 MiB.
    Begin {
        /// This start of the host's kernel.
        boot: String,
        /// How it relates to what was before.
        after: After,
    },
    /// Something in the volume was touched.
    Changed(Changed),
    /// Changes may have been missed: all of the volume is looked at.
    Gap {
        /// Why.
        cause: GapCause,
        /// The generation that closed it.
        generation: Option<Generation>,
    },
    /// Files that are open for writing, or mapped.
    Writing {
        /// They.
        files: Vec<Opened>,
        /// Whether these are all.
        listed: Listed,
    },
    /// A generation was made.
    Cut {
        /// Of all up to this note.
        upto: Seq,
        /// How it relates to the volume.
        cut: Cut,
    },
    /// A generation was sealed.
    Sealed {
        /// With all up to this note.
        upto: Seq,
        /// Its number.
        generation: Generation,
    },
    /// The cursor moved.
    Published {
        /// All up to this note is done with.
        upto: Seq,
        /// The generation that the mirror holds.
        generation: Generation,
    },
    /// A path could not be replicated.
    Quarantined {
        /// The path.
        path: String,
        /// Errno, or 0.
        errno: i32,
        /// What happened.
        reason: String,
    },
    /// A cycle takes what was noted before this.
    Barrier {
        /// Tells it from others.
        token: String,
    },
    /// Replication was paused.
    Paused,
    /// And goes on.
    Resumed,
    /// The agent stopped in order.
    Stopped,
    /// Notes that are not there, because their segments were dropped before they were read.
    Missed {
        /// The first that is there again.
        to: Seq,
    },
    /// A segment that cannot be read on.
    Damaged {
        /// Its file.
        segment: String,
        /// Offset of what is damaged.
        offset: u64,
    },
    /// A segment that a newer program wrote.
    Newer {
        /// Its file.
        segment: String,
        /// Offset of what is not known here.
        offset: u64,
    },
    /// The journal was removed and begins anew.
    Anew,
    /// All that there is was told.
    End {
        /// The cursor, once there is one.
        cursor: Option<Seq>,
        /// The generation it speaks of.
        generation: Option<Generation>,
        /// Touched things behind the cursor.
        waiting: u64,
        /// Gaps behind it.
        gaps: u64,
    },
}

/// What came before a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// It is the oldest that is kept.
    Nothing,
    /// The agent stopped in order and was started again.
    Stop,
    /// The host was started again.
    Boot,
    /// The segment before was full, or the agent was started again after it was killed: then a gap follows.
    Segment,
}

/// Something that was touched.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Changed {
    /// What.
    pub what: Touched,
    /// Where it is now, if that could be found: relative to the volume's root, `.` for the root itself.
    pub path: Option<String>,
    /// Of a name in a directory: the name.
    pub name: Option<String>,
    /// The directory, or the inode, as the kernel calls it.
    pub handle: Option<String>,
    /// Its inode number, where the handle tells.
    pub inode: Option<u64>,
    /// The generation that took it in; nothing while it waits.
    pub generation: Option<Generation>,
}

/// Kinds of what was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Touched {
    /// A name in a directory.
    Name,
    /// A directory itself.
    Directory,
    /// An inode, by whatever name.
    Inode,
    /// A directory and all below.
    Tree,
    /// The whole volume.
    Volume,
}

/// A file that is open for writing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Opened {
    /// Where it is now, if that could be found.
    pub path: Option<String>,
    /// Its name.
    pub name: String,
    /// Its directory, as the kernel calls it.
    pub handle: String,
}

/// Finds where things are now.
pub trait Places {
    /// Path of an inode relative to the volume's root, empty for the root; nothing if it is gone, outside, or not to be
    /// found here.
    fn find(&mut self, handle: &Handle) -> Option<Vec<u8>>;
}

/// Nothing can be found.
pub struct Nowhere;

impl Places for Nowhere {
    fn find(&mut self, _: &Handle) -> Option<Vec<u8>> {
        None
    }
}

/// A record in words. A batch of hints is one for each; `taken_in` says which generation took a note in.
pub fn tell(
    record: &JournalRecord,
    places: &mut impl Places,
    taken_in: impl Fn(Seq) -> Option<Generation>,
) -> Vec<Told> {
    let told = |seq: Seq, event: Event| Told { seq: Some(seq), at: Some(when(record.at)), event };
    let mut changed = |seq: Seq, hint: &Hint| told(seq, changed(hint, places, taken_in(seq)));
    let event = match &record.note {
        Note::Hint(hint) => return vec![changed(record.seq, hint)],
        Note::Hints(hints) => {
            let numbers = (record.seq.0..).map(Seq);
            return numbers.zip(hints).map(|(seq, hint)| changed(seq, hint)).collect();
        }
        Note::Gap(cause) => Event::Gap { cause: *cause, generation: taken_in(record.seq) },
        Note::Writing { files, listed } => {
            let opened = |file: &proto::journal::OpenFile| Opened {
                path: places.find(&file.dir.0).map(|dir| shown(&dir, Some(&file.name))),
                name: Escaped(&file.name).to_string(),
                handle: file.dir.0.to_string(),
            };
            Event::Writing { files: files.iter().map(opened).collect(), listed: *listed }
        }
        Note::Cut { upto, cut } => Event::Cut { upto: *upto, cut: *cut },
        Note::Sealed { upto, generation } => Event::Sealed { upto: *upto, generation: *generation },
        Note::Published { upto, generation } => Event::Published { upto: *upto, generation: *generation },
        Note::Quarantined { path, errno, reason } => Event::Quarantined {
            path: path.to_string(),
            errno: *errno,
            reason: Escaped(reason.as_bytes()).to_string(),
        },
        Note::Barrier { token } => Event::Barrier { token: format!("{token:016x}") },
        Note::Paused => Event::Paused,
        Note::Resumed => Event::Resumed,
        Note::CleanStop => Event::Stopped,
    };
    vec![told(record.seq, event)]
}

/// The beginning of a segment in words.
pub fn tell_begin(header: &SegmentHeader, after: After) -> Told {
    let boot = format!("{:?}", header.boot);
    Told { seq: Some(header.first), at: Some(when(header.begun)), event: Event::Begin { boot, after } }
}

fn changed(hint: &Hint, places: &mut impl Places, generation: Option<Generation>) -> Event {
    let of = |what, handle: &Handle, name: Option<&[u8]>, at: Option<Vec<u8>>| Changed {
        what,
        path: at.map(|at| shown(&at, name)),
        name: name.map(|name| Escaped(name).to_string()),
        handle: Some(handle.to_string()),
        inode: sys_handle(handle).ino(),
        generation,
    };
    Event::Changed(match hint {
        Hint::Name { dir: DirHandle(dir), name } if name == b"." => {
            of(Touched::Directory, dir, None, places.find(dir))
        }
        Hint::Name { dir: DirHandle(dir), name } => {
            // The number would be the directory's.
            Changed { inode: None, ..of(Touched::Name, dir, Some(name), places.find(dir)) }
        }
        Hint::Object { handle } => of(Touched::Inode, handle, None, places.find(handle)),
        Hint::Tree { dir: DirHandle(dir) } => of(Touched::Tree, dir, None, places.find(dir)),
        Hint::Whole => {
            Changed { what: Touched::Volume, path: None, name: None, handle: None, inode: None, generation }
        }
    })
}

/// A handle of the format as one of the kernel's.
pub fn sys_handle(handle: &Handle) -> sys::Handle {
    sys::Handle { fsid: handle.fsid, kind: handle.kind, bytes: handle.bytes.clone().into() }
}

/// Path of `name` in the directory at `dir`, or of that itself.
fn shown(dir: &[u8], name: Option<&[u8]>) -> String {
    match name {
        Some(name) if dir.is_empty() => Escaped(name).to_string(),
        Some(name) => Escaped(&[dir, b"/", name].concat()).to_string(),
        None if dir.is_empty() => ".".to_owned(),
        None => Escaped(dir).to_string(),
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at} ")?;
        }
        if let Some(seq) = self.seq {
            write!(f, "#{seq} ")?;
        }
        write!(f, "{}", self.event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { boot, after } => match after {
                After::Nothing => write!(f, "begin: the oldest segment that is kept (boot {boot})"),
                After::Stop => write!(f, "begin: the agent was started, after a stop in order (boot {boot})"),
                After::Boot => write!(f, "begin: the agent was started, under another boot ({boot})"),
                After::Segment => f.write_str("begin: a new segment"),
            },
            Self::Changed(changed) => write!(f, "{changed}"),
            Self::Gap { cause, generation } => {
                write!(f, "gap: {}; all of the volume is looked at{}", because(*cause), In(*generation))
            }
            Self::Writing { files, listed } => {
                let more = if *listed == Listed::TooMany { ", and more than fit" } else { "" };
                let colon = if files.is_empty() { "" } else { ": " };
                let shown: Vec<String> = files.iter().map(ToString::to_string).collect();
                write!(f, "{} open for writing{colon}{}{more}", count(files.len(), "file"), shown.join(", "))
            }
            Self::Cut { upto, cut } => write!(f, "{cut} cut of all up to #{upto}"),
            Self::Sealed { upto, generation } => {
                write!(f, "generation {generation} sealed, with all up to #{upto}")
            }
            Self::Published { upto, generation } => {
                write!(f, "cursor: all up to #{upto} is in generation {generation}")
            }
            Self::Quarantined { path, errno, reason } => {
                write!(f, "quarantined \"{path}\": {reason}")?;
                if *errno != 0 {
                    write!(f, " ({})", Errno::from_raw_os_error(*errno))?;
                }
                Ok(())
            }
            Self::Barrier { token } => write!(f, "barrier {token}: a cycle takes all before it"),
            Self::Paused => f.write_str("paused"),
            Self::Resumed => f.write_str("resumed"),
            Self::Stopped => f.write_str("stop: the agent stopped in order"),
            Self::Missed { to } => {
                write!(f, "not here any more: dropped up to #{to}, before they were read")
            }
            Self::Damaged { segment, offset } => write!(
                f,
                "DAMAGED: {segment} at byte {offset}; nothing behind that can be believed. The next start of the agent \
                 sets it aside, with a gap"
            ),
            Self::Newer { segment, offset } => write!(
                f,
                "NEWER: {segment} at byte {offset} is of a format that this program does not know; ask the \
                 tidegate that wrote it"
            ),
            Self::Anew => f.write_str("the journal was removed and begins anew"),
            Self::End { cursor, generation, waiting, gaps } => {
                match (cursor, generation) {
                    (Some(cursor), Some(generation)) => {
                        write!(f, "end: all up to #{cursor} is in generation {generation}")?;
                    }
                    _ => f.write_str("end: no cursor yet")?,
                }
                let waiting = match waiting {
                    0 => "nothing waits".to_owned(),
                    1 => "1 note waits".to_owned(),
                    more => format!("{more} notes wait"),
                };
                let gap = if *gaps > 0 { ", and a gap is open" } else { "" };
                write!(f, ", {waiting}{gap}")
            }
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handle = self.handle.as_deref().unwrap_or_default();
        f.write_str("changed: ")?;
        match (self.what, &self.path, &self.name) {
            (Touched::Name, Some(path), _) => write!(f, "\"{path}\"")?,
            (Touched::Name, None, name) => {
                write!(f, "\"{}\" in {handle}", name.as_deref().unwrap_or_default())?;
            }
            (Touched::Directory, Some(path), _) => write!(f, "the directory \"{path}\" itself")?,
            (Touched::Directory, None, _) => write!(f, "the directory {handle} itself")?,
            (Touched::Tree, Some(path), _) => write!(f, "all below \"{path}\"")?,
            (Touched::Tree, None, _) => write!(f, "all below {handle}")?,
            (Touched::Volume, ..) => f.write_str("the whole volume")?,
            (Touched::Inode, path, _) => {
                match self.inode {
                    Some(inode) => write!(f, "inode {inode}")?,
                    None => write!(f, "inode {handle}")?,
                }
                if let Some(path) = path {
                    write!(f, ", \"{path}\"")?;
                }
            }
        }
        write!(f, "{}", In(self.generation))
    }
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "\"{path}\""),
            None => write!(f, "\"{}\" in {}", self.name, self.handle),
        }
    }
}

/// Which generation took something in.
struct In(Option<Generation>);

impl fmt::Display for In {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(generation) => write!(f, " -> generation {generation}"),
            None => f.write_str(" -> waits"),
        }
    }
}

fn because(cause: GapCause) -> &'static str {
    match cause {
        GapCause::QueueOverflow => "the kernel's queue was full",
        GapCause::AgentDown => "the agent was not running",
        GapCause::UncleanStop => "the host stopped without warning",
        GapCause::DamagedJournal => "the journal was damaged or missing",
        GapCause::LostDescriptor => "the agent was started again and the kernel's queue was lost meanwhile",
        GapCause::UnknownRecord => "a record was not understood",
        GapCause::NoCapture => "changes cannot be captured on this file system",
        GapCause::JournalFull => "the journal reached its greatest size and was dropped",
        GapCause::JournalFailed => "the journal could not be written",
    }
}

fn count(n: usize, word: &str) -> String {
    match n {
        0 => format!("no {word}"),
        1 => format!("1 {word}"),
        more => format!("{more} {word}s"),
    }
}

fn when(at: Time) -> String {
    match jiff::Timestamp::new(at.sec, at.nsec.try_into().unwrap_or(0)) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{}.{:09} s", at.sec, at.nsec),
    }
}

#[cfg(test)]
mod tests {
    use proto::RelPath;
    use proto::journal::OpenFile;

    use super::*;

    /// Every directory is `a/b`.
    struct There;

    impl Places for There {
        fn find(&mut self, _: &Handle) -> Option<Vec<u8>> {
            Some(b"a/b".to_vec())
        }
    }

    fn record(note: Note) -> JournalRecord {
        JournalRecord { seq: Seq(9), at: Time { sec: 1_795_000_000, nsec: 5_000_000 }, note }
    }

    #[test]
    fn one_line_each_and_no_name_steers_a_terminal() {
        let dir = || DirHandle(Handle { fsid: [0xab; 8], kind: 1, bytes: vec![1, 2, 0, 0, 7, 0, 0, 0] });
        let nasty = b"a\x1b[2J\nb".to_vec();
        let path = RelPath::new(&nasty).unwrap();
        let file = || OpenFile { dir: dir(), name: nasty.clone() };
        let name = |name: &[u8]| Hint::Name { dir: dir(), name: name.to_vec() };
        let shown = "a\\u{1b}[2J\\nb";
        let handle = "abababababababab:1:0102000007000000";
        let in_7 = |seq: Seq| (seq <= Seq(10)).then_some(Generation(7));
        for (note, nowhere, there) in [
            (
                Note::Hint(name(&nasty)),
                format!("#9 changed: \"{shown}\" in {handle} -> generation 7"),
                format!("#9 changed: \"a/b/{shown}\" -> generation 7"),
            ),
            (
                Note::Hints(vec![
                    Hint::Whole,
                    name(b"."),
                    Hint::Tree { dir: dir() },
                    Hint::Object { handle: dir().0 },
                ]),
                format!(
                    "#9 changed: the whole volume -> generation 7\n#10 changed: the directory {handle} itself -> generation 7\n\
                     #11 changed: all below {handle} -> waits\n#12 changed: inode 513 -> waits"
                ),
                "#9 changed: the whole volume -> generation 7\n#10 changed: the directory \"a/b\" itself -> generation 7\n\
                 #11 changed: all below \"a/b\" -> waits\n#12 changed: inode 513, \"a/b\" -> waits"
                    .to_owned(),
            ),
            (
                Note::Gap(GapCause::UncleanStop),
                "#9 gap: the host stopped without warning; all of the volume is looked at -> generation 7".to_owned(),
                "#9 gap: the host stopped without warning; all of the volume is looked at -> generation 7".to_owned(),
            ),
            (
                Note::Writing { files: vec![file()], listed: Listed::TooMany },
                format!("#9 1 file open for writing: \"{shown}\" in {handle}, and more than fit"),
                format!("#9 1 file open for writing: \"a/b/{shown}\", and more than fit"),
            ),
            (
                Note::Published { upto: Seq(4), generation: Generation(7) },
                "#9 cursor: all up to #4 is in generation 7".to_owned(),
                "#9 cursor: all up to #4 is in generation 7".to_owned(),
            ),
            (
                Note::Quarantined { path, errno: 13, reason: "open\nit".to_owned() },
                format!("#9 quarantined \"{shown}\": open\\nit (Permission denied (os error 13))"),
                format!("#9 quarantined \"{shown}\": open\\nit (Permission denied (os error 13))"),
            ),
        ] {
            let lines = |told: Vec<Told>| {
                let lines: Vec<String> = told.iter().map(ToString::to_string).collect();
                lines.join("\n").replace("2026-11-18T11:06:40.005Z ", "")
            };
            assert_eq!(lines(tell(&record(note.clone()), &mut Nowhere, in_7)), nowhere);
            assert_eq!(lines(tell(&record(note), &mut There, in_7)), there);
        }
    }

    #[test]
    fn the_documents_are_these() {
        let dir = DirHandle(Handle { fsid: [0xab; 8], kind: 1, bytes: vec![1, 2, 0, 0, 7, 0, 0, 0] });
        let hint = Note::Hint(Hint::Name { dir, name: b"x".to_vec() });
        let document = |note| serde_json::to_string(&tell(&record(note), &mut There, |_| None)[0]).unwrap();
        assert_eq!(
            document(hint),
            r#"{"seq":9,"at":"2026-11-18T11:06:40.005Z","event":"changed","what":"name","path":"a/b/x","name":"x","handle":"abababababababab:1:0102000007000000","inode":null,"generation":null}"#
        );
        assert_eq!(
            document(Note::Gap(GapCause::JournalFull)),
            r#"{"seq":9,"at":"2026-11-18T11:06:40.005Z","event":"gap","cause":"journal-full","generation":null}"#
        );
        assert_eq!(
            document(Note::CleanStop),
            r#"{"seq":9,"at":"2026-11-18T11:06:40.005Z","event":"stopped"}"#
        );
        let end = Event::End { cursor: None, generation: None, waiting: 1, gaps: 2 };
        assert_eq!(end.to_string(), "end: no cursor yet, 1 note waits, and a gap is open");
    }
}
