//! Storage in memory: the newest version of every key.

use anyhow::{Result, ensure};
use bytes::Bytes;
use quire_ingest::{StateError, StateView};
use quire_layers::change::Change;
use quire_layers::value::Value;
use quire_types::{Key, PAGE_SIZE, SLRU_SEGMENT_PAGES};
use std::collections::{BTreeMap, BTreeSet, HashSet};

pub type Page = Box<[u8; PAGE_SIZE]>;

/// Pages with their deltas applied, and everything else.
#[derive(Default)]
pub struct Store {
    values: BTreeMap<Key, Bytes>,
    pages: BTreeMap<Key, Page>,
    changed: HashSet<Key>,
    /// Pages whose last image lacks bytes.
    pub partial: BTreeSet<Key>,
    /// Images taken.
    pub images: usize,
    /// Deltas taken.
    pub deltas: usize,
}

impl Store {
    pub fn values(&self) -> &BTreeMap<Key, Bytes> {
        &self.values
    }

    pub fn pages(&self) -> &BTreeMap<Key, Page> {
        &self.pages
    }

    pub fn get(&self, key: Key) -> Option<Bytes> {
        self.values.get(&key).cloned()
    }

    pub fn import(&mut self, batch: Vec<(Key, Bytes)>) {
        for (key, value) in batch {
            if key.is_page() {
                self.pages.insert(key, Box::new(value.as_ref().try_into().expect("a page")));
            } else {
                self.values.insert(key, value);
            }
        }
    }

    /// Takes a change; a record may change a key only once.
    pub fn apply(&mut self, change: Change) -> Result<()> {
        let key = change.key;
        ensure!(self.changed.insert(key), "{key} is changed twice");
        match change.value {
            Value::Image(image) => {
                self.partial.remove(&key);
                self.take_image(key, &image)?;
            }
            Value::PartialImage(image) => {
                self.partial.insert(key);
                self.take_image(key, &image)?;
            }
            Value::Delta(delta) | Value::InitialDelta(delta) => {
                ensure!(key.is_page());
                self.deltas += 1;
                let page = self.pages.entry(key).or_insert_with(|| Box::new([0; PAGE_SIZE]));
                quire_redo::apply(page, key, change.lsn, &delta)?;
            }
            Value::Bytes(value) => {
                ensure!(!key.is_page());
                self.values.insert(key, value);
            }
            Value::Tombstone => {
                self.values.remove(&key);
                self.pages.remove(&key);
                self.partial.remove(&key);
            }
        }
        Ok(())
    }

    fn take_image(&mut self, key: Key, image: &[u8]) -> Result<()> {
        ensure!(key.is_page());
        self.images += 1;
        self.pages.insert(key, Box::new(image.try_into()?));
        Ok(())
    }

    /// Takes a page as a server wrote it.
    pub fn take_written(&mut self, key: Key, page: Page) {
        self.partial.remove(&key);
        self.pages.insert(key, page);
    }

    pub fn end_record(&mut self) {
        self.changed.clear();
    }

    /// Whether the page is inside its relation or segment. What is outside is left over from before a truncation.
    pub fn contains(&self, key: Key) -> bool {
        let (size_key, offset) = match key {
            Key::RelBlock { rel, block } => (Key::RelSize { rel }, block),
            Key::SlruBlock { slru, page } => {
                (Key::SlruSegment { slru, segment: page / SLRU_SEGMENT_PAGES }, page % SLRU_SEGMENT_PAGES)
            }
            _ => return false,
        };
        self.values.get(&size_key).is_some_and(|stored| offset < size(stored))
    }
}

impl StateView for Store {
    fn value(&self, key: Key) -> Result<Option<Bytes>, StateError> {
        Ok(self.get(key))
    }

    fn live(&self, from: Key, to: Key) -> Result<Vec<(Key, Bytes)>, StateError> {
        Ok(self.values.range(from..=to).map(|(key, value)| (*key, value.clone())).collect())
    }

    fn page(&self, key: Key) -> Result<Bytes, StateError> {
        let page = self.pages.get(&key).filter(|_| self.contains(key));
        Ok(Bytes::copy_from_slice(page.map_or(&[0; PAGE_SIZE][..], |page| page.as_slice())))
    }
}

/// The number that a size key holds.
pub fn size(raw: &Bytes) -> u32 {
    raw.as_ref().try_into().map(u32::from_le_bytes).expect("sizes have four bytes")
}
