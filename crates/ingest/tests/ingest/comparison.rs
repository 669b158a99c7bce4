//! Storage as ingest makes it, compared with the data directory of the server that wrote the log.
//!
//! A stock PostgreSQL runs a workload; its data directory as `initdb` left it, and then its log, go into a store in
//! memory. When it has stopped, its data directory is imported a second time and must hold what the store holds: the
//! same relations, sizes, pages under the masks, SLRU pages, relation maps, state files of prepared transactions.

use crate::oracle::Oracle;
use crate::server::{Server, Session};
use crate::workload;
use anyhow::Result;
use quire_wal::rmgr::*;

#[test]
fn storage_equals_the_data_directory_after_a_varied_workload() -> Result<()> {
    let server = Server::init(&["max_prepared_transactions = 10", "autovacuum = off"])?;
    let mut oracle = Oracle::of(&server)?;
    server.start()?;
    server.sql(workload::TABLES)?;
    server.sql(workload::SUBTRANSACTIONS)?;
    server.sql(workload::MULTIXACTS)?;
    server.sql(workload::VACUUM)?;
    server.sql(workload::INDEXES)?;
    server.sql(workload::UNLOGGED)?;
    server.sql(workload::TWO_PHASE)?;
    workload::DATABASES.iter().try_for_each(|statement| server.sql(statement))?;
    workload::TABLESPACES.iter().try_for_each(|statement| server.sql(statement))?;
    workload::RELATION_MAPS.iter().try_for_each(|statement| server.sql(statement))?;
    server.stop()?;
    oracle.assert_equal(&server)?;
    oracle.assert_seen(&[
        (BRIN, XLOG_BRIN_INSERT),
        (CLOG, CLOG_ZEROPAGE),
        (DBASE, XLOG_DBASE_CREATE_FILE_COPY),
        (DBASE, XLOG_DBASE_CREATE_WAL_LOG),
        (DBASE, XLOG_DBASE_DROP),
        (GENERIC, 0),
        (HASH, XLOG_HASH_SPLIT_ALLOCATE_PAGE),
        (HEAP, XLOG_HEAP_LOCK),
        (HEAP2, XLOG_HEAP2_VISIBLE),
        (MULTIXACT, XLOG_MULTIXACT_CREATE_ID),
        (MULTIXACT, XLOG_MULTIXACT_ZERO_MEM_PAGE),
        (MULTIXACT, XLOG_MULTIXACT_ZERO_OFF_PAGE),
        (RELMAP, XLOG_RELMAP_UPDATE),
        (SMGR, XLOG_SMGR_CREATE),
        (SMGR, XLOG_SMGR_TRUNCATE),
        (STANDBY, XLOG_RUNNING_XACTS),
        (TBLSPC, XLOG_TBLSPC_CREATE),
        (TBLSPC, XLOG_TBLSPC_DROP),
        (XACT, XLOG_XACT_ABORT),
        (XACT, XLOG_XACT_ABORT_PREPARED),
        (XACT, XLOG_XACT_ASSIGNMENT),
        (XACT, XLOG_XACT_COMMIT_PREPARED),
        (XACT, XLOG_XACT_PREPARE),
        (XLOG, XLOG_CHECKPOINT_ONLINE),
        (XLOG, XLOG_NEXTOID),
    ]);
    Ok(())
}

#[test]
fn a_database_copied_through_the_log_lacks_bytes_of_its_maps_and_of_nothing_else() -> Result<()> {
    let server = Server::init(&["autovacuum = off"])?;
    let mut oracle = Oracle::of(&server)?;
    server.start()?;
    server.sql(workload::COPIED_DATABASE)?;
    server.stop()?;
    let completed = oracle.complete_from(&server, workload::COPY)?;
    assert!(completed.maps > 1 && completed.range_maps > 0, "{} and {}", completed.maps, completed.range_maps);
    oracle.assert_equal(&server)?;
    oracle.assert_seen(&[(DBASE, XLOG_DBASE_CREATE_WAL_LOG), (XLOG, XLOG_FPI)]);
    Ok(())
}

#[test]
fn storage_equals_the_data_directory_after_concurrent_clients_restarts_and_changed_settings() -> Result<()> {
    let server = Server::init(&["autovacuum_naptime = 1s", "checkpoint_timeout = 30s"])?;
    let mut oracle = Oracle::of(&server)?;
    server.start()?;
    server.pgbench(&["-i", "-s", "2"])?;
    server.pgbench(&["-c", "4", "-t", "300"])?;
    server.stop()?;
    oracle.assert_equal(&server)?;
    assert!(oracle.full_page_writes().on);

    server.configure(&["track_commit_timestamp = on", "full_page_writes = off", "wal_level = logical"])?;
    server.start()?;
    server.sql(workload::SUBTRANSACTIONS)?;
    server.pgbench(&["-c", "4", "-t", "300"])?;
    server.sql(workload::REPLICATION_ORIGINS)?;
    server.sql(workload::MULTIXACTS)?;
    workload::FREEZE_EVERYTHING.iter().try_for_each(|statement| server.sql(statement))?;
    server.stop()?;
    oracle.assert_equal(&server)?;
    assert!(!oracle.full_page_writes().on);

    server.configure(&["track_commit_timestamp = off", "full_page_writes = on", "wal_level = replica"])?;
    server.start()?;
    server.pgbench(&["-c", "4", "-t", "300", "-N"])?;
    server.stop()?;
    oracle.assert_equal(&server)?;
    assert!(oracle.full_page_writes().on);
    oracle.assert_seen(&[
        (COMMIT_TS, COMMIT_TS_TRUNCATE),
        (COMMIT_TS, COMMIT_TS_ZEROPAGE),
        (HEAP2, XLOG_HEAP2_NEW_CID),
        (LOGICALMSG, XLOG_LOGICAL_MESSAGE),
        (MULTIXACT, XLOG_MULTIXACT_TRUNCATE_ID),
        (REPLORIGIN, XLOG_REPLORIGIN_DROP),
        (REPLORIGIN, XLOG_REPLORIGIN_SET),
        (XACT, XLOG_XACT_INVALIDATIONS),
        (XLOG, XLOG_PARAMETER_CHANGE),
    ]);
    Ok(())
}

#[test]
fn storage_equals_the_data_directory_after_a_crash_and_its_recovery() -> Result<()> {
    let server = Server::init(&["max_prepared_transactions = 10", "autovacuum = off", "wal_log_hints = on"])?;
    let mut oracle = Oracle::of(&server)?;
    server.start()?;
    server.sql(workload::TABLES)?;
    server.sql(workload::UNLOGGED)?;
    server.sql(workload::TWO_PHASE)?;
    let open: Session = server.session(workload::LEFT_OPEN)?;
    server.crash()?;
    drop(open);
    server.start()?;
    server.sql(workload::MULTIXACTS)?;
    server.stop()?;
    oracle.assert_equal(&server)?;
    oracle.assert_seen(&[(XLOG, XLOG_FPI), (XLOG, XLOG_FPI_FOR_HINT)]);
    Ok(())
}

#[test]
fn images_for_checking_consistency_are_not_applied() -> Result<()> {
    let server = Server::init(&["wal_consistency_checking = all", "wal_compression = lz4", "full_page_writes = off"])?;
    let mut oracle = Oracle::of(&server)?;
    server.start()?;
    server.sql(workload::TABLES)?;
    server.sql(workload::VACUUM)?;
    server.stop()?;
    oracle.assert_equal(&server)?;
    assert!(oracle.images() < oracle.deltas() / 10, "{} images, {} deltas", oracle.images(), oracle.deltas());
    Ok(())
}
