use super::*;
use crate::postgres_version::PG15;
use crate::{Record, WalStream};
use proptest::prelude::*;

const SEGMENT: u64 = 1 << 20;

fn sample() -> CheckpointState {
    CheckpointState {
        redo: Lsn(1),
        this_timeline: 1,
        prev_timeline: 1,
        full_page_writes: true,
        next_xid: 7 << 32 | 800,
        next_oid: 24576,
        next_multi: 3,
        next_multi_offset: 4,
        oldest_xid: 716,
        oldest_xid_db: 1,
        oldest_multi: 1,
        oldest_multi_db: 5,
        time: -1,
        oldest_commit_ts_xid: 9,
        newest_commit_ts_xid: 10,
        oldest_active_xid: 799,
        wal_level: 1,
        wal_log_hints: true,
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_xacts: 2,
        max_locks_per_xact: 64,
        track_commit_timestamp: true,
    }
}

#[test]
fn the_record_data_has_postgresqls_layout() {
    let data = sample().to_record_data();
    assert_eq!(data.len(), CHECKPOINT_BYTES);
    assert_eq!((data[16], &data[24..32]), (1, &(7u64 << 32 | 800).to_le_bytes()[..]));
    assert_eq!((&data[64..72], data[80]), (&(-1i64).to_le_bytes()[..], (799u32 & 0xFF) as u8));
    let without_settings = CheckpointState::from_record_data(&data).unwrap();
    assert_eq!(without_settings.max_connections, 0);
    let mut updated = CheckpointState { next_xid: 3, ..sample() };
    assert_eq!(updated.update_from_record_data(&data), Ok(()));
    assert_eq!(updated, sample(), "settings are kept");
}

#[test]
fn quires_own_bytes_round_trip_and_are_versioned() {
    let bytes = sample().encode();
    assert_eq!(CheckpointState::decode(&bytes), Ok(sample()));
    assert!(CheckpointState::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(CheckpointState::decode(&[&[9], &bytes[1..]].concat()).is_err());
}

#[test]
fn data_of_another_length_is_refused_and_changes_nothing() {
    let mut state = sample();
    assert!(state.update_from_record_data(&[0; CHECKPOINT_BYTES - 1]).is_err());
    assert!(state.update_from_record_data(&[0; CHECKPOINT_BYTES + 1]).is_err());
    assert_eq!(state, sample());
}

#[test]
fn a_parameter_change_replaces_the_settings_alone() {
    let mut data: Vec<u8> = (11i32..17).flat_map(i32::to_le_bytes).collect();
    data.extend([0, 1, 0, 0]);
    let mut state = sample();
    assert_eq!(state.update_from_parameter_change(&data), Ok(()));
    assert_eq!((state.max_connections, state.max_locks_per_xact, state.wal_level), (11, 15, 16));
    assert_eq!((state.wal_log_hints, state.track_commit_timestamp), (false, true));
    state.copy_parameters(&sample());
    assert_eq!(state, sample(), "nothing but settings was changed");
    assert!(state.update_from_parameter_change(&data[..20]).is_err());
    assert_eq!(state, sample());
}

/// Writes a shutdown checkpoint at `at` and reads it back, behind a page header if `at` is inside a page.
fn round_trip(at: Lsn) -> (Lsn, Record) {
    let (bytes, start) = encode_shutdown_checkpoint(&PG15, &sample(), at, Lsn(0), 42, SEGMENT);
    let mut stream = WalStream::new(at, SEGMENT, Some(42));
    stream.feed(&bytes);
    let raw = stream.next_record().unwrap().expect("the record is whole");
    assert_eq!((raw.start, raw.end), (start, at.add(bytes.len() as u64)));
    (start, Record::decode(raw.start, raw.end, raw.bytes).unwrap())
}

proptest! {
    #[test]
    fn a_shutdown_checkpoint_is_valid_wherever_the_log_ends(page in 0u64..3, offset in 0u64..1024) {
        let page = 2 * SEGMENT - 8192 + page * 8192;
        let offset = offset * 8;
        let header = crate::wal_page::header_bytes(Lsn(page), SEGMENT) as u64;
        prop_assume!(offset == 0 || offset >= header);
        let (start, record) = round_trip(Lsn(page + offset));
        prop_assert_eq!((record.rmgr, record.info, record.xid), (rmgr::XLOG, rmgr::XLOG_CHECKPOINT_SHUTDOWN, 0));
        let mut said = CheckpointState::from_record_data(&record.main_data).unwrap();
        said.copy_parameters(&sample());
        prop_assert_eq!(said, CheckpointState { redo: start, oldest_active_xid: 0, ..sample() });
    }

    #[test]
    fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = CheckpointState::decode(&raw);
        let _ = CheckpointState::from_record_data(&raw);
    }
}

#[test]
#[should_panic(expected = "no record can start")]
fn a_checkpoint_inside_a_page_header_is_a_mistake() {
    encode_shutdown_checkpoint(&PG15, &sample(), Lsn(SEGMENT + 8), Lsn(0), 42, SEGMENT);
}
