//! PostGIS on a Quire: 100,000 geometries under indexes of three kinds, changed and vacuumed. Spatial queries give the
//! same answers as on stock PostgreSQL, with pages in the cache and without. `make postgis` runs it.

use quire_tests::Quire;
use quire_tests::stock::Stock;
use tokio_postgres::Client;

const LOAD: &str = include_str!("load.sql");
const CHANGES: &str = include_str!("changes.sql");
const QUERIES: &str = include_str!("queries.sql");

async fn run(client: &Client, statements: &str) {
    for statement in statements.split(";\n").filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// Each query with its one answer; first by index, then without.
async fn answers(client: &Client) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    for by_index in
        ["SET enable_seqscan = off", "SET enable_indexscan = off; SET enable_bitmapscan = off; RESET enable_seqscan"]
    {
        client.batch_execute(by_index).await.expect("set");
        for query in QUERIES.split(";\n").filter(|query| !query.trim().is_empty()) {
            let row = client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
            answers.push((format!("{by_index}; {query}"), row.get::<_, Option<String>>(0).expect("an answer")));
        }
        client.batch_execute("RESET ALL").await.expect("reset");
    }
    answers
}

async fn expect_as_on_stock(quire: &Quire, expected: &[Vec<(String, String)>]) {
    let client = quire.connect().await;
    run(&client, LOAD).await;
    assert_eq!(answers(&client).await, expected[0], "after the load");
    run(&client, CHANGES).await;
    assert_eq!(answers(&client).await, expected[1], "after the changes");
    quire.verify();
    drop(client);
    quire.cold_restart();
    assert_eq!(answers(&quire.connect().await).await, expected[1], "after a cold start");
    quire.verify();
    let branch = quire.branch();
    assert_eq!((&branch["pushdown"]["state"], &branch["error"]), (&"on".into(), &serde_json::Value::Null), "{branch}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostGIS: run by `make postgis`"]
async fn spatial_queries_answer_as_on_stock_postgresql() {
    let stock = Stock::start().await;
    let client = stock.connect().await;
    run(&client, LOAD).await;
    let loaded = answers(&client).await;
    run(&client, CHANGES).await;
    let expected = [loaded, answers(&client).await];
    let small = Quire::new().with_option("--cache-size", "16MiB");
    small.up();
    expect_as_on_stock(&small, &expected).await;
    drop(small);
    let dropping = Quire::new().with_variable("QUIRE_DROP_ALL", "1");
    dropping.up();
    dropping.set("shared_buffers = '4MB'");
    expect_as_on_stock(&dropping, &expected).await;
}
