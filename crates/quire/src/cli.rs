//! The command line as a whole; each command's own arguments are with the command.

use crate::bench;
use crate::commands::{compute, down, page, psql, pushdown, role, status, up, url, verify};
use crate::context::Context;
use crate::home::Home;
use crate::logging::end_quietly_on_closed_pipe;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  quire up --detach                     start everything on this machine, print the URI, return
  quire psql -- -c 'select version()'   run psql against the branch main
  quire status                          safekeepers, pageservers, branches
  quire pushdown on                     stop full-page images in the WAL; storage makes them
  quire page show main pg_class 0       how one page is stored
  quire compute restart main --cold     throw the local cache away and start from storage alone
  quire down                            stop everything; the data stays in ./.quire";

/// Unmodified PostgreSQL on separated storage: a quorum keeps the WAL, a pageserver keeps the pages.
#[derive(Parser, Debug)]
#[command(name = "quire", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    /// The directory that holds everything: data, settings, logs
    #[arg(long, global = true, value_name = "DIR", default_value = "./.quire", overrides_with = "dir")]
    dir: PathBuf,

    /// Print one JSON document on stdout; everything else goes to stderr
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start all roles on this machine and supervise them
    Up(up::Args),
    /// Stop all roles; the data stays
    Down(down::Args),
    /// Show safekeepers, pageservers and branches
    Status(status::Args),
    /// Run psql against a branch
    Psql(psql::Args),
    /// Print the libpq URI of a branch
    Url(url::Args),
    /// Start, stop or restart the compute of a branch
    #[command(subcommand)]
    Compute(compute::Command),
    /// Turn image generation pushdown on or off (on: full_page_writes=off, storage creates page images)
    #[command(subcommand)]
    Pushdown(pushdown::Command),
    /// Look at stored pages
    #[command(subcommand)]
    Page(page::Command),
    /// Compare every page in the compute's cache with storage; exit status 1 on a mismatch
    Verify(verify::Args),
    /// Run benchmarks, optionally next to the same PostgreSQL on local disk
    #[command(subcommand)]
    Bench(bench::Command),
    /// Run one safekeeper (`quire up` does this)
    Safekeeper(role::Args),
    /// Run one pageserver (`quire up` does this)
    Pageserver(role::Args),
}

impl Command {
    /// Whether it serves sockets, where a peer that is gone must be an error and not a signal.
    fn is_long_lived(&self) -> bool {
        let role = matches!(self, Command::Safekeeper(_) | Command::Pageserver(_));
        role || matches!(self, Command::Up(_) | Command::Compute(compute::Command::Run(_)))
    }
}

impl Cli {
    /// Does what was asked. The exit status is 0 for success, 1 for failure.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !self.command.is_long_lived() {
            end_quietly_on_closed_pipe();
        }
        let context = Context { home: Home::new(&self.dir)?, json: self.json };
        match self.command {
            Command::Up(args) => args.run(&context),
            Command::Down(args) => args.run(&context),
            Command::Status(args) => args.run(&context),
            Command::Psql(args) => args.run(&context),
            Command::Url(args) => args.run(&context),
            Command::Compute(command) => command.run(&context),
            Command::Pushdown(command) => command.run(&context),
            Command::Page(command) => command.run(&context),
            Command::Verify(args) => args.run(&context),
            Command::Bench(command) => command.run(&context),
            Command::Safekeeper(args) => args.safekeeper(),
            Command::Pageserver(args) => args.pageserver(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_directory_counts() {
        for line in ["quire --dir /a up --detach --background --dir /b", "quire up --dir /a --background --dir /b"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.dir, PathBuf::from("/b"), "{line}");
        }
    }

    #[test]
    fn commands_that_scripts_call_are_understood() {
        let lines = [
            "quire up --detach --dir /x --pg-bin /y --safekeepers 3 --pageservers 1 --cache-size 64MiB --verify-rate 5 --read-deadline 9",
            "quire down",
            "quire status --json",
            "quire psql main -- -c select",
            "quire psql -- -c select",
            "quire url",
            "quire compute start main",
            "quire compute stop main",
            "quire compute restart main --cold",
            "quire compute run --config /x",
            "quire pushdown on",
            "quire pushdown off main",
            "quire pushdown status --json",
            "quire pushdown set main --max-deltas 10 --max-bytes 20",
            "quire page show main pg_class 0 --at 0/1",
            "quire page hot main",
            "quire page replay /x",
            "quire verify main",
            "quire bench tpcb --compare --report /x",
            "quire bench select --clients 4",
            "quire safekeeper --config /x",
            "quire pageserver --config /x",
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }
}
