//! Damaged files: an error that names the file, never a wrong page, and everything else continues.

use nix::sys::signal::Signal;
use quire_tests::damage::{Damage, files_below};
use quire_tests::processes::signal_all;
use quire_tests::{Ledger, Quire, wait_for};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
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
    let quire = Quire::new().with_option("--read-deadline", "5");
    quire.up();
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
    for role in ["compute-main", "pageserver-1"] {
        assert!(quire.log(role).contains(&named), "the log of {role} says {named}");
    }
    assert!(quire.ok(&["status"]).contains(&named), "people are told, too");
    assert_eq!(number(&client, "SELECT sum(n) FROM other").await, 500_500);
    run(&client, "INSERT INTO other VALUES (1001)").await;
    let whole = 45_000 * 60 * 32 + 45_000 * 45_001 / 2;
    let waiting = quire.connect().await;
    let reading = tokio::spawn(async move { number(&waiting, sum).await });
    damage.repair();
    assert_eq!(reading.await.expect("no panic"), whole, "a read that waits goes on");
    assert_eq!(number(&client, "SELECT sum(n) FROM other").await, 501_501);
    quire.verify();
    quire.expect_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_a_damaged_layer_keeps_closed_opens_by_itself_when_the_layer_is_put_back() {
    let quire = Quire::start();
    let fill = "CREATE TABLE cold AS SELECT n, repeat('x', 500) t FROM generate_series(1, 20000) n";
    run(&quire.connect().await, fill).await;
    // Without its cache, and with no list of what was in it.
    signal_all(&[quire.role("compute-main")], Signal::SIGKILL);
    let (reader, writer) = (quire.connect_when_back().await, quire.connect().await);
    let sum = "SELECT sum(n) FROM cold";
    run(&reader, &format!("EXPLAIN {sum}")).await;
    run(&writer, "CREATE TABLE small (n int); INSERT INTO small VALUES (0)").await;
    let layer = layers(&quire).into_iter().min().expect("what was imported lies in a layer");
    let last = layer.metadata().expect("it is there").len() - 1;
    let copy = quire.beside("copy");
    std::fs::copy(&layer, &copy).expect("copied");
    drop(Damage::inflict(&layer, last));
    signal_all(&[quire.role("pageserver-1")], Signal::SIGKILL);
    let named = format!("{} is damaged at byte", layer.display());
    wait_for("the status says so", 60, async || quire.ok(&["status"]).contains(&named).then_some(())).await;
    assert!(quire.log("pageserver-1").contains(&named));
    let mut reading = tokio::spawn(async move { number(&reader, sum).await });
    for n in 1..=20 {
        run(&writer, &format!("INSERT INTO small VALUES ({n})")).await;
    }
    let early = tokio::time::timeout(Duration::from_secs(1), &mut reading).await;
    assert!(early.is_err(), "it waits for pages: {early:?}");
    std::fs::rename(&copy, &layer).expect("put back");
    assert_eq!(reading.await.expect("no panic"), 200_010_000);
    assert_eq!(number(&writer, "SELECT count(*) FROM small").await, 21);
    wait_for("the status is silent", 60, async || (!quire.ok(&["status"]).contains(&named)).then_some(())).await;
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
