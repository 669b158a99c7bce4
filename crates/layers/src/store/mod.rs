//! The versions of one shard of a branch: an open memtable, frozen ones, and runs of layers.
//!
//! An `UPDATE` becomes versions in the open memtable. Once that is large or old it is frozen at the end of a record,
//! written out as a layer in the background, and named in the manifest; from then on the log up to the freeze is not
//! needed any more. Compaction merges runs of layers so that a read has few to visit.
//!
//! Invariants:
//! - sources are ordered: the open memtable is newest, then the frozen ones, then the runs; a version of a key that is
//!   not a page never is in a newer source than one with a higher LSN. Images made by workers and pages as PostgreSQL
//!   wrote them are the exception among pages, see [`crate::chain`];
//! - a record's versions are taken in together, under the lock that reads take;
//! - no version is ever dropped, but for a page in whose place another came at the same LSN;
//! - an image beside a delta is a worker's, and can be made again; one alone is what the log says;
//! - a write that failed before its file got its name, as on a full disk, left nothing and may be repeated; one of
//!   which that is not known is the last, until the shard is opened again.
//!
//! Lock order: `publishing`, then `manifest` or `tables`, which are held for moments. Files are read and written under
//! neither of these two.

mod compaction;
mod flush;
mod keep;
mod read;
mod tables;

pub use compaction::choose_runs;
pub use keep::{KeepingGuard, KeptPage};
pub use read::Scanned;
pub use tables::Run;

use crate::accounts::Account;
use crate::error::{ApplyError, StorageError};
use crate::image_policy::ImageSettings;
use crate::layer::{BlockCache, LayerFolder};
use crate::manifest::{LayerId, Manifest, Origin, RunEntry};
use crate::objects::Objects;
use crate::value::{Kind, Version};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use quire_types::{Key, Lsn};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tables::Tables;

/// The storage of one shard.
#[derive(Debug)]
pub struct Store {
    objects: Arc<dyn Objects>,
    layers: LayerFolder,
    cache: Arc<BlockCache>,
    layer_bytes: u64,
    tables: RwLock<Tables>,
    /// What is published; held for moments only.
    manifest: Mutex<Manifest>,
    /// Held while another manifest is published, and until reads see what it says.
    publishing: Mutex<()>,
    flushing: Mutex<()>,
    compacting: Mutex<()>,
    failed: Mutex<Option<String>>,
    closed: AtomicBool,
}

/// What a store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreSize {
    /// Runs of layers, the most layers that a read visits.
    pub runs: usize,
    /// Layer files.
    pub layers: usize,
    /// Their bytes.
    pub layer_bytes: u64,
    /// Memtables waiting to be flushed.
    pub frozen_memtables: usize,
    /// Bytes in memtables.
    pub memtable_bytes: usize,
}

