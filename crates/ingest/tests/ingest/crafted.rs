//! What single records become.

use crate::bench::{
    Bench, HAS_IMAGE, MAP, Made, START, TABLE, WILL_INIT, create, delete, page_image, record, truncate,
};
use quire_ingest::{Ingest, IngestError};
use quire_layers::change::Change;
use quire_layers::value::Value;
use quire_redo::Delta;
use quire_types::{Fork, Key, Lsn, RelTag, Slru};
use quire_wal::effects::FullPageWrites;
use quire_wal::effects::replorigin::OriginState;
use quire_wal::effects::server_version;
use quire_wal::postgres_version::PG15;
use quire_wal::{CheckpointState, ServerVersion, rmgr};

fn keys(changes: &[Change]) -> Vec<Key> {
    changes.iter().map(|change| change.key).collect()
}

fn value_of(changes: &[Change], key: Key) -> &Value {
    &changes.iter().find(|change| change.key == key).expect("the key changes").value
}

fn block(rel: RelTag, block: u32) -> Key {
    Key::RelBlock { rel, block }
}

#[test]
fn an_image_is_stored_with_the_records_end_as_its_lsn() {
    let mut bench = Bench::new();
    let changes = bench.ingest(page_image(TABLE, 0));
    assert_eq!(keys(&changes), [Key::RelSize { rel: TABLE }, block(TABLE, 0)]);
    let page = bench.page(block(TABLE, 0));
    assert_eq!(quire_wal::page::lsn(&page), bench.next);
    assert_eq!(bench.relation_size(TABLE), Some(1));
}

#[test]
fn blocks_between_the_end_and_a_new_block_become_zeroes() {
    let mut bench = Bench::new();
    bench.create(TABLE, 4);
    bench.ingest(truncate(TABLE, 1));
    let changes = bench.ingest(page_image(TABLE, 3));
    assert!(matches!(value_of(&changes, block(TABLE, 1)), Value::Tombstone));
    assert!(matches!(value_of(&changes, block(TABLE, 2)), Value::Tombstone));
    assert_eq!(bench.relation_size(TABLE), Some(4));
    assert!(bench.page(block(TABLE, 2)).iter().all(|byte| *byte == 0));
}

#[test]
fn new_blocks_named_in_any_order_change_once_each() {
    let mut bench = Bench::new();
    bench.create(TABLE, 1);
    bench.ingest(truncate(TABLE, 1));
    let images = record(rmgr::XLOG, rmgr::XLOG_FPI).block(TABLE, 4, HAS_IMAGE).block(TABLE, 2, HAS_IMAGE);
    let changes = bench.ingest(images);
    let mut changed = keys(&changes);
    changed.sort();
    let blocks = [1, 2, 3, 4].map(|number| block(TABLE, number));
    assert_eq!(changed, [&blocks[..], &[Key::RelSize { rel: TABLE }]].concat());
    for named in [2, 4] {
        assert!(matches!(value_of(&changes, block(TABLE, named)), Value::Image(_)), "block {named}");
    }
    assert_eq!(bench.relation_size(TABLE), Some(5));
}

#[test]
fn a_block_that_cannot_be_meant_is_refused() {
    let error = Bench::new().try_ingest(page_image(TABLE, u32::MAX)).unwrap_err();
    assert!(matches!(error, IngestError::Gap { block: u32::MAX, .. }), "{error}");
}

#[test]
fn a_record_that_changes_the_same_thing_twice_is_refused() {
    let few = record(rmgr::XLOG, rmgr::XLOG_FPI).block(TABLE, 0, HAS_IMAGE).block(TABLE, 0, HAS_IMAGE);
    let many = (0..15).fold(record(rmgr::XLOG, rmgr::XLOG_FPI), |made, number| made.block(TABLE, number, HAS_IMAGE));
    for made in [few, many.block(TABLE, 7, HAS_IMAGE)] {
        let error = Bench::new().try_ingest(made).unwrap_err();
        assert!(matches!(error, IngestError::ChangedTwice { key: Key::RelBlock { .. }, .. }), "{error}");
    }
}

