//! Collecting the changes of one record, and knowing how large things are.

use crate::error::IngestError;
use crate::view::StateView;
use bytes::Bytes;
use quire_layers::change::Change;
use quire_layers::value::Value;
use quire_redo::Delta;
use quire_types::{CodecError, Key, PAGE_SIZE, RelTag, SLRU_SEGMENT_PAGES, Slru, size};
use quire_wal::{Record, ServerVersion, rmgr};
use std::collections::{HashMap, HashSet};

/// Sizes remembered before all are forgotten; some 40 bytes each.
const REMEMBERED_SIZES_MAX: usize = 1 << 18;

/// The most blocks that one record may add between the end of a relation and a block that it names: 32 GiB. A hash
/// index of 4 MiB or more adds a quarter of its buckets with one record at most, so that this ends its growth at 256
/// GiB.
pub const GAP_BLOCKS_MAX: u32 = 1 << 22;

/// The most SLRU pages that one record may bring into being. PostgreSQL logs the zeroing of each page before it is
/// used, so that what other records name is there, but for a page or two.
const NEW_SLRU_PAGES_MAX: u32 = 64;

/// Sizes of relations and SLRU segments, as of the last record, so that storage is not asked for each block.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    known: HashMap<Key, Option<u32>>,
}

impl Sizes {
    /// Forgets everything once there is too much of it. Only between records: within one, storage does not yet know the
    /// new sizes.
    pub(crate) fn shrink(&mut self) {
        if self.known.len() > REMEMBERED_SIZES_MAX {
            self.known.clear();
        }
    }

    /// Notes a size that was changed beside the log.
    pub(crate) fn note(&mut self, key: Key, size: u32) {
        self.known.insert(key, Some(size));
    }

    fn get(&mut self, key: Key, view: &dyn StateView) -> Result<Option<u32>, IngestError> {
        if let Some(size) = self.known.get(&key) {
            return Ok(*size);
        }
        let size = view.value(key)?.map(|raw| stored_size(key, &raw)).transpose()?;
        self.known.insert(key, size);
        Ok(size)
    }
}

/// Reads the value of a size key.
pub(crate) fn stored_size(key: Key, raw: &[u8]) -> Result<u32, IngestError> {
    size::decode(raw).map_err(|source| IngestError::Stored { key, source })
}

