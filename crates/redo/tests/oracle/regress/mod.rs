//! PostgreSQL's own regression suite as the workload, with every page compared after every record, and a table of what
//! that has shown of each type of record.
//!
//! The suite runs as it is shipped, several times with other settings. Then the same server runs the other workloads,
//! and what neither reaches. `QUIRE_PG_SUITE` names the directory that `scripts/postgres-source.sh` prints; the table
//! is written to `QUIRE_REDO_COVERAGE`. Some minutes, and a few gigabytes of disk: log that was replayed is removed.

mod coverage;
mod extra;
mod kind;
mod suite;
mod test_line;

use crate::cluster::{Cluster, find_binaries};
use crate::files::Files;
use crate::replay::{Mismatch, Replay};
use crate::{control_file, first_few, run_workloads, settings, workload};
use anyhow::{Context, Result, ensure};
use quire_types::Lsn;
use quire_wal::DataPath;
use quire_wal::postgres_version::{PG15, WAL_SEGMENT_BYTES_DEFAULT};
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

/// What the suite runs with, one time after the other: each way to compress an image, each level of the log at which
/// the server can be a Quire's, few and many buffers, checkpoints in between, and autovacuum.
const ROUNDS: [&str; 5] = [
    "wal_level = replica\nwal_compression = lz4\n",
    "wal_level = logical\nwal_compression = pglz\nshared_buffers = 16MB\n",
    "wal_level = replica\nwal_compression = zstd\nshared_buffers = 256MB\ndefault_toast_compression = lz4\n",
    "wal_level = logical\nwal_compression = off\ncheckpoint_timeout = 30s\n",
    "wal_level = replica\nshared_buffers = 128MB\nautovacuum = on\n",
];

/// As many pages at least are compared by the suite, for each time that it runs, and by the other workloads.
const COMPARED_BY_SUITE_MIN: usize = 1_500_000;
const COMPARED_BY_REST_MIN: usize = 400_000;

#[test]
#[ignore = "takes minutes and needs PostgreSQL's source: make oracle"]
fn pages_equal_postgresqls_throughout_its_regression_suite() -> Result<()> {
    let folder = env::var_os("QUIRE_PG_SUITE").map(PathBuf::from).context("QUIRE_PG_SUITE is not set")?;
    let (mut runs, mut broken) = (vec![Run::of(find_binaries()?, &folder)?], vec![]);
    publish(&runs)?;
    let listed = env::var_os("QUIRE_PG_MINORS").unwrap_or_default();
    // An empty list has one empty path.
    for bin in env::split_paths(&listed).filter(|bin| bin.is_absolute()) {
        if runs.iter().all(|run| run.bin != bin) {
            // What the others come to is to be known in any case.
            match Run::of(bin.clone(), &folder) {
                Ok(run) => runs.push(run),
                Err(error) => broken.push(format!("{}: {error:#}", bin.display())),
            }
            publish(&runs)?;
        }
    }
    println!("{}", document(&runs));
    ensure!(broken.is_empty(), "did not run to its end: {broken:?}");
    runs.iter().try_for_each(|run| run.verdict().with_context(|| run.name.clone()))
}

/// Writes what is known so far.
fn publish(runs: &[Run]) -> Result<()> {
    match env::var_os("QUIRE_REDO_COVERAGE") {
        Some(path) => Ok(fs::write(path, document(runs))?),
        None => Ok(()),
    }
}

/// What came of one release of PostgreSQL.
struct Run {
    bin: PathBuf,
    /// What the server calls itself.
    name: String,
    rounds: usize,
    outcome: SuiteResult,
    /// What the suite came to on the same server without comparing, if it is not the release that the suite is of.
    plain: Option<SuiteResult>,
    log_bytes: u64,
    replay: Replay,
    files: ComparedFiles,
}

