//! What was typed, and what each command does with it.

mod args;
mod config;
mod doctor;
mod journal;
mod lanes;
mod named;
mod plan;
mod recover;
mod source;
mod status;
mod sync;
mod ui;
mod verify;
mod why;

pub use args::Cli;
pub use source::open_volume;
pub use sync::apart;
pub use ui::{Ui, bytes, when};

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
        args::Command::Status(args) => status::run(&args, &ui),
        args::Command::Run(args) => lanes::run(&args),
        args::Command::Flush(args) => lanes::flush(&args, &ui),
        args::Command::Pause(args) => lanes::pause(&args, &ui),
        args::Command::Resume(args) => lanes::resume(&args, &ui),
        args::Command::Approve(args) => lanes::approve(&args, &ui),
        args::Command::Why(args) => why::run(&args, &ui),
        args::Command::Journal(args) => journal::run(&args, &ui),
        args::Command::Plan(args) => plan::run(&args, &ui),
        args::Command::Verify(args) => verify::run(&args, &ui),
        args::Command::KeepCut => crate::cut::keep(),
        args::Command::Doctor(args) => Ok(doctor::run(&args, &ui)),
        args::Command::Config(args) => config::run(&args, &ui),
    }
}
