//! A table as it was typed: every key that is not known in its place is a problem.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{HOOKS, Key, Row, Section, rows};
use super::kinds::{At, Kind, a_value};
use super::problem::{Problem, Problems};
use super::source::Span;
use super::suggest::closest;

/// The tables at the top.
const TOP: [&str; 3] = ["agent", "defaults", "lane"];

/// A table of which all keys are known.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    /// Its header, or the whole of an inline table.
    pub span: Span,
    entries: BTreeMap<&'a str, &'a Spanned<DeValue<'a>>>,
}

/// What a table is: it decides which keys are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The whole file.
    Top,
    /// `[agent]`.
    Agent,
    /// `[defaults]`.
    Defaults,
    /// A `[[lane]]`.
    Lane,
    /// `hooks`.
    Hooks,
}

impl<'a> Table<'a> {
    /// Takes a table, telling of every key that is not known in it.
    pub fn new(shape: Shape, span: Span, table: &'a DeTable<'a>, problems: &mut Problems) -> Self {
        let rows = rows();
        let known: Vec<&str> = match shape {
            Shape::Top => TOP.to_vec(),
            _ => {
                rows.iter().filter(|row| shape.takes(row)).map(|row| row.name).chain(shape.hooks()).collect()
            }
        };
        let mut entries = BTreeMap::new();
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                entries.insert(name, value);
            } else {
                problems.push(unknown(shape, key, &known, &rows));
            }
        }
        Self { span, entries }
    }

    /// A table without keys.
    pub fn empty(span: Span) -> Self {
        Self { span, entries: BTreeMap::new() }
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entries.get(name).copied()
    }

    /// The table that a key has for its value.
    pub fn table(&self, name: &str, shape: Shape, problems: &mut Problems) -> Option<Table<'a>> {
        let typed = self.get(name)?;
        match typed.get_ref() {
            DeValue::Table(table) => Some(Table::new(shape, typed.span().into(), table, problems)),
            other => {
                let message = format!("`{name}` is {}, but must be a table", a_value(other));
                problems.push(Problem::error(typed.span(), message).help(shape.written()));
                None
            }
        }
    }
}

/// Reads a key from the first of `tables` that has it.
pub fn read<K: Kind>(tables: &[&Table<'_>], key: &Key<K>, problems: &mut Problems) -> At<K::Value> {
    let Some(typed) = tables.iter().find_map(|table| table.get(key.name)) else {
        return At { value: key.kind.unset(), span: None };
    };
    let value = key.kind.read(key.name, typed, problems).unwrap_or_else(|| key.kind.unset());
    At { value, span: Some(typed.span().into()) }
}

impl Shape {
    fn takes(self, row: &Row) -> bool {
        match row.section {
            Section::Agent => self == Self::Agent,
            Section::Lane => self == Self::Lane,
            Section::Setting => self == Self::Lane || self == Self::Defaults,
            Section::Hooks => self == Self::Hooks,
        }
    }

    fn hooks(self) -> Option<&'static str> {
        (self == Self::Lane || self == Self::Defaults).then_some(HOOKS)
    }

    fn place(self) -> &'static str {
        match self {
            Self::Top => "above all tables",
            Self::Agent => "in [agent]",
            Self::Defaults => "in [defaults]",
            Self::Lane => "in a [[lane]]",
            Self::Hooks => "in hooks",
        }
    }

    fn written(self) -> &'static str {
        match self {
            Self::Top | Self::Agent => "it is written as a line [agent], with its keys below",
            Self::Defaults => "it is written as a line [defaults], with its keys below",
            Self::Lane => "a lane is written as a line [[lane]], with its keys below",
            Self::Hooks => {
                "it is written hooks = { pre = \"/PROGRAM\", post = \"/PROGRAM\", timeout = \"30s\" }"
            }
        }
    }
}

/// Says of an unknown key what was meant by it, as well as can be told.
fn unknown(shape: Shape, key: &Spanned<std::borrow::Cow<'_, str>>, known: &[&str], rows: &[Row]) -> Problem {
    let name: &str = key.get_ref();
    let shown: String = name.chars().take(80).collect();
    let problem = Problem::error(key.span(), format!("unknown key `{shown}` {}", shape.place()));
    if let Some(row) = rows.iter().find(|row| row.replaces == Some(name)) {
        return problem.help(format!("its place has `{}`: {}", row.name, row.meaning));
    }
    let elsewhere = rows.iter().find(|row| row.name == name).map(|row| match row.section {
        Section::Agent => "[agent]",
        Section::Lane => "a [[lane]]",
        Section::Setting => "[defaults] or a [[lane]]",
        Section::Hooks => "hooks = { … }",
    });
    match (elsewhere, closest(name, known.iter().copied())) {
        (Some(place), _) => problem.help(format!("`{name}` belongs into {place}")),
        (None, Some(word)) => problem.help(format!("did you mean `{word}`?")),
        (None, None) => problem.help(format!("known here: {}", known.join(", "))),
    }
}
