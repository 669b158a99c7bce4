//! Relations and databases that are made, rewritten, cut and dropped, and sequences.

use super::bench::{Bench, number, run};
use quire_tests::load::expect_amcheck_clean;
use quire_tests::{short_or_long, wait_for};

pub async fn keep_their_rows_when_rewritten(bench: &Bench) {
    let client = bench.client().await;
    let rows = short_or_long(20_000, 1_000_000);
    let sum = "SELECT (count(*) * 1000000000000 + sum(n))::bigint FROM r";
    run(&client, &format!("CREATE TABLE r AS SELECT n, md5(n::text) m FROM generate_series(1, {rows}) n")).await;
    let whole = number(&client, sum).await;
    let quarter = rows - rows / 4;
    let refilled = format!("INSERT INTO r SELECT n, md5(n::text) FROM generate_series({quarter} + 1, {rows}) n");
    for statement in [
        "CREATE INDEX r_n ON r (n)",
        "CREATE INDEX CONCURRENTLY r_m ON r (m)",
        "VACUUM FULL r",
        "BEGIN; CLUSTER r USING r_m; ROLLBACK",
        "CLUSTER r USING r_n",
        "REINDEX TABLE CONCURRENTLY r",
        "BEGIN; TRUNCATE r; INSERT INTO r VALUES (1, 'a'); ROLLBACK",
        "BEGIN; SAVEPOINT a; TRUNCATE r; ROLLBACK TO a; SAVEPOINT b; DELETE FROM r; ROLLBACK TO b; COMMIT",
        "ALTER TABLE r ALTER n TYPE bigint",
        "ALTER TABLE r SET UNLOGGED",
        "ALTER TABLE r SET LOGGED",
        &format!("DELETE FROM r WHERE n > {quarter}; {refilled}"),
        "VACUUM (FREEZE, ANALYZE) r",
        "BEGIN; DELETE FROM r WHERE n > 100; ROLLBACK",
    ] {
        let is_alone = statement.contains("CONCURRENTLY");
        for part in if is_alone { vec![statement] } else { statement.split("; ").collect() } {
            run(&client, part).await;
        }
        bench.press().await;
        assert_eq!(number(&client, sum).await, whole, "{statement}");
    }
}

pub async fn end_where_they_were_cut(bench: &Bench) {
    let client = bench.client().await;
    let rows = i64::from(short_or_long(200_000, 2_500_000));
    run(&client, &format!("CREATE TABLE cut AS SELECT generate_series(1, {rows}) n")).await;
    for _ in 0..short_or_long(2, 3) {
        run(&client, "DELETE FROM cut WHERE n > 100").await;
        run(&client, "VACUUM cut").await;
        bench.press().await;
        assert_eq!(number(&client, "SELECT sum(n) FROM cut").await, 5050);
        run(&client, &format!("INSERT INTO cut SELECT generate_series(101, {rows})")).await;
        bench.press().await;
        assert_eq!(number(&client, "SELECT count(*) FROM cut").await, rows);
    }
}

pub async fn databases_come_and_go(bench: &Bench) {
    let client = bench.client().await;
    let rows = i64::from(short_or_long(50_000, 2_500_000));
    for strategy in ["wal_log", "file_copy"] {
        run(&client, &format!("CREATE DATABASE d STRATEGY {strategy}")).await;
        let template = bench.quire.connect_to("d").await;
        let fill = format!("CREATE TABLE y AS SELECT generate_series(1, {rows}) n; CREATE INDEX ON y (n)");
        run(&template, &fill).await;
        drop(template);
        bench.press().await;
        // A session that was let go may take a moment to end.
        let copied = format!("CREATE DATABASE e TEMPLATE d STRATEGY {strategy}");
        let done = async |statement: &str| client.batch_execute(statement).await.ok();
        wait_for("the database is copied", 120, async || done(&copied).await).await;
        for name in ["d", "e"] {
            let other = bench.quire.connect_to(name).await;
            assert_eq!(number(&other, "SELECT sum(n) FROM y").await, rows * (rows + 1) / 2, "{strategy}");
            expect_amcheck_clean(&other).await;
            drop(other);
            let dropped = format!("DROP DATABASE {name}");
            wait_for("nobody is connected", 30, async || done(&dropped).await).await;
        }
    }
}

/// A sequence logs its values ahead of their use; only a restart may skip some.
pub async fn sequences_have_no_gaps(bench: &Bench) {
    let client = bench.client().await;
    run(&client, "CREATE SEQUENCE a; CREATE SEQUENCE b INCREMENT 3").await;
    let mut last = 0;
    for round in 1..=6 {
        run(&client, "BEGIN; SELECT nextval('a') FROM generate_series(1, 7); ROLLBACK").await;
        run(&client, "BEGIN; ALTER SEQUENCE b RESTART 1; SELECT nextval('b'); ROLLBACK").await;
        last += 7;
        bench.press().await;
        last += 1;
        assert_eq!(number(&client, "SELECT nextval('a')").await, last);
        assert_eq!(number(&client, "SELECT nextval('b')").await, round * 3 - 2);
        assert_eq!(number(&client, "SELECT last_value FROM a").await, last);
    }
    run(&client, "SELECT setval('a', 1000)").await;
    bench.press().await;
    assert_eq!(number(&client, "SELECT nextval('a')").await, 1001);
}
