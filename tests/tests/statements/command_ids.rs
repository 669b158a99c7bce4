//! Which command of a transaction made a row and which changed it: nothing of it is in the log, and cursors ask for it.

use super::bench::{Bench, number, run};
use quire_tests::short_or_long;
use tokio_postgres::Client;

/// How many rows, and the sum of what is in them.
type Seen = (i64, i64);

/// A command on all rows, and what one row has of it; none if it is gone.
struct Change {
    command: &'static str,
    effect: fn(i64) -> Option<i64>,
}

const CHANGES: [Change; 4] = [
    Change { command: "UPDATE c SET v = v + n", effect: |n| Some(n * 2) },
    Change { command: "DELETE FROM c WHERE n % 2 = 0", effect: |n| (n % 2 != 0).then_some(n) },
    Change { command: "DO $$ BEGIN PERFORM 1 FROM c FOR UPDATE; END $$", effect: Some },
    Change {
        command: "DO $$ BEGIN PERFORM 1 FROM c FOR SHARE; END $$; SAVEPOINT l; UPDATE c SET v = v + 1 WHERE n % 3 = 1; RELEASE l",
        effect: |n| Some(n + i64::from(n % 3 == 1)),
    },
];

/// Ways in which a transaction comes to have rows of its own: one by one, many with one statement, many with one
/// record, new versions of those that were there.
fn makings(rows: i64) -> [String; 4] {
    [
        format!("DO $$ BEGIN FOR i IN 1..{rows} LOOP INSERT INTO c VALUES (i); END LOOP; END $$"),
        format!("INSERT INTO c SELECT generate_series(1, {rows})"),
        format!("COPY c (n) FROM PROGRAM 'seq 1 {rows}'"),
        "UPDATE c SET pad = pad || 'y'".to_owned(),
    ]
}

pub async fn of_rows_made_and_changed_in_one_transaction(bench: &Bench) {
    let client = bench.client().await;
    let rows = i64::from(short_or_long(1000, 100_000));
    run(&client, "CREATE TABLE c (n int, v int DEFAULT 0, pad text DEFAULT repeat('x', 300))").await;
    for making in makings(rows) {
        for change in &CHANGES {
            run(&client, "TRUNCATE c").await;
            if making.starts_with("UPDATE") {
                run(&client, &format!("INSERT INTO c SELECT generate_series(1, {rows})")).await;
            }
            expect_each_cursor_sees_its_moment(bench, &client, &making, change, rows).await;
        }
    }
}

async fn expect_each_cursor_sees_its_moment(bench: &Bench, client: &Client, making: &str, change: &Change, rows: i64) {
    let of = |seen: &dyn Fn(i64) -> Option<i64>| -> Seen {
        (1..=rows).filter_map(seen).fold((0, 0), |(count, sum), value| (count + 1, sum + value))
    };
    let (made, changed) = (of(&Some), of(&change.effect));
    let thinned = of(&|n| (change.effect)(n).filter(|_| n % 5 != 0));
    let context = format!("{making}, then {}", change.command);
    run(client, &format!("BEGIN; {making}; {}", cursor("made"))).await;
    bench.press().await;
    run(client, &format!("{}; {}; DELETE FROM c WHERE n % 5 = 0", change.command, cursor("changed"))).await;
    run(client, &cursor("thinned")).await;
    bench.press().await;
    run(client, "SAVEPOINT s; UPDATE c SET v = 7; DELETE FROM c; ROLLBACK TO s").await;
    assert_eq!(fetch(client, "FETCH made").await, made, "{context}");
    assert_eq!(fetch(client, "FETCH changed").await, changed, "{context}");
    assert_eq!(fetch(client, "FETCH thinned").await, thinned, "{context}");
    assert_eq!(fetch(client, SEEN).await, thinned, "{context}");
    run(client, "COMMIT").await;
    assert_eq!(number(client, "SELECT count(*) FROM c").await, thinned.0, "{context}");
}

const SEEN: &str = "SELECT count(*), coalesce(sum(n + v), 0)::bigint FROM c";

/// It looks when it is fetched from, and sees what there was when it was declared.
fn cursor(name: &str) -> String {
    format!("DECLARE {name} CURSOR FOR {SEEN}")
}

async fn fetch(client: &Client, query: &str) -> Seen {
    let row = client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    (row.get(0), row.get(1))
}
