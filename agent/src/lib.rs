//! The agent's library: everything that decides, and the shell around it.

#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod control;
pub mod cut;
pub mod cycle;
pub mod docker;
pub mod doctor;
pub mod error;
pub mod index;
pub mod journal;
pub mod lane;
pub mod ledger;
pub mod peek;
pub mod recover;
pub mod run;
pub mod state;
pub mod verify;
pub mod volume;
pub mod why;

pub use error::{Error, Exit, Result};
