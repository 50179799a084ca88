//! The kinds of values a key may have: how each is read, what range it has, what it is when it is not set.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::{Problem, Problems};
use super::source::Span;
use super::units::{Bytes, BytesPerSecond, parse_bytes, parse_duration, parse_rate, say_duration};

/// A kind of value.
pub trait Kind {
    /// What is read.
    type Value;

    /// The value of a key that is not set.
    fn unset(&self) -> Self::Value;

    /// Reads what was typed for `key`; nothing when it is wrong, which is then among the problems.
    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<Self::Value>;

    /// [`Kind::unset`] as it would be typed; in words where it cannot be typed.
    fn default_text(&self) -> String;

    /// What may be typed.
    fn range_text(&self) -> String;
}

/// A value and where it was typed; nowhere for a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub span: Option<Span>,
}

/// A length of time.
pub struct TimeKind {
    /// Default.
    pub default: Duration,
    /// Shortest.
    pub min: Duration,
    /// Longest.
    pub max: Duration,
}

/// An interval that may also be `never`.
pub struct EveryKind(pub TimeKind);

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Never of its own accord.
    Never,
    /// At this interval.
    Interval(Duration),
}

/// A number.
pub struct CountKind {
    /// Default.
    pub default: u64,
    /// Smallest.
    pub min: u64,
    /// Largest.
    pub max: u64,
}

/// A number, or `none`, which is the default.
pub struct LimitKind {
    /// Smallest.
    pub min: u64,
    /// Largest.
    pub max: u64,
}

/// Bytes per second, or `none`, which is the default.
pub struct RateKind {
    /// Slowest.
    pub min: BytesPerSecond,
    /// Fastest.
    pub max: BytesPerSecond,
}

/// An amount of bytes.
pub struct SizeKind {
    /// Default.
    pub default: Bytes,
    /// Smallest.
    pub min: Bytes,
    /// Largest.
    pub max: Bytes,
}

/// Yes or no.
pub struct FlagKind {
    /// Default.
    pub default: bool,
}

