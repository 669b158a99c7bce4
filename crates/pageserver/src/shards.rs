//! All shards of a pageserver: opening, importing, looking up.

use crate::compactor::Compactor;
use crate::config::Config;
use crate::follower::{FollowerConfig, follow};
use crate::images::ImagePool;
use crate::metrics::Metrics;
use crate::pipeline::{MemtableLimits, Pipeline, PipelineError};
use crate::put_aside::PutAside;
use crate::shard::{Shard, keep_flushing};
use crate::shard_key::ShardKey;
use crate::shard_pages::{ShardPages, ShardPagesParts};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use quire_layers::error::StorageError;
use quire_layers::import::{self, Import, ImportError};
use quire_layers::layer::BlockCache;
use quire_layers::manifest::{Manifest, Origin};
use quire_layers::objects::{LocalFolder, Objects};
use quire_layers::small_files::{FileError, SmallFiles};
use quire_layers::store::Store;
use quire_types::{Backoff, BranchId, BranchKey, Key, ProjectId, ShardId};
use quire_wal::postgres_version::{PostgresVersion, PostgresVersions, SUPPORTED};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{error, info};

/// How long a shard that could not be opened is left alone, at first and at most.
const REOPEN_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// A shard that is known here.
#[derive(Clone, Debug)]
pub enum ShardState {
    /// It is served.
    Open(Arc<Shard>),
    /// Its files could not be opened, and this is tried again; the reason is for people.
    Failed(Arc<str>),
}

/// Why a shard could not be opened or imported.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The shard was imported before.
    #[error("branch {0} exists")]
    Exists(BranchKey),
    /// Values were sent without a beginning.
    #[error("no import of branch {0} is under way")]
    NoImport(BranchKey),
    /// The start of an import must be a segment boundary.
    #[error("an import starts at a segment boundary, not at {0}")]
    Start(quire_types::Lsn),
    /// The shard's layers may be there, but what they are is not known. An earlier version left this of an import that
    /// was interrupted, too.
    #[error(
        "cannot find the manifest in {0}: put it back from a copy; only if this branch was never whole, because its import was \
         interrupted, remove that directory. Until then its files are left as they are"
    )]
    NoManifest(PathBuf),
    /// What was imported does not suffice for ingest.
    #[error("the import is incomplete: {0}")]
    Incomplete(PipelineError),
    /// A value was not taken.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A small file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The branch is of a major version whose log and pages are not known.
    #[error("the branch is of PostgreSQL {found}, which is not supported (supported: {supported})")]
    Major {
        /// The branch's.
        found: u32,
        /// Those that are known.
        supported: PostgresVersions,
    },
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The shards of one pageserver, and what they share.
#[derive(Debug)]
pub struct Shards {
    config: Config,
    metrics: Arc<Metrics>,
    cache: Arc<BlockCache>,
    pool: Arc<ImagePool>,
    compactor: Compactor,
    known: RwLock<BTreeMap<ShardKey, ShardState>>,
    imports: Mutex<HashMap<ShardKey, Import>>,
    tasks: Mutex<JoinSet<()>>,
    shutdown: watch::Sender<bool>,
}

impl Shards {
    /// No shards yet.
    pub fn new(config: Config, metrics: Arc<Metrics>, pool: Arc<ImagePool>, compactor: Compactor) -> Shards {
        Shards {
            cache: BlockCache::new(config.block_cache_bytes),
            config,
            metrics,
            pool,
            compactor,
            known: RwLock::default(),
            imports: Mutex::default(),
            tasks: Mutex::default(),
            shutdown: watch::Sender::new(false),
        }
    }

    /// Opens every shard in the data directory, and removes unfinished imports. One that cannot be opened is known as
    /// failed; the others are served. Nothing of it is removed, whatever is missing.
    pub fn open_all(&self) -> Result<(), StorageError> {
        for key in self.found_on_disk()? {
            let dir = key.directory(&self.config.data_dir);
            if is_empty(&dir)? {
                continue;
            }
            let known = self.open_in(&dir).map_or_else(
                |reason| {
                    error!(branch = %key.branch, %reason, "cannot open branch, will retry");
                    ShardState::Failed(reason.to_string().into())
                },
                ShardState::Open,
            );
            self.known.write().insert(key, known);
        }
        Ok(())
    }

