//! The configuration as its users have it, its parser under arbitrary bytes, and its patterns held against git's.
//!
//! `TIDEGATE_CASES=100000` raises the cases of each property.
//!
//! Fails on a weakened build: make each `Span` one longer and leave the clamping in `Problems::report` out; compile patterns
//! with `literal_separator(false)`.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use agent::config::{Config, EXAMPLE, Excludes, PatternError, Report, Severity, Source, rows};
use harness::gate::{Need, require};
use harness::product::Product;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proto::RelPath;

fn cases(usual: u32) -> ProptestConfig {
    let given =
        std::env::var("TIDEGATE_CASES").ok().map(|text| text.parse().expect("TIDEGATE_CASES is a number"));
    ProptestConfig { cases: given.unwrap_or(usual), failure_persistence: None, ..ProptestConfig::default() }
}

/// What a reader may hold at once whatever comes, patterns of a preset compiled among it; and for each byte of the text.
const HELD_MAX: u64 = 4 << 20;
const HELD_TIMES: u64 = 256;

/// Either a configuration, or at least one error with a place inside the text.
fn judged(text: Vec<u8>) -> Result<(), TestCaseError> {
    let len = text.len();
    let mut parsed = None;
    let used = allocation_counter::measure(|| parsed = Some(Config::parse(Source::new("t.toml", text))));
    prop_assert!(
        used.bytes_max <= HELD_MAX + HELD_TIMES * len as u64,
        "{} bytes held for {len}",
        used.bytes_max
    );
    let (config, report): (Option<Config>, Report) = match parsed.expect("measured") {
        Ok((config, report)) => (Some(config), report),
        Err(report) => (None, report),
    };
    prop_assert_eq!(config.is_none(), report.has_errors());
    for problem in &report.problems {
        let spans = problem.related.iter().map(|related| related.span).chain([problem.span]);
        for span in spans {
            prop_assert!(span.start <= span.end && span.end <= len, "{:?} of {} bytes", span, len);
        }
        prop_assert!(!problem.message.is_empty());
    }
    let shown = report.to_string();
    prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    serde_json::to_string(&report.json()).expect("JSON");
    if let Some(config) = config {
        let names: BTreeSet<_> = config.lanes.iter().map(|lane| &lane.name).collect();
        let mirrors: BTreeSet<_> = config.lanes.iter().map(|lane| &lane.mirror).collect();
        prop_assert!(names.len() == config.lanes.len() && mirrors.len() == config.lanes.len());
        for lane in &config.lanes {
            prop_assert!(lane.mirror.is_absolute() && lane.settings.quiet <= lane.settings.max_age);
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Remove(Index, u8),
    Insert(Index, &'static str),
    Repeat(Index, u8, Index),
}

const TOKENS: [&str; 28] = [
    "[[lane]]\n",
    "[lane]\n",
    "[defaults]\n",
    "[agent]\n",
    "[defaults.hooks]\n",
    "[lane.hooks]\n",
    "lane = 1\n",
    "hooks.pre = ",
    "quiet = ",
    "exclude = [",
    "\"",
    "'''",
    "\"\"\"",
    "{",
    "}",
    "[",
    "]",
    "=",
    ".",
    "\n",
    "\r",
    "#",
    "\\u",
    "0x",
    "-1",
    "1e9",
    "{team}",
    "\u{202e}\u{10ffff}",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (any::<Index>(), select(&TOKENS[..])).prop_map(|(at, token)| Mutation::Insert(at, token)),
        (any::<Index>(), any::<u8>(), any::<Index>()).prop_map(|(at, len, to)| Mutation::Repeat(at, len, to)),
    ]
}

fn mutate(mut text: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let len = text.len();
        match mutation {
            Mutation::Replace(at, byte) if len > 0 => text[at.index(len)] = *byte,
            Mutation::Remove(at, n) => {
                let at = at.index(len + 1);
                text.drain(at..(at + usize::from(*n)).min(len));
            }
            Mutation::Insert(at, token) => {
                let at = at.index(len + 1);
                text.splice(at..at, token.bytes());
            }
            Mutation::Repeat(at, n, to) => {
                let at = at.index(len + 1);
                let copy = text[at..(at + usize::from(*n)).min(len)].to_vec();
                let to = to.index(len + 1);
                text.splice(to..to, copy);
            }
            Mutation::Replace(..) => {}
        }
    }
    text
}

/// The example with every default written out.
fn whole_example() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|text| line(text) + "\n").collect()
}

