//! What reads look for versions in. [Memtables](crate::memtable::Memtable) and [layers](crate::layer::Layer) are
//! sources; a read asks one after the other, the newest first.

use crate::error::StorageError;
use crate::value::Version;
use quire_types::{Key, Lsn};
use std::ops::{Bound, ControlFlow};

/// A sorted set of versions.
pub trait Source {
    /// Whether it may have a version of `key` with an LSN above `after` and at most `upto`; cheap.
    fn may_hold(&self, key: Key, after: Lsn, upto: Lsn) -> bool;

    /// Shows the versions of `key` with LSNs above `after` and at most `upto`, newest first, until told to stop.
    fn visit(
        &self,
        key: Key,
        after: Lsn,
        upto: Lsn,
        visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StorageError>;

    /// The newest version at or below `upto` of each key in the range, up to `limit` keys, in key order.
    fn newest_in_range(
        &self,
        from: Bound<Key>,
        to: Key,
        upto: Lsn,
        limit: usize,
    ) -> Result<Vec<(Key, Version)>, StorageError>;

    /// The newest version of `key` at or below `upto`.
    fn newest(&self, key: Key, upto: Lsn) -> Result<Option<Version>, StorageError> {
        let mut newest = None;
        if self.may_hold(key, Lsn::INVALID, upto) {
            self.visit(key, Lsn::INVALID, upto, &mut |version| {
                newest = Some(version);
                ControlFlow::Break(())
            })?;
        }
        Ok(newest)
    }
}

/// Whether a range with this lower bound has no key up to `last`.
pub(crate) fn begins_past(from: Bound<Key>, last: Key) -> bool {
    match from {
        Bound::Included(from) => from > last,
        Bound::Excluded(from) => from >= last,
        Bound::Unbounded => false,
    }
}
