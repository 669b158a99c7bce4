//! Stock PostgreSQL on the shim.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::cluster::{Compute, DEADLINE};
use support::postgres::{User, bin, run};

/// Reads every page of every table and index of a database.
const AMCHECK: &str = "
    CREATE EXTENSION IF NOT EXISTS amcheck;
    SELECT bt_index_parent_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
        WHERE a.amname = 'btree' AND c.relpersistence <> 't' AND c.relkind = 'i';
    SELECT 'corrupt', r.* FROM pg_class c, LATERAL verify_heapam(c.oid) r
        WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence <> 't'";

fn is_sound(compute: &Compute, database: &str) -> bool {
    !compute.sql(database, AMCHECK).contains("corrupt")
}

#[test]
fn a_server_starts_without_visiting_any_database() {
    let compute = Compute::started();
    assert_eq!(compute.agent().control.counter_values().materialisations, 0);
    let names = std::fs::read_dir(compute.dir.data_file("base/1")).unwrap().map(|entry| entry.unwrap().file_name());
    let is_relation = |name: &std::ffi::OsString| name.as_encoded_bytes()[0].is_ascii_digit();
    assert_eq!(names.filter(is_relation).count(), 0);
}

#[test]
fn a_workload_runs_and_its_pages_are_sound() {
    let compute = Compute::started();
    let mut pgbench = compute.client("pgbench");
    run(pgbench.args(["-n", "-c", "6", "-j", "2", "-t", "100", "bench"]));
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
        (SELECT count(*) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_history)";
    assert_eq!(compute.sql("bench", sums), "t|100000|600");
    assert!(is_sound(&compute, "bench"));
    let counters = compute.agent().control.counter_values();
    assert!(counters.fills > 100 && counters.fill_errors == 0, "{counters:?}");
    assert!(counters.flush_waits > 0 && counters.flush_errors == 0, "{counters:?}");
    assert!(counters.reads > counters.fills && counters.writes > 0, "{counters:?}");
}

#[test]
fn sizes_and_listings_are_complete_before_any_page_is() {
    let compute = Compute::started_without_autovacuum();
    let size: u64 = compute.sql("postgres", "SELECT pg_database_size('bench')").parse().unwrap();
    assert!(size > 20 << 20, "{size}");
    assert_eq!(compute.sql("bench", "SELECT pg_relation_size('pgbench_accounts') / 8192"), "1640");
    let installed = compute.agent().blocks_installed.load(Ordering::SeqCst);
    assert!(installed < 1000, "{installed} blocks fetched for sizes only");
    assert!(compute.sql("bench", "\\dt+").contains("pgbench_accounts"));
}

#[test]
fn databases_are_copied_dropped_and_made_again() {
    let compute = Compute::started();
    for strategy in ["FILE_COPY", "WAL_LOG"] {
        compute.sql("postgres", &format!("CREATE DATABASE copy TEMPLATE bench STRATEGY {strategy}"));
        assert_eq!(compute.sql("copy", "SELECT count(*), sum(aid) FROM pgbench_accounts"), "100000|5000050000");
        assert!(is_sound(&compute, "copy"), "{strategy}");
        compute.sql("postgres", "DROP DATABASE copy");
    }
    compute.sql("postgres", "DROP DATABASE bench");
    compute.sql("postgres", "CREATE DATABASE bench");
    assert_eq!(compute.sql("bench", "SELECT count(*) FROM pg_class WHERE relname LIKE 'pgbench%'"), "0");
}

#[test]
fn relations_are_rewritten_truncated_and_extended() {
    let compute = Compute::started();
    // Autovacuum on the same table, and its lock, would get in the way of the truncation again and again.
    compute.sql("bench", "ALTER TABLE pgbench_accounts SET (autovacuum_enabled = off)");
    compute.sql("bench", "DELETE FROM pgbench_accounts WHERE aid > 1000");
    let size = "SELECT pg_relation_size('pgbench_accounts') / 8192";
    wait_for("the truncation, which any other snapshot puts off", || {
        compute.sql("bench", "VACUUM pgbench_accounts");
        compute.sql("bench", size).parse::<u32>().unwrap() < 100
    });
    compute.sql("bench", "INSERT INTO pgbench_accounts SELECT g, 1, 0, '' FROM generate_series(1001, 50000) g");
    compute.sql("bench", "VACUUM FULL pgbench_accounts");
    compute.sql("bench", "TRUNCATE pgbench_history; REINDEX TABLE pgbench_accounts");
    compute.sql("bench", "CREATE UNLOGGED TABLE u AS SELECT * FROM pgbench_accounts; CHECKPOINT");
    compute.sql("bench", "CREATE TEMP TABLE t AS SELECT * FROM u; SELECT count(*) FROM t");
    assert_eq!(compute.sql("bench", "SELECT count(*), sum(aid) FROM pgbench_accounts"), "50000|1250025000");
    assert!(is_sound(&compute, "bench"));
}

