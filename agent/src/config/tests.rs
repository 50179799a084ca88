//! The parser against texts, and documentation and example against the table of keys.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::units::say_duration;

fn parse(text: &str) -> Result<(Config, Report), Report> {
    Config::parse(Source::new("t.toml", text))
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|report| panic!("{report}")).0
}

/// Each problem as `line:column severity message`.
fn told(text: &str) -> Vec<String> {
    let report = match parse(text) {
        Ok((_, report)) => report,
        Err(report) => report,
    };
    let say = |problem: &Problem| {
        let Place { line, column } = report.source.place(problem.span.start);
        format!("{line}:{column} {}", problem.message)
    };
    report.problems.iter().map(say).collect()
}

const TEMPLATES: &str = "[defaults]\nvolume = \"docker:{team}-{env}\"\nmirror = \"/m/{team}/{env}\"\n";

fn lane(settings: &str) -> String {
    format!("{TEMPLATES}[[lane]]\nteam = \"a\"\nenv = \"b\"\n{settings}\n")
}

#[track_caller]
fn one(text: &str, says: &[&str]) {
    let report = parse(text).expect_err("it was taken");
    let shown = report.to_string();
    assert_eq!(report.problems.len(), 1, "{shown}");
    for words in says {
        assert!(shown.contains(words), "{words:?} is not in:\n{shown}");
    }
}

#[test]
fn a_lane_may_be_just_team_and_env() {
    let config = good(&lane(""));
    let lane = &config.lanes[0];
    assert_eq!(lane.name.to_string(), "a/b");
    assert_eq!(lane.volume.to_string(), "docker:a-b");
    assert_eq!(lane.mirror.as_os_str(), "/m/a/b");
    assert_eq!(say_duration(lane.settings.quiet), "300ms");
    assert_eq!(say_duration(lane.settings.max_age), "2s");
    assert_eq!(lane.settings.reconcile, Every::Interval(std::time::Duration::from_secs(6 * 3600)));
    assert_eq!(lane.settings.limit, crate::cycle::DeletionLimit::default());
    assert_eq!((lane.settings.in_flight, lane.settings.start, lane.settings.freeze), (48, true, false));
}

