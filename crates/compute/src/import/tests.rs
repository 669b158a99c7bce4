use super::*;
use quire_wal::CheckpointState;
use quire_wal::control_file::DataLayout;
use quire_wal::postgres_version::PG15;
use tempfile::TempDir;

const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };

/// A data directory without any relation, and its control file.
fn data_dir(change: impl Fn(&mut ControlFile)) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in ["base/5", "global", "pg_tblspc", "pg_twophase", "pg_xact", "pg_commit_ts", "pg_multixact/offsets"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::create_dir_all(dir.path().join("pg_multixact/members")).unwrap();
    fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
    let mut control = control();
    change(&mut control);
    fs::write(dir.path().join("global/pg_control"), control.to_bytes()).unwrap();
    dir
}

fn control() -> ControlFile {
    let layout = DataLayout {
        block_bytes: 8192,
        relation_segment_blocks: RELATION_SEGMENT_BLOCKS,
        wal_segment_bytes: 16 << 20,
        ..DataLayout::default()
    };
    let checkpoint_copy = CheckpointState { next_xid: 730, full_page_writes: true, ..CheckpointState::default() };
    ControlFile {
        version: &PG15,
        system_identifier: 7,
        catalog_version: 202_209_061,
        state: DatabaseState::ShutDown,
        time: 0,
        checkpoint: Lsn(0x100_0028),
        checkpoint_copy,
        unlogged_lsn: Lsn(1000),
        min_recovery_point: Lsn::INVALID,
        min_recovery_timeline: 0,
        backup_start: Lsn::INVALID,
        backup_end: Lsn::INVALID,
        backup_end_required: false,
        layout,
        mock_authentication_nonce: [0; 32],
    }
}

fn refused(dir: &TempDir) -> String {
    Import::open(dir.path()).expect_err("the directory must be refused").to_string()
}

fn write_pages(dir: &TempDir, path: &str, pages: &[u8]) {
    let file: Vec<u8> = pages.iter().flat_map(|byte| [*byte; PAGE_SIZE]).collect();
    fs::write(dir.path().join(path), file).unwrap();
}

fn values(dir: &TempDir) -> BTreeMap<Key, Bytes> {
    Import::open(dir.path()).unwrap().flat_map(Result::unwrap).collect()
}

#[test]
fn a_log_starts_at_the_segment_after_the_last_checkpoint() {
    let start = |checkpoint| import_start(&ControlFile { checkpoint: Lsn(checkpoint), ..control() });
    assert_eq!(start(0x100_0028), Lsn(0x200_0000));
    assert_eq!(start(0x1FF_FF80), Lsn(0x300_0000));
}

#[test]
fn a_directory_that_cannot_be_served_is_refused_with_the_reason() {
    assert!(refused(&data_dir(|control| control.state = DatabaseState::InProduction)).contains("shut down cleanly"));
    assert!(refused(&data_dir(|control| control.layout.data_checksum_version = 1)).contains("checksums"));
    assert!(refused(&data_dir(|control| control.layout.block_bytes = 4096)).contains("block size"));
    let dir = data_dir(|_| {});
    fs::write(dir.path().join("PG_VERSION"), "14\n").unwrap();
    assert!(refused(&dir).contains("PostgreSQL 14"));
    let dir = data_dir(|_| {});
    fs::create_dir(dir.path().join("pg_tblspc/16400")).unwrap();
    assert!(refused(&dir).contains("16400"));
}

#[test]
fn relations_come_with_their_size_and_without_empty_pages() {
    let dir = data_dir(|_| {});
    write_pages(&dir, "base/5/16384", &[7, 0, 9]);
    write_pages(&dir, "base/5/16384_vm", &[1]);
    write_pages(&dir, "base/5/16384_fsm", &[1]);
    write_pages(&dir, "base/5/t3_16390", &[1]);
    let values = values(&dir);
    assert_eq!(values[&Key::RelSize { rel: REL }][..], [3, 0, 0, 0]);
    assert_eq!(values[&Key::RelBlock { rel: REL, block: 2 }][0], 9);
    assert!(!values.contains_key(&Key::RelBlock { rel: REL, block: 1 }));
    assert!(values.contains_key(&Key::RelBlock { rel: REL.with_fork(Fork::VisibilityMap), block: 0 }));
    assert_eq!(values.keys().filter(|key| matches!(key, Key::RelSize { .. })).count(), 2);
    assert!(values.contains_key(&Key::Database { tablespace: 1663, database: 5 }));
}

