//! Keeping written pages beside ingest: of a log made by hand, with everything on disk.

use super::*;
use crate::images::ImagePool;
use crate::metrics::Metrics;
use crate::pipeline::MemtableLimits;
use crate::shard_pages::ShardPagesParts;
use quire_files::fault;
use quire_layers::image_policy::ImageSettings;
use quire_layers::layer::BlockCache;
use quire_layers::manifest::{Manifest, Origin};
use quire_layers::objects::LocalFolder;
use quire_layers::small_files::FileError;
use quire_layers::store::Store;
use quire_layers::value::Value;
use quire_types::{BranchKey, ShardId};
use quire_types::{Fork, PAGE_SIZE, RelTag, Writer};
use quire_wal::postgres_version::PG15;
use quire_wal::record::record_crc;
use quire_wal::wal_page::WalPageHeader;
use quire_wal::{CheckpointState, page, rmgr};
use std::path::Path;

const START: Lsn = Lsn(16 << 20);
const SEGMENT_BYTES: u32 = 16 << 20;
const TABLE: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
const MAP: RelTag = RelTag { fork: Fork::VisibilityMap, ..TABLE };
const WILL_INIT: u8 = 0x40;

/// A log of a few records in its first page.
struct Log {
    bytes: Writer,
    last: Lsn,
}

impl Log {
    fn new() -> Log {
        let mut bytes = Writer::new();
        WalPageHeader::new(&PG15, START, 1, 0, 7, SEGMENT_BYTES.into()).write(&mut bytes);
        Log { bytes, last: Lsn::INVALID }
    }

    fn end(&self) -> Lsn {
        START.add(self.bytes.len() as u64)
    }

    fn append(&mut self, rmgr: u8, info: u8, blocks: &[(RelTag, u32, u8)], main: &[u8]) {
        let mut body = Writer::new();
        for (id, (rel, block, flags)) in blocks.iter().enumerate() {
            body.u8(id as u8).u8(rel.fork as u8 | flags).u16(0);
            body.u32(rel.tablespace).u32(rel.database).u32(rel.relation).u32(*block);
        }
        body.u8(255).u8(main.len() as u8).bytes(main);
        let mut record = Writer::new();
        record.u32(24 + body.len() as u32).u32(0).u64(self.last.0).u8(info).u8(rmgr).u16(0).u32(0);
        let mut record = record.bytes(body.as_slice()).as_slice().to_vec();
        let crc = record_crc(&record);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        self.last = self.end();
        self.bytes.bytes(&record);
        let padding = self.end().align_up().bytes_since(self.end()) as usize;
        self.bytes.bytes(&[0; 8][..padding]);
    }

    fn create(&mut self, rel: RelTag) {
        let main: Vec<u8> =
            [1663, 5, 16384, rel.fork as u32].iter().flat_map(|number: &u32| number.to_le_bytes()).collect();
        self.append(rmgr::SMGR, rmgr::XLOG_SMGR_CREATE, &[], &main);
    }

    /// A heap page becomes all-visible: a bit of the map is set.
    fn visible(&mut self) {
        let main = [0, 0, 0, 0, 1];
        self.append(rmgr::HEAP2, rmgr::XLOG_HEAP2_VISIBLE, &[(MAP, 0, 0), (TABLE, 0, WILL_INIT)], &main);
    }
}

fn open(dir: &Path) -> Arc<Shard> {
    let objects = Arc::new(LocalFolder::open(dir).unwrap());
    let manifest = Manifest::load(objects.as_ref()).unwrap().unwrap_or_else(|| {
        let branch = BranchKey::default();
        let origin = Origin {
            branch,
            shard: ShardId::UNSHARDED,
            start: START,
            segment_bytes: SEGMENT_BYTES,
            postgres_version: 15,
        };
        Manifest::new(origin, ImageSettings::default())
    });
    let parts = ShardPagesParts {
        redo: quire_redo::apply,
        backlog_max: 100,
        pool: ImagePool::new(),
        metrics: Metrics::new().shard(BranchKey::default(), ShardId::UNSHARDED),
        put_aside: crate::put_aside::PutAside::default(),
    };
    let pages = ShardPages::new(Store::open(objects, manifest, &BlockCache::new(1 << 20), 1 << 20).unwrap(), parts);
    if pages.progress().ingested == START && pages.store().size().runs == 0 {
        let checkpoint =
            CheckpointState { next_xid: 700, next_multi: 1, oldest_multi: 1, ..CheckpointState::default() };
        let writes = FullPageWrites { on: true, since: START };
        let values = [(Key::Checkpoint, checkpoint.encode()), (Key::FullPageWrites, writes.encode())];
        let change = |(key, value): (Key, Vec<u8>)| {
            (key, quire_layers::value::Version::new(key, START, &Value::Bytes(value.into())).unwrap())
        };
        pages.store().insert(values.map(change).into()).unwrap();
    }
    let limits = MemtableLimits { bytes: 64 << 20, age: Duration::from_secs(3600) };
    let pipeline = Pipeline::open(&pages, &PG15, limits).unwrap();
    Shard::new(pages, pipeline, SmallFiles::open_in(dir).unwrap()).unwrap()
}

