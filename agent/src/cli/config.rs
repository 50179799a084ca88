//! `tidegate config`.

use std::path::Path;

use super::args::{ConfigArgs, ConfigCommand};
use super::ui::Ui;
use crate::config::{Config, ConfigError, EXAMPLE, LaneConfig, Preset, ProblemJson, Source};
use crate::error::{Exit, Result};

/// What `check` found, for scripts.
#[derive(serde::Serialize)]
struct Checked<'a> {
    file: &'a str,
    problems: Vec<ProblemJson<'a>>,
    /// None while there is an error.
    lanes: &'a [LaneConfig],
}

/// Runs the command.
///
/// # Errors
/// [`ConfigError::Read`]; what is wrong in the file is printed, and is [`Exit::Usage`].
pub fn run(args: &ConfigArgs, ui: &Ui) -> Result<Exit> {
    match &args.command {
        ConfigCommand::Check { file } => check(file, ui),
        ConfigCommand::Example => {
            ui.document(&serde_json::json!({ "example": EXAMPLE }));
            ui.line(EXAMPLE.trim_end());
            Ok(Exit::InSync)
        }
    }
}

fn check(file: &Path, ui: &Ui) -> Result<Exit> {
    let source = Source::read(file)
        .map_err(|source| ConfigError::Read { path: file.display().to_string(), source })?;
    let (lanes, report) = match Config::parse(source) {
        Ok((config, report)) => (config.lanes, report),
        Err(report) => (Vec::new(), report),
    };
    let wrong = report.has_errors();
    ui.document(&Checked { file: report.source.name(), problems: report.json(), lanes: &lanes });
    if !ui.is_json() && !report.problems.is_empty() {
        ui.remark(&report);
    }
    if wrong {
        return Ok(Exit::Usage);
    }
    for lane in &lanes {
        ui.line(lane);
    }
    if lanes.iter().any(|lane| lane.settings.preset == Preset::Jenkins) {
        ui.line("preset jenkins leaves out:");
        for (pattern, why) in Preset::Jenkins.patterns() {
            ui.line(format_args!("  {pattern:<40} {why}"));
        }
    }
    Ok(Exit::InSync)
}
