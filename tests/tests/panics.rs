//! A panic anywhere in a role ends its process; the supervisor starts it again, and work continues. A page whose redo
//! panicked twice is not redone again, and keeps nobody from anything else.

use nix::sys::signal::Signal;
use quire_tests::processes::{of_folder, signal_all};
use quire_tests::{Ledger, Quire, wait_for};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// In which thread or task of which role, as the code has them. Each group is tried on a Quire of its own, since a role
/// that ends again and again is started later each time. What looks around seldom does so when its role has just
/// started, so it comes with another.
const OF_STORAGE: &[&str] = &[
    "safekeeper.accept",
    "safekeeper.connection",
    "safekeeper.follower",
    "safekeeper.segments",
    "safekeeper.http",
    "pageserver.accept",
    "pageserver.connection",
    "pageserver.follower",
    "pageserver.ingest",
    "pageserver.flush",
    "pageserver.images",
    "pageserver.http",
];
const OF_THE_COMMIT_PATH: &[&str] = &[
    "pageserver.compaction",
    "compute.quorum-events",
    "compute.quorum-reader",
    "compute.quorum-shipper",
    "compute.supervisor",
    "compute.http",
    "compute.postgres-keeper",
];
const OF_READS: &[&str] = &[
    "compute.fill-accept",
    "compute.fill",
    "compute.page-client",
    "compute.bound",
    "compute.observer\ncompute.warm-up",
];
const OF_WHAT_IS_KEPT: &[&str] =
    &["compute.sample", "compute.position\ncompute.free-space", "compute.guard", "compute.upgrade"];

/// A Quire in which panics can be planted, and the file that says where.
fn plantable() -> (Quire, PathBuf) {
    let quire = Quire::new();
    let file = quire.beside("panic-at");
    fs::write(&file, "").expect("written");
    let quire = quire.with_variable("QUIRE_PANIC_AT", file.to_str().expect("text"));
    (quire.with_option("--cache-size", "16MiB"), file)
}

fn is_planted(file: &Path) -> bool {
    !fs::read_to_string(file).expect("read").is_empty()
}

/// Work that comes past every point: WAL, segments, images, layers, pages that leave and come back.
async fn stir(client: &Client) -> Option<()> {
    client
        .batch_execute("INSERT INTO stirred SELECT n, repeat('x', 900) FROM generate_series(1, 2000) n")
        .await
        .ok()?;
    client.batch_execute("UPDATE hot SET n = n + 1; SELECT pg_switch_wal(); CHECKPOINT").await.ok()?;
    client.batch_execute("SELECT count(*) FROM stirred").await.ok()
}

/// Opens and closes a connection to each safekeeper and pageserver.
fn knock(quire: &Quire) {
    let deployment = fs::read_to_string(quire.dir().join("quire.json")).expect("it is there");
    let deployment: serde_json::Value = serde_json::from_str(&deployment).expect("JSON");
    let nodes = ["safekeepers", "pageservers"].map(|role| deployment[role].as_array().expect("nodes").clone());
    for port in nodes.iter().flatten().filter_map(|node| node["port"].as_u64()) {
        let _ = TcpStream::connect(("127.0.0.1", u16::try_from(port).expect("a port")));
    }
}

/// Has a safekeeper lag by more than a compute has in memory.
async fn let_lag(quire: &Quire, client: &Client) {
    let lagging = of_folder(&quire.dir().join("run/safekeeper-2.json"));
    signal_all(&lagging, Signal::SIGSTOP);
    for _ in 0..8 {
        let _ = tokio::time::timeout(Duration::from_secs(5), stir(client)).await;
    }
    signal_all(&lagging, Signal::SIGCONT);
}

async fn stir_until_it_panics(quire: &Quire, file: &Path, point: &str) {
    let end = Instant::now() + Duration::from_secs(90);
    while Instant::now() < end {
        let client = quire.connect_when_back().await;
        let _ = tokio::time::timeout(Duration::from_secs(5), stir(&client)).await;
        match point {
            "compute.postgres-keeper" => drop(quire.run(&["compute", "restart", "main"])),
            "compute.supervisor" => drop(quire.run(&["compute", "start", "main"])),
            "compute.quorum-reader" => let_lag(quire, &client).await,
            "safekeeper.http" | "pageserver.http" | "compute.http" => drop(quire.run(&["status"])),
            _ => knock(quire),
        }
        if !is_planted(file) {
            return;
        }
    }
    panic!("nothing came past {point}");
}