/// The changes of one record while they are collected.
pub(crate) struct Batch<'a> {
    /// The record.
    pub(crate) record: &'a Record,
    /// Storage before the record.
    pub(crate) view: &'a dyn StateView,
    /// Which server wrote the record, if the log says so.
    pub(crate) server: Option<ServerVersion>,
    sizes: &'a mut Sizes,
    changes: Vec<Change>,
    /// Blocks added between the ends of relations and blocks that the record names.
    gap_blocks: u32,
    new_slru_pages: u32,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        record: &'a Record,
        view: &'a dyn StateView,
        sizes: &'a mut Sizes,
        server: Option<ServerVersion>,
    ) -> Batch<'a> {
        let changes = Vec::with_capacity(record.blocks.len() + 1);
        Batch { record, view, server, sizes, changes, gap_blocks: 0, new_slru_pages: 0 }
    }

    /// The changes, each of another key. PostgreSQL names a block once in a record, and storage has one version of a
    /// key at an LSN.
    pub(crate) fn into_changes(self) -> Result<Vec<Change>, IngestError> {
        match repeated_key(&self.changes) {
            Some(key) => Err(IngestError::ChangedTwice { key, lsn: self.record.start }),
            None => Ok(self.changes),
        }
    }

    /// Gives a key its new value. The caller sees to it that a key gets only one.
    pub(crate) fn push(&mut self, key: Key, value: Value) {
        self.changes.push(Change::new(key, self.record.end, value));
    }

    /// Gives a key that is not a page its new value.
    pub(crate) fn set(&mut self, key: Key, value: impl Into<Bytes>) {
        self.push(key, Value::Bytes(value.into()));
    }

    /// Whether the record has changed a key already.
    pub(crate) fn has_changed(&self, key: Key) -> bool {
        self.changes.iter().any(|change| change.key == key)
    }

    /// Ends a key, or zeroes a page.
    pub(crate) fn remove(&mut self, key: Key) {
        self.push(key, Value::Tombstone);
    }

    /// How many blocks a relation has, if it exists.
    pub(crate) fn relation_size(&mut self, rel: RelTag) -> Result<Option<u32>, IngestError> {
        self.sizes.get(Key::RelSize { rel }, self.view)
    }

    /// Sets a size key, in place of an earlier size from the same record.
    pub(crate) fn resize(&mut self, key: Key, size: u32) {
        self.sizes.known.insert(key, Some(size));
        let value = Value::Bytes(Bytes::copy_from_slice(&size::encode(size)));
        match self.changes.iter_mut().rev().find(|change| change.key == key) {
            Some(change) => change.value = value,
            None => self.push(key, value),
        }
    }

    /// Ends a size key, if it exists: the relation or SLRU segment is gone.
    pub(crate) fn remove_sized(&mut self, key: Key) -> Result<(), IngestError> {
        if self.sizes.get(key, self.view)?.is_some() {
            self.sizes.known.insert(key, None);
            self.remove(key);
        }
        Ok(())
    }

    /// Notes a size that the caller changes itself.
    pub(crate) fn remember_size(&mut self, key: Key, size: Option<u32>) {
        self.sizes.known.insert(key, size);
    }

    /// Makes sure that the directory of a relation that comes into being is known. Those of the default tablespace are
    /// made by records of their databases.
    pub(crate) fn note_folder(&mut self, rel: RelTag) -> Result<(), IngestError> {
        let RelTag { tablespace, database, .. } = rel;
        if matches!(tablespace, RelTag::DEFAULT_TABLESPACE | RelTag::GLOBAL_TABLESPACE) {
            return Ok(());
        }
        let key = Key::Database { tablespace, database };
        if !self.has_changed(key) && self.view.value(key)?.is_none() {
            self.set(key, Bytes::new());
        }
        Ok(())
    }

    /// Makes a relation hold a block; says whether the block is new. Blocks between become zeroes.
    pub(crate) fn extend_relation(&mut self, rel: RelTag, block: u32) -> Result<bool, IngestError> {
        let known = self.relation_size(rel)?;
        if known.is_none() {
            self.note_folder(rel)?;
        }
        let blocks = known.unwrap_or(0);
        if block < blocks {
            return Ok(false);
        }
        self.gap_blocks = self.gap_blocks.saturating_add(block - blocks);
        if self.gap_blocks > GAP_BLOCKS_MAX || block == u32::MAX {
            return Err(IngestError::Gap { rel, blocks, block, lsn: self.record.start });
        }
        for skipped in blocks..block {
            self.remove(Key::RelBlock { rel, block: skipped });
        }
        self.resize(Key::RelSize { rel }, block + 1);
        Ok(true)
    }

    /// Makes an SLRU segment hold a page; says whether the page is new. Pages between become zeroes.
    pub(crate) fn extend_slru(&mut self, slru: Slru, page: u32) -> Result<bool, IngestError> {
        let key = Key::SlruSegment { slru, segment: page / SLRU_SEGMENT_PAGES };
        let (first, offset) = (page - page % SLRU_SEGMENT_PAGES, page % SLRU_SEGMENT_PAGES);
        let pages = self.sizes.get(key, self.view)?.unwrap_or(0);
        if offset < pages {
            return Ok(false);
        }
        self.new_slru_pages += 1;
        if self.new_slru_pages > NEW_SLRU_PAGES_MAX {
            return Err(IngestError::NewPages { slru, lsn: self.record.start });
        }
        for skipped in pages..offset {
            self.remove(Key::SlruBlock { slru, page: first + skipped });
        }
        self.resize(key, offset + 1);
        Ok(true)
    }

    /// Changes a page: by a delta on what it was, or, if it was nothing, by the page that the delta makes of zeroes.
    pub(crate) fn change_page(&mut self, key: Key, is_new: bool, delta: Delta) -> Result<(), IngestError> {
        if !is_new {
            self.push(key, Value::Delta(delta));
            return Ok(());
        }
        let mut page = Box::new([0; PAGE_SIZE]);
        quire_redo::apply(&mut page, key, self.record.end, &delta)?;
        self.push_page(key, &page);
        Ok(())
    }

    /// Gives a page its new contents.
    pub(crate) fn push_page(&mut self, key: Key, page: &[u8; PAGE_SIZE]) {
        self.push(key, Value::Image(Bytes::copy_from_slice(page)));
    }

    /// Changes an SLRU page, making its segment hold it; says whether the page is new.
    pub(crate) fn change_slru(&mut self, slru: Slru, page: u32, delta: Delta) -> Result<bool, IngestError> {
        let is_new = self.extend_slru(slru, page)?;
        self.change_page(Key::SlruBlock { slru, page }, is_new, delta)?;
        Ok(is_new)
    }

    /// The error of data that are not what the record's type says.
    pub(crate) fn malformed(&self, source: CodecError) -> IngestError {
        let (rmgr, lsn) = (self.rmgr_name(), self.record.start);
        IngestError::Malformed { rmgr, info: self.record.info, lsn, source }
    }

    /// The error of a record that redo does not know.
    pub(crate) fn unsupported(&self) -> IngestError {
        IngestError::Unsupported { rmgr: self.rmgr_name(), info: self.record.info, lsn: self.record.start }
    }

    fn rmgr_name(&self) -> String {
        let number = self.record.rmgr;
        rmgr::name(number).map_or_else(|| format!("custom resource manager {number}"), str::to_owned)
    }
}

/// A key that occurs twice. Most records have so few changes that comparing each with each costs least.
fn repeated_key(changes: &[Change]) -> Option<Key> {
    const FEW: usize = 12;
    if changes.len() > FEW {
        let mut seen = HashSet::with_capacity(changes.len());
        return changes.iter().map(|change| change.key).find(|key| !seen.insert(*key));
    }
    let earlier = |(number, change): &(usize, &Change)| changes[..*number].iter().any(|other| other.key == change.key);
    changes.iter().enumerate().find(earlier).map(|(_, change)| change.key)
}

/// The first and the last size key that relations of a database in a tablespace can have.
pub(crate) fn relations_of(tablespace: u32, database: u32) -> (Key, Key) {
    Key::sizes_of(tablespace, database, (0, u32::MAX))
}
