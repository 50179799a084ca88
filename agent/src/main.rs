//! `tidegate`: agent and command line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use agent::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !cli.is_agent() {
        // `tidegate status | head` must end quietly; the agent must not end because a client went away.
        sys::host::restore_sigpipe();
    }
    let level = if cli.is_agent() { "info" } else { "warn" };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| level.into()),
        )
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let json = cli.json;
    match cli::run(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            let text = agent::run::Chain(&error).to_string();
            let exit = error.exit();
            if json {
                let document = serde_json::json!({ "error": text, "exit": exit as u8 });
                println!("{document}");
            }
            eprintln!("tidegate: {text}");
            ExitCode::from(exit as u8)
        }
    }
}