#[test]
fn a_lane_says_otherwise_key_by_key() {
    let text = format!(
        "[defaults]\nquiet = \"1s\"\nmax_age = \"5s\"\nexclude = [\"x\"]\npreset = \"jenkins\"\nbandwidth = \"1MiB/s\"\n\
         hooks = {{ pre = \"/a\", timeout = \"5s\" }}\n\
         {}\n\
         [[lane]]\nteam = \"a\"\nenv = \"c\"\nquiet = \"2s\"\nexclude = [\"y\"]\npreset = \"none\"\nbandwidth = \"none\"\n\
         reconcile = 0\niops = 500\nhooks = {{ post = \"/b\" }}\nstart = false\n",
        lane("").strip_prefix("[defaults]\n").unwrap()
    );
    let config = good(&text);
    let [first, second] = &config.lanes[..] else { panic!("{config:?}") };
    assert_eq!(say_duration(first.settings.quiet), "1s");
    assert_eq!(first.settings.own_patterns(), ["x"]);
    assert!(first.settings.excludes.patterns().len() > 10, "the preset's too");
    assert_eq!(first.settings.bandwidth, Some(BytesPerSecond(1 << 20)));
    assert_eq!(say_duration(second.settings.quiet), "2s");
    assert_eq!(say_duration(second.settings.max_age), "5s");
    assert_eq!(second.settings.excludes.patterns().collect::<Vec<_>>(), ["y"]);
    assert_eq!((second.settings.bandwidth, second.settings.iops), (None, Some(500)));
    assert_eq!(second.settings.reconcile, Every::Never);
    assert!(!second.settings.start);
    let hooks = &second.settings.hooks;
    assert_eq!((hooks.pre.clone(), hooks.post.clone()), (None, Some("/b".into())));
    assert_eq!(say_duration(hooks.timeout), "30s", "hooks are taken as a whole");
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "[agent]\nhosst = \"x\"\nlog = \"inof\"\n\
                [defaults]\nquiet = \"300\"\nmirror = \"m/{team}\"\nteam = \"x\"\n\
                [[lane]]\nteam = \"A\"\nenv = \"b\"\nin_flight = 0\nvolume = \"docker:/x\"\n\
                [[lane]]\nenv = \"c\"\niops = -5\nfreeze = \"yes\"\n\
                [[lanes]]\n";
    let told = told(text);
    let expected = [
        "2:1 unknown key `hosst` in [agent]",
        "3:7 `log` is \"inof\"",
        "5:9 `quiet` is a number without a unit",
        "6:10 `mirror` \"m/{team}\" is relative",
        "7:1 unknown key `team` in [defaults]",
        "9:8 \"A\" cannot be a team or env",
        "11:13 `in_flight` is 0; allowed is 1 to 512",
        "13:1 a lane without `team`",
        "15:8 `iops` is -5; allowed is 10 to 10000000",
        "16:10 `freeze` is a string, but must be true or false",
        "17:3 unknown key `lanes` above all tables",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}

#[test]
fn unknown_keys_are_understood_as_well_as_can_be() {
    for (text, says) in [
        (lane("quite = \"1s\""), "did you mean `quiet`?"),
        (lane("host = \"x\""), "`host` belongs into [agent]"),
        (lane("timeout = \"1s\""), "`timeout` belongs into hooks"),
        (lane("jenkins_gluster_sync_frequency_minutes = 5"), "its place has `fallback_interval`"),
        (lane("hooks = { before = \"/x\" }"), "known here: pre, post, timeout"),
        (format!("{}[lanes]\n", lane("")), "did you mean `lane`?"),
        (format!("quiet = \"1s\"\n{}", lane("")), "`quiet` belongs into [defaults] or a [[lane]]"),
    ] {
        one(&text, &["unknown key", says]);
    }
}

#[test]
fn values_out_of_range_name_the_range() {
    for (settings, says) in [
        ("quiet = \"1ms\"", "`quiet` is 1ms; allowed is 10ms to 1m"),
        ("quiet = \"0s\"", "`quiet` is 0ms; allowed is 10ms to 1m"),
        ("quiet = 300", "`quiet` is an integer, but must be a number and a unit in quotes"),
        ("quiet = \"-3s\"", "`quiet` is negative"),
        ("max_age = \"2h\"", "allowed is 100ms to 1h"),
        ("reconcile = \"1s\"", "allowed is 1m to 30d"),
        ("reconcile = \"nver\"", "no number and unit"),
        ("fallback_interval = \"0s\"", "allowed is 1s to 1d"),
        ("delete_window = \"5min\"", "unknown unit \"min\"; units are ms, s, m, h, d"),
        ("max_delete = -1", "allowed is 0 to 1000000000"),
        ("max_delete = 0xffffffffffffffffffffffffffffffffffff", "more than can be counted"),
        ("max_delete_percent = 101", "allowed is 0 to 100"),
        ("bandwidth = \"50MiB\"", "a rate is an amount in a second"),
        ("bandwidth = \"1B/s\"", "allowed is 64KiB/s to 100GiB/s"),
        ("iops = 1.5", "`iops` is a float, but must be a whole number"),
        ("durability = \"fsnc\"", "did you mean \"fsync\"?"),
        ("preset = \"gitlab\"", "allowed is none, jenkins"),
        ("exclude = \"x\"", "must be a list of texts"),
        ("exclude = [1]", "`an entry of exclude` is an integer"),
        ("exclude = [\"a\", \"!b\"]", "there is no negation"),
        ("exclude = [\"[a\"]", "is no glob"),
        ("exclude = [\"*\"]", "matches everything"),
        ("hooks = { pre = \"x\" }", "`pre` \"x\" is relative"),
        ("hooks = true", "`hooks` is a boolean, but must be a table"),
        ("mirror = \"/x/.tidegate/y\"", "where ledgers are"),
        ("mirror = \"/x/{{ team }}\"", "as Ansible writes them"),
        ("mirror = \"/\"", "the root of the file system"),
        ("volume = \"jenkins_home\"", "a Docker volume is written docker:jenkins_home"),
        ("volume = \"docker:\"", "is no name of a Docker volume"),
    ] {
        one(&lane(settings), &[says, "t.toml:7:"]);
    }
    let agent = |settings: &str| format!("[agent]\n{settings}\n{}", lane(""));
    one(&agent("journal_max = \"1MiB\""), &["`journal_max` is 1MiB; allowed is 16MiB to 1TiB"]);
    one(&agent("journal_max = 5"), &["`journal_max` is an integer"]);
    one(&agent("status_group = \"1000\""), &["allowed is name of a group"]);
    one(&agent("host = \"a b\""), &["`host` is \"a b\""]);
}

#[test]
fn a_wrong_template_is_told_once_for_all_lanes() {
    let lanes = "[[lane]]\nteam = \"a\"\nenv = \"b\"\n[[lane]]\nteam = \"a\"\nenv = \"c\"\n";
    let text =
        format!("[defaults]\nquiet = \"x\"\nvolume = \"docker:{{tem}}\"\nmirror = \"m/{{env}}\"\n{lanes}");
    assert_eq!(told(&text).len(), 3, "{:#?}", told(&text));
}

#[test]
fn lanes_in_each_others_way_are_told_with_both_places() {
    let two = |first: &str, second: &str| {
        format!(
            "{TEMPLATES}[[lane]]\nteam = \"a\"\nenv = \"b\"\n{first}\n[[lane]]\nteam = \"a\"\nenv = \"c\"\n{second}\n"
        )
    };
    one(
        &two("mirror = \"/x\"", "mirror = \"//x/\""),
        &["the same mirror, /x", "t.toml:11:10", ":::", "t.toml:7:10"],
    );
    one(
        &two("volume = \"docker:v\"", "volume = \"docker:v\""),
        &["the same volume, docker:v", "t.toml:11:", "t.toml:7:"],
    );
    one(
        &two("volume = \"docker:v\"", "volume = \"/var/lib/docker/volumes/v/_data\""),
        &["the same volume", "t.toml:11:", "t.toml:7:"],
    );
    one(
        &two("mirror = \"/x\"", "mirror = \"/x/y\""),
        &["a/c lies inside the mirror of lane a/b", "t.toml:11:"],
    );
    one(
        &two("mirror = \"/x/y\"", "mirror = \"/x\""),
        &["a/b lies inside the mirror of lane a/c", "t.toml:7:"],
    );
    one(&two("volume = \"/v\"", "mirror = \"/v/m\""), &["a/c lies inside the volume of lane a/b"]);
    one(
        &two("mirror = \"/x\"", "volume = \"/x/v\""),
        &["the volume of lane a/c lies inside the mirror of lane a/b"],
    );
    one(
        &lane("volume = \"/x\"\nmirror = \"/x/y\""),
        &["lies inside the volume", "t.toml:8:10", "t.toml:7:10"],
    );
    one(&lane("volume = \"/x/y\"\nmirror = \"/x\""), &["the volume of lane a/b lies inside the mirror"]);
    one(
        &lane("volume = \"/x\"\nmirror = \"/x\""),
        &["the mirror of lane a/b lies inside the volume of lane a/b"],
    );
    one(
        &lane("mirror = \"/var/lib/docker/volumes/a-b/_data/m\""),
        &["inside the volume, where Docker has it, of lane a/b"],
    );
    one(
        &format!("{}[[lane]]\nteam = \"a\"\nenv = \"b\"\n", lane("")),
        &["two lanes are named a/b", "t.toml:10:7", "t.toml:6:7"],
    );
    // Names alike are not places inside each other.
    good(&two("mirror = \"/x\"", "mirror = \"/xy\""));
    // A template without {env} puts both in one place: told at the lanes.
    one(
        &two("", "").replace("/m/{team}/{env}", "/m/{team}"),
        &["the same mirror, /m/a", "t.toml:10:7", "t.toml:6:7", "only if {team} and {env} are both in it"],
    );
}

#[test]
fn settings_that_contradict_each_other_are_told_with_both_places() {
    one(
        &lane("quiet = \"5s\"\nmax_age = \"3s\""),
        &["`quiet` (5s) is longer than `max_age` (3s)", "t.toml:7:9", "t.toml:8:11"],
    );
    one(&lane("quiet = \"5s\""), &["`quiet` (5s) is longer than `max_age` (2s)", "has its default"]);
    let (_, report) = parse(&lane("alert_after = \"1m\"")).unwrap();
    assert_eq!(report.problems[0].severity, Severity::Warning);
    assert!(report.to_string().contains("may lag 5m"), "{report}");
}

#[test]
fn a_lane_needs_both_ends_and_a_host_needs_lanes() {
    let text = "[[lane]]\nteam = \"a\"\nenv = \"b\"\n";
    let told = told(text);
    assert_eq!(told, ["1:1 lane a/b has no `volume`", "1:1 lane a/b has no `mirror`"]);
    for text in ["", "lane = []", "[agent]\n"] {
        let (config, report) = parse(text).unwrap();
        assert!(
            config.lanes.is_empty() && report.to_string().contains("tidegate config example"),
            "{report}"
        );
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    one(&lane("quiet = 300ms"), &["this is not TOML", "t.toml:7:", "are in quotes"]);
    one(&lane("quiet = \"1s\"\nquiet = \"1s\""), &["duplicate key", "t.toml:8:1", "keep one of the two"]);
    let report = Config::parse(Source::new("t.toml", &b"# \xfc\nx"[..])).unwrap_err();
    assert!(
        report.to_string().contains("not UTF-8") && report.to_string().contains("t.toml:1:3"),
        "{report}"
    );
}

/// A key that the table has and no code reads would be taken and do nothing.
#[test]
fn every_key_of_the_table_is_read() {
    for row in rows() {
        let wrong = format!("{} = 1979-05-27\n", row.name);
        let text = match row.section {
            Section::Agent => format!("[agent]\n{wrong}{}", lane("")),
            Section::Lane => lane("").replace(&format!("\n{} = ", row.name), "\n#") + &wrong,
            Section::Setting => lane(&wrong),
            Section::Hooks => lane(&format!("hooks.{wrong}")),
        };
        let report = parse(&text).expect_err(row.name);
        assert!(
            report.to_string().contains(&format!("`{}` is a datetime", row.name)),
            "{}: {report}",
            row.name
        );
    }
}

/// The lines `#key = …` of the example with their mark taken away.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_without_problems_and_shows_the_defaults() {
    for text in [EXAMPLE, &uncommented()] {
        let (config, report) = parse(text).unwrap_or_else(|report| panic!("{report}"));
        assert!(report.problems.is_empty(), "{report}");
        let names: Vec<_> = config.lanes.iter().map(|lane| lane.name.to_string()).collect();
        assert_eq!(names, ["devops/blue", "devops/green"]);
        assert_eq!(config.lanes[0].mirror.as_os_str(), "/var/jenkins/devops/sync/blue");
        assert_eq!(config.lanes[1].volume.to_string(), "docker:jenkins-devops-green-home");
    }
    let mut shown = good(&uncommented());
    let plain = good(EXAMPLE);
    // These have no default that could be shown.
    assert!(shown.agent.host.take().is_some() && shown.agent.status_group.take().is_some());
    for lane in &mut shown.lanes {
        assert!(lane.settings.hooks.pre.take().is_some() && lane.settings.hooks.post.take().is_some());
    }
    assert_eq!(shown, plain, "a commented line shows something else than the default");
}

#[test]
fn the_example_has_every_key_and_every_old_variable() {
    let mut keys = BTreeSet::new();
    for line in uncommented().lines() {
        if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '#'])) {
            keys.insert(key.to_owned());
            if key == "hooks" {
                let inner = value.trim_matches(['{', '}', ' ']).split(", ");
                keys.extend(inner.filter_map(|entry| Some(entry.split_once(" = ")?.0.to_owned())));
            }
        }
    }
    let rows = rows();
    let mut known: BTreeSet<String> = rows.iter().map(|row| row.name.to_owned()).collect();
    known.insert("hooks".to_owned());
    assert_eq!(keys, known);
    for old in rows.iter().filter_map(|row| row.replaces) {
        assert!(EXAMPLE.contains(old), "{old} is not in the example");
    }
}

