//! What a WAL record does to storage, one key at a time.

use crate::value::Value;
use quire_types::{Key, Lsn};

/// A new version of a key.
///
/// One record gives a key at most one change; what a record does to a page in several places is one delta. All changes
/// of a record carry the record's end as their LSN, as the pages PostgreSQL writes do.
///
/// A block's life ends where its relation is truncated or dropped. If the block comes back, its first change is a base:
/// an image, a delta that initialises the page, or a tombstone, which stands for a page of zeroes.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changes.
    pub key: Key,
    /// The end of the record that changes it.
    pub lsn: Lsn,
    /// What it becomes, or how it changes.
    pub value: Value,
}

impl Change {
    /// The change of `key` to `value` by the record that ends at `lsn`.
    pub fn new(key: Key, lsn: Lsn, value: Value) -> Change {
        Change { key, lsn, value }
    }
}
