//! A data directory that an earlier build of Quire has left is opened, read and written by this one.
//!
//! `tests/earlier_versions/*.tar.gz` are such directories, each left by `kill -9` with log that storage had not
//! ingested, and without the compute's cache. A build whose formats change adds one: `QUIRE_KEEP_AT=FILE.tar.gz cargo
//! test -p quire-tests --test earlier_versions -- --ignored`.

use quire_tests::{Quire, amcheck, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_postgres::Client;

/// What a directory has when it is left.
const CONTENT: &[&str] = &[
    "CREATE TABLE t (n int PRIMARY KEY, s text, p point, r int4range)",
    "CREATE INDEX ON t USING gist (p)",
    "CREATE INDEX ON t USING gin (string_to_array(s, ' '))",
    "CREATE INDEX ON t USING brin (n) WITH (pages_per_range = 1)",
    "CREATE INDEX ON t USING spgist (s)",
    "CREATE INDEX ON t USING hash (s)",
    "INSERT INTO t SELECT n, 'row ' || n, point(n % 100, n / 100), int4range(n, n + 5) FROM generate_series(1, 3000) n",
    "CREATE SEQUENCE seq",
    "SELECT nextval('seq') FROM generate_series(1, 50)",
    "CREATE UNLOGGED TABLE unlogged AS SELECT 1 n",
    "SET allow_in_place_tablespaces = on",
    "CREATE TABLESPACE near LOCATION ''",
    "CREATE TABLE placed TABLESPACE near AS SELECT n FROM generate_series(1, 100) n",
    "CREATE TABLE dropped AS SELECT 1 n",
    "DROP TABLE dropped",
    "CREATE TABLE cut AS SELECT n FROM generate_series(1, 2000) n",
    "DELETE FROM cut WHERE n > 10",
    "VACUUM t, cut",
    "ALTER SYSTEM SET work_mem = '7MB'",
    "CHECKPOINT",
];

/// Written after a checkpoint and a restart: chains over the pages of before.
const LATER: &[&str] = &[
    "UPDATE t SET s = s || ' changed' WHERE n % 3 = 0",
    "DELETE FROM t WHERE n > 2900",
    "VACUUM t",
    "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')",
    "BEGIN",
    "INSERT INTO t VALUES (5000, 'prepared', point(1, 1), '[1,2)')",
    "PREPARE TRANSACTION 'waits'",
];

/// Queries of one number, and what they come to in a directory as it is left.
const ANSWERS: &[(&str, i64)] = &[
    ("SELECT count(*) FROM t", 2900),
    ("SELECT sum(n)::bigint FROM t", 2900 * 2901 / 2),
    ("SELECT count(*) FROM t WHERE s LIKE '%changed'", 966),
    ("SELECT count(*) FROM t WHERE p <@ box '((0,0),(9,1))'", 19),
    ("SELECT count(*) FROM t WHERE string_to_array(s, ' ') @> ARRAY['changed']", 966),
    ("SELECT count(*) FROM t WHERE n BETWEEN 100 AND 199", 100),
    ("SELECT count(*) FROM t WHERE s = 'row 77'", 1),
    ("SELECT count(*) FROM unlogged", 0),
    ("SELECT count(*) FROM placed", 100),
    ("SELECT count(*) FROM cut", 10),
    ("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'waits'", 1),
    ("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'slot'", 1),
];

async fn run(client: &Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn expect_answers(client: &Client) {
    for setting in ["on", "off"] {
        run(client, &[&format!("SET enable_seqscan = {setting}")]).await;
        for (query, expected) in ANSWERS {
            assert_eq!(number(client, query).await, *expected, "enable_seqscan = {setting}: {query}");
        }
    }
}

fn kept() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("earlier_versions");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("listed").map(|entry| entry.expect("read").path()).collect();
    paths.sort();
    paths
}

fn tar(arguments: &[&str], archive: &Path) {
    let status = Command::new("tar").args(arguments).arg("-f").arg(archive).status().expect("tar runs");
    assert!(status.success(), "tar {arguments:?} {}", archive.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_an_earlier_build_is_read_and_written() {
    let archives = kept();
    assert!(!archives.is_empty());
    for archive in archives {
        eprintln!("{}", archive.display());
        let quire = Quire::new();
        tar(&["-xz", "--no-same-owner", "-C", quire.dir().parent().and_then(Path::to_str).expect("text")], &archive);
        quire.up();
        expect_left_as_it_was(&quire).await;
        let client = quire.connect().await;
        run(
            &client,
            &[
                "COMMIT PREPARED 'waits'",
                "UPDATE t SET s = 'new ' || n",
                "VACUUM FREEZE t",
                "SELECT pg_drop_replication_slot('slot')",
            ],
        )
        .await;
        drop(client);
        quire.cold_restart();
        let client = quire.connect().await;
        assert_eq!(number(&client, "SELECT count(*) FROM t WHERE s LIKE 'new %' AND n <= 5000").await, 2901);
        assert!(amcheck::expect_clean_everywhere(&quire).await.indexes > 0);
        quire.verify();
        assert_eq!(quire.branch()["pushdown"]["state"], "on");
    }
}

async fn expect_left_as_it_was(quire: &Quire) {
    let client = quire.connect().await;
    expect_answers(&client).await;
    assert!(number(&client, "SELECT nextval('seq')").await > 50);
    let work_mem: String = client.query_one("SHOW work_mem", &[]).await.expect("shown").get(0);
    assert_eq!(work_mem, "7MB");
    let page = quire.json(&["page", "show", "main", "t", "0"]);
    assert!(page.to_string().contains("lsn"), "{page}");
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes what is kept: say where in QUIRE_KEEP_AT"]
async fn keep_a_directory_of_this_build() {
    let archive = PathBuf::from(std::env::var_os("QUIRE_KEEP_AT").expect("QUIRE_KEEP_AT names a file"));
    let quire = Quire::new().with_option("--safekeepers", "1").with_option("--cache-size", "64MiB");
    quire.up();
    quire.set("max_prepared_transactions = 5\nwal_level = logical");
    quire.ok(&["pushdown", "set", "main", "--max-deltas", "32"]);
    run(&quire.connect().await, CONTENT).await;
    quire.down();
    quire.up();
    run(&quire.connect().await, LATER).await;
    expect_answers(&quire.connect().await).await;
    wait_for("what was flushed is safe", 60, async || quire.branch()["lsn"]["committed"].is_string().then_some(()))
        .await;
    quire.kill_everything().await;
    for part in ["pgdata", "meta", "withheld"] {
        let _ = fs::remove_dir_all(quire.dir().join("compute/main").join(part));
    }
    let folder = quire.dir();
    let (parent, name) = (folder.parent().expect("a folder"), folder.file_name().expect("a name"));
    let names = ["--exclude=log", "--exclude=*.sock", "--exclude=*.so", "-C", parent.to_str().expect("text")];
    tar(&[&["-cz"], &names[..], &[name.to_str().expect("text")]].concat(), &archive);
}
