//! What PostgreSQL keeps outside WAL survives the loss of the compute's disk.

use quire_tests::load::{expect_amcheck_clean, expect_sums_agree, fill, start, start_script, sums};
use quire_tests::{Quire, Stock, short_or_long, wait_for};
use std::fs;
use std::path::Path;
use tokio_postgres::Client;

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

async fn text(client: &Client, query: &str) -> String {
    let row = client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

const SLOTS: &str = "SELECT string_agg(concat_ws(' ', slot_name, plugin, database, catalog_xmin, restart_lsn, \
    confirmed_flush_lsn), ', ' ORDER BY slot_name) FROM pg_replication_slots";

const MAPPINGS: &str = "SELECT string_agg(name || ' ' || size, ', ' ORDER BY name) FROM pg_ls_logicalmapdir()";

#[tokio::test(flavor = "multi_thread")]
async fn replication_slots_come_back_with_the_wal_they_need() {
    let quire = Quire::start();
    quire.set("wal_level = logical");
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.expect("created");
    let create = "SELECT pg_create_physical_replication_slot('standby', true);
        SELECT pg_create_physical_replication_slot('gone', true);
        SELECT pg_create_logical_replication_slot('decoded', 'test_decoding');
        SELECT pg_drop_replication_slot('gone')";
    client.batch_execute(create).await.expect("created");
    for n in 0..6 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({n})")).await.expect("inserted");
        client.batch_execute("SELECT pg_switch_wal()").await.expect("switched");
    }
    // A rewritten catalog, of which decoding has to know what was where before.
    client.batch_execute("CREATE TABLE later (n int); INSERT INTO later VALUES (6)").await.expect("created");
    client.batch_execute("VACUUM FULL pg_class").await.expect("rewritten");
    client.batch_execute("CHECKPOINT; CHECKPOINT").await.expect("checkpointed");
    let mappings = text(&client, MAPPINGS).await;
    assert_ne!(mappings, "");
    let before = text(&client, SLOTS).await;
    assert!(before.contains("decoded test_decoding postgres") && !before.contains("gone"), "{before}");

    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(text(&client, SLOTS).await, before);
    assert_eq!(text(&client, MAPPINGS).await, mappings);
    let decoded = "SELECT string_agg(substring(data from '\\d+$'), ' ' ORDER BY lsn) \
        FROM pg_logical_slot_get_changes('decoded', NULL, NULL) WHERE data LIKE 'table%INSERT%'";
    assert_eq!(text(&client, decoded).await, "0 1 2 3 4 5 6");

    client.batch_execute("SELECT pg_create_physical_replication_slot('late')").await.expect("created");
    client.batch_execute("SELECT pg_drop_replication_slot('standby')").await.expect("dropped");
    quire.kill_everything().await;
    quire.up();
    let after = text(&quire.connect().await, SLOTS).await;
    assert!(after.contains("decoded") && after.contains("late") && !after.contains("standby"), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_too_long_to_be_kept_is_named_and_costs_a_restart_and_nothing_else() {
    let quire = Quire::start();
    quire.set("wal_level = logical");
    let client = quire.connect().await;
    let create = "SELECT pg_create_logical_replication_slot('s', 'test_decoding');
        CREATE TABLE catalog (n int) WITH (user_catalog_table = true)";
    client.batch_execute(create).await.expect("created");
    client.batch_execute("INSERT INTO catalog SELECT generate_series(1, 500000)").await.expect("filled");
    let term = || quire.branch()["compute"]["term"].as_u64();
    let before = term().expect("it runs");
    // Its mapping is longer than storage takes, and PostgreSQL answers an error there with a crash.
    client.batch_execute("VACUUM FULL catalog").await.expect_err("its mapping cannot be kept");
    let log = quire.log("compute-main");
    assert!(log.contains("pg_logical/mappings/map-") && log.contains("storage keeps at most"), "the agent says why");
    let started_anew = async || {
        let is_running = quire.branch()["compute"]["state"] == "running";
        (is_running && term()? > before).then_some(())
    };
    wait_for("the compute starts anew", 60, started_anew).await;
    let client = quire.connect().await;
    assert_eq!(number(&client, "SELECT count(*) FROM catalog").await, 500_000);
    assert_eq!(number(&client, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's'").await, 1);
    client.batch_execute("CHECKPOINT; INSERT INTO catalog VALUES (0)").await.expect("all goes on");
    quire.verify();
    quire.expect_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn safekeepers_keep_the_wal_that_a_slot_needs_until_it_is_dropped() {
    let quire = Quire::start();
    let client = quire.connect().await;
    let create = "SELECT pg_create_physical_replication_slot('standby', true)";
    client.batch_execute(create).await.expect("created");
    let needed = text(&client, "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots").await;
    for _ in 0..5 {
        client.batch_execute("CREATE TABLE t (); DROP TABLE t").await.expect("something is logged");
        client.batch_execute("SELECT pg_switch_wal()").await.expect("switched");
    }
    let end = text(&client, "SELECT pg_current_wal_lsn()::text").await;
    let is_durable = async || {
        let durable = quire.branch()["lsn"]["durable"].as_str().expect("a position").to_owned();
        let passed = format!("SELECT '{durable}'::pg_lsn >= '{end}'");
        client.query_one(&passed, &[]).await.expect("compared").get::<_, bool>(0).then_some(())
    };
    wait_for("storage has the log", 180, is_durable).await;
    quire.cold_restart();
    assert_eq!(copies(&quire, &needed), 3, "{needed}");
    let client = quire.connect().await;
    client.batch_execute("SELECT pg_drop_replication_slot('standby')").await.expect("dropped");
    client.batch_execute("CREATE TABLE t ()").await.expect("something is logged");
    wait_for("the segment goes", 60, async || (copies(&quire, &needed) == 0).then_some(())).await;
}

/// How many safekeepers have a WAL segment.
fn copies(quire: &Quire, segment: &str) -> usize {
    fn count(folder: &Path, name: &str) -> usize {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| if entry.file_name() == name { 1 } else { count(&entry.path(), name) }).sum()
    }
    let folders = fs::read_dir(quire.dir()).expect("listed").flatten();
    let of_safekeepers = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with("safekeeper"));
    of_safekeepers.map(|folder| count(&folder.path(), segment)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_misses_nothing_and_gets_nothing_twice() {
    let quire = Quire::start();
    quire.set("wal_level = logical");
    let url = quire.url("postgres");
    let client = quire.connect().await;
    // No key: a row that came twice would be there twice.
    let table = "CREATE TABLE events (n bigint DEFAULT (random() * 1e15)::bigint, pid int DEFAULT pg_backend_pid())";
    client.batch_execute(&format!("{table}; CREATE PUBLICATION p FOR TABLE events")).await.expect("published");
    let stock = Stock::start().await;
    let subscriber = stock.connect().await;
    subscriber.batch_execute(table).await.expect("created");
    let subscribe = format!("CREATE SUBSCRIPTION s CONNECTION '{url}' PUBLICATION p");
    subscriber.batch_execute(&subscribe).await.expect("subscribed");

    let script = quire.beside("insert.sql");
    let some = |times| start_script(&url, "INSERT INTO events DEFAULT VALUES", 4, times, &script);
    for round in 0..short_or_long(2, 10) {
        some(200).finish();
        quire.cold_restart();
        let client = quire.connect().await;
        let before = number(&client, "SELECT count(*) FROM events").await;
        let load = some(1_000_000);
        let grown = async || (number(&client, "SELECT count(*) FROM events").await > before + 500).then_some(());
        wait_for("the clients get on", 120, grown).await;
        quire.kill_everything().await;
        load.give_up();
        quire.up();
        let client = quire.connect().await;
        expect_same_events(&client, &subscriber).await;
        eprintln!("round {round}: {} rows", number(&client, "SELECT count(*) FROM events").await);
    }
    // Dropping it would reach for the publisher.
    subscriber.batch_execute("ALTER SUBSCRIPTION s DISABLE").await.expect("disabled");
}

async fn expect_same_events(publisher: &Client, subscriber: &Client) {
    let everything = "SELECT count(*) || ' ' || md5(string_agg(n || ' ' || pid, ',' ORDER BY n, pid)) FROM events";
    let expected = text(publisher, everything).await;
    let count = number(publisher, "SELECT count(*) FROM events").await;
    let arrived = async || (number(subscriber, "SELECT count(*) FROM events").await >= count).then_some(());
    wait_for("everything arrives at the subscriber", 120, arrived).await;
    assert_eq!(text(subscriber, everything).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_taken_under_load_starts_as_a_plain_server() {
    let quire = Quire::start();
    let url = quire.url("postgres");
    fill(&url, short_or_long(3, 30));
    quire.cold_restart();
    let load = start(&url, 4, 600);
    let client = quire.connect().await;
    let history = "SELECT count(*) FROM pgbench_history";
    wait_for("the load gets on", 60, async || (number(&client, history).await > 100).then_some(())).await;
    let stock = Stock::from_backup(&url).await;
    assert!(!load.has_ended(), "the backup was taken under load");
    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'")
        .await
        .expect("ended");
    load.give_up();
    let copy = stock.connect().await;
    expect_sums_agree(&copy).await;
    expect_amcheck_clean(&copy).await;
    assert!(sums(&copy).await != [0; 4] && number(&copy, history).await >= 100);
    copy.batch_execute("INSERT INTO pgbench_history (delta) VALUES (0)").await.expect("it can be written");
}

const COUNTERS: &str = "SELECT n_tup_ins || ' ' || n_tup_upd || ' ' || n_dead_tup || ' ' || vacuum_count \
    FROM pg_stat_user_tables WHERE relname = 'counted'";

#[tokio::test(flavor = "multi_thread")]
async fn counters_sizes_settings_and_large_objects_outlive_a_clean_cold_restart() {
    let quire = Quire::start();
    let client = quire.connect().await;
    let statements =
        "CREATE TABLE counted AS SELECT generate_series(1, 10000) n; UPDATE counted SET n = -n WHERE n < 100;
        SELECT lo_from_bytea(4711, decode(repeat('c0ffee', 100000), 'hex'));";
    client.batch_execute(statements).await.expect("done");
    client.batch_execute("VACUUM counted").await.expect("vacuumed");
    client.batch_execute("ALTER SYSTEM SET work_mem = '7MB'").await.expect("set");
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.expect("flushed");
    let counters = wait_for("the counters are there", 30, async || {
        let counters = text(&client, COUNTERS).await;
        counters.starts_with("10000 99 ").then_some(counters)
    })
    .await;
    client.batch_execute("CHECKPOINT").await.expect("checkpointed");
    let size = number(&client, "SELECT pg_database_size('postgres')").await;
    drop(client);

    quire.ok(&["compute", "stop", "main"]);
    // What storage does not have is lost now.
    fs::remove_dir_all(quire.dir().join("compute/main/pgdata")).expect("removed");
    quire.ok(&["compute", "start", "main", "--cold"]);
    let client = quire.connect().await;
    assert_eq!(text(&client, COUNTERS).await, counters);
    assert_eq!(text(&client, "SHOW work_mem").await, "7MB");
    let now = number(&client, "SELECT pg_database_size('postgres')").await;
    assert!(now.abs_diff(size) < size.unsigned_abs() / 10, "{now} after {size}");
    let object = "SELECT md5(lo_get(4711)) = md5(decode(repeat('c0ffee', 100000), 'hex'))";
    assert!(client.query_one(object, &[]).await.expect("read").get::<_, bool>(0));

    client.batch_execute("UPDATE counted SET n = 0 WHERE n = 500").await.expect("updated");
    quire.kill_everything().await;
    quire.up();
    let client = quire.connect().await;
    assert_ne!(text(&client, COUNTERS).await, counters, "counters of another time do not come back after a crash");
}

#[tokio::test(flavor = "multi_thread")]
async fn space_that_was_freed_before_a_cold_restart_is_used_after_it() {
    let quire = Quire::start();
    let client = quire.connect().await;
    let statements = "CREATE EXTENSION pg_freespacemap; CREATE TABLE holes (n int, filler text) WITH (autovacuum_enabled = off);
        INSERT INTO holes SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n; DELETE FROM holes WHERE n % 4 <> 0";
    client.batch_execute(statements).await.expect("done");
    client.batch_execute("VACUUM holes").await.expect("vacuumed");
    let free = "SELECT sum(avail)::bigint FROM pg_freespace('holes')";
    let (size, before) = (number(&client, "SELECT pg_relation_size('holes')").await, number(&client, free).await);
    assert!(before > size / 2, "{before} of {size} bytes are free");
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(number(&client, free).await, before);
    let again = "INSERT INTO holes SELECT n, repeat('y', 500) FROM generate_series(1, 10000) n";
    client.batch_execute(again).await.expect("inserted");
    assert_eq!(number(&client, "SELECT pg_relation_size('holes')").await, size, "it did not grow");

    // A map that names blocks which are gone must not come back.
    client.batch_execute("CHECKPOINT; DELETE FROM holes").await.expect("emptied");
    client.batch_execute("VACUUM (TRUNCATE) holes").await.expect("cut");
    quire.cold_restart();
    let client = quire.connect().await;
    client.batch_execute(again).await.expect("inserted");
    expect_amcheck_clean(&client).await;
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_relations_have_their_own_rows_and_temporary_ones_are_gone() {
    let quire = Quire::start();
    let client = quire.connect().await;
    let statements = "CREATE TABLE again AS SELECT generate_series(1, 5000) n; CREATE INDEX again_n ON again (n)";
    client.batch_execute(statements).await.expect("created");
    let recreate =
        "DROP TABLE again; CREATE TABLE again AS SELECT generate_series(1, 70) n; CREATE INDEX again_n ON again (n);
        CREATE TEMP TABLE passing AS SELECT generate_series(1, 5000) n; CREATE INDEX passing_n ON passing (n);
        CREATE UNLOGGED TABLE scratch AS SELECT generate_series(1, 5000) n";
    client.batch_execute(recreate).await.expect("created");
    quire.kill_everything().await;
    quire.up();
    let client = quire.connect().await;
    client.batch_execute("SET enable_seqscan = off").await.expect("set");
    assert_eq!(number(&client, "SELECT count(*) FROM again WHERE n > 0").await, 70);
    assert_eq!(number(&client, "SELECT count(*) FROM scratch").await, 0);
    client.batch_execute("CREATE TEMP TABLE passing AS SELECT 1 n").await.expect("the name is free");
    assert_eq!(number(&client, "SELECT count(*) FROM passing").await, 1);
    expect_amcheck_clean(&client).await;
    quire.verify();
}
