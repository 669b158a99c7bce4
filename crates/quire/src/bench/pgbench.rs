//! Running pgbench and reading what it says.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the clients do.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// The TPC-B-like script.
    Tpcb,
    /// Selects by primary key.
    Select,
}

impl Workload {
    fn script(self) -> &'static str {
        match self {
            Workload::Tpcb => "tpcb-like",
            Workload::Select => "select-only",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Workload::Tpcb => "tpcb",
            Workload::Select => "select",
        })
    }
}

/// A workload with its size, the same for every target.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    #[serde(skip)]
    program: PathBuf,
    /// What the clients do.
    pub workload: Workload,
    /// pgbench's scale.
    pub scale: u32,
    /// Client connections.
    pub clients: u32,
    /// Seconds in a round.
    pub seconds: u32,
}

/// What one run of pgbench measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Transactions done.
    pub transactions: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// Mean latency.
    pub latency_ms: f64,
    /// Transactions per second.
    pub tps: f64,
}

impl Load {
    /// A load driven by the pgbench in `pg_bin`, or the one on the path.
    pub fn new(pg_bin: &Path, workload: Workload, scale: u32, clients: u32, seconds: u32) -> Load {
        let beside_server = pg_bin.join("pgbench");
        let program = if beside_server.is_file() { beside_server } else { "pgbench".into() };
        Load { program, workload, scale, clients, seconds }
    }

    /// Loads the tables.
    pub fn fill(&self, url: &str) -> Result<()> {
        self.pgbench(&["-i", "-q", "-s", &self.scale.to_string(), url]).map(drop)
    }

    /// Runs the workload for as long as a round is.
    pub fn run(&self, url: &str) -> Result<Outcome> {
        self.run_for(url, self.seconds)
    }

    /// Runs the workload for `seconds`.
    pub fn run_for(&self, url: &str, seconds: u32) -> Result<Outcome> {
        let threads = std::thread::available_parallelism().map_or(1, |cpus| cpus.get()).min(self.clients as usize);
        let arguments = [
            "-n",
            "-Mprepared",
            &format!("-c{}", self.clients),
            &format!("-j{threads}"),
            &format!("-T{seconds}"),
            &format!("-b{}", self.workload.script()),
            url,
        ];
        let said = self.pgbench(&arguments)?;
        parse(&said).with_context(|| format!("pgbench says nothing that can be used:\n{said}"))
    }

    fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.program).args(arguments).output();
        let output = output.with_context(|| format!("cannot run {}; install pgbench", self.program.display()))?;
        if !output.status.success() {
            bail!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn parse(said: &str) -> Option<Outcome> {
    let after = |label: &str| said.lines().find_map(|line| line.strip_prefix(label));
    let first = |label: &str| after(label)?.trim_start_matches([':', '=', ' ']).split([' ', '/']).next();
    Some(Outcome {
        transactions: first("number of transactions actually processed")?.parse().ok()?,
        failed: first("number of failed transactions")?.parse().ok()?,
        latency_ms: first("latency average")?.parse().ok()?,
        tps: first("tps")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_pgbench_prints() {
        let said = "\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: TPC-B (sort of)>
number of transactions actually processed: 30145
number of failed transactions: 2 (0.007%)
latency average = 2.654 ms
initial connection time = 15.410 ms
tps = 3014.259815 (without initial connection time)
";
        let expected = Outcome { transactions: 30145, failed: 2, latency_ms: 2.654, tps: 3014.259815 };
        assert_eq!(parse(said), Some(expected));
        assert_eq!(parse("pgbench: error"), None);
    }
}
