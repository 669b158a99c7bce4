//! Several sessions at the same rows and the same index pages.

use super::bench::{Bench, number, run};
use quire_tests::load::start_script;
use quire_tests::short_or_long;

pub async fn upserts_lose_nothing(bench: &Bench) {
    let client = bench.client().await;
    // A few keys that all want at once, and many that are there or not.
    let keys = short_or_long(2000, 250_000);
    run(&client, "CREATE TABLE u (k int PRIMARY KEY, hits int, pad text DEFAULT repeat('x', 300))").await;
    run(&client, &format!("INSERT INTO u SELECT k, 0 FROM generate_series(0, {keys}, 2) k")).await;
    let key = format!("CASE WHEN random() < 0.5 THEN -1 - (random() * 500)::int ELSE (random() * {keys})::int END");
    let upsert = format!("INSERT INTO u VALUES ({key}, 1) ON CONFLICT (k) DO UPDATE SET hits = u.hits + 1");
    let (url, script) = (bench.quire.url("postgres"), bench.quire.beside("upsert.sql"));
    let upserts = start_script(&url, &upsert, 4, short_or_long(400, 5000), &script);
    while !upserts.has_ended() {
        run(&client, "VACUUM u").await;
        bench.press().await;
    }
    assert_eq!(number(&client, "SELECT sum(hits) FROM u").await, i64::try_from(upserts.finish()).unwrap());
}

pub async fn splits_and_vacuums_lose_nothing(bench: &Bench) {
    let client = bench.client().await;
    let filled = u64::from(short_or_long(1000, 800_000));
    run(&client, "CREATE TABLE s (k bigint, r float8 DEFAULT random()); CREATE SEQUENCE q").await;
    run(&client, "CREATE INDEX ON s (k); CREATE INDEX ON s (r)").await;
    run(&client, &format!("INSERT INTO s SELECT nextval('q') FROM generate_series(1, {filled})")).await;
    let split = "INSERT INTO s SELECT nextval('q') FROM generate_series(1, 20)";
    let (url, script) = (bench.quire.url("postgres"), bench.quire.beside("split.sql"));
    let splits = start_script(&url, split, 4, short_or_long(200, 2500), &script);
    while !splits.has_ended() {
        run(&client, "DELETE FROM s WHERE k % 3 = 0").await;
        run(&client, "VACUUM s").await;
    }
    let rows = i64::try_from(filled + splits.finish() * 20).unwrap();
    assert_eq!(number(&client, "SELECT last_value FROM q").await, rows, "a sequence without gaps");
    run(&client, "DELETE FROM s WHERE k % 3 = 0").await;
    bench.press().await;
    assert_eq!(number(&client, "SELECT count(*) FROM s").await, rows - rows / 3);
    run(&client, "SET enable_seqscan = off").await;
    assert_eq!(number(&client, "SELECT count(*) FROM s WHERE k > 0").await, rows - rows / 3);
}