impl Store {
    /// Opens what `manifest` names among a shard's objects, and removes layers that it does not name. Compaction makes
    /// layers of about `layer_bytes`.
    pub fn open(
        objects: Arc<dyn Objects>,
        manifest: Manifest,
        cache: &Arc<BlockCache>,
        layer_bytes: u64,
    ) -> Result<Store, StorageError> {
        let layers = LayerFolder::new(Arc::clone(&objects), &manifest.origin);
        layers.retain(manifest.runs.iter().flat_map(|run| run.layers.iter().copied()))?;
        let runs = manifest.runs.iter().map(|run| open_run(&layers, run, cache));
        let tables = Tables::open(runs.collect::<Result<_, _>>()?)?;
        Ok(Store {
            objects,
            layers,
            cache: Arc::clone(cache),
            layer_bytes,
            tables: RwLock::new(tables),
            manifest: Mutex::new(manifest),
            publishing: Mutex::default(),
            flushing: Mutex::default(),
            compacting: Mutex::default(),
            failed: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// What was imported.
    pub fn origin(&self) -> Origin {
        self.manifest().origin
    }

    /// Everything before is in layers.
    pub fn durable(&self) -> Lsn {
        self.manifest().durable
    }

    /// Ingest's state as of [`Store::durable`]; empty if nothing was ingested.
    pub fn ingest_state(&self) -> Bytes {
        self.manifest().ingest_state.clone()
    }

    /// The branch's image settings.
    pub fn settings(&self) -> ImageSettings {
        self.manifest().settings
    }

    /// Changes the image settings, durably.
    pub fn set_settings(&self, settings: ImageSettings) -> Result<(), StorageError> {
        self.change_manifest(|manifest| manifest.settings = settings).map(drop)
    }

    /// Takes in the versions of one record, all at once, and gives the accounts of the pages among them.
    pub fn insert(&self, versions: Vec<(Key, Version)>) -> Result<Vec<(Key, Account)>, ApplyError> {
        refuse_duplicates(&versions)?;
        let mut tables = self.write();
        let tables = &mut *tables;
        let mut touched = Vec::new();
        for (key, version) in versions {
            let account = if key.is_page() { tables.accounts.record(key, &version) } else { Account::default() };
            if account.deltas > 0 {
                touched.push((key, account));
            }
            tables.open.insert(key, version, account);
        }
        Ok(touched)
    }

    /// Keeps the image that was made of a page whose account was `settled`; gives the rest of the account, or nothing
    /// if the page has another base by now and the image is not needed.
    ///
    /// `epoch` is that of the chain that the image was made of: written pages that were kept since may belong into it.
    pub fn keep_image(&self, key: Key, image: Bytes, settled: &Account, epoch: u64) -> Option<Account> {
        let mut tables = self.write();
        if !tables.is_still(epoch) {
            return None;
        }
        let rest = tables.accounts.settle(key, settled)?;
        tables.open.insert(key, Version { lsn: settled.last, kind: Kind::Image, payload: image }, rest);
        Some(rest)
    }

    /// Keeps an image of a page as it was at `lsn`, before its newest base; says whether it was needed.
    pub fn keep_historical_image(&self, key: Key, lsn: Lsn, image: Bytes, epoch: u64) -> bool {
        let mut tables = self.write();
        let account = tables.accounts.get(key);
        let is_historical = account.deltas == 0 || lsn < account.since;
        let is_new = !tables.open.has_page_at(key, lsn);
        let is_needed = is_historical && is_new && tables.is_still(epoch);
        if is_needed {
            tables.open.insert(key, Version { lsn, kind: Kind::Image, payload: image }, account);
        }
        is_needed
    }

    /// Counts the keeping of written pages; see [`Chain::epoch`](crate::chain::Chain::epoch).
    pub fn epoch(&self) -> u64 {
        self.read().epoch
    }

    /// A page's image account.
    pub fn account(&self, key: Key) -> Account {
        self.read().accounts.get(key)
    }

    /// The pages with the longest chains.
    pub fn longest_chains(&self, count: usize) -> Vec<(Key, Account)> {
        self.read().accounts.longest(count)
    }

    /// Up to `count` pages whose chains have reached a threshold and that `skip` does not hold back.
    pub fn pages_past_threshold(&self, settings: &ImageSettings, count: usize, skip: &HashSet<Key>) -> Vec<Key> {
        let tables = self.read();
        let past = tables.accounts.iter().filter(|(_, account)| settings.reached(account.deltas, account.bytes));
        past.map(|(key, _)| key).filter(|key| !skip.contains(key)).take(count).collect()
    }

    /// How much there is.
    pub fn size(&self) -> StoreSize {
        self.read().size()
    }

    /// Memtables that wait to be flushed.
    pub fn frozen_memtables(&self) -> usize {
        self.read().frozen.len()
    }

    /// Writes nothing any more: the next process to open the directory is alone.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // A publication that is under way ends before this lock is given.
        drop(self.publishing.lock());
    }

    /// Bytes in the open memtable.
    pub fn open_bytes(&self) -> usize {
        self.read().open.bytes()
    }

    /// Whether nothing is written any more before the shard is opened again.
    pub fn has_failed(&self) -> bool {
        self.check_not_failed().is_err()
    }

    /// Publishes a changed manifest, and gives the lock under which it is the present one. After an error the old one
    /// is.
    fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<MutexGuard<'_, ()>, StorageError> {
        let publishing = self.publishing.lock();
        self.check_not_failed()?;
        let mut changed = self.manifest().clone();
        change(&mut changed);
        self.note_unsettled(changed.publish(self.objects.as_ref()))?;
        let mut manifest = self.manifest();
        // Layers may have been given numbers meanwhile.
        changed.next_layer = changed.next_layer.max(manifest.next_layer);
        *manifest = changed;
        drop(manifest);
        Ok(publishing)
    }

    /// Passes a result on, and remembers an error after which it is not known what the directory holds.
    fn note_unsettled<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error @ StorageError::Unsettled { .. }) = &result {
            self.failed.lock().get_or_insert(error.to_string());
        }
        result
    }

    /// Removes layers that were not adopted, lest repeated attempts fill the disk. As long as a manifest on disk may
    /// name them, they stay.
    fn discard(&self, layers: impl IntoIterator<Item = LayerId>) {
        if !self.has_failed() {
            // What cannot be removed now is removed when the shard is opened.
            layers.into_iter().for_each(|layer| drop(self.layers.remove(layer)));
        }
    }

    fn check_not_failed(&self) -> Result<(), StorageError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(StorageError::Failed("the pageserver is shutting down".into()));
        }
        match &*self.failed.lock() {
            Some(reason) => Err(StorageError::Failed(reason.clone())),
            None => Ok(()),
        }
    }

    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write()
    }
}

fn refuse_duplicates(versions: &[(Key, Version)]) -> Result<(), ApplyError> {
    if versions.len() < 2 {
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(versions.len());
    match versions.iter().find(|(key, _)| !seen.insert(*key)) {
        Some((key, version)) => Err(ApplyError::Duplicate { key: *key, lsn: version.lsn }),
        None => Ok(()),
    }
}

fn open_run(layers: &LayerFolder, entry: &RunEntry, cache: &Arc<BlockCache>) -> Result<Run, StorageError> {
    let open = |id: &LayerId| Ok((*id, layers.open(*id, cache)?));
    Ok(Run { tier: entry.tier, layers: entry.layers.iter().map(open).collect::<Result<_, StorageError>>()? })
}
