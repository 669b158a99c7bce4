//! Ingest: records that follow each other, taken into a store in memory.
//!
//! Input: a byte of settings, then records, each with a `u16` length before it; their lengths are put right. The run
//! ends at the first one that is refused.
//!
//! Each change must be one that storage can keep, and a key may change once per record. What ingest remembers must be
//! read back as it is.
//!
//! A relation may grow by gigabytes with one record, all of it zeroes. Such records are legal and slow, so a run ends
//! at them: blocks are small numbers, or so large that ingest must refuse them.

mod store;

use crate::input::Input;
use crate::record_bytes::repaired;
use bytes::Bytes;
use quire_ingest::Ingest;
use quire_layers::Change;
use quire_layers::value::{Value, Version};
use quire_types::{Key, Lsn, PAGE_SIZE, Writer};
use quire_wal::effects::FullPageWrites;
use quire_wal::postgres_version::PG15;
use quire_wal::{CheckpointState, Record};
use std::collections::HashSet;
use store::Store;

const START: Lsn = Lsn(16 << 20);
/// Blocks below this are let through.
const SMALL_BLOCK: u32 = 256;
/// Blocks from this one on must be refused.
const ABSURD_BLOCK: u32 = 1 << 30;

/// Ingests the input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut store = Store::default();
    import(&mut store, input.u8());
    let mut ingest = Ingest::begin(&PG15, START, &store).expect("all that an import has is there");
    while !input.is_empty() && step(&mut ingest, &mut store, input.piece()) {}
}

/// A seed: records, one after the other.
pub fn seed<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(1);
    for record in records {
        out.u16(u16::try_from(record.len()).unwrap_or(u16::MAX)).bytes(record);
    }
    out.into_vec()
}

/// Counters at their beginning or just before they wrap around.
fn import(store: &mut Store, settings: u8) {
    let is_late = settings & 2 != 0;
    let checkpoint = CheckpointState {
        next_xid: if is_late { u64::from(u32::MAX) - 10 } else { 700 },
        next_multi: if is_late { u32::MAX - 2 } else { 1 },
        next_multi_offset: if is_late { u32::MAX - 5 } else { 0 },
        oldest_multi: 1,
        oldest_xid: 3,
        track_commit_timestamp: settings & 1 != 0,
        ..CheckpointState::default()
    };
    store.set(Key::Checkpoint, checkpoint.encode().into());
    store.set(Key::FullPageWrites, FullPageWrites { on: true, since: START }.encode().into());
}

/// Takes one record in; whether it continues.
fn step(ingest: &mut Ingest, store: &mut Store, record: &[u8]) -> bool {
    let (start, bytes) = (ingest.position(), chained(repaired(record), ingest.last_record()));
    let Ok(record) = Record::decode(start, start.add(bytes.len() as u64).align_up(), bytes) else { return false };
    if !is_quick(&record) {
        return false;
    }
    let Ok(changes) = ingest.ingest(&record, store) else { return false };
    assert_eq!((ingest.position(), ingest.last_record()), (record.end, Some(record.start)));
    check(&changes, record.end);
    let state = ingest.state();
    assert_eq!(Ingest::restore(&PG15, &state).expect("its own state").state(), state);
    changes.iter().all(|change| store.apply(change))
}

/// The record as one that follows the last: ingest must refuse any other.
fn chained(record: Bytes, last: Option<Lsn>) -> Bytes {
    let mut record = record.to_vec();
    if let Some(prev) = record.get_mut(8..16) {
        prev.copy_from_slice(&last.unwrap_or(Lsn::INVALID).0.to_le_bytes());
    }
    record.into()
}

fn is_quick(record: &Record) -> bool {
    record.blocks.iter().all(|block| block.block < SMALL_BLOCK || block.block >= ABSURD_BLOCK)
}

fn check(changes: &[Change], lsn: Lsn) {
    let mut changed = HashSet::new();
    for Change { key, lsn: at, value } in changes {
        assert_eq!(*at, lsn);
        assert!(changed.insert(*key), "{key} changes twice");
        assert!(Version::new(*key, lsn, value).is_some(), "{key} cannot be {value:?}");
        assert!(!matches!(value, Value::Image(image) | Value::PartialImage(image) if image.len() != PAGE_SIZE));
    }
}
