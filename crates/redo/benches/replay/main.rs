//! Crash recovery of a `pgbench` run, by PostgreSQL and natively, over the same WAL and the same files.
//!
//! A server with an initialised `pgbench` takes a checkpoint, runs TPC-B and is stopped as by a crash. Then, round by
//! round, on a fresh copy of its data directory:
//!
//! - *natively*: the WAL since the checkpoint is read from its files, cut into records and their CRCs checked, and
//!   every record applied to pages in memory. These are read from the data directory when the first of 32 neighbours is
//!   touched, unless the record brings an image of the page. One thread; all of this is in its CPU time, the system's
//!   part included. The system gives the memory of the pages meanwhile, in huge pages where there are any.
//! - *PostgreSQL* recovers the directory: the CPU time is what it prints when redo is done, which is that of the same
//!   work in its startup process, one thread too. Its buffers hold all pages, so that it need not write any meanwhile,
//!   and the checkpoint afterwards is not counted. Unlike us it also notes free space that it learns of, and could
//!   serve its buffers to others, which is what it has locks for; and the system gives it the memory of its buffers
//!   meanwhile, in small pages as it is set up here.
//!
//! Before each of the two some memory is taken and given back: a virtual machine's host lets one who touches memory for
//! the first time wait longer for it than a whole replay takes, and who that is would be chance.
//!
//! After PostgreSQL was stopped cleanly, its files must equal our pages under the masks, and hold no page changed since
//! the checkpoint that we have not touched: a wrong replay is no result.
//!
//! Full-page writes are off, which is how Quire's computes run, and then on, where both mostly copy images.
//! `REPLAY_SCALE`, `REPLAY_TRANSACTIONS`, `REPLAY_CLIENTS` and `REPLAY_ROUNDS` change the size.
//!
//! Figures of a virtual machine with two cores of an AMD EPYC (Zen 5), PostgreSQL 15.18; the median of five rounds,
//! which lay within 4 % of it, in millions of records per CPU second:
//!
//! | full-page writes | records | native | PostgreSQL | ratio |
//! |---|---|---|---|---|
//! | off | 1,239,000 | 5.17 | 1.59 | 3.3 |
//! | on | 1,240,000 | 4.63 | 1.57 | 3.0 |
//!
//! In other hours PostgreSQL was faster there, and the ratios 3.1 and 2.8. The longer the run, the less it weighs that
//! PostgreSQL reads pages one by one: with 500,000 transactions it was 2.9 and 2.8.
//!
//! Where a record's 187 ns go, with full-page writes off: reading pages and memory for them 36, reading WAL 8, cutting
//! and CRCs 16, walking headers and finding pages 33, the look-ahead 30, pruning, which nearly every change of an
//! account does, 35 (220 each), and all other changes 30. The accounts are 160 MiB in no order, which is what the
//! look-ahead is for.

mod arena;
#[path = "../../tests/oracle/cluster.rs"]
#[expect(dead_code, reason = "shared with the oracle, which needs more of it")]
mod cluster;
mod crash;
#[path = "../../tests/oracle/files.rs"]
mod files;
mod native;
#[path = "../../tests/oracle/pages.rs"]
#[expect(dead_code, reason = "shared with the oracle, which needs more of it")]
mod pages;
mod prefetch;
mod recovery;
mod store;
#[path = "../../tests/oracle/unreferenced.rs"]
mod unreferenced;
mod verify;

use anyhow::{Result, ensure};
use crash::{Crashed, Size};
use native::Replay;
use recovery::recover;
use std::time::Duration;

fn main() -> Result<()> {
    let size = Size::from_environment()?;
    println!("pgbench: {size}");
    for full_page_writes in ["off", "on"] {
        let crashed = Crashed::make(&size, full_page_writes)?;
        let mut ratios = Vec::new();
        for _ in 0..size.rounds {
            ratios.push(round(&crashed)?);
        }
        println!("full_page_writes = {full_page_writes}: {:.2} times PostgreSQL (median)\n", median(ratios));
    }
    Ok(())
}

/// Replays and recovers once, compares, prints; how many times PostgreSQL's records per CPU second ours are.
fn round(crashed: &Crashed) -> Result<f64> {
    let data = crashed.restore()?;
    let control = crashed.control_file()?;
    arena::warm_up()?;
    let replay = Replay::run(&data, &control)?;
    arena::warm_up()?;
    let recovery = recover(&crashed.cluster)?;
    ensure!(
        (replay.first_record, replay.last_record) == (recovery.first_record, recovery.last_record),
        "PostgreSQL replayed {} to {}, we {} to {}",
        recovery.first_record,
        recovery.last_record,
        replay.first_record,
        replay.last_record
    );
    let compared = verify::compare(&replay, &data)?;
    println!("{} records, {compared} pages touched and equal to PostgreSQL's", replay.records);
    if replay.skipped > 0 {
        println!("  {} changes of pages that were written after them", replay.skipped);
    }
    report("native", replay.records, replay.cpu, None);
    report("PostgreSQL", replay.records, recovery.cpu, Some(recovery.elapsed));
    Ok(recovery.cpu.as_secs_f64() / replay.cpu.as_secs_f64())
}

fn report(who: &str, records: u64, cpu: Duration, elapsed: Option<Duration>) {
    let seconds = cpu.as_secs_f64();
    let elapsed = elapsed.map_or(String::new(), |elapsed| format!(", {:.2} s elapsed", elapsed.as_secs_f64()));
    println!("  {who:<10} {seconds:>6.3} s of CPU, {:>9.0} records per CPU second{elapsed}", records as f64 / seconds);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