#[test]
fn an_unlogged_relation_is_its_init_fork() {
    let dir = data_dir(|_| {});
    write_pages(&dir, "base/5/16384", &[7]);
    write_pages(&dir, "base/5/16384_init", &[8]);
    let values = values(&dir);
    assert!(!values.contains_key(&Key::RelSize { rel: REL }));
    assert!(values.contains_key(&Key::RelBlock { rel: REL.with_fork(Fork::Init), block: 0 }));
}

#[test]
fn a_segment_that_is_not_full_ends_its_fork() {
    let segments = BTreeMap::from([(0, RELATION_SEGMENT_BLOCKS), (1, 2), (2, 1)]);
    let steps = fork_steps(Path::new("pgdata"), REL, &segments, &PG15).unwrap();
    let [Step::Values(size), Step::Pages { .. }, Step::Pages { path, first, blocks: 2 }] = &steps[..] else {
        panic!("unexpected steps: {steps:?}");
    };
    assert_eq!(size[0].1[..], (RELATION_SEGMENT_BLOCKS + 2).to_le_bytes());
    assert_eq!(path, Path::new("pgdata/base/5/16384.1"));
    assert_eq!(*first, Key::RelBlock { rel: REL, block: RELATION_SEGMENT_BLOCKS });
}

#[test]
fn a_torn_file_is_refused() {
    let dir = data_dir(|_| {});
    fs::write(dir.path().join("base/5/16384"), [1; 100]).unwrap();
    let error = Import::open(dir.path()).unwrap().find_map(Result::err).expect("the file is no relation");
    assert!(matches!(error, ImportError::PartialPage { bytes: 100, .. }), "{error}");
}

#[test]
fn small_files_and_slru_segments_are_imported_in_bounded_batches() {
    let dir = data_dir(|_| {});
    write_pages(&dir, "pg_xact/0001", &[3; 32]);
    write_pages(&dir, "base/5/16384", &[2; 300]);
    fs::write(dir.path().join("base/5/pg_filenode.map"), b"map").unwrap();
    fs::write(dir.path().join("pg_twophase/0000028A"), b"state").unwrap();
    fs::create_dir(dir.path().join("pg_logical")).unwrap();
    let origins = replorigin::write_file(&[(3, Lsn(0x1000))]);
    fs::write(dir.path().join("pg_logical/replorigin_checkpoint"), origins).unwrap();
    let batches: Vec<_> = Import::open(dir.path()).unwrap().map(Result::unwrap).collect();
    assert!(batches.iter().all(|batch| !batch.is_empty() && batch.len() <= BATCH_VALUES_MAX));
    let values: BTreeMap<Key, Bytes> = batches.into_iter().flatten().collect();
    assert_eq!(values[&Key::SlruSegment { slru: Slru::Clog, segment: 1 }][..], [32, 0, 0, 0]);
    assert_eq!(values[&Key::SlruBlock { slru: Slru::Clog, page: 63 }][0], 3);
    assert_eq!(values[&Key::RelMap { tablespace: 1663, database: 5 }], b"map"[..]);
    assert_eq!(values[&Key::TwoPhase { xid: 0x28A }], b"state"[..]);
    let origin = OriginState::decode(&values[&Key::ReplicationOrigin { origin: 3 }]);
    assert_eq!(origin, Ok(OriginState { remote_lsn: Lsn(0x1000), local_lsn: Lsn::INVALID }));
    let full_page_writes = FullPageWrites { on: true, since: Lsn(0x200_0000) };
    assert_eq!(FullPageWrites::decode(&values[&Key::FullPageWrites]), Ok(full_page_writes));
    assert_eq!(CheckpointState::decode(&values[&Key::Checkpoint]), Ok(control().checkpoint_copy));
}