#[test]
fn the_blocks_of_one_record_together_do_not_extend_relations_without_bound() {
    let gap = 2 << 20;
    let far = (0..3).fold(record(rmgr::XLOG, rmgr::XLOG_FPI), |made, number| {
        made.block(RelTag { relation: 20_000 + number, ..TABLE }, gap, HAS_IMAGE)
    });
    let error = Bench::new().try_ingest(far).unwrap_err();
    assert!(matches!(error, IngestError::Gap { block, .. } if block == gap), "{error}");
}

#[test]
fn the_transactions_of_one_record_do_not_make_pages_without_bound() {
    let far_apart: Vec<u32> = (0..100).map(|number| 40_000_000 + number * 32_768).collect();
    let commit = record(rmgr::XACT, rmgr::XLOG_XACT_COMMIT | rmgr::XLOG_XACT_HAS_INFO).xid(1024);
    let commit = commit.bytes(&[0; 8]).u32(rmgr::XACT_XINFO_HAS_SUBXACTS).u32(100).numbers(&far_apart);
    let error = Bench::new().try_ingest(commit).unwrap_err();
    assert!(matches!(error, IngestError::NewPages { slru: Slru::Clog, .. }), "{error}");
}

#[test]
fn a_record_that_initialises_its_block_is_a_delta_even_of_a_new_block() {
    let mut bench = Bench::new();
    let insert = record(rmgr::HEAP, rmgr::XLOG_HEAP_INSERT | rmgr::XLOG_HEAP_INIT_PAGE);
    let changes = bench.ingest(insert.block(TABLE, 0, WILL_INIT).bytes(&[1, 0, 0]));
    assert!(matches!(value_of(&changes, block(TABLE, 0)), Value::InitialDelta(Delta::Record(..))));
}

#[test]
fn a_delta_on_a_new_block_is_applied_to_zeroes_whatever_was_there_before() {
    let mut bench = Bench::new();
    bench.create(TABLE, 1);
    bench.create(MAP, 1);
    bench.ingest(truncate(TABLE, 0));
    assert_eq!(bench.relation_size(MAP), Some(0));
    let visible = record(rmgr::HEAP2, rmgr::XLOG_HEAP2_VISIBLE).block(MAP, 0, 0).block(TABLE, 0, HAS_IMAGE);
    let changes = bench.ingest(visible.u32(900).bytes(&[1]));
    assert!(matches!(value_of(&changes, block(MAP, 0)), Value::Image(_)));
    assert_eq!(bench.page(block(MAP, 0))[24..26], [1, 0]);
}

#[test]
fn the_free_space_map_is_not_stored() {
    let mut bench = Bench::new();
    let map = TABLE.with_fork(Fork::FreeSpaceMap);
    assert_eq!(keys(&bench.ingest(create(map))), []);
    assert_eq!(keys(&bench.ingest(page_image(map, 0))), []);
}

#[test]
fn images_for_hints_may_be_missing_and_others_may_not() {
    let mut bench = Bench::new();
    let hint = record(rmgr::XLOG, rmgr::XLOG_FPI_FOR_HINT).block(TABLE, 0, 0);
    assert_eq!(keys(&bench.ingest(hint)), []);
    let error = bench.try_ingest(record(rmgr::XLOG, rmgr::XLOG_FPI).block(TABLE, 0, 0)).unwrap_err();
    assert!(matches!(error, IngestError::MissingImage { .. }), "{error}");
}

#[test]
fn an_extensions_resource_manager_is_named() {
    let error = Bench::new().try_ingest(record(200, 0x30).block(TABLE, 0, 0)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("200") && message.contains("0x30") && message.contains(&START.to_string()), "{message}");
    assert!(Bench::new().try_ingest(record(200, 0x30)).is_err());
}

