//! Random reads from an empty cache, and what limits them.
//!
//! Clients read single rows of blocks that are here and there, each block once, many in one statement, so that next to
//! nothing but cold reads is measured. For a part of it the pageserver has processors of its own and all else the
//! others. Clients that ask the pageserver directly, on the same processors, show what it can do at best; what the
//! agent can do follows from its processor time for a page. Who can do less is the limit, if the compute got about that
//! much. The files of the pageserver stay in the kernel's page cache, because what is compared is work and not a disk.

use super::cold::{Usage, restart_cold};
use super::cpus::{Confined, CpuTime, Halves};
use super::limit::{Limit, Rates, Side, judge};
use super::pgbench::{Load, Workload};
use super::random_reads::{Accounts, ComputeClients, Read, Storage};
use super::target::{DATABASE, Target};
use super::{Args, report, require_running};
use crate::context::Context;
use crate::deployment::{Branch, Deployment};
use crate::processes::{Kind, Process, of_folder};
use crate::table::Table;
use crate::user::compute_dirs;
use anyhow::Result;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Length of one measurement: in a longer one, blocks of the table would run out.
const LENGTH: Duration = Duration::from_secs(3);
/// Processors that the agent can use for fills that are waited for: they are the work of one thread.
const AGENT_CPUS: f64 = 1.0;

/// What some clients got.
#[derive(Debug, Serialize)]
struct Figures {
    seconds: f64,
    pages: u64,
    pages_per_second: f64,
    requests: u64,
    agent: Work,
    pageserver: Work,
    server: Work,
    clients: Work,
}

/// Processor time.
#[derive(Debug, Serialize)]
struct Work {
    cpu_seconds: f64,
    us_per_page: f64,
    /// In the mean at any moment.
    cpus: f64,
}

/// With processors divided.
#[derive(Debug, Serialize)]
struct Divided {
    halves: Halves,
    compute: Figures,
    pageserver_alone: Figures,
    /// What the two halves did while the compute was measured.
    pageserver_side: Side,
    compute_side: Side,
    /// Computed: what the agent's thread could do if it never waited.
    agent_pages_per_second_max: f64,
    limit: Limit,
}

#[derive(Debug, Serialize)]
struct Report {
    scale: u32,
    clients: u32,
    rounds: u32,
    /// All processes on all processors.
    shared: Figures,
    /// None where there is but one processor.
    divided: Option<Divided>,
}

/// Measures and prints.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let branch = context.branch(args.branch.as_deref())?;
    require_running(&branch)?;
    let deployment = context.deployment()?;
    let quire = Target::new("quire", branch.url(), branch.url_of(DATABASE));
    let load = Load::new(&deployment.pg_bin, Workload::Select, args.scale, args.clients, args.seconds);
    eprintln!("loading scale {}", args.scale);
    quire.load(&load)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let accounts = Accounts::find(&quire)?;
    let bench = Bench { context, args, deployment, branch, quire, runtime, accounts };
    let report = bench.measure()?;
    bench.quire.drop_database()?;
    if let Some(folder) = &args.report {
        report::write(folder, "coldread", &report, &report.table())?;
    }
    context.answer(&report, Report::table)?;
    Ok(ExitCode::SUCCESS)
}

/// What is read, and by whom.
struct Bench<'a> {
    context: &'a Context,
    args: &'a Args,
    deployment: Deployment,
    branch: Branch,
    quire: Target,
    runtime: Runtime,
    accounts: Accounts,
}

