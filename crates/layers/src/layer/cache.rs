//! Decoded blocks, shared by all layers of a pageserver, bounded in bytes.
//!
//! Eviction is second chance: blocks wait in a queue, and one that was used since it was queued goes round once more.

use super::block::Block;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Which block of which layer; layers are numbered as they are opened and numbers are not used twice.
pub(super) type BlockId = (u64, u32);

/// The cache. Cheap to share, one lock, never held while a file is read.
#[derive(Debug)]
pub struct BlockCache {
    capacity_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: HashMap<BlockId, Slot>,
    queue: VecDeque<BlockId>,
    bytes: usize,
    next_layer: u64,
}

#[derive(Debug)]
struct Slot {
    block: Arc<Block>,
    used: bool,
}

impl BlockCache {
    /// A cache that keeps at most `capacity_bytes` of blocks.
    pub fn new(capacity_bytes: usize) -> Arc<BlockCache> {
        Arc::new(BlockCache { capacity_bytes, inner: Mutex::default() })
    }

    /// Bytes of blocks kept at this moment.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn number_layer(&self) -> u64 {
        let mut inner = self.lock();
        inner.next_layer += 1;
        inner.next_layer
    }

    pub(super) fn get(&self, id: BlockId) -> Option<Arc<Block>> {
        let mut inner = self.lock();
        let slot = inner.blocks.get_mut(&id)?;
        slot.used = true;
        Some(Arc::clone(&slot.block))
    }

    pub(super) fn put(&self, id: BlockId, block: &Arc<Block>) {
        let mut inner = self.lock();
        if inner.blocks.contains_key(&id) {
            return;
        }
        inner.bytes += block.memory_bytes();
        inner.blocks.insert(id, Slot { block: Arc::clone(block), used: false });
        inner.queue.push_back(id);
        while inner.bytes > self.capacity_bytes && inner.evict_one() {}
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    /// Evicts one block or gives it its second chance; false if there is none.
    fn evict_one(&mut self) -> bool {
        let Some(id) = self.queue.pop_front() else { return false };
        let used = self.blocks.get_mut(&id).is_some_and(|slot| std::mem::take(&mut slot.used));
        if used {
            self.queue.push_back(id);
        } else if let Some(slot) = self.blocks.remove(&id) {
            self.bytes -= slot.block.memory_bytes();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Kind, Version};
    use bytes::Bytes;
    use quire_types::{Key, Lsn, Writer};

    fn block() -> Arc<Block> {
        let mut out = Writer::new();
        let version = Version { lsn: Lsn(1), kind: Kind::Bytes, payload: Bytes::from(vec![1; 1000]) };
        super::super::block::write_entry(&mut out, Key::ControlFile, &version);
        Arc::new(Block::parse(out.into_vec()).unwrap())
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_used() {
        let cache = BlockCache::new(10 * block().memory_bytes());
        for number in 0..100 {
            cache.put((1, number), &block());
            assert!(cache.get((1, 0)).is_some(), "block 0 is used all the time");
        }
        assert!(cache.bytes() <= 10 * block().memory_bytes());
        assert!(cache.get((1, 50)).is_none());
        assert!(cache.get((1, 99)).is_some());
    }
}
