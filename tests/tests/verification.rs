//! Pages are compared with storage all the time: a page that differs is found, put aside and explained, and no other
//! is.

use quire_tests::load::{expect_sums_agree, fill, start};
use quire_tests::{Quire, short_or_long, wait_for};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

const PAGE: usize = 8192;

/// Compares as fast as it can.
fn comparing() -> Quire {
    let quire = Quire::new();
    quire.ok(&["up", "--detach", "--verify-rate", "2000"]);
    quire
}

fn found(quire: &Quire, what: &str) -> u64 {
    let found = &quire.branch()["verification"];
    found[what].as_u64().unwrap_or_else(|| panic!("no {what} in {found}"))
}

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// Changes one byte of a row in the first page of a file: an `x` becomes an `X`. Says at which offset.
fn damage(file: &Path) -> u64 {
    let file = OpenOptions::new().read(true).write(true).open(file).expect("opened");
    let mut page = [0; PAGE];
    file.read_exact_at(&mut page, 0).expect("a whole page");
    let at = page.iter().rposition(|byte| *byte == b'x').expect("a row is in the file") as u64;
    file.write_all_at(b"X", at).expect("written");
    at
}

fn replay(quire: &Quire, evidence: &Path) -> (Option<i32>, Value) {
    let output = quire.run(&["--json", "page", "replay", evidence.to_str().expect("text")]);
    let said = serde_json::from_slice(&output.stdout);
    (output.status.code(), said.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_differs_is_found_put_aside_and_explained_and_its_relation_goes_under_guard() {
    let quire = comparing();
    let client = quire.connect().await;
    assert_eq!(quire.branch()["pushdown"]["state"], "on");
    let path = victim(&client, "victim").await;
    let offset = damage(&quire.dir().join("compute/main/pgdata").join(&path));

    wait_for("the page is found", 60, async || (found(&quire, "kept") > 0).then_some(())).await;
    let guarded = async || (quire.branch()["verification"]["guarded"][0] == path.as_str()).then_some(());
    wait_for("the relation is under guard", 60, guarded).await;
    let told = quire.ok(&["status"]);
    assert!(told.contains("pushdown is on") && told.contains(&path) && told.contains("REINDEX"), "{told}");
    let log = fs::read_to_string(quire.dir().join("log/compute-main.log")).expect("a log");
    assert!(log.contains("ERROR") && log.contains(&path), "{log}");

    let folder = PathBuf::from(quire.branch()["verification"]["evidence"].as_str().expect("a folder"));
    assert_eq!(folder, quire.dir().join("evidence/main"));
    let kept: Vec<PathBuf> = fs::read_dir(&folder).expect("listed").flatten().map(|entry| entry.path()).collect();
    let [evidence] = &kept[..] else { panic!("{kept:?}") };
    let (status, said) = replay(&quire, evidence);
    assert_eq!(status, Some(1), "{said}");
    let difference = &said["replay"]["differences"][0];
    assert_eq!((&difference["offset"], &difference["cache"]), (&offset.into(), &"58".into()), "{said:#}");
    assert_eq!(said["replay"]["equals_storage"], true, "{said:#}");
    let text = quire.run(&["page", "replay", evidence.to_str().expect("text")]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("first record after which the page stays different") && text.contains("Heap INSERT"),
        "{text}"
    );

    // As if redo had been mended: the replay makes the page that PostgreSQL wrote.
    let page = OpenOptions::new().write(true).open(evidence.join("cache.page")).expect("opened");
    page.write_all_at(b"x", offset).expect("written");
    assert_eq!(replay(&quire, evidence).0, Some(0));

    let checked = found(&quire, "checked");
    wait_for("more is compared", 60, async || (found(&quire, "checked") > checked + 200).then_some(())).await;
    assert_eq!((found(&quire, "mismatches"), found(&quire, "kept")), (1, 1), "it is told once");
    assert_eq!(quire.branch()["pushdown"]["state"], "on", "for one relation pushdown stays on");
}

/// A table of one page, written; its file.
async fn victim(client: &Client, name: &str) -> String {
    run(client, &format!("CREATE TABLE {name} (n int, pad text) WITH (autovacuum_enabled = off)")).await;
    run(client, &format!("INSERT INTO {name} SELECT n, repeat('x', 100) FROM generate_series(1, 20) n")).await;
    run(client, "CHECKPOINT").await;
    client.query_one("SELECT pg_relation_filepath($1::text::regclass)", &[&name]).await.expect("read").get(0)
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn wait_for_guarded(quire: &Quire, relations: usize) {
    let guarded = async || {
        let guarded = quire.branch()["verification"]["guarded"].as_array().map_or(0, Vec::len);
        (guarded == relations).then_some(())
    };
    wait_for("as many relations are under guard", 60, guarded).await;
}

/// What differs is what PostgreSQL has: storage keeps that, and gives nothing that it would have to redo.
#[tokio::test(flavor = "multi_thread")]
async fn a_relation_under_guard_is_what_postgres_wrote_until_it_is_written_anew() {
    let quire = comparing();
    let client = quire.connect().await;
    let path = victim(&client, "victim").await;
    damage(&quire.dir().join("compute/main/pgdata").join(&path));
    wait_for_guarded(&quire, 1).await;
    quire.verify();
    run(
        &client,
        "INSERT INTO victim SELECT n, 'later' FROM generate_series(21, 400) n; DELETE FROM victim WHERE n = 1",
    )
    .await;
    run(&client, "CHECKPOINT").await;
    quire.verify();
    for _ in 0..2 {
        quire.cold_restart();
        let client = quire.connect().await;
        assert_eq!(number(&client, "SELECT count(*) FROM victim").await, 399);
        assert_eq!(quire.branch()["verification"]["guarded"][0], path.as_str(), "the guard outlives the compute");
        run(&client, "UPDATE victim SET n = n + 1 WHERE pad = 'later'").await;
    }

    // Changed, and not written: storage would have to redo it.
    quire.kill_everything().await;
    quire.up();
    let client = quire.connect().await;
    let error = client.query("SELECT count(*) FROM victim", &[]).await.expect_err("better an error than a wrong page");
    assert_eq!(error.code().map(|code| code.code()), Some("58030"), "{error:?}");

    // Written anew it is another file, which nobody doubts.
    run(&client, "TRUNCATE victim; INSERT INTO victim SELECT n, 'anew' FROM generate_series(1, 10) n").await;
    run(&client, "CHECKPOINT").await;
    wait_for_guarded(&quire, 0).await;
    quire.cold_restart();
    assert_eq!(number(&quire.connect().await, "SELECT count(*) FROM victim").await, 10);
    quire.verify();
    assert_eq!(quire.branch()["pushdown"]["state"], "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relation_that_differs_ends_pushdown() {
    let quire = comparing();
    let client = quire.connect().await;
    for (name, relations) in [("one", 1), ("other", 2)] {
        assert_eq!(quire.branch()["pushdown"]["state"], "on");
        let path = victim(&client, name).await;
        damage(&quire.dir().join("compute/main/pgdata").join(&path));
        wait_for_guarded(&quire, relations).await;
    }
    let off = async || (quire.branch()["pushdown"]["state"] == "off").then_some(());
    wait_for("pushdown is turned off", 60, off).await;
    assert!(quire.ok(&["status"]).contains("pushdown is off"));
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_differs_whatever_postgres_is_doing() {
    let quire = comparing();
    // Pages are written all the time, and soon after they changed.
    quire.set("shared_buffers = '1MB'\nautovacuum_naptime = 1s\nbgwriter_delay = 10ms\nbgwriter_lru_maxpages = 1000");
    let url = quire.url("postgres");
    fill(&url, 2);
    let client = quire.connect().await;
    run(
        &client,
        "CREATE TABLE r (n int, t text, p point, a int[]); CREATE SEQUENCE q; CREATE UNLOGGED TABLE u (n int)",
    )
    .await;
    let load = start(&url, 4, short_or_long(10, 120));
    let mut rounds = 0;
    while !load.has_ended() {
        all_kinds_of_pages(&client, rounds).await;
        rounds += 1;
    }
    load.finish();
    let enough = async || (found(&quire, "checked") > 3000).then_some(());
    wait_for("thousands of pages are compared", 60, enough).await;
    assert_eq!(found(&quire, "mismatches"), 0, "{:#}", quire.branch()["verification"]);
    assert_eq!(quire.branch()["pushdown"]["state"], "on");
    expect_sums_agree(&client).await;
}

/// Indexes of all kinds that are built, used and dropped; rewrites, cuts and copies.
async fn all_kinds_of_pages(client: &Client, round: u32) {
    run(
        client,
        "INSERT INTO r SELECT n, md5(n::text), point(random(), n), ARRAY[n, n % 7] FROM generate_series(1, 500) n",
    )
    .await;
    run(client, "INSERT INTO u SELECT generate_series(1, 500); SELECT nextval('q') FROM generate_series(1, 50)").await;
    for method in ["btree (t)", "hash (n)", "gin (a)", "gist (p)", "spgist (t)", "brin (n)"] {
        run(client, &format!("CREATE INDEX ON r USING {method}")).await;
    }
    run(client, "UPDATE r SET t = t || 'x', a = a || 3 WHERE n % 3 = 0; DELETE FROM r WHERE n % 5 = 0").await;
    run(client, "VACUUM (FREEZE) r").await;
    let rewrite = ["VACUUM FULL r", "CLUSTER r USING r_t_idx", "TRUNCATE r, u", "REINDEX TABLE r"];
    run(client, rewrite[round as usize % rewrite.len()]).await;
    if round % 4 == 1 {
        run(client, "CREATE DATABASE copied STRATEGY file_copy").await;
        run(client, "DROP DATABASE copied").await;
    }
    run(client, "DROP INDEX r_t_idx, r_t_idx1, r_n_idx, r_n_idx1, r_a_idx, r_p_idx").await;
}
