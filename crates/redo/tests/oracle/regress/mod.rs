//! PostgreSQL's own regression suite as the workload, with every page compared after every record, and a table of what
//! that has shown of each type of record.
//!
//! The suite runs as it is shipped, several times with other settings. Then the same server runs the other workloads, and
//! what neither reaches. `QUIRE_PG_SUITE` names the folder that `scripts/postgres-source.sh` prints; the table is written to
//! `QUIRE_REDO_COVERAGE`. Some minutes, and a few gigabytes of disk: log that was replayed is removed.

mod coverage;
mod extra;
mod kind;
mod suite;
mod test_line;

use crate::cluster::Cluster;
use crate::files::Files;
use crate::replay::{Mismatch, Replay};
use crate::{control_file, first_few, run_workloads, settings};
use anyhow::{Context, Result, ensure};
use quire_types::Lsn;
use quire_wal::DataPath;
use quire_wal::version::WAL_SEGMENT_BYTES_DEFAULT;
use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use suite::SuiteResult;

pub use coverage::{Coverage, Outcome};

/// `wal_log_hints` makes the first hint on a page after a checkpoint a record. The rest keeps the log until it is
/// replayed.
const SETTINGS: &str = "
wal_log_hints = on
wal_keep_size = 40GB
max_wal_size = 40GB
";

/// What the suite runs with, one time after the other: each way to compress an image, each level of the log at which the
/// server can be a Quire's, few and many buffers, checkpoints in between, and autovacuum.
const ROUNDS: [&str; 5] = [
    "wal_level = replica\nwal_compression = lz4\n",
    "wal_level = logical\nwal_compression = pglz\nshared_buffers = 16MB\n",
    "wal_level = replica\nwal_compression = zstd\nshared_buffers = 256MB\ndefault_toast_compression = lz4\n",
    "wal_level = logical\nwal_compression = off\ncheckpoint_timeout = 30s\n",
    "wal_level = replica\nshared_buffers = 128MB\nautovacuum = on\n",
];

/// As many pages at least are compared.
const COMPARED_MIN: usize = 10_000_000;

#[test]
#[ignore = "takes minutes and needs PostgreSQL's source: make oracle"]
fn pages_equal_postgresqls_throughout_its_regression_suite() -> Result<()> {
    let folder = env::var_os("QUIRE_PG_SUITE").map(PathBuf::from).context("QUIRE_PG_SUITE is not set")?;
    let cluster = Cluster::create(&settings(SETTINGS))?;
    cluster.start()?;
    cluster.stop()?;
    let mut replay = Replay::new(Files::load(&cluster.data())?.pages);
    let start = control_file(&cluster)?.checkpoint;
    let mut files = ComparedFiles::default();
    let mut outcome = SuiteResult::default();
    for round in ROUNDS {
        cluster.configure(round)?;
        let more = stage(&cluster, &mut replay, &mut files, |cluster| suite::run(cluster, &folder))?;
        println!("{round}{more} {} pages compared so far.", replay.coverage.compared());
        outcome.add(more);
    }
    cluster.configure("wal_level = logical\nautovacuum = off\n")?;
    stage(&cluster, &mut replay, &mut files, run_the_rest)?;
    let (_, version) = cluster.output(Path::new("postgres"), &["--version"])?;
    let log_bytes = replay.last_record.bytes_since(start);
    let ran = format!("{}: {outcome}\n\n{:.1} GB of WAL", version.trim(), log_bytes as f64 / 1e9);
    let table = report(&replay, &ran, &files);
    println!("{table}{}", replay.damage);
    if let Some(path) = env::var_os("QUIRE_REDO_COVERAGE") {
        fs::write(path, &table)?;
    }
    verdict(&replay, &outcome, &files.mismatches)
}

/// What the comparisons with files came to: pages by kind, and those that differed.
#[derive(Default)]
struct ComparedFiles {
    pages: BTreeMap<String, usize>,
    mismatches: Vec<Mismatch>,
}