impl Run {
    /// Has the suite, once for each of [`ROUNDS`], and everything else run on the server in `bin`, and compares every
    /// page. A server older than the suite does not run it: the suite shows that faults were corrected, and such a
    /// server hangs and crashes in it.
    fn of(bin: PathBuf, folder: &Path) -> Result<Run> {
        let cluster = Cluster::of(bin.clone(), &settings(SETTINGS))?;
        let (name, server) = cluster.version()?;
        println!("{name}");
        let suite_version = suite::version(folder)?;
        let rounds = if server < suite_version { 0 } else { ROUNDS.len() };
        let plain = if server > suite_version { Some(plain_suite(&bin, folder)?) } else { None };
        cluster.start()?;
        cluster.stop()?;
        let replay = Replay::new(Files::load(&cluster.data())?.pages, server);
        let start = control_file(&cluster)?.checkpoint;
        let (outcome, files) = (SuiteResult::default(), ComparedFiles::default());
        let mut run = Run { bin, name, rounds, outcome, plain, log_bytes: 0, replay, files };
        for round in &ROUNDS[..rounds] {
            cluster.configure(&supported(&cluster, round)?)?;
            let more = run.stage(&cluster, |cluster| suite::run(cluster, folder))?;
            println!("{round}{more} {} pages compared so far.", run.replay.coverage.compared());
            run.outcome.add(more);
        }
        cluster.configure("wal_level = logical\nautovacuum = off\n")?;
        if rounds == 0 {
            // The other workloads copy the suite's.
            run.stage(&cluster, |cluster| cluster.sql("create database regression"))?;
        }
        run.stage(&cluster, run_the_rest)?;
        run.log_bytes = run.replay.last_record.bytes_since(start);
        Ok(run)
    }

    /// Starts the server, does the work, stops it; replays what that has logged, and compares the files.
    fn stage<T>(&mut self, cluster: &Cluster, work: impl FnOnce(&Cluster) -> Result<T>) -> Result<T> {
        let before = control_file(cluster)?;
        cluster.start()?;
        let outcome = work(cluster)?;
        cluster.stop()?;
        self.replay.run(&cluster.data(), before.checkpoint, before.system_identifier)?;
        let (last, end) = (self.replay.last_record, control_file(cluster)?.checkpoint);
        ensure!(last == end, "replay ended at {last}, the log at {end}");
        let (mismatches, pages) = self.replay.compare_files(&Files::load(&cluster.data())?);
        pages.into_iter().for_each(|(kind, count)| *self.files.pages.entry(kind).or_default() += count);
        self.files.mismatches.extend(mismatches);
        remove_log_before(&cluster.data(), end)?;
        Ok(outcome)
    }

    /// Tests of the suite that failed and would not have without the comparing.
    fn failed_by_comparing(&self) -> Vec<&String> {
        let expected = self.plain.as_ref().map(SuiteResult::failed).unwrap_or_default();
        self.outcome.failed().iter().filter(|name| !expected.contains(name)).collect()
    }

    fn verdict(&self) -> Result<()> {
        let Run { replay, files, .. } = self;
        let (failed, compared) = (self.failed_by_comparing(), replay.coverage.compared());
        ensure!(failed.is_empty(), "tests of the suite failed: {failed:?}");
        let compared_min = COMPARED_BY_REST_MIN + self.rounds * COMPARED_BY_SUITE_MIN;
        ensure!(compared >= compared_min, "only {compared} pages");
        let missing = if self.rounds > 0 { replay.coverage.missing() } else { vec![] };
        ensure!(missing.is_empty(), "records that did not occur: {missing:?}");
        ensure!(replay.coverage.not_replayed() == 0, "{} pages were not replayed", replay.coverage.not_replayed());
        ensure!(replay.mismatches.is_empty(), "pages differ from images:\n{}", first_few(&replay.mismatches));
        ensure!(files.mismatches.is_empty(), "pages differ from files:\n{}", first_few(&files.mismatches));
        ensure!(replay.damage.panics().is_empty(), "damaged records: {}", replay.damage);
        Ok(())
    }