impl Bench<'_> {
    /// In each round all kinds of clients are measured, so that a machine that is slow for a while is slow for all.
    fn measure(&self) -> Result<Report> {
        let halves = Halves::here()?;
        let (mut shared, mut compute, mut alone) = (Sum::default(), Sum::default(), Sum::default());
        for round in 1..=self.args.rounds {
            eprintln!("round {round} of {}", self.args.rounds);
            shared.add(&self.read_through_compute(round, None)?);
            if let Some(halves) = &halves {
                compute.add(&self.read_through_compute(round, Some(halves))?);
                alone.add(&self.read_directly(round, halves)?);
            }
        }
        let divided = halves.map(|halves| Divided::new(halves, &compute, &alone));
        let (scale, clients, rounds) = (self.args.scale, self.args.clients, self.args.rounds);
        Ok(Report { scale, clients, rounds, shared: Figures::new(&shared), divided })
    }

    /// By clients of a compute whose cache is empty.
    fn read_through_compute(&self, round: u32, halves: Option<&Halves>) -> Result<Sum> {
        restart_cold(&self.branch)?;
        let clients = self.runtime.block_on(ComputeClients::connect(self.quire.url(), self.args.clients))?;
        let dealt = self.accounts.dealt(round, self.args.clients);
        let (_, sum) = self.observe(halves, || self.runtime.block_on(clients.read(dealt, LENGTH)))?;
        Ok(sum)
    }

    /// By clients of the pageserver.
    fn read_directly(&self, round: u32, halves: &Halves) -> Result<Sum> {
        let storage = Storage::find(&self.deployment, &self.branch, &self.accounts)?;
        let dealt = self.accounts.dealt(round, self.args.clients);
        let (read, sum) = self.observe(Some(halves), || self.runtime.block_on(storage.read(dealt, LENGTH)))?;
        Ok(Sum { used: Usage { pages: read.blocks, requests: read.blocks, ..sum.used }, ..sum })
    }

    /// What is used while `read` works, on divided processors if there are halves.
    fn observe(&self, halves: Option<&Halves>, read: impl FnOnce() -> Result<Read>) -> Result<(Read, Sum)> {
        let _confined = halves.map(|halves| self.confine(halves)).transpose()?;
        let usage = || Usage::now(self.context, &self.deployment, &self.branch);
        let busy_now = |halves: &Halves| anyhow::Ok((CpuTime::of(&halves.pageserver)?, CpuTime::of(&halves.others)?));
        let busy = || halves.map(busy_now).transpose();
        let (used_before, busy_before) = (usage()?, busy()?);
        let read = read()?;
        let (busy_after, used) = (busy()?, usage()?.since(&used_before));
        let mut sum = Sum { seconds: read.seconds, used, ..Sum::default() };
        if let (Some(before), Some(after)) = (busy_before, busy_after) {
            sum.pageserver_busy_seconds = after.0.busy_since(&before.0) * read.seconds;
            sum.others_busy_seconds = after.1.busy_since(&before.1) * read.seconds;
        }
        Ok((read, sum))
    }

    fn confine<'a>(&'a self, halves: &Halves) -> Result<Confined<impl Fn() -> Vec<i32> + use<'a>>> {
        let place = |process: &Process| match process.kind {
            Kind::Pageserver => (process.pid, halves.pageserver.as_slice()),
            Kind::Agent | Kind::Server | Kind::Safekeeper => (process.pid, halves.others.as_slice()),
        };
        let own = i32::try_from(std::process::id())?;
        let mut placed: Vec<_> = self.processes().iter().map(place).collect();
        placed.push((own, &halves.others));
        let list = move || self.processes().iter().map(|process| process.pid).chain([own]).collect();
        Confined::new(&placed, list)
    }

    fn processes(&self) -> Vec<Process> {
        of_folder(&self.context.home, &compute_dirs(&self.context.home, &self.deployment))
    }
}

/// What was measured of one kind of clients, in all rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    seconds: f64,
    used: Usage,
    /// For how long each half was busy, for whomever.
    pageserver_busy_seconds: f64,
    others_busy_seconds: f64,
}

impl Sum {
    fn add(&mut self, more: &Sum) {
        self.seconds += more.seconds;
        self.used = self.used.and(&more.used);
        self.pageserver_busy_seconds += more.pageserver_busy_seconds;
        self.others_busy_seconds += more.others_busy_seconds;
    }
}

impl Figures {
    fn new(sum: &Sum) -> Figures {
        let Sum { seconds, used, .. } = *sum;
        let work = |cpu_seconds: f64| Work {
            cpu_seconds,
            us_per_page: cpu_seconds * 1e6 / used.pages.max(1) as f64,
            cpus: cpu_seconds / seconds,
        };
        Figures {
            seconds,
            pages: used.pages,
            pages_per_second: used.pages as f64 / seconds,
            requests: used.requests,
            agent: work(used.agent_cpu_seconds),
            pageserver: work(used.pageserver_cpu_seconds),
            server: work(used.server_cpu_seconds),
            clients: work(used.clients_cpu_seconds),
        }
    }

    fn row(&self, name: &str) -> [String; 8] {
        let work = |work: &Work| format!("{:.1} us, {:.0} %", work.us_per_page, work.cpus * 100.0);
        [
            name.to_owned(),
            format!("{:.0}", self.pages_per_second),
            self.pages.to_string(),
            self.requests.to_string(),
            work(&self.agent),
            work(&self.pageserver),
            work(&self.server),
            work(&self.clients),
        ]
    }
}

impl Divided {
    fn new(halves: Halves, compute: &Sum, alone: &Sum) -> Divided {
        let (figures, seconds) = (Figures::new(compute), compute.seconds);
        let (pageserver_cpus, other_cpus) = (halves.pageserver.len() as f64, halves.others.len() as f64);
        let used = figures.agent.cpus + figures.server.cpus + figures.clients.cpus;
        let pageserver_busy = compute.pageserver_busy_seconds / seconds;
        let pageserver_side = Side::new(figures.pageserver.cpus / pageserver_cpus, pageserver_busy);
        let compute_side = Side::new(used / other_cpus, compute.others_busy_seconds / seconds);
        let alone = Figures::new(alone);
        let agent_max = AGENT_CPUS / figures.agent.us_per_page * 1e6;
        let rates = Rates { reached: figures.pages_per_second, pageserver_max: alone.pages_per_second, agent_max };
        Divided {
            pageserver_side,
            compute_side,
            agent_pages_per_second_max: agent_max,
            limit: judge(rates, [pageserver_side, compute_side]),
            compute: figures,
            pageserver_alone: alone,
            halves,
        }
    }

