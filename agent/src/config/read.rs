//! From text to a [`Config`]: what was typed, then what it means; every problem is kept.

use std::collections::HashMap;

use proto::{LaneName, LanePart};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cross;
use super::excludes::{Excludes, Pattern};
use super::keys;
use super::kinds::{At, a_value, name};
use super::lane::{Hooks, LaneConfig, Settings, VolumeSource};
use super::path;
use super::preset::Preset;
use super::problem::{Problem, Problems, Report};
use super::source::{Source, Span};
use super::table::{Shape, Table, read};
use super::template;
use super::{AgentConfig, Config};
use crate::cycle::DeletionLimit;

/// Most lanes of a host; the design carries hundreds.
const LANES_MAX: usize = 1000;

/// A lane and where its parts were typed.
pub struct Draft {
    /// The lane.
    pub lane: LaneConfig,
    /// Its name in its own table.
    pub named: Span,
    /// Its volume, if in its own table; else its name.
    pub volume: Span,
    /// Its mirror, likewise.
    pub mirror: Span,
}

/// Compiled patterns by what they were made from: most lanes share theirs.
type Compiled = HashMap<(Preset, Vec<String>), Excludes>;

/// Reads the whole text.
pub fn config(source: Source) -> Result<(Config, Report), Report> {
    let mut problems = Problems::default();
    let config = match std::str::from_utf8(source.bytes()) {
        Ok(text) => document(text, &mut problems),
        Err(e) => {
            let at = e.valid_up_to();
            let span = Span { start: at, end: at + e.error_len().unwrap_or(1) };
            let message = "this is not UTF-8, which TOML is";
            problems.push(Problem::error(span, message).help("save the file as UTF-8"));
            None
        }
    };
    let report = problems.report(source);
    match config {
        Some(config) if !report.has_errors() => Ok((config, report)),
        _ => Err(report),
    }
}

fn document(text: &str, problems: &mut Problems) -> Option<Config> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut broken = false;
    for error in errors {
        let span = error.span().map_or(Span { start: 0, end: 0 }, Span::from);
        // A key that is there twice leaves the rest as it was typed; anything else does not.
        broken |= error.message() != "duplicate key";
        problems.push(syntax(text, span, error.message()));
    }
    if broken {
        return None;
    }
    let top = Table::new(Shape::Top, Span { start: 0, end: 0 }, document.get_ref(), problems);
    let agent = top.table("agent", Shape::Agent, problems);
    let agent = self::agent(&agent.unwrap_or_else(|| Table::empty(top.span)), problems);
    let defaults = top.table("defaults", Shape::Defaults, problems);
    let defaults = defaults.unwrap_or_else(|| Table::empty(top.span));
    let mut compiled = Compiled::new();
    check_defaults(&defaults, &mut compiled, problems);
    let drafts: Vec<Draft> = lane_tables(&top, problems)
        .iter()
        .filter_map(|table| lane(table, &defaults, &mut compiled, problems))
        .collect();
    cross::check(&drafts, problems);
    Some(Config { agent, lanes: drafts.into_iter().map(|draft| draft.lane).collect() })
}

fn syntax(text: &str, span: Span, message: &str) -> Problem {
    let problem = Problem::error(span, format!("this is not TOML: {message}"));
    let before = text.get(..span.start).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    let value = line.split_once('=').map_or("", |(_, value)| value.trim_start());
    let at = text.get(span.start..).unwrap_or_default();
    if message == "duplicate key" {
        problem.help("it is set above: keep one of the two")
    } else if value.starts_with(|c: char| c.is_ascii_digit())
        || (value.is_empty() && at.starts_with(|c: char| c.is_ascii_digit()))
    {
        problem.help("lengths of time, sizes and rates are in quotes: \"300ms\", \"50MiB\"")
    } else {
        problem
    }
}

fn agent(table: &Table<'_>, problems: &mut Problems) -> AgentConfig {
    let tables = [table];
    AgentConfig {
        host: read(&tables, &keys::HOST, problems).value,
        status_group: read(&tables, &keys::STATUS_GROUP, problems).value,
        not_writers: read(&tables, &keys::NOT_WRITERS, problems)
            .value
            .into_iter()
            .map(|name| name.value)
            .collect(),
        journal_max: read(&tables, &keys::JOURNAL_MAX, problems).value,
        log: read(&tables, &keys::LOG, problems).value,
    }
}

/// What is wrong in `[defaults]` is told even if no lane takes it.
fn check_defaults(defaults: &Table<'_>, compiled: &mut Compiled, problems: &mut Problems) {
    settings(&[defaults], compiled, problems);
    let (Ok(team), Ok(env)) = ("team".parse(), "env".parse()) else { return };
    let anybody = LaneName::new(team, env);
    place(&[defaults], &keys::VOLUME, &anybody, VolumeSource::parse, problems);
    place(&[defaults], &keys::MIRROR, &anybody, mirror, problems);
}

