//! Every key there is, in one table: the parser reads by it, the documentation and the example are held to it.

use std::time::Duration;

use super::kinds::{
    CheckedKind, CountKind, EveryKind, FlagKind, Kind, LimitKind, ListKind, PathKind, RateKind, SizeKind,
    TextKind, TimeKind, WordKind,
};
use super::lane::EngineChoice;
use super::preset::Preset;
use super::units::{Bytes, BytesPerSecond};
use super::{LogLevel, excludes};
use crate::cycle::Durability;

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// `[agent]`.
    Agent,
    /// `[[lane]]` alone.
    Lane,
    /// `[defaults]` or `[[lane]]`.
    Setting,
    /// `hooks` of `[defaults]` or a `[[lane]]`.
    Hooks,
}

/// A key.
pub struct Key<K> {
    /// As it is typed.
    pub name: &'static str,
    /// What its value may be.
    pub kind: K,
    /// What it does, for the documentation.
    pub meaning: &'static str,
    /// The variable of the rsync set-up whose place it takes.
    pub replaces: Option<&'static str>,
}

/// A key as the documentation has it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it may stand.
    pub section: Section,
    /// As it is typed.
    pub name: &'static str,
    /// Its default as it would be typed, or in words.
    pub default: String,
    /// What may be typed.
    pub range: String,
    /// What it does.
    pub meaning: &'static str,
    /// The variable of the rsync set-up whose place it takes.
    pub replaces: Option<&'static str>,
}

const fn key<K>(name: &'static str, kind: K, meaning: &'static str) -> Key<K> {
    Key { name, kind, meaning, replaces: None }
}

