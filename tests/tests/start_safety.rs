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

/// A directory of PostgreSQL's programs in which `postgres` can be replaced.
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

/// A Quire that runs PostgreSQL from such a directory, and the directory.
fn start_with_own_programs() -> (Quire, PathBuf) {
    let quire = Quire::new();
    let programs = own_programs(&quire);
    let quire = quire.with_option("--pg-bin", programs.to_str().expect("text"));
    quire.up();
    (quire, programs)
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
    let (quire, programs) = start_with_own_programs();
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
    assert!(said(&refused).contains("it works in"), "before it is asked anything: {}", said(&refused));
    // Over the compute's own directory, without the shim.
    replace(&programs.join("postgres"), &format!("#!/bin/bash\nexec env -u LD_PRELOAD {real} \"$@\"\n"));
    let log_begins = quire.log("compute-main").len();
    wait_for("it is tried in vain", 60, async || {
        quire.log("compute-main").get(log_begins..)?.contains("compute failed").then_some(())
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
async fn a_cold_restart_is_cold_also_while_a_warm_start_is_under_way() {
    let (quire, programs) = start_with_own_programs();
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 10) n").await.expect("created");
    drop(client);
    let running = quire.run(&["compute", "start", "main", "--cold"]);
    assert!(!running.status.success() && said(&running).contains("restart it with --cold"), "{}", said(&running));
    quire.ok(&["compute", "stop", "main"]);
    let before = term(&quire);
    let real = postgres_program("postgres");
    replace(
        &programs.join("postgres"),
        &format!("#!/bin/bash\n[ \"$1\" = -D ] && sleep 3\nexec {} \"$@\"\n", real.display()),
    );
    let mut warm = quire.command(&["compute", "start", "main"]);
    let warm = tokio::task::spawn_blocking(move || warm.output().expect("quire runs"));
    wait_for("it is starting", 30, async || (quire.branch()["compute"]["state"] == "starting").then_some(())).await;
    quire.cold_restart();
    assert!(term(&quire) > before, "the cache was used again");
    let warm = warm.await.expect("no panic");
    assert!(warm.status.success(), "{}", said(&warm));
    assert_eq!(number(&quire.connect().await, "SELECT count(*) FROM kept").await, 10);
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
    let is_let_in = async || (knocking.let_in.load(Ordering::Relaxed) > 0).then_some(());
    wait_for("a client that came meanwhile is let in", 30, is_let_in).await;
    knocking.end().await;
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

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error}")).get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_postgresql_does_not_start_with_are_left_out_and_said() {
    let quire = Quire::start();
    let client = quire.connect().await;
    client.batch_execute("ALTER SYSTEM SET work_mem = '7MB'").await.expect("set");
    drop(client);
    quire.ok(&["compute", "restart", "main"]);
    for (setting, value, cold) in
        [("shared_buffers", "400GB", false), ("shared_preload_libraries", "pg_stat_statemnts", true)]
    {
        let client = quire.connect().await;
        client.batch_execute(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await.expect("set");
        drop(client);
        let mut restart = vec!["compute", "restart", "main"];
        restart.extend(cold.then_some("--cold"));
        let output = quire.run(&restart);
        assert!(output.status.success() && said(&output).contains(setting), "{}", said(&output));
        let client = quire.connect().await;
        assert_ne!(text(&client, &format!("SHOW {setting}")).await, value);
        assert_eq!(text(&client, "SHOW work_mem").await, "7MB", "what a server was ready with stays");
        let file = quire.dir().join("compute/main/conf/postgresql.auto.conf.rejected");
        let rejected = fs::read_to_string(&file).expect("kept");
        assert!(rejected.contains(&format!("{setting} = '{value}'")) && rejected.contains("work_mem"), "{rejected}");
        let status = quire.ok(&["status"]);
        assert!(status.contains(setting) && status.contains(&file.display().to_string()), "{status}");
        fs::remove_file(file).expect("removed");
        assert!(!quire.ok(&["status"]).contains(setting));
    }
    // Settings may name files in the data directory.
    fs::write(quire.dir().join("compute/main/pgdata/server.crt"), "certificate").expect("written");
    quire.cold_restart();
    assert_eq!(text(&quire.connect().await, "SELECT pg_read_file('server.crt')").await, "certificate");
    // It is storage that has what is right and what not.
    quire.down();
    fs::remove_dir_all(quire.dir().join("compute")).expect("removed");
    quire.up();
    let client = quire.connect().await;
    assert_eq!(text(&client, "SHOW work_mem").await, "7MB");
    client.batch_execute("ALTER SYSTEM SET shared_buffers = '400GB'").await.expect("set");
    drop(client);
    quire.kill_everything().await;
    fs::remove_dir_all(quire.dir().join("compute")).expect("removed");
    quire.up();
    let client = quire.connect().await;
    assert_eq!(text(&client, "SHOW work_mem").await, "7MB");
    assert_eq!(text(&client, "SHOW shared_buffers").await, "128MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_postgresql_fails_is_told_at_once_and_leaves_storage_running() {
    let quire = Quire::start();
    quire.down();
    let custom = quire.dir().join("compute/main/conf/custom.conf");
    for (line, told) in
        [("shared_buffers = '999TB'\n", "invalid value for parameter"), ("shared_buffers = '400GB'\n", "FATAL:")]
    {
        fs::write(&custom, line).expect("written");
        let begun = std::time::Instant::now();
        let output = quire.try_up();
        assert!(!output.status.success() && said(&output).contains(told), "{}", said(&output));
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
        assert_eq!(quire.status()["quorum"]["state"], "ok");
        let again = quire.try_up();
        assert!(!again.status.success() && said(&again).contains(told), "{}", said(&again));
        fs::remove_file(&custom).expect("removed");
        wait_for("it starts", 60, async || quire.try_up().status.success().then_some(())).await;
        assert_eq!(text(&quire.connect().await, "SHOW shared_buffers").await, "128MB");
        quire.down();
    }
}

/// The soft limit of open files of a process.
fn open_files_limit(limits: &str) -> &str {
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    line.split_whitespace().nth(3).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_raise_the_limit_of_open_files_and_postgresql_gets_the_one_of_the_shell() {
    let quire = Quire::new().after("ulimit -S -n 300");
    quire.up();
    let client = quire.connect().await;
    let of_backend = text(&client, "SELECT pg_read_file('/proc/self/limits')").await;
    assert_eq!(open_files_limit(&of_backend), "300");
    for role in ["compute-main", "safekeeper-1", "pageserver-1"] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", quire.role(role))).expect("it runs");
        let raised: u64 = open_files_limit(&limits).parse().unwrap_or(u64::MAX);
        assert!(raised > 300, "{role}: {raised}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_open_no_more_files_goes_on() {
    let quire = Quire::new().after("ulimit -n 160");
    quire.up();
    quire.set("max_connections = 250\nshared_buffers = '16MB'");
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 100) n").await.expect("created");
    let before = term(&quire);
    let url = quire.url("postgres");
    // Each keeps a connection to the agent, as soon as that accepts it.
    let backends: Vec<_> = (0..180)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let (backend, connection) = tokio_postgres::connect(&url, NoTls).await?;
                tokio::spawn(connection);
                backend.batch_execute("SELECT count(*) FROM t").await?;
                Ok::<Client, tokio_postgres::Error>(backend)
            })
        })
        .collect();
    let said_so = async || quire.log("compute-main").contains("cannot accept a connection").then_some(());
    wait_for("the agent may open no more files", 60, said_so).await;
    for n in 0..5 {
        let commit = format!("INSERT INTO t VALUES ({n}); SELECT pg_switch_wal()");
        let committed = tokio::time::timeout(std::time::Duration::from_secs(60), client.batch_execute(&commit)).await;
        committed.expect("in time").expect("committed");
    }
    assert_eq!(quire.log("compute-main").matches("cannot accept a connection").count(), 1, "it is said once");
    drop(client);
    for backend in &backends {
        backend.abort();
    }
    drop(backends);
    let all_there = async || (number(&try_connect(&url).await?, "SELECT count(*) FROM t").await == 105).then_some(());
    wait_for("it is as before", 60, all_there).await;
    assert_eq!(term(&quire), before, "the commit path did not fail");
}