/// Plants a panic at each point, one after the other.
async fn expect_to_come_back(points: &[&str]) {
    let (quire, file) = plantable();
    quire.up();
    let client = quire.connect().await;
    Ledger::create_table(&client).await;
    client
        .batch_execute("CREATE TABLE stirred (n int, x text); CREATE TABLE hot AS SELECT 1 n")
        .await
        .expect("created");
    drop(client);
    let ledger = Ledger::default();
    let clients = ledger.start_clients(&quire.url("postgres"), 1);
    for point in points {
        let begun = Instant::now();
        let before = ledger.acknowledged();
        fs::write(&file, point).expect("written");
        stir_until_it_panics(&quire, &file, point).await;
        wait_for("commits go on", 120, async || (ledger.acknowledged() > before + 20).then_some(())).await;
        let all_up = async || {
            let status = quire.status();
            (status["quorum"]["up"] == status["quorum"]["of"] && status["branches"][0]["compute"]["state"] == "running")
                .then_some(())
        };
        wait_for("all roles are up", 60, all_up).await;
        eprintln!("{point}: {:.1} s", begun.elapsed().as_secs_f32());
    }
    clients.stop().await;
    ledger.expect_kept(&quire.connect_when_back().await).await;
    quire.verify();
    let noted = |role: &str| fs::read_dir(quire.dir().join(role).join("panics")).into_iter().flatten().count();
    let of_role =
        |role: &str| points.iter().flat_map(|points| points.lines()).filter(|point| point.starts_with(role)).count();
    assert_eq!(noted("pageserver-1"), of_role("pageserver"));
    assert_eq!(noted("compute/main"), of_role("compute"));
    assert_eq!(
        ["safekeeper-1", "safekeeper-2", "safekeeper-3"].map(noted).iter().sum::<usize>(),
        of_role("safekeeper")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_thread_of_storage_ends_the_role_which_comes_back() {
    expect_to_come_back(OF_STORAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_thread_of_the_commit_path_ends_the_role_which_comes_back() {
    expect_to_come_back(OF_THE_COMMIT_PATH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_thread_that_serves_reads_ends_the_role_which_comes_back() {
    expect_to_come_back(OF_READS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_other_thread_of_a_compute_ends_the_role_which_comes_back() {
    expect_to_come_back(OF_WHAT_IS_KEPT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_redo_panics_twice_is_put_aside_and_nothing_else_is() {
    let (quire, file) = plantable();
    let quire = quire
        .with_variable("QUIRE_DROP_ALL", "1")
        .with_option("--read-deadline", "20")
        .with_option("--verify-rate", "0");
    quire.up();
    let client = quire.connect().await;
    let make = "CREATE TABLE t WITH (fillfactor = 50) AS SELECT n, repeat('x', 500) x FROM generate_series(1, 200) n";
    client.batch_execute(make).await.expect("created");
    client.batch_execute("UPDATE t SET n = n; CHECKPOINT").await.expect("written");
    let path: String = client.query_one("SELECT pg_relation_filepath('t')", &[]).await.expect("a path").get(0);
    let (database, relation) = path.trim_start_matches("base/").split_once('/').expect("a path");
    drop(client);
    // A third time would only come if it were tried again.
    let point = format!("redo relation 1663/{database}/{relation} block 3\n");
    fs::write(&file, point.repeat(3)).expect("written");
    quire.cold_restart();
    let client = quire.connect_when_back().await;
    let refused = wait_for("the page is put aside", 120, async || {
        let error = client.batch_execute("SELECT count(x) FROM t").await.err()?;
        let log = quire.log("pageserver-1");
        log.contains("redo panicked twice").then_some(error)
    })
    .await;
    assert!(refused.as_db_error().is_some() || client.is_closed(), "{refused}");
    assert_eq!(fs::read_to_string(&file).expect("read").lines().count(), 1);
    let client = quire.connect_when_back().await;
    let counted = client.query_one("SELECT count(x) FROM t WHERE ctid >= '(4,0)' AND ctid < '(9,0)'", &[]).await;
    assert!(counted.expect("other pages are read").get::<_, i64>(0) > 0);
    let error = client.batch_execute("SELECT count(x) FROM t WHERE ctid >= '(3,0)' AND ctid < '(4,0)'").await;
    assert!(error.is_err(), "the page is an error");
    client.batch_execute("INSERT INTO t SELECT n, 'more' FROM generate_series(1, 1000) n").await.expect("written");
    let evidence = fs::read_dir(quire.dir().join("pageserver-1/panics")).expect("there").flatten();
    let names: Vec<String> = evidence.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".json")).count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".chain")).count(), 1, "{names:?}");
    // Whoever removes the notes has it tried again.
    fs::write(&file, "").expect("written");
    fs::remove_dir_all(quire.dir().join("pageserver-1/panics")).expect("removed");
    quire.down();
    quire.up();
    let client = quire.connect().await;
    assert_eq!(client.query_one("SELECT count(x) FROM t", &[]).await.expect("read").get::<_, i64>(0), 1200);
    quire.verify();
}
