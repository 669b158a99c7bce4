//! A compute that starts from storage alone finds everything, and nothing that should be gone.

use quire_tests::load::{expect_amcheck_clean, expect_sums_agree, fill, start, sums};
use quire_tests::{Quire, short_or_long};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use tokio_postgres::Client;

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_tables_are_whole_after_a_cold_restart() {
    let quire = Quire::start();
    let url = quire.url("postgres");
    fill(&url, short_or_long(5, 50));
    start(&url, 4, short_or_long(10, 120)).finish();
    let before = sums(&quire.connect().await).await;
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(sums(&client).await, before);
    expect_sums_agree(&client).await;
    expect_amcheck_clean(&client).await;
    start(&url, 4, 3).finish();
    quire.verify();
    expect_sums_agree(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlogged_table_is_empty_and_usable_after_a_cold_restart() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client.batch_execute("CREATE UNLOGGED TABLE scratch (n int PRIMARY KEY, t text)").await.expect("created");
    let fill = "INSERT INTO scratch SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n";
    client.batch_execute(fill).await.expect("filled");
    quire.cold_restart();
    let client = quire.connect().await;
    let count = async || client.query_one("SELECT count(*) FROM scratch", &[]).await.expect("counted").get::<_, i64>(0);
    assert_eq!(count().await, 0);
    client.batch_execute(fill).await.expect("filled again");
    assert_eq!(count().await, 5000);
    let found = client.query_one("SELECT t FROM scratch WHERE n = 4711", &[]).await.expect("found by its index");
    assert_eq!(found.get::<_, String>(0).len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transaction_survives_a_cold_restart() {
    let quire = Quire::start();
    quire.set("max_prepared_transactions = 10");
    let client = quire.connect().await;
    let prepare = |name: &str, n: i32| format!("BEGIN; INSERT INTO two VALUES ({n}); PREPARE TRANSACTION '{name}'");
    client.batch_execute("CREATE TABLE two (n int)").await.expect("created");
    client.batch_execute(&prepare("keep", 1)).await.expect("prepared");
    client.batch_execute(&prepare("drop", 2)).await.expect("prepared");
    quire.cold_restart();
    let client = quire.connect().await;
    let visible = client.query_one("SELECT count(*) FROM two", &[]).await.expect("counted");
    assert_eq!(visible.get::<_, i64>(0), 0, "not committed yet");
    client.batch_execute("COMMIT PREPARED 'keep'").await.expect("it is still there");
    client.batch_execute("ROLLBACK PREPARED 'drop'").await.expect("it is still there");
    quire.cold_restart();
    let client = quire.connect().await;
    let rows = client.query("SELECT n FROM two", &[]).await.expect("read");
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [1]);
    let left = client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.expect("read");
    assert!(left.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_both_strategies_come_and_go() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client.batch_execute("CREATE DATABASE model").await.expect("created");
    let model = quire.connect_to("model").await;
    let table = "CREATE TABLE t AS SELECT n, md5(n::text) m FROM generate_series(1, 3000) n; CREATE INDEX ON t (m)";
    model.batch_execute(table).await.expect("created");
    drop(model);
    for (name, strategy) in
        [("logged", "wal_log"), ("copied", "file_copy"), ("gone_l", "wal_log"), ("gone_c", "file_copy")]
    {
        let create = format!("CREATE DATABASE {name} TEMPLATE model STRATEGY {strategy}");
        wait_until_done(&client, &create).await;
    }
    client.batch_execute("DROP DATABASE gone_l").await.expect("dropped");
    client.batch_execute("DROP DATABASE gone_c").await.expect("dropped");
    quire.verify();
    quire.cold_restart();
    let client = quire.connect().await;
    let names = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate";
    let row = client.query_one(names, &[]).await.expect("read");
    assert_eq!(row.get::<_, String>(0), "copied logged model postgres");
    for name in ["logged", "copied"] {
        let copy = quire.connect_to(name).await;
        let row = copy.query_one("SELECT count(*), count(DISTINCT m) FROM t", &[]).await.expect("read");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3000, 3000), "{name}");
        expect_amcheck_clean(&copy).await;
    }
}

/// A template may still be in use for a moment by the connection that was just closed.
async fn wait_until_done(client: &tokio_postgres::Client, statement: &str) {
    let done = async || client.batch_execute(statement).await.ok();
    quire_tests::wait_for(statement, 30, done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_never_go_back() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client
        .batch_execute("CREATE SEQUENCE s; CREATE TABLE ids (id bigint DEFAULT nextval('s'))")
        .await
        .expect("created");
    client.batch_execute("INSERT INTO ids SELECT FROM generate_series(1, 100)").await.expect("inserted");
    let last: i64 = client.query_one("SELECT max(id) FROM ids", &[]).await.expect("read").get(0);
    quire.cold_restart();
    let client = quire.connect().await;
    let next: i64 = client.query_one("SELECT nextval('s')", &[]).await.expect("read").get(0);
    assert!(next > last && next <= last + 33, "{next} after {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_subtransactions_stay_rolled_back() {
    let quire = Quire::start();
    let client = quire.connect().await;
    // More subtransactions than a backend caches, so that the commit log decides.
    let statements = "CREATE TABLE sub (n int, kept bool);
        DO $$ BEGIN
          FOR n IN 1..300 LOOP
            BEGIN
              INSERT INTO sub VALUES (n, n % 3 <> 0);
              IF n % 3 = 0 THEN RAISE 'back'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
          END LOOP;
        END $$;
        BEGIN; INSERT INTO sub VALUES (1000, true); SAVEPOINT a; INSERT INTO sub VALUES (1001, false);
        ROLLBACK TO a; INSERT INTO sub VALUES (1002, true); COMMIT";
    client.batch_execute(statements).await.expect("done");
    quire.cold_restart();
    let client = quire.connect().await;
    let row = client.query_one("SELECT count(*), bool_and(kept) FROM sub", &[]).await.expect("read");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (202, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_and_truncated_relations_are_gone_after_a_cold_restart() {
    let quire = Quire::start();
    let client = quire.connect().await;
    let statements = "CREATE TABLE cut AS SELECT generate_series(1, 20000) n; CREATE TABLE gone AS SELECT * FROM cut;
        DROP TABLE gone; TRUNCATE cut; INSERT INTO cut VALUES (7);
        CREATE TABLE shrunk AS SELECT generate_series(1, 20000) n; DELETE FROM shrunk WHERE n > 10";
    client.batch_execute(statements).await.expect("done");
    client.batch_execute("VACUUM shrunk").await.expect("vacuumed");
    let size = "SELECT pg_relation_size('shrunk'), pg_relation_size('cut')";
    let before = client.query_one(size, &[]).await.expect("read");
    quire.cold_restart();
    let client = quire.connect().await;
    let after = client.query_one(size, &[]).await.expect("read");
    assert_eq!([0, 1].map(|n| before.get::<_, i64>(n)), [0, 1].map(|n| after.get::<_, i64>(n)));
    let row =
        client.query_one("SELECT (SELECT sum(n) FROM cut), (SELECT sum(n) FROM shrunk)", &[]).await.expect("read");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (7, 55));
    assert!(client.query("SELECT FROM gone", &[]).await.is_err());
}

/// Relations whose files have numbers in a directory of the cache.
fn relations_in(folder: &std::path::Path) -> BTreeSet<u32> {
    let names = std::fs::read_dir(folder).expect("listed").map(|entry| entry.expect("listed").file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// The number in the name of a table's file, and of its database's directory.
async fn numbers(client: &Client, table: &str) -> (u32, u32) {
    let query = "SELECT relfilenode, (SELECT oid FROM pg_database WHERE datname = current_database()) FROM pg_class
        WHERE relname = $1";
    let row = client.query_one(query, &[&table]).await.expect("found");
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn first_connection_waits_only_for_the_relations_it_needs_and_the_others_come() {
    const TABLES: u32 = 8000;
    let quire = Quire::start();
    let client = quire.connect().await;
    for first in (0..TABLES).step_by(2000) {
        let make = format!(
            "DO $$ BEGIN FOR i IN {first}..{} LOOP
                EXECUTE format('CREATE TABLE t%s AS SELECT %s AS n', i, i); END LOOP; END $$",
            first + 1999
        );
        client.batch_execute(&make).await.expect("created");
    }
    client.batch_execute("CREATE UNLOGGED TABLE scratch (n int)").await.expect("created");
    let (last, database) = numbers(&client, &format!("t{}", TABLES - 1)).await;
    let (dropped, _) = numbers(&client, &format!("t{}", TABLES - 2)).await;
    let folder = quire.dir().join(format!("compute/main/pgdata/base/{database}"));
    let before = relations_in(&folder);
    quire.cold_restart();
    let client = quire.connect().await;
    let read = format!("SELECT n FROM t{}", TABLES - 1);
    assert_eq!(client.query_one(&read, &[]).await.expect("read").get::<_, i32>(0), TABLES as i32 - 1);
    let early = relations_in(&folder);
    assert!(early.contains(&last) && early.len() < TABLES as usize / 2, "{} of {TABLES} are made", early.len());
    client.batch_execute(&format!("DROP TABLE t{}", TABLES - 2)).await.expect("dropped");
    client.batch_execute("CREATE TABLE late AS SELECT 7 AS n; INSERT INTO scratch VALUES (1)").await.expect("made");
    client.batch_execute("CHECKPOINT").await.expect("the files of the dropped table are removed");
    let inode = || std::fs::metadata(folder.join(last.to_string())).expect("made").ino();
    let read_from = inode();
    let size = "SELECT pg_database_size(current_database()) / 8192 >= $1::int8";
    let whole = client.query_one(size, &[&i64::from(TABLES)]).await.expect("listed");
    assert!(whole.get::<_, bool>(0), "a listing shows all relations");
    assert_eq!(inode(), read_from, "a file in use is not made again");
    let (late, _) = numbers(&client, "late").await;
    let (after, gone) = (relations_in(&folder), BTreeSet::from([dropped]));
    assert_eq!(&before - &after, gone, "nothing is missing, and nothing dropped has come back");
    assert!(after.contains(&late));
    assert_eq!(client.query_one("SELECT n FROM late", &[]).await.expect("read").get::<_, i32>(0), 7);
    quire.verify();
}