/// PostgreSQL closes files when there are no more descriptors, and tries again.
#[test]
fn a_file_is_made_with_few_descriptors_left() {
    let compute = Compute::started();
    for spare in 0..6 {
        let limit =
            format!("prlimit --pid $BACKEND --nofile=$(($(ls /proc/$BACKEND/fd | grep -cE '^.{{1,3}}$') + {spare})):");
        let statements = format!(
            "CREATE TABLE before{spare} AS SELECT g FROM generate_series(1, 3) g;
            SELECT pg_backend_pid() AS backend \\gset
            \\setenv BACKEND :backend
            \\! {limit}
            CREATE TABLE after{spare} AS SELECT 7 AS n;
            SELECT n FROM after{spare};"
        );
        let answer = compute.script("postgres", &statements);
        assert!(!answer.contains("File exists"), "{spare} descriptors left: {answer}");
        assert!(spare == 0 || answer.trim_end().ends_with('7'), "{spare} descriptors left: {answer}");
    }
}

#[test]
fn a_clean_restart_keeps_the_cache() {
    let mut compute = Compute::started_without_autovacuum();
    compute.sql("bench", "UPDATE pgbench_accounts SET abalance = 7 WHERE aid % 100 = 0");
    let sum = "SELECT sum(abalance) FROM pgbench_accounts";
    assert_eq!(compute.sql("bench", sum), "7000");
    compute.stop_server();
    let installed = compute.agent().blocks_installed.load(Ordering::SeqCst);
    compute.start_server();
    compute.wait_until_ready();
    assert_eq!(compute.sql("bench", sum), "7000");
    let again = compute.agent().blocks_installed.load(Ordering::SeqCst) - installed;
    assert!(again < 100, "{again} blocks fetched again");
}

#[test]
fn a_bitmap_scan_prefetches() {
    let compute = Compute::started();
    let scan = "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_indexonlyscan = off;
        SET effective_io_concurrency = 32; SELECT count(abalance) FROM pgbench_accounts WHERE aid BETWEEN 1 AND 50000";
    assert_eq!(compute.sql("bench", scan), "50000");
    let counters = compute.agent().control.counter_values();
    assert!(counters.prefetches > 100, "{counters:?}");
}

#[test]
fn a_page_that_cannot_be_fetched_is_an_error_until_it_can() {
    let compute = Compute::started();
    let count = "SELECT count(*) FROM pgbench_accounts";
    compute.sql("bench", "SELECT count(*) FROM pgbench_tellers, pgbench_branches");
    compute.agent().fills.store(false, Ordering::SeqCst);
    let error = compute.try_sql("bench", count).unwrap_err();
    assert!(error.contains("Input/output error"), "{error}");
    assert!(compute.agent().control.counter_values().fill_errors > 0);
    compute.agent().fills.store(true, Ordering::SeqCst);
    assert_eq!(compute.sql("bench", count), "100000");
}

#[test]
fn a_file_read_as_a_stream_has_no_holes() {
    let compute = Compute::started();
    let path = compute.sql("bench", "SELECT pg_relation_filepath('pgbench_accounts')");
    let empty_pages = format!(
        "SELECT count(*) FROM generate_series(0, 1639) block,
        LATERAL (SELECT pg_read_binary_file('{path}', block * 8192, 8192) page) p WHERE page = decode(repeat('00', 8192), 'hex')"
    );
    assert_eq!(compute.sql("bench", &empty_pages), "0");
}

#[test]
fn a_file_read_as_a_stream_has_no_holes_while_its_pages_leave_the_cache() {
    let compute = Compute::started_without_autovacuum();
    let path = compute.sql("bench", "SELECT pg_relation_filepath('pgbench_tellers')");
    let reads = format!(
        "SELECT count(*) FROM generate_series(1, 3000) n,
        LATERAL (SELECT pg_read_binary_file('{path}', 0, 8192 + n * 0) page) p WHERE substr(page, 1, 24) = decode(repeat('00', 24), 'hex')"
    );
    compute.sql("bench", "SELECT count(*) FROM pgbench_tellers");
    let done = AtomicBool::new(false);
    let dropped = std::thread::scope(|scope| {
        let dropping = scope.spawn(|| compute.agent().drop_pages(Path::new(&path), || done.load(Ordering::SeqCst)));
        let empty = compute.try_sql("bench", &reads);
        done.store(true, Ordering::SeqCst);
        assert_eq!(empty.as_deref(), Ok("0"), "reads that gave zeroes");
        dropping.join().expect("no thread panicked")
    });
    assert!(dropped > 100, "{dropped} pages left meanwhile");
    let from_the_end =
        format!("SELECT pg_read_binary_file('{path}', -8000, 8000) = pg_read_binary_file('{path}', 192, 8000)");
    assert_eq!(compute.sql("bench", &from_the_end), "t");
}

