//! `tidegate`: agent and command line.

#![forbid(unsafe_code)]

use std::error::Error as _;
use std::process::ExitCode;

use agent::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    // `tidegate status | head` must end quietly.
    sys::host::restore_sigpipe();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let cli = Cli::parse();
    let json = cli.json;
    match cli::run(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.ends_with(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
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
