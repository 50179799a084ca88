//! Reading what a program of tests printed. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Ignored tests with such names are run by others in processes of their own.
const HELPER: &str = "helper_";
/// Lines of evidence kept of a failed program.
const EVIDENCE_LINES: usize = 120;

/// What a program of tests had to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tests that ran and passed.
    pub passed: usize,
    /// Names of tests that failed.
    pub failed: Vec<String>,
    /// Names and reasons of tests that did not run, or not all of it.
    pub skipped: Vec<(String, String)>,
    /// Ignored tests that are the processes of others.
    pub helpers: usize,
    /// For a failure: what it printed.
    pub evidence: String,
}

impl Outcome {
    /// Nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed.is_empty() && self.skipped.is_empty() && self.helpers == 0
    }
}

/// Judges both outputs of a program; `ending` says how it ended if that was out of order.
pub fn outcome(stdout: &str, stderr: &str, ending: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut summaries = 0;
    let mut failures = 0;
    let mut results: BTreeMap<&str, &str> = BTreeMap::new();
    for line in stdout.lines() {
        if let Some((name, result)) = result_line(line) {
            results.insert(name, result);
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            summaries += 1;
            outcome.passed += count(counts, "passed");
            failures += count(counts, "failed");
        }
    }
    outcome.failed = failed_names(stdout).into_iter().map(str::to_owned).collect();
    while outcome.failed.len() < failures {
        outcome.failed.push("(a test without a name in the output)".to_owned());
    }
    for (name, result) in &results {
        if let Some(reason) = result.strip_prefix("ignored") {
            let last = name.rsplit("::").next().unwrap_or(name);
            if last.starts_with(HELPER) {
                outcome.helpers += 1;
            } else {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() { "ignored" } else { reason };
                outcome.skipped.push(((*name).to_owned(), reason.to_owned()));
            }
        }
    }
    for (name, reason) in skips(stdout, stderr) {
        let full = results.keys().find(|test| **test == name || test.ends_with(&format!("::{name}")));
        let name = full.map_or(name.clone(), |test| (*test).to_owned());
        if outcome.failed.contains(&name) || outcome.skipped.iter().any(|(known, _)| *known == name) {
            continue;
        }
        if full.is_some() {
            outcome.passed = outcome.passed.saturating_sub(1);
        }
        outcome.skipped.push((name, reason));
    }
    if !ending.is_empty() || summaries == 0 {
        let last = stdout.lines().rev().find_map(|line| line.strip_prefix("test ")).unwrap_or("its start");
        let ending = if ending.is_empty() { "ended without a result" } else { ending };
        outcome.failed.push(format!("(the whole program: {ending}, at {})", last.trim_end_matches(" ... ")));
    }
    if !outcome.failed.is_empty() {
        outcome.evidence = evidence(stdout, stderr);
    }
    outcome
}

/// `test NAME ... RESULT`.
fn result_line(line: &str) -> Option<(&str, &str)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.trim_end_matches(" - should panic"), result))
}

/// The number before `what` in `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, what: &str) -> usize {
    let before = counts.split(what).next().unwrap_or_default().trim_end();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The indented names under the last `failures:` of each program in the output.
fn failed_names(stdout: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut listing = false;
    for line in stdout.lines() {
        if line == "failures:" {
            listing = true;
        } else if let (true, Some(name)) = (listing, line.strip_prefix("    ")) {
            names.insert(name.trim());
        } else if !line.is_empty() {
            listing = false;
        }
    }
    names
}

/// `SKIPPED NAME: REASON` from anywhere; a line without a name belongs to the test whose output it is in.
fn skips(stdout: &str, stderr: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut section = "";
    for line in stdout.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            section = name;
        } else {
            found.extend(skip(line, section));
        }
    }
    found.extend(stderr.lines().filter_map(|line| skip(line, "")));
    found
}

fn skip(line: &str, section: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("SKIPPED")?;
    if let Some(reason) = rest.strip_prefix(": ") {
        let name = if section.is_empty() { "(unnamed)" } else { section };
        return Some((name.to_owned(), reason.to_owned()));
    }
    let (name, reason) = rest.strip_prefix(' ')?.split_once(": ")?;
    Some((name.to_owned(), reason.to_owned()))
}

/// From the first failure on, and the end of standard error.
fn evidence(stdout: &str, stderr: &str) -> String {
    let from = stdout.find("\nfailures:\n").unwrap_or(0);
    let lines: Vec<&str> = stdout[from..].lines().collect();
    let head = lines.iter().take(EVIDENCE_LINES);
    let mut text: String = head.map(|line| format!("    {line}\n")).collect();
    if lines.len() > EVIDENCE_LINES {
        text.push_str("    …\n");
    }
    let errors: Vec<&str> = stderr.lines().collect();
    for line in &errors[errors.len().saturating_sub(20)..] {
        text.push_str(&format!("    stderr: {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "\nrunning 5 tests\n\
        test a::one ... ok\ntest two ... FAILED\ntest helper_dies ... ignored, on purpose\n\
        test slow ... ignored\ntest a::four ... ok\n\n\
        successes:\n\n---- a::four stdout ----\nSKIPPED: the ring, forbidden\n\n\n\
        successes:\n    a::one\n    a::four\n\nfailures:\n\n---- two stdout ----\nboom\n\n\n\
        failures:\n    two\n\n\
        test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out\n";

    #[test]
    fn every_test_is_counted_once() {
        let outcome = outcome(OUT, "SKIPPED one: needs root\nSKIPPED one: needs root\n", "");
        assert_eq!(outcome.passed, 0);
        assert_eq!(outcome.failed, ["two"]);
        assert_eq!(outcome.helpers, 1);
        let skipped: Vec<_> = outcome.skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(skipped, ["slow", "a::four", "a::one"]);
        assert!(outcome.evidence.contains("boom"));
    }

    #[test]
    fn a_program_that_dies_is_a_failure_that_names_the_test() {
        let died = outcome("running 2 tests\ntest first ... ok\ntest second ... ", "", "signal: 6");
        assert_eq!(died.failed, ["(the whole program: signal: 6, at second)"]);
        assert_eq!(outcome("", "", "").failed.len(), 1);
    }

    #[test]
    fn several_programs_in_one_output_add_up() {
        let both = format!("{0}{0}", "test result: ok. 3 passed; 0 failed; 0 ignored\n");
        assert_eq!(outcome(&both, "", "").passed, 6);
    }
}