fn lane_tables<'a>(top: &Table<'a>, problems: &mut Problems) -> Vec<Table<'a>> {
    const HELP: &str =
        "a lane is written as a line [[lane]], with its keys below; `tidegate config example` has some";
    let Some(typed) = top.get("lane") else {
        let problem =
            Problem::warning(Span { start: 0, end: 0 }, "there is no lane, so nothing is replicated");
        problems.push(problem.help(HELP));
        return Vec::new();
    };
    let DeValue::Array(array) = typed.get_ref() else {
        let message = format!("`lane` is {}, but must be a list of tables", a_value(typed.get_ref()));
        problems.push(Problem::error(typed.span(), message).help(HELP));
        return Vec::new();
    };
    if array.is_empty() {
        let problem = Problem::warning(typed.span(), "there is no lane, so nothing is replicated");
        problems.push(problem.help(HELP));
    }
    if array.len() > LANES_MAX {
        let message = format!("{} lanes are more than a host can carry: at most {LANES_MAX}", array.len());
        problems.push(Problem::error(array[LANES_MAX].span(), message).help("spread them over more hosts"));
    }
    let table = |typed: &'a Spanned<DeValue<'a>>| match typed.get_ref() {
        DeValue::Table(table) => Some(Table::new(Shape::Lane, typed.span().into(), table, problems)),
        other => {
            let message = format!("a lane is {}, but must be a table", a_value(other));
            problems.push(Problem::error(typed.span(), message).help(HELP));
            None
        }
    };
    array.iter().take(LANES_MAX).filter_map(table).collect()
}

fn lane(
    table: &Table<'_>,
    defaults: &Table<'_>,
    compiled: &mut Compiled,
    problems: &mut Problems,
) -> Option<Draft> {
    let tables = [table, defaults];
    let settings = settings(&tables, compiled, problems);
    let team = part(table, &keys::TEAM, problems);
    let env = part(table, &keys::ENV, problems);
    let (team, env) = (team?, env?);
    let named = env.span.or(team.span).unwrap_or(table.span);
    let name = LaneName::new(team.value, env.value);
    for key in [&keys::VOLUME, &keys::MIRROR] {
        if tables.iter().all(|table| table.get(key.name).is_none()) {
            let message = format!("lane {name} has no `{}`", key.name);
            let template = if key.name == keys::VOLUME.name {
                "docker:jenkins-{team}-{env}-home"
            } else {
                "/var/jenkins/{team}/sync/{env}"
            };
            problems.push(
                Problem::error(table.span, message).help(format!(
                    "set it here, or for all lanes in [defaults]: {} = {template:?}",
                    key.name
                )),
            );
        }
    }
    let volume = place(&tables, &keys::VOLUME, &name, VolumeSource::parse, problems);
    let mirror = place(&tables, &keys::MIRROR, &name, mirror, problems);
    let own = |key: &str| table.get(key).map_or(named, |typed| typed.span().into());
    Some(Draft {
        lane: LaneConfig { name, volume: volume?, mirror: mirror?, settings },
        named,
        volume: own(keys::VOLUME.name),
        mirror: own(keys::MIRROR.name),
    })
}

fn part(
    table: &Table<'_>,
    key: &keys::Key<super::kinds::TextKind>,
    problems: &mut Problems,
) -> Option<At<LanePart>> {
    if table.get(key.name).is_none() {
        let message = format!("a lane without `{}`", key.name);
        let help = "a lane is named by its team and env: team = \"devops\", env = \"blue\"";
        problems.push(Problem::error(table.span, message).help(help));
    }
    let At { value, span } = read(&[table], key, problems);
    Some(At { value: name(&At { value: value?, span }, problems)?, span })
}

