//! The role: configuration, listeners, shutdown.

use crate::branch_logs::BranchLogs;
use crate::connection;
use crate::error::SafekeeperError;
use crate::http::router;
use crate::log::LogContext;
use crate::metrics::Metrics;
use crate::segment_thread::SegmentThread;
use crate::shared::Shared;
use parking_lot::Mutex;
use quire_net::Acceptor;
use quire_net::blocking::{self, Closer};
use quire_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::watch;

/// A peer that takes nothing for this long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a safekeeper needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its number, distinct among the safekeepers of a quorum; its data directory remembers it.
    pub node: NodeId,
    /// Where proposers, readers and followers connect. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/status` and `/metrics` are.
    pub http: SocketAddr,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// WAL segments kept before the one with the last committed byte, even if they are not needed.
    #[serde(default = "default_keep_segments")]
    pub keep_segments: u64,
}

fn default_keep_segments() -> u64 {
    1
}

/// A safekeeper whose logs are open and whose ports are taken.
#[derive(Debug)]
pub struct Safekeeper {
    shared: Arc<Shared>,
    quorum: Acceptor,
    http: Acceptor,
}

impl Safekeeper {
    /// Opens the logs, each at the end that a crash may have left, and takes the ports; within a tokio runtime.
    pub fn open(config: Config) -> Result<Safekeeper, SafekeeperError> {
        let metrics = Arc::new(Metrics::new());
        quire_crash::hook::keep_notes_in(&config.data_dir);
        let context = LogContext {
            node: config.node,
            segment_thread: SegmentThread::start()?,
            keep_segments: config.keep_segments,
        };
        let logs = BranchLogs::open(&config.data_dir, context, metrics.clone())?;
        let shared = Arc::new(Shared { node: config.node, logs, metrics });
        Ok(Safekeeper { shared, quorum: Acceptor::bind(config.listen)?, http: Acceptor::bind(config.http)? })
    }

    /// Where proposers, readers and followers connect.
    pub fn quorum_address(&self) -> io::Result<SocketAddr> {
        self.quorum.local_addr()
    }

    /// Where `/status` and `/metrics` are.
    pub fn http_address(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Serves until `shutdown`, then ends all connections and closes the logs.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), SafekeeperError> {
        let Safekeeper { shared, quorum, http } = self;
        let address = quorum.local_addr().map_err(SafekeeperError::Port)?;
        tracing::info!(node = %shared.node, %address, "safekeeper is ready");
        let (stop, stopped) = watch::channel(false);
        let http = tokio::spawn(serve_http(shared.clone(), http, stopped));
        let connections = Connections::default();
        tokio::select! {
            () = accept_all(&shared, quorum, &connections) => {}
            () = shutdown => {}
        }
        let _ = stop.send(true);
        let closed = tokio::task::spawn_blocking(move || close(&shared, connections)).await;
        let served = http.await.map_err(|_| SafekeeperError::Thread("http"))?;
        closed.map_err(|_| SafekeeperError::Thread("shutdown"))?;
        served
    }
}

async fn serve_http(
    shared: Arc<Shared>,
    acceptor: Acceptor,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), SafekeeperError> {
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let served = axum::serve(acceptor, router(shared)).with_graceful_shutdown(stop).await;
    served.map_err(SafekeeperError::Port)
}

/// Never ends by itself.
async fn accept_all(shared: &Arc<Shared>, mut acceptor: Acceptor, connections: &Connections) {
    loop {
        quire_crash::plant("safekeeper.accept");
        let (connection, address) = acceptor.accept().await;
        let connection = connection.into_blocking(WRITE_TIMEOUT);
        if let Err(error) = connection.and_then(|connection| connections.start(shared, connection, address)) {
            acceptor.cannot_accept(&error).await;
        }
    }
}

/// The open connections, to be able to end them.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<Mutex<OpenConnections>>);

#[derive(Debug, Default)]
struct OpenConnections {
    last: u64,
    closers: HashMap<u64, Closer>,
    threads: Vec<JoinHandle<()>>,
}

impl Connections {
    fn start(&self, shared: &Arc<Shared>, connection: blocking::Connection, address: SocketAddr) -> io::Result<()> {
        let closer = connection.closer()?;
        let mut open = self.0.lock();
        open.last += 1;
        let (number, connections, shared) = (open.last, self.clone(), shared.clone());
        let serve = move || {
            shared.metrics.connections().inc();
            connection::serve(shared.clone(), connection, address);
            shared.metrics.connections().dec();
            connections.ended(number);
        };
        let thread = thread::Builder::new().name("connection".into()).spawn(serve)?;
        open.threads.retain(|thread| !thread.is_finished());
        open.threads.push(thread);
        open.closers.insert(number, closer);
        Ok(())
    }

    fn ended(&self, number: u64) {
        let mut open = self.0.lock();
        if let Some(closer) = open.closers.remove(&number) {
            // A follower's thread may still hold the connection.
            closer.close();
        }
    }

    fn end_all(&self) -> Vec<JoinHandle<()>> {
        let mut open = self.0.lock();
        open.closers.values().for_each(Closer::close);
        std::mem::take(&mut open.threads)
    }
}

fn close(shared: &Shared, connections: Connections) {
    for thread in connections.end_all() {
        let _ = thread.join();
    }
    for log in shared.logs.all() {
        if let Err(error) = log.close() {
            tracing::warn!(branch = %log.key(), %error, "the state could not be written at shutdown");
        }
    }
    tracing::info!(node = %shared.node, "safekeeper has stopped");
}
