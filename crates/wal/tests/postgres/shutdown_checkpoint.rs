//! Logs that end in a shutdown checkpoint of our making: PostgreSQL must find a clean shutdown there.

use crate::cluster::Cluster;
use anyhow::{Context, Result, ensure};

use quire_types::Lsn;
use quire_types::lsn::segment_file_name;
use quire_wal::checkpoint::encode_shutdown_checkpoint;
use quire_wal::effects::server_version;
use quire_wal::postgres_version::PG15;
use quire_wal::wal_page::header_bytes;
use quire_wal::{CheckpointState, ControlFile, DatabaseState, Record, ServerVersion, WalWriter, rmgr};

const SEGMENT: u64 = 1 << 20;
const PAGE: u64 = 8192;
/// A checkpoint record in the log: 24 + 2 + 88 bytes, aligned.
const RECORD: u64 = 120;

/// Where to put the checkpoint: a name, the unit the log is filled up to, and the distance from that unit's end.
const PLACES: [(&str, u64, u64); 8] = [
    ("the start of a page", PAGE, 0),
    ("a page's last 8 bytes", PAGE, 8),
    ("a page's last 64 bytes", PAGE, 64),
    ("exactly up to a page's end", PAGE, RECORD),
    ("the start of a segment", SEGMENT, 0),
    ("a segment's last 8 bytes", SEGMENT, 8),
    ("a segment's last 64 bytes", SEGMENT, 64),
    ("exactly up to a segment's end", SEGMENT, RECORD),
];

#[test]
fn pg_control_is_read_and_written_byte_for_byte() -> Result<()> {
    let cluster = Cluster::init("")?;
    cluster.start()?;
    cluster.stop()?;
    let bytes = cluster.control_bytes()?;
    let control = ControlFile::parse(&bytes)?;
    assert_eq!(control.to_bytes(), bytes);
    let reported = cluster.run("pg_controldata", &["-D", cluster.data().to_str().context("not UTF-8")?])?;
    let field = |name: &str| {
        let line = reported.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).with_context(|| format!("pg_controldata reports no {name}"))
    };
    let copy = &control.checkpoint_copy;
    assert_eq!(field("Database system identifier")?, control.system_identifier.to_string());
    assert_eq!(field("Database cluster state")?, "shut down");
    assert_eq!(control.state, DatabaseState::ShutDown);
    assert_eq!(field("Latest checkpoint location")?, control.checkpoint.to_string());
    assert_eq!(field("Latest checkpoint's REDO location")?, copy.redo.to_string());
    assert_eq!(field("Latest checkpoint's NextXID")?, format!("{}:{}", copy.next_xid >> 32, copy.next_xid as u32));
    assert_eq!(field("Latest checkpoint's NextOID")?, copy.next_oid.to_string());
    assert_eq!(field("Latest checkpoint's oldestXID")?, copy.oldest_xid.to_string());
    assert_eq!(field("Latest checkpoint's oldestMulti's DB")?, copy.oldest_multi_db.to_string());
    assert_eq!(field("max_connections setting")?, copy.max_connections.to_string());
    assert_eq!(field("max_locks_per_xact setting")?, copy.max_locks_per_xact.to_string());
    assert_eq!(field("Bytes per WAL segment")?, control.layout.wal_segment_bytes.to_string());
    assert_eq!(field("Size of a large-object chunk")?, control.layout.large_object_block_bytes.to_string());
    let nonce: String = control.mock_authentication_nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(field("Mock authentication nonce")?, nonce);
    assert_eq!(checkpoint_at(&cluster, &control)?, *copy);
    Ok(())
}

/// What the checkpoint record that `control` points to says, with the settings of `control`.
fn checkpoint_at(cluster: &Cluster, control: &ControlFile) -> Result<CheckpointState> {
    let mut stream = cluster.stream_from(control.checkpoint)?;
    let raw = stream.next_record()?.context("there is no record at the checkpoint")?;
    let record = Record::decode(raw.start, raw.end, raw.bytes)?;
    let mut state = control.checkpoint_copy;
    state.update_from_record_data(&record.main_data)?;
    Ok(state)
}

#[test]
fn postgresql_starts_cleanly_from_a_checkpoint_anywhere() -> Result<()> {
    let cluster = Cluster::init("wal_recycle = off\nwal_keep_size = 64MB\nfsync = off\n")?;
    cluster.start()?;
    cluster.sql("CREATE TABLE t (place text)")?;
    cluster.stop()?;
    for (count, (place, unit, before)) in PLACES.into_iter().enumerate() {
        let checkpoint = append_checkpoint(&cluster, unit, before).with_context(|| place.to_owned())?;
        let logged_before = cluster.log()?.len();
        cluster.start().with_context(|| place.to_owned())?;
        let log = cluster.log()?.split_off(logged_before);
        ensure!(log.contains("database system was shut down at"), "{place}: {log}");
        ensure!(!log.contains("redo starts") && !log.contains("not properly shut down"), "{place}: {log}");
        cluster.sql(&format!("INSERT INTO t VALUES ($${place}$$)"))?;
        assert_eq!(cluster.sql("SELECT count(*) FROM t")?.trim(), (count + 1).to_string());
        cluster.stop()?;
        assert_chain_reaches_the_end(&cluster, checkpoint).with_context(|| place.to_owned())?;
    }
    Ok(())
}