async fn try_connect(url: &str) -> Option<Client> {
    let connecting = tokio::time::timeout(std::time::Duration::from_secs(5), tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting.await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// A `postgres` of which its file says another version than the running one: the same program, with another name for
/// itself.
const UPGRADED: &str = "#!/bin/bash
[ \"$1\" = --version ] && { echo 'postgres (PostgreSQL) 15.99 (Another 15.99-1)'; exit; }
exec";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_upgraded_underneath_says_so_until_it_is_restarted() {
    let (quire, programs) = start_with_own_programs();
    let client = quire.connect().await;
    client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) n").await.expect("created");
    assert!(quire.branch()["compute"]["outdated"].is_null());
    let real = postgres_program("postgres");
    // As a package manager does: another file of the same name.
    replace(&programs.join("postgres"), &format!("{UPGRADED} {} \"$@\"\n", real.display()));
    let note =
        wait_for("it is noticed", 60, async || quire.branch()["compute"]["outdated"].as_str().map(str::to_owned)).await;
    assert!(note.contains("is running, 15.99 is installed: run `quire compute restart`"), "{note}");
    assert!(quire.ok(&["status"]).contains(&note) && quire.log("compute-main").contains("15.99 is installed"));
    fs::remove_file(programs.join("postgres")).expect("removed");
    symlink(&real, programs.join("postgres")).expect("linked");
    let gone = async || quire.branch()["compute"]["outdated"].is_null().then_some(());
    wait_for("it is the installed one again", 60, gone).await;
    assert_eq!(number(&client, "SELECT count(*) FROM kept").await, 1000);
}

/// Where another minor version of PostgreSQL 15 is, for [`a_restart_after_an_upgrade_runs_the_new_server`].
const OTHER_PROGRAMS: &str = "QUIRE_OTHER_PG_BIN";

/// With real programs of two minor versions, warm, cold and after a crash in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_after_an_upgrade_runs_the_new_server() {
    let Some(other) = std::env::var_os(OTHER_PROGRAMS).map(PathBuf::from) else {
        eprintln!("skipped: {OTHER_PROGRAMS} does not say where another PostgreSQL 15 is");
        return;
    };
    for way in ["warm", "cold", "crash"] {
        let quire = Quire::new();
        let programs = quire.beside("bin");
        symlink(postgres_program("postgres").parent().expect("a folder"), &programs).expect("linked");
        let quire = quire.with_option("--pg-bin", programs.to_str().expect("text"));
        quire.up();
        let client = quire.connect().await;
        client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) n").await.expect("created");
        let before = text(&client, "SHOW server_version").await;
        drop(client);
        fs::remove_file(&programs).expect("removed");
        symlink(&other, &programs).expect("linked");
        wait_for("it is noticed", 60, async || quire.branch()["compute"]["outdated"].as_str().map(drop)).await;
        match way {
            "warm" => drop(quire.ok(&["compute", "restart", "main"])),
            "cold" => quire.cold_restart(),
            _ => signal_all(&[postmaster(&quire)], Signal::SIGKILL),
        }
        let client = quire.connect_when_back().await;
        assert_ne!(text(&client, "SHOW server_version").await, before, "{way}");
        assert_eq!(number(&client, "SELECT count(*) FROM kept").await, 1000);
        client.batch_execute("INSERT INTO kept VALUES (1); CHECKPOINT").await.expect("written");
        wait_for("no more is said", 60, async || quire.branch()["compute"]["outdated"].is_null().then_some(())).await;
        quire.verify();
    }
}