/// One word of a few; the first one is the default.
pub struct WordKind<T: 'static>(pub &'static [(&'static str, T)]);

/// Texts, each with its place; none by default.
pub struct ListKind {
    /// What each of them may be.
    pub range: &'static str,
    /// Most of them.
    pub max: usize,
}

/// A text that is looked at later.
pub struct TextKind {
    /// What it is when it is not set.
    pub default: &'static str,
    /// What it may be.
    pub range: &'static str,
}

/// A text that is checked by a function.
pub struct CheckedKind {
    /// What it is when it is not set.
    pub default: &'static str,
    /// What it may be.
    pub range: &'static str,
    /// Whether it is that.
    pub check: fn(&str) -> bool,
}

/// An absolute path; unset by default.
pub struct PathKind;

impl Kind for TimeKind {
    type Value = Duration;

    fn unset(&self) -> Duration {
        self.default
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<Duration> {
        let text = text(key, typed, "a number and a unit in quotes, as \"300ms\"", problems)?;
        let read = parsed(key, typed, parse_duration(text), problems)?;
        within(key, typed, Ranged { value: read, min: self.min, max: self.max }, say_duration, problems)
    }

    fn default_text(&self) -> String {
        quoted(say_duration(self.default))
    }

    fn range_text(&self) -> String {
        format!("{} to {}", say_duration(self.min), say_duration(self.max))
    }
}

impl Kind for EveryKind {
    type Value = Every;

    fn unset(&self) -> Every {
        Every::Interval(self.0.default)
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<Every> {
        let zero = match typed.get_ref() {
            DeValue::Integer(number) => number.as_str() == "0",
            DeValue::String(text) => &**text == "never" || parse_duration(text) == Ok(Duration::ZERO),
            _ => false,
        };
        if zero {
            return Some(Every::Never);
        }
        self.0.read(key, typed, problems).map(Every::Interval)
    }

    fn default_text(&self) -> String {
        self.0.default_text()
    }

    fn range_text(&self) -> String {
        format!("{}; 0 or never", self.0.range_text())
    }
}

impl Kind for CountKind {
    type Value = u64;

    fn unset(&self) -> u64 {
        self.default
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<u64> {
        let DeValue::Integer(number) = typed.get_ref() else {
            problems.push(mistyped(key, typed, "a whole number"));
            return None;
        };
        let Ok(read) = i128::from_str_radix(number.as_str(), number.radix()) else {
            problems.push(Problem::error(typed.span(), format!("`{key}` is more than can be counted")));
            return None;
        };
        let range = Ranged { value: read, min: self.min.into(), max: self.max.into() };
        within(key, typed, range, |n| n.to_string(), problems).and_then(|n| n.try_into().ok())
    }

    fn default_text(&self) -> String {
        self.default.to_string()
    }

    fn range_text(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

impl Kind for LimitKind {
    type Value = Option<u64>;

    fn unset(&self) -> Option<u64> {
        None
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<Option<u64>> {
        if is_none(typed) {
            return Some(None);
        }
        CountKind { default: 0, min: self.min, max: self.max }.read(key, typed, problems).map(Some)
    }

    fn default_text(&self) -> String {
        quoted("none")
    }

    fn range_text(&self) -> String {
        format!("{} to {}; none", self.min, self.max)
    }
}

impl Kind for RateKind {
    type Value = Option<BytesPerSecond>;

    fn unset(&self) -> Option<BytesPerSecond> {
        None
    }

    fn read(
        &self,
        key: &str,
        typed: &Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Option<Option<BytesPerSecond>> {
        if is_none(typed) {
            return Some(None);
        }
        let text =
            text(key, typed, "an amount in a second in quotes, as \"50MiB/s\", or \"none\"", problems)?;
        let read = parsed(key, typed, parse_rate(text), problems)?;
        let range = Ranged { value: read, min: self.min, max: self.max };
        within(key, typed, range, |rate| rate.to_string(), problems).map(Some)
    }

    fn default_text(&self) -> String {
        quoted("none")
    }

    fn range_text(&self) -> String {
        format!("{} to {}; none", self.min, self.max)
    }
}

impl Kind for SizeKind {
    type Value = Bytes;

    fn unset(&self) -> Bytes {
        self.default
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<Bytes> {
        let text = text(key, typed, "a number and a unit in quotes, as \"50MiB\"", problems)?;
        let read = parsed(key, typed, parse_bytes(text), problems)?;
        let range = Ranged { value: read, min: self.min, max: self.max };
        within(key, typed, range, |size| size.to_string(), problems)
    }

    fn default_text(&self) -> String {
        quoted(self.default)
    }

    fn range_text(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

impl Kind for FlagKind {
    type Value = bool;

    fn unset(&self) -> bool {
        self.default
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<bool> {
        let DeValue::Boolean(flag) = typed.get_ref() else {
            problems.push(mistyped(key, typed, "true or false, without quotes"));
            return None;
        };
        Some(*flag)
    }

    fn default_text(&self) -> String {
        self.default.to_string()
    }

    fn range_text(&self) -> String {
        "true, false".to_owned()
    }
}

impl<T: Copy> Kind for WordKind<T> {
    type Value = T;

    fn unset(&self) -> T {
        self.0[0].1
    }

    fn read(&self, key: &str, typed: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<T> {
        let text = text(key, typed, &format!("one of {} in quotes", self.range_text()), problems)?;
        let found = self.0.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let message = format!("`{key}` is {text:?}; allowed is {}", self.range_text());
            let meant = super::suggest::closest(text, self.0.iter().map(|(word, _)| *word));
            let problem = Problem::error(typed.span(), message);
            problems.push(match meant {
                Some(word) => problem.help(format!("did you mean \"{word}\"?")),
                None => problem,
            });
        }
        found.map(|(_, value)| *value)
    }

    fn default_text(&self) -> String {
        quoted(self.0[0].0)
    }

    fn range_text(&self) -> String {
        self.0.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
    }
}

impl Kind for ListKind {
    type Value = Vec<At<String>>;

    fn unset(&self) -> Vec<At<String>> {
        Vec::new()
    }

    fn read(
        &self,
        key: &str,
        typed: &Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Option<Vec<At<String>>> {
        let DeValue::Array(array) = typed.get_ref() else {
            problems.push(mistyped(key, typed, "a list of texts, as [\"*.tmp\", \"/war/\"]"));
            return None;
        };
        if array.len() > self.max {
            let message = format!("`{key}` has {} entries; allowed are {} to {}", array.len(), 0, self.max);
            problems.push(Problem::error(typed.span(), message));
            return None;
        }
        let item = |item: &Spanned<DeValue<'_>>, problems: &mut Problems| {
            let text = text(&format!("an entry of {key}"), item, "a text in quotes", problems)?;
            Some(At { value: text.to_owned(), span: Some(item.span().into()) })
        };
        Some(array.iter().filter_map(|typed| item(typed, problems)).collect())
    }

    fn default_text(&self) -> String {
        "[]".to_owned()
    }

    fn range_text(&self) -> String {
        format!("up to {} {}", self.max, self.range)
    }
}

impl Kind for TextKind {
    type Value = Option<String>;

    fn unset(&self) -> Option<String> {
        None
    }

    fn read(
        &self,
        key: &str,
        typed: &Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Option<Option<String>> {
        text(key, typed, "a text in quotes", problems).map(|text| Some(text.to_owned()))
    }

    fn default_text(&self) -> String {
        self.default.to_owned()
    }

    fn range_text(&self) -> String {
        self.range.to_owned()
    }
}

impl Kind for CheckedKind {
    type Value = Option<String>;

    fn unset(&self) -> Option<String> {
        None
    }

    fn read(
        &self,
        key: &str,
        typed: &Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Option<Option<String>> {
        let text = text(key, typed, "a text in quotes", problems)?;
        if !(self.check)(text) {
            let message = format!("`{key}` is {text:?}; allowed is {}", self.range);
            problems.push(Problem::error(typed.span(), message));
            return None;
        }
        Some(Some(text.to_owned()))
    }

    fn default_text(&self) -> String {
        self.default.to_owned()
    }

    fn range_text(&self) -> String {
        self.range.to_owned()
    }
}

impl Kind for PathKind {
    type Value = Option<PathBuf>;

    fn unset(&self) -> Option<PathBuf> {
        None
    }

    fn read(
        &self,
        key: &str,
        typed: &Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Option<Option<PathBuf>> {
        let text = text(key, typed, "an absolute path in quotes", problems)?;
        match super::path::absolute(text) {
            Ok(path) => Some(Some(path)),
            Err(why) => {
                problems.push(Problem::error(typed.span(), format!("`{key}` {text:?} {why}")));
                None
            }
        }
    }

    fn default_text(&self) -> String {
        "unset".to_owned()
    }

    fn range_text(&self) -> String {
        "absolute path of a program".to_owned()
    }
}

/// A text parsed by its type, such as a name; the message is the type's.
pub fn name<T: FromStr<Err: Display>>(typed: &At<String>, problems: &mut Problems) -> Option<T> {
    match typed.value.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            problems.push(Problem::error(typed.span.unwrap_or(Span { start: 0, end: 0 }), error.to_string()));
            None
        }
    }
}

/// What [`mistyped`] and others call a value: `an integer`.
pub fn a_value(value: &DeValue<'_>) -> String {
    let word = value.type_str();
    format!("{} {word}", if word.starts_with(['a', 'i']) { "an" } else { "a" })
}

fn mistyped(key: &str, typed: &Spanned<DeValue<'_>>, wanted: &str) -> Problem {
    let message = format!("`{key}` is {}, but must be {wanted}", a_value(typed.get_ref()));
    Problem::error(typed.span(), message)
}

fn text<'a>(
    key: &str,
    typed: &'a Spanned<DeValue<'_>>,
    wanted: &str,
    problems: &mut Problems,
) -> Option<&'a str> {
    let DeValue::String(text) = typed.get_ref() else {
        problems.push(mistyped(key, typed, wanted));
        return None;
    };
    Some(text)
}

fn parsed<T>(
    key: &str,
    typed: &Spanned<DeValue<'_>>,
    parsed: Result<T, String>,
    problems: &mut Problems,
) -> Option<T> {
    parsed.map_err(|why| problems.push(Problem::error(typed.span(), format!("`{key}` is {why}")))).ok()
}

struct Ranged<T> {
    value: T,
    min: T,
    max: T,
}

fn within<T: PartialOrd>(
    key: &str,
    typed: &Spanned<DeValue<'_>>,
    range: Ranged<T>,
    say: impl Fn(T) -> String,
    problems: &mut Problems,
) -> Option<T> {
    let Ranged { value, min, max } = range;
    if value < min || value > max {
        let message = format!("`{key}` is {}; allowed is {} to {}", say(value), say(min), say(max));
        problems.push(Problem::error(typed.span(), message));
        return None;
    }
    Some(value)
}

fn is_none(typed: &Spanned<DeValue<'_>>) -> bool {
    typed.get_ref().as_str() == Some("none")
}

fn quoted(text: impl Display) -> String {
    format!("\"{text}\"")
}
