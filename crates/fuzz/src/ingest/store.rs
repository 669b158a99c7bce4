//! Storage in memory: the newest version of every key.

use bytes::Bytes;
use quire_ingest::{StateError, StateView};
use quire_layers::Change;
use quire_layers::value::Value;
use quire_types::{Key, PAGE_SIZE};
use std::collections::{BTreeMap, HashMap};

/// Pages with their deltas applied, and everything else.
#[derive(Debug, Default)]
pub(super) struct Store {
    values: BTreeMap<Key, Bytes>,
    pages: HashMap<Key, Box<[u8; PAGE_SIZE]>>,
}

impl Store {
    /// Gives a key that is not a page's its value.
    pub(super) fn set(&mut self, key: Key, value: Bytes) {
        self.values.insert(key, value);
    }

    /// Takes a change in; whether redo took it.
    pub(super) fn apply(&mut self, change: &Change) -> bool {
        let key = change.key;
        match &change.value {
            Value::Image(image) | Value::PartialImage(image) => self.page_mut(key).copy_from_slice(image),
            Value::Bytes(value) => self.set(key, value.clone()),
            Value::Delta(delta) | Value::InitialDelta(delta) => {
                return quire_redo::apply(self.page_mut(key), key, change.lsn, delta).is_ok();
            }
            Value::Tombstone => {
                self.values.remove(&key);
                self.pages.remove(&key);
            }
        }
        true
    }

    fn page_mut(&mut self, key: Key) -> &mut [u8; PAGE_SIZE] {
        self.pages.entry(key).or_insert_with(|| Box::new([0; PAGE_SIZE]))
    }
}

impl StateView for Store {
    fn value(&self, key: Key) -> Result<Option<Bytes>, StateError> {
        Ok(self.values.get(&key).cloned())
    }

    fn live(&self, from: Key, to: Key) -> Result<Vec<(Key, Bytes)>, StateError> {
        // Two ends in the wrong order are an empty range, not a panic.
        let end = to.max(from);
        Ok(self
            .values
            .range(from..=end)
            .filter(|(key, _)| **key <= to)
            .map(|(key, value)| (*key, value.clone()))
            .collect())
    }

    fn page(&self, key: Key) -> Result<Bytes, StateError> {
        Ok(self
            .pages
            .get(&key)
            .map_or_else(|| Bytes::from_static(&[0; PAGE_SIZE]), |page| Bytes::copy_from_slice(page.as_slice())))
    }
}
