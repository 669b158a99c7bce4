//! The pages that redo has arrived at, found by relation: relations are truncated, dropped and copied as wholes.

use crate::files::Page;
use quire_types::{Fork, Key, PAGE_SIZE, RelTag};
use quire_wal::effects::dbase::DatabaseDirectory;
use std::collections::{BTreeMap, HashMap};

const FORKS: [Fork; 4] = [Fork::Main, Fork::FreeSpaceMap, Fork::VisibilityMap, Fork::Init];

/// Pages by key. A page that is not there is a zeroed one.
#[derive(Default)]
pub struct Pages {
    relations: HashMap<RelTag, BTreeMap<u32, Box<Page>>>,
    others: HashMap<Key, Box<Page>>,
}

impl Pages {
    pub fn get(&self, key: Key) -> Option<&Page> {
        match key {
            Key::RelBlock { rel, block } => self.relations.get(&rel)?.get(&block).map(|page| &**page),
            other => self.others.get(&other).map(|page| &**page),
        }
    }

    /// The page, which exists from now on.
    pub fn make(&mut self, key: Key) -> &mut Page {
        let zeroed = || Box::new([0; PAGE_SIZE]);
        match key {
            Key::RelBlock { rel, block } => self.relations.entry(rel).or_default().entry(block).or_insert_with(zeroed),
            other => self.others.entry(other).or_insert_with(zeroed),
        }
    }

    /// Every page, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Page)> {
        let blocks = self.relations.iter().flat_map(|(rel, blocks)| {
            blocks.iter().map(|(block, page)| (Key::RelBlock { rel: *rel, block: *block }, &**page))
        });
        blocks.chain(self.others.iter().map(|(key, page)| (*key, &**page)))
    }

    /// Forgets a fork's pages from block `blocks` on.
    pub fn truncate(&mut self, rel: RelTag, blocks: u32) {
        if let Some(pages) = self.relations.get_mut(&rel) {
            pages.split_off(&blocks);
        }
    }

    /// Forgets all forks of a relation.
    pub fn drop_relation(&mut self, rel: RelTag) {
        for fork in FORKS {
            self.relations.remove(&rel.with_fork(fork));
        }
    }

    /// Forgets a database's relations in one tablespace.
    pub fn drop_directory(&mut self, directory: DatabaseDirectory) {
        self.relations.retain(|rel, _| !lies_in(*rel, directory));
    }

    /// Copies a database's relations in one tablespace.
    pub fn copy_directory(&mut self, target: DatabaseDirectory, source: DatabaseDirectory) {
        let DatabaseDirectory { database, tablespace } = target;
        let of_source = self.relations.iter().filter(|(rel, _)| lies_in(**rel, source));
        let copies: Vec<_> =
            of_source.map(|(rel, pages)| (RelTag { database, tablespace, ..*rel }, pages.clone())).collect();
        self.drop_directory(target);
        self.relations.extend(copies);
    }
}

/// Whether the relation is one of the database's in this tablespace.
pub fn lies_in(rel: RelTag, directory: DatabaseDirectory) -> bool {
    (rel.database, rel.tablespace) == (directory.database, directory.tablespace)
}