    fn verdict(&self) -> String {
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let others = self.halves.others.len();
        let of_others = |work: &Work| percent(work.cpus / others as f64);
        let Figures { agent, server, clients, pages_per_second, .. } = &self.compute;
        let alone = self.pageserver_alone.pages_per_second;
        [
            format!(
                "{}: the pageserver alone gives {alone:.0} pages/s, of which {} came through the compute; the agent could pass on {:.0} (computed \
                 from its CPU time for a page and its one thread).",
                self.limit.name(),
                percent(pages_per_second / alone),
                self.agent_pages_per_second_max,
            ),
            format!(
                "Through the compute the pageserver used {} of its CPUs ({}, {} used by others); of the other CPUs ({others}, {} used by \
                 others) the agent used {}, PostgreSQL {}, the clients {}.",
                percent(self.pageserver_side.used),
                self.halves.pageserver.len(),
                percent(self.pageserver_side.foreign),
                percent(self.compute_side.foreign),
                of_others(agent),
                of_others(server),
                of_others(clients),
            ),
        ]
        .join("\n")
    }
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "cold random reads, scale {}, {} clients, {} rounds of {} s; CPU time for each page, and in parts of one CPU\n\n",
            self.scale,
            self.clients,
            self.rounds,
            LENGTH.as_secs()
        );
        let headings = ["", "pages/s", "pages", "requests", "agent", "pageserver", "PostgreSQL", "clients"];
        let mut table = Table::new(headings);
        table.row(self.shared.row("compute, CPUs shared"));
        if let Some(divided) = &self.divided {
            table.row(divided.compute.row("compute, CPUs divided"));
            table.row(divided.pageserver_alone.row("pageserver alone, CPUs divided"));
        }
        text.push_str(&table.render_markdown());
        let one = "What limits them cannot be said: there is one CPU, which cannot be divided.".to_owned();
        text.push_str(&format!("\n{}\n", self.divided.as_ref().map_or(one, Divided::verdict)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pages: u64, agent: f64, pageserver: f64) -> Sum {
        let (agent_cpu_seconds, pageserver_cpu_seconds) = (agent, pageserver);
        let (server_cpu_seconds, clients_cpu_seconds) = (2.0, 0.5);
        let of_roles = Usage { agent_cpu_seconds, pageserver_cpu_seconds, server_cpu_seconds, ..Usage::default() };
        let used = Usage { pages, clients_cpu_seconds, ..of_roles };
        let others_busy_seconds = agent + server_cpu_seconds + clients_cpu_seconds;
        Sum { seconds: 10.0, used, pageserver_busy_seconds: pageserver + 0.1, others_busy_seconds }
    }

    fn divided(agent: f64, pageserver: f64) -> Divided {
        let halves = Halves { pageserver: vec![0], others: vec![1] };
        Divided::new(halves, &sum(200_000, agent, pageserver), &sum(250_000, 0.0, 9.9))
    }

    #[test]
    fn the_verdict_follows_the_measurement() {
        let said = divided(3.0, 9.7).verdict();
        assert!(said.contains("The pageserver limits cold random reads, and not the agent: "), "{said}");
        assert!(
            said.contains("the pageserver alone gives 25000 pages/s, of which 80 % came through the compute"),
            "{said}"
        );
        assert!(said.contains("the pageserver used 97 % of its CPUs (1, 1 % used by others)"), "{said}");
        assert!(said.contains("the agent used 30 %, PostgreSQL 20 %, the clients 5 %."), "{said}");
        assert!(said.contains("could pass on 66667 (computed"), "{said}");
        let said = divided(9.1, 9.7).verdict();
        assert!(
            said.contains("The agent limits cold random reads: the pageserver alone gives 25000 pages/s"),
            "{said}"
        );
    }

    #[test]
    fn rounds_are_added_up() {
        let mut total = sum(100, 1.0, 2.0);
        total.add(&sum(300, 3.0, 2.0));
        let figures = Figures::new(&total);
        assert_eq!((figures.pages, figures.seconds, figures.pages_per_second), (400, 20.0, 20.0));
        assert_eq!((figures.agent.us_per_page, figures.pageserver.cpus), (10_000.0, 0.2));
    }

    #[test]
    fn without_a_second_processor_nothing_is_claimed() {
        let shared = Figures::new(&sum(100, 1.0, 2.0));
        let report = Report { scale: 1, clients: 8, rounds: 1, shared, divided: None };
        assert!(report.table().contains("What limits them cannot be said"));
    }
}
