//! Writing a layer file, front to back, in one pass.

use super::block;
use super::bloom::{self, Bloom};
use super::footer::{FILE_HEADER_BYTES, Footer, MAGIC, Summary, VERSION};
use super::frame::{self, Extent};
use super::sections;
use crate::accounts::Carry;
use crate::error::StorageError;
use crate::objects::NewObject;
use crate::value::{Place, Version};
use quire_types::{BranchKey, Key, Lsn, ShardId, Writer};

/// A layer that is being written. Dropped before [`LayerWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct LayerWriter {
    out: Box<dyn NewObject>,
    block: Writer,
    block_start: Option<(Key, Lsn)>,
    index: Writer,
    hashes: Vec<u64>,
    last: Option<(Key, Place)>,
    first_key: Option<Key>,
    lsns: (Lsn, Lsn),
    versions: u64,
    owner: (BranchKey, ShardId),
}

impl LayerWriter {
    /// Starts the layer that `out` will be.
    pub fn create(mut out: Box<dyn NewObject>, branch: BranchKey, shard: ShardId) -> Result<LayerWriter, StorageError> {
        out.write(&MAGIC)?;
        out.write(&VERSION.to_le_bytes())?;
        debug_assert_eq!(out.written(), FILE_HEADER_BYTES);
        Ok(LayerWriter {
            out,
            block: Writer::new(),
            block_start: None,
            index: Writer::new(),
            hashes: Vec::new(),
            last: None,
            first_key: None,
            lsns: (Lsn::MAX, Lsn::INVALID),
            versions: 0,
            owner: (branch, shard),
        })
    }

    /// Adds the next version.
    ///
    /// # Panics
    /// If key and place are not above those added before: a layer out of order would answer reads wrongly.
    pub fn add(&mut self, key: Key, version: &Version) -> Result<(), StorageError> {
        assert!(self.last.is_none_or(|last| last < (key, version.place())), "versions are added in order");
        if self.last.is_none_or(|(last, _)| last != key) {
            self.hashes.push(bloom::hash(key));
        }
        self.first_key.get_or_insert(key);
        self.block_start.get_or_insert((key, version.lsn));
        self.last = Some((key, version.place()));
        self.lsns = (self.lsns.0.min(version.lsn), self.lsns.1.max(version.lsn));
        self.versions += 1;
        block::write_entry(&mut self.block, key, version);
        if self.block.len() >= block::TARGET_BYTES { self.close_block() } else { Ok(()) }
    }

    /// Bytes written so far, without the block being filled.
    pub fn written(&self) -> u64 {
        self.out.written()
    }

    /// The key added last.
    pub fn last_key(&self) -> Option<Key> {
        self.last.map(|(key, _)| key)
    }

    /// Writes the rest and puts the layer under its name. `carries` are in key order and only of keys in the layer.
    ///
    /// # Panics
    /// If nothing was added: an empty layer has no key range.
    pub fn finish(
        mut self,
        carries: impl Iterator<Item = Result<Carry, StorageError>>,
    ) -> Result<Summary, StorageError> {
        self.close_block()?;
        let carries_at = self.out.written();
        sections::write_all(self.out.as_mut(), carries)?;
        let bloom = self.write_part(&Bloom::build(&self.hashes).encode())?;
        let index = std::mem::take(&mut self.index);
        let index = self.write_part(index.as_slice())?;
        let footer = Footer { summary: self.summary(), carries: carries_at, bloom, index };
        self.out.write(&footer.encode())?;
        self.out.put()?;
        Ok(footer.summary)
    }

    fn close_block(&mut self) -> Result<(), StorageError> {
        let Some((key, lsn)) = self.block_start.take() else { return Ok(()) };
        let raw = std::mem::take(&mut self.block);
        let Extent { offset, length } = self.write_part(raw.as_slice())?;
        self.index.bytes(&key.encode()).u64(lsn.0).u64(offset).u32(length);
        Ok(())
    }

    fn write_part(&mut self, raw: &[u8]) -> Result<Extent, StorageError> {
        let offset = self.out.written();
        let frame = frame::encode(raw);
        self.out.write(&frame)?;
        // A frame is little longer than its content at most, which is at most 1 GiB.
        Ok(Extent { offset, length: frame.len() as u32 })
    }

    fn summary(&self) -> Summary {
        Summary {
            branch: self.owner.0,
            shard: self.owner.1,
            first_key: self.first_key.expect("a layer has at least one version"),
            last_key: self.last_key().expect("a layer has at least one version"),
            first_lsn: self.lsns.0,
            last_lsn: self.lsns.1,
            versions: self.versions,
            keys: self.hashes.len() as u64,
        }
    }
}
