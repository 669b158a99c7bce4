//! `quire compute`

use super::role;
use crate::context::Context;
use crate::roles::Role;
use anyhow::Result;
use quire_api::compute::{FORGET, Phase, RESTART, START, STOP, StartOptions, Status};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// A stop writes a checkpoint, a start from nothing waits for storage.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Start, stop or restart the compute of a branch
#[derive(clap::Subcommand, Debug)]
#[command(after_help = "Examples:\n  quire compute stop main\n  quire compute restart main --cold")]
pub enum Command {
    /// Start PostgreSQL
    Start(StartArgs),
    /// Stop PostgreSQL, with a last checkpoint
    Stop(StopArgs),
    /// Stop and start PostgreSQL
    Restart(StartArgs),
    /// Run one compute agent (`quire up` does this)
    Run(role::Args),
}

/// Which compute.
#[derive(clap::Args, Debug)]
pub struct StopArgs {
    /// The branch [default: main]
    branch: Option<String>,
}

/// Which compute, and how.
#[derive(clap::Args, Debug)]
pub struct StartArgs {
    /// The branch [default: main]
    branch: Option<String>,

    /// Delete the local cache first, so that the compute starts from storage alone
    #[arg(long)]
    cold: bool,

    /// Also forget which pages were in use, which a cold start otherwise fetches in the background
    #[arg(long, requires = "cold")]
    forget: bool,
}

/// What the compute is doing after an order.
#[derive(Serialize)]
struct Shown {
    branch: String,
    state: Phase,
    url: String,
}

impl Command {
    /// Has the agent of the branch do it and waits until it is done.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        match self {
            Command::Start(args) => args.post(context, START),
            Command::Stop(args) => post(context, args.branch.as_deref(), STOP, &()),
            Command::Restart(args) => args.post(context, RESTART),
            Command::Run(args) => args.compute(),
        }
    }
}

impl StartArgs {
    fn post(&self, context: &Context, path: &str) -> Result<ExitCode> {
        let branch = self.branch.as_deref();
        if self.forget {
            let _: Status = Role::Compute(context.branch(branch)?).peer().post(FORGET, &(), TIMEOUT)?;
        }
        post(context, branch, path, &StartOptions { cold: self.cold })
    }
}

/// Gives the agent of a branch an order and shows what the compute is doing then.
fn post(context: &Context, branch: Option<&str>, path: &str, order: &impl Serialize) -> Result<ExitCode> {
    let branch = context.branch(branch)?;
    let agent = Role::Compute(branch.clone()).peer();
    let status: Status = agent.post(path, order, TIMEOUT)?;
    if let Some(note) = &status.settings_rejected {
        eprintln!("quire: {note}");
    }
    let answer = Shown { url: branch.url(), branch: branch.name, state: status.state };
    context.answer(&answer, |answer| answer.state.to_string())?;
    Ok(ExitCode::SUCCESS)
}