    fn files_compared(&self) -> usize {
        self.files.pages.values().sum()
    }
}

/// The suite on a server of the same release that compares nothing. It is of another release, so some tests may print
/// something else than it expects.
fn plain_suite(bin: &Path, folder: &Path) -> Result<SuiteResult> {
    let cluster = Cluster::of(bin.to_owned(), &format!("{}{SETTINGS}", workload::SETTINGS))?;
    cluster.configure(&supported(&cluster, ROUNDS[0])?)?;
    cluster.start()?;
    let outcome = suite::run(&cluster, folder)?;
    cluster.stop()?;
    println!("without comparing: {outcome}");
    Ok(outcome)
}

/// These settings, with the one way to compress that every server has in place of those that this one was built
/// without.
fn supported(cluster: &Cluster, settings: &str) -> Result<String> {
    let mut kept = String::new();
    for setting in settings.lines() {
        if cluster.supports(setting)? {
            writeln!(kept, "{setting}")?
        } else {
            writeln!(kept, "{} = pglz", setting.split('=').next().unwrap_or_default())?
        }
    }
    Ok(kept)
}

/// What the comparisons with files came to: pages by kind, and those that differed.
#[derive(Default)]
struct ComparedFiles {
    pages: BTreeMap<String, usize>,
    mismatches: Vec<Mismatch>,
}

/// Removes the segments of a stopped server that it will not need after its last checkpoint, at `end`.
fn remove_log_before(data: &Path, end: Lsn) -> Result<()> {
    let segment_number = end.segment_number(WAL_SEGMENT_BYTES_DEFAULT);
    let first = data.join(DataPath::WalSegment { timeline: 1, segment_number }.to_path(&PG15));
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

/// The document: what ran, the table of the first release, its files, what the others came to, the first differences.
fn document(runs: &[Run]) -> String {
    let mut text = PREAMBLE.to_owned();
    if let Some(first) = runs.first() {
        let (outcome, gigabytes) = (&first.outcome, first.log_bytes as f64 / 1e9);
        let _ =
            writeln!(text, "\n{}: {outcome}\n\n{gigabytes:.1} GB of WAL. {}{FILES}", first.name, first.replay.coverage);
        let differ = |kind: &str| {
            let what = format!("file, {kind}");
            first.files.mismatches.iter().filter(|mismatch| mismatch.what == what).count()
        };
        for (kind, pages) in &first.files.pages {
            let _ = writeln!(text, "| {kind} | {pages} | {} |", differ(kind));
        }
    }
    text + &minor_releases(runs) + &differences(runs)
}

/// A line for each release.
fn minor_releases(runs: &[Run]) -> String {
    let mut text = RELEASES.to_owned();
    for run in runs {
        let (coverage, files) = (&run.replay.coverage, &run.files);
        let differ = run.replay.mismatches.len();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {differ} | {} | {} |",
            run.name.trim_start_matches("postgres (PostgreSQL) "),
            run.rounds,
            run.outcome.passed(),
            run.outcome.failed().len(),
            run.failed_by_comparing().len(),
            coverage.compared(),
            run.files_compared(),
            files.mismatches.len(),
        );
    }
    text
}

fn differences(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        for (title, mismatches) in [("records", &run.replay.mismatches[..]), ("files", &run.files.mismatches)] {
            if !mismatches.is_empty() {
                let shown = one_of_each(mismatches);
                let _ = write!(text, "\n{}: differences from {title}:\n\n```text\n{shown}```\n", run.name);
            }
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

const RELEASES: &str = "
## Minor releases

The same on each release. The suite is that of the first, so that on another some tests print something else; those failed only
by the comparing that passed on the same server without it. An older release ran the other workloads only, since the suite
shows that faults were corrected, and hangs or crashes a server that has them.

| PostgreSQL | Suite ran | Passed | Failed | By the comparing | Pages compared | Differ | In files | Differ |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
";
