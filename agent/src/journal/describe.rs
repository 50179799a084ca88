//! A record in words, one line each.

use proto::journal::{GapCause, Hint, Listed};
use proto::path::Escaped;
use proto::{JournalRecord, Note, Time};
use sys::Errno;

/// The record in words, names escaped. For people: nothing should parse it.
pub fn describe(record: &JournalRecord) -> String {
    format!("{} #{} {}", when(record.at), record.seq, note(&record.note))
}

fn note(note: &Note) -> String {
    match note {
        Note::Hint(hint) => format!("look again at {}", place(hint)),
        Note::Hints(hints) => {
            let shown: Vec<String> = hints.iter().map(place).collect();
            format!("look again at {} places: {}", hints.len(), shown.join(", "))
        }
        Note::Gap(cause) => format!("gap: {}", because(*cause)),
        Note::Writing { files, listed } => {
            let more = if *listed == Listed::TooMany { ", and more than fit" } else { "" };
            let shown: Vec<String> =
                files.iter().map(|file| format!("\"{}\" in {}", Escaped(&file.name), file.dir.0)).collect();
            let colon = if shown.is_empty() { "" } else { ": " };
            format!("{} open for writing{colon}{}{more}", files_word(files.len()), shown.join(", "))
        }
        Note::Cut { upto, cut } => format!("{cut} cut of all up to #{upto}"),
        Note::Sealed { upto, generation } => {
            format!("generation {generation} sealed, with all up to #{upto}")
        }
        Note::Published { upto, generation } => {
            format!("generation {generation} published, all up to #{upto} is done with")
        }
        Note::Quarantined { path, errno, reason } => {
            let reason = Escaped(reason.as_bytes());
            if *errno == 0 {
                format!("quarantined \"{path}\": {reason}")
            } else {
                format!("quarantined \"{path}\": {reason} ({})", Errno::from_raw_os_error(*errno))
            }
        }
        Note::Barrier { token } => format!("barrier {token:016x}"),
        Note::Paused => "paused".to_owned(),
        Note::Resumed => "resumed".to_owned(),
        Note::CleanStop => "stopped in order".to_owned(),
    }
}

fn place(hint: &Hint) -> String {
    match hint {
        Hint::Name { dir, name } => format!("\"{}\" in {}", Escaped(name), dir.0),
        Hint::Object { handle } => format!("inode {handle}"),
        Hint::Tree { dir } => format!("all below {}", dir.0),
        Hint::Whole => "the whole volume".to_owned(),
    }
}

fn because(cause: GapCause) -> &'static str {
    match cause {
        GapCause::QueueOverflow => "the kernel's queue was full",
        GapCause::AgentDown => "the agent was not running",
        GapCause::UncleanStop => "the host stopped without warning",
        GapCause::DamagedJournal => "the journal was damaged or missing",
        GapCause::LostDescriptor => "the descriptor of the kernel's queue was lost",
        GapCause::UnknownRecord => "a record was not understood",
        GapCause::NoCapture => "changes cannot be captured on this file system",
        GapCause::JournalFull => "the journal reached its greatest size and was dropped",
        GapCause::JournalFailed => "the journal could not be written",
    }
}

fn files_word(count: usize) -> String {
    match count {
        0 => "no file".to_owned(),
        1 => "1 file".to_owned(),
        more => format!("{more} files"),
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
    use proto::journal::{DirHandle, Handle, OpenFile, Seq};
    use proto::{Cut, Generation, RelPath};

    use super::*;

    #[test]
    fn one_line_each_and_no_name_steers_a_terminal() {
        let dir = || DirHandle(Handle { fsid: [0xab; 8], kind: 1, bytes: vec![1, 2] });
        let nasty = b"a\x1b[2J\nb".to_vec();
        let path = RelPath::new(&nasty).unwrap();
        let file = || OpenFile { dir: dir(), name: nasty.clone() };
        let name = || Hint::Name { dir: dir(), name: nasty.clone() };
        let shown = "\"a\\u{1b}[2J\\nb\"";
        for (note, expected) in [
            (Note::Hint(name()), format!("look again at {shown} in abababababababab:1:0102")),
            (
                Note::Hints(vec![Hint::Whole, Hint::Tree { dir: dir() }, Hint::Object { handle: dir().0 }]),
                "look again at 3 places: the whole volume, all below abababababababab:1:0102, \
                 inode abababababababab:1:0102"
                    .to_owned(),
            ),
            (Note::Gap(GapCause::UncleanStop), "gap: the host stopped without warning".to_owned()),
            (
                Note::Writing { files: vec![file()], listed: Listed::TooMany },
                format!("1 file open for writing: {shown} in abababababababab:1:0102, and more than fit"),
            ),
            (Note::Writing { files: vec![], listed: Listed::All }, "no file open for writing".to_owned()),
            (Note::Cut { upto: Seq(4), cut: Cut::Exact }, "exact cut of all up to #4".to_owned()),
            (
                Note::Published { upto: Seq(4), generation: Generation(7) },
                "generation 7 published, all up to #4 is done with".to_owned(),
            ),
            (
                Note::Quarantined { path, errno: 13, reason: "open\nit".to_owned() },
                format!("quarantined {shown}: open\\nit (Permission denied (os error 13))"),
            ),
            (Note::Barrier { token: 255 }, "barrier 00000000000000ff".to_owned()),
            (Note::CleanStop, "stopped in order".to_owned()),
        ] {
            let record =
                JournalRecord { seq: Seq(9), at: Time { sec: 1_795_000_000, nsec: 5_000_000 }, note };
            assert_eq!(describe(&record), format!("2026-11-18T11:06:40.005Z #9 {expected}"));
        }
    }
}
