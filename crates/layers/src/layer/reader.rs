//! Reading a layer file: index and bloom filter in memory, blocks by `pread` through the cache.

use super::block::Block;
use super::bloom::{self, Bloom};
use super::cache::BlockCache;
use super::footer::{FOOTER_BYTES, Footer, MAGIC, Summary};
use super::frame::{self, Extent};
use crate::error::StorageError;
use crate::objects::{Object, Objects};
use crate::source::{Source, begins_past};
use crate::value::Version;
use quire_types::key::KEY_BYTES;
use quire_types::{CodecError, Key, Lsn, Reader};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open layer. It stays readable after it was removed.
#[derive(Debug)]
pub struct Layer {
    objects: Arc<dyn Objects>,
    name: String,
    path: PathBuf,
    object: Box<dyn Object>,
    number: u64,
    pub(super) footer: Footer,
    index: Vec<IndexEntry>,
    bloom: Bloom,
    cache: Arc<BlockCache>,
}

#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    first: (Key, Lsn),
    extent: Extent,
}

impl Layer {
    /// Opens a layer and checks its header, footer, index and filter; blocks are checked when they are read.
    pub fn open(objects: &Arc<dyn Objects>, name: &str, cache: &Arc<BlockCache>) -> Result<Arc<Layer>, StorageError> {
        let (object, path) = (objects.open(name)?, objects.locate(name));
        let footer = read_footer(object.as_ref(), &path)?;
        let index = frame::read(object.as_ref(), &path, footer.index)?;
        let index = parse_index(&index, footer.carries).map_err(StorageError::malformed(&path, footer.index.offset))?;
        let bloom = frame::read(object.as_ref(), &path, footer.bloom)?;
        let bloom = Bloom::decode(&bloom).map_err(StorageError::malformed(&path, footer.bloom.offset))?;
        let (number, objects, name, cache) =
            (cache.number_layer(), Arc::clone(objects), name.to_owned(), Arc::clone(cache));
        Ok(Arc::new(Layer { objects, name, path, object, number, footer, index, bloom, cache }))
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.object.bytes()
    }

    /// What it spans.
    pub fn summary(&self) -> &Summary {
        &self.footer.summary
    }

    /// Whether it may have a version of a key in the range at or below `upto`.
    fn may_hold_any(&self, from: Bound<Key>, to: Key, upto: Lsn) -> bool {
        let summary = self.summary();
        !begins_past(from, summary.last_key) && summary.first_key <= to && summary.first_lsn <= upto
    }

    /// All versions, in order, past the cache.
    pub fn entries(self: &Arc<Layer>) -> Entries {
        Entries { layer: Arc::clone(self), next_block: 0, block: None, next: 0 }
    }

    pub(super) fn read_frame_at(&self, offset: u64, end: u64) -> Result<(Vec<u8>, u64), StorageError> {
        self.read_again(|object| frame::read_next(object, &self.path, offset, end))
    }

    /// Reads, and where that fails once more from what the name stands for now: a damaged file may have been replaced
    /// by another.
    fn read_again<T>(&self, read: impl Fn(&dyn Object) -> Result<T, StorageError>) -> Result<T, StorageError> {
        read(self.object.as_ref()).or_else(|error| match self.objects.open(&self.name) {
            Ok(object) => read(object.as_ref()),
            Err(_) => Err(error),
        })
    }

    fn block(&self, number: usize) -> Result<Arc<Block>, StorageError> {
        // An index of 2^32 blocks would be a layer of 100 TB.
        let id = (self.number, number as u32);
        if let Some(block) = self.cache.get(id) {
            return Ok(block);
        }
        let block = Arc::new(self.read_block(number)?);
        self.cache.put(id, &block);
        Ok(block)
    }

    fn read_block(&self, number: usize) -> Result<Block, StorageError> {
        let entry = self.index[number];
        let raw = self.read_again(|object| frame::read(object, &self.path, entry.extent))?;
        let malformed = StorageError::malformed(&self.path, entry.extent.offset);
        let block = Block::parse(raw).map_err(malformed)?;
        if block.len() > 0 && block.position(0) == entry.first {
            Ok(block)
        } else {
            Err(StorageError::Corrupt {
                path: self.path.clone(),
                offset: entry.extent.offset,
                reason: "the block is not the one in the index".into(),
            })
        }
    }
}

impl Source for Layer {
    fn may_hold(&self, key: Key, after: Lsn, upto: Lsn) -> bool {
        let summary = self.summary();
        (summary.first_key..=summary.last_key).contains(&key)
            && summary.first_lsn <= upto
            && summary.last_lsn > after
            && self.bloom.may_contain(bloom::hash(key))
    }

