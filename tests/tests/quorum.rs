//! Safekeepers that die, and two computes of one branch.

use nix::sys::signal::Signal;
use quire_tests::load::{expect_sums_agree, fill, start};
use quire_tests::processes::{is_stopped, signal_all};
use quire_tests::quire::binary;
use quire_tests::{Quire, short_or_long, wait_for};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

#[tokio::test(flavor = "multi_thread")]
async fn killed_safekeeper_fails_no_transaction_and_catches_up() {
    let quire = Quire::start();
    let url = quire.url("postgres");
    fill(&url, 2);
    let load = start(&url, 4, short_or_long(10, 120));
    for node in [1, 2, 3] {
        let name = format!("safekeeper-{node}");
        let victim = quire.role(&name);
        signal_all(&[victim], Signal::SIGKILL);
        let caught_up =
            async || (log(&quire, node)["flush"].is_string() && !quire.processes().contains(&victim)).then_some(());
        wait_for("the safekeeper is back", 60, caught_up).await;
        wait_until_equal(&quire).await;
    }
    load.finish();
    wait_until_equal(&quire).await;
    expect_sums_agree(&quire.connect().await).await;
}

/// What safekeeper `node` says about the branch.
fn log(quire: &Quire, node: usize) -> Value {
    quire.status()["safekeepers"][node - 1]["branches"][0].clone()
}

/// Waits until every safekeeper has flushed what was committed when this was called.
async fn wait_until_equal(quire: &Quire) {
    let target = number(&quire.branch()["lsn"]["committed"]).expect("the compute runs");
    let equal = async || {
        let reached = |node| number(&log(quire, node)["flush"]).is_some_and(|flush| flush >= target);
        [1, 2, 3].into_iter().all(reached).then_some(())
    };
    wait_for("all safekeepers have caught up", 60, equal).await;
}

fn number(lsn: &Value) -> Option<u64> {
    let (high, low) = lsn.as_str()?.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_without_a_majority_and_go_on_with_one() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE waits (n int)").await.expect("created");
    // Stopped rather than killed, since the supervisor would start them again at once.
    let victims = [quire.role("safekeeper-1"), quire.role("safekeeper-3")];
    signal_all(&victims, Signal::SIGSTOP);
    let stopped = async || victims.iter().all(|pid| is_stopped(*pid)).then_some(());
    wait_for("two safekeepers stand still", 30, stopped).await;
    let insert = tokio::spawn(async move { client.batch_execute("INSERT INTO waits VALUES (1)").await });
    let status = quire.status();
    assert_eq!(status["quorum"]["state"], "lost", "{status:#}");
    assert!(quire.ok(&["status"]).contains("quorum is lost"));
    assert!(!insert.is_finished(), "a commit must not be acknowledged by one safekeeper of three");
    // One is killed and so comes back; the other stays as it is.
    signal_all(&victims[..1], Signal::SIGKILL);
    let done = timeout(Duration::from_secs(60), insert).await.expect("the commit goes on");
    done.expect("no panic").expect("the commit succeeds");
    signal_all(&victims[1..], Signal::SIGCONT);
    wait_until_equal(&quire).await;
    assert_eq!(quire.status()["quorum"]["state"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_compute_fences_the_first() {
    let quire = Quire::start();
    let first = quire.connect().await;
    first.batch_execute("CREATE TABLE owner (who text); INSERT INTO owner VALUES ('first')").await.expect("written");
    let mut second = Second::start(&quire);
    let client = second.connect().await;
    client.batch_execute("INSERT INTO owner VALUES ('second')").await.expect("the second may write");
    let refused = timeout(Duration::from_secs(60), first.batch_execute("INSERT INTO owner VALUES ('late')")).await;
    assert!(refused.expect("it must not hang").is_err(), "the first may not write");
    let fenced = async || (quire.branch()["compute"]["state"] != "running").then_some(());
    wait_for("the first compute is no longer running", 60, fenced).await;
    let rows = client.query("SELECT who FROM owner ORDER BY who", &[]).await.expect("read");
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["first", "second"]);
    client.batch_execute("INSERT INTO owner VALUES ('second again')").await.expect("the first does not come back");
    second.end();
}

/// A compute of the same branch, started by hand with a directory and ports of its own.
struct Second {
    agent: Child,
    port: u16,
}

impl Second {
    fn start(quire: &Quire) -> Second {
        let text = std::fs::read(quire.dir().join("run/compute-main.json")).expect("the first one's configuration");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        let (port, http) = (free_port(), free_port());
        config["dir"] = json!(quire.beside("second"));
        config["port"] = json!(port);
        config["http"] = json!(format!("127.0.0.1:{http}"));
        let path = quire.beside("second.json");
        std::fs::write(&path, config.to_string()).expect("written");
        let log = std::fs::File::create(quire.dir().join("log/second.log")).expect("a log");
        let mut command = Command::new(binary());
        command.args(["compute", "run", "--config"]).arg(path).stdin(Stdio::null()).process_group(0);
        let agent = command.stdout(Stdio::null()).stderr(log).spawn().expect("started");
        Second { agent, port }
    }

    async fn connect(&self) -> Client {
        let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port);
        let connect = async || {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(client)
        };
        wait_for("the second compute accepts connections", 120, connect).await
    }

    fn end(&mut self) {
        signal_all(&[i32::try_from(self.agent.id()).expect("a pid")], Signal::SIGTERM);
        let ended = self.agent.wait().expect("it ends");
        assert!(ended.success(), "a clean end: {ended}");
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).expect("bound").local_addr().expect("an address").port()
}
