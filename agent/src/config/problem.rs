//! What is wrong with a configuration, with the places to look at.

use std::collections::HashSet;
use std::fmt;

use super::render;
use super::source::{Place, Source, Span};

/// Whether a file with such a problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but is hardly meant.
    Warning,
}

/// Another place that has to do with a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// Where.
    pub span: Span,
    /// What is there.
    pub message: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Where; inside the text.
    pub span: Span,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The way out, where the message does not say it.
    pub help: Option<String>,
    /// Other places.
    pub related: Vec<Related>,
}

impl Problem {
    /// Something that must be put right.
    pub fn error(span: impl Into<Span>, message: impl Into<String>) -> Self {
        let (span, message) = (span.into(), message.into());
        Self { severity: Severity::Error, span, message, help: None, related: Vec::new() }
    }

    /// Something to look at.
    pub fn warning(span: impl Into<Span>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// With the way out.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// With another place.
    #[must_use]
    pub fn related(mut self, span: impl Into<Span>, message: impl Into<String>) -> Self {
        self.related.push(Related { span: span.into(), message: message.into() });
        self
    }
}

/// Collects problems. What is wrong in `[defaults]` is seen once per lane and told once.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    told: HashSet<(Span, String)>,
}

impl Problems {
    /// Adds one, unless it was told.
    pub fn push(&mut self, problem: Problem) {
        if self.told.insert((problem.span, problem.message.clone())) {
            self.list.push(problem);
        }
    }

    /// All of them in the order of the text.
    pub fn report(mut self, source: Source) -> Report {
        for problem in &mut self.list {
            problem.span = source.clamp(problem.span);
            problem.related.iter_mut().for_each(|related| related.span = source.clamp(related.span));
        }
        self.list.sort_by_key(|problem| (problem.span, problem.severity));
        Report { source, problems: self.list }
    }
}

/// A text and all that is wrong with it; prints like a compiler's.
#[derive(Clone, Debug)]
pub struct Report {
    /// The text.
    pub source: Source,
    /// The problems in the order of the text.
    pub problems: Vec<Problem>,
}

impl Report {
    /// True when there is an error: the file cannot be used.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many errors.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// The problems as scripts read them.
    pub fn json(&self) -> Vec<ProblemJson<'_>> {
        let text = |line: usize| String::from_utf8_lossy(self.source.line(line).1).into_owned();
        let related = |related: &'_ Related| {
            let Place { line, column } = self.source.place(related.span.start);
            RelatedJson { line, column, source: text(line), message: related.message.clone() }
        };
        let problem = |problem: &'_ Problem| {
            let Place { line, column } = self.source.place(problem.span.start);
            let related = problem.related.iter().map(related).collect();
            (line, column, related)
        };
        self.problems
            .iter()
            .map(|this| {
                let (line, column, related) = problem(this);
                ProblemJson {
                    severity: this.severity,
                    message: &this.message,
                    file: self.source.name(),
                    line,
                    column,
                    start: this.span.start,
                    end: this.span.end,
                    source: text(line),
                    help: this.help.as_deref(),
                    related,
                }
            })
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            render::problem(&self.source, problem, f)?;
            writeln!(f)?;
        }
        let errors = self.errors();
        let warnings = self.problems.len() - errors;
        let say = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        write!(f, "{}: {}, {}", self.source.name(), say(errors, "error"), say(warnings, "warning"))
    }
}

/// A [`Problem`] in JSON.
#[derive(Debug, serde::Serialize)]
pub struct ProblemJson<'a> {
    severity: Severity,
    message: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    /// Bytes of the text: first, and behind the last.
    start: usize,
    end: usize,
    /// The line.
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    related: Vec<RelatedJson>,
}

#[derive(Debug, serde::Serialize)]
struct RelatedJson {
    line: usize,
    column: usize,
    source: String,
    message: String,
}
