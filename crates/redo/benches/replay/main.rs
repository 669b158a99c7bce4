//! Crash recovery of a `pgbench` run, by PostgreSQL and natively, over the same WAL and the same files.
//!
//! A server with an initialised `pgbench` takes a checkpoint, runs TPC-B and is stopped as by a crash. Then, round by
//! round, on a fresh copy of its data directory:
//!
//! - *natively*: the WAL since the checkpoint is read from its files, cut into records and their CRCs checked, and every
//!   record applied to pages in memory, which are read from the data directory, 32 neighbours at a time, when the first of
//!   them is touched. One thread; all of this is in its CPU time, the system's part included. The system
//!   gives the memory of the pages meanwhile, in huge pages where there are any.
//! - *PostgreSQL* recovers the directory: the CPU time is what it prints when redo is done, which is that of the same work
//!   in its startup process, one thread too. Its buffers hold all pages, so that it need not write any meanwhile, and the
//!   checkpoint afterwards is not counted. Unlike us it also notes free space that it learns of, and could serve its
//!   buffers to others, which is what it has locks for; and the system gives it the memory of its buffers meanwhile, in
//!   small pages as it is set up here.
//!
//! After PostgreSQL was stopped cleanly, its files must equal our pages under the masks, and hold no page changed since
//! the checkpoint that we have not touched: a wrong replay is no result.
//!
//! Full-page writes are off, which is how Quire's computes run, and then on, where both mostly copy images.
//! `REPLAY_SCALE`, `REPLAY_TRANSACTIONS`, `REPLAY_CLIENTS` and `REPLAY_ROUNDS` change the size.
//!
//! Figures of a virtual machine with two cores of an AMD EPYC (Zen 5) that others worked on too (load average 7),
//! PostgreSQL 15.18; the median of five rounds, in millions of records per CPU second:
//!
//! | full-page writes | records | native | PostgreSQL | ratio |
//! |---|---|---|---|---|
//! | off | 1,238,208 | 3.20 | 1.59 | 2.0 |
//! | on | 1,236,286 | 2.06 | 1.63 | 1.3 |
//!
//! Single rounds lay between 1.1 and 2.7 with full-page writes off: giving 160 MiB of memory to the pages takes the system up to as long
//! as all the rest (0.3 s). With memory that was kept from the round before it was 2.5 and 2.3 times.
//!
//! The same kinds of records take 65 to 115 ns each in `benches/pages`, where the page is at hand. Here the accounts are
//! 160 MiB in no order, which is what the look-ahead of `native` is for. What is left, by the profile, is pruning, because
//! nearly every change of an account prunes its page (a fifth); reading files (a tenth); CRCs (a twentieth); and for the
//! rest walking headers, applying, and still waiting for memory.

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
    let replay = Replay::run(&data, &control)?;
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
