//! `tidegate doctor`.

use std::path::Path;

use super::args::DoctorArgs;
use super::ui::Ui;
use crate::config::{CONFIG_PATH, Config, ConfigError, LaneConfig};
use crate::doctor::{Context, Finding, Verdict, examine};
use crate::error::Exit;
use crate::run::Chain;

/// The check of the configuration, whose lanes the others examine.
const CHECK: &str = "configuration";

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Document<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
}

/// Runs the command: exit code 0 when all is well, 1 with a warning, 2 when something does not work.
pub fn run(args: &DoctorArgs, ui: &Ui) -> Exit {
    let mut findings = Vec::new();
    let mut say = |finding: Finding| {
        ui.line(&finding);
        findings.push(finding);
    };
    let (context, finding) = context(args);
    say(finding);
    examine(&context, say);
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    ui.document(&Document { verdict, findings: &findings });
    match verdict {
        Verdict::Ok => Exit::InSync,
        Verdict::Warn => Exit::Failed,
        Verdict::Fail => Exit::Usage,
    }
}

/// The lanes to examine, and what is said of where they come from.
fn context(args: &DoctorArgs) -> (Context, Finding) {
    let path = args.config.as_deref().unwrap_or(Path::new(CONFIG_PATH));
    let shown = path.display();
    match (Config::load(path), &args.lane) {
        (Ok((config, _)), None) => {
            let found = format!("{shown}, {} lanes", config.lanes.len());
            let context = Context { lanes: config.lanes, not_writers: config.agent.not_writers };
            (context, Finding::ok(CHECK, found))
        }
        (Ok((config, _)), Some(lane)) => {
            let known: Vec<String> = config.lanes.iter().map(|lane| lane.name.to_string()).collect();
            let found: Vec<LaneConfig> =
                config.lanes.into_iter().filter(|other| other.name == *lane).collect();
            let finding = if found.is_empty() {
                Finding::fail(
                    CHECK,
                    format!("{shown} has no lane {lane}"),
                    format!("it has {}", known.join(", ")),
                )
            } else {
                Finding::ok(CHECK, format!("{shown}, of it {lane} alone"))
            };
            (Context { lanes: found, not_writers: config.agent.not_writers }, finding)
        }
        // Before the agent is set up there is none, and the host can be examined all the same.
        (Err(ConfigError::Read { source, .. }), None)
            if args.config.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
        {
            let found = format!("{shown} is not there yet: only the host is examined");
            (
                Context::default(),
                Finding::warn(CHECK, found, "tidegate config example prints one to begin with"),
            )
        }
        (Err(error), _) => {
            let remedy = format!("tidegate config check {shown}");
            (Context::default(), Finding::fail(CHECK, Chain(&error).to_string(), remedy))
        }
    }
}
