//! PostgreSQL's own regression suite, against a server of ours.
//!
//! It is PostgreSQL's `pg_regress` that runs it and compares what `psql` prints with what the source package expects.

#[path = "../../crates/redo/tests/oracle/regress/test_line.rs"]
mod test_line;

use crate::Quire;
use crate::processes::{give_to_server, postgres_program, server_user};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The page that lists the tests that cannot pass, each with its reason.
const LISTED: &str = include_str!("../../docs/regression-suite.md");

/// How the suite ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tests that printed what they should.
    pub passed: BTreeSet<String>,
    /// Tests that did not.
    pub failed: BTreeSet<String>,
}

impl Outcome {
    fn note(&mut self, name: &str, has_passed: bool) {
        let tests = if has_passed { &mut self.passed } else { &mut self.failed };
        tests.insert(name.to_owned());
    }
}

/// The tests that cannot pass: the first column of the page's table.
pub fn listed() -> BTreeSet<String> {
    LISTED.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect()
}

/// Runs the suite in the database `regression`, telling of each test. `QUIRE_PG_SUITE` has the source package in
/// `source` and the compiled modules in `modules`.
pub fn run(quire: &Quire) -> Outcome {
    let source = std::env::var_os("QUIRE_PG_SUITE").expect("QUIRE_PG_SUITE is set: `make regress` does it");
    let (source, suite) = (PathBuf::from(source), quire.beside("suite"));
    copy(&source.join("source/src/test/regress"), &suite);
    copy(&source.join("modules"), &suite.join("modules"));
    let mut driver = start(quire, &suite);
    let mut outcome = Outcome::default();
    let output = BufReader::new(driver.stdout.take().expect("piped"));
    for line in output.lines().map(|line| line.expect("pg_regress prints text")) {
        eprintln!("{line}");
        if let Some((name, has_passed)) = test_line::parse(&line) {
            outcome.note(name, has_passed);
        }
    }
    driver.wait().expect("pg_regress ends");
    show_differences(&suite, &outcome.failed);
    outcome
}

fn start(quire: &Quire, suite: &Path) -> Child {
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let url = quire.url("postgres");
    let (_, port) = url.trim_end_matches("/postgres").rsplit_once(':').expect("a URI with a port");
    let mut command = Command::new(postgres_program("../lib/pgxs/src/test/regress/pg_regress"));
    command.args([
        option("inputdir", suite),
        option("outputdir", suite),
        option("schedule", &suite.join("parallel_schedule")),
        option("dlpath", &suite.join("modules")),
        option("bindir", &postgres_program("")),
        "--host=127.0.0.1".into(),
        format!("--port={port}"),
        "--user=postgres".into(),
        "--dbname=regression".into(),
        "--max-concurrent-tests=20".into(),
    ]);
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command.current_dir(suite).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("pg_regress: {error}"))
}

fn show_differences(suite: &Path, failed: &BTreeSet<String>) {
    if !failed.is_empty() {
        let differences = fs::read(suite.join("regression.diffs")).unwrap_or_default();
        eprintln!("{}", String::from_utf8_lossy(&differences));
    }
}

/// Copies a directory to where the server may read and write: tests have it load from and store into files there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    give_to_server(to);
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("listed");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            give_to_server(&to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_driver_is_a_test_or_nothing() {
        assert_eq!(
            test_line::parse("test tablespace                   ... ok          843 ms"),
            Some(("tablespace", true))
        );
        assert_eq!(
            test_line::parse("     boolean                      ... FAILED     1924 ms"),
            Some(("boolean", false))
        );
        assert_eq!(
            test_line::parse("     random                       ... failed (ignored)  5 ms"),
            Some(("random", true))
        );
        assert_eq!(test_line::parse("parallel group (7 tests):  create_function_c create_operator"), None);
    }
}
