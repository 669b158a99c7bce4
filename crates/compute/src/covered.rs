//! How much was compared of what a server writes.

use parking_lot::{Mutex, MutexGuard};
use quire_types::{Key, Lsn};
use quire_wal::ServerVersion;
use std::collections::{BTreeMap, HashSet};

/// Pages of a kind that have to be equal.
pub const PAGES_WANTED: usize = 1000;

/// Which pages of a server were equal, by kind.
#[derive(Debug, Default)]
pub struct Covered(Mutex<Option<(ServerVersion, Pages)>>);

type Pages = BTreeMap<&'static str, HashSet<(Key, Lsn)>>;

impl Covered {
    /// How many pages of each kind were equal under this server.
    pub fn counts(&self, server: ServerVersion) -> BTreeMap<&'static str, usize> {
        let known = self.lock();
        let pages = known.as_ref().filter(|(whose, _)| *whose == server).map(|(_, pages)| pages);
        pages.into_iter().flatten().map(|(kind, pages)| (*kind, pages.len())).collect()
    }

    /// Whether one more page is wanted of a kind that was not equal often enough.
    pub(crate) fn wants(&self, server: ServerVersion, kind: &'static str, page: (Key, Lsn)) -> bool {
        let known = self.lock();
        let pages = known.as_ref().filter(|(whose, _)| *whose == server).and_then(|(_, pages)| pages.get(kind));
        pages.is_none_or(|pages| pages.len() < PAGES_WANTED && !pages.contains(&page))
    }

    /// Notes that a page was equal.
    pub(crate) fn equal(&self, server: ServerVersion, kind: &'static str, page: (Key, Lsn)) {
        let mut known = self.lock();
        match known.as_mut().filter(|(whose, _)| *whose == server) {
            Some((_, pages)) => _ = pages.entry(kind).or_default().insert(page),
            // What another server wrote proves nothing of this one.
            None => *known = Some((server, BTreeMap::from([(kind, HashSet::from([page]))]))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(ServerVersion, Pages)>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, RelTag};

    const SERVER: ServerVersion = ServerVersion::new(15, 99);
    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };

    fn page_of(block: u32, lsn: u64) -> (Key, Lsn) {
        (Key::RelBlock { rel: REL, block }, Lsn(lsn))
    }

    #[test]
    fn a_page_counts_once_for_each_lsn_until_there_are_enough_of_its_kind() {
        let covered = Covered::default();
        assert!(covered.wants(SERVER, "Heap", page_of(0, 1)));
        covered.equal(SERVER, "Heap", page_of(0, 1));
        covered.equal(SERVER, "Heap", page_of(0, 1));
        assert!(!covered.wants(SERVER, "Heap", page_of(0, 1)) && covered.wants(SERVER, "Heap", page_of(0, 2)));
        assert_eq!(covered.counts(SERVER), BTreeMap::from([("Heap", 1)]));
        (1..1000).for_each(|block| covered.equal(SERVER, "Heap", page_of(block, 1)));
        assert!(!covered.wants(SERVER, "Heap", page_of(5000, 1)) && covered.wants(SERVER, "Gist", page_of(5000, 1)));
    }

    #[test]
    fn what_another_server_wrote_does_not_count() {
        let (covered, newer) = (Covered::default(), ServerVersion::new(15, 100));
        covered.equal(SERVER, "Heap", page_of(0, 1));
        assert!(covered.counts(newer).is_empty() && covered.wants(newer, "Heap", page_of(0, 1)));
        covered.equal(newer, "Gist", page_of(0, 1));
        assert_eq!(covered.counts(newer), BTreeMap::from([("Gist", 1)]));
    }
}
