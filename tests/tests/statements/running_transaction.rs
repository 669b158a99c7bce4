//! Rows of a transaction that has not ended.

use super::bench::{Bench, number, run};
use quire_tests::short_or_long;

pub async fn sees_its_own_rows(bench: &Bench) {
    let client = bench.client().await;
    let rows = short_or_long(3000, 120_000);
    let (copies, both) = (rows * 4, i64::from(rows) * 2);
    run(&client, "CREATE TABLE t (n int PRIMARY KEY, v int, pad text DEFAULT repeat('x', 300))").await;
    run(&client, &format!("INSERT INTO t SELECT n, 0 FROM generate_series(1, {rows}) n")).await;
    for _ in 0..short_or_long(2, 3) {
        run(&client, &format!("BEGIN; INSERT INTO t SELECT n + {copies}, v FROM t WHERE n <= {rows}")).await;
        assert_eq!(number(&client, "SELECT count(*) FROM t").await, both);
        run(&client, "DECLARE c CURSOR FOR SELECT n FROM t ORDER BY n").await;
        run(&client, &format!("UPDATE t SET v = v + 1 WHERE n <= {rows}")).await;
        assert_eq!(client.query("FETCH 100 c", &[]).await.expect("fetched").len(), 100);
        run(&client, "SAVEPOINT a; DELETE FROM t WHERE n % 2 = 0; SELECT * FROM t WHERE n < 100 FOR UPDATE").await;
        bench.press().await;
        run(&client, "ROLLBACK TO a; SAVEPOINT b; UPDATE t SET v = v + 1; UPDATE t SET v = v + 1; RELEASE b").await;
        bench.press().await;
        assert_eq!(client.execute("FETCH ALL c", &[]).await.expect("fetched"), both as u64 - 100);
        let seen = format!("SELECT count(*) FROM t WHERE v % 3 = 0 OR n > {copies}");
        assert_eq!(number(&client, &seen).await, both);
        run(&client, &format!("DELETE FROM t WHERE n > {copies}; UPDATE t SET v = 0")).await;
        run(&client, "INSERT INTO t (n, v) VALUES (-1, 0)").await;
        bench.press().await;
        run(&client, "DELETE FROM t WHERE n < 0; COMMIT").await;
        assert_eq!(number(&client, "SELECT count(*) FROM t WHERE v = 0").await, i64::from(rows));
        run(&client, "VACUUM t").await;
    }
    doubles_what_it_reads(bench).await;
}

/// An `INSERT ... SELECT` from the table itself must not see what it inserts, wherever its pages are meanwhile.
async fn doubles_what_it_reads(bench: &Bench) {
    let client = bench.client().await;
    let rows = i64::from(short_or_long(1000, 60_000));
    run(&client, "CREATE TABLE doubled (n int, pad text DEFAULT repeat('x', 300))").await;
    run(&client, &format!("INSERT INTO doubled SELECT generate_series(1, {rows})")).await;
    for end in ["ROLLBACK", "COMMIT"] {
        run(&client, "BEGIN").await;
        for times in [2, 4] {
            run(&client, "INSERT INTO doubled SELECT n FROM doubled").await;
            bench.press().await;
            let query = "SELECT (count(*) * 1000000000000 + sum(n))::bigint FROM doubled";
            let expected = times * (rows * 1_000_000_000_000 + rows * (rows + 1) / 2);
            assert_eq!(number(&client, query).await, expected);
        }
        run(&client, end).await;
        let left = if end == "COMMIT" { rows * 4 } else { rows };
        assert_eq!(number(&client, "SELECT count(*) FROM doubled").await, left, "{end}");
    }
}
