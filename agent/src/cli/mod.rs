//! What was typed, and what each command does with it.

mod args;
mod recover;
mod source;
mod sync;
mod ui;

pub use args::Cli;
pub use source::open_volume;
pub use ui::Ui;

use crate::error::{Exit, Result};

/// Runs one command to its exit code.
///
/// # Errors
/// Any [`crate::Error`]; its exit code is [`crate::Error::exit`].
pub fn run(cli: Cli) -> Result<Exit> {
    let ui = Ui::new(cli.json);
    match cli.command {
        args::Command::Sync(args) => sync::run(&args, &ui),
        args::Command::Recover(args) => recover::run(&args, &ui),
        args::Command::Verify(_) | args::Command::Status(_) | args::Command::Why(_) | args::Command::Plan(_) => todo!(),
    }
}
