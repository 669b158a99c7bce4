//! A shard beside a list of all records it was given: a page is what a fold over the list gives.

use super::super::*;
use crate::images::ImageOutcome;
use crate::metrics::Metrics;
use quire_layers::image_policy::ImageSettings;
use quire_layers::layer::BlockCache;
use quire_layers::manifest::Manifest;
use quire_layers::objects::LocalFolder;
use quire_layers::value::Value;
use quire_protocol::page::{Keeping, WrittenPage};
use quire_redo::RedoError;
use quire_redo::delta::Delta;
use quire_types::{BranchKey, Fork, PAGE_SIZE, RelTag, ShardId};
use quire_wal::page;
use std::path::{Path, PathBuf};

pub(super) const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
pub(super) const BLOCKS: u32 = 6;
pub(super) const START: Lsn = Lsn(1000);
pub(super) const SETTINGS: ImageSettings = ImageSettings { max_deltas: 5, max_bytes: 1 << 20 };

pub(super) fn block(number: u32) -> Key {
    Key::RelBlock { rel: REL, block: number }
}

/// A redo whose result depends on every delta, its LSN and their order.
pub(super) fn model_redo(page: &mut [u8; PAGE_SIZE], key: Key, lsn: Lsn, delta: &Delta) -> Result<(), RedoError> {
    let Delta::Record(bytes, _) = delta else { panic!("not a record") };
    if bytes.as_ref() == b"broken" {
        return Err(RedoError::NotReferenced { start: lsn, key });
    }
    let so_far = u64::from_le_bytes(page[..8].try_into().unwrap());
    let mixed = bytes.iter().fold(so_far ^ lsn.0, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x9E37_79B1));
    page[..8].copy_from_slice(&mixed.to_le_bytes());
    page[(mixed as usize % (PAGE_SIZE - 8)) + 8] = mixed as u8;
    Ok(())
}

pub(super) fn delta(payload: &[u8]) -> Value {
    Value::Delta(Delta::Record(Bytes::copy_from_slice(payload), Lsn(1)))
}

pub(super) fn image(byte: u8) -> Value {
    Value::Image(Bytes::from(vec![byte; PAGE_SIZE]))
}

pub(super) fn partial(byte: u8) -> Value {
    Value::PartialImage(Bytes::from(vec![byte; PAGE_SIZE]))
}

/// A page that PostgreSQL wrote, with that LSN in it.
pub(super) fn written(number: u32, lsn: Lsn, byte: u8) -> WrittenPage {
    let mut raw = vec![byte; PAGE_SIZE];
    page::set_lsn(&mut raw, lsn);
    WrittenPage { key: block(number), page: raw.into() }
}

pub(super) fn size(blocks: u32) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&blocks.to_le_bytes()))
}

/// A shard in a directory, the records it was given, and how to open it again.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) pool: Arc<ImagePool>,
    pub(super) pages: Arc<ShardPages>,
    pub(super) records: Vec<(Lsn, Vec<Change>)>,
    /// Pages that were kept as written, and where.
    pub(super) written: Vec<(Lsn, WrittenPage)>,
    settled: Lsn,
}

