//! Pages and values as of an LSN that was ingested.

use super::ShardPages;
use bytes::Bytes;
use quire_layers::chain::Chain;
use quire_layers::error::ReadError;
use quire_layers::store::Scanned;
use quire_types::{Key, Lsn, SLRU_SEGMENT_PAGES, size};
use std::collections::HashMap;
use std::time::Instant;

/// Entries and bytes that one step of a long scan takes.
const SCAN_STEP: usize = 1024;
const SCAN_STEP_BYTES: usize = 8 << 20;

/// A page and what it took to rebuild it.
#[derive(Clone, Debug)]
pub struct PageChain {
    /// The page.
    pub page: Bytes,
    /// What was put together.
    pub chain: Chain,
}

impl ShardPages {
    /// The pages as of `lsn`, in the order asked. A block inside its relation, or a page inside its SLRU segment, that
    /// has no version is zeroes.
    pub fn read_pages(&self, keys: &[Key], lsn: Lsn) -> Result<Vec<Bytes>, ReadError> {
        let started = Instant::now();
        self.check_exist(keys, lsn)?;
        let (chains, layers) = self.store().chains(keys, lsn)?;
        self.metrics().layers_visited(layers, keys.len());
        chains.iter().try_for_each(|chain| self.check_trusted(chain))?;
        let pages = chains.iter().map(|chain| self.replay_counted(chain)).collect::<Result<_, _>>()?;
        self.metrics().read_took(started.elapsed());
        Ok(pages)
    }

    /// One page as of `lsn` with its chain, for people; it is not healed and not counted.
    pub fn page_chain(&self, key: Key, lsn: Lsn) -> Result<PageChain, ReadError> {
        self.check_exist(&[key], lsn)?;
        let (chain, page) = self.rebuilder.rebuild(key, lsn)?;
        Ok(PageChain { page, chain })
    }

    /// What a page as of `lsn` is put together of, without putting it together: also of a page that cannot be.
    pub fn chain(&self, key: Key, lsn: Lsn) -> Result<Chain, ReadError> {
        self.check_exist(&[key], lsn)?;
        self.rebuilder.chain(key, lsn)
    }

    /// The value of a key that is not a page, as of `lsn`; none if it does not exist then.
    pub fn value(&self, key: Key, lsn: Lsn) -> Result<Option<Bytes>, ReadError> {
        if key.is_page() {
            return Err(ReadError::WrongKind(key));
        }
        Ok(self.store().newest(key, lsn)?.and_then(|version| version.into_bytes()))
    }

    /// The values of keys in `[from, to]` that are not pages and exist at `lsn`, some at a time.
    pub fn scan(&self, from: Key, to: Key, lsn: Lsn) -> Result<Scanned, ReadError> {
        Ok(self.store().scan(from, to, lsn, SCAN_STEP, SCAN_STEP_BYTES)?)
    }

    fn replay_counted(&self, chain: &Chain) -> Result<Bytes, ReadError> {
        let page = self.rebuilder.replay(chain)?;
        let (deltas, bytes) = (chain.delta_count(), chain.delta_bytes());
        self.metrics().replayed(deltas);
        if self.images.settings().exceeded(deltas, bytes) {
            self.metrics().long_chain_read();
            self.images.heal(chain, &page);
        }
        Ok(page)
    }

    fn check_trusted(&self, chain: &Chain) -> Result<(), ReadError> {
        match self.guard().forbids(chain) {
            Some(since) => Err(ReadError::Guarded { key: chain.key(), since }),
            None => Ok(()),
        }
    }

    fn check_exist(&self, keys: &[Key], lsn: Lsn) -> Result<(), ReadError> {
        let mut sizes = HashMap::new();
        for &key in keys {
            let (size_key, number) = home_of(key)?;
            let size = match sizes.get(&size_key) {
                Some(size) => *size,
                None => {
                    let size = self.size(size_key, lsn)?;
                    sizes.insert(size_key, size);
                    size
                }
            };
            if size.is_none_or(|size| number >= size) {
                return Err(ReadError::NoSuchKey { key, lsn });
            }
        }
        Ok(())
    }

    fn size(&self, key: Key, lsn: Lsn) -> Result<Option<u32>, ReadError> {
        self.value(key, lsn)?.map(|raw| stored_size(key, &raw)).transpose()
    }
}

/// Reads the value of a size key.
pub(super) fn stored_size(key: Key, raw: &[u8]) -> Result<u32, ReadError> {
    size::decode(raw).map_err(|source| ReadError::Value { key, source })
}

/// The key whose value says how many pages there are where this page is, and the page's number there.
fn home_of(key: Key) -> Result<(Key, u32), ReadError> {
    match key {
        Key::RelBlock { rel, block } => Ok((Key::RelSize { rel }, block)),
        Key::SlruBlock { slru, page } => {
            Ok((Key::SlruSegment { slru, segment: page / SLRU_SEGMENT_PAGES }, page % SLRU_SEGMENT_PAGES))
        }
        other => Err(ReadError::WrongKind(other)),
    }
}