    fn visit(
        &self,
        key: Key,
        after: Lsn,
        upto: Lsn,
        visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let mut blocks_left = self.index.partition_point(|entry| entry.first <= (key, upto));
        while blocks_left > 0 {
            blocks_left -= 1;
            let block = self.block(blocks_left)?;
            for index in (0..block.count_up_to(key, upto)).rev() {
                let (at, lsn) = block.position(index);
                if at != key || lsn <= after || visit(block.version(index)).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn newest_in_range(
        &self,
        from: Bound<Key>,
        to: Key,
        upto: Lsn,
        limit: usize,
    ) -> Result<Vec<(Key, Version)>, StorageError> {
        if !self.may_hold_any(from, to, upto) {
            return Ok(Vec::new());
        }
        let mut found: Vec<(Key, Version)> = Vec::new();
        let below = match from {
            Bound::Included(key) => (key, Lsn::INVALID),
            Bound::Excluded(key) => (key, Lsn::MAX),
            Bound::Unbounded => (self.summary().first_key, Lsn::INVALID),
        };
        let start = self.index.partition_point(|entry| entry.first <= below).saturating_sub(1);
        for number in start..self.index.len() {
            let block = self.block(number)?;
            for index in block.count_up_to(below.0, below.1)..block.len() {
                let (key, lsn) = block.position(index);
                let same = found.last().is_some_and(|(last, _)| *last == key);
                if key > to || (found.len() == limit && !same) {
                    return Ok(found);
                }
                if lsn > upto {
                    continue;
                }
                if same {
                    found.last_mut().expect("just seen").1 = block.version(index)
                } else {
                    found.push((key, block.version(index)))
                }
            }
        }
        Ok(found)
    }
}

fn read_footer(object: &dyn Object, path: &Path) -> Result<Footer, StorageError> {
    let bytes = object.bytes();
    let corrupt = |offset, reason: &str| StorageError::Corrupt { path: path.to_owned(), offset, reason: reason.into() };
    let at = bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| corrupt(0, "shorter than a footer"))?;
    let mut raw = [0; FOOTER_BYTES];
    object.read_exact_at(&mut raw, at)?;
    let footer = Footer::decode(&raw).map_err(StorageError::malformed(path, at))?;
    let mut magic = [0; 8];
    object.read_exact_at(&mut magic, 0)?;
    match (magic == MAGIC, footer.fits(bytes)) {
        (true, true) => Ok(footer),
        (false, _) => Err(corrupt(0, "not a layer file")),
        (_, false) => Err(corrupt(at, "the parts do not fill the file")),
    }
}

fn parse_index(raw: &[u8], data_end: u64) -> Result<Vec<IndexEntry>, CodecError> {
    let mut reader = Reader::new(raw);
    let mut index: Vec<IndexEntry> = Vec::new();
    while reader.remaining() > 0 {
        let first = (Key::decode(reader.bytes("index key", KEY_BYTES)?)?, Lsn(reader.u64("index lsn")?));
        let extent = Extent { offset: reader.u64("block offset")?, length: reader.u32("block length")? };
        let inside = extent.offset.checked_add(u64::from(extent.length)).is_some_and(|end| end <= data_end);
        // A delta and the image that includes it may be in two blocks.
        let ascending = index.last().is_none_or(|last| last.first <= first);
        if !inside || !ascending {
            return Err(CodecError::Invalid { field: "index entry", value: index.len() as u64 });
        }
        index.push(IndexEntry { first, extent });
    }
    Ok(index)
}

/// Walks a layer from front to back.
#[derive(Debug)]
pub struct Entries {
    layer: Arc<Layer>,
    next_block: usize,
    block: Option<Block>,
    next: usize,
}

impl Entries {
    fn advance(&mut self) -> Result<Option<(Key, Version)>, StorageError> {
        loop {
            if let Some(block) = self.block.as_ref().filter(|block| self.next < block.len()) {
                let entry = (block.position(self.next).0, block.version(self.next));
                self.next += 1;
                return Ok(Some(entry));
            }
            if self.next_block >= self.layer.index.len() {
                return Ok(None);
            }
            self.block = Some(self.layer.read_block(self.next_block)?);
            (self.next_block, self.next) = (self.next_block + 1, 0);
        }
    }
}

impl Iterator for Entries {
    type Item = Result<(Key, Version), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