const fn replacing<K>(name: &'static str, kind: K, meaning: &'static str, old: &'static str) -> Key<K> {
    Key { name, kind, meaning, replaces: Some(old) }
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub const HOST: Key<CheckedKind> = key(
    "host",
    CheckedKind {
        default: "the host's name",
        range: "1 to 64 of a-z, A-Z, 0-9, dot and dash",
        check: is_host,
    },
    "How this host is called in the ledger and in messages",
);
pub const STATUS_GROUP: Key<CheckedKind> = key(
    "status_group",
    CheckedKind { default: "unset: root alone", range: "name of a group", check: is_group },
    "Group that may read the control socket",
);
pub const JOURNAL_MAX: Key<SizeKind> = key(
    "journal_max",
    SizeKind { default: Bytes(1 << 30), min: Bytes(16 << 20), max: Bytes(1 << 40) },
    "Most that the journals of all lanes take on the local disk; beyond it the oldest becomes a gap, which costs a walk",
);
pub const NOT_WRITERS: Key<ListKind> = key(
    "not_writers",
    ListKind { range: "names of processes, as in /proc/PID/comm", max: 64 },
    "Processes that hide what they have open even from root, and are known to write to no volume; of others every cut is called fuzzy",
);
pub const LOG: Key<WordKind<LogLevel>> = key(
    "log",
    WordKind(&[
        ("info", LogLevel::Info),
        ("off", LogLevel::Off),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ]),
    "What is logged; `TIDEGATE_LOG` in the environment has the last word",
);

pub const TEAM: Key<TextKind> = key(
    "team",
    TextKind {
        default: "must be set",
        range: "1 to 64 of a-z, 0-9, dot, underscore, dash; the first a letter or digit",
    },
    "First half of the lane's name, and `{team}` in templates",
);
pub const ENV: Key<TextKind> = key(
    "env",
    TextKind { default: "must be set", range: "as `team`" },
    "Second half, and `{env}` in templates",
);

pub const VOLUME: Key<TextKind> = key(
    "volume",
    TextKind {
        default: "must be set",
        range: "`docker:NAME` or an absolute path; `{team}` and `{env}` are filled in",
    },
    "What is replicated",
);
pub const MIRROR: Key<TextKind> = replacing(
    "mirror",
    TextKind { default: "must be set", range: "an absolute path; `{team}` and `{env}` are filled in" },
    "Where to: a directory of its own on the GlusterFS mount",
    "jenkins_gluster_sync_path",
);
pub const START: Key<FlagKind> = replacing(
    "start",
    FlagKind { default: true },
    "Whether the agent works on the lane; `false` keeps it in the file, checked, and idle",
    "jenkins_enable_gluster_sync",
);
pub const PRESET: Key<WordKind<Preset>> = key(
    "preset",
    WordKind(&[("none", Preset::None), ("jenkins", Preset::Jenkins)]),
    "Patterns for a known program that are left out besides `exclude`",
);
pub const EXCLUDE: Key<ListKind> = key(
    "exclude",
    ListKind { range: "patterns", max: excludes::PATTERNS_MAX },
    "What is left out of the mirror; a lane's list stands in place of that in `[defaults]`",
);
pub const QUIET: Key<TimeKind> = key(
    "quiet",
    TimeKind { default: ms(300), min: ms(10), max: s(MINUTE) },
    "A generation is made when nothing changed for this long",
);
pub const MAX_AGE: Key<TimeKind> = key(
    "max_age",
    TimeKind { default: s(2), min: ms(100), max: s(HOUR) },
    "Or so early that the oldest change is in the mirror at this age; not less than `quiet`",
);
pub const RECONCILE: Key<EveryKind> = key(
    "reconcile",
    EveryKind(TimeKind { default: s(6 * HOUR), min: s(MINUTE), max: s(30 * DAY) }),
    "The volume is walked and compared with the index, in case a change was missed",
);
pub const FALLBACK_INTERVAL: Key<TimeKind> = replacing(
    "fallback_interval",
    TimeKind { default: s(5 * MINUTE), min: s(1), max: s(DAY) },
    "Time between walks where the kernel cannot tell what changed",
    "jenkins_gluster_sync_frequency_minutes",
);
pub const ALERT_AFTER: Key<TimeKind> = replacing(
    "alert_after",
    TimeKind { default: s(600), min: s(1), max: s(7 * DAY) },
    "Lag beyond which `tidegate status --check` fails",
    "jenkins_gluster_sync_alert_threshold_seconds",
);
pub const MAX_DELETE: Key<CountKind> = key(
    "max_delete",
    CountKind { default: 1000, min: 0, max: 1_000_000_000 },
    "Deletions of up to this many entries within `delete_window` are never halted",
);
pub const MAX_DELETE_PERCENT: Key<CountKind> = key(
    "max_delete_percent",
    CountKind { default: 25, min: 0, max: 100 },
    "Beyond that, deletions of up to this share of all entries are not halted",
);
pub const DELETE_WINDOW: Key<TimeKind> = key(
    "delete_window",
    TimeKind { default: s(10 * MINUTE), min: s(1), max: s(DAY) },
    "Deletions are summed over this time before they are held against the limits",
);
pub const DURABILITY: Key<WordKind<Durability>> = key(
    "durability",
    WordKind(&[("fsync", Durability::Fsync), ("replicated", Durability::Replicated)]),
    "When a generation is called sealed: fsynced on every brick that is up, or only acknowledged by each",
);
pub const ENGINE: Key<WordKind<EngineChoice>> = key(
    "engine",
    WordKind(&[("auto", EngineChoice::Auto), ("ring", EngineChoice::Ring), ("plain", EngineChoice::Plain)]),
    "How files are copied: io_uring if it is to be had, io_uring, plain calls",
);
pub const IN_FLIGHT: Key<CountKind> =
    key("in_flight", CountKind { default: 48, min: 1, max: 512 }, "Files being copied at once");
pub const BANDWIDTH: Key<RateKind> = key(
    "bandwidth",
    RateKind { min: BytesPerSecond(64 << 10), max: BytesPerSecond(100 << 30) },
    "Most bytes that are sent to the mirror in a second",
);
pub const IOPS: Key<LimitKind> =
    key("iops", LimitKind { min: 10, max: 10_000_000 }, "Most operations on the mirror in a second");
pub const FREEZE: Key<FlagKind> = key(
    "freeze",
    FlagKind { default: false },
    "Freeze the containers of a Docker volume while a small cut is read, so that it is exact",
);

/// `hooks` itself is a table; its keys are [`HOOK_PRE`], [`HOOK_POST`], [`HOOK_TIMEOUT`].
pub const HOOKS: &str = "hooks";
pub const HOOK_PRE: Key<PathKind> =
    key("pre", PathKind, "Program that is run before each cut; if it fails, there is no cut");
pub const HOOK_POST: Key<PathKind> =
    key("post", PathKind, "Program that is run after each cut, whatever became of it");
pub const HOOK_TIMEOUT: Key<TimeKind> = key(
    "timeout",
    TimeKind { default: s(30), min: s(1), max: s(10 * MINUTE) },
    "How long each of them may take before it is ended and counts as failed",
);

/// All keys, in the order of the documentation.
pub fn rows() -> Vec<Row> {
    use Section::{Agent, Hooks, Lane, Setting};
    vec![
        row(Agent, &HOST),
        row(Agent, &STATUS_GROUP),
        row(Agent, &NOT_WRITERS),
        row(Agent, &JOURNAL_MAX),
        row(Agent, &LOG),
        row(Lane, &TEAM),
        row(Lane, &ENV),
        row(Setting, &VOLUME),
        row(Setting, &MIRROR),
        row(Setting, &START),
        row(Setting, &PRESET),
        row(Setting, &EXCLUDE),
        row(Setting, &QUIET),
        row(Setting, &MAX_AGE),
        row(Setting, &RECONCILE),
        row(Setting, &FALLBACK_INTERVAL),
        row(Setting, &ALERT_AFTER),
        row(Setting, &MAX_DELETE),
        row(Setting, &MAX_DELETE_PERCENT),
        row(Setting, &DELETE_WINDOW),
        row(Setting, &DURABILITY),
        row(Setting, &ENGINE),
        row(Setting, &IN_FLIGHT),
        row(Setting, &BANDWIDTH),
        row(Setting, &IOPS),
        row(Setting, &FREEZE),
        row(Hooks, &HOOK_PRE),
        row(Hooks, &HOOK_POST),
        row(Hooks, &HOOK_TIMEOUT),
    ]
}

fn row<K: Kind>(section: Section, key: &Key<K>) -> Row {
    Row {
        section,
        name: key.name,
        default: key.kind.default_text(),
        range: key.kind.range_text(),
        meaning: key.meaning,
        replaces: key.replaces,
    }
}

fn is_host(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// What `useradd` and Docker's packages make; numbers are not names.
fn is_group(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
}