/// Reads a text with placeholders as a place of one lane.
fn place<T>(
    tables: &[&Table<'_>],
    key: &keys::Key<super::kinds::TextKind>,
    name: &LaneName,
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) -> Option<T> {
    let At { value, span } = read(tables, key, problems);
    let (text, span) = (value?, span?);
    match template::fill(&text, name).and_then(|filled| parse(&filled)) {
        Ok(place) => Some(place),
        Err(why) => {
            // As it was typed, not as it was filled in: told once, however many lanes take it.
            let shown: String = text.chars().take(200).collect();
            problems.push(Problem::error(span, format!("`{}` {shown:?} {why}", key.name)));
            None
        }
    }
}

fn mirror(text: &str) -> Result<std::path::PathBuf, String> {
    let path = path::absolute(text)?;
    let ledgers = proto::names::LEDGERS;
    if path.components().any(|component| component.as_os_str().as_encoded_bytes() == ledgers) {
        return Err("lies in a .tidegate directory, where ledgers are".to_owned());
    }
    Ok(path)
}

fn settings(tables: &[&Table<'_>], compiled: &mut Compiled, problems: &mut Problems) -> Settings {
    let quiet = read(tables, &keys::QUIET, problems);
    let max_age = read(tables, &keys::MAX_AGE, problems);
    if quiet.value > max_age.value {
        let say = super::units::say_duration;
        let (quiet_text, max_age_text) = (say(quiet.value), say(max_age.value));
        let message = format!("`quiet` ({quiet_text}) is longer than `max_age` ({max_age_text})");
        pair(Problem::error, (quiet.span, max_age.span), "`max_age` is set here", message, problems);
    }
    let fallback = read(tables, &keys::FALLBACK_INTERVAL, problems);
    let alert = read(tables, &keys::ALERT_AFTER, problems);
    let busiest = max_age.value.max(fallback.value);
    if alert.value < busiest {
        let message = format!(
            "`alert_after` is {}, but a lane in good order may lag {} (the longer of `max_age` and \
             `fallback_interval`): the alarm would ring for nothing",
            super::units::say_duration(alert.value),
            super::units::say_duration(busiest)
        );
        let other = if busiest == fallback.value { fallback.span } else { max_age.span };
        pair(Problem::warning, (alert.span, other), "this is longer", message, problems);
    }
    let preset = read(tables, &keys::PRESET, problems).value;
    let exclude = read(tables, &keys::EXCLUDE, problems).value;
    Settings {
        start: read(tables, &keys::START, problems).value,
        preset,
        excludes: excludes(preset, &exclude, compiled, problems),
        quiet: quiet.value,
        max_age: max_age.value,
        reconcile: read(tables, &keys::RECONCILE, problems).value,
        fallback_interval: fallback.value,
        alert_after: alert.value,
        limit: DeletionLimit {
            already: 0,
            entries: read(tables, &keys::MAX_DELETE, problems).value,
            percent: read(tables, &keys::MAX_DELETE_PERCENT, problems).value,
            // Never by configuration: an emptied volume takes a person's word each time.
            empty_volume: false,
        },
        delete_window: read(tables, &keys::DELETE_WINDOW, problems).value,
        durability: read(tables, &keys::DURABILITY, problems).value,
        engine: read(tables, &keys::ENGINE, problems).value,
        in_flight: usize::try_from(read(tables, &keys::IN_FLIGHT, problems).value).unwrap_or(1),
        bandwidth: read(tables, &keys::BANDWIDTH, problems).value,
        iops: read(tables, &keys::IOPS, problems).value,
        freeze: read(tables, &keys::FREEZE, problems).value,
        hooks: hooks(tables, problems),
    }
}

/// A problem between two settings; either may be a default, but not both.
fn pair(
    kind: fn(Span, String) -> Problem,
    (first, second): (Option<Span>, Option<Span>),
    there: &str,
    message: String,
    problems: &mut Problems,
) {
    let Some(span) = first.or(second) else { return };
    let problem = kind(span, message);
    problems.push(match (first, second) {
        (Some(_), Some(second)) => problem.related(second, there),
        _ => problem.help("the other of the two has its default"),
    });
}

/// Hooks are taken as a whole: half of a lane's own and half of the default's would fit nobody.
fn hooks(tables: &[&Table<'_>], problems: &mut Problems) -> Hooks {
    let from = tables.iter().find(|table| table.get(keys::HOOKS).is_some());
    let table = from.and_then(|table| table.table(keys::HOOKS, Shape::Hooks, problems));
    let table = table.unwrap_or_else(|| Table::empty(Span { start: 0, end: 0 }));
    Hooks {
        pre: read(&[&table], &keys::HOOK_PRE, problems).value,
        post: read(&[&table], &keys::HOOK_POST, problems).value,
        timeout: read(&[&table], &keys::HOOK_TIMEOUT, problems).value,
    }
}

fn excludes(
    preset: Preset,
    typed: &[At<String>],
    compiled: &mut Compiled,
    problems: &mut Problems,
) -> Excludes {
    let texts: Vec<String> = typed.iter().map(|pattern| pattern.value.clone()).collect();
    if let Some(excludes) = compiled.get(&(preset, texts.clone())) {
        return excludes.clone();
    }
    let of_preset = preset.patterns().iter().map(|(text, _)| (*text, None));
    let all = of_preset.chain(typed.iter().map(|pattern| (pattern.value.as_str(), pattern.span)));
    let mut patterns: Vec<Pattern> = Vec::new();
    let mut whole = true;
    let mut last = Span { start: 0, end: 0 };
    for (text, span) in all {
        last = span.unwrap_or(last);
        match text.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                whole = false;
                problems.push(Problem::error(last, error.to_string()));
            }
        }
    }
    let excludes = Excludes::new(patterns).unwrap_or_else(|error| {
        whole = false;
        problems.push(Problem::error(last, error.to_string()));
        Excludes::default()
    });
    if whole {
        compiled.insert((preset, texts), excludes.clone());
    }
    excludes
}
