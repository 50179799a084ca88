//! `cargo xtask test`: everything that can be checked here, with an honest count of what could not.

mod parse;
mod run;

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cargo::{self, Artifact};
use crate::packages;
use parse::Outcome;

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this: `lint`, `unit`, `doc`, a crate (`transfer`), or one program of tests (`lab`, `docker`, `oracle`, …).
    tier: Option<String>,
    /// Only tests with this in their names.
    filter: Vec<String>,
    /// Lists the tiers and does nothing.
    #[arg(long)]
    list: bool,
}

/// What one step added.
#[derive(Default)]
struct Sum {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    helpers: usize,
}

/// Runs the command.
///
/// # Errors
/// Something beside the tests failed: a package could not be installed, no such tier.
pub fn run(args: &Args, scratch: &Path) -> Result<ExitCode> {
    let begin = Instant::now();
    packages::install_missing()?;
    let tier = args.tier.as_deref();
    let mut sum = Sum::default();
    if matches!(tier, None | Some("lint")) && !args.list {
        sum.check("cargo fmt --check", || cargo::check(&["fmt", "--all", "--check"]));
        let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        sum.check("cargo clippy -D warnings", || cargo::check(&clippy));
    }
    if tier != Some("lint") {
        sum.tests(args, scratch)?;
    }
    if args.list {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(sum.report(begin.elapsed()))
}

impl Sum {
    fn check(&mut self, name: &str, act: impl FnOnce() -> Result<()>) {
        let begin = Instant::now();
        match act() {
            Ok(()) => {
                self.passed += 1;
                say(name, begin, "ok");
            }
            Err(error) => {
                say(name, begin, &format!("FAILED: {error:#}"));
                self.failed.push(name.to_owned());
            }
        }
    }

    fn tests(&mut self, args: &Args, scratch: &Path) -> Result<()> {
        let begin = Instant::now();
        // The tests look for the programs beside themselves.
        let built = cargo::build(&["build", "--workspace", "--bins"])
            .and_then(|_| cargo::build(&["test", "--workspace", "--no-run"]));
        let mut programs = match built {
            Ok(programs) => programs,
            Err(error) => {
                say("build", begin, &format!("FAILED: {error:#}"));
                self.failed.push("build".to_owned());
                return Ok(());
            }
        };
        say("build", begin, "ok");
        programs.retain(|program| program.is_test && ["lib", "bin", "test"].contains(&program.kind.as_str()));
        // Cheapest first, those with a lab last.
        programs.sort_by_key(|program| (is_serial(program), program.kind == "test", label(program)));
        if args.list {
            println!("lint\nunit\ndoc");
            programs.iter().filter(|p| p.kind == "test").for_each(|p| println!("{}", label(p)));
            return Ok(());
        }
        let tier = args.tier.as_deref();
        let chosen: Vec<_> = programs.iter().filter(|program| is_chosen(program, tier)).collect();
        ensure!(
            !chosen.is_empty() || tier == Some("doc"),
            "no tier {}; see cargo xtask test --list",
            tier.unwrap_or_default()
        );
        for program in chosen {
            let begin = Instant::now();
            let outcome = run::program(program, is_serial(program), &args.filter, scratch)?;
            self.take(&label(program), begin, outcome);
        }
        if matches!(tier, None | Some("doc")) {
            let begin = Instant::now();
            let outcome = run::documentation(&args.filter, scratch)?;
            self.take("doc", begin, outcome);
        }
        Ok(())
    }

    fn take(&mut self, label: &str, begin: Instant, outcome: Outcome) {
        if outcome.is_empty() {
            return;
        }
        let mut text = format!("{} passed", outcome.passed);
        for (count, what) in [(outcome.failed.len(), "failed"), (outcome.skipped.len(), "skipped")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        say(label, begin, &text);
        if !outcome.failed.is_empty() {
            println!("{}", outcome.evidence);
        }
        let named = |name: &str| format!("{label} {name}");
        self.passed += outcome.passed;
        self.helpers += outcome.helpers;
        self.failed.extend(outcome.failed.iter().map(|name| named(name)));
        self.skipped.extend(outcome.skipped.into_iter().map(|(name, why)| (named(&name), why)));
    }

    fn report(&self, took: Duration) -> ExitCode {
        println!();
        if self.helpers > 0 {
            println!(
                "not counted, because other tests run them as processes of their own: {} helpers",
                self.helpers
            );
        }
        for (name, why) in &self.skipped {
            println!("skipped: {name}: {why}");
        }
        for name in &self.failed {
            println!("failed: {name}");
        }
        let all_required = env::var_os("REQUIRE_ALL").is_some_and(|value| !value.is_empty() && value != "0");
        if all_required && !self.skipped.is_empty() {
            println!("REQUIRE_ALL is set: a skipped test is a failure");
        }
        println!("{:.0} s in all", took.as_secs_f64());
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len());
        let good = self.failed.is_empty() && (self.skipped.is_empty() || !all_required);
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn say(what: &str, begin: Instant, how: &str) {
    println!("{:>7.1} s  {what:<28} {how}", begin.elapsed().as_secs_f64());
}

/// `tests/lab` for a program of tests, `agent (unit)` for the tests inside a crate.
fn label(program: &Artifact) -> String {
    let package = package(program);
    if program.kind == "test" {
        format!("{package}/{}", program.target)
    } else {
        format!("{package} ({})", program.kind)
    }
}

fn package(program: &Artifact) -> String {
    program.package_dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_chosen(program: &Artifact, tier: Option<&str>) -> bool {
    match tier {
        None => true,
        Some("doc") => false,
        Some("unit") => program.kind != "test",
        Some(name) => program.target == name || package(program) == name || label(program) == name,
    }
}

/// Programs that start hosts or engines run one test at a time: two labs on two cores only disturb each other.
fn is_serial(program: &Artifact) -> bool {
    let uses_lab = |path: &Path| {
        fs::read_to_string(path).is_ok_and(|text| text.contains("lab::") || text.contains("Engine::start"))
    };
    // Modules of `lab.rs` are in `lab/`, those of `lab/main.rs` beside it.
    let modules = match program.source.file_stem() {
        Some(stem) if stem == "main" => program.source.parent().unwrap_or(Path::new("")).to_owned(),
        _ => program.source.with_extension(""),
    };
    program.kind == "test"
        && (uses_lab(&program.source)
            || fs::read_dir(modules).into_iter().flatten().flatten().any(|file| uses_lab(&file.path())))
}
