//! Accepting connections.

use crate::connection::Connection;
use nix::sys::socket::{setsockopt, sockopt};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// How long to wait when the operating system has no more descriptors: others may end meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is logged that none can be accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// After so many seconds without a word, and then as often again, a peer is asked whether it is there.
const KEEP_ALIVE_IDLE: u32 = 10;
const KEEP_ALIVE_INTERVAL: u32 = 5;

/// A port that connections come in at.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    logged: Option<Instant>,
}

/// A port could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

impl Acceptor {
    /// Takes the port; 0 takes a free one. Must be called within a tokio runtime.
    pub fn bind(address: SocketAddr) -> Result<Acceptor, ListenError> {
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listener = bind().map_err(|source| ListenError { address, source })?;
        Ok(Acceptor { listener, logged: None })
    }

    /// The address that was taken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the next connection, however long there are no descriptors for it.
    pub async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await.and_then(prepare) {
                Ok(accepted) => return accepted,
                Err(error) => self.cannot_accept(&error).await,
            }
        }
    }

    /// Logs, seldom, that a connection was not accepted or could not be served, and pauses.
    pub async fn cannot_accept(&mut self, error: &io::Error) {
        if self.logged.is_none_or(|logged| logged.elapsed() > LOG_INTERVAL) {
            tracing::warn!(%error, "a connection could not be accepted, will retry");
            self.logged = Some(Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn prepare((stream, peer): (TcpStream, SocketAddr)) -> io::Result<(Connection, SocketAddr)> {
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL)?;
    Ok((Connection::new(stream)?, peer))
}

/// HTTP comes in the same way.
impl axum::serve::Listener for Acceptor {
    type Io = Connection;
    type Addr = SocketAddr;

    fn accept(&mut self) -> impl Future<Output = (Connection, SocketAddr)> + Send {
        Acceptor::accept(self)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Acceptor::local_addr(self)
    }
}
