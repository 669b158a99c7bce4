//! `quire`: the command line, every role, and the supervisor of `quire up`.
//!
//! ```text
//! quire up                 starts three safekeepers, a pageserver and a compute agent as children of one supervisor
//! quire psql               runs psql against the branch `main`
//! quire down               stops them again; the data stays in ./.quire
//! ```
//!
//! What must hold:
//! - one supervisor per directory, the process that holds the lock on `run/up.pid`; a child never outlives its
//!   supervisor;
//! - `quire.json` is published atomically and is the only memory of this crate; ports in it are chosen once;
//! - stdout carries the answer of a command and nothing else, in one JSON document under `--json`;
//! - a failure ends in one line that says what to do and exit status 1; a bug ends the process ([`quire_crash`]).

mod beginning;
mod bench;
mod cli;
mod commands;
mod context;
mod deployment;
mod home;
mod http;
mod lock;
mod logging;
mod ports;
mod postgres;
mod processes;
mod roles;
mod sql;
mod status;
mod supervisor;
mod table;
mod user;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    quire_crash::hook::install();
    let cli = cli::Cli::parse();
    cli.run().unwrap_or_else(|error| {
        eprintln!("quire: {error:#}");
        ExitCode::FAILURE
    })
}
