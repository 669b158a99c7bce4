//! Transaction and multixact ids: their status is in files of many segments, and none is ever given out twice.

use super::bench::{Bench, number, run};
use tokio_postgres::Client;

/// More than a segment of `pg_xact` holds: 32 pages of 32,768.
const TRANSACTIONS: i64 = 1_150_000;
/// More than a segment of `pg_multixact/offsets` holds: 32 pages of 2,048. Their members fill segments, too.
const MULTIXACTS: i64 = 70_000;

/// Ids of subtransactions, all of them committed with one record.
async fn spend(client: &Client, count: i64) {
    let block = "BEGIN INSERT INTO spent VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END";
    run(client, "CREATE TEMP TABLE spent (i int)").await;
    run(client, &format!("DO $$ BEGIN FOR i IN 1..{count} LOOP {block}; END LOOP; END $$")).await;
}

/// Rows of committed transactions and of rolled back ones, none of which anybody has looked at.
async fn leave_rows(client: &Client, from: i32) {
    run(client, &format!("INSERT INTO rows SELECT generate_series({from}, {from} + 99)")).await;
    run(client, &format!("BEGIN; INSERT INTO rows SELECT generate_series({from} + 100, {from} + 199); ROLLBACK")).await;
}

async fn segments(client: &Client, folder: &str) -> i64 {
    number(client, &format!("SELECT count(*) FROM pg_ls_dir('{folder}') f WHERE f ~ '^[0-9A-F]{{4}}$'")).await
}

pub async fn transactions_are_known_across_segments(bench: &Bench) {
    let quire = &bench.quire;
    let client = bench.client().await;
    run(&client, "CREATE TABLE rows (n int) WITH (autovacuum_enabled = off)").await;
    leave_rows(&client, 0).await;
    spend(&client, TRANSACTIONS).await;
    leave_rows(&client, 1000).await;
    assert!(segments(&client, "pg_xact").await >= 2);
    drop(client);
    quire.cold_restart();

    let client = quire.connect().await;
    let sums = "SELECT count(*) * 1000000 + sum(n) FROM rows";
    let expected = 200 * 1_000_000 + (0..100).sum::<i64>() + (1000..1100).sum::<i64>();
    assert_eq!(number(&client, sums).await, expected);
    run(&client, "ALTER DATABASE template0 ALLOW_CONNECTIONS true").await;
    for database in ["template0", "template1", "postgres"] {
        run(&quire.connect_to(database).await, "VACUUM (FREEZE)").await;
    }
    run(&client, "CHECKPOINT").await;
    let oldest = "SELECT count(*) FROM pg_ls_dir('pg_xact') f WHERE f = '0000'";
    assert_eq!(number(&client, oldest).await, 0, "the first segment is of no use any more");
    quire.verify();
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    assert_eq!(number(&client, oldest).await, 0, "nor does a cold start bring it back");
    assert_eq!(number(&client, sums).await, expected);
}

/// Locks every row in a subtransaction of its own, so that no two multixacts have the same members.
async fn lock_each(client: &Client) {
    let block = "BEGIN PERFORM 1 FROM locked WHERE n = i FOR SHARE; EXCEPTION WHEN division_by_zero THEN NULL; END";
    run(client, &format!("BEGIN; DO $$ BEGIN FOR i IN 1..{MULTIXACTS} LOOP {block}; END LOOP; END $$")).await;
}

pub async fn multixacts_are_known_across_segments(bench: &Bench) {
    let quire = &bench.quire;
    let (one, two) = (bench.client().await, bench.client().await);
    run(&one, "CREATE TABLE locked (n int PRIMARY KEY) WITH (autovacuum_enabled = off)").await;
    run(&one, &format!("INSERT INTO locked SELECT generate_series(1, {MULTIXACTS})")).await;
    lock_each(&one).await;
    run(&two, "BEGIN; SELECT n FROM locked FOR SHARE").await;
    run(&two, "COMMIT").await;
    // The rows' lockers have ended, but for one transaction: only the multixacts tell.
    run(&one, "CHECKPOINT").await;
    let (next, folder) =
        ("SELECT next_multixact_id::text::bigint FROM pg_control_checkpoint()", "pg_multixact/offsets");
    let before = number(&one, next).await;
    assert!(before > MULTIXACTS, "{before}");
    assert!(segments(&one, folder).await >= 2 && segments(&one, "pg_multixact/members").await >= 2);
    run(&one, "COMMIT").await;
    drop((one, two));
    quire.cold_restart();

    let client = quire.connect().await;
    assert!(number(&client, next).await >= before);
    assert_eq!(number(&client, "SELECT count(*) FROM locked WHERE xmax::text::bigint > 0").await, MULTIXACTS);
    run(&client, "UPDATE locked SET n = n + 1000000").await;
    assert_eq!(number(&client, "SELECT count(*) FROM locked").await, MULTIXACTS);
    quire.verify();
}

/// The next transaction id and the newest object id.
async fn ids(client: &Client) -> (i64, i64) {
    let xid = number(client, "SELECT pg_current_xact_id()::text::bigint").await;
    run(client, "DROP TABLE IF EXISTS fresh; CREATE TABLE fresh ()").await;
    (xid, number(client, "SELECT 'fresh'::regclass::oid::bigint").await)
}

pub async fn no_id_is_given_out_twice(bench: &Bench) {
    let quire = &bench.quire;
    let mut last = ids(&quire.connect().await).await;
    for round in 0..4 {
        match round % 2 {
            0 => quire.cold_restart(),
            _ => {
                quire.kill_everything().await;
                quire.up();
            }
        }
        let now = ids(&quire.connect_when_back().await).await;
        assert!(now.0 > last.0 && now.1 > last.1, "{now:?} after {last:?}");
        last = now;
    }
}
