//! Versions that are not in a layer file yet: by key, and within a key by LSN.
//!
//! A memtable is open for a while, then frozen, then flushed to one layer. It holds encoded versions only, so that its
//! size is what it says and nothing keeps a chunk of WAL alive.

use crate::accounts::{Account, Carry};
use crate::error::StorageError;
use crate::source::{Source, begins_past};
use crate::value::Version;
use quire_types::{Key, Lsn};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// What an entry costs beside its payload.
const VERSION_OVERHEAD_BYTES: usize = size_of::<Version>();
const SLOT_OVERHEAD_BYTES: usize = size_of::<(Key, Slot)>() + VERSION_OVERHEAD_BYTES;

/// The versions of one key, ascending by LSN, and its image account after the last of them.
#[derive(Debug, Default)]
struct Slot {
    versions: Vec<Version>,
    account: Account,
}

/// A sorted table of versions.
#[derive(Debug)]
pub struct Memtable {
    slots: BTreeMap<Key, Slot>,
    bytes: usize,
    lsns: (Lsn, Lsn),
}

impl Default for Memtable {
    fn default() -> Memtable {
        Memtable { slots: BTreeMap::new(), bytes: 0, lsns: (Lsn::MAX, Lsn::INVALID) }
    }
}

impl Memtable {
    /// Takes in a version. One at the same place is replaced; an image stands beside the last delta that it includes.
    pub fn insert(&mut self, key: Key, version: Version, account: Account) {
        self.lsns = (self.lsns.0.min(version.lsn), self.lsns.1.max(version.lsn));
        let slot = self.slots.entry(key).or_insert_with(|| {
            self.bytes += SLOT_OVERHEAD_BYTES;
            Slot::default()
        });
        slot.account = account;
        self.bytes += version.payload.len();
        let at = slot.versions.partition_point(|other| other.place() < version.place());
        match slot.versions.get_mut(at).filter(|other| other.place() == version.place()) {
            Some(other) => {
                self.bytes -= other.payload.len();
                *other = version;
            }
            None => {
                self.bytes += VERSION_OVERHEAD_BYTES;
                slot.versions.insert(at, version);
            }
        }
    }

    /// Memory it takes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether there is a page at exactly `lsn`, beside a delta or alone.
    pub fn has_page_at(&self, key: Key, lsn: Lsn) -> bool {
        let Some(slot) = self.slots.get(&key) else { return false };
        slot.versions.binary_search_by_key(&(lsn, true), Version::place).is_ok()
    }

    /// All versions in order.
    pub fn entries(&self) -> impl Iterator<Item = (Key, &Version)> {
        self.slots.iter().flat_map(|(key, slot)| slot.versions.iter().map(move |version| (*key, version)))
    }

    /// The image accounts of its pages, in key order.
    pub fn carries(&self) -> impl Iterator<Item = Carry> + '_ {
        let pages = self.slots.iter().filter(|(key, _)| key.is_page());
        pages.map(|(key, slot)| Carry { key: *key, account: slot.account })
    }
}

impl Source for Memtable {
    /// Whether it is so of any key; to look for the key is as quick as to visit it.
    fn may_hold(&self, _key: Key, after: Lsn, upto: Lsn) -> bool {
        self.lsns.0 <= upto && self.lsns.1 > after
    }

    fn visit(
        &self,
        key: Key,
        after: Lsn,
        upto: Lsn,
        visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let Some(slot) = self.slots.get(&key) else { return Ok(()) };
        let end = slot.versions.partition_point(|version| version.lsn <= upto);
        for version in slot.versions[..end].iter().rev() {
            if version.lsn <= after || visit(version.clone()).is_break() {
                break;
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
        if begins_past(from, to) {
            return Ok(Vec::new());
        }
        let newest = |(key, slot): (&Key, &Slot)| {
            let version = slot.versions.iter().rev().find(|version| version.lsn <= upto)?;
            Some((*key, version.clone()))
        };
        Ok(self.slots.range((from, Bound::Included(to))).filter_map(newest).take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Kind;
    use bytes::Bytes;

    fn version(lsn: u64, kind: Kind, payload: &'static str) -> Version {
        Version { lsn: Lsn(lsn), kind, payload: Bytes::from_static(payload.as_bytes()) }
    }

    fn seen(table: &Memtable, after: u64, upto: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        let visited = table.visit(Key::ControlFile, Lsn(after), Lsn(upto), &mut |version| {
            seen.push(version.lsn.0);
            ControlFlow::Continue(())
        });
        visited.unwrap();
        seen
    }

    #[test]
    fn versions_come_newest_first_whatever_the_order_they_came_in() {
        let mut table = Memtable::default();
        for lsn in [10, 30, 20, 40] {
            table.insert(Key::ControlFile, version(lsn, Kind::Delta, "x"), Account::default());
        }
        assert_eq!(seen(&table, 0, 100), [40, 30, 20, 10]);
        assert_eq!(seen(&table, 10, 30), [30, 20]);
        assert_eq!(seen(&table, 40, 100), [0; 0]);
    }

    #[test]
    fn an_image_stands_beside_the_delta_at_its_lsn_and_another_page_takes_its_place() {
        let mut table = Memtable::default();
        table.insert(Key::ControlFile, version(10, Kind::Image, "image!!"), Account::default());
        table.insert(Key::ControlFile, version(10, Kind::Delta, "delta"), Account::default());
        assert!(table.has_page_at(Key::ControlFile, Lsn(10)) && !table.has_page_at(Key::ControlFile, Lsn(9)));
        let bytes = table.bytes();
        table.insert(Key::ControlFile, version(10, Kind::Written, "a written page"), Account::default());
        assert_eq!(table.bytes(), bytes + 7);
        let kinds: Vec<_> = table.entries().map(|(_, version)| version.kind).collect();
        assert_eq!(kinds, [Kind::Delta, Kind::Written]);
        assert_eq!(seen(&table, 0, 100), [10, 10]);
    }

    #[test]
    fn a_range_gives_the_newest_visible_version_of_each_key() {
        let mut table = Memtable::default();
        for (xid, lsn) in [(1, 10), (1, 20), (2, 30), (3, 10)] {
            table.insert(Key::TwoPhase { xid }, version(lsn, Kind::Bytes, "x"), Account::default());
        }
        let from = |xid| Bound::Included(Key::TwoPhase { xid });
        let range = |from, upto, limit| {
            let found = table.newest_in_range(from, Key::TwoPhase { xid: 9 }, Lsn(upto), limit).unwrap();
            found.into_iter().map(|(key, version)| (key.to_string(), version.lsn.0)).collect::<Vec<_>>()
        };
        let (one, three) = ("prepared transaction 1".to_owned(), "prepared transaction 3".to_owned());
        assert_eq!(range(from(1), 25, 10), [(one.clone(), 20), (three.clone(), 10)]);
        assert_eq!(range(from(1), 15, 1), [(one, 10)]);
        assert_eq!(range(from(10), 15, 1), []);
    }
}