/// What happens to a page.
enum Event<'a> {
    Change(&'a Change),
    Written(&'a Bytes),
}

fn open(dir: &Path, pool: &Arc<ImagePool>) -> Result<Arc<ShardPages>, StorageError> {
    let objects = Arc::new(LocalFolder::open(dir)?);
    let manifest = match Manifest::load(objects.as_ref())? {
        Some(manifest) => manifest,
        None => {
            let (branch, shard) = (BranchKey::default(), ShardId::UNSHARDED);
            let origin = Origin { branch, shard, start: START, segment_bytes: 16 << 20, postgres_version: 15 };
            Manifest::new(origin, SETTINGS)
        }
    };
    let parts = ShardPagesParts {
        redo: model_redo,
        backlog_max: 100,
        pool: Arc::clone(pool),
        metrics: Metrics::new().shard(BranchKey::default(), ShardId::UNSHARDED),
        put_aside: crate::put_aside::PutAside::default(),
    };
    // Layers are split after a few kilobytes.
    Ok(ShardPages::new(Store::open(objects, manifest, &BlockCache::new(1 << 16), 4 << 10)?, parts))
}

impl Bench {
    pub(super) fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let pool = ImagePool::new();
        let pages = open(dir.path(), &pool).unwrap();
        let mut bench = Bench { dir, pool, pages, records: Vec::new(), written: Vec::new(), settled: Lsn::INVALID };
        let _ = bench.apply(vec![(Key::RelSize { rel: REL }, size(BLOCKS))]);
        bench
    }

    pub(super) fn end(&self) -> Lsn {
        self.records.last().map_or(START, |(lsn, _)| *lsn)
    }

    pub(super) fn apply(&mut self, changes: Vec<(Key, Value)>) -> MustWait {
        let lsn = self.end().add(8);
        let changes: Vec<_> = changes.into_iter().map(|(key, value)| Change::new(key, lsn, value)).collect();
        let must_wait = self.pages.apply(&changes, lsn).unwrap();
        self.records.push((lsn, changes));
        must_wait
    }

    /// Keeps a page as written, durably.
    pub(super) fn keep(&mut self, page: WrittenPage) -> Keeping {
        let kept = self.pages.keep_pages(self.end(), std::slice::from_ref(&page)).unwrap();
        self.flush().unwrap();
        let [keeping] = kept.keepings[..] else { panic!("one page, {kept:?}") };
        if keeping == Keeping::Kept {
            let lsn = page::lsn(&page.page);
            self.written.push((if lsn.is_valid() { lsn } else { self.end() }, page));
        }
        keeping
    }

    /// What the log lacks up to now will not come.
    pub(super) fn settle(&mut self) {
        self.settled = self.end();
        self.pages.images().settle(self.settled);
    }

    pub(super) fn make_all_images(&self) -> usize {
        let outcomes = std::iter::from_fn(|| self.pages.images().make_next());
        outcomes.filter(|outcome| matches!(outcome, ImageOutcome::Made(_))).count()
    }

    /// Throws the shard away as a crash does, and gives the next one the records that were not durable.
    /// Opens the files once more, to see whether that works.
    pub(super) fn try_reopen(&self) -> Result<(), StorageError> {
        open(self.dir.path(), &self.pool).map(drop)
    }

    pub(super) fn reopen(&mut self) {
        self.pages = open(self.dir.path(), &self.pool).unwrap();
        self.pages.images().settle(self.settled);
        let durable = self.pages.progress().durable;
        for (lsn, changes) in self.records.iter().filter(|(lsn, _)| *lsn > durable) {
            let _ = self.pages.apply(changes, *lsn).unwrap();
        }
        assert_eq!(self.pages.progress().ingested, self.end());
    }

    pub(super) fn expected(&self, key: Key, lsn: Lsn) -> Bytes {
        let mut page = Box::new([0; PAGE_SIZE]);
        for event in self.events(key, lsn) {
            match event {
                Event::Written(written) => page.copy_from_slice(written),
                Event::Change(change) => match &change.value {
                    Value::Image(image) | Value::PartialImage(image) => page.copy_from_slice(image),
                    Value::Delta(delta) | Value::InitialDelta(delta) => {
                        model_redo(&mut page, key, change.lsn, delta).unwrap()
                    }
                    Value::Tombstone => page.fill(0),
                    Value::Bytes(_) => unreachable!("pages have no such values"),
                },
            }
        }
        Bytes::copy_from_slice(page.as_slice())
    }

    /// What happens to a page up to `lsn`: at an LSN the record comes first, then written pages in the order they came
    /// in.
    fn events(&self, key: Key, lsn: Lsn) -> impl Iterator<Item = Event<'_>> {
        let changes = self.records.iter().flat_map(|(_, changes)| changes).filter(move |change| change.key == key);
        let changes = changes.map(|change| ((change.lsn, false), Event::Change(change)));
        let written = self.written.iter().filter(move |(_, written)| written.key == key);
        let written = written.map(|(lsn, written)| ((*lsn, true), Event::Written(&written.page)));
        let mut events: Vec<_> = changes.chain(written).filter(|((at, _), _)| *at <= lsn).collect();
        events.sort_by_key(|(place, _)| *place);
        events.into_iter().map(|(_, event)| event)
    }

    /// Whether the log says nothing of a page's contents: not of the newest ones, that is. A page without an LSN is
    /// only there if that was so before, and what comes afterwards with an older LSN is below it.
    pub(super) fn is_unlogged(&self, key: Key) -> bool {
        self.events(key, Lsn::MAX).fold(true, |_, event| match event {
            Event::Change(change) => matches!(change.value, Value::Tombstone),
            Event::Written(page) => !page::lsn(page).is_valid(),
        })
    }

    /// Whether an image of the page would lack what may still come.
    pub(super) fn is_incomplete(&self, key: Key) -> bool {
        let chain = self.pages.page_chain(key, self.end()).unwrap().chain;
        chain.partial_lsn().is_some_and(|lsn| lsn > self.settled)
    }

    /// All pages at several LSNs equal the model, and accounts say what reads find.
    pub(super) fn check(&self) {
        let keys: Vec<_> = (0..BLOCKS).map(block).collect();
        let steps = (self.records.len() / 12).max(1);
        for (lsn, _) in self.records.iter().step_by(steps).chain(self.records.last()) {
            let pages = self.pages.read_pages(&keys, *lsn).unwrap();
            for (key, page) in keys.iter().zip(pages) {
                assert!(page == self.expected(*key, *lsn), "{key} at {lsn}");
            }
        }
        for key in keys {
            let chain = self.pages.page_chain(key, self.end()).unwrap().chain;
            let account = self.pages.store().account(key);
            assert_eq!((account.deltas, account.bytes), (chain.delta_count(), chain.delta_bytes()), "{key}");
        }
    }

    /// A record, a flush, a compaction if it is time, and images.
    pub(super) fn round(&mut self, round: u32) -> Result<(), StorageError> {
        let _ = self.apply(vec![(block(round % BLOCKS), delta(&round.to_le_bytes()))]);
        self.flush()?;
        self.pages.store().compact()?;
        self.make_all_images();
        Ok(())
    }

    /// Layers in the directory, oldest first.
    pub(super) fn layer_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut layers: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|extension| extension == "layer")).collect();
        layers.sort();
        layers
    }

    /// Layers in the directory that are not in use.
    pub(super) fn others(&self) -> usize {
        self.layer_files().len() - self.pages.store().size().layers
    }

    /// Other [`ShardPages`] over a copy of the files.
    pub(super) fn copy(&self) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let pool = ImagePool::new();
        let pages = open(dir.path(), &pool).unwrap();
        let (records, written) = (self.records.clone(), self.written.clone());
        let mut copy = Bench { dir, pool, pages, records, written, settled: self.settled };
        copy.reopen();
        copy
    }

    pub(super) fn flush(&self) -> Result<(), StorageError> {
        self.pages.freeze(Bytes::from_static(b"state"));
        self.pages.flush()
    }
}