fn written(rel: RelTag, block: u32, lsn: Lsn, byte: u8) -> WrittenPage {
    let mut raw = vec![byte; PAGE_SIZE];
    page::init(&mut raw, 0);
    raw[page::HEADER_BYTES..].fill(byte);
    page::set_lsn(&mut raw, lsn);
    WrittenPage { key: Key::RelBlock { rel, block }, page: raw.into() }
}

fn read(shard: &Shard, rel: RelTag, block: u32) -> Bytes {
    let end = shard.pages().progress().ingested;
    shard.pages().read_pages(&[Key::RelBlock { rel, block }], end).unwrap().remove(0)
}

/// A shard that has taken in the creation of the map, and the log of that.
fn with_map(dir: &Path) -> (Arc<Shard>, Log) {
    let (shard, mut log) = (open(dir), Log::new());
    log.create(MAP);
    shard.feed(START, &log.bytes.as_slice().to_vec().into()).unwrap();
    (shard, log)
}

#[test]
fn what_was_kept_is_there_after_a_crash_without_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, log) = with_map(dir.path());
    shard.fence(Term(1)).unwrap();
    let page = written(MAP, 0, Lsn::INVALID, 4);
    assert_eq!(shard.keep_pages(Term(1), log.end(), std::slice::from_ref(&page)).unwrap(), [Keeping::Kept]);
    drop(shard);
    let shard = open(dir.path());
    assert_eq!((read(&shard, MAP, 0), shard.wal_position()), (page.page, log.end()));
}

#[test]
fn a_flush_that_fails_is_said_and_the_pages_can_be_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, log) = with_map(dir.path());
    shard.fence(Term(1)).unwrap();
    let page = written(MAP, 0, Lsn::INVALID, 4);
    let keep = |upto| shard.keep_pages(Term(1), upto, std::slice::from_ref(&page));
    fault::fail_after(Some(0));
    assert!(matches!(keep(log.end()), Err(KeepError::Storage(_))));
    fault::fail_after(None);
    assert_eq!(keep(log.end()).unwrap(), [Keeping::Kept]);
    assert_eq!(read(&open(dir.path()), MAP, 0), page.page);
}

#[test]
fn a_record_that_names_a_block_that_was_kept_changes_that_page_and_no_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let shard = open(dir.path());
    let mut log = Log::new();
    log.create(MAP);
    log.create(TABLE);
    shard.feed(START, &log.bytes.as_slice().to_vec().into()).unwrap();
    shard.fence(Term(1)).unwrap();
    shard.keep_pages(Term(1), log.end(), &[written(MAP, 0, Lsn::INVALID, 4)]).unwrap();
    log.visible();
    shard.feed(START, &log.bytes.as_slice().to_vec().into()).unwrap();
    let mut expected = written(MAP, 0, log.end(), 4).page.to_vec();
    expected[page::HEADER_BYTES] |= 1;
    assert!(read(&shard, MAP, 0) == expected, "the page does not begin anew");
}

#[test]
fn only_the_term_that_fenced_the_files_may_send_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (shard, log) = with_map(dir.path());
    let keep = |term| shard.keep_pages(Term(term), log.end(), &[written(MAP, 0, Lsn::INVALID, 4)]);
    assert!(matches!(keep(1), Err(KeepError::Fenced(FileError::NotFenced(_)))));
    shard.fence(Term(2)).unwrap();
    assert!(matches!(keep(1), Err(KeepError::Fenced(FileError::Fenced { .. }))));
    assert!(shard.pages().read_pages(&[Key::RelBlock { rel: MAP, block: 0 }], log.end()).is_err());
    assert!(keep(2).is_ok());
}

#[test]
fn a_new_term_settles_what_was_ingested_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let shard = open(dir.path());
    let mut log = Log::new();
    shard.fence(Term(1)).unwrap();
    log.create(MAP);
    shard.feed(START, &log.bytes.as_slice().to_vec().into()).unwrap();
    assert_eq!(shard.pages().images().settled(), START);
    shard.fence(Term(2)).unwrap();
    assert_eq!(shard.pages().images().settled(), log.end());
    drop(shard);
    assert_eq!(open(dir.path()).pages().images().settled(), log.end());
}
