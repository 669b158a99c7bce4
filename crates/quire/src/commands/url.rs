//! `quire url`

use crate::context::Context;
use anyhow::Result;
use serde_json::json;
use std::process::ExitCode;

/// Print the libpq URI of a branch
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  pgbench -i \"$(quire url)\"")]
pub struct Args {
    /// The branch [default: main]
    branch: Option<String>,
}

impl Args {
    /// Prints the URI, whether or not the compute runs.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let branch = context.branch(self.branch.as_deref())?;
        context.answer(&json!({ "branch": branch.name, "url": branch.url() }), |_| branch.url())?;
        Ok(ExitCode::SUCCESS)
    }
}
