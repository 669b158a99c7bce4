//! The role: configuration, listeners, shutdown.

use crate::branch_logs::BranchLogs;
use crate::connection;
use crate::error::SafekeeperError;
use crate::http::router;
use crate::log::LogContext;
use crate::metrics::Metrics;
use crate::segment_thread::SegmentThread;
use crate::shared::Shared;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use quire_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often it is told that no connection can be accepted.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

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
    /// WAL segments kept before the one with the last committed byte, even if nobody needs them.
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
    quorum: TcpListener,
    http: TcpListener,
}

impl Safekeeper {
    /// Opens the logs, each at the end that a crash may have left, and takes the ports.
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
        Ok(Safekeeper { shared, quorum: listen(config.listen)?, http: listen(config.http)? })
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
        let address = quorum.local_addr().map_err(listen_error("the quorum port"))?;
        tracing::info!(node = %shared.node, %address, "safekeeper is ready");
        let (stop, stopped) = watch::channel(false);
        let http = tokio::spawn(serve_http(shared.clone(), http, stopped));
        let connections = Connections::default();
        let accepted = tokio::select! {
            result = accept_all(&shared, quorum, &connections) => result,
            () = shutdown => Ok(()),
        };
        let _ = stop.send(true);
        let closed = tokio::task::spawn_blocking(move || close(&shared, connections)).await;
        let served = http.await.map_err(|_| SafekeeperError::Thread("http"))?;
        closed.map_err(|_| SafekeeperError::Thread("shutdown"))?;
        accepted.and(served)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, SafekeeperError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(listen_error(&address.to_string()))
}

fn listen_error(address: &str) -> impl FnOnce(io::Error) -> SafekeeperError {
    let address = address.to_owned();
    move |source| SafekeeperError::Listen { address, source }
}

async fn serve_http(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), SafekeeperError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(listen_error("the HTTP port"))?;
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let served = axum::serve(listener, router(shared)).with_graceful_shutdown(stop).await;
    served.map_err(listen_error("the HTTP port"))
}

async fn accept_all(
    shared: &Arc<Shared>,
    listener: TcpListener,
    connections: &Connections,
) -> Result<(), SafekeeperError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(listen_error("the quorum port"))?;
    let mut told: Option<Instant> = None;
    loop {
        quire_crash::plant("safekeeper.accept");
        let started = match listener.accept().await {
            Ok((stream, address)) => prepare(stream).and_then(|stream| connections.start(shared, stream, address)),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            // Out of descriptors or threads: others may end meanwhile.
            if told.is_none_or(|told| told.elapsed() > TELL_INTERVAL) {
                tracing::warn!(%error, "a connection could not be accepted, will retry");
                told = Some(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Makes an accepted stream fit for a thread of its own.
fn prepare(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &10)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &5)?;
    Ok(stream)
}

/// The open connections, to be able to end them.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<Mutex<OpenConnections>>);

#[derive(Debug, Default)]
struct OpenConnections {
    last: u64,
    streams: HashMap<u64, TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Connections {
    fn start(&self, shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr) -> io::Result<()> {
        let second = stream.try_clone()?;
        let mut open = self.0.lock();
        open.last += 1;
        let (number, connections, shared) = (open.last, self.clone(), shared.clone());
        let serve = move || {
            shared.metrics.connections().inc();
            connection::serve(shared.clone(), stream, address);
            shared.metrics.connections().dec();
            connections.ended(number);
        };
        let thread = thread::Builder::new().name("connection".into()).spawn(serve)?;
        open.threads.retain(|thread| !thread.is_finished());
        open.threads.push(thread);
        open.streams.insert(number, second);
        Ok(())
    }

    fn ended(&self, number: u64) {
        let mut open = self.0.lock();
        if let Some(stream) = open.streams.remove(&number) {
            // A follower's thread may still hold the socket.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn end_all(&self) -> Vec<JoinHandle<()>> {
        let mut open = self.0.lock();
        for stream in open.streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
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
