//! Tablespaces: at a location of the user's while the cache lives, beside the data directory after a cold start.

use quire_tests::processes::give_to_server;
use quire_tests::{Quire, amcheck};
use std::fs;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

const SUM: &str = "SELECT (count(*) * 1000000000 + sum(n))::bigint FROM ";

async fn run(client: &Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

async fn sum(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("{SUM}{table}"), &[]).await.unwrap_or_else(|error| panic!("{table}: {error:?}")).get(0)
}

/// A directory that belongs to PostgreSQL.
fn location(quire: &Quire) -> PathBuf {
    let path = quire.beside("location");
    fs::create_dir(&path).expect("made");
    give_to_server(&path);
    path
}

fn create(location: &Path) -> String {
    format!("CREATE TABLESPACE far LOCATION '{}'", location.display())
}

async fn fill(client: &Client) {
    run(
        client,
        &[
            "SET allow_in_place_tablespaces = on",
            "CREATE TABLESPACE near LOCATION ''",
            "CREATE TABLE a TABLESPACE far AS SELECT n, repeat('x', 100) x FROM generate_series(1, 20000) n",
            "CREATE INDEX a_n ON a (n) TABLESPACE near",
            "CREATE UNLOGGED TABLE u (n int) TABLESPACE far",
            "INSERT INTO u VALUES (1)",
            "CREATE TABLE moved AS SELECT n FROM generate_series(1, 5000) n",
            "ALTER TABLE moved SET TABLESPACE near",
            "CREATE TABLE gone TABLESPACE near AS SELECT 1 n",
            "DROP TABLE gone",
            "CREATE DATABASE logged TABLESPACE far",
            "CREATE DATABASE copied TABLESPACE near STRATEGY file_copy",
            "CREATE DATABASE switched",
            "ALTER DATABASE switched SET TABLESPACE near",
        ],
    )
    .await;
}

/// With the databases gone too, nothing is left in the tablespaces.
async fn drop_all(client: &Client) {
    run(
        client,
        &[
            "DROP DATABASE logged",
            "DROP DATABASE copied",
            "DROP DATABASE switched",
            "DROP TABLE a, u, moved",
            "DROP TABLESPACE near",
            "DROP TABLESPACE far",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_a_tablespace_survives_a_cold_start_and_can_be_dropped_after_it() {
    let quire = Quire::start();
    let location = location(&quire);
    let client = quire.connect().await;
    run(&client, &[&create(&location)]).await;
    fill(&client).await;
    for name in ["logged", "copied", "switched"] {
        let other = quire.connect_to(name).await;
        run(&other, &["CREATE TABLE b AS SELECT n FROM generate_series(1, 3000) n"]).await;
    }
    let sums = (sum(&client, "a").await, sum(&client, "moved").await);
    quire.verify();
    drop(client);
    quire.cold_restart();

    let client = quire.connect().await;
    assert_eq!((sum(&client, "a").await, sum(&client, "moved").await), sums);
    let unlogged: i64 = client.query_one("SELECT count(*) FROM u", &[]).await.expect("readable").get(0);
    assert_eq!(unlogged, 0, "an unlogged table is empty after a cold start wherever it lies");
    for name in ["logged", "copied", "switched"] {
        assert_eq!(sum(&quire.connect_to(name).await, "b").await, 3_000_004_501_500, "{name}");
    }
    run(
        &client,
        &["INSERT INTO a SELECT n FROM generate_series(1, 5000) n", "CREATE TABLE c TABLESPACE near AS TABLE a"],
    )
    .await;
    amcheck::expect_clean_everywhere(&quire).await;
    quire.verify();
    run(&client, &["DROP TABLE c"]).await;
    drop_all(&client).await;
    assert!(quire.branch()["error"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_is_free_again_once_the_cache_that_lay_there_is_discarded() {
    let quire = Quire::start();
    let location = location(&quire);
    let client = quire.connect().await;
    run(&client, &[&create(&location), "CREATE TABLE a TABLESPACE far AS SELECT 1 n"]).await;
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    let second = create(&location).replace("far", "again");
    run(&client, &[&second, "CREATE TABLE b TABLESPACE again AS SELECT 2 n"]).await;
    assert_eq!((sum(&client, "a").await, sum(&client, "b").await), (1_000_000_001, 1_000_000_002));
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!((sum(&client, "a").await, sum(&client, "b").await), (1_000_000_001, 1_000_000_002));
    run(&client, &["DROP TABLE a, b", "DROP TABLESPACE far", "DROP TABLESPACE again"]).await;
    drop(client);
    quire.cold_restart();
    let left: i64 =
        quire.connect().await.query_one("SELECT count(*) FROM pg_tablespace", &[]).await.expect("readable").get(0);
    assert_eq!(left, 2);
}
