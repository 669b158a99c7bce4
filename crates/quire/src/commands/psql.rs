//! `quire psql`

use crate::context::Context;
use anyhow::{Result, anyhow};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Run psql against a branch
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  quire psql\n  quire psql main -- -c 'select now()'\n  quire psql -- -d mydb -f load.sql"
)]
pub struct Args {
    /// The branch [default: main]
    branch: Option<String>,

    /// What psql is given after the connection, such as -c or -d
    #[arg(last = true, value_name = "PSQL ARGS")]
    arguments: Vec<OsString>,
}

impl Args {
    /// Becomes psql.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        let branch = context.branch(self.branch.as_deref())?;
        let beside_server = context.deployment()?.pg_bin.join("psql");
        let program = if beside_server.is_file() { beside_server } else { "psql".into() };
        let mut psql = Command::new(&program);
        // Connection settings come by environment, so that -d, -U and -p on the command line still win.
        psql.env("PGHOST", "127.0.0.1").env("PGPORT", branch.postgres_port.to_string());
        psql.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        let error = psql.args(&self.arguments).exec();
        Err(anyhow!("cannot run {}: {error}; install the PostgreSQL client programs", program.display()))
    }
}
