//! Records made by hand, and ingest of one at a time.

use crate::store::{Store, size};
use bytes::Bytes;
use quire_ingest::{Ingest, IngestError};
use quire_layers::change::Change;
use quire_layers::value::Value;
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RelTag, Slru, Writer};
use quire_wal::effects::FullPageWrites;
use quire_wal::postgres_version::PG15;
use quire_wal::{CheckpointState, Record, rmgr};

pub const TABLE: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
pub const MAP: RelTag = RelTag { fork: Fork::VisibilityMap, ..TABLE };
pub const START: Lsn = Lsn(0x100_0000);

/// Flags of a block reference.
pub const HAS_IMAGE: u8 = 0x10;
pub const WILL_INIT: u8 = 0x40;

/// A record in the making.
pub struct Made {
    rmgr: u8,
    info: u8,
    xid: u32,
    origin: Option<u16>,
    blocks: Writer,
    images: Vec<u8>,
    block_count: u8,
    main: Writer,
}

pub fn record(rmgr: u8, info: u8) -> Made {
    let (blocks, main) = (Writer::new(), Writer::new());
    Made { rmgr, info, xid: 0, origin: None, blocks, images: Vec::new(), block_count: 0, main }
}

impl Made {
    pub fn xid(mut self, xid: u32) -> Made {
        self.xid = xid;
        self
    }

    pub fn origin(mut self, origin: u16) -> Made {
        self.origin = Some(origin);
        self
    }

    pub fn block(mut self, rel: RelTag, block: u32, flags: u8) -> Made {
        self.blocks.u8(self.block_count).u8(rel.fork as u8 | flags).u16(0);
        if flags & HAS_IMAGE != 0 {
            // A whole page without a hole, to be restored.
            self.blocks.u16(8192).u16(0).u8(0x02);
            self.images.extend_from_slice(&[0; 14]);
            self.images.extend_from_slice(&8192u16.to_le_bytes());
            self.images.extend_from_slice(&[7; PAGE_SIZE - 16]);
        }
        self.blocks.u32(rel.tablespace).u32(rel.database).u32(rel.relation).u32(block);
        self.block_count += 1;
        self
    }

    pub fn u32(mut self, value: u32) -> Made {
        self.main.u32(value);
        self
    }

    pub fn bytes(mut self, value: &[u8]) -> Made {
        self.main.bytes(value);
        self
    }

    pub fn numbers(self, values: &[u32]) -> Made {
        values.iter().fold(self, |made, value| made.u32(*value))
    }

    pub fn into_bytes(self, prev: Lsn) -> Bytes {
        let mut body = Writer::new();
        body.bytes(self.blocks.as_slice());
        if let Some(origin) = self.origin {
            body.u8(253).u16(origin);
        }
        if !self.main.is_empty() {
            body.u8(254).u32(self.main.len() as u32);
        }
        body.bytes(&self.images).bytes(self.main.as_slice());
        let mut whole = Writer::new();
        whole.u32(24 + body.len() as u32).u32(self.xid).u64(prev.0).u8(self.info).u8(self.rmgr).u16(0).u32(0);
        whole.bytes(body.as_slice());
        whole.into_bytes()
    }
}

/// Ingest and what it has made so far.
pub struct Bench {
    pub store: Store,
    pub ingest: Ingest,
    pub next: Lsn,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(CheckpointState { next_xid: 1024, next_multi: 1, oldest_multi: 1, ..CheckpointState::default() })
    }

    pub fn with(checkpoint: CheckpointState) -> Bench {
        let mut store = Store::default();
        let full_page_writes = FullPageWrites { on: checkpoint.full_page_writes, since: START };
        store.import(vec![
            (Key::Checkpoint, checkpoint.encode().into()),
            (Key::FullPageWrites, full_page_writes.encode().into()),
        ]);
        let ingest = Ingest::begin(&PG15, START, &store).expect("the store was imported");
        Bench { store, ingest, next: START }
    }

    pub fn try_ingest(&mut self, made: Made) -> Result<Vec<Change>, IngestError> {
        let prev = self.ingest.last_record().unwrap_or(Lsn::INVALID);
        self.try_ingest_after(prev, made)
    }

    /// Ingests a record that says that the one at `prev` is before it.
    pub fn try_ingest_after(&mut self, prev: Lsn, made: Made) -> Result<Vec<Change>, IngestError> {
        let bytes = made.into_bytes(prev);
        let (start, end) = (self.next, self.next.add(bytes.len() as u64).align_up());
        let changes = self.ingest.ingest(&Record::decode(start, end, bytes)?, &self.store)?;
        for change in &changes {
            assert_eq!(change.lsn, end);
            match (&change.value, change.key) {
                // Redo is not what is tested here, so heap records are made without the data it wants.
                (Value::Delta(delta) | Value::InitialDelta(delta), _) if delta.record().is_some() => {}
                _ => self.store.apply(change.clone()).expect("the change fits"),
            }
        }
        self.store.end_record();
        self.next = end;
        Ok(changes)
    }

    pub fn ingest(&mut self, made: Made) -> Vec<Change> {
        self.try_ingest(made).expect("the record is good")
    }

    pub fn size(&self, key: Key) -> Option<u32> {
        self.store.get(key).map(|raw| size(&raw))
    }

    pub fn relation_size(&self, rel: RelTag) -> Option<u32> {
        self.size(Key::RelSize { rel })
    }

    pub fn segments(&self, slru: Slru) -> Vec<u32> {
        let segments = self.store.values().keys().filter_map(|key| match key {
            Key::SlruSegment { slru: found, segment } if *found == slru => Some(*segment),
            _ => None,
        });
        segments.collect()
    }

    pub fn page(&self, key: Key) -> Vec<u8> {
        let page = self.store.pages().get(&key).filter(|_| self.store.contains(key));
        page.map_or_else(|| vec![0; PAGE_SIZE], |page| page.to_vec())
    }

    pub fn create(&mut self, rel: RelTag, blocks: u32) {
        self.ingest(create(rel));
        if blocks > 0 {
            self.ingest(page_image(rel, blocks - 1));
        }
    }
}

pub fn create(rel: RelTag) -> Made {
    record(rmgr::SMGR, rmgr::XLOG_SMGR_CREATE).numbers(&[rel.tablespace, rel.database, rel.relation, rel.fork as u32])
}

pub fn truncate(rel: RelTag, blocks: u32) -> Made {
    record(rmgr::SMGR, rmgr::XLOG_SMGR_TRUNCATE).numbers(&[blocks, rel.tablespace, rel.database, rel.relation, 7])
}

pub fn page_image(rel: RelTag, block: u32) -> Made {
    record(rmgr::XLOG, rmgr::XLOG_FPI).block(rel, block, HAS_IMAGE)
}

/// A deletion in a page, with its flags.
pub fn delete(block: u32, flags: u8) -> Made {
    record(rmgr::HEAP, rmgr::XLOG_HEAP_DELETE).block(TABLE, block, 0).u32(900).bytes(&[1, 0, 0, flags])
}