    /// Has what could not be opened tried again until it can.
    pub fn retry_failed(self: &Arc<Shards>) {
        let mut tasks = self.tasks.lock();
        for (key, known) in self.list() {
            if let ShardState::Failed(reason) = known {
                tasks.spawn(Arc::clone(self).keep_opening(key, reason));
            }
        }
    }

    async fn keep_opening(self: Arc<Shards>, key: ShardKey, mut reason: Arc<str>) {
        let mut shutdown = self.shutdown.subscribe();
        let mut backoff = REOPEN_BACKOFF;
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|ended| *ended) => return,
                () = tokio::time::sleep(backoff.after_failure()) => {}
            }
            let shards = Arc::clone(&self);
            match spawn_blocking(move || shards.open_again(key)).await {
                Ok(Ok(shard)) => {
                    info!(branch = %key.branch, "open again");
                    return self.start(&shard);
                }
                Ok(Err(other)) if *other != *reason => {
                    error!(branch = %key.branch, reason = %other, "cannot open branch");
                    reason = other;
                }
                Ok(Err(_)) => {}
                Err(_) => return,
            }
        }
    }

    /// Tries to open a shard that failed: what was missing may have been put back.
    fn open_again(&self, key: ShardKey) -> Result<Arc<Shard>, Arc<str>> {
        let opened = self.open_in(&key.directory(&self.config.data_dir));
        let opened = opened.map_err(|reason| Arc::from(reason.to_string()));
        let known = opened.clone().map_or_else(ShardState::Failed, ShardState::Open);
        self.known.write().insert(key, known);
        opened
    }

    /// The shards in the data directory. What unfinished imports left there is removed on the way.
    fn found_on_disk(&self) -> Result<Vec<ShardKey>, StorageError> {
        let mut found = Vec::new();
        for (project, dir) in subdirectories::<ProjectId>(&self.config.data_dir)? {
            for (branch, dir) in subdirectories::<BranchId>(&dir)? {
                let branch = BranchKey { project, branch };
                for (UnfinishedImport, dir) in subdirectories(&dir)? {
                    info!(branch = %branch, "removing an unfinished import");
                    import::discard(&dir)?;
                }
                for (ShardDir(shard), _) in subdirectories::<ShardDir>(&dir)? {
                    found.push(ShardKey { branch, shard });
                }
            }
        }
        Ok(found)
    }

    fn open_in(&self, dir: &Path) -> Result<Arc<Shard>, ShardError> {
        let objects = Arc::new(LocalFolder::open(dir)?);
        let manifest = Manifest::load(objects.as_ref())?.ok_or_else(|| ShardError::NoManifest(dir.to_owned()))?;
        self.open(objects, SmallFiles::open_in(dir)?, manifest)
    }

    /// The shard, if it is known.
    pub fn get(&self, key: ShardKey) -> Option<ShardState> {
        self.known.read().get(&key).cloned()
    }

    /// All shards, in order.
    pub fn list(&self) -> Vec<(ShardKey, ShardState)> {
        let known = self.known.read();
        known.iter().map(|(key, known)| (*key, known.clone())).collect()
    }

    /// Begins an import; one of the same shard that is under way is discarded.
    pub fn begin_import(&self, origin: Origin) -> Result<(), ShardError> {
        let key = ShardKey { branch: origin.branch, shard: origin.shard };
        if self.get(key).is_some() {
            return Err(ShardError::Exists(key.branch));
        }
        if origin.segment_bytes == 0 || origin.start.segment_offset(origin.segment_bytes.into()) != 0 {
            return Err(ShardError::Start(origin.start));
        }
        find_version(origin.postgres_version)?;
        let mut imports = self.imports();
        imports.remove(&key);
        let dir = key.directory(&self.config.data_dir);
        imports.insert(key, Import::begin(&dir, origin, self.config.images, self.config.memtable_bytes)?);
        Ok(())
    }

    /// Takes values of an import.
    pub fn import(&self, key: ShardKey, values: Vec<(Key, Bytes)>) -> Result<(), ShardError> {
        let mut imports = self.imports();
        let import = imports.get_mut(&key).ok_or(ShardError::NoImport(key.branch))?;
        for (key, value) in values {
            import.put(key, value)?;
        }
        Ok(())
    }

    /// Ends an import: the shard exists durably, and is opened.
    pub fn finish_import(&self, key: ShardKey) -> Result<Arc<Shard>, ShardError> {
        let mut imports = self.imports();
        let import = imports.remove(&key).ok_or(ShardError::NoImport(key.branch))?;
        import.finish()?;
        let dir = key.directory(&self.config.data_dir);
        let opened = self.open_in(&dir);
        if opened.is_err() {
            // Its creation was not acknowledged.
            import::discard(&dir)?;
        }
        let shard = opened?;
        let mut known = self.known.write();
        known.insert(key, ShardState::Open(Arc::clone(&shard)));
        Ok(shard)
    }

    fn open(&self, objects: Arc<dyn Objects>, files: SmallFiles, manifest: Manifest) -> Result<Arc<Shard>, ShardError> {
        let version = find_version(manifest.origin.postgres_version)?;
        let origin = manifest.origin;
        let store = Store::open(objects, manifest, &self.cache, self.config.layer_bytes)?;
        let parts = ShardPagesParts {
            redo: quire_redo::apply,
            backlog_max: self.config.image_backlog_max,
            pool: Arc::clone(&self.pool),
            metrics: self.metrics.shard(origin.branch, origin.shard),
            put_aside: PutAside::read(&self.config.data_dir, ShardKey { branch: origin.branch, shard: origin.shard })
                .map_err(StorageError::io("read notes of panics in", &self.config.data_dir))?,
        };
        let pages = ShardPages::new(store, parts);
        pages.write_evidence();
        let limits = MemtableLimits { bytes: self.config.memtable_bytes, age: self.config.memtable_age() };
        let pipeline = Pipeline::open(&pages, version, limits).map_err(ShardError::Incomplete)?;
        Ok(Shard::new(pages, pipeline, files)?)
    }

    /// Starts the tasks of a shard: flushing, and following the WAL.
    pub fn start(&self, shard: &Arc<Shard>) {
        let follower = FollowerConfig {
            node: self.config.node,
            safekeepers: self.config.safekeepers.clone(),
            timeout: self.config.safekeeper_timeout(),
        };
        let mut tasks = self.tasks.lock();
        tasks.spawn(keep_flushing(Arc::clone(shard), self.compactor.clone(), self.shutdown.subscribe()));
        tasks.spawn(follow(Arc::clone(shard), follower, self.shutdown.subscribe()));
    }

    /// Ends all tasks of all shards. What is in memory is in the WAL, too, and is not written.
    pub async fn shut_down(&self) {
        self.shutdown.send_replace(true);
        for (_, known) in self.list() {
            if let ShardState::Open(shard) = known {
                shard.pages().shut_down();
            }
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }

    fn imports(&self) -> MutexGuard<'_, HashMap<ShardKey, Import>> {
        self.imports.lock()
    }
}