#[test]
fn a_tablespace_is_known_with_the_folders_of_its_databases_until_it_is_dropped() {
    let tablespace = Key::Tablespace { tablespace: 20_000 };
    let folder = |database| Key::Database { tablespace: 20_000, database };
    let elsewhere = |database| RelTag { tablespace: 20_000, database, ..TABLE };
    let mut bench = Bench::new();
    bench.ingest(record(rmgr::TBLSPC, rmgr::XLOG_TBLSPC_CREATE).u32(20_000).bytes(b"/elsewhere\0"));
    assert_eq!(bench.store.get(tablespace).as_deref(), Some(&b"/elsewhere"[..]));
    let changes = bench.ingest(create(elsewhere(5)));
    assert_eq!(keys(&changes), [folder(5), Key::RelSize { rel: elsewhere(5) }]);
    assert!(!keys(&bench.ingest(create(elsewhere(5).with_fork(Fork::Init)))).contains(&folder(5)));
    assert!(keys(&bench.ingest(page_image(elsewhere(6), 0))).contains(&folder(6)));
    bench.ingest(record(rmgr::TBLSPC, rmgr::XLOG_TBLSPC_DROP).u32(20_000));
    for key in [tablespace, folder(5), folder(6)] {
        assert!(bench.store.get(key).is_none(), "{key}");
    }
    assert_eq!(bench.relation_size(elsewhere(6)), None);
}

#[test]
fn visibility_is_cleared_on_map_pages_that_exist() {
    let mut bench = Bench::new();
    bench.create(TABLE, 3);
    assert_eq!(keys(&bench.ingest(delete(2, 1))), [block(TABLE, 2)]);
    bench.create(MAP, 1);
    let changes = bench.ingest(delete(2, 1));
    let expected = Delta::VisibilityCleared { heap_blocks: vec![2], bits: 3 };
    assert!(matches!(value_of(&changes, block(MAP, 0)), Value::Delta(delta) if *delta == expected));
    assert_eq!(keys(&bench.ingest(delete(2, 0))), [block(TABLE, 2)]);
}

#[test]
fn an_update_clears_both_pages_with_one_delta() {
    let mut bench = Bench::new();
    bench.create(TABLE, 3);
    bench.create(MAP, 1);
    let update = record(rmgr::HEAP, rmgr::XLOG_HEAP_UPDATE).block(TABLE, 2, 0).block(TABLE, 1, 0);
    let changes = bench.ingest(update.u32(900).bytes(&[1, 0, 0, 3, 0, 0, 0, 0, 1, 0]));
    let expected = Delta::VisibilityCleared { heap_blocks: vec![1, 2], bits: 3 };
    assert!(matches!(value_of(&changes, block(MAP, 0)), Value::Delta(delta) if *delta == expected));
}

#[test]
fn truncation_clears_the_rest_of_the_last_map_page() {
    let mut bench = Bench::new();
    bench.create(TABLE, 100);
    bench.create(MAP, 2);
    bench.ingest(page_image(MAP, 0));
    bench.ingest(truncate(TABLE, 5));
    assert_eq!((bench.relation_size(TABLE), bench.relation_size(MAP)), (Some(5), Some(1)));
    let map = bench.page(block(MAP, 0));
    // The image is all sevens: five heap blocks keep their two bits.
    assert_eq!(map[24..28], [7, 7 & 3, 0, 0]);
}

#[test]
fn a_truncation_never_extends() {
    let mut bench = Bench::new();
    bench.create(TABLE, 2);
    assert_eq!(keys(&bench.ingest(truncate(TABLE, 9))), []);
    assert_eq!(bench.relation_size(TABLE), Some(2));
}

#[test]
fn a_commit_drops_every_fork_that_exists() {
    let mut bench = Bench::new();
    bench.create(TABLE, 1);
    bench.create(TABLE.with_fork(Fork::Init), 1);
    let commit = record(rmgr::XACT, rmgr::XLOG_XACT_COMMIT | rmgr::XLOG_XACT_HAS_INFO).xid(1024);
    let commit = commit.bytes(&[0; 8]).u32(rmgr::XACT_XINFO_HAS_RELFILENODES);
    let changes = bench.ingest(commit.numbers(&[1, 1663, 5, 16384]));
    let gone = |fork| Key::RelSize { rel: TABLE.with_fork(fork) };
    assert!(matches!(value_of(&changes, gone(Fork::Main)), Value::Tombstone));
    assert!(matches!(value_of(&changes, gone(Fork::Init)), Value::Tombstone));
    assert!(!keys(&changes).contains(&gone(Fork::VisibilityMap)));
    assert_eq!(bench.ingest.checkpoint_state().next_xid, 1025);
}

