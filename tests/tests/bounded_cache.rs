//! A cache smaller than the database, and one that loses every page as soon as it may: neither can be told from a whole one.

use quire_tests::load::{expect_amcheck_clean, expect_sums_agree, fill, start, start_script};
use quire_tests::{Quire, short_or_long, wait_for};
use tokio_postgres::Client;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 64 * MIB;

fn bounded() -> Quire {
    let quire = Quire::new();
    quire.ok(&["up", "--detach", "--cache-size", "64MiB"]);
    quire.set("shared_buffers = '16MB'");
    quire
}

/// Pages leave the cache all the time.
fn dropping() -> Quire {
    let quire = Quire::new();
    let output = quire.command(&["up", "--detach"]).env("QUIRE_DROP_ALL", "1").output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    quire.set("shared_buffers = '1MB'\nautovacuum_naptime = 1s\nbgwriter_delay = 10ms\nbgwriter_lru_maxpages = 1000");
    quire
}

fn cache(quire: &Quire, what: &str) -> u64 {
    let cache = &quire.branch()["compute"]["cache"];
    cache[what].as_u64().unwrap_or_else(|| panic!("no {what} in {cache}"))
}

/// Waits until pages have left since, so that what follows reads from storage.
async fn drops(quire: &Quire) {
    let before = cache(quire, "dropped");
    wait_for("pages leave the cache", 60, async || (cache(quire, "dropped") > before).then_some(())).await;
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

async fn expect_visibility_map_true(client: &Client) {
    run(client, "CREATE EXTENSION IF NOT EXISTS pg_visibility").await;
    for check in ["pg_check_visible", "pg_check_frozen"] {
        let query = format!(
            "SELECT count(*) FROM pg_class c, LATERAL {check}(c.oid) WHERE c.relkind IN ('r', 'm', 't') \
            AND c.relpersistence = 'p' AND c.relnamespace <> 'pg_catalog'::regnamespace"
        );
        assert_eq!(number(client, &query).await, 0, "{check}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_ten_times_the_cache_works_within_it() {
    let quire = bounded();
    let url = quire.url("postgres");
    fill(&url, short_or_long(40, 100));
    for round in 0..2 {
        let load = start(&url, 4, short_or_long(25, 120));
        let mut most = 0;
        while !load.has_ended() {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            most = most.max(cache(&quire, "bytes"));
        }
        load.finish();
        eprintln!("round {round}: cache at most {} MiB", most / MIB);
        let settled = async || (cache(&quire, "bytes") <= LIMIT).then_some(());
        wait_for("the cache is within its bound", 60, settled).await;
        // What was written and is not ingested yet has to stay, and on a busy machine that is more than the bound for a while.
        assert!(most < LIMIT * 5, "the cache grew to {most} bytes, half of the database");
        let client = quire.connect().await;
        expect_sums_agree(&client).await;
        expect_amcheck_clean(&client).await;
        expect_visibility_map_true(&client).await;
        quire.verify();
        assert!(cache(&quire, "dropped") > 10_000);
        if round == 0 {
            drop(client);
            quire.cold_restart();
            expect_sums_agree(&quire.connect().await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_transaction_sees_does_not_depend_on_the_cache() {
    let quire = dropping();
    let client = quire.connect().await;
    run(&client, "CREATE TABLE t (n int PRIMARY KEY, v int, pad text DEFAULT repeat('x', 300))").await;
    run(&client, "INSERT INTO t SELECT n, 0 FROM generate_series(1, 3000) n").await;
    for _ in 0..3 {
        run(&client, "BEGIN; INSERT INTO t SELECT n + 10000, v FROM t WHERE n <= 3000").await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, 6000);
        run(&client, "DECLARE c CURSOR FOR SELECT n FROM t ORDER BY n; UPDATE t SET v = v + 1 WHERE n <= 3000").await;
        run(&client, "SAVEPOINT a; DELETE FROM t WHERE n % 2 = 0; SELECT * FROM t WHERE n < 100 FOR UPDATE").await;
        drops_or_a_second(&quire).await;
        run(&client, "ROLLBACK TO a; SAVEPOINT b; UPDATE t SET v = v + 1; UPDATE t SET v = v + 1; RELEASE b").await;
        drops_or_a_second(&quire).await;
        assert_eq!(client.query("FETCH ALL c", &[]).await.expect("fetched").len(), 6000);
        assert_eq!(number(&client, "SELECT count(*) FROM t WHERE v % 3 = 0 OR n > 10000").await, 6000);
        run(&client, "DELETE FROM t WHERE n > 10000; UPDATE t SET v = 0; INSERT INTO t (n, v) VALUES (-1, 0)").await;
        drops_or_a_second(&quire).await;
        run(&client, "DELETE FROM t WHERE n < 0; COMMIT").await;
        assert_eq!(number(&client, "SELECT count(*) FROM t WHERE v = 0").await, 3000);
    }
    expect_amcheck_clean(&client).await;
    quire.verify();
}

async fn drops_or_a_second(quire: &Quire) {
    let before = cache(quire, "dropped");
    for _ in 0..10 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if cache(quire, "dropped") > before {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_upserts_splits_and_vacuums_lose_nothing() {
    let quire = dropping();
    let client = quire.connect().await;
    run(&client, "CREATE TABLE u (k int PRIMARY KEY, hits int); CREATE TABLE s (k bigint, r float8 DEFAULT random())")
        .await;
    run(&client, "CREATE INDEX ON s (k); CREATE INDEX ON s (r); CREATE SEQUENCE q").await;
    let url = quire.url("postgres");
    let times = short_or_long(400, 5000);
    let upsert = "INSERT INTO u VALUES ((random() * 500)::int, 1) ON CONFLICT (k) DO UPDATE SET hits = u.hits + 1";
    let upserts = start_script(&url, upsert, 4, times, &quire.beside("upsert.sql"));
    let split = "INSERT INTO s SELECT nextval('q') FROM generate_series(1, 20)";
    let splits = start_script(&url, split, 2, times, &quire.beside("split.sql"));
    while !(upserts.has_ended() && splits.has_ended()) {
        run(&client, "DELETE FROM s WHERE k % 3 = 0").await;
        run(&client, "VACUUM s").await;
        run(&client, "VACUUM u").await;
    }
    let (upserts, splits) = (upserts.finish(), splits.finish());
    assert_eq!(number(&client, "SELECT sum(hits) FROM u").await, i64::try_from(upserts).unwrap());
    let rows = i64::try_from(splits * 20).unwrap();
    assert_eq!(number(&client, "SELECT last_value FROM q").await, rows, "a sequence without gaps");
    run(&client, "DELETE FROM s WHERE k % 3 = 0").await;
    assert_eq!(number(&client, "SELECT count(*) FROM s").await, rows - rows / 3);
    drops(&quire).await;
    expect_amcheck_clean(&client).await;
    expect_visibility_map_true(&client).await;
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn relations_that_are_made_rewritten_cut_and_dropped_are_as_they_should_be() {
    let quire = dropping();
    let client = quire.connect().await;
    let sum = "SELECT (count(*) * 1000000000 + sum(n))::bigint FROM r";
    run(&client, "CREATE TABLE r AS SELECT n, md5(n::text) m FROM generate_series(1, 20000) n").await;
    let whole = number(&client, sum).await;
    for statement in [
        "CREATE INDEX r_n ON r (n)",
        "CREATE INDEX CONCURRENTLY r_m ON r (m)",
        "VACUUM FULL r",
        "CLUSTER r USING r_n",
        "REINDEX TABLE CONCURRENTLY r",
        "BEGIN; TRUNCATE r; INSERT INTO r VALUES (1, 'a'); ROLLBACK",
        "ALTER TABLE r ALTER n TYPE bigint",
        "ALTER TABLE r SET UNLOGGED",
        "ALTER TABLE r SET LOGGED",
        "DELETE FROM r WHERE n > 15000; INSERT INTO r SELECT n, md5(n::text) FROM generate_series(15001, 20000) n",
        "VACUUM (FREEZE, ANALYZE) r",
        "BEGIN; DELETE FROM r WHERE n > 100; ROLLBACK",
    ] {
        for part in if statement.contains("CONCURRENTLY") { vec![statement] } else { statement.split("; ").collect() } {
            run(&client, part).await;
        }
        drops_or_a_second(&quire).await;
        assert_eq!(number(&client, sum).await, whole, "{statement}");
    }
    run(&client, "CREATE TABLE cut AS SELECT generate_series(1, 200000) n").await;
    for _ in 0..3 {
        run(&client, "DELETE FROM cut WHERE n > 100").await;
        run(&client, "VACUUM cut").await;
        drops_or_a_second(&quire).await;
        assert_eq!(number(&client, "SELECT sum(n) FROM cut").await, 5050);
        run(&client, "INSERT INTO cut SELECT generate_series(101, 200000)").await;
        drops_or_a_second(&quire).await;
        assert_eq!(number(&client, "SELECT count(*) FROM cut").await, 200_000);
    }
    for strategy in ["wal_log", "file_copy"] {
        run(&client, &format!("CREATE DATABASE d STRATEGY {strategy}")).await;
        let other = quire.connect_to("d").await;
        run(&other, "CREATE TABLE x AS SELECT generate_series(1, 50000) n; CREATE INDEX ON x (n)").await;
        drops_or_a_second(&quire).await;
        assert_eq!(number(&other, "SELECT sum(n) FROM x").await, 1_250_025_000);
        expect_amcheck_clean(&other).await;
        drop(other);
        wait_for("nobody is connected", 30, async || client.batch_execute("DROP DATABASE d").await.ok()).await;
    }
    expect_amcheck_clean(&client).await;
    quire.verify();
    assert!(cache(&quire, "dropped") > 5000, "pages left all the time");
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(number(&client, sum).await, whole);
    expect_amcheck_clean(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visibility_map_never_calls_a_page_visible_that_is_not() {
    let quire = dropping();
    let client = quire.connect().await;
    run(&client, "CREATE TABLE v (n int, k int) WITH (autovacuum_enabled = off)").await;
    run(&client, "INSERT INTO v SELECT n, n FROM generate_series(1, 30000) n; CREATE INDEX v_n ON v (n)").await;
    run(&client, "SET enable_seqscan = off; SET enable_bitmapscan = off").await;
    let count = "SELECT count(*) FROM v WHERE n > 0";
    for round in 1..=short_or_long(4, 40) {
        run(&client, "VACUUM v").await;
        drops_or_a_second(&quire).await;
        for (change, rows) in [
            ("DELETE FROM v WHERE n % 50 = 7", 29_400),
            ("INSERT INTO v SELECT n, n FROM generate_series(7, 30000, 50) n", 30_000),
            ("UPDATE v SET n = n WHERE k % 77 = 5", 30_000),
            ("SELECT * FROM v WHERE k % 91 = 3 FOR UPDATE", 30_000),
        ] {
            run(&client, change).await;
            drops_or_a_second(&quire).await;
            assert_eq!(number(&client, count).await, rows, "{change}, round {round}");
        }
        expect_visibility_map_true(&client).await;
    }
    let url = quire.url("postgres");
    fill(&url, 5);
    let load = start(&url, 4, short_or_long(15, 120));
    while !load.has_ended() {
        run(&client, "VACUUM pgbench_accounts").await;
        expect_visibility_map_true(&client).await;
    }
    load.finish();
    expect_sums_agree(&client).await;
    expect_amcheck_clean(&client).await;
    quire.verify();
}
