//! PostgreSQL's own crash recovery, and what it says of it in its log.

use crate::cluster::Cluster;
use anyhow::{Context, Result};
use quire_types::Lsn;
use std::fs;
use std::time::Duration;

/// What PostgreSQL reports of its redo.
pub struct Recovery {
    /// Where redo started.
    pub first_record: Lsn,
    /// Start of the last record.
    pub last_record: Lsn,
    /// User and system time of the process, between the two.
    pub cpu: Duration,
    /// Time that passed.
    pub elapsed: Duration,
}

/// Lets PostgreSQL recover its data directory, and stops it cleanly.
pub fn recover(cluster: &Cluster) -> Result<Recovery> {
    let log = cluster.home().join("log");
    if log.exists() {
        fs::remove_file(&log)?;
    }
    cluster.start()?;
    cluster.stop()?;
    let log = fs::read_to_string(log)?;
    parse(&log).with_context(|| format!("no recovery in PostgreSQL's log:\n{log}"))
}

/// Finds `redo starts at X/X`, and `redo done at X/X system usage: CPU: user: N s, system: N s, elapsed: N s`.
fn parse(log: &str) -> Option<Recovery> {
    let starts = log.split_once("redo starts at ")?.1;
    let done = starts.split_once("redo done at ")?.1;
    let seconds = |name: &str| {
        let number = done.split_once(name)?.1.split_once(" s")?.0;
        Some(Duration::from_secs_f64(number.trim().parse().ok()?))
    };
    Some(Recovery {
        first_record: lsn(starts)?,
        last_record: lsn(done)?,
        cpu: seconds("user:")? + seconds("system:")?,
        elapsed: seconds("elapsed:")?,
    })
}

fn lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.split_whitespace().next()?.split_once('/')?;
    let [high, low] = [high, low].map(|half| u64::from_str_radix(half, 16).ok());
    Some(Lsn(high? << 32 | low?))
}
