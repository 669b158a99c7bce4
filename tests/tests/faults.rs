//! What breaks is said by whom it broke for, loses nothing, and mends by itself.

use nix::sys::signal::Signal;
use quire_tests::processes::{children, is_alive, signal_all};
use quire_tests::{Ledger, Quire, wait_for};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Rows of some hundred bytes that do not compress.
const BIG: &str = "CREATE TABLE big AS SELECT n, (SELECT string_agg(md5((n * 10 + k)::text), '') FROM generate_series(1, 8) k) t \
    FROM generate_series(1, 20000) n";

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// The words of `quire status` for people.
async fn wait_until_status_says(quire: &Quire, words: &str) {
    let says = async || quire.ok(&["status"]).contains(words).then_some(());
    wait_for(&format!("the status says {words:?}"), 60, says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_wait_for_the_pageserver_until_their_deadline_and_commits_go_on() {
    let quire = Quire::new();
    quire.ok(&["up", "--detach", "--read-deadline", "4"]);
    run(&quire.connect().await, BIG).await;
    // The deadline is remembered, the cache is not.
    quire.kill_everything().await;
    quire.up();
    let (reader, writer) = (quire.connect().await, quire.connect().await);
    // What planning and inserting need is in the cache before the pageserver goes, what the scan needs is not.
    let sum = "SELECT sum(n) FROM big";
    run(&reader, &format!("EXPLAIN {sum}")).await;
    run(&writer, "CREATE TABLE small (n int); INSERT INTO small VALUES (0)").await;
    let away = quire.take_away("pageserver-1").await;
    let reading = tokio::spawn(async move { (reader.query_one(sum, &[]).await, reader) });
    for n in 1..=20 {
        run(&writer, &format!("INSERT INTO small VALUES ({n})")).await;
    }
    wait_until_status_says(&quire, "Pageserver 1 does not answer").await;
    let (late, reader) = reading.await.expect("no panic");
    let late = late.expect_err("the pages are nowhere");
    assert_eq!(late.code(), Some(&SqlState::IO_ERROR), "{late:?}");
    let log = quire.log("compute-main");
    assert!(log.contains("did not answer within 4s"), "the agent says why");
    let reading = tokio::spawn(async move { reader.query_one(sum, &[]).await });
    drop(away);
    let found = reading.await.expect("no panic").expect("a read that waits is served once the pageserver is back");
    assert_eq!(found.get::<_, i64>(0), 200_010_000);
    assert_eq!(number(&writer, "SELECT count(*) FROM small").await, 21);
    quire.verify();
    quire.expect_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_at_the_lag_limit_and_go_on_when_the_pageserver_is_back() {
    let quire = Quire::new().with_option("--max-lag", "4MiB");
    quire.up();
    let client = quire.connect().await;
    Ledger::create_table(&client).await;
    run(&client, "CREATE TABLE bulk (t text); INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 20000)")
        .await;
    let url = quire.url("postgres");
    let ledger = Ledger::default();
    let clients = ledger.start_clients(&url, 2);
    let away = quire.take_away("pageserver-1").await;
    let bulk = "INSERT INTO bulk SELECT repeat('x', 100) FROM generate_series(1, 80000)";
    let big = tokio::spawn(async move { client.batch_execute(bulk).await });
    let throttle = || quire.branch()["compute"]["throttle"].clone();
    wait_for("commits are held", 60, async || (throttle()["holds"] == true).then_some(())).await;
    assert_eq!(throttle()["component"], "pageserver", "{}", throttle());
    wait_until_status_says(&quire, "Commits are blocked: the pageserver is").await;
    let held = ledger.acknowledged();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ledger.acknowledged() <= held + 2, "what was shipped before may still be acknowledged, nothing else");
    drop(away);
    big.await.expect("no panic").expect("it is delayed and not refused");
    wait_for("the clients get on", 60, async || (ledger.acknowledged() > held + 100).then_some(())).await;
    clients.stop().await;
    wait_for("nothing holds commits back", 60, async || throttle().is_null().then_some(())).await;
    ledger.expect_kept(&quire.connect().await).await;
    quire.expect_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_backend_and_a_killed_agent_cost_a_restart_and_nothing_else() {
    let quire = Quire::start();
    Ledger::create_table(&quire.connect().await).await;
    let url = quire.url("postgres");
    let ledger = Ledger::default();
    let clients = ledger.start_clients(&url, 4);
    for signal in [Signal::SIGSEGV, Signal::SIGKILL] {
        let client = quire.connect_when_back().await;
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("its pid").get(0);
        signal_all(&[backend], signal);
        progress(&ledger).await;
    }
    let agent = quire.role("compute-main");
    let postmaster = i32::try_from(quire.branch()["compute"]["pid"].as_i64().expect("a pid")).expect("a pid");
    let server = [vec![postmaster], children(postmaster)].concat();
    signal_all(&[agent], Signal::SIGKILL);
    let gone = async || server.iter().all(|pid| !is_alive(*pid)).then_some(());
    wait_for("PostgreSQL ends with its agent", 30, gone).await;
    progress(&ledger).await;
    clients.stop().await;
    ledger.expect_kept(&quire.connect_when_back().await).await;
    quire.verify();
    quire.expect_no_panic();
}

async fn progress(ledger: &Ledger) {
    let before = ledger.acknowledged();
    wait_for("the clients get on", 120, async || (ledger.acknowledged() > before + 100).then_some(())).await;
}

#[test]
fn a_library_that_is_no_shim_and_a_shim_of_another_build_are_refused_at_the_start() {
    let quire = Quire::start();
    quire.down();
    let no_shim = quire.beside("empty.so");
    let source = quire.beside("empty.c");
    std::fs::write(&source, "int nothing;\n").expect("written");
    let compiled = std::process::Command::new("cc").args(["-shared", "-o"]).arg(&no_shim).arg(&source).status();
    assert!(compiled.expect("a C compiler").success());
    let other_build = quire.beside("other_build.so");
    std::fs::write(&other_build, shim_of_another_build(&quire)).expect("written");
    for (library, complaint) in [(no_shim, "no shim of Quire"), (other_build, "different builds")] {
        let shim = library.to_str().expect("a path").to_owned();
        let output = quire.run(&["up", "--detach", "--shim", &shim]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(complaint), "{shim}: {stderr}");
    }
    quire.up();
    quire.expect_no_panic();
}

/// The shim with another number in the place of its build's, which `control.shm` tells.
fn shim_of_another_build(quire: &Quire) -> Vec<u8> {
    let control = std::fs::read(quire.dir().join("compute/main/control.shm")).expect("a control file");
    let build: [u8; 8] = control[8..16].try_into().expect("eight bytes");
    let shim = quire_tests::quire::binary().with_file_name("libquire_shim.so");
    let mut bytes = std::fs::read(shim).expect("the shim");
    let places: Vec<usize> = (0..bytes.len() - 8).filter(|at| bytes[*at..*at + 8] == build).collect();
    assert!(!places.is_empty(), "the build's number is nowhere in the shim");
    places.into_iter().for_each(|at| bytes[at] ^= 0xff);
    bytes
}

/// As with a disk that does not answer: who waits continues waiting, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn agent_that_stands_still_is_waited_for_like_a_disk() {
    let quire = Quire::start();
    run(&quire.connect().await, BIG).await;
    quire.cold_restart();
    let (reader, writer) = (quire.connect().await, quire.connect().await);
    run(&writer, "CREATE TABLE small (n int); INSERT INTO small VALUES (0)").await;
    let agent = quire.role("compute-main");
    signal_all(&[agent], Signal::SIGSTOP);
    let reading = tokio::spawn(async move { number(&reader, "SELECT sum(n) FROM big").await });
    let writing = tokio::spawn(async move { run(&writer, "INSERT INTO small VALUES (1)").await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!writing.is_finished(), "a commit was acknowledged without the quorum");
    signal_all(&[agent], Signal::SIGCONT);
    assert_eq!(reading.await.expect("it ends"), 20_000 * 20_001 / 2);
    writing.await.expect("the commit is acknowledged");
    let client = quire.connect().await;
    assert_eq!(number(&client, "SELECT count(*) FROM small").await, 2);
    quire.verify();
}
