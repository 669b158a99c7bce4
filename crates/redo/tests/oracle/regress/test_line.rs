//! A line of what `pg_regress` prints. The end-to-end tests read the suite's progress with it too.

/// The test that a line tells of, and whether it passed.
///
/// `name ... ok 12 ms`, after `test` if it runs alone; `FAILED` in place of `ok`, or `failed (ignored)` for a test that
/// PostgreSQL knows to fail at times.
pub fn parse(line: &str) -> Option<(&str, bool)> {
    let (name, outcome) = line.split_once(" ... ")?;
    let name = name.strip_prefix("test ").unwrap_or(name).trim();
    let outcome = outcome.trim_start();
    let has_passed = ["ok", "failed (ignored)"].iter().any(|passed| outcome.starts_with(passed));
    (has_passed || outcome.starts_with("FAILED")).then_some((name, has_passed))
}
