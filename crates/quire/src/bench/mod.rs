//! `quire bench`: what Quire does, beside what the same PostgreSQL does on the local disk of the same machine at the
//! same time.
//!
//! With `--compare` both servers run the same workload in alternating rounds, so that a machine that is slow for a
//! minute is slow for both; compare ratios, never rates of different runs. Each round begins with a checkpoint on its
//! server, after which stock PostgreSQL logs every page it touches for the first time in full, as it does after each of
//! its own.

mod cold;
mod coldread;
mod cpus;
mod limit;
mod pgbench;
mod random_reads;
mod report;
mod seqscan;
mod stock;
mod target;

use crate::context::Context;
use crate::deployment::Branch;
use crate::roles::Role;
use crate::status::stored_branch;
use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use pgbench::{Load, Workload};
use quire_api::STATUS;
use quire_api::compute::{Phase, Status};
use report::{Report, Round};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use stock::Stock;
use target::Target;

/// Run benchmarks, optionally next to the same PostgreSQL on local disk
#[derive(clap::Subcommand, Debug)]
#[command(
    after_help = "Examples:\n  quire bench tpcb --compare --scale 50 --clients 8\n  quire bench select --compare --report bench/"
)]
pub enum Command {
    /// pgbench's TPC-B-like transaction: three updates, an insert, a select
    Tpcb(Args),
    /// pgbench's select by primary key, with everything in the local cache
    Select(Args),
    /// One client's scan of the accounts from beginning to end, nothing of them in any cache
    Seqscan(Args),
    /// Random blocks of the accounts from an empty cache, and what limits that
    ///
    /// Clients of the compute read each block once, in rounds of three seconds (--seconds and --compare change
    /// nothing): first without CPU pinning, then with half of the CPUs for the pageserver. As many clients that ask the
    /// pageserver directly show what it can do. The last line of the report names the bottleneck. CPU affinity is
    /// restored when a measurement ends.
    Coldread(Args),
}

/// How to measure.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// The branch [default: main]
    branch: Option<String>,

    /// Also measure stock PostgreSQL on the local disk, round by round
    #[arg(long)]
    compare: bool,

    /// pgbench's scale: 100,000 accounts each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    scale: u32,

    /// Client connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// Length of a round
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// Rounds for each server
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Write the report, as JSON and as Markdown, into this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

impl Command {
    /// Measures and prints ratios.
    pub fn run(&self, context: &Context) -> Result<ExitCode> {
        match self {
            Command::Tpcb(args) => warm(context, args, Workload::Tpcb),
            Command::Select(args) => warm(context, args, Workload::Select),
            Command::Seqscan(args) => seqscan::run(context, args),
            Command::Coldread(args) => coldread::run(context, args),
        }
    }
}

/// A workload of pgbench, everything in the caches.
fn warm(context: &Context, args: &Args, workload: Workload) -> Result<ExitCode> {
    let branch = context.branch(args.branch.as_deref())?;
    let report = measure(context, &branch, args, workload)?;
    if let Some(folder) = &args.report {
        report.write(folder)?;
    }
    context.answer(&report, Report::table)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(context: &Context, branch: &Branch, args: &Args, workload: Workload) -> Result<Report> {
    require_running(branch)?;
    let deployment = context.deployment()?;
    let load = Load::new(&deployment.pg_bin, workload, args.scale, args.clients, args.seconds);
    let quire = Target::new("quire", branch.url(), branch.url_of(target::DATABASE));
    let stock = args.compare.then(|| Stock::start(&context.home, &deployment, &quire)).transpose()?;
    let mut targets = vec![quire];
    targets.extend(stock.as_ref().map(Stock::target));
    for target in &targets {
        eprintln!("{}: loading scale {}", target.name(), args.scale);
        target.prepare(&load)?;
    }
    let pushdown = stored_branch(&deployment, branch).and_then(|stored| Some(stored.open?.pushdown.state));
    let rounds = run_rounds(&targets, &load, args.rounds)?;
    targets[0].drop_database()?;
    Report::new(&load, pushdown, rounds)
}

/// Each round measures all targets, in an order that turns round each time.
fn run_rounds(targets: &[Target], load: &Load, count: u32) -> Result<Vec<Round>> {
    let progress = progress_bar(u64::from(count) * targets.len() as u64);
    let mut rounds = Vec::new();
    for number in 1..=count {
        let mut order: Vec<&Target> = targets.iter().collect();
        if number % 2 == 0 {
            order.reverse();
        }
        for target in order {
            progress.set_message(format!("{}, round {number} of {count}", target.name()));
            let round = target.measure(load, number)?;
            if progress.is_hidden() {
                eprintln!("{}", round.line())
            } else {
                progress.println(round.line())
            }
            rounds.push(round);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(rounds)
}

fn progress_bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {msg} ({eta} left)").expect("the template is well-formed");
    let bar = ProgressBar::new(length).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn require_running(branch: &Branch) -> Result<()> {
    let status: Status = Role::Compute(branch.clone()).peer().get(STATUS).context("start it with `quire up`")?;
    ensure!(status.state == Phase::Running, "the compute is {}; start it with `quire compute start`", status.state);
    Ok(())
}
