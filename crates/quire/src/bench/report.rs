//! Rounds, medians, ratios.

use super::pgbench::{Load, Outcome};
use crate::table::Table;
use anyhow::{Context, Result};
use quire_api::pageserver::PushdownState;
use quire_files::{Durability, publish};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// One round of one target.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Which server.
    pub target: &'static str,
    /// From 1.
    pub number: u32,
    /// What pgbench measured.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// WAL written meanwhile.
    pub wal_bytes: u64,
    /// Full page images in it.
    pub full_page_images: u64,
}

impl Round {
    /// Bytes of WAL for each transaction.
    fn wal_bytes_per_transaction(&self) -> f64 {
        self.wal_bytes as f64 / self.outcome.transactions.max(1) as f64
    }

    /// The round in one line.
    pub fn line(&self) -> String {
        format!(
            "{:5}  round {}  {:9.1} tps  {:7.3} ms  {:8.0} WAL bytes/transaction  {} images  {} failed",
            self.target,
            self.number,
            self.outcome.tps,
            self.outcome.latency_ms,
            self.wal_bytes_per_transaction(),
            self.full_page_images,
            self.outcome.failed
        )
    }
}

/// The medians of a target's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Which server.
    pub target: &'static str,
    /// Transactions per second.
    pub tps: f64,
    /// Mean latency.
    pub latency_ms: f64,
    /// Bytes of WAL for each transaction.
    pub wal_bytes_per_transaction: f64,
    /// Failed transactions, in all rounds.
    pub failed: u64,
}

/// Quire's figure over the stock server's.
#[derive(Clone, Debug, Serialize)]
pub struct Ratios {
    /// More is better.
    pub tps: f64,
    /// Less is better.
    pub latency: f64,
    /// Less is better; none where the stock server wrote no WAL to speak of.
    pub wal_bytes_per_transaction: Option<f64>,
}

/// A whole measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    load: Load,
    pushdown: Option<PushdownState>,
    cpus: usize,
    summaries: Vec<Summary>,
    ratios: Option<Ratios>,
    rounds: Vec<Round>,
}

impl Report {
    /// Sums up the rounds of Quire and, if there are any, of the stock server.
    pub fn new(load: &Load, pushdown: Option<PushdownState>, rounds: Vec<Round>) -> Result<Report> {
        let summaries: Vec<Summary> =
            ["quire", "stock"].iter().filter_map(|target| summarise(target, &rounds)).collect();
        let ratios = match &summaries[..] {
            [quire, stock] => Some(Ratios::new(quire, stock)),
            _ => None,
        };
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        Ok(Report { load: load.clone(), pushdown, cpus, summaries, ratios, rounds })
    }

    /// The report as people read it, in Markdown.
    pub fn table(&self) -> String {
        let mut text = self.headline();
        let mut table = Table::new(["", "tps", "latency ms", "WAL bytes/transaction", "failed"]);
        for summary in &self.summaries {
            table.row([
                summary.target.to_owned(),
                format!("{:.1}", summary.tps),
                format!("{:.3}", summary.latency_ms),
                format!("{:.0}", summary.wal_bytes_per_transaction),
                summary.failed.to_string(),
            ]);
        }
        if let Some(ratios) = &self.ratios {
            table.row([
                "quire/stock".to_owned(),
                format!("{:.2}", ratios.tps),
                format!("{:.2}", ratios.latency),
                ratios.wal_bytes_per_transaction.map_or("-".to_owned(), |ratio| format!("{ratio:.3}")),
                String::new(),
            ]);
        }
        text.push_str(&table.render_markdown());
        text
    }

    /// Writes the report in both forms.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write(folder, &self.load.workload.to_string(), self, &self.table())
    }

    fn headline(&self) -> String {
        let Load { workload, scale, clients, seconds, .. } = &self.load;
        let rounds = self.rounds.iter().map(|round| round.number).max().unwrap_or(0);
        let pushdown = self.pushdown.unwrap_or(PushdownState::Unknown).name();
        format!(
            "{workload}, scale {scale}, {clients} clients, {rounds} rounds of {seconds} s (medians), {} CPUs, pushdown {pushdown}\n\n",
            self.cpus
        )
    }
}

/// Writes a report called `name`, for programs and for people.
pub fn write(folder: &Path, name: &str, report: &impl Serialize, table: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    publish(&folder.join(format!("{name}.json")), &serde_json::to_vec_pretty(report)?, Durability::Machine)?;
    publish(&folder.join(format!("{name}.md")), table.as_bytes(), Durability::Machine)?;
    Ok(())
}

impl Ratios {
    fn new(quire: &Summary, stock: &Summary) -> Ratios {
        Ratios {
            tps: quire.tps / stock.tps,
            latency: quire.latency_ms / stock.latency_ms,
            wal_bytes_per_transaction: (stock.wal_bytes_per_transaction >= 1.0)
                .then(|| quire.wal_bytes_per_transaction / stock.wal_bytes_per_transaction),
        }
    }
}

fn summarise(target: &'static str, rounds: &[Round]) -> Option<Summary> {
    let own: Vec<&Round> = rounds.iter().filter(|round| round.target == target).collect();
    if own.is_empty() {
        return None;
    }
    let median_of = |figure: fn(&Round) -> f64| median(own.iter().map(|round| figure(round)).collect());
    Some(Summary {
        target,
        tps: median_of(|round| round.outcome.tps),
        latency_ms: median_of(|round| round.outcome.latency_ms),
        wal_bytes_per_transaction: median_of(Round::wal_bytes_per_transaction),
        failed: own.iter().map(|round| round.outcome.failed).sum(),
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::pgbench::Workload;

    fn round(target: &'static str, number: u32, tps: f64, wal_bytes: u64) -> Round {
        let outcome = Outcome { transactions: 10, failed: 0, latency_ms: 1000.0 / tps, tps };
        Round { target, number, outcome, wal_bytes, full_page_images: 0 }
    }

    #[test]
    fn median_is_the_middle_or_the_mean_of_both_middles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn ratios_are_of_medians_and_only_with_both_servers() {
        let load = Load::new(Path::new("/"), Workload::Tpcb, 1, 1, 1);
        let rounds = vec![round("quire", 1, 50.0, 100), round("stock", 1, 100.0, 1000)];
        let both = Report::new(&load, None, rounds.clone()).expect("report");
        let ratios = both.ratios.as_ref().expect("both measured");
        assert_eq!((ratios.tps, ratios.wal_bytes_per_transaction), (0.5, Some(0.1)));
        assert!(both.table().contains("quire/stock"));
        let alone = Report::new(&load, None, rounds[..1].to_vec()).expect("report");
        assert!(alone.ratios.is_none());
    }
}
