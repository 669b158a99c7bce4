//! PostgreSQL's own regression suite on a Quire: everything prints what it should, the cache then equals storage, and
//! what is there after a start from storage alone is sound. `make regress` runs it.

use quire_tests::dump::Dump;
use quire_tests::regression::{self, Outcome};
use quire_tests::{Quire, amcheck};
use serde_json::Value;
use std::fs;

/// Small enough that tests find their tables' pages in neither the server's buffers nor the cache.
const SMALL_BUFFERS: &str = "shared_buffers = '1MB'\nbgwriter_delay = 10ms\nbgwriter_lru_maxpages = 1000";

/// As the suite's own temporary server has it, or its tests of prepared transactions would only see that there are
/// none.
const SUITE_SETTINGS: &str = "max_prepared_transactions = 2";

fn started(up: &[&str], environment: &[(&str, &str)], settings: &str) -> Quire {
    let quire = Quire::new();
    let arguments = [&["up", "--detach"], up].concat();
    let output = quire.command(&arguments).envs(environment.iter().copied()).output().expect("quire runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    quire.set(&format!("{SUITE_SETTINGS}\n{settings}"));
    quire
}

/// Runs the suite, then looks at all that it left; the status at the end of the suite.
async fn run_and_examine(quire: &Quire) -> Value {
    let term = quire.branch()["compute"]["term"].clone();
    let outcome = regression::run(quire);
    let after = quire.branch();
    report(&outcome, &after);
    expect_healthy(quire, &term);
    expect_as_listed(&outcome);
    eprintln!("after the suite: verify {}", quire.json(&["verify", "main"]));
    let dump = Dump::take(quire);
    quire.cold_restart();
    dump.expect_same(&Dump::take(quire));
    eprintln!("after a cold start: all {} lines of a dump are the same", dump.lines());
    eprintln!("after a cold start: amcheck finds nothing in {}", amcheck::expect_clean_everywhere(quire).await);
    eprintln!("with all of it read: verify {}", quire.json(&["verify", "main"]));
    after
}

fn report(outcome: &Outcome, branch: &Value) {
    let cache = &branch["compute"]["cache"];
    eprintln!("{} tests passed, {} failed: {:?}", outcome.passed.len(), outcome.failed.len(), outcome.failed);
    let (dropped, fetched, fills) = (&cache["dropped"], &cache["blocks"], &cache["fills"]);
    eprintln!("pages dropped: {dropped}; fetched: {fetched}, by {fills} requests");
}

/// The list is exact: what is on it fails, and nothing else does.
fn expect_as_listed(outcome: &Outcome) {
    let listed = regression::listed();
    assert!(outcome.passed.len() > 200, "the suite ran to its end");
    let unlisted: Vec<_> = outcome.failed.difference(&listed).collect();
    assert!(unlisted.is_empty(), "failed: {unlisted:?}");
    let unexpected: Vec<_> = outcome.passed.intersection(&listed).collect();
    assert!(unexpected.is_empty(), "passed although docs/regression-suite.md says that they cannot: {unexpected:?}");
}

/// Nothing has stopped, crashed or been replaced on the way, even if no test noticed.
fn expect_healthy(quire: &Quire, term: &Value) {
    let branch = quire.branch();
    let compute = &branch["compute"];
    assert!(branch["error"].is_null() && compute["error"].is_null(), "{branch}");
    assert_eq!((&compute["state"], &compute["term"]), (&Value::from("running"), term), "{branch}");
    let logs = fs::read_dir(quire.dir().join("log")).expect("logs").map(|entry| entry.expect("listed").path());
    for log in logs.chain([quire.dir().join("compute/main/postgres.log")]) {
        let text = String::from_utf8_lossy(&fs::read(&log).expect("readable")).into_owned();
        let bad = text.lines().find(|line| line.contains("PANIC:") || line.contains("panicked at"));
        assert_eq!(bad, None, "{}", log.display());
    }
}

fn cache(branch: &Value, what: &str) -> u64 {
    branch["compute"]["cache"][what].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the suite's source: run by `make regress`"]
async fn the_suite_passes_with_a_whole_cache() {
    run_and_examine(&started(&[], &[], "")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the suite's source: run by `make regress`"]
async fn the_suite_passes_with_a_cache_much_smaller_than_its_database() {
    let quire = started(&["--cache-size", "16MiB"], &[], SMALL_BUFFERS);
    let after = run_and_examine(&quire).await;
    assert!(cache(&after, "dropped") > 10_000, "pages left all the time: {after}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the suite's source: run by `make regress`"]
async fn the_suite_passes_while_every_page_leaves_as_soon_as_it_may() {
    let quire = started(&[], &[("QUIRE_DROP_ALL", "1")], SMALL_BUFFERS);
    let after = run_and_examine(&quire).await;
    assert!(cache(&after, "dropped") > 100_000, "pages left all the time: {after}");
}
