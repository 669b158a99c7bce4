//! Pages that WAL does not describe come back as PostgreSQL wrote them: copied databases, init forks that nobody logs,
//! sequences.

use quire_tests::disk::SmallDisk;
use quire_tests::processes::give_to_server;
use quire_tests::{Quire, Stock};
use tokio_postgres::{Client, Row};

/// A template with a table whose visibility map and BRIN index say something, and one index of each other kind.
const TEMPLATE: &[&str] = &[
    "CREATE EXTENSION bloom",
    "CREATE TABLE b (id int, v int, f char(400) DEFAULT 'x', a int[], p point, t text) \
     WITH (fillfactor = 40, autovacuum_enabled = off)",
    "INSERT INTO b SELECT g, g, 'x', ARRAY[g % 100], point(g % 100, g / 100), 't' || g % 100 FROM generate_series(1, 6000) g",
    "CREATE INDEX b_v ON b USING brin (v) WITH (pages_per_range = 1)",
    "CREATE INDEX b_a ON b USING gin (a)",
    "CREATE INDEX b_p ON b USING gist (p)",
    "CREATE INDEX b_t ON b USING spgist (t)",
    "CREATE INDEX b_h ON b USING hash (id)",
    "CREATE INDEX b_bloom ON b USING bloom (id, v)",
    "CREATE INDEX b_id ON b (id)",
    "CREATE SEQUENCE s",
    "VACUUM b",
];

/// What is done in the copy.
const CHANGES: &[&str] = &[
    "UPDATE b SET v = v + 1000000 WHERE id <= 300",
    "VACUUM b",
    "INSERT INTO b SELECT g, g, 'x', ARRAY[g % 100], point(g % 100, g / 100), 't' || g % 100 FROM generate_series(6001, 14000) g",
    "VACUUM b",
];

/// Conditions that an index answers, and how many rows they hold for after the changes.
const CONDITIONS: &[(&str, i64)] = &[
    ("v >= 1000000", 300),
    ("a @> ARRAY[7]", 140),
    ("p <@ box '((0,0),(9,1))'", 19),
    ("t = 't7'", 140),
    ("id = 77", 1),
    ("id = 78 AND v = 1000078", 1),
    ("id BETWEEN 100 AND 199", 100),
];