#[test]
fn a_databases_copy_replaces_what_was_there_and_its_drop_removes_all() {
    let mut bench = Bench::new();
    let in_database = |database, relation| RelTag { database, relation, ..TABLE };
    bench.create(in_database(1, 1259), 2);
    bench.create(in_database(7, 5555), 1);
    bench.ingest(record(rmgr::DBASE, rmgr::XLOG_DBASE_CREATE_FILE_COPY).numbers(&[7, 1663, 1, 1663]));
    assert_eq!(bench.relation_size(in_database(7, 1259)), Some(2));
    assert_eq!(bench.relation_size(in_database(7, 5555)), None);
    assert_eq!(bench.page(block(in_database(7, 1259), 1)), bench.page(block(in_database(1, 1259), 1)));
    assert!(bench.store.get(Key::Database { tablespace: 1663, database: 7 }).is_some());
    bench.ingest(record(rmgr::DBASE, rmgr::XLOG_DBASE_DROP).numbers(&[7, 1, 1663]));
    assert_eq!(bench.relation_size(in_database(7, 1259)), None);
    assert!(bench.store.get(Key::Database { tablespace: 1663, database: 7 }).is_none());
    assert_eq!(bench.relation_size(in_database(1, 1259)), Some(2));
}

#[test]
fn old_segments_of_the_commit_log_are_removed_whole() {
    let mut bench = Bench::with(CheckpointState { next_xid: 3_200_000, oldest_xid: 700, ..CheckpointState::default() });
    for page in [0, 31, 32, 64, 97] {
        bench.ingest(record(rmgr::CLOG, rmgr::CLOG_ZEROPAGE).u32(page));
    }
    assert_eq!(bench.segments(Slru::Clog), [0, 1, 2, 3]);
    bench.ingest(record(rmgr::CLOG, rmgr::CLOG_TRUNCATE).numbers(&[65, 65 * 32_768, 5]));
    assert_eq!(bench.segments(Slru::Clog), [2, 3]);
    let counters = bench.ingest.checkpoint_state();
    assert_eq!((counters.oldest_xid, counters.oldest_xid_db), (65 * 32_768, 5));
}

#[test]
fn a_truncation_past_the_latest_page_removes_nothing() {
    let mut bench = Bench::with(CheckpointState { next_xid: 40_000, oldest_xid: 700, ..CheckpointState::default() });
    bench.ingest(record(rmgr::CLOG, rmgr::CLOG_ZEROPAGE).u32(0));
    bench.ingest(record(rmgr::CLOG, rmgr::CLOG_TRUNCATE).numbers(&[70, 700, 5]));
    assert_eq!(bench.segments(Slru::Clog), [0]);
}

fn create_multixact(multi: u32, offset: u32, members: u32) -> Made {
    let made = record(rmgr::MULTIXACT, rmgr::XLOG_MULTIXACT_CREATE_ID).numbers(&[multi, offset, members]);
    (0..members).fold(made, |made, member| made.numbers(&[600 + member, 1]))
}

