//! A cold sequential scan: every page of the accounts comes from the pageserver, or on the stock server from its disk.
//!
//! Before each scan the server is restarted, so that its buffers are empty, Quire's with an empty cache that is not
//! warmed up. Then the kernel's page cache is emptied, which takes the stock server's files as well as the pageserver's
//! layers out of memory. What the pageserver itself keeps in memory stays.

use super::cold::{Usage, empty_page_cache, restart_cold};
use super::pgbench::{Load, Workload};
use super::stock::Stock;
use super::target::{DATABASE, Target};
use super::{Args, report, require_running};
use crate::context::Context;
use crate::deployment::{Branch, Deployment};
use crate::table::Table;
use anyhow::Result;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

const SCAN: &str = "SELECT sum(abalance) FROM pgbench_accounts";
const ONE_PROCESS: &str = "SET max_parallel_workers_per_gather = 0";

/// One scan.
#[derive(Clone, Debug, Serialize)]
struct Scan {
    target: &'static str,
    number: u32,
    seconds: f64,
    mib_per_second: f64,
    /// Fetches that the scan waited for; none on the stock server, as all that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pageserver_cpu_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    scale: u32,
    table_bytes: u64,
    page_cache_emptied: bool,
    /// Medians.
    quire_seconds: f64,
    stock_seconds: Option<f64>,
    /// How fast Quire's scan is where the stock server's is 1.
    speed_ratio: Option<f64>,
    scans: Vec<Scan>,
}

/// What is scanned, and where.
struct Bench<'a> {
    context: &'a Context,
    deployment: Deployment,
    branch: Branch,
    quire: Target,
    page_cache_emptied: bool,
    table_bytes: u64,
}

/// Measures and prints.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let branch = context.branch(args.branch.as_deref())?;
    require_running(&branch)?;
    let deployment = context.deployment()?;
    let quire = Target::new("quire", branch.url(), branch.url_of(DATABASE));
    let mut stock = args.compare.then(|| Stock::start(&context.home, &deployment, &quire)).transpose()?;
    let load = Load::new(&deployment.pg_bin, Workload::Select, args.scale, args.clients, args.seconds);
    for target in stock.as_ref().map(Stock::target).iter().chain([&quire]) {
        eprintln!("{}: loading scale {}", target.name(), args.scale);
        target.load(&load)?;
    }
    let table_bytes = quire.session()?.number("pg_relation_size('pgbench_accounts')")?;
    let mut bench = Bench { context, deployment, branch, quire, page_cache_emptied: true, table_bytes };
    let mut scans = Vec::new();
    for number in 1..=args.rounds {
        scans.push(bench.scan_quire(number)?);
        if let Some(stock) = &mut stock {
            scans.push(bench.scan_stock(stock, number)?);
        }
    }
    bench.quire.drop_database()?;
    let report = bench.report(args.scale, scans);
    if let Some(folder) = &args.report {
        report::write(folder, "seqscan", &report, &report.table())?;
    }
    context.answer(&report, Report::table)?;
    Ok(ExitCode::SUCCESS)
}

impl Bench<'_> {
    fn scan_quire(&mut self, number: u32) -> Result<Scan> {
        restart_cold(&self.branch)?;
        self.page_cache_emptied &= empty_page_cache();
        let session = self.quire.session()?;
        session.run(ONE_PROCESS)?;
        let before = Usage::now(self.context, &self.deployment, &self.branch)?;
        let begun = Instant::now();
        session.run(SCAN)?;
        let seconds = begun.elapsed().as_secs_f64();
        let used = Usage::now(self.context, &self.deployment, &self.branch)?.since(&before);
        Ok(Scan {
            waits: Some(used.waits),
            requests: Some(used.requests),
            pages: Some(used.pages),
            agent_cpu_seconds: Some(used.agent_cpu_seconds),
            pageserver_cpu_seconds: Some(used.pageserver_cpu_seconds),
            ..self.scan("quire", number, seconds)
        })
    }

    fn scan_stock(&mut self, stock: &mut Stock, number: u32) -> Result<Scan> {
        stock.restart()?;
        self.page_cache_emptied &= empty_page_cache();
        let session = stock.target().session()?;
        session.run(ONE_PROCESS)?;
        let begun = Instant::now();
        session.run(SCAN)?;
        Ok(self.scan("stock", number, begun.elapsed().as_secs_f64()))
    }

    fn scan(&self, target: &'static str, number: u32, seconds: f64) -> Scan {
        let mib_per_second = self.table_bytes as f64 / f64::from(1 << 20) / seconds;
        eprintln!("{target:5}  scan {number}  {seconds:7.2} s  {mib_per_second:7.1} MiB/s");
        let (waits, requests, pages) = (None, None, None);
        let (agent_cpu_seconds, pageserver_cpu_seconds) = (None, None);
        Scan {
            target,
            number,
            seconds,
            mib_per_second,
            waits,
            requests,
            pages,
            agent_cpu_seconds,
            pageserver_cpu_seconds,
        }
    }

    fn report(&self, scale: u32, scans: Vec<Scan>) -> Report {
        let quire_seconds = median(&scans, "quire").unwrap_or(f64::NAN);
        let stock_seconds = median(&scans, "stock");
        Report {
            scale,
            table_bytes: self.table_bytes,
            page_cache_emptied: self.page_cache_emptied,
            quire_seconds,
            stock_seconds,
            speed_ratio: stock_seconds.map(|seconds| seconds / quire_seconds),
            scans,
        }
    }
}

fn median(scans: &[Scan], target: &str) -> Option<f64> {
    let mut seconds: Vec<f64> = scans.iter().filter(|scan| scan.target == target).map(|scan| scan.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied()
}

impl Report {
    fn table(&self) -> String {
        let cache = if self.page_cache_emptied { "emptied" } else { "NOT emptied (not root)" };
        let size_mib = self.table_bytes >> 20;
        let mut text = format!(
            "cold sequential scan, scale {} ({size_mib} MiB), kernel page cache {cache} before each\n\n",
            self.scale
        );
        let headings = ["", "scan", "s", "MiB/s", "waits", "requests", "pages", "agent CPU s", "pageserver CPU s"];
        let mut table = Table::new(headings);
        let count = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
        let cpu = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
        for scan in &self.scans {
            table.row([
                scan.target.to_owned(),
                scan.number.to_string(),
                format!("{:.2}", scan.seconds),
                format!("{:.1}", scan.mib_per_second),
                count(scan.waits),
                count(scan.requests),
                count(scan.pages),
                cpu(scan.agent_cpu_seconds),
                cpu(scan.pageserver_cpu_seconds),
            ]);
        }
        text.push_str(&table.render_markdown());
        if let Some(ratio) = self.speed_ratio {
            text.push_str(&format!("\nspeed, quire/stock (medians): {ratio:.2}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_scan_of_a_target_counts() {
        let scan = |target, seconds| Scan {
            target,
            number: 1,
            seconds,
            mib_per_second: 1.0,
            waits: None,
            requests: None,
            pages: None,
            agent_cpu_seconds: None,
            pageserver_cpu_seconds: None,
        };
        let scans = [scan("quire", 3.0), scan("stock", 9.0), scan("quire", 1.0), scan("quire", 2.0)];
        assert_eq!(
            (median(&scans, "quire"), median(&scans, "stock"), median(&scans, "x")),
            (Some(2.0), Some(9.0), None)
        );
    }
}
