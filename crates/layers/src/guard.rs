//! Relations under guard: what redo makes of them is not trusted any more.
//!
//! A compute found a page on which redo and PostgreSQL differ. From then on it sends the relation's pages as PostgreSQL
//! wrote them, and says so by a small file called `guard/<tablespace>/<database>/<relation>` with the LSN from which
//! on. A page of which deltas after that LSN would have to be replayed is an error, and gets no image: either a written
//! page covers them, or it is not known whether it does.

use crate::chain::Chain;
use parking_lot::RwLock;
use quire_protocol::page::GUARD_PREFIX;
use quire_types::{Key, Lsn};
use std::collections::HashMap;

/// Tablespace, database and relation.
type Relation = (u32, u32, u32);

/// The relations of a shard that are under guard. A compute puts few there: it turns pushdown off instead.
#[derive(Debug, Default)]
pub struct Guard {
    relations: RwLock<HashMap<Relation, Lsn>>,
}

impl Guard {
    /// A small file was kept: if it names a relation, that is under guard from `since` on.
    pub fn kept(&self, name: &str, since: Lsn) {
        if let Some(relation) = relation_of(name) {
            self.relations.write().insert(relation, since);
        }
    }

    /// A small file was removed.
    pub fn removed(&self, name: &str) {
        if let Some(relation) = relation_of(name) {
            self.relations.write().remove(&relation);
        }
    }

    /// From when on the page's relation is under guard, if it is and the chain has deltas after that.
    pub fn forbids(&self, chain: &Chain) -> Option<Lsn> {
        let Key::RelBlock { rel, .. } = chain.key() else { return None };
        let relations = self.relations.read();
        let since = *relations.get(&(rel.tablespace, rel.database, rel.relation))?;
        chain.versions().any(|version| version.kind.is_delta() && version.lsn > since).then_some(since)
    }
}

fn relation_of(name: &str) -> Option<Relation> {
    let mut numbers = name.strip_prefix(GUARD_PREFIX)?.split('/').map(|number| number.parse::<u32>().ok());
    let relation = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(relation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Kind, Version};
    use bytes::Bytes;
    use quire_types::{Fork, RelTag};

    fn chain(relation: u32, versions: &[(u64, Kind)]) -> Chain {
        let rel = RelTag { tablespace: 1663, database: 5, relation, fork: Fork::Init };
        let mut chain = Chain::new(Key::RelBlock { rel, block: 7 }, Lsn(100));
        for (lsn, kind) in versions.iter().rev() {
            let _ = chain.offer(Version { lsn: Lsn(*lsn), kind: *kind, payload: Bytes::new() });
        }
        chain
    }

    #[test]
    fn deltas_since_the_guard_began_are_not_replayed_and_others_are() {
        let guard = Guard::default();
        guard.kept("guard/1663/5/16384", Lsn(50));
        let of = |versions: &[(u64, Kind)]| guard.forbids(&chain(16384, versions));
        assert_eq!(of(&[(10, Kind::Image), (40, Kind::Delta), (50, Kind::Delta)]), None);
        assert_eq!(of(&[(10, Kind::Image), (51, Kind::Delta)]), Some(Lsn(50)));
        assert_eq!(of(&[(60, Kind::InitialDelta)]), Some(Lsn(50)));
        assert_eq!(of(&[(60, Kind::Written)]), None);
        assert_eq!(of(&[(60, Kind::Image)]), None, "an image in the log");
        assert_eq!(guard.forbids(&chain(16385, &[(60, Kind::InitialDelta)])), None, "another relation");
        guard.removed("guard/1663/5/16384");
        assert_eq!(of(&[(60, Kind::InitialDelta)]), None);
    }

    #[test]
    fn other_small_files_name_no_relation() {
        for name in ["guard/1663/5", "guard/1663/5/16384/1", "guard/a/b/c", "fsm/1663/5/16384", ""] {
            assert_eq!(relation_of(name), None, "{name}");
        }
    }
}
