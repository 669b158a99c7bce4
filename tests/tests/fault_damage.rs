//! Damaged files: an error that names the file, never a wrong page, and everything else goes on.

use quire_tests::damage::{Damage, files_below};
use quire_tests::{Ledger, Quire, wait_for};
use serde_json::Value;
use std::path::PathBuf;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

fn lsn(value: &Value) -> Option<u64> {
    let (high, low) = value.as_str()?.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

fn layers(quire: &Quire) -> Vec<PathBuf> {
    files_below(&quire.dir().join("pageserver-1"), &|name| name.ends_with(".layer"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_is_an_error_of_the_reads_that_need_it() {
    let quire = Quire::start();
    let client = quire.connect().await;
    run(&client, "CREATE TABLE other AS SELECT n FROM generate_series(1, 1000) n").await;
    let before = layers(&quire);
    // Enough to fill a memtable, and little else in the layer that comes of it.
    let big = "CREATE TABLE big AS SELECT n, (SELECT string_agg(md5((n * 70 + k)::text), '') FROM generate_series(1, 60) k) t \
        FROM generate_series(1, 45000) n";
    run(&client, big).await;
    let flushed = async || layers(&quire).into_iter().find(|path| !before.contains(path));
    let layer = wait_for("a layer with the table", 120, flushed).await;
    quire.down();
    let bytes = layer.metadata().expect("it is there").len();
    let damage = Damage::inflict(&layer, bytes / 2);
    quire.up();
    let client = quire.connect().await;
    let sum = "SELECT sum(length(t) + n)::bigint FROM big";
    let error = client.query_one(sum, &[]).await.expect_err("a page cannot be rebuilt");
    assert_eq!(error.code(), Some(&SqlState::IO_ERROR), "{error:?}");
    let named = format!("{} is damaged at byte", layer.display());
    assert!(quire.log("compute-main").contains(&named), "the log says {named}");
    assert_eq!(number(&client, "SELECT sum(n) FROM other").await, 500_500);
    run(&client, "INSERT INTO other VALUES (1001)").await;
    quire.down();
    damage.repair();
    quire.up();
    let client = quire.connect().await;
    assert_eq!(number(&client, sum).await, 45_000 * 60 * 32 + 45_000 * 45_001 / 2);
    assert_eq!(number(&client, "SELECT sum(n) FROM other").await, 501_501);
    quire.verify();
    quire.expect_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safekeeper_with_damaged_wal_does_not_vote_and_names_the_segment() {
    let quire = Quire::start();
    Ledger::create_table(&quire.connect().await).await;
    let url = quire.url("postgres");
    let ledger = Ledger::default();
    let clients = ledger.start_clients(&url, 4);
    wait_for("the clients get on", 60, async || (ledger.acknowledged() > 500).then_some(())).await;
    quire.kill_everything().await;
    clients.stop().await;
    // The youngest segment that has anything in it, a little before the end of that.
    let is_segment = |name: &str| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut segments = files_below(&quire.dir().join("safekeeper-1"), &is_segment);
    segments.sort();
    let last_byte = |path: &PathBuf| std::fs::read(path).expect("read").iter().rposition(|byte| *byte != 0);
    let (segment, end) =
        segments.iter().rev().find_map(|path| last_byte(path).map(|end| (path, end))).expect("there is WAL");
    let damage = Damage::inflict(segment, end as u64 - 3000);
    quire.up();
    ledger.expect_kept(&quire.connect().await).await;
    let log = || quire.status()["safekeepers"][0]["branches"][0].clone();
    let error = log()["error"].as_str().expect("an error").to_owned();
    assert!(error.contains(segment.to_str().expect("a path")) && error.contains("lost or damaged"), "{error}");
    assert!(quire.log("safekeeper-1").contains("lost or damaged"));
    let clients = ledger.start_clients(&url, 4);
    let before = ledger.acknowledged();
    wait_for("the others suffice", 60, async || (ledger.acknowledged() > before + 200).then_some(())).await;
    assert_eq!(lsn(&log()["flush"]), Some(0), "it takes nothing");
    damage.repair();
    let committed = lsn(&quire.branch()["lsn"]["committed"]).expect("the compute runs");
    let caught_up = async || (lsn(&log()["flush"])? >= committed).then_some(());
    wait_for("with its WAL back it catches up", 60, caught_up).await;
    clients.stop().await;
    ledger.expect_kept(&quire.connect().await).await;
    quire.verify();
    quire.expect_no_panic();
}