fn offset_of(bench: &Bench, multi: u32) -> u32 {
    let page = bench.page(Key::SlruBlock { slru: Slru::MultixactOffsets, page: multi / 2048 });
    let at = (multi % 2048) as usize * 4;
    u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn a_multixact_sets_its_offset_and_the_next_ones() {
    let mut bench = Bench::new();
    bench.ingest(create_multixact(5, 100, 3));
    assert_eq!((offset_of(&bench, 5), offset_of(&bench, 6)), (100, 103));
    let counters = bench.ingest.checkpoint_state();
    assert_eq!((counters.next_multi, counters.next_multi_offset, counters.next_xid), (6, 103, 1024));
}

#[test]
fn a_page_that_a_multixact_needed_early_is_not_zeroed_later() {
    let mut bench = Bench::new();
    bench.ingest(create_multixact(2047, 100, 2));
    assert_eq!(offset_of(&bench, 2048), 102);
    bench.ingest(record(rmgr::MULTIXACT, rmgr::XLOG_MULTIXACT_ZERO_OFF_PAGE).u32(1));
    assert_eq!(offset_of(&bench, 2048), 102);
    bench.ingest(record(rmgr::MULTIXACT, rmgr::XLOG_MULTIXACT_ZERO_OFF_PAGE).u32(1));
    assert_eq!(offset_of(&bench, 2048), 0);
}

#[test]
fn members_are_spread_over_pages_and_wrap_around() {
    let mut bench = Bench::new();
    let changes = bench.ingest(create_multixact(9, 1630, 10));
    let page = |page| Key::SlruBlock { slru: Slru::MultixactMembers, page };
    assert!(keys(&changes).contains(&page(0)) && keys(&changes).contains(&page(1)));
    let changes = bench.ingest(create_multixact(10, u32::MAX - 1, 4));
    assert!(keys(&changes).contains(&page(u32::MAX / 1636)) && keys(&changes).contains(&page(0)));
    assert_eq!((offset_of(&bench, 10), offset_of(&bench, 11)), (u32::MAX - 1, 2));
}

#[test]
fn old_members_are_removed_across_the_wraparound() {
    let mut bench = Bench::new();
    let per_segment = 1636 * 32;
    let last = u32::MAX / per_segment;
    for segment in [0, 1, 2, last - 1, last] {
        bench.ingest(record(rmgr::MULTIXACT, rmgr::XLOG_MULTIXACT_ZERO_MEM_PAGE).u32(segment * 32));
    }
    let (start, end) = (last * per_segment + 5, per_segment + 9);
    bench.ingest(record(rmgr::MULTIXACT, rmgr::XLOG_MULTIXACT_TRUNCATE_ID).numbers(&[5, 1, 1, start, end]));
    assert_eq!(bench.segments(Slru::MultixactMembers), [1, 2, last - 1]);
    assert_eq!(bench.ingest.checkpoint_state().oldest_multi_db, 5);
}

#[test]
fn full_page_writes_are_written_when_they_change_and_the_last_word_counts() {
    let mut bench =
        Bench::with(CheckpointState { full_page_writes: true, next_xid: 1024, ..CheckpointState::default() });
    let says = |on: u8| record(rmgr::XLOG, rmgr::XLOG_FPW_CHANGE).bytes(&[on]);
    assert_eq!(bench.ingest.full_page_writes(), FullPageWrites { on: true, since: START });
    assert_eq!(keys(&bench.ingest(says(1))), []);
    assert!(keys(&bench.ingest(says(0))).contains(&Key::FullPageWrites));
    let off = FullPageWrites { on: false, since: bench.next };
    assert_eq!(bench.store.get(Key::FullPageWrites).unwrap(), off.encode());
    let state = CheckpointState { full_page_writes: true, next_xid: 1024, ..CheckpointState::default() };
    bench.ingest(record(rmgr::XLOG, rmgr::XLOG_CHECKPOINT_ONLINE).bytes(&state.to_record_data()));
    assert_eq!(bench.ingest.full_page_writes(), FullPageWrites { on: true, since: bench.next });
}

#[test]
fn a_shutdown_checkpoint_is_remembered_until_the_next_record() {
    let mut bench = Bench::new();
    let state = CheckpointState { next_xid: 1000, ..CheckpointState::default() };
    let start = bench.next;
    bench.ingest(record(rmgr::XLOG, rmgr::XLOG_CHECKPOINT_SHUTDOWN).bytes(&state.to_record_data()));
    assert!(bench.ingest.log_ends_with_shutdown_checkpoint());
    assert_eq!(bench.ingest.last_record(), Some(start));
    assert!(Ingest::restore(&PG15, &bench.ingest.state()).unwrap().log_ends_with_shutdown_checkpoint());
    bench.ingest(record(rmgr::XLOG, rmgr::XLOG_NOOP));
    assert!(!bench.ingest.log_ends_with_shutdown_checkpoint());
}

#[test]
fn counters_are_written_once_for_many_transactions() {
    let mut bench = Bench::with(CheckpointState { next_xid: 1000, ..CheckpointState::default() });
    let written = (1000..3000).filter(|xid| {
        let lock = record(rmgr::STANDBY, rmgr::XLOG_STANDBY_LOCK).xid(*xid);
        keys(&bench.ingest(lock)) == [Key::Checkpoint]
    });
    assert_eq!(written.collect::<Vec<_>>(), [1000, 1024, 2048]);
}

#[test]
fn commit_timestamps_are_kept_while_the_setting_is_on() {
    let mut bench = Bench::new();
    let parameters = |tracking: u8| {
        let made = record(rmgr::XLOG, rmgr::XLOG_PARAMETER_CHANGE).numbers(&[100, 8, 10, 0, 64, 1]);
        made.bytes(&[0, tracking, 0, 0])
    };
    let commit = |xid| record(rmgr::XACT, rmgr::XLOG_XACT_COMMIT).xid(xid).bytes(&77i64.to_le_bytes());
    let page = Key::SlruBlock { slru: Slru::CommitTs, page: 1024 / 819 };
    assert!(!keys(&bench.ingest(commit(1024))).contains(&page));
    bench.ingest(parameters(1));
    bench.ingest(commit(1025));
    assert_eq!(bench.page(page)[(1025 % 819) * 10], 77);
    assert_eq!(bench.ingest.checkpoint_state().oldest_commit_ts_xid, 1025);
    assert_eq!(bench.ingest.checkpoint_state().newest_commit_ts_xid, 1025);
    bench.ingest(parameters(0));
    assert!(bench.segments(Slru::CommitTs).is_empty());
    assert_eq!(bench.ingest.checkpoint_state().newest_commit_ts_xid, 0);
}

#[test]
fn subtransactions_get_the_timestamp_and_status_of_their_transaction() {
    let checkpoint = CheckpointState { next_xid: 1024, track_commit_timestamp: true, ..CheckpointState::default() };
    let mut bench = Bench::with(checkpoint);
    let commit = record(rmgr::XACT, rmgr::XLOG_XACT_COMMIT | rmgr::XLOG_XACT_HAS_INFO).xid(1024);
    let commit = commit.bytes(&77i64.to_le_bytes()).u32(rmgr::XACT_XINFO_HAS_SUBXACTS);
    bench.ingest(commit.numbers(&[3, 1025, 1637, 1638]));
    let page = |page| Key::SlruBlock { slru: Slru::CommitTs, page };
    assert_eq!(bench.page(page(1))[(1637 - 819) * 10], 77);
    assert_eq!(bench.page(page(2))[0], 77);
    let clog = bench.page(Key::SlruBlock { slru: Slru::Clog, page: 0 });
    assert_eq!((clog[256], clog[409]), (0b0101, 0b01_0100));
    assert_eq!(bench.ingest.checkpoint_state().newest_commit_ts_xid, 1638);
    assert_eq!(bench.ingest.checkpoint_state().next_xid, 1639);
}

#[test]
fn an_origin_goes_back_only_by_force() {
    let mut bench = Bench::new();
    let set = |remote: u64, force: u8| {
        let made = record(rmgr::REPLORIGIN, rmgr::XLOG_REPLORIGIN_SET).bytes(&remote.to_le_bytes());
        made.bytes(&[3, 0, force, 0, 0, 0, 0, 0])
    };
    let remote = |bench: &Bench| {
        let raw = bench.store.get(Key::ReplicationOrigin { origin: 3 }).unwrap();
        OriginState::decode(&raw).unwrap().remote_lsn
    };
    bench.ingest(set(900, 0));
    bench.ingest(set(800, 0));
    assert_eq!(remote(&bench), Lsn(900));
    bench.ingest(set(700, 1));
    assert_eq!(remote(&bench), Lsn(700));
    let commit = record(rmgr::XACT, rmgr::XLOG_XACT_COMMIT | rmgr::XLOG_XACT_HAS_INFO).xid(1000).origin(3);
    let commit = commit.bytes(&[0; 8]).u32(rmgr::XACT_XINFO_HAS_ORIGIN);
    bench.ingest(commit.bytes(&1000u64.to_le_bytes()).bytes(&[0; 8]));
    assert_eq!(remote(&bench), Lsn(1000));
    bench.ingest(record(rmgr::REPLORIGIN, rmgr::XLOG_REPLORIGIN_DROP).bytes(&[3, 0]));
    assert!(bench.store.get(Key::ReplicationOrigin { origin: 3 }).is_none());
}

#[test]
fn records_out_of_order_are_refused() {
    let mut bench = Bench::new();
    bench.ingest(record(rmgr::XLOG, rmgr::XLOG_NOOP));
    bench.next = START;
    let error = bench.try_ingest(record(rmgr::XLOG, rmgr::XLOG_NOOP)).unwrap_err();
    assert!(matches!(error, IngestError::OutOfOrder { lsn: START, .. }), "{error}");
}

#[test]
fn a_record_that_follows_another_one_than_the_last_is_refused() {
    let noop = || record(rmgr::XLOG, rmgr::XLOG_NOOP);
    let refused = |result| matches!(result, Err(IngestError::LeftOut { .. }));
    assert!(refused(Bench::new().try_ingest_after(START, noop())), "the first does not begin the log");
    for before_the_import in [Lsn::INVALID, Lsn(START.0 - 8)] {
        let mut bench = Bench::new();
        bench.try_ingest_after(before_the_import, noop()).expect("the first of the log");
        let first = bench.ingest.last_record().expect("there is one");
        bench.ingest(noop());
        for left_out in [Lsn::INVALID, before_the_import, first, bench.next] {
            let state = bench.ingest.state();
            assert!(refused(bench.try_ingest_after(left_out, noop())), "{left_out}");
            assert_eq!(bench.ingest.state(), state);
        }
        bench.ingest(noop());
    }
}

#[test]
fn a_prepared_transactions_file_must_have_the_length_it_says() {
    let mut bench = Bench::new();
    let header = |file_bytes: u32| {
        let made = record(rmgr::XACT, rmgr::XLOG_XACT_PREPARE).xid(1000).numbers(&[0x57F9_4534, file_bytes, 1000]);
        made.bytes(&[0; 60])
    };
    assert!(matches!(bench.try_ingest(header(70)), Err(IngestError::Malformed { .. })));
    bench.ingest(header(76));
    let file = bench.store.get(Key::TwoPhase { xid: 1000 }).unwrap();
    assert_eq!(file[72..], crc32c::crc32c(&file[..72]).to_le_bytes());
}

/// A message that tells the server's version, as the log of `database` has it.
fn server(version: ServerVersion, database: u8) -> Made {
    let mut data = server_version::to_record_data(version);
    data[0] = database;
    record(rmgr::LOGICALMSG, rmgr::XLOG_LOGICAL_MESSAGE).bytes(&data)
}

/// A vacuum of a GiST index: one item goes.
fn gist_vacuum() -> Made {
    record(rmgr::GIST, rmgr::XLOG_GIST_PAGE_UPDATE).block(TABLE, 0, 0).bytes(&[1, 0, 0, 0])
}

#[test]
fn what_redo_depends_on_the_server_for_is_stored_with_the_server_that_wrote_it() {
    let mut bench = Bench::new();
    bench.create(TABLE, 1);
    let stored_with = |bench: &mut Bench| match value_of(&bench.ingest(gist_vacuum()), block(TABLE, 0)) {
        Value::Delta(Delta::Record(..)) => None,
        Value::Delta(Delta::RecordOf(server, ..)) => Some(*server),
        other => panic!("{other:?}"),
    };
    assert_eq!(stored_with(&mut bench), None, "the log does not say who writes it");
    let (older, newer) = (ServerVersion::new(15, 18), ServerVersion::new(15, 20));
    for told in [older, newer, older] {
        let changes = bench.ingest(server(told, 0));
        assert_eq!(keys(&changes), [Key::ServerVersion]);
        assert!(matches!(value_of(&changes, Key::ServerVersion), Value::Bytes(raw) if raw[..] == told.encode()));
        assert_eq!(stored_with(&mut bench), Some(told));
        assert_eq!(keys(&bench.ingest(server(told, 0))), [], "it is no news");
    }
    bench.ingest = Ingest::restore(&PG15, &bench.ingest.state()).expect("the state is ingest's own");
    assert_eq!(stored_with(&mut bench), Some(older), "a restart forgets nothing");
    assert_eq!(keys(&bench.ingest(server(newer, 5))), [], "a session says it");
    assert_eq!(stored_with(&mut bench), Some(older));
}

#[test]
fn a_server_of_another_major_version_is_refused() {
    let error = Bench::new().try_ingest(server(ServerVersion::new(16, 4), 0)).unwrap_err();
    assert!(matches!(error, IngestError::Server { .. }), "{error}");
}