/// The table of `docs/configuration.md`, between its marks.
fn documented() -> String {
    let mut text = String::new();
    let mut sections: BTreeMap<Section, Vec<Row>> = BTreeMap::new();
    for row in rows() {
        sections.entry(row.section).or_default().push(row);
    }
    for (section, rows) in sections {
        text += match section {
            Section::Agent => "\n### `[agent]`\n",
            Section::Lane => "\n### `[[lane]]` alone\n",
            Section::Setting => "\n### `[defaults]` and `[[lane]]`\n",
            Section::Hooks => "\n### `hooks` of `[defaults]` or a `[[lane]]`\n",
        };
        text += "\n| key | default | range | meaning |\n|---|---|---|---|\n";
        for Row { name, default, range, meaning, replaces, .. } in rows {
            let replaces = replaces.map_or_else(String::new, |old| format!(". Replaces `{old}`"));
            let default = match default.starts_with(['"', '[']) || default.parse::<u64>().is_ok() {
                true => format!("`{default}`"),
                false => default,
            };
            text += &format!("| `{name}` | {default} | {range} | {meaning}{replaces} |\n");
        }
    }
    text += "\n### What `preset = \"jenkins\"` leaves out\n\n| pattern | why |\n|---|---|\n";
    for (pattern, why) in Preset::Jenkins.patterns() {
        text += &format!("| `{pattern}` | {why} |\n");
    }
    text
}

/// `TIDEGATE_WRITE_DOCS=1` writes the tables instead of comparing them.
#[test]
fn the_documentation_has_the_table_of_keys() {
    const BEGIN: &str = "<!-- from the table of keys -->\n";
    const END: &str = "\n<!-- end -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the first mark");
    let (table, tail) = rest.split_once(END).expect("the second mark");
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{head}{BEGIN}{}{END}{tail}", documented())).unwrap();
    } else {
        assert_eq!(
            table,
            documented(),
            "TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate --lib documentation writes it"
        );
    }
}
