//! Shows a problem as a compiler does: the message, the place, the line, and a mark below it.

use std::fmt::{self, Write};

use super::problem::{Problem, Severity};
use super::source::{Source, Span};

/// Characters of a line that are shown; of a longer one those around the mark.
const SHOWN_MAX: usize = 120;
/// Of these, how many before the mark.
const BEFORE_MAX: usize = 60;

/// Prints one problem over several lines, each ended.
pub fn problem(source: &Source, problem: &Problem, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = source.place(problem.span.start);
    let last = problem.related.iter().map(|related| source.place(related.span.start).line).max();
    let width = last.unwrap_or(0).max(place.line).to_string().len();
    let blank = " ".repeat(width);
    writeln!(f, "{severity}: {}", plain(&problem.message))?;
    writeln!(f, "{blank}--> {}:{}:{}", source.name(), place.line, place.column)?;
    writeln!(f, "{blank} |")?;
    excerpt(source, problem.span, '^', "", width, f)?;
    for related in &problem.related {
        let at = source.place(related.span.start);
        writeln!(f, "{blank}::: {}:{}:{}", source.name(), at.line, at.column)?;
        excerpt(source, related.span, '-', &related.message, width, f)?;
    }
    if let Some(help) = &problem.help {
        writeln!(f, "{blank} = help: {}", plain(help))?;
    }
    Ok(())
}

/// The line of a span, and its mark.
fn excerpt(
    source: &Source,
    span: Span,
    mark: char,
    label: &str,
    width: usize,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let number = source.place(span.start).line;
    let (start, line) = source.line(number);
    let at = (span.start - start).min(line.len());
    let to = (span.end.max(span.start) - start).clamp(at, line.len());
    let before = plain(&String::from_utf8_lossy(&line[..at]));
    let marked = plain(&String::from_utf8_lossy(&line[at..to]));
    let behind = plain(&String::from_utf8_lossy(&line[to..]));

    let cut = before.chars().count().saturating_sub(BEFORE_MAX);
    let mut shown: String = before.chars().skip(cut).collect();
    if cut > 0 {
        shown.insert(0, '…');
    }
    let indent = shown.chars().count();
    let room = SHOWN_MAX.saturating_sub(indent);
    let rest: String = marked.chars().chain(behind.chars()).take(room).collect();
    let more = if marked.chars().count() + behind.chars().count() > room { "…" } else { "" };
    writeln!(f, "{number:>width$} | {shown}{rest}{more}")?;
    let marks = mark.to_string().repeat(marked.chars().count().clamp(1, room.max(1)));
    let label = if label.is_empty() { String::new() } else { format!(" {}", plain(label)) };
    writeln!(f, "{} | {}{marks}{label}", " ".repeat(width), " ".repeat(indent))
}

/// The text on one line, with nothing in it that could steer a terminal, as many characters as it shows.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push_str("    "),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::problem::Problems;
    use super::*;

    fn shown(text: &str, problem: Problem) -> String {
        let mut problems = Problems::default();
        problems.push(problem);
        problems.report(Source::new("t.toml", text)).to_string()
    }

    #[test]
    fn a_problem_is_shown_with_its_line_and_a_mark() {
        let text = "a = 1\n\tquiet = \"5x\"\n";
        let problem = Problem::error(15..19, "no such unit").help("units are ms").related(0..1, "first here");
        assert_eq!(
            shown(text, problem),
            "error: no such unit\n\
             \x20--> t.toml:2:10\n\
             \x20 |\n\
             2 |     quiet = \"5x\"\n\
             \x20 |             ^^^^\n\
             \x20::: t.toml:1:1\n\
             1 | a = 1\n\
             \x20 | - first here\n\
             \x20 = help: units are ms\n\
             \n\
             t.toml: 1 error, 0 warnings"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_mark_and_terminals_are_not_steered() {
        let text = format!("{}\x1b[2J{}", "a".repeat(500), "b".repeat(500));
        let shown = shown(&text, Problem::error(500..504, "x\x1b"));
        assert!(shown.contains("…aaa") && shown.contains("bbb…"), "{shown}");
        assert!(!shown.contains('\x1b') && shown.lines().all(|line| line.chars().count() < 140), "{shown}");
    }
}