/// The name of a shard's directory.
struct ShardDir(ShardId);

impl FromStr for ShardDir {
    type Err = ();

    fn from_str(text: &str) -> Result<ShardDir, ()> {
        let (number, count) = text.split_once('-').ok_or(())?;
        let part = |text: &str| text.parse().map_err(|_| ());
        Ok(ShardDir(ShardId { number: part(number)?, count: part(count)? }))
    }
}

/// The name of the directory of an import.
struct UnfinishedImport;

impl FromStr for UnfinishedImport {
    type Err = ();

    fn from_str(text: &str) -> Result<UnfinishedImport, ()> {
        import::target_name(text).ok_or(())?.parse::<ShardDir>().map(|_| UnfinishedImport)
    }
}

/// Whether nothing is in a directory: it is no shard, nor what is left of one.
fn is_empty(dir: &Path) -> Result<bool, StorageError> {
    Ok(fs::read_dir(dir).map_err(StorageError::io("list", dir))?.next().is_none())
}

/// The subdirectories whose names are of one kind; others are none of ours.
fn subdirectories<T: FromStr>(dir: &Path) -> Result<Vec<(T, PathBuf)>, StorageError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(StorageError::io("list", dir))? {
        let path = entry.map_err(StorageError::io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(name) = name.filter(|_| path.is_dir()) {
            found.push((name, path));
        }
    }
    Ok(found)
}

/// The version of PostgreSQL that a shard's branch is of.
fn find_version(major: u32) -> Result<&'static PostgresVersion, ShardError> {
    SUPPORTED.of_major(major).ok_or(ShardError::Major { found: major, supported: SUPPORTED })
}
