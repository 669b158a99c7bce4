//! What every part of an agent is set up with.

use crate::cache_dir::CacheDir;
use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::{Config, Error};
use quire_wal::postgres_version::PostgresVersion;
use std::sync::Arc;

/// What does not change between starts.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The checked settings.
    pub config: Arc<Config>,
    /// Who owns what PostgreSQL writes.
    pub owner: Owner,
    /// The agent's metrics.
    pub metrics: Arc<Metrics>,
    /// The version of the PostgreSQL that the agent runs.
    pub version: &'static PostgresVersion,
}

impl Setting {
    /// Where the cache is.
    pub fn cache_dir(&self) -> CacheDir {
        CacheDir::new(&self.config.dir, self.version)
    }
}

/// Runs `work`, which blocks, with a copy of the setting.
pub async fn blocking<R: Send + 'static>(
    setting: &Setting,
    work: impl FnOnce(&Setting) -> Result<R, Error> + Send + 'static,
) -> Result<R, Error> {
    let setting = setting.clone();
    tokio::task::spawn_blocking(move || work(&setting)).await.map_err(|_| Error::ShuttingDown)?
}
