//! Runs PostgreSQL's regression suite against a server of ours.

use super::test_line;
use crate::cluster::{Cluster, find_binaries};
use anyhow::{Context, Result, ensure};
use quire_wal::ServerVersion;
use std::fmt;
use std::fs;
use std::path::Path;

/// How the suite ended, each time that it ran.
#[derive(Default)]
pub struct SuiteResult {
    passed: usize,
    failed: Vec<String>,
}

impl SuiteResult {
    /// From what `pg_regress` prints: a line for each test.
    fn parse(output: &str) -> SuiteResult {
        let tests = output.lines().filter_map(test_line::parse);
        let (passed, failed): (Vec<_>, Vec<_>) = tests.partition(|(_, passed)| *passed);
        SuiteResult { passed: passed.len(), failed: failed.into_iter().map(|(name, _)| name.to_owned()).collect() }
    }

    /// Counts another time too.
    pub fn add(&mut self, more: SuiteResult) {
        self.passed += more.passed;
        self.failed.extend(more.failed);
    }

    /// How many tests printed what they should.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Tests that did not print what they should.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }
}

impl fmt::Display for SuiteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tests of the suite passed, {} failed.", self.passed, self.failed.len())?;
        self.failed.iter().try_for_each(|name| write!(f, "\n- `{name}`"))
    }
}

/// The release that a source package is of.
pub fn version(folder: &Path) -> Result<ServerVersion> {
    let script = fs::read_to_string(folder.join("source/configure"))?;
    let line = script.lines().find_map(|line| line.strip_prefix("PACKAGE_VERSION='")?.strip_suffix('\''));
    Ok(line.context("the source's configure has no version")?.parse()?)
}

/// Runs the suite in the database `regression`. `folder` has the source in `source` and the compiled modules in
/// `modules`; both are copied to where the server's user may read and write.
pub fn run(cluster: &Cluster, folder: &Path) -> Result<SuiteResult> {
    let suite = cluster.home().join("regress");
    if suite.exists() {
        fs::remove_dir_all(&suite)?;
    }
    cluster.copy_in(&folder.join("source/src/test/regress"), &suite)?;
    cluster.copy_in(&folder.join("modules"), &suite.join("modules"))?;
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let arguments = [
        option("inputdir", &suite),
        option("outputdir", &suite),
        option("schedule", &suite.join("parallel_schedule")),
        option("dlpath", &suite.join("modules")),
        option("bindir", cluster.bin()),
        option("host", cluster.home()),
        "--port=5432".into(),
        "--user=postgres".into(),
        "--dbname=regression".into(),
        "--max-concurrent-tests=20".into(),
    ];
    let driver = find_binaries()?.join("../lib/pgxs/src/test/regress/pg_regress");
    let (_, output) = cluster.output(&driver, &arguments.each_ref().map(String::as_str))?;
    let result = SuiteResult::parse(&output);
    let has_ended = ["tests passed", "tests failed"].iter().any(|end| output.contains(end));
    ensure!(has_ended && result.passed > 0, "the suite did not run to its end:\n{output}");
    Ok(result)
}
