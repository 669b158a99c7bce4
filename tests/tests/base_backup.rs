//! Base backups of what is in tablespaces, wherever these are.

use quire_tests::processes::give_to_server;
use quire_tests::{Quire, Stock, amcheck, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

async fn run(client: &Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

/// A directory that belongs to PostgreSQL.
fn location(quire: &Quire) -> PathBuf {
    let path = quire.beside("location");
    fs::create_dir(&path).expect("made");
    give_to_server(&path);
    path
}

async fn fill(client: &Client, location: &Path) {
    let create = format!("CREATE TABLESPACE far LOCATION '{}'", location.display());
    let statements = [
        &create,
        "CREATE TABLE a TABLESPACE far AS SELECT n, repeat('x', 100) x FROM generate_series(1, 20000) n",
        "CREATE INDEX a_n ON a (n) TABLESPACE far",
        "CREATE DATABASE other TABLESPACE far",
        "CHECKPOINT",
    ];
    run(client, &statements).await;
}

const SUM: &str = "SELECT count(*) || ' ' || sum(n) FROM a";
const ALL: &str = "20000 200010000";

/// Where the tablespace is now.
async fn present_location(client: &Client) -> PathBuf {
    text(client, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'").await.into()
}

async fn expect_whole(copy: &Stock) {
    let client = copy.connect().await;
    assert_eq!(text(&client, SUM).await, ALL);
    let damaged = "SELECT count(*)::text FROM a FULL JOIN generate_series(1, 20000) s (n) USING (n) WHERE a.x IS NULL";
    assert_eq!(text(&client, damaged).await, "0");
    let found = "SET enable_seqscan = off; SET enable_bitmapscan = off";
    client.batch_execute(found).await.expect("set");
    assert_eq!(text(&client, "SELECT length(x)::text FROM a WHERE n = 4711").await, "100", "found by its index");
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_of_a_cold_start_are_in_base_backups_of_both_formats_and_in_a_standby() {
    let quire = Quire::start();
    let client = quire.connect().await;
    fill(&client, &location(&quire)).await;
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    let present = present_location(&client).await;
    assert_eq!(present.parent(), Some(quire.dir().join("compute/main/tablespaces").as_path()));
    let url = quire.url("postgres");

    expect_whole(&Stock::from_archives(&url, std::slice::from_ref(&present)).await).await;
    expect_whole(&Stock::from_backup_with(&url, std::slice::from_ref(&present), &[]).await).await;

    let standby = Stock::from_backup_with(&url, &[present], &["--write-recovery-conf"]).await;
    expect_whole(&standby).await;
    let further =
        ["CREATE TABLE b TABLESPACE far AS TABLE a", "DELETE FROM a", "ALTER TABLE b SET TABLESPACE pg_default"];
    run(&client, &further).await;
    let copy = standby.connect().await;
    let followed = async || {
        let moved = "SELECT (SELECT count(*) FROM pg_class WHERE relname = 'b' AND reltablespace = 0)::text";
        (text(&copy, moved).await == "1").then_some(())
    };
    wait_for("the standby follows", 60, followed).await;
    assert_eq!(text(&copy, "SELECT count(*) || ' ' || sum(n) FROM b").await, ALL);
    assert_eq!(text(&copy, "SELECT count(*)::text FROM a").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_left_the_cache_are_in_a_base_backup_that_names_files_by_their_location() {
    let quire = Quire::new().with_variable("QUIRE_DROP_ALL", "1");
    quire.up();
    let client = quire.connect().await;
    let location = location(&quire);
    fill(&client, &location).await;
    let file = text(&client, "SELECT pg_relation_filepath('a')").await;
    let file = quire.dir().join("compute/main/pgdata").join(file);
    let has_left = async || {
        use std::os::unix::fs::MetadataExt;
        (fs::metadata(&file).expect("there").blocks() == 0).then_some(())
    };
    wait_for("the table leaves the cache", 60, has_left).await;
    let copy = Stock::from_backup_with(&quire.url("postgres"), &[location], &[]).await;
    expect_whole(&copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_in_a_tablespace_of_a_cold_start_survives_the_next_one() {
    let quire = Quire::start();
    let client = quire.connect().await;
    fill(&client, &location(&quire)).await;
    run(&client, &["CREATE DATABASE movable", "CREATE TABLE b AS TABLE a"]).await;
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    let before = present_location(&client).await;
    let statements = [
        "ALTER DATABASE other SET TABLESPACE pg_default",
        "ALTER DATABASE movable SET TABLESPACE far",
        "ALTER TABLE b SET TABLESPACE far",
        "CREATE DATABASE logged TEMPLATE movable TABLESPACE far",
        "CREATE DATABASE copied TEMPLATE movable TABLESPACE far STRATEGY file_copy",
        "CREATE TABLE c TABLESPACE far AS TABLE a",
        "DROP TABLE c",
        "VACUUM FULL a",
    ];
    run(&client, &statements).await;
    drop(client);
    quire.ok(&["compute", "restart", "main"]);
    amcheck::expect_clean_everywhere(&quire).await;
    let client = quire.connect().await;
    assert_eq!(present_location(&client).await, before, "a warm restart keeps the cache");
    run(&client, &["DROP DATABASE logged"]).await;
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    for query in [SUM, "SELECT count(*) || ' ' || sum(n) FROM b"] {
        assert_eq!(text(&client, query).await, ALL, "{query}");
    }
    amcheck::expect_clean_everywhere(&quire).await;
    quire.verify();
    let own = quire.dir().join("compute/main/tablespaces");
    run(&client, &["DROP DATABASE copied", "DROP DATABASE movable", "DROP TABLE a, b", "DROP TABLESPACE far"]).await;
    drop(client);
    quire.cold_restart();
    assert!(!own.exists(), "no tablespace is left");
    let gone = async || {
        let names = fs::read_dir(quire.dir().join("compute/main")).expect("listed").flatten();
        let left = names.filter(|entry| entry.file_name().to_string_lossy().starts_with("discarded-")).count();
        (left == 0).then_some(())
    };
    wait_for("what was discarded is deleted", 60, gone).await;
}
