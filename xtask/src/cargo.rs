//! Calling cargo and reading what it says it built.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Something cargo built that can be run.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The package's directory.
    pub package_dir: PathBuf,
    /// Name of the target.
    pub target: String,
    /// `lib`, `bin`, `test`, …
    pub kind: String,
    /// Its main source file.
    pub source: PathBuf,
    /// Whether it is a program of tests.
    pub is_test: bool,
    /// The program.
    pub executable: PathBuf,
}

/// Root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A cargo command in the workspace.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace());
    command
}

/// Runs cargo with its output shown.
///
/// # Errors
/// It failed.
pub fn check(args: &[&str]) -> Result<()> {
    let status = cargo(args).status().context("start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(())
}

/// Builds, and lists the programs that came of it. Diagnostics are shown as they come.
///
/// # Errors
/// The build failed.
pub fn build(args: &[&str]) -> Result<Vec<Artifact>> {
    let mut child = cargo(args)
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let stdout = child.stdout.take().context("cargo without an output")?;
    let mut artifacts = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let message: Value = serde_json::from_str(&line?).context("cargo's messages")?;
        artifacts.extend(artifact(&message));
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(artifacts)
}

fn artifact(message: &Value) -> Option<Artifact> {
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let path = |value: &Value| value.as_str().map(PathBuf::from);
    let target = &message["target"];
    Some(Artifact {
        executable: path(&message["executable"])?,
        package_dir: path(&message["manifest_path"])?.parent()?.to_owned(),
        target: target["name"].as_str()?.to_owned(),
        kind: target["kind"][0].as_str()?.to_owned(),
        source: path(&target["src_path"])?,
        is_test: message["profile"]["test"] == true,
    })
}

/// Builds the release program `tidegate` and returns its path.
///
/// # Errors
/// The build failed.
pub fn release_binary(package: &str, target: &str) -> Result<PathBuf> {
    let built = build(&["build", "--release", "--package", package, "--bin", target])?;
    let found = built.into_iter().find(|artifact| artifact.target == target);
    Ok(found.with_context(|| format!("cargo built no {target}"))?.executable)
}
