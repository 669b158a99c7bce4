//! Pages of one shard, put together from what its store has of them.
//!
//! Both reads and image workers come here, so both are blamed for a panic of redo in the same way, pass over the same
//! pages, and report what cannot be read in one place.

use crate::put_aside::PutAside;
use crate::read_failures::ReadFailures;
use bytes::Bytes;
use quire_crash::{Work, work};
use quire_layers::chain::{Chain, Redo};
use quire_layers::error::{ReadError, StorageError};
use quire_layers::guard::Guard;
use quire_layers::manifest::Origin;
use quire_layers::store::Store;
use quire_types::{Key, Lsn};
use std::time::Instant;
use tracing::error;

/// Rebuilds pages of one shard.
#[derive(Debug)]
pub struct Rebuilder {
    origin: Origin,
    store: Store,
    redo: Redo,
    put_aside: PutAside,
    guard: Guard,
    read_failures: ReadFailures,
}

impl Rebuilder {
    /// Rebuilds what `store` has by `redo`, but for the pages that are put aside.
    pub fn new(store: Store, redo: Redo, put_aside: PutAside) -> Rebuilder {
        let (origin, guard, read_failures) = (store.origin(), Guard::default(), ReadFailures::default());
        Rebuilder { origin, store, redo, put_aside, guard, read_failures }
    }

    /// What was imported.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where the versions are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is not done any more because this process panicked of it.
    pub fn put_aside(&self) -> &PutAside {
        &self.put_aside
    }

    /// Relations of which redo is not trusted.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// What there is of a page as of `lsn`.
    pub fn chain(&self, key: Key, lsn: Lsn) -> Result<Chain, ReadError> {
        let (mut chains, _) = self.store.chains(&[key], lsn)?;
        Ok(chains.pop().expect("one key gives one chain"))
    }

    /// The page that a chain comes to. A panic of redo is blamed on this page.
    pub fn replay(&self, chain: &Chain) -> Result<Bytes, ReadError> {
        let (key, lsn) = (chain.key(), chain.upto());
        if let Some(record) = self.put_aside.pages.get(&key) {
            let (record, folder) = (*record, self.put_aside.folder.clone());
            return Err(ReadError::PutAside { key, record, folder });
        }
        let Origin { branch, shard, .. } = self.origin;
        let _working = work::begin(Work::Page { branch, shard, key, lsn, record: Lsn::INVALID });
        quire_crash::plant_for(|| format!("redo {key}"));
        chain.replay(self.redo)
    }

    /// A page as of `lsn`, and its chain.
    pub fn rebuild(&self, key: Key, lsn: Lsn) -> Result<(Chain, Bytes), ReadError> {
        let chain = self.chain(key, lsn)?;
        let page = self.replay(&chain)?;
        Ok((chain, page))
    }

    /// Logs that something could not be read, unless it was logged a moment ago.
    pub fn note_unread(&self, reason: &StorageError) {
        if self.read_failures.note(reason.to_string(), Instant::now()) {
            error!(branch = %self.origin.branch, %reason, "read failed; dependent requests wait or fail");
        }
    }

    /// What could not be read just now.
    pub fn unread(&self) -> Option<String> {
        self.read_failures.latest(Instant::now())
    }
}
