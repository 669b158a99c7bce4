//! One pageserver process: opened, run until it is told to stop.

use crate::compactor::Compactor;
use crate::config::Config;
use crate::http::{self, HttpState};
use crate::images::ImagePool;
use crate::metrics::Metrics;
use crate::server;
use crate::shards::{ShardState, Shards};
use nix::fcntl::{Flock, FlockArg};
use quire_layers::error::StorageError;
use quire_net::{Acceptor, ListenError};
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tracing::info;

/// Why a pageserver does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum PageserverError {
    /// Another process has the data directory.
    #[error("{0} is used by another pageserver")]
    Locked(String),
    /// A port could not be taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread cannot be started, or the HTTP server failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The data directory cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A pageserver that has its files and its ports, and serves once it is [run](Pageserver::run).
#[derive(Debug)]
pub struct Pageserver {
    config: Config,
    shards: Arc<Shards>,
    metrics: Arc<Metrics>,
    pool: Arc<ImagePool>,
    compactor: Compactor,
    pages: Acceptor,
    http: Acceptor,
    _lock: Flock<File>,
}

impl Pageserver {
    /// Takes the data directory and the ports, and opens every branch found.
    pub async fn open(config: Config) -> Result<Pageserver, PageserverError> {
        quire_files::create_folder(&config.data_dir).map_err(StorageError::from)?;
        let lock = lock(&config.data_dir)?;
        quire_crash::hook::keep_notes_in(&config.data_dir);
        let (pages, http) = (Acceptor::bind(config.listen)?, Acceptor::bind(config.http)?);
        let (metrics, pool, compactor) = (Arc::new(Metrics::new()), ImagePool::new(), Compactor::default());
        let shards = Shards::new(config.clone(), Arc::clone(&metrics), Arc::clone(&pool), compactor.clone());
        let shards = Arc::new(shards);
        shards.open_all()?;
        Ok(Pageserver { config, shards, metrics, pool, compactor, pages, http, _lock: lock })
    }

    /// Where computes connect.
    pub fn page_address(&self) -> io::Result<SocketAddr> {
        self.pages.local_addr()
    }

    /// Where status and metrics are served.
    pub fn http_address(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Serves until `shutdown` is ready. What is in memory then is not written: it is in the WAL, as after a crash.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), PageserverError> {
        let mut threads = self.pool.start(self.config.image_workers.max(1))?;
        threads.push(self.compactor.start()?);
        for (key, known) in self.shards.list() {
            if let ShardState::Open(shard) = known {
                info!(branch = %key.branch, durable = %shard.pages().progress().durable, "serving");
                self.shards.start(&shard);
            }
        }
        self.shards.retry_failed();
        let state = HttpState { shards: Arc::clone(&self.shards), metrics: Arc::clone(&self.metrics) };
        let served = tokio::select! {
            () = server::serve(self.pages, Arc::clone(&self.shards), self.config.read_timeout()) => Ok(()),
            result = async { axum::serve(self.http, http::router(state)).await } => result.map_err(Into::into),
            () = shutdown => Ok(()),
        };
        self.shards.shut_down().await;
        self.pool.end();
        self.compactor.end();
        join(threads).await;
        served
    }
}

async fn join(threads: Vec<JoinHandle<()>>) {
    let join_all = move || threads.into_iter().for_each(|thread| drop(thread.join()));
    let _ = tokio::task::spawn_blocking(join_all).await;
}

fn lock(data_dir: &Path) -> Result<Flock<File>, PageserverError> {
    let path = data_dir.join("lock");
    let file = File::create(&path).map_err(StorageError::io("create", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| PageserverError::Locked(path.display().to_string()))
}
