//! What somebody sees who starts, uses and stops Quire.

use nix::sys::signal::Signal;
use quire_tests::processes::{is_alive, signal_all};
use quire_tests::{Quire, wait_for};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn data_survives_down_and_up() {
    let quire = Quire::start();
    quire.ok(&["psql", "--", "-c", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n"]);
    quire.down();
    assert_eq!(quire.processes(), Vec::<i32>::new(), "down leaves no process");
    quire.up();
    let said = quire.ok(&["psql", "main", "--", "-Atc", "SELECT count(*), sum(n) FROM kept"]);
    assert_eq!(said.trim(), "1000|500500");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_up_says_so_and_changes_nothing() {
    let quire = Quire::start();
    let before = quire.processes();
    let start = Instant::now();
    let output = quire.run(&["up", "--detach"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("already running"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), quire.ok(&["url"]));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let still = before.iter().filter(|pid| is_alive(**pid)).count();
    assert!(still > 5, "the processes of before still run");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_leaves_a_port_that_somebody_took_while_it_was_down() {
    let quire = Quire::start();
    let address = |quire: &Quire| quire.status()["safekeepers"][0]["address"].as_str().expect("it has one").to_owned();
    quire.ok(&["psql", "--", "-c", "CREATE TABLE kept AS SELECT 7 AS n"]);
    let before = address(&quire);
    quire.down();
    let _somebody = std::net::TcpListener::bind(&before).expect("nobody listens there any more");
    quire.up();
    assert_ne!(address(&quire), before);
    assert_eq!(quire.ok(&["psql", "--", "-Atc", "SELECT n FROM kept"]).trim(), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn down_does_nothing_twice_and_up_works_after_it() {
    let quire = Quire::start();
    quire.down();
    assert_eq!(quire.json(&["down"])["stopped"], false);
    assert_eq!(quire.branch()["compute"]["state"], "down");
    quire.up();
    assert_eq!(quire.branch()["compute"]["state"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_has_every_part_that_scripts_read() {
    let quire = Quire::start();
    let status = quire.status();
    assert_eq!(status["safekeepers"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["pageservers"].as_array().map(Vec::len), Some(1));
    let branch = &status["branches"][0];
    assert_eq!(branch["name"], "main");
    let parts = [
        ("compute", ["state", "url", "pid"].as_slice()),
        ("pushdown", &["state", "since_lsn"]),
        ("lsn", &["written", "committed", "ingested", "durable"]),
        ("images", &["made", "backlog_pages", "longest_chain", "max_deltas", "max_bytes"]),
    ];
    for (part, fields) in parts {
        for field in fields {
            assert!(!branch[part][field].is_null(), "{part}.{field} is missing in {branch:#}");
        }
    }
    assert_eq!(branch["compute"]["url"], quire.ok(&["url"]).trim());
    let human = quire.ok(&["status"]);
    assert!(human.contains("SAFEKEEPER") && human.contains("main") && !human.contains("lost"), "{human}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_outlives_a_killed_supervisor() {
    let quire = Quire::start();
    let supervisor = quire.status()["supervisor"].as_i64().expect("it runs");
    signal_all(&[i32::try_from(supervisor).expect("a pid")], Signal::SIGKILL);
    wait_for("the roles end by themselves", 60, async || quire.processes().is_empty().then_some(())).await;
    quire.up();
    quire.ok(&["psql", "--", "-c", "SELECT 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_role_is_started_again() {
    let quire = Quire::start();
    let pageserver = quire.role("pageserver-1");
    signal_all(&[pageserver], Signal::SIGKILL);
    let back = async || (quire.status()["pageservers"][0]["state"] == "up" && !is_alive(pageserver)).then_some(());
    wait_for("the pageserver is back", 60, back).await;
    quire.cold_restart();
    quire.ok(&["psql", "--", "-c", "SELECT count(*) FROM pg_class"]);
}

#[test]
fn errors_say_what_to_do_and_leave_stdout_empty() {
    let quire = Quire::new();
    let cases = [
        (["status"].as_slice(), "quire up"),
        (&["url"], "quire up"),
        (&["up", "--pg-bin", "/nonexistent"], "--pg-bin"),
        (&["up", "--safekeepers", "2"], "odd"),
    ];
    for (arguments, advice) in cases {
        let output = quire.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr.contains(advice) && !stderr.contains("panic"), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// Whether a process runs this command.
fn runs(pid: i32, command: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim_end() == command
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_a_function_starts_outlives_its_session() {
    let quire = Quire::start();
    let client = quire.connect().await;
    if let Err(error) = client.batch_execute("CREATE EXTENSION plperlu").await {
        eprintln!("SKIPPED: PL/Perl is not installed: {error:?}");
        return;
    }
    let function = "CREATE FUNCTION start_program() RETURNS int LANGUAGE plperlu AS $$
        my $pid = fork();
        if ($pid == 0) { close(STDIN); close(STDOUT); close(STDERR); exec('sleep', '300'); }
        return $pid; $$";
    client.batch_execute(function).await.expect("made");
    let row = client.query_one("SELECT start_program(), pg_backend_pid()", &[]).await.expect("started");
    let (program, backend): (i32, i32) = (row.get(0), row.get(1));
    wait_for("the program", 10, async || runs(program, "sleep 300").then_some(())).await;
    drop(client);
    let ended = async || (!std::path::Path::new(&format!("/proc/{backend}")).exists()).then_some(());
    wait_for("the end of the session", 10, ended).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(runs(program, "sleep 300"), "it has ended with the backend that started it");
    signal_all(&[program], Signal::SIGKILL);
}