/// Fills the stopped cluster's log up to `before` bytes before the end of a `unit`, appends a shutdown checkpoint there
/// and points `pg_control` to it. Returns the record's start.
fn append_checkpoint(cluster: &Cluster, unit: u64, before: u64) -> Result<Lsn> {
    let mut control = cluster.control()?;
    let end = end_of_wal(cluster, &control)?;
    let mut writer = WalWriter::new(&PG15, end, control.checkpoint, 1, control.system_identifier, SEGMENT);
    // Far enough for the filling; if this unit has too little room left, the next one is meant.
    let at = Lsn((end.0 + 4 * RECORD + before).next_multiple_of(unit) - before);
    let server = server_version::to_record_data(ServerVersion::new(15, 20));
    writer.append(rmgr::LOGICALMSG, rmgr::XLOG_LOGICAL_MESSAGE, 0, &server);
    fill(&mut writer, at);
    let previous = writer.last_record();
    let mut bytes = writer.into_vec();

    let state = CheckpointState { time: control.time + 1, ..control.checkpoint_copy };
    let (record, start) = encode_shutdown_checkpoint(&PG15, &state, at, previous, control.system_identifier, SEGMENT);
    bytes.extend(record);
    write_log(cluster, end, &bytes)?;
    control.checkpoint = start;
    control.checkpoint_copy = state.at_shutdown(start);
    control.state = DatabaseState::ShutDown;
    cluster.write("global/pg_control", &control.to_bytes())?;
    dump(cluster, end, end.add(bytes.len() as u64))?;
    Ok(start)
}

/// Where the log of the stopped cluster ends: behind its last checkpoint.
fn end_of_wal(cluster: &Cluster, control: &ControlFile) -> Result<Lsn> {
    let mut stream = cluster.stream_from(control.checkpoint)?;
    while stream.next_record()?.is_some() {}
    Ok(stream.boundary())
}

/// Appends records that do nothing, until the log ends at `target`.
fn fill(writer: &mut WalWriter, target: Lsn) {
    let missing = |writer: &WalWriter| target.bytes_since(writer.next_record_start());
    while missing(writer) > 2 * RECORD {
        let length = if missing(writer) > 2 * PAGE { PAGE } else { RECORD - 26 };
        writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, &vec![0; length as usize]);
    }
    // The last record ends exactly at the target; a page header may be on its way.
    let next_page = Lsn((writer.next_record_start().0 / PAGE + 1) * PAGE);
    let page_header = if next_page < target { header_bytes(next_page, SEGMENT) } else { 0 };
    let length = missing(writer) as usize - page_header - 26;
    writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, &vec![0; length]);
    assert_eq!(writer.position(), target);
}

/// Writes `bytes` to the log from `at` on, and zeroes to the end of the last segment.
fn write_log(cluster: &Cluster, at: Lsn, bytes: &[u8]) -> Result<()> {
    // The last byte before `at` is written already, so its segment exists if `at` is inside one.
    let offset = at.segment_offset(SEGMENT);
    let segment_start = Lsn(at.0 - offset);
    let mut log = cluster.wal_from(segment_start, SEGMENT)?;
    log.truncate(usize::try_from(offset)?);
    log.extend(bytes);
    log.resize(log.len().next_multiple_of(SEGMENT as usize), 0);
    for (number, segment) in log.chunks(SEGMENT as usize).enumerate() {
        let number = segment_start.segment_number(SEGMENT) + number as u64;
        cluster.write(format!("pg_wal/{}", segment_file_name(1, number, SEGMENT)), segment)?;
    }
    Ok(())
}

/// Has `pg_waldump` read the log between two record boundaries.
fn dump(cluster: &Cluster, from: Lsn, to: Lsn) -> Result<()> {
    let folder = cluster.data().join("pg_wal");
    let (from, to) = (from.to_string(), to.to_string());
    let output = cluster.run("pg_waldump", &["-p", folder.to_str().context("not UTF-8")?, "-s", &from, "-e", &to])?;
    ensure!(output.contains("CHECKPOINT_SHUTDOWN"), "pg_waldump finds no checkpoint: {output}");
    // As a message that no transaction and no session wrote.
    let message = r#"non-transactional, prefix "quire.server_version"; payload (6 bytes): 31 35 30 30 32 30"#;
    ensure!(output.contains(message), "pg_waldump does not read the server's version: {output}");
    Ok(())
}

/// What PostgreSQL wrote continues the chain of records at our checkpoint.
fn assert_chain_reaches_the_end(cluster: &Cluster, checkpoint: Lsn) -> Result<()> {
    let mut stream = cluster.stream_from(checkpoint)?;
    while stream.next_record()?.is_some() {}
    assert_eq!(stream.last_record(), Some(cluster.control()?.checkpoint));
    Ok(())
}