/// Lines that are TOML, of known keys and of values that some key takes.
fn lines() -> impl Strategy<Value = String> {
    let keys: Vec<&'static str> =
        rows().iter().map(|row| row.name).chain(["hooks", "lane", "other"]).collect();
    let values = [
        "\"300ms\"",
        "\"2s\"",
        "\"5m\"",
        "\"6h\"",
        "\"never\"",
        "0",
        "1",
        "25",
        "-1",
        "\"none\"",
        "\"jenkins\"",
        "\"fsync\"",
        "\"auto\"",
        "\"50MiB/s\"",
        "\"1GiB\"",
        "true",
        "1.5",
        "[]",
        "[\"*.x\", \"/a/**/b/\"]",
        "[\"!a\", 1]",
        "{}",
        "{ pre = \"/a\", timeout = \"5s\" }",
        "\"/a\"",
        "\"/a/{team}/{env}\"",
        "\"docker:{team}\"",
        "\"docker:a\"",
        "\"a\"",
        "\"b\"",
        "\"/a/b\"",
        "1979-05-27",
    ];
    let header =
        select(vec!["[agent]", "[defaults]", "[[lane]]", "[[lane]]", "[[lane]]"]).prop_map(str::to_owned);
    let setting = (select(keys), select(values.to_vec())).prop_map(|(key, value)| format!("{key} = {value}"));
    let named =
        select(vec!["team = \"a\"\nenv = \"b\"", "team = \"a\"\nenv = \"c\""]).prop_map(str::to_owned);
    vec(prop_oneof![1 => header, 4 => setting, 1 => named], 0..30).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn arbitrary_bytes_are_judged(text in vec(any::<u8>(), 0..400)) {
        judged(text)?;
    }

    #[test]
    fn arbitrary_text_is_judged(text in "\\PC{0,200}") {
        judged(text.into_bytes())?;
    }

    #[test]
    fn a_mutated_configuration_is_judged(mutations in vec(mutation(), 1..8), whole in any::<bool>()) {
        let text = if whole { whole_example() } else { EXAMPLE.to_owned() };
        judged(mutate(text.into_bytes(), &mutations))?;
    }

    #[test]
    fn known_keys_with_any_values_are_judged(text in lines()) {
        judged(text.into_bytes())?;
    }

    #[test]
    fn arbitrary_patterns_never_panic(text in "[a*?/\\[\\]{},!\\\\.^-]{0,20}", path in vec(select(b"ab./*".to_vec()), 0..12)) {
        if let (Ok(pattern), Some(path)) = (text.parse(), RelPath::new(&path))
            && let Ok(excludes) = Excludes::new(vec![pattern])
        {
            let found = excludes.matches(&path, true);
            prop_assert!(found.is_none_or(|found| found == text));
            prop_assert!(excludes.matches(&path, false).is_none() || found.is_some());
        }
    }
}