async fn run(client: &Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

async fn number(client: &Client, query: &str) -> i64 {
    let rows: Vec<Row> = client.query(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    rows[0].get(0)
}

async fn count(client: &Client, condition: &str, setting: &str) -> i64 {
    run(client, &["SET enable_seqscan = on; SET enable_bitmapscan = on; SET enable_indexscan = on", setting]).await;
    number(client, &format!("SELECT count(*) FROM b WHERE {condition}")).await
}

/// Rows by the indexes, and by a scan of the table.
async fn counts(client: &Client) -> Vec<(i64, i64)> {
    let mut counts = Vec::new();
    for (condition, _) in CONDITIONS {
        let by_index = count(client, condition, "SET enable_seqscan = off").await;
        let by_scan = count(client, condition, "SET enable_bitmapscan = off; SET enable_indexscan = off").await;
        counts.push((by_index, by_scan));
    }
    counts
}

async fn expect_right_answers(client: &Client) {
    let expected: Vec<(i64, i64)> = CONDITIONS.iter().map(|(_, rows)| (*rows, *rows)).collect();
    assert_eq!(counts(client).await, expected, "{CONDITIONS:?}");
}

async fn all_visible(client: &Client) -> i64 {
    run(client, &["CREATE EXTENSION IF NOT EXISTS pg_visibility"]).await;
    number(client, "SELECT count(*) FROM pg_visibility_map('b') WHERE all_visible").await
}

/// The template and its copy; says how many pages of the table are all-visible there.
async fn copy(quire: &Quire, strategy: &str) -> i64 {
    let client = quire.connect().await;
    run(&client, &["CREATE DATABASE tpl"]).await;
    {
        let template = quire.connect_to("tpl").await;
        run(&template, TEMPLATE).await;
        run(&template, &["CREATE EXTENSION pg_visibility"]).await;
    }
    // The connection above takes a moment to be gone.
    let create = format!("CREATE DATABASE app TEMPLATE tpl STRATEGY {strategy}");
    quire_tests::wait_for("the template is copied", 30, async || client.batch_execute(&create).await.ok()).await;
    all_visible(&quire.connect_to("app").await).await
}

async fn expect_no_mismatch_and_pushdown(quire: &Quire) {
    quire.verify();
    let branch = quire.branch();
    assert_eq!(branch["pushdown"]["state"], "on", "{branch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_database_is_the_same_after_a_checkpoint_and_a_cold_start() {
    let quire = Quire::new().with_option("--cache-size", "none").with_option("--verify-rate", "500");
    quire.up();
    let visible = copy(&quire, "wal_log").await;
    assert!(visible > 500, "{visible}");
    run(&quire.connect().await, &["CHECKPOINT"]).await;
    expect_no_mismatch_and_pushdown(&quire).await;
    quire.cold_restart();
    let app = quire.connect_to("app").await;
    assert_eq!(all_visible(&app).await, visible, "the visibility map came back");
    run(&app, CHANGES).await;
    expect_right_answers(&app).await;
    expect_no_mismatch_and_pushdown(&quire).await;
    quire.cold_restart();
    expect_right_answers(&quire.connect_to("app").await).await;
    expect_no_mismatch_and_pushdown(&quire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_database_is_the_same_while_every_page_leaves_as_soon_as_it_may() {
    let quire = Quire::new().with_option("--cache-size", "16MiB").with_variable("QUIRE_DROP_ALL", "1");
    quire.up();
    quire.set("shared_buffers = '1MB'\ncheckpoint_timeout = '1d'\nmax_wal_size = '10GB'");
    let visible = copy(&quire, "wal_log").await;
    let app = quire.connect_to("app").await;
    run(&app, CHANGES).await;
    expect_right_answers(&app).await;
    assert!(all_visible(&app).await >= visible);
    expect_no_mismatch_and_pushdown(&quire).await;
    expect_right_answers(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_database_on_another_file_system_is_the_same_and_its_pages_leave() {
    let quire = Quire::new().with_option("--cache-size", "16MiB").with_variable("QUIRE_DROP_ALL", "1");
    let location = quire.beside("location");
    let Some(disk) = SmallDisk::mount(&location, 512) else { return };
    give_to_server(&location);
    quire.up();
    run(&quire.connect().await, &[&format!("CREATE TABLESPACE far LOCATION '{}'", location.display())]).await;
    let visible = copy(&quire, "wal_log TABLESPACE far").await;
    let app = quire.connect_to("app").await;
    run(&app, CHANGES).await;
    expect_right_answers(&app).await;
    run(&app, &["CREATE TABLE made AS SELECT n, repeat('x', 500) x FROM generate_series(1, 60000) n", "CHECKPOINT"])
        .await;
    let few_are_left = async || (disk.used() < 24 << 20).then_some(());
    quire_tests::wait_for("pages leave the other file system", 60, few_are_left).await;
    expect_right_answers(&app).await;
    assert_eq!(number(&app, "SELECT sum(n) FROM made").await, 60_000 * 60_001 / 2);
    assert!(all_visible(&app).await >= visible);
    expect_no_mismatch_and_pushdown(&quire).await;
    drop(app);
    quire.cold_restart();
    expect_right_answers(&quire.connect_to("app").await).await;
    expect_no_mismatch_and_pushdown(&quire).await;
    quire.down();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_copied_by_files_and_moved_is_the_same_after_a_cold_start() {
    let quire = Quire::start();
    let visible = copy(&quire, "file_copy").await;
    let client = quire.connect().await;
    run(&client, &["SET allow_in_place_tablespaces = on", "CREATE TABLESPACE near LOCATION ''"]).await;
    let moved = async || client.batch_execute("ALTER DATABASE app SET TABLESPACE near").await.ok();
    quire_tests::wait_for("the database is moved", 30, moved).await;
    quire.verify();
    quire.cold_restart();
    let app = quire.connect_to("app").await;
    assert_eq!(all_visible(&app).await, visible);
    run(&app, CHANGES).await;
    expect_right_answers(&app).await;
    expect_no_mismatch_and_pushdown(&quire).await;
}

/// What a kill leaves, by the counts after the changes: on stock, and on Quire.
async fn killed(checkpoint: bool) -> [Vec<(i64, i64)>; 2] {
    let create = "CREATE DATABASE app TEMPLATE tpl STRATEGY wal_log";
    let checkpoint: &[&str] = if checkpoint { &["CHECKPOINT"] } else { &[] };

    let mut stock = Stock::start().await;
    run(&stock.connect().await, &["CREATE DATABASE tpl"]).await;
    run(&stock.connect_to("tpl").await, TEMPLATE).await;
    let client = stock.connect().await;
    run(&client, &["CHECKPOINT"]).await;
    quire_tests::wait_for("the template is copied", 30, async || client.batch_execute(create).await.ok()).await;
    run(&client, checkpoint).await;
    stock.crash().await;
    let app = stock.connect_to("app").await;
    run(&app, CHANGES).await;
    let of_stock = counts(&app).await;

    let quire = Quire::start();
    run(&quire.connect().await, &["CREATE DATABASE tpl"]).await;
    run(&quire.connect_to("tpl").await, TEMPLATE).await;
    let client = quire.connect().await;
    run(&client, &["CHECKPOINT"]).await;
    quire_tests::wait_for("the template is copied", 30, async || client.batch_execute(create).await.ok()).await;
    run(&client, checkpoint).await;
    quire.kill_everything().await;
    quire.up();
    let app = quire.connect_to("app").await;
    run(&app, CHANGES).await;
    let of_quire = counts(&app).await;
    quire.verify();
    [of_stock, of_quire]
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_a_copied_database_is_no_worse_than_on_stock() {
    let [stock, quire] = killed(true).await;
    assert_eq!(stock, quire, "after the checkpoint");
    assert!(quire.iter().all(|(by_index, by_scan)| by_index == by_scan), "{quire:?}");
    let [stock, quire] = killed(false).await;
    for ((condition, _), (stock, quire)) in CONDITIONS.iter().zip(stock.iter().zip(&quire)) {
        assert_eq!(stock.1, quire.1, "{condition}: rows of the table");
        assert!(quire.0 == stock.0 || quire.0 == quire.1, "{condition}: {quire:?}, on stock {stock:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_fork_that_is_not_logged_comes_back() {
    let quire = Quire::start();
    let client = quire.connect().await;
    run(
        &client,
        &[
            "CREATE EXTENSION rum",
            "CREATE UNLOGGED TABLE u (n int, v tsvector)",
            "CREATE INDEX u_v ON u USING rum (v rum_tsvector_ops)",
            "INSERT INTO u VALUES (1, 'a b')",
            "CREATE TABLE logged (n int, v tsvector)",
            "CREATE INDEX logged_v ON logged USING rum (v rum_tsvector_ops)",
            "INSERT INTO logged SELECT g, to_tsvector('w' || g % 50) FROM generate_series(1, 5000) g",
            "CHECKPOINT",
        ],
    )
    .await;
    let reads = "SET enable_seqscan = off; SELECT count(*) FROM u WHERE v @@ 'a'";
    for _ in 0..2 {
        quire.verify();
        quire.cold_restart();
        let client = quire.connect().await;
        run(&client, &[reads]).await;
        assert_eq!(number(&client, "SELECT count(*) FROM u").await, 0, "it is empty, as after a crash");
        run(&client, &["INSERT INTO u VALUES (2, 'a c')"]).await;
        assert_eq!(number(&client, "SELECT count(*) FROM u WHERE v @@ 'a'").await, 1);
        assert_eq!(number(&client, "SELECT count(*) FROM logged WHERE v @@ 'w7'").await, 100);
        run(&client, &["REINDEX INDEX u_v", "CHECKPOINT"]).await;
    }
    expect_no_mismatch_and_pushdown(&quire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_goes_on_without_a_gap_after_a_clean_stop() {
    let quire = Quire::start();
    let client = quire.connect().await;
    run(&client, &["CREATE SEQUENCE s", "SELECT nextval('s') FROM generate_series(1, 5)"]).await;
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(number(&client, "SELECT nextval('s')").await, 6);
    quire.verify();
    quire.down();
    quire.up();
    let client = quire.connect().await;
    assert_eq!(number(&client, "SELECT nextval('s')").await, 7, "also when everything was down");
}

/// A value that was handed out is never handed out again, whatever storage was given in between.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_sequence_comes_twice_after_a_crash() {
    let quire = Quire::start();
    let client = quire.connect().await;
    run(&client, &["CREATE SEQUENCE s", "SELECT nextval('s') FROM generate_series(1, 5)", "CHECKPOINT"]).await;
    quire.ok(&["compute", "restart", "main"]);
    let client = quire.connect().await;
    run(&client, &["SELECT nextval('s') FROM generate_series(1, 3)", "CHECKPOINT"]).await;
    let last = number(&client, "SELECT nextval('s')").await;
    run(&client, &["SELECT pg_logical_emit_message(true, 'test', 'a commit')"]).await;
    quire.kill_everything().await;
    quire.up();
    let next = number(&quire.connect().await, "SELECT nextval('s')").await;
    assert!(next > last, "{last} was handed out before the crash, {next} after it");
}
