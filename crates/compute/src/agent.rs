//! The agent of one compute: takes its directory and runs what keeps it going.

use crate::handle::{Command, Handle};
use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::postgres::{self, SHIM};
use crate::setting::Setting;
use crate::supervisor::Supervisor;
use crate::{Config, Error, http, place, sample, server, upgrade};
use quire_files::{Durability, Staged};
use quire_net::Acceptor;
use std::fs::{self, File, Permissions, TryLockError};
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A compute agent that is not running yet.
#[derive(Debug)]
pub struct Agent {
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    acceptor: Acceptor,
    /// Two agents must not share a directory. Held for as long as the agent lives.
    _lock: File,
}

impl Agent {
    /// Checks the settings, prepares the compute's directory and binds the HTTP interface. Nothing is started yet.
    pub async fn open(config: Config) -> Result<Agent, Error> {
        let config = config.checked()?;
        let owner = Owner::detect(&config)?;
        let lock = prepare(&config, owner)?;
        quire_crash::hook::keep_notes_in(&config.dir);
        let shim = copy_shim(&config)?;
        postgres::check_shim(&config, owner, &shim)?;
        let version = server::find_version(&config, owner)?;
        let acceptor = Acceptor::bind(config.http).map_err(|error| Error::Config(error.to_string()))?;
        let (sender, commands) = mpsc::channel(16);
        let setting = Setting { config: Arc::new(config), owner, metrics: Arc::new(Metrics::new()), version };
        let handle = Handle::new(setting, shim, sender);
        Ok(Agent { handle, commands, acceptor, _lock: lock })
    }

    /// A handle to this agent.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where the HTTP interface is.
    pub fn http_address(&self) -> Result<SocketAddr, Error> {
        self.acceptor.local_addr().map_err(|error| Error::System("cannot learn the HTTP address", error))
    }

    /// Starts PostgreSQL and keeps it as ordered until `shutdown` completes, or until a newer compute is elected.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let serving = tokio::spawn(http::serve(self.acceptor, self.handle.clone()));
        let rate = self.handle.config().tuning.verify_rate();
        let sampling = tokio::spawn(sample::run(self.handle.clone(), rate));
        let watching = tokio::spawn(upgrade::watch(self.handle.clone()));
        let outcome = Supervisor::new(self.handle, self.commands).run(Box::pin(shutdown)).await;
        serving.abort();
        sampling.abort();
        watching.abort();
        outcome
    }
}

/// Makes the directory, takes its lock, and makes it PostgreSQL's.
fn prepare(config: &Config, owner: Owner) -> Result<File, Error> {
    fs::create_dir_all(&config.dir).map_err(Error::file("create", &config.dir))?;
    owner.check_reachable(&config.dir)?;
    let path = config.dir.join("agent.lock");
    let lock = File::create(&path).map_err(Error::file("create", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Config(format!("another agent works in {}", config.dir.display())));
        }
        Err(TryLockError::Error(error)) => return Err(Error::file("lock", &path)(error)),
    }
    owner.give(&config.dir)?;
    let closed = fs::set_permissions(&config.dir, Permissions::from_mode(0o700));
    closed.map_err(Error::file("close to others", &config.dir))?;
    if let Some(folder) = &config.socket_dir {
        place::folder(folder, owner)?;
    }
    Ok(lock)
}

/// Puts the shim where PostgreSQL's user can read it, by a rename: a process may have the old one mapped.
fn copy_shim(config: &Config) -> Result<PathBuf, Error> {
    let path = config.dir.join(SHIM);
    let shim = fs::read(&config.shim).map_err(Error::file("read", &config.shim))?;
    let mut staged = Staged::create(&path)?;
    staged.write(&shim)?;
    staged.set_mode(0o755)?;
    staged.publish(Durability::Process)?;
    Ok(path)
}
