//! Indexes of every kind, built over pages that come and go, and changed while theirs do.

use super::bench::{Bench, number, run};
use quire_tests::short_or_long;
use tokio_postgres::Client;

/// Access method, what is indexed, and a condition that the index serves.
const KINDS: [(&str, &str, &str); 6] = [
    ("btree", "t", "t BETWEEN '4' AND '5'"),
    ("hash", "h", "h = 77"),
    ("gin", "a", "a @> ARRAY[77]"),
    ("gist", "p", "p <@ box '((10,0),(90,500))'"),
    ("spgist", "q", "q <@ box '((10,0),(90,500))'"),
    ("brin", "n", "n BETWEEN 500 AND 900"),
];

const ROW: &str =
    "n, md5(n::text), n % 1000, ARRAY[n % 100, n % 777], point(n % 1000, n / 1000), point(n % 1000, n / 1000)";

pub async fn find_what_a_scan_finds(bench: &Bench) {
    let client = bench.client().await;
    let rows = short_or_long(6000, 450_000);
    run(&client, "CREATE TABLE x (n int, t text, h int, a int[], p point, q point)").await;
    run(&client, &format!("INSERT INTO x SELECT {ROW} FROM generate_series(1, {rows}) n")).await;
    // So little that a build sorts on disk.
    run(&client, "SET maintenance_work_mem = '1MB'").await;
    for (method, column, condition) in KINDS {
        let build = format!("INDEX x_{method} ON x USING {method} ({column})");
        run(&client, &format!("BEGIN; CREATE {build}; ROLLBACK")).await;
        run(&client, &format!("CREATE {build}")).await;
        bench.press().await;
        expect_same(&client, method, condition).await;
    }
    change_rows(bench, &client, rows).await;
    for (method, column, condition) in KINDS {
        expect_same(&client, method, condition).await;
        run(&client, &format!("DROP INDEX x_{method}")).await;
        run(&client, &format!("CREATE INDEX CONCURRENTLY x_{method} ON x USING {method} ({column})")).await;
        bench.press().await;
        expect_same(&client, method, condition).await;
    }
}

/// Pages of the indexes split, are emptied, deleted and used again.
async fn change_rows(bench: &Bench, client: &Client, rows: u32) {
    let tenth = rows / 10;
    for round in 1..=2 {
        let (first, last) = (rows + round * tenth, rows + (round + 1) * tenth - 1);
        run(client, &format!("INSERT INTO x SELECT {ROW} FROM generate_series({first}, {last}) n")).await;
        bench.press().await;
        run(client, &format!("DELETE FROM x WHERE n % 7 = {round} OR n < {}", round * tenth)).await;
        run(client, "VACUUM x").await;
        run(client, &format!("UPDATE x SET h = h + 1, t = md5(t) WHERE n % 20 = {round}")).await;
        bench.press().await;
    }
}

/// Expects the index to find what a scan of the table finds.
async fn expect_same(client: &Client, method: &str, condition: &str) {
    let query = format!("SELECT count(*) FROM x WHERE {condition}");
    run(client, "SET enable_seqscan = on; SET enable_bitmapscan = off; SET enable_indexscan = off").await;
    run(client, "SET enable_indexonlyscan = off").await;
    let scanned = number(client, &query).await;
    run(client, "RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_bitmapscan").await;
    run(client, "SET enable_seqscan = off").await;
    let plan = client.query(&format!("EXPLAIN {query}"), &[]).await.expect("explained");
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains(&format!("x_{method}"))), "{plan:#?}");
    assert_eq!(number(client, &query).await, scanned, "{method}");
}
