//! Following a branch's WAL on the safekeepers.
//!
//! There is a connection to each safekeeper. One of them, the source, sends WAL; all are told what is durable here, so
//! that they know what they may remove. When the source fails, falls silent, or knows less than others for too long,
//! the next one becomes the source, from the byte that is needed next: committed WAL is the same everywhere.

use crate::pipeline::PipelineError;
use crate::shard::Shard;
use bytes::Bytes;
use quire_net::connection::{Connection, Reader, Writer};
use quire_net::{DialError, frames};
use quire_protocol::FrameError;
use quire_protocol::quorum::{ErrorCode, LogIdentity, Request, Response};
use quire_types::{Endpoint, Lsn, NodeId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long to wait before a safekeeper is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Where the WAL comes from, and how patient to be.
#[derive(Clone, Debug)]
pub struct FollowerConfig {
    /// This node.
    pub node: NodeId,
    /// The safekeepers.
    pub safekeepers: Vec<Endpoint>,
    /// How long a source may be silent, or behind.
    pub timeout: Duration,
}

/// Why a connection to a safekeeper ended.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it was silent for too long")]
    Silent,
    #[error("it knows WAL up to {commit}, others up to {newest}")]
    Behind { commit: Lsn, newest: Lsn },
    #[error("it refuses: {code:?}: {message}")]
    Refused { code: ErrorCode, message: String },
    #[error("it has no log of the branch yet")]
    NoLog,
    #[error("its log is of another server: {0}")]
    OtherLog(LogIdentity),
    #[error("ingest stopped: {0}")]
    Ingest(#[from] PipelineError),
    #[error("the pageserver is shutting down")]
    ShuttingDown,
}

impl From<io::Error> for FollowError {
    fn from(error: io::Error) -> FollowError {
        FollowError::Frame(error.into())
    }
}

#[derive(Debug)]
struct Follower {
    shard: Arc<Shard>,
    config: FollowerConfig,
    /// Which safekeeper sends WAL.
    source: watch::Sender<usize>,
    /// The highest committed LSN that any safekeeper has told.
    newest_commit: AtomicU64,
}

/// Follows until shutdown.
pub async fn follow(shard: Arc<Shard>, config: FollowerConfig, mut shutdown: watch::Receiver<bool>) {
    let count = config.safekeepers.len();
    let follower =
        Arc::new(Follower { shard, config, source: watch::Sender::new(0), newest_commit: AtomicU64::new(0) });
    let mut connections = JoinSet::new();
    for index in 0..count {
        connections.spawn(Arc::clone(&follower).keep_connected(index));
    }
    // An error says that the sender is gone, which is an end, too.
    let _ = shutdown.wait_for(|ended| *ended).await;
    connections.shutdown().await;
}

impl Follower {
    async fn keep_connected(self: Arc<Follower>, index: usize) {
        let mut source = self.source.subscribe();
        loop {
            let is_source = *source.borrow_and_update() == index && !self.is_ingest_stopped();
            tokio::select! {
                error = self.converse(index, is_source) => self.note_end(index, is_source, &error),
                _ = source.changed() => continue,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn is_ingest_stopped(&self) -> bool {
        self.shard.pages().progress().health.is_stopped()
    }

    fn note_end(&self, index: usize, is_source: bool, error: &FollowError) {
        let (branch, safekeeper) = (self.shard.pages().origin().branch, &self.config.safekeepers[index]);
        match error {
            FollowError::Ingest(reason) => warn!(%branch, %reason, "ingest stops"),
            FollowError::NoLog => debug!(%branch, %safekeeper, "no log yet"),
            error if is_source => warn!(%branch, %safekeeper, %error, "the source of WAL fails; trying the next"),
            error => debug!(%branch, %safekeeper, %error, "connection ends"),
        }
        if is_source {
            let next = (index + 1) % self.config.safekeepers.len();
            self.source.send_if_modified(|source| std::mem::replace(source, next) != next);
        }
    }

    /// One connection, from hello to whatever ends it.
    async fn converse(&self, index: usize, is_source: bool) -> FollowError {
        match self.connect(index).await {
            Err(error) => error,
            Ok((reader, writer)) => {
                let result = tokio::select! {
                    result = self.receive(reader, is_source) => result,
                    result = self.report(writer, is_source) => result,
                };
                result.expect_err("both go on until something fails")
            }
        }
    }

    async fn connect(&self, index: usize) -> Result<(Reader, Writer), FollowError> {
        let connection = Connection::dial(&self.config.safekeepers[index], self.config.timeout).await?;
        let (mut reader, mut writer) = connection.split();
        let hello = Request::Hello { branch: self.shard.pages().origin().branch, node: self.config.node };
        send(&mut writer, &hello).await?;
        let welcome = timeout(self.config.timeout, frames::read(&mut reader)).await;
        let welcome = Response::from_frame(&welcome.map_err(|_| FollowError::Silent)??)?;
        self.check_welcome(welcome)?;
        Ok((reader, writer))
    }

    fn check_welcome(&self, welcome: Response) -> Result<(), FollowError> {
        let origin = self.shard.pages().origin();
        match welcome {
            Response::Welcome { identity: None, .. } => Err(FollowError::NoLog),
            Response::Welcome { identity: Some(identity), .. }
                if (identity.start, identity.segment_bytes) != (origin.start, origin.segment_bytes) =>
            {
                Err(FollowError::OtherLog(identity))
            }
            Response::Welcome { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Asks for WAL, or only for news, and tells what is durable, now and whenever that changes.
    async fn report(&self, mut writer: Writer, is_source: bool) -> Result<(), FollowError> {
        let pages = self.shard.pages();
        let shard = Arc::clone(&self.shard);
        let from = spawn_blocking(move || shard.wal_position()).await.map_err(|_| FollowError::ShuttingDown)?;
        let shard = pages.origin().shard;
        send(&mut writer, &Request::Follow { from, shard, send_wal: is_source }).await?;
        let mut durable = pages.subscribe_durable();
        let mut reported = Lsn::INVALID;
        loop {
            let durable =
                *durable.wait_for(|durable| *durable > reported).await.map_err(|_| FollowError::ShuttingDown)?;
            send(&mut writer, &Request::Durable { lsn: durable }).await?;
            reported = durable;
        }
    }

    /// Takes what the safekeeper sends.
    async fn receive(&self, mut reader: Reader, is_source: bool) -> Result<(), FollowError> {
        let mut up_to_date_at = Instant::now();
        loop {
            quire_crash::plant("pageserver.follower");
            let frame = if is_source {
                timeout(self.config.timeout, frames::read(&mut reader)).await.map_err(|_| FollowError::Silent)?
            } else {
                frames::read(&mut reader).await
            };
            let (begin, commit, wal) = match Response::from_frame(&frame?)? {
                Response::Wal { begin, commit, wal } => (begin, commit, wal),
                other => return Err(unexpected(other)),
            };
            let newest = Lsn(self.newest_commit.fetch_max(commit.0, Ordering::Relaxed).max(commit.0));
            if commit >= newest {
                up_to_date_at = Instant::now();
            } else if is_source && up_to_date_at.elapsed() > self.config.timeout {
                return Err(FollowError::Behind { commit, newest });
            }
            if is_source && !wal.is_empty() {
                self.ingest(begin, wal).await?;
            }
        }
    }

    /// Ingest is work for a processor, and waits for storage where it must.
    async fn ingest(&self, begin: Lsn, wal: Bytes) -> Result<(), FollowError> {
        let shard = Arc::clone(&self.shard);
        let fed = spawn_blocking(move || shard.feed(begin, &wal)).await.map_err(|_| FollowError::ShuttingDown)?;
        fed?;
        Ok(())
    }
}

fn unexpected(response: Response) -> FollowError {
    match response {
        Response::Error { code, message } => FollowError::Refused { code, message },
        other => FrameError::Unexpected(other.to_frame(0).kind).into(),
    }
}

async fn send(writer: &mut Writer, request: &Request) -> Result<(), FollowError> {
    writer.write_all(&request.to_frame(0).encode()).await?;
    Ok(())
}
