//! Relation and SLRU files, made as of the start with nothing in them: what they hold is read from storage when it is
//! needed.
//!
//! `global/` and the SLRU areas are made before PostgreSQL starts, a relation of a database when a process first asks
//! for it or when its turn in the background comes ([`Database`]). So a start takes the same time however many
//! relations there are. What is not made: free space maps, which are no pages of storage's (`kept/free_space.rs` puts
//! them back). A relation with an init fork is unlogged, and its main fork starts as a copy of that, wholly local, as
//! after a crash.

mod database;
mod files;

use crate::Error;
use crate::kept::free_space::FreeSpaceMaps;
use crate::page_client::PageClient;
use crate::setting::Setting;
use bytes::Bytes;
pub use database::Database;
use database::Parts;
use files::Maker;
use parking_lot::Mutex;
use quire_cache::FileId;
use quire_types::{Key, Lsn, RelTag, SLRU_SEGMENT_PAGES, size};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Makes the files of one compute, as of the LSN it started at.
#[derive(Debug)]
pub struct Materialiser {
    parts: Arc<Parts>,
    /// The databases that storage has.
    databases: HashMap<(u32, u32), Arc<Database>>,
}

impl Materialiser {
    /// A materialiser of the state at `start`; `entries` are all of storage's small entries then.
    pub fn new(
        setting: &Setting,
        client: PageClient,
        maps: Arc<FreeSpaceMaps>,
        start: Lsn,
        entries: &[(Key, Bytes)],
    ) -> Materialiser {
        let maker =
            Maker { dir: setting.cache_dir(), owner: setting.owner, start, allowed: Arc::new(Mutex::new(true)) };
        let parts = Arc::new(Parts { maker, client, maps });
        let database = |key: &Key| match *key {
            Key::Database { tablespace, database } => {
                Some(((tablespace, database), Arc::new(Database::new(tablespace, database, parts.clone()))))
            }
            _ => None,
        };
        let databases = entries.iter().filter_map(|(key, _)| database(key)).collect();
        Materialiser { parts, databases }
    }

    /// A database in a tablespace, if storage has it.
    pub fn database(&self, tablespace: u32, database: u32) -> Option<&Arc<Database>> {
        self.databases.get(&(tablespace, database))
    }

    /// Lets no more be made, and returns when nothing is: the directory is going to be another session's.
    pub fn end(&self) {
        self.parts.maker.end();
    }

    /// The shared relations.
    pub async fn global(&self) -> Result<(), Error> {
        Database::new(RelTag::GLOBAL_TABLESPACE, 0, self.parts.clone()).make_all().await
    }

    /// Databases (with their tablespaces) whose directories are complete.
    pub fn complete(&self) -> BTreeSet<(u32, u32)> {
        self.databases.iter().filter(|(_, database)| database.is_complete()).map(|(key, _)| *key).collect()
    }

    /// The segments of all SLRU areas.
    pub fn slrus(&self, entries: &[(Key, Bytes)]) -> Result<(), Error> {
        for (key, value) in entries {
            if let Key::SlruSegment { slru, segment } = *key {
                let pages = size_value(*key, value)?;
                if pages > SLRU_SEGMENT_PAGES {
                    return Err(unusable(*key, format!("{pages} pages")));
                }
                self.parts.maker.sparse_file(FileId::Slru { slru, segment }, pages)?;
            }
        }
        Ok(())
    }
}

fn size_value(key: Key, value: &[u8]) -> Result<u32, Error> {
    size::decode(value).map_err(|error| unusable(key, error.to_string()))
}

fn unusable(key: Key, reason: String) -> Error {
    Error::Storage { what: "size", reason: format!("{key}: {reason}") }
}
