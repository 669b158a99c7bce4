//! The files of one database in one tablespace, which are made one relation at a time.
//!
//! Until all are made, a process asks for a relation before it looks at any file of it, and gets it at once, whatever
//! else is to be made; from then on the relation's files are the process's. All others are made in the background, a
//! few at a time. What is made is as of the start, so it does not matter when it is read from storage; that nothing is
//! made twice is what the lock is for.

use super::files::{Maker, Relation};
use crate::Error;
use crate::kept::free_space::{FreeSpaceMaps, StoredDatabase};
use crate::page_client::PageClient;
use bytes::Bytes;
use quire_protocol::page::MAX_KEYS;
use quire_types::{Fork, Key};
use quire_wal::DataPath;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell, watch};

/// How long to wait for the pageserver.
const PATIENCE: Duration = Duration::from_secs(60);
/// Relations that are made at once; who asks for one waits for no more than these.
const BATCH: usize = 4;
/// How long after a failure the background tries again.
const RETRY: Duration = Duration::from_secs(1);

/// What is needed to make files.
#[derive(Debug)]
pub struct Parts {
    /// Makes them.
    pub maker: Maker,
    /// Where storage's are.
    pub client: PageClient,
    /// Free space maps.
    pub maps: Arc<FreeSpaceMaps>,
}

/// A database in a tablespace; the shared relations are database 0.
#[derive(Debug)]
pub struct Database {
    tablespace: u32,
    database: u32,
    parts: Arc<Parts>,
    begun: OnceCell<()>,
    progress: Mutex<Progress>,
    state: watch::Sender<State>,
}

/// How far all of it is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Making,
    Failed(String),
    Complete,
}

/// Which relations are made.
#[derive(Debug, Default)]
struct Progress {
    /// All below this one.
    below: u32,
    /// Those from there on that were asked for.
    asked: BTreeSet<u32>,
}

impl Progress {
    fn is_made(&self, relation: u32) -> bool {
        relation < self.below || self.asked.contains(&relation)
    }

    fn advance(&mut self, below: u32) {
        self.below = below;
        self.asked = self.asked.split_off(&below);
    }
}

impl Database {
    /// A database of which nothing is made.
    pub fn new(tablespace: u32, database: u32, parts: Arc<Parts>) -> Database {
        let (begun, progress) = (OnceCell::new(), Mutex::default());
        Database { tablespace, database, parts, begun, progress, state: watch::Sender::new(State::Making) }
    }

    /// Whether all of it is made.
    pub fn is_complete(&self) -> bool {
        *self.state.borrow() == State::Complete
    }

    /// Makes one relation, if there is one of this number; says whether the whole database is made.
    pub async fn relation(self: &Arc<Database>, relation: u32) -> Result<bool, Error> {
        if self.is_complete() {
            return Ok(true);
        }
        self.begin().await?;
        if !self.progress.lock().await.is_made(relation) {
            let found = self.some(relation, relation).await?.0;
            let mut progress = self.progress.lock().await;
            self.make(&progress, found).await?;
            progress.asked.insert(relation);
        }
        Ok(false)
    }