/// Starts the server, does the work, stops it; replays what that has logged, and compares the files.
fn stage<T>(
    cluster: &Cluster,
    replay: &mut Replay,
    files: &mut ComparedFiles,
    work: impl FnOnce(&Cluster) -> Result<T>,
) -> Result<T> {
    let before = control_file(cluster)?;
    cluster.start()?;
    let outcome = work(cluster)?;
    cluster.stop()?;
    replay.run(&cluster.data(), before.checkpoint, before.system_identifier)?;
    let end = control_file(cluster)?.checkpoint;
    ensure!(replay.last_record == end, "replay ended at {}, the log at {end}", replay.last_record);
    let (mismatches, pages) = replay.compare_files(&Files::load(&cluster.data())?);
    pages.into_iter().for_each(|(kind, count)| *files.pages.entry(kind).or_default() += count);
    files.mismatches.extend(mismatches);
    remove_log_before(&cluster.data(), end)?;
    Ok(outcome)
}

/// Removes the segments of a stopped server that it will not need after its last checkpoint, at `end`.
fn remove_log_before(data: &Path, end: Lsn) -> Result<()> {
    let segment_number = end.segment_number(WAL_SEGMENT_BYTES_DEFAULT);
    let first = data.join(DataPath::WalSegment { timeline: 1, segment_number }.to_path());
    for entry in fs::read_dir(first.parent().context("segments lie in a folder")?)? {
        let path = entry?.path();
        // The names of segments ascend; nothing else there is a file.
        if path.is_file() && path < first {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn run_the_rest(cluster: &Cluster) -> Result<()> {
    extra::freeze(cluster)?;
    run_workloads(cluster)?;
    extra::run(cluster)
}

fn verdict(replay: &Replay, outcome: &SuiteResult, file_mismatches: &[Mismatch]) -> Result<()> {
    ensure!(outcome.failed().is_empty(), "tests of the suite failed: {outcome}");
    ensure!(replay.coverage.compared() >= COMPARED_MIN, "only {} pages", replay.coverage.compared());
    ensure!(replay.coverage.missing().is_empty(), "records that did not occur: {:?}", replay.coverage.missing());
    ensure!(replay.coverage.not_replayed() == 0, "{} pages were not replayed", replay.coverage.not_replayed());
    ensure!(replay.mismatches.is_empty(), "pages differ from images:\n{}", first_few(&replay.mismatches));
    ensure!(file_mismatches.is_empty(), "pages differ from files:\n{}", first_few(file_mismatches));
    ensure!(replay.damage.panics().is_empty(), "damaged records: {}", replay.damage);
    Ok(())
}

/// The document: what ran, the table, the files, the first differences.
fn report(replay: &Replay, ran: &str, files: &ComparedFiles) -> String {
    let mut text = format!("{PREAMBLE}\n{ran}. {}{FILES}", replay.coverage);
    for (kind, pages) in &files.pages {
        let differ = files.mismatches.iter().filter(|mismatch| mismatch.what == format!("file, {kind}")).count();
        let _ = writeln!(text, "| {kind} | {pages} | {differ} |");
    }
    for (title, mismatches) in [("records", &replay.mismatches[..]), ("files", &files.mismatches)] {
        if !mismatches.is_empty() {
            let _ = write!(text, "\nDifferences from {title}:\n\n```text\n{}```\n", one_of_each(mismatches));
        }
    }
    text
}

/// The first differences of each kind.
fn one_of_each(mismatches: &[Mismatch]) -> String {
    const SHOWN: usize = 3;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut text = String::new();
    for mismatch in mismatches {
        let count = seen.entry(&mismatch.what).or_default();
        *count += 1;
        if *count <= SHOWN {
            let _ = writeln!(text, "{mismatch}");
        }
    }
    text
}

const PREAMBLE: &str = "# What redo was compared on

Written by `make oracle`. PostgreSQL runs its own regression suite with `wal_consistency_checking = all`, so that each
record carries the pages as they are after it, five times with other settings; then the workloads that lie in
`crates/redo/tests/oracle`. All of its WAL is replayed natively, and after each record each page is compared with
PostgreSQL's under the masks that PostgreSQL itself compares standbys with. Full-page writes are off but for a short
part, so pages come from redo and not from images.
";

const FILES: &str = "
## Files

After the suite and in the end the server was stopped, and its files were compared with the pages that redo had arrived
at. This is how pages are checked that no record carries: the visibility map, and transaction status. Free space maps and
unlogged relations are not in the log; sequences log values ahead of those handed out. `CREATE DATABASE` copies
visibility maps but logs them empty, so that storage, like a standby, knows fewer bits than the server there: such a page
may lack bits, which is safe, and may not have more.

| Page | Compared | Differ |
|---|---:|---:|
";
