//! Full disks: an error in the log of whose disk it is, no lost commit, and all continues once there is room.

use quire_tests::disk::SmallDisk;
use quire_tests::{Ledger, Quire, wait_for};
use std::path::Path;
use tokio_postgres::Client;

/// Some sixty mebibytes of WAL: more than the segments that a safekeeper has at hand.
const BULK: &str = "INSERT INTO bulk SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 70000) n";

/// A Quire of which one directory is a disk of its own; none where that cannot be.
async fn start_with_disk(folder: &str, mebibytes: u32) -> Option<(SmallDisk, Quire, Ledger)> {
    let quire = Quire::new();
    let disk = SmallDisk::mount(&quire.dir().join(folder), mebibytes)?;
    open_up(&quire.dir());
    quire.up();
    let client = quire.connect().await;
    Ledger::create_table(&client).await;
    client.batch_execute("CREATE TABLE bulk (n int, t text)").await.expect("created");
    Some((disk, quire, Ledger::default()))
}

/// PostgreSQL's user has to pass through the directory, as through one that `quire up` makes.
fn open_up(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).expect("opened");
}

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// Waits until so many more commits are acknowledged.
async fn progress(ledger: &Ledger) {
    let before = ledger.acknowledged();
    wait_for("the clients get on", 120, async || (ledger.acknowledged() > before + 200).then_some(())).await;
}

async fn end(disk: SmallDisk, quire: Quire, ledger: &Ledger) {
    ledger.expect_kept(&quire.connect_when_back().await).await;
    quire.verify();
    quire.cold_restart();
    ledger.expect_kept(&quire.connect().await).await;
    quire.expect_no_panic();
    quire.down();
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safekeeper_whose_disk_is_full_is_left_out_and_catches_up() {
    let Some((disk, quire, ledger)) = start_with_disk("safekeeper-2", 400).await else { return };
    let clients = ledger.start_clients(&quire.url("postgres"), 2);
    disk.fill();
    run(&quire.connect().await, BULK).await;
    let error = || quire.status()["safekeepers"][1]["branches"][0]["error"].clone();
    wait_for("the safekeeper says so", 60, async || error().is_string().then_some(())).await;
    assert!(quire.log("safekeeper-2").contains("No space left on device"), "{}", error());
    assert!(quire.ok(&["status"]).contains("Safekeeper 2: "), "people are told, too");
    progress(&ledger).await;
    disk.free();
    let committed = quire.branch()["lsn"]["committed"].clone();
    let flushed = || quire.status()["safekeepers"][1]["branches"][0]["flush"].clone();
    let caught_up = async || (number(&flushed()) >= number(&committed) && error().is_null()).then_some(());
    wait_for("the safekeeper has caught up", 120, caught_up).await;
    clients.stop().await;
    end(disk, quire, &ledger).await;
}

fn number(lsn: &serde_json::Value) -> u64 {
    let (high, low) = lsn.as_str().and_then(|lsn| lsn.split_once('/')).expect("an LSN");
    u64::from_str_radix(high, 16).expect("hexadecimal") << 32 | u64::from_str_radix(low, 16).expect("hexadecimal")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pageserver_whose_disk_is_full_serves_reads_and_goes_on_once_there_is_room() {
    let Some((disk, quire, ledger)) = start_with_disk("pageserver-1", 400).await else { return };
    let clients = ledger.start_clients(&quire.url("postgres"), 2);
    let client = quire.connect().await;
    disk.fill();
    for _ in 0..2 {
        run(&client, BULK).await;
    }
    let error = || quire.branch()["error"].as_str().unwrap_or_default().to_owned();
    wait_for("the pageserver says so", 90, async || error().contains("No space left").then_some(())).await;
    assert!(quire.log("pageserver-1").contains("cannot flush, will retry"));
    progress(&ledger).await;
    disk.free();
    wait_for("flushing resumes", 90, async || quire.log("pageserver-1").contains("flushing resumed").then_some(()))
        .await;
    wait_for("the trouble is over", 30, async || error().is_empty().then_some(())).await;
    clients.stop().await;
    end(disk, quire, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_whose_disk_is_full_says_so_and_comes_back() {
    let Some((disk, quire, ledger)) = start_with_disk("compute", 400).await else { return };
    let clients = ledger.start_clients(&quire.url("postgres"), 2);
    progress(&ledger).await;
    let client = quire.connect().await;
    clients.stop().await;
    disk.fill();
    let refused = client.batch_execute(BULK).await.expect_err("there is no room for it");
    let said = format!("{refused:?}{}{}", quire.postgres_log(), quire.log("compute-main"));
    assert!(said.contains("No space left on device"), "{said}");
    disk.free();
    quire.connect_when_back().await;
    let clients = ledger.start_clients(&quire.url("postgres"), 2);
    progress(&ledger).await;
    clients.stop().await;
    end(disk, quire, &ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_whose_disk_others_have_filled_makes_room_for_what_is_read() {
    let Some((disk, quire, ledger)) = start_with_disk("compute", 600).await else { return };
    let client = quire.connect().await;
    for table in ["one", "two"] {
        let make =
            format!("CREATE TABLE {table} AS SELECT n, repeat(md5(n::text), 30) t FROM generate_series(1, 100000) n");
        run(&client, &make).await;
        // So that a read sets no hints and writes nothing.
        run(&client, &format!("VACUUM {table}")).await;
    }
    run(&client, "CHECKPOINT").await;
    drop(client);
    quire.cold_restart();
    let client = quire.connect().await;
    let sum = async |table: &str| {
        let query = format!("SELECT sum(n)::int8, sum(length(t))::int8 FROM {table}");
        let row = client.query_one(&query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let expected = (100_000 * 100_001 / 2, 100_000 * 960);
    assert_eq!(sum("one").await, expected);
    disk.fill();
    let dropped = || quire.branch()["compute"]["cache"]["dropped"].as_u64().unwrap_or_default();
    wait_for("pages leave", 30, async || (dropped() > 100).then_some(())).await;
    for table in ["two", "one", "two"] {
        assert_eq!(sum(table).await, expected);
    }
    assert!(dropped() > 1000, "pages had to leave: {}", dropped());
    disk.free();
    end(disk, quire, &ledger).await;
}
