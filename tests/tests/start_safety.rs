//! Starting and stopping a compute: which server runs, over which files, and who may start one over them.

use nix::sys::signal::Signal;
use quire_tests::processes::{give_to_server, postgres_program, signal_all};
use quire_tests::stock::command;
use quire_tests::{Quire, wait_for};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio_postgres::{Client, NoTls};

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A cluster that a stock `initdb` has made beside the Quire.
fn stock_cluster(quire: &Quire) -> PathBuf {
    let folder = quire.beside("stock");
    fs::create_dir(&folder).expect("made");
    give_to_server(&folder);
    let output = command("initdb").args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"]).arg(&folder).output();
    let output = output.expect("initdb runs");
    assert!(output.status.success(), "{}", said(&output));
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_copied_from_another_server_do_not_move_postgresql_to_its_files() {
    let quire = Quire::start();
    let stock = stock_cluster(&quire);
    let pid_file = stock.join("another.pid");
    fs::write(&pid_file, "4711\n").expect("written");
    give_to_server(&pid_file);
    let lines = [
        format!("data_directory = '{}'", stock.display()),
        format!("hba_file = '{}/pg_hba.conf'", stock.display()),
        format!("ident_file = '{}/pg_ident.conf'", stock.display()),
        format!("external_pid_file = '{}'", pid_file.display()),
    ];
    quire.set(&lines.join("\n"));
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE acked AS SELECT generate_series(1, 1000) n").await.expect("created");
    assert_eq!(
        fs::read_to_string(&pid_file).expect("still there"),
        "4711\n",
        "another server's pid file is left alone"
    );
    let log = quire.log("compute-main");
    assert!(log.contains("a setting is ignored") && log.contains("data_directory"), "{log}");
    drop(client);
    fs::remove_file(quire.dir().join("compute/main/conf/custom.conf")).expect("removed");
    quire.cold_restart();
    assert_eq!(number(&quire.connect().await, "SELECT count(*) FROM acked").await, 1000);
}

/// A folder of PostgreSQL's programs in which `postgres` can be replaced.
fn own_programs(quire: &Quire) -> PathBuf {
    let folder = quire.beside("bin");
    fs::create_dir(&folder).expect("made");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("opened");
    for entry in fs::read_dir(postgres_program("postgres").parent().expect("a folder")).expect("listed") {
        let path = entry.expect("read").path();
        symlink(&path, folder.join(path.file_name().expect("a name"))).expect("linked");
    }
    folder
}

fn replace(program: &Path, script: &str) {
    fs::remove_file(program).expect("removed");
    fs::write(program, script).expect("written");
    fs::set_permissions(program, Permissions::from_mode(0o755)).expect("made a program");
}

/// Connects over TCP again and again; how often it succeeded.
struct Knocking {
    let_in: Arc<AtomicU32>,
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Knocking {
    fn start(url: String) -> Knocking {
        let (let_in, ends) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (let_in.clone(), ends.clone());
        let task = tokio::spawn(async move {
            while !end.load(Ordering::Relaxed) {
                let connecting = tokio_postgres::connect(&url, NoTls);
                if let Ok(Ok(_)) = tokio::time::timeout(std::time::Duration::from_secs(3), connecting).await {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        });
        Knocking { let_in, ends, task }
    }

    async fn end(self) -> u32 {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic");
        self.let_in.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_into_a_server_over_other_files() {
    let quire = Quire::new();
    let programs = own_programs(&quire);
    let quire = quire.with_option("--pg-bin", programs.to_str().expect("text"));
    quire.up();
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 10) n").await.expect("created");
    drop(client);
    let stock = stock_cluster(&quire);
    let (dir, real) = (quire.dir().join("compute/main"), postgres_program("postgres"));
    let (dir, real, stock) = (dir.display(), real.display(), stock.display());
    let url = quire.url("postgres");
    quire.ok(&["compute", "stop", "main"]);
    let knocking = Knocking::start(url.clone());
    // With the shim, over another directory.
    replace(
        &programs.join("postgres"),
        &format!(
            "#!/bin/bash\nours={dir}/pgdata other={stock}\n\
            exec env LD_PRELOAD={dir}/libquire_shim.so QUIRE_COMPUTE_DIR={dir} {real} \"${{@//$ours/$other}}\"\n"
        ),
    );
    let refused = quire.run(&["compute", "start", "main"]);
    assert!(!refused.status.success() && said(&refused).contains("is not this compute's"), "{}", said(&refused));
    // Over the compute's own directory, without the shim.
    replace(&programs.join("postgres"), &format!("#!/bin/bash\nexec env -u LD_PRELOAD {real} \"$@\"\n"));
    let log_begins = quire.log("compute-main").len();
    wait_for("it is tried in vain", 60, async || {
        quire.log("compute-main").get(log_begins..)?.contains("does not run").then_some(())
    })
    .await;
    assert_eq!(knocking.end().await, 0, "clients were let in");
    fs::remove_file(programs.join("postgres")).expect("removed");
    symlink(postgres_program("postgres"), programs.join("postgres")).expect("linked");
    wait_for("it runs again", 60, async || (quire.branch()["compute"]["state"] == "running").then_some(())).await;
    assert_eq!(number(&quire.connect().await, "SELECT count(*) FROM kept").await, 10);
    quire.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_while_it_starts_are_served_when_it_runs() {
    let quire = Quire::start();
    let knocking = Knocking::start(quire.url("postgres"));
    for _ in 0..3 {
        quire.ok(&["compute", "restart", "main"]);
    }
    quire.cold_restart();
    let client = quire.connect().await;
    client.batch_execute("SELECT 1").await.expect("served");
    assert!(knocking.end().await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_database_postgres_starts() {
    let quire = Quire::start();
    quire.ok(&["psql", "--", "-c", "CREATE DATABASE other"]);
    let other = quire.connect_to("other").await;
    other.batch_execute("DROP DATABASE postgres WITH (FORCE)").await.expect("dropped");
    drop(other);
    quire.cold_restart();
    let other = quire.connect_to("other").await;
    assert_eq!(number(&other, "SELECT count(*) FROM pg_database WHERE datname = 'postgres'").await, 0);
}

fn term(quire: &Quire) -> u64 {
    quire.branch()["compute"]["term"].as_u64().expect("it has one")
}

fn postmaster(quire: &Quire) -> i32 {
    i32::try_from(quire.branch()["compute"]["pid"].as_i64().expect("it runs")).expect("a pid")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postmaster_that_was_told_to_quit_has_not_shut_down() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) n").await.expect("created");
    let backend = i32::try_from(number(&client, "SELECT pg_backend_pid()::bigint").await).expect("a pid");
    let before = term(&quire);
    let (server, mut stop) = (postmaster(&quire), quire.command(&["compute", "stop", "main"]));
    // So that the fast shutdown, which waits for all, does not come to its end.
    signal_all(&[backend], Signal::SIGSTOP);
    let stopping = tokio::task::spawn_blocking(move || stop.output().expect("quire runs"));
    wait_for("it is stopping", 30, async || (quire.branch()["compute"]["state"] == "stopping").then_some(())).await;
    signal_all(&[server], Signal::SIGQUIT);
    let stopped = stopping.await.expect("no panic");
    assert!(stopped.status.success(), "{}", said(&stopped));
    quire.ok(&["compute", "start", "main"]);
    assert!(term(&quire) > before, "the cache was used again after a stop without a checkpoint");
    let client = quire.connect().await;
    assert_eq!(number(&client, "SELECT count(*) FROM kept").await, 1000);
    // A stop that is one keeps the cache.
    let before = term(&quire);
    quire.ok(&["compute", "stop", "main"]);
    quire.ok(&["compute", "start", "main"]);
    assert_eq!(term(&quire), before);
}

/// What a stock server says that is started over a directory, which must not start.
fn refusal(data: &Path) -> String {
    let mut server = command("postgres");
    server.arg("-D").arg(data).args(["-c", "listen_addresses=", "-k"]).arg(data.parent().expect("a folder"));
    let child = server.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let child = child.expect("postgres runs");
    let pid = i32::try_from(child.id()).expect("a pid");
    let (ended, has_ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || ended.send(child.wait_with_output().expect("waited for")));
    let output = has_ended.recv_timeout(std::time::Duration::from_secs(20)).unwrap_or_else(|_| {
        signal_all(&[pid], Signal::SIGKILL);
        panic!("a stock server runs over {}", data.display())
    });
    waiting.join().expect("no panic").expect("received");
    assert!(!output.status.success());
    said(&output)
}

/// Copies a data directory as an administrator would.
fn copy(quire: &Quire, name: &str) -> PathBuf {
    let folder = quire.beside(name);
    fs::create_dir(&folder).expect("made");
    give_to_server(&folder);
    let from = quire.dir().join("compute/main/pgdata");
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(&folder).status().expect("cp runs");
    assert!(copied.success());
    let data = folder.join("pgdata");
    let _ = fs::remove_file(data.join("postmaster.pid"));
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stock_server_starts_over_a_computes_directory_or_a_copy() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) n; CHECKPOINT").await.expect("created");
    drop(client);
    let of_running = copy(&quire, "of-running");
    quire.cold_restart();
    quire.ok(&["compute", "stop", "main"]);
    for data in [of_running, copy(&quire, "of-stopped"), quire.dir().join("compute/main/pgdata")] {
        let said = refusal(&data);
        assert!(said.contains("cache-of-Quire") && said.contains("quire-compute-start"), "{said}");
        // Not even if somebody follows the first message only.
        let _ = fs::copy(data.join("base/1/PG_VERSION"), data.join("PG_VERSION"));
        let said = refusal(&data);
        assert!(said.contains("global/pg_control"), "{said}");
    }
    quire.ok(&["compute", "start", "main"]);
    assert_eq!(number(&quire.connect().await, "SELECT count(*) FROM kept").await, 1000);
    quire.kill_everything().await;
    assert!(refusal(&quire.dir().join("compute/main/pgdata")).contains("global/pg_control"));
    quire.up();
    assert_eq!(number(&quire.connect().await, "SELECT count(*) FROM kept").await, 1000);
    let control = number(&quire.connect().await, "SELECT (pg_stat_file('global/pg_control')).size").await;
    assert_eq!(control, 8192, "to PostgreSQL it is where it always is");
}
