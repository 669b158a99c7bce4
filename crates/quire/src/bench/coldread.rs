//! Random reads from an empty cache, and what limits them: as many clients ask the pageserver for random pages directly, which is
//! what it can do at best. A compute that gets the same number of pages is limited by the pageserver and not by its agent.

use super::cold::{Usage, empty_page_cache, restart_cold};
use super::pgbench::{Load, Workload};
use super::target::{DATABASE, Target};
use super::{Args, report, require_running};
use crate::context::Context;
use crate::roles::Role;
use crate::state::{Branch, State};
use crate::table::Table;
use anyhow::{Context as _, Result};
use quire_compute::page_client::PageClient;
use quire_types::{Fork, Key, Lsn, RelTag, ShardId, TimelineKey};
use serde::Serialize;
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(60);
/// Length of a measurement: in a longer one most pages would come to be in the cache.
const SECONDS: u32 = 3;

/// What one kind of client got.
#[derive(Debug, Serialize)]
struct Figures {
    seconds: f64,
    pages: u64,
    pages_per_second: f64,
    requests: u64,
    agent_cpu_seconds: f64,
    pageserver_cpu_seconds: f64,
    /// Processor time of the pageserver for each page.
    pageserver_cpu_us_per_page: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    scale: u32,
    clients: u32,
    page_cache_emptied: bool,
    transactions_per_second: f64,
    compute: Figures,
    pageserver_alone: Figures,
}

/// Measures and prints.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let branch = context.branch(args.branch.as_deref())?;
    require_running(&branch)?;
    let state = context.state()?;
    let quire = Target::new("quire", branch.url(), branch.url_of(DATABASE));
    let load = Load::new(&state.pg_bin, Workload::Select, args.scale, args.clients, SECONDS);
    eprintln!("loading scale {}", args.scale);
    quire.load(&load)?;
    restart_cold(&branch)?;
    let page_cache_emptied = empty_page_cache();
    let table = Accounts::find(&quire, &branch)?;
    let usage = || Usage::now(context, &state, &branch);
    eprintln!("{} clients of the compute", args.clients);
    let before = usage()?;
    let outcome = load.run(quire.url())?;
    let compute = Figures::new(f64::from(SECONDS), &usage()?.since(&before));
    eprintln!("{} clients of the pageserver", args.clients);
    let before = usage()?;
    let (pages, seconds) = table.read_directly(&state, &branch, args)?;
    let used = usage()?.since(&before);
    let pageserver_alone = Figures::new(seconds, &Usage { pages, requests: pages, ..used });
    quire.drop_database()?;
    let transactions_per_second = outcome.tps;
    let (scale, clients) = (args.scale, args.clients);
    let report = Report { scale, clients, page_cache_emptied, transactions_per_second, compute, pageserver_alone };
    if let Some(folder) = &args.report {
        report::write(folder, "coldread", &report, &report.table())?;
    }
    context.answer(&report, Report::table)?;
    Ok(ExitCode::SUCCESS)
}

impl Figures {
    fn new(seconds: f64, used: &Usage) -> Figures {
        let Usage { agent_cpu_seconds, pageserver_cpu_seconds, requests, pages, .. } = *used;
        Figures {
            seconds,
            pages,
            pages_per_second: pages as f64 / seconds,
            requests,
            agent_cpu_seconds,
            pageserver_cpu_seconds,
            pageserver_cpu_us_per_page: pageserver_cpu_seconds * 1e6 / pages.max(1) as f64,
        }
    }
}

/// The table whose pages are read.
struct Accounts {
    rel: RelTag,
    blocks: u64,
    lsn: Lsn,
}

impl Accounts {
    fn find(quire: &Target, branch: &Branch) -> Result<Accounts> {
        let session = quire.session()?;
        let oid = |expression: &str| Ok::<u32, anyhow::Error>(u32::try_from(session.number(expression)?)?);
        let database = oid("(SELECT oid FROM pg_database WHERE datname = current_database())")?;
        let relation = oid("pg_relation_filenode('pgbench_accounts')")?;
        let rel = RelTag { tablespace: RelTag::DEFAULT_TABLESPACE, database, relation, fork: Fork::Main };
        let blocks = session.number("pg_relation_size('pgbench_accounts') / 8192")?;
        let status: Value = Role::Compute(branch.clone()).peer().get("/status")?;
        let lsn = status["lsn"]["committed"].as_str().and_then(|text| text.parse().ok());
        Ok(Accounts { rel, blocks, lsn: lsn.context("the compute does not say what is committed")? })
    }

    /// Has clients with a connection each ask for one random page after the other; how many came, in how many seconds.
    fn read_directly(&self, state: &State, branch: &Branch, args: &Args) -> Result<(u64, f64)> {
        let address = state.pageservers.first().context("there is no pageserver")?.address();
        let timeline = TimelineKey { project: state.project, branch: branch.id };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let begun = Instant::now();
            let end = begun + Duration::from_secs(SECONDS.into());
            let mut clients = JoinSet::new();
            for number in 0..args.clients {
                let client = PageClient::new(address, timeline, ShardId::UNSHARDED);
                clients.spawn(read_until(end, client, self.rel, self.blocks, self.lsn, number));
            }
            let mut pages = 0;
            while let Some(read) = clients.join_next().await {
                pages += read??;
            }
            Ok((pages, begun.elapsed().as_secs_f64()))
        })
    }
}

async fn read_until(end: Instant, client: PageClient, rel: RelTag, blocks: u64, lsn: Lsn, number: u32) -> Result<u64> {
    let mut pages = 0;
    while Instant::now() < end {
        let block = u32::try_from(scattered(u64::from(number) << 32 | pages) % blocks.max(1))?;
        client.get_pages(lsn, vec![Key::RelBlock { rel, block }], PATIENCE).await?;
        pages += 1;
    }
    Ok(pages)
}

/// A number that looks random, always the same for the same input. Source: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Report {
    fn table(&self) -> String {
        let cache = if self.page_cache_emptied { "emptied" } else { "NOT emptied (not root)" };
        let mut text = format!(
            "cold random reads, scale {}, {} clients, kernel page cache {cache} before, {:.0} selects/s by the compute\n\n",
            self.scale, self.clients, self.transactions_per_second
        );
        let headings = ["", "pages/s", "pages", "requests", "agent CPU s", "pageserver CPU s", "pageserver us/page"];
        let mut table = Table::new(headings);
        for (name, figures) in [("compute", &self.compute), ("pageserver alone", &self.pageserver_alone)] {
            table.row([
                name.to_owned(),
                format!("{:.0}", figures.pages_per_second),
                figures.pages.to_string(),
                figures.requests.to_string(),
                format!("{:.2}", figures.agent_cpu_seconds),
                format!("{:.2}", figures.pageserver_cpu_seconds),
                format!("{:.0}", figures.pageserver_cpu_us_per_page),
            ]);
        }
        text.push_str(&table.render_markdown());
        text
    }
}
