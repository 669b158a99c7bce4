//! How pages come: many with one request, ahead of those who read in order, and after a cold start by themselves.

use quire_tests::{Quire, wait_for};
use serde_json::Value;
use tokio_postgres::Client;

/// A table whose heap is in the order of its key, with rows that make it some thousand pages long.
const TABLE: &str = "CREATE TABLE wide (id int PRIMARY KEY, filler text);
    INSERT INTO wide SELECT n, repeat('x', 500) FROM generate_series(1, 60000) n";

/// A Quire that does nothing by itself, with the table, and how many pages its heap has.
async fn filled() -> (Quire, u64) {
    let quire = Quire::start();
    quire.set("autovacuum = off");
    let client = quire.connect().await;
    client.batch_execute(TABLE).await.expect("filled");
    client.batch_execute("VACUUM ANALYZE wide").await.expect("vacuumed");
    let pages = u64::try_from(number(&client, "SELECT pg_relation_size('wide') / 8192").await).expect("a size");
    (quire, pages)
}

fn cache(quire: &Quire) -> Value {
    quire.branch()["compute"]["cache"].clone()
}

fn count(cache: &Value, name: &str) -> u64 {
    cache[name].as_u64().unwrap_or_else(|| panic!("no {name} in {cache}"))
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.expect("answered").get(0)
}

/// Runs `query` on an empty cache: its result, the fetches it waited for, and the pages that came.
async fn cold(quire: &Quire, settings: &str, query: &str) -> (i64, u64, u64) {
    quire.ok(&["compute", "restart", "main", "--cold", "--forget"]);
    let client = quire.connect().await;
    client.batch_execute(settings).await.expect("set");
    // Catalogs come now.
    number(&client, "SELECT count(*) FROM wide WHERE id = 0").await;
    let before = cache(quire);
    let result = number(&client, query).await;
    let after = cache(quire);
    let since = |name: &str| count(&after, name) - count(&before, name);
    (result, since("fills"), since("blocks"))
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_in_order_wait_for_few_of_their_pages() {
    let (quire, pages) = filled().await;
    let one_process = "SET max_parallel_workers_per_gather = 0;";
    let index_only = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0;";
    let scans = [
        ("sequential", one_process, "SELECT sum(length(filler)) FROM wide"),
        (
            "parallel",
            "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0;",
            "SELECT sum(length(filler)) FROM wide",
        ),
        ("by index", index_only, "SELECT sum(length(filler)) FROM wide WHERE id > 0"),
        (
            "by index, backwards",
            index_only,
            "SELECT sum(n) FROM (SELECT length(filler) n FROM wide ORDER BY id DESC OFFSET 0) a",
        ),
        (
            "by bitmap",
            "SET enable_seqscan = off; SET enable_indexscan = off;",
            "SELECT sum(length(filler)) FROM wide WHERE id > 0",
        ),
    ];
    for (name, settings, query) in scans {
        let (sum, waits, came) = cold(&quire, settings, query).await;
        assert_eq!(sum, 60_000 * 500, "{name}");
        assert!(came >= pages * 9 / 10, "{name}: {came} of {pages} pages came");
        assert!(waits * 10 < pages, "{name}: waited {waits} times for {pages} pages");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_use_comes_back_by_itself_after_a_cold_restart() {
    let (quire, pages) = filled().await;
    quire.cold_restart();
    let client = quire.connect().await;
    let warmed = async || (count(&cache(&quire), "warmed") >= pages).then_some(());
    wait_for("the pages are back", 60, warmed).await;
    let before = count(&cache(&quire), "fills");
    assert_eq!(number(&client, "SELECT sum(length(filler)) FROM wide").await, 60_000 * 500);
    let waits = count(&cache(&quire), "fills") - before;
    assert!(waits < 50, "waited {waits} times for a table that was warmed up");
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_compute_is_warmed_up_by_what_the_session_before_it_left() {
    let (quire, _) = filled().await;
    quire.cold_restart();
    // Nothing has touched the table since: it is on the list of the session that ended, and stays on it.
    quire_tests::processes::signal_all(&[quire.role("compute-main")], nix::sys::signal::Signal::SIGKILL);
    let client = quire.connect_when_back().await;
    let warmed = async || (count(&cache(&quire), "warmed") > 1000).then_some(());
    wait_for("the pages are back", 60, warmed).await;
    assert_eq!(number(&client, "SELECT count(*) FROM wide").await, 60_000);
}