/// A nest of brackets and a line without end take no stack and no time that matters.
#[test]
fn deep_and_long_texts_are_judged() {
    for text in [
        "[".repeat(200_000),
        format!("x = {}", "[".repeat(200_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        "a.".repeat(100_000),
        format!("[[lane]]\nteam = \"{}\"", "x".repeat(1 << 19)),
        "[[lane]]\nteam=\"a\"\nenv=\"b\"\n".repeat(30_000),
        format!("[defaults]\nexclude = [{}]", "\"[[\",".repeat(200)),
        format!("[defaults]\nexclude = [\"{}\"]", "{a,".repeat(300)),
    ] {
        judged(text.into_bytes()).unwrap();
    }
}

/// Without it, a parser that refuses everything would have all the properties.
#[test]
fn a_good_file_has_no_errors_and_a_bad_one_has_some() {
    assert!(Config::parse(Source::new("t.toml", EXAMPLE)).is_ok());
    let report = Config::parse(Source::new("t.toml", whole_example().replace("48", "0"))).unwrap_err();
    assert_eq!(report.problems.iter().map(|problem| problem.severity).collect::<Vec<_>>(), [Severity::Error]);
}

const DIRS: [&str; 3] = ["a", "b", ".a"];
const FILES: [&str; 5] = ["c", "ab", "a.c", "x.tmp", "!a"];

/// Every path of a tree three levels deep; directories end with a slash.
fn tree(at: &str, depth: usize, paths: &mut Vec<String>) {
    paths.extend(FILES.iter().map(|name| format!("{at}{name}")));
    for name in DIRS {
        let dir = format!("{at}{name}/");
        paths.push(dir.clone());
        if depth > 0 {
            tree(&dir, depth - 1, paths);
        }
    }
}

fn git(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(root).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    git
}

fn ignored_by_git(root: &Path, pattern: &str, input: &str) -> BTreeSet<String> {
    fs::write(root.join(".gitignore"), format!("{pattern}\n")).unwrap();
    let mut child = git(root)
        .args(["check-ignore", "--no-index", "-z", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    // 0: some are ignored; 1: none.
    assert!(output.status.code().is_some_and(|code| code < 2), "{pattern:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// The oracle is git itself: for patterns of the simple core, it ignores exactly what we leave out.
#[test]
fn patterns_mean_what_they_mean_to_git() {
    if !require(&[Need::Program("git")]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    assert!(git(root.path()).args(["init", "--quiet"]).status().unwrap().success());
    let mut paths = Vec::new();
    tree("", 2, &mut paths);
    for path in &paths {
        match path.strip_suffix('/') {
            Some(dir) => fs::create_dir_all(root.path().join(dir)).unwrap(),
            None => fs::write(root.path().join(path), "").unwrap(),
        }
    }
    // Without the slash: git looks for itself what is a directory, and takes the slash for a part of the name.
    let bare = |path: &String| path.trim_end_matches('/').to_owned();
    let input: String = paths.iter().map(|path| bare(path) + "\0").collect();
    let name = select(vec![
        "a", "b", "c", "ab", "*", "?", "a*", "*c", "*.tmp", "[ab]", "[!a]*", "[a-b]?", "**", ".a", "a.c",
        "a?", "\\!a", "?a", "*a*",
    ]);
    let pattern = (any::<bool>(), vec(name, 1..5), any::<bool>()).prop_map(|(anchored, names, only_dirs)| {
        format!("{}{}{}", if anchored { "/" } else { "" }, names.join("/"), if only_dirs { "/" } else { "" })
    });
    let compared = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(cases(200));
    let result = runner.run(&pattern, |text| {
        let pattern = match text.parse() {
            Ok(pattern) => pattern,
            Err(PatternError::Everything(_)) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let excludes = Excludes::new(vec![pattern]).unwrap();
        let ours: BTreeSet<String> = paths
            .iter()
            .filter(|path| {
                let (path, is_dir) =
                    path.strip_suffix('/').map_or((path.as_str(), false), |path| (path, true));
                excludes.matches(&RelPath::new(path.as_bytes()).unwrap(), is_dir).is_some()
            })
            .map(bare)
            .collect();
        let theirs = ignored_by_git(root.path(), &text, &input);
        compared.set(compared.get() + 1);
        let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
        prop_assert!(differ.is_empty(), "{:?} judges these otherwise: {:?}", text, differ);
        Ok(())
    });
    result.unwrap();
    assert!(compared.get() > 100, "only {} patterns were compared", compared.get());
}

#[test]
fn the_example_that_is_printed_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let product = Product::new(&dir.path().join("state"));
    let example = product.run(&["config", "example"]);
    assert_eq!((example.code, example.stdout.as_str()), (0, EXAMPLE));
    let file = dir.path().join("tidegate.toml");
    fs::write(&file, &example.stdout).unwrap();
    let file = file.to_str().unwrap();

    let checked = product.run(&["config", "check", file]);
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""), "{}", checked.stdout);
    let lanes: Vec<&str> = checked.stdout.lines().filter(|line| line.starts_with("devops/")).collect();
    assert_eq!(lanes.len(), 2, "{}", checked.stdout);
    assert!(
        lanes[0].starts_with(
            "devops/blue: docker:jenkins-devops-blue-home -> /var/jenkins/devops/sync/blue; start true;"
        ),
        "{}",
        lanes[0]
    );
    assert!(checked.stdout.contains("preset jenkins leaves out:\n  /war/"), "{}", checked.stdout);

    let json: serde_json::Value =
        serde_json::from_str(&product.run(&["config", "check", file, "--json"]).stdout).unwrap();
    assert_eq!(json["problems"], serde_json::json!([]));
    assert_eq!(json["lanes"][1]["lane"], "devops/green");
    assert_eq!(json["lanes"][1]["quiet"], "300ms");
    assert!(!dir.path().join("state").exists(), "a check makes nothing");
}

#[test]
fn a_wrong_file_ends_with_two_and_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    let product = Product::new(&dir.path().join("state"));
    let file = dir.path().join("tidegate.toml");
    fs::write(&file, "[defaults]\nquite = \"1s\"\n[[lane]]\nteam = \"a\"\nenv = \"b\"\nmax_age = \"9y\"\nvolume = \"/v\"\nmirror = \"m\"\n")
        .unwrap();
    let file = file.to_str().unwrap();

    let checked = product.run(&["config", "check", file]);
    assert_eq!((checked.code, checked.stdout.as_str()), (2, ""));
    for shown in [
        "error: unknown key `quite` in [defaults]\n",
        &format!(" --> {file}:2:1\n  |\n2 | quite = \"1s\"\n  | ^^^^^\n  = help: did you mean `quiet`?\n"),
        &format!(" --> {file}:6:11\n  |\n6 | max_age = \"9y\"\n  |           ^^^^\n"),
        "`mirror` \"m\" is relative",
        &format!("{file}: 3 errors, 0 warnings"),
    ] {
        assert!(checked.stderr.contains(shown), "{shown}\nis not in:\n{}", checked.stderr);
    }

    let checked = product.run(&["config", "check", file, "--json"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (2, ""));
    let json: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    let problems = json["problems"].as_array().unwrap();
    let places: Vec<_> = problems.iter().map(|at| (at["line"].as_u64(), at["column"].as_u64())).collect();
    assert_eq!(places, [(Some(2), Some(1)), (Some(6), Some(11)), (Some(8), Some(10))]);
    assert_eq!(problems[0]["source"], "quite = \"1s\"");
    assert_eq!(problems[0]["severity"], "error");

    let missing = product.run(&["config", "check", "/nonexistent/tidegate.toml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("tidegate config example"), "{}", missing.stderr);
    fs::write(dir.path().join("empty.toml"), "").unwrap();
    let empty = product.run(&["config", "check", dir.path().join("empty.toml").to_str().unwrap()]);
    assert_eq!(empty.code, 0, "a warning");
    assert!(
        empty.stderr.contains("warning: there is no lane")
            && empty.stderr.contains("tidegate config example")
    );
}