    /// Waits until all of it is made. What the background fails with is an error for all that wait.
    pub async fn whole(self: &Arc<Database>) -> Result<(), Error> {
        self.begin().await?;
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| *state != State::Making).await.map_err(|_| Error::ShuttingDown)?;
        match &*ended {
            State::Failed(reason) => Err(Error::Storage { what: "database", reason: reason.clone() }),
            _ => Ok(()),
        }
    }

    /// Makes all of it, with no other thread beside.
    pub async fn make_all(&self) -> Result<(), Error> {
        self.make_folders().await?;
        self.make_rest().await?;
        self.state.send_replace(State::Complete);
        Ok(())
    }

    /// Lets the background begin, once.
    async fn begin(self: &Arc<Database>) -> Result<(), Error> {
        let begin = || async {
            self.make_folders().await?;
            tokio::spawn(self.clone().make_in_background());
            Ok(())
        };
        self.begun.get_or_try_init(begin).await.map(drop)
    }

    async fn make_in_background(self: Arc<Database>) {
        while let Err(error) = self.make_rest().await {
            if matches!(error, Error::ShuttingDown) {
                return;
            }
            tracing::warn!(%error, self.tablespace, self.database, "cannot make a database's files, will retry");
            self.state.send_replace(State::Failed(error.to_string()));
            tokio::time::sleep(RETRY).await;
            self.state.send_replace(State::Making);
        }
        self.state.send_replace(State::Complete);
        self.parts.maps.forget_unknown(&*self).await;
    }

    async fn make_folders(&self) -> Result<(), Error> {
        let folder = DataPath::Database { tablespace: self.tablespace, database: self.database }
            .to_path(self.parts.maker.dir.version());
        let parts = self.parts.clone();
        blocking(move || parts.maker.meta_folders(&PathBuf::from(folder))).await
    }

    /// Makes what is not made yet.
    async fn make_rest(&self) -> Result<(), Error> {
        let mut from = Some(self.progress.lock().await.below);
        while let Some(first) = from {
            let (found, next) = self.some(first, u32::MAX).await?;
            let mut found = VecDeque::from(found);
            while !found.is_empty() {
                let batch = found.drain(..found.len().min(BATCH)).collect();
                let mut progress = self.progress.lock().await;
                self.make(&progress, batch).await?;
                progress.advance(found.front().map(|relation| relation.rel.relation).or(next).unwrap_or(u32::MAX));
            }
            from = next;
        }
        Ok(())
    }

    /// Makes those of some relations that are not made, while no other thread can.
    async fn make(&self, progress: &Progress, mut relations: Vec<Relation>) -> Result<(), Error> {
        relations.retain(|relation| !progress.is_made(relation.rel.relation));
        for relation in &mut relations {
            relation.init_pages = self.init_pages(relation).await?;
            relation.free_space = self.parts.maps.stored(relation.rel, relation.blocks(Fork::Main)).await;
        }
        let parts = self.parts.clone();
        let make = move || {
            parts.maker.relations(&relations)?;
            let restored = relations.iter().filter(|relation| relation.free_space.is_some());
            restored.for_each(|relation| parts.maps.is_restored(relation.rel));
            Ok(())
        };
        blocking(make).await
    }

    async fn init_pages(&self, relation: &Relation) -> Result<Vec<Bytes>, Error> {
        let Parts { maker, client, .. } = &*self.parts;
        let rel = relation.rel.with_fork(Fork::Init);
        let keys: Vec<Key> = (0..relation.blocks(Fork::Init)).map(|block| Key::RelBlock { rel, block }).collect();
        let mut pages = Vec::new();
        for some in keys.chunks(MAX_KEYS) {
            pages.extend(client.get_pages_retrying(maker.start, some.to_vec(), PATIENCE).await?);
        }
        Ok(pages)
    }

    /// The first relations from `first` to `last`, and where more of them begin.
    async fn some(&self, first: u32, last: u32) -> Result<(Vec<Relation>, Option<u32>), Error> {
        let (from, to) = Key::sizes_of(self.tablespace, self.database, (first, last));
        let Parts { maker, client, .. } = &*self.parts;
        let (entries, more) = client.scan_some(maker.start, from, to, PATIENCE).await?;
        let mut relations = relations(&entries)?;
        // The forks of the last one may not all be here.
        let next = if more { relations.pop().map(|last| last.rel.relation) } else { None };
        if more && next.is_none_or(|next| next <= first && relations.is_empty()) {
            Err(Error::Storage { what: "size", reason: "a list of relations does not go on".into() })
        } else {
            Ok((relations, next))
        }
    }

    /// The tablespace, and the database's number.
    pub fn id(&self) -> (u32, u32) {
        (self.tablespace, self.database)
    }
}

impl StoredDatabase for Database {
    fn id(&self) -> (u32, u32) {
        Database::id(self)
    }

    async fn has(&self, relation: u32) -> Result<bool, Error> {
        Ok(!self.some(relation, relation).await?.0.is_empty())
    }
}

fn relations(entries: &[(Key, Bytes)]) -> Result<Vec<Relation>, Error> {
    let mut relations: Vec<Relation> = Vec::new();
    for (key, value) in entries {
        let Key::RelSize { rel } = key else { continue };
        let blocks = super::size_value(*key, value)?;
        let main = rel.with_fork(Fork::Main);
        match relations.last_mut().filter(|last| last.rel == main) {
            Some(last) => drop(last.forks.insert(rel.fork, blocks)),
            None => relations.push(Relation {
                rel: main,
                forks: BTreeMap::from([(rel.fork, blocks)]),
                init_pages: Vec::new(),
                free_space: None,
            }),
        }
    }
    Ok(relations)
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R, Error> + Send + 'static) -> Result<R, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::ShuttingDown)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::RelTag;

    #[test]
    fn what_was_asked_for_and_what_the_background_has_passed_is_made() {
        let mut progress = Progress::default();
        progress.asked.extend([5, 20]);
        assert_eq!([4, 5, 20].map(|relation| progress.is_made(relation)), [false, true, true]);
        progress.advance(20);
        assert_eq!([4, 19, 20, 21].map(|relation| progress.is_made(relation)), [true, true, true, false]);
        assert_eq!(progress.asked.len(), 1, "what the background has passed is not kept");
    }

    #[test]
    fn the_forks_of_a_relation_are_one_relation() {
        let rel = |relation, fork| RelTag { tablespace: 1663, database: 5, relation, fork };
        let entry = |relation, fork, blocks: u32| {
            (Key::RelSize { rel: rel(relation, fork) }, Bytes::copy_from_slice(&blocks.to_le_bytes()))
        };
        let entries = [entry(7, Fork::Main, 3), entry(7, Fork::Init, 1), entry(9, Fork::Main, 0)];
        let [first, second] = &relations(&entries).expect("sizes")[..] else { panic!("two relations") };
        assert_eq!((first.rel, first.blocks(Fork::Main), first.blocks(Fork::Init)), (rel(7, Fork::Main), 3, 1));
        assert_eq!((first.is_unlogged(), second.is_unlogged()), (true, false));
        let damaged = [(Key::RelSize { rel: rel(7, Fork::Main) }, Bytes::from_static(b"xy"))];
        assert!(relations(&damaged).is_err());
    }
}