#[test]
fn a_base_backup_is_a_plain_cluster() {
    let compute = Compute::started();
    compute.sql("bench", "UPDATE pgbench_branches SET bbalance = 42");
    let backup = compute.dir.root().join("backup");
    run(compute.client("pg_basebackup").args(["-c", "fast", "-X", "stream", "-D"]).arg(&backup));
    run(User::for_postgres().command(bin("pg_verifybackup")).arg(&backup));
    let mut single = User::for_postgres().command(bin("postgres"));
    single.args(["--single", "-D"]).arg(&backup).args(["-c", "restore_command=", "bench"]);
    single.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = single.spawn().unwrap();
    std::io::Write::write_all(
        &mut server.stdin.take().unwrap(),
        b"SELECT sum(bbalance) AS answer FROM pgbench_branches\nSELECT count(*) AS accounts FROM pgbench_accounts\n",
    )
    .unwrap();
    let said = String::from_utf8(server.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("answer = \"42\"") && said.contains("accounts = \"100000\""), "{said}");
}

#[test]
fn programs_the_server_starts_do_not_get_the_shim() {
    let compute = Compute::started();
    let read = "CREATE TEMP TABLE e (line text); COPY e FROM PROGRAM 'env';
        SELECT line FROM e WHERE line LIKE 'LD_PRELOAD%' OR line LIKE 'QUIRE%'; SELECT count(*) > 0 FROM e";
    assert_eq!(compute.sql("postgres", read), "t");
}

#[test]
fn wal_that_was_removed_is_brought_back() {
    let compute = Compute::started();
    let first = compute.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    compute.sql("postgres", "CREATE EXTENSION pg_walinspect; SELECT pg_switch_wal()");
    let path = compute.dir.data_file(format!("pg_wal/{first}"));
    std::fs::copy(&path, compute.dir.root().join("storage/pg_wal").join(&first)).unwrap();
    compute.sql("postgres", "SELECT pg_switch_wal(); CHECKPOINT");
    let _ = std::fs::remove_file(&path);
    let start = compute.agent().control.start_lsn();
    let records = format!("SELECT count(*) > 0 FROM pg_get_wal_records_info('{start}', '{}')", start.add(4096));
    assert_eq!(compute.sql("postgres", &records), "t");
    assert!(path.exists());
}

#[test]
fn a_commit_waits_for_the_quorum_and_a_fence_ends_the_server() {
    let mut compute = Compute::started();
    compute.sql("bench", "CREATE TABLE done (id int)");
    compute.agent().grants.store(false, Ordering::SeqCst);
    let mut psql = compute.client("psql");
    psql.args(["-X", "-d", "bench", "-c", "INSERT INTO done VALUES (1)"]).stdout(Stdio::null());
    let mut commit = psql.spawn().unwrap();
    wait_for("a request to flush", || compute.agent().control.pending_request().is_some());
    std::thread::sleep(Duration::from_millis(300));
    let early = commit.try_wait().unwrap();
    assert!(early.is_none(), "ended without a quorum: {early:?} {}", compute.log());
    compute.agent().control.fence();
    assert!(!commit.wait().unwrap().success(), "acknowledged by a fenced compute");
    assert!(!compute.wait_for_end().success());
    assert!(compute.log().contains("PANIC"), "{}", compute.log());
}

#[test]
fn a_shim_of_another_build_refuses_to_start() {
    let mut compute = Compute::laid_out();
    compute.start_agent();
    let control = std::fs::File::options().write(true).open(compute.dir.control()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&control, &[1; 8], 8).unwrap();
    compute.start_server();
    assert!(!compute.wait_for_end().success());
    assert!(compute.log().contains("different builds"), "{}", compute.log());
}

#[test]
fn the_server_and_its_backends_die_with_the_agent() {
    let compute = Compute::laid_out();
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["--ignored", "--exact", "an_agent_in_a_process_of_its_own"]);
    agent.env("QUIRE_TEST_COMPUTE", compute.dir.root()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut agent = agent.spawn().unwrap();
    wait_for("a backend", || compute.try_sql("bench", "SELECT 1").is_ok());
    let mut sleeper = compute.client("psql");
    let sleeper = sleeper.args(["-X", "-d", "bench", "-c", "SELECT pg_sleep(600)"]).stderr(Stdio::null());
    let mut sleeper = sleeper.spawn().unwrap();
    let sleeping = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()";
    wait_for("the sleeper", || !compute.sql("bench", sleeping).is_empty());
    let backend: i32 = compute.sql("bench", sleeping).parse().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(!sleeper.wait().unwrap().success());
    wait_for("the backend's end", || !Path::new(&format!("/proc/{backend}")).exists());
    assert!(compute.try_sql("bench", "SELECT 1").is_err());
}

/// Not a test: what [`the_server_and_its_backends_die_with_the_agent`] starts and kills.
#[test]
#[ignore = "runs until it is killed"]
fn an_agent_in_a_process_of_its_own() {
    let Some(root) = std::env::var_os("QUIRE_TEST_COMPUTE") else { return };
    let mut compute = Compute::existing(root.into());
    compute.start_agent();
    compute.start_server();
    compute.wait_for_end();
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
