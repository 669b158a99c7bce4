//! Image generation: who makes full page images, and how long chains get.

use quire_tests::load::{expect_sums_agree, fill, start, start_script};
use quire_tests::{Quire, short_or_long, wait_for};
use serde_json::Value;
use tokio_postgres::Client;

/// The threshold set for the hot page.
const MAX_DELTAS: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn live_switch_fails_no_transaction_and_ends_full_page_images() {
    let quire = Quire::start();
    let url = quire.url("postgres");
    fill(&url, 5);
    let client = quire.connect().await;
    let load = start(&url, 4, short_or_long(15, 120));
    for state in ["on", "off", "on", "off", "on"] {
        let said = quire.json(&["pushdown", state]);
        assert_eq!(said["state"], state);
        assert_eq!(quire.branch()["pushdown"]["state"], state);
        assert!(said["since_lsn"].is_string(), "{said}");
    }
    load.finish();
    let images_on = images_after_checkpoint(&client, &url).await;
    quire.ok(&["pushdown", "off", "main"]);
    let images_off = images_after_checkpoint(&client, &url).await;
    assert!(images_off > 100 && images_on * 20 < images_off, "images: {images_on} on, {images_off} off");
    quire.cold_restart();
    expect_sums_agree(&quire.connect().await).await;
    assert_eq!(quire.branch()["pushdown"]["state"], "off", "the state outlives a cold restart");
}

/// Full page images in the WAL of a short load right after a checkpoint.
async fn images_after_checkpoint(client: &Client, url: &str) -> i64 {
    client.batch_execute("CHECKPOINT").await.expect("done");
    let before = images(client).await;
    start(url, 4, 3).finish();
    images(client).await - before
}

async fn images(client: &Client) -> i64 {
    client.query_one("SELECT wal_fpi FROM pg_stat_wal", &[]).await.expect("read").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_of_a_hot_page_stays_bounded() {
    let quire = Quire::start();
    let url = quire.url("postgres");
    let client = quire.connect().await;
    client
        .batch_execute("CREATE TABLE hot (id int PRIMARY KEY, n int); INSERT INTO hot VALUES (1, 0)")
        .await
        .expect("made");
    quire.ok(&["pushdown", "on"]);
    quire.ok(&["pushdown", "set", "main", "--max-deltas", &MAX_DELTAS.to_string()]);
    let updates = short_or_long(20_000, 100_000);
    let load = start_script(&url, "UPDATE hot SET n = n + 1 WHERE id = 1", 4, updates / 4, &quire.beside("update.sql"));
    let mut looks = 0;
    while !load.has_ended() {
        expect_bounded(&quire).await;
        looks += 1;
    }
    assert_eq!(load.finish(), u64::from(updates));
    assert!(looks > 3, "the load was over before it was looked at");
    let settled = async || (page(&quire)["deltas"].as_u64()? <= MAX_DELTAS).then_some(());
    wait_for("the image of the page is made", 60, settled).await;
    quire.cold_restart();
    let row = quire.connect().await.query_one("SELECT n FROM hot", &[]).await.expect("read");
    assert_eq!(row.get::<_, i32>(0), i32::try_from(updates).expect("small"));
    assert!(quire.branch()["images"]["made"].as_u64() > Some(u64::from(updates) / MAX_DELTAS / 8));
}

fn page(quire: &Quire) -> Value {
    quire.json(&["page", "show", "main", "hot", "0"])
}

/// Past the threshold a page waits for its image; at four times the threshold ingest waits for it.
async fn expect_bounded(quire: &Quire) {
    let page = page(quire);
    let deltas = page["deltas"].as_u64().unwrap_or_else(|| panic!("no deltas in {page:#}"));
    assert!(deltas <= 4 * MAX_DELTAS, "{deltas} deltas: {page:#}\n{:#}", quire.branch()["images"]);
}
