//! The page protocol: computes ask, this side answers.
//!
//! Requests on a connection are worked on side by side and answered in any order, up to a bound; beyond it the
//! connection is not read. Imports are the exception: their messages take effect in the order they come.

use crate::shard::Shard;
use crate::shard_key::ShardKey;
use crate::shard_pages::{KeepError, ShardPages};
use crate::shards::{ShardError, ShardState, Shards};
use quire_layers::error::{ReadError, StorageError};
use quire_layers::import::ImportError;
use quire_layers::manifest::Origin;
use quire_layers::small_files::FileError;
use quire_net::connection::{Connection, Reader, Writer};
use quire_net::{Acceptor, frames};
use quire_protocol::page::{ErrorCode, MAX_CHAIN_BYTES, Request, Response, WrittenPage};
use quire_protocol::page_version::{self, PageVersion};
use quire_protocol::{Frame, FrameError};
use quire_types::{Key, Lsn, Term};
use quire_wal::page;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{debug, warn};

/// Requests of one connection that are worked on at the same time.
const IN_FLIGHT_MAX: usize = 64;

/// A refusal on its way to the compute.
#[derive(Debug)]
struct Refusal {
    code: ErrorCode,
    message: String,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl ToString) -> Refusal {
        Refusal { code, message: message.to_string() }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        let code = match &error {
            ReadError::NoSuchKey { .. } => ErrorCode::NoSuchKey,
            ReadError::WrongKind(_) => ErrorCode::Protocol,
            ReadError::Timeout { .. } => ErrorCode::Timeout,
            ReadError::IngestStopped { .. } => ErrorCode::IngestStopped,
            ReadError::Guarded { .. } => ErrorCode::Guarded,
            ReadError::Redo { .. } | ReadError::PutAside { .. } | ReadError::Value { .. } => ErrorCode::Corrupt,
            // Also of a damaged file, which may be whole the next time.
            ReadError::Storage(_) => ErrorCode::Storage,
        };
        Refusal::new(code, error)
    }
}

impl From<ShardError> for Refusal {
    fn from(error: ShardError) -> Refusal {
        let code = match &error {
            ShardError::Storage(_) | ShardError::Import(ImportError::Storage(_)) => ErrorCode::Storage,
            _ => ErrorCode::Protocol,
        };
        Refusal::new(code, error)
    }
}

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Refusal {
        let code = match &error {
            FileError::Fenced { .. } => ErrorCode::Fenced,
            FileError::NotFenced(_) | FileError::Name(_) | FileError::TooLong(_) | FileError::TermOutOfReach { .. } => {
                ErrorCode::Protocol
            }
            FileError::Storage(StorageError::Corrupt { .. }) => ErrorCode::Corrupt,
            FileError::Storage(_) => ErrorCode::Storage,
        };
        Refusal::new(code, error)
    }
}

impl From<KeepError> for Refusal {
    fn from(error: KeepError) -> Refusal {
        match error {
            KeepError::Read(error) => error.into(),
            KeepError::Fenced(error) => error.into(),
            KeepError::Storage(_) => Refusal::new(ErrorCode::Storage, error),
            KeepError::Stopped => Refusal::new(ErrorCode::IngestStopped, error),
            KeepError::WrongPage(_) | KeepError::Ahead { .. } | KeepError::Gap { .. } => {
                Refusal::new(ErrorCode::Protocol, error)
            }
        }
    }
}

/// Accepts connections for as long as it is polled.
pub async fn serve(mut acceptor: Acceptor, shards: Arc<Shards>, read_timeout: Duration) {
    let mut sessions = JoinSet::new();
    loop {
        quire_crash::plant("pageserver.accept");
        tokio::select! {
            (connection, peer) = acceptor.accept() => {
                let session = Session { shards: Arc::clone(&shards), read_timeout };
                sessions.spawn(async move {
                    match session.run(connection).await {
                        Ok(()) | Err(FrameError::Closed) => debug!(%peer, "connection ends"),
                        Err(error) => warn!(%peer, %error, "connection fails"),
                    }
                });
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// Serves a connection.
#[derive(Debug)]
struct Session {
    shards: Arc<Shards>,
    read_timeout: Duration,
}

impl Session {
    async fn run(self, connection: Connection) -> Result<(), FrameError> {
        let (mut reader, writer) = connection.split();
        let hello = frames::read(&mut reader).await?;
        let (answers, to_write) = mpsc::channel(IN_FLIGHT_MAX);
        let writing = tokio::spawn(write_answers(writer, to_write));
        let result = match greet(&self.shards, &hello) {
            Ok((key, welcome)) => {
                // A writer that has ended shows at the next read or answer.
                let _ = answers.send(welcome.to_frame(hello.request_id)).await;
                self.converse(key, reader, answers).await
            }
            Err(refusal) => {
                let _ = answers.send(error_frame(refusal, hello.request_id)).await;
                drop(answers);
                Ok(())
            }
        };
        // The answers that were begun are written before the connection ends.
        let _ = writing.await;
        result
    }

    async fn converse(
        &self,
        key: ShardKey,
        mut reader: Reader,
        answers: mpsc::Sender<Frame>,
    ) -> Result<(), FrameError> {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut working = JoinSet::new();
        loop {
            quire_crash::plant("pageserver.connection");
            let permit = Arc::clone(&in_flight).acquire_owned().await.expect("the semaphore is never closed");
            while working.try_join_next().is_some() {}
            let frame = frames::read(&mut reader).await?;
            let request = Request::from_frame(&frame)?;
            if is_import(&request) {
                let answer = import(Arc::clone(&self.shards), key, request).await;
                let _ = answers.send(to_frame(answer, frame.request_id)).await;
                continue;
            }
            let (known, answers, timeout) = (self.shards.get(key), answers.clone(), self.read_timeout);
            working.spawn(async move {
                let answer = answer(known, request, timeout).await;
                let _ = answers.send(to_frame(answer, frame.request_id)).await;
                drop(permit);
            });
        }
    }
}

async fn write_answers(writer: Writer, mut answers: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 << 10, writer);
    while let Some(frame) = answers.recv().await {
        writer.write_all(&frame.encode()).await?;
        if answers.is_empty() {
            writer.flush().await?;
        }
    }
    writer.flush().await
}

/// Reads the first message.
fn greet(shards: &Shards, frame: &Frame) -> Result<(ShardKey, Response), Refusal> {
    let protocol = |message: String| Refusal { code: ErrorCode::Protocol, message };
    match Request::from_frame(frame).map_err(|error| protocol(error.to_string()))? {
        Request::Hello { branch, shard } if shard.number < shard.count => {
            let key = ShardKey { branch, shard };
            match shards.get(key) {
                None => Ok((key, Response::Welcome { ingested: None })),
                // Requests are refused until it can be opened.
                Some(ShardState::Failed(_)) => Ok((key, Response::Welcome { ingested: None })),
                Some(ShardState::Open(shard)) => {
                    let ingested = Some(shard.pages().progress().ingested);
                    Ok((key, Response::Welcome { ingested }))
                }
            }
        }
        Request::Hello { shard, .. } => Err(protocol(format!("there is no shard {} of {}", shard.number, shard.count))),
        _ => Err(protocol("the first message must be a hello".into())),
    }
}

fn is_import(request: &Request) -> bool {
    matches!(request, Request::ImportBegin { .. } | Request::ImportValues(_) | Request::ImportFinish)
}

async fn import(shards: Arc<Shards>, key: ShardKey, request: Request) -> Result<Response, Refusal> {
    let work = move || -> Result<_, ShardError> {
        match request {
            Request::ImportBegin { start, segment_bytes, postgres_version } => {
                let ShardKey { branch, shard } = key;
                shards.begin_import(Origin { branch, shard, start, segment_bytes, postgres_version })?;
            }
            Request::ImportValues(values) => shards.import(key, values)?,
            _ => {
                let shard = shards.finish_import(key)?;
                return Ok(Some((shards, shard)));
            }
        }
        Ok(None)
    };
    if let Some((shards, shard)) = blocking(work).await?? {
        shards.start(&shard);
    }
    Ok(Response::Done)
}

/// Answers any other request.
async fn answer(known: Option<ShardState>, request: Request, timeout: Duration) -> Result<Response, Refusal> {
    let shard = match known {
        None => return Err(Refusal::new(ErrorCode::NoSuchBranch, "the branch is not here")),
        Some(ShardState::Failed(reason)) => return Err(Refusal::new(ErrorCode::Storage, reason)),
        Some(ShardState::Open(shard)) => shard,
    };
    match request {
        Request::GetPages { lsn, keys } => get_pages(shard, keys, lsn, timeout).await,
        Request::Scan { lsn, from, to } => scan(shard, from, to, lsn, timeout).await,
        Request::GetPosition => {
            let progress = shard.pages().progress();
            Ok(Response::Position { ingested: progress.ingested, durable: progress.durable })
        }
        Request::GetCheckpoint { lsn } => get_checkpoint(shard, lsn, timeout).await,
        Request::GetFiles { prefix, after } => {
            let listed = blocking(move || shard.files().list(&prefix, &after)).await??;
            Ok(Response::Files { files: listed.files, more: listed.more })
        }
        Request::FenceFiles { term } => {
            blocking(move || shard.fence(term)).await??;
            Ok(Response::Done)
        }
        Request::PutFile { version, file } => write_files(shard, move |shard| shard.put_file(version, &file)).await,
        Request::RemoveFile { version, name } => {
            write_files(shard, move |shard| shard.remove_file(version, &name)).await
        }
        Request::GetChain { lsn, key } => get_chain(shard, key, lsn, timeout).await,
        Request::KeepPages { term, upto, pages } => keep_pages(shard, term, upto, pages, timeout).await,
        _ => Err(Refusal::new(ErrorCode::Protocol, "this message has no place here")),
    }
}

async fn get_pages(shard: Arc<Shard>, keys: Vec<Key>, lsn: Lsn, timeout: Duration) -> Result<Response, Refusal> {
    shard.pages().wait_for(lsn, timeout).await?;
    Ok(Response::Pages(reading(shard, move |pages| pages.read_pages(&keys, lsn)).await?))
}

async fn scan(shard: Arc<Shard>, from: Key, to: Key, lsn: Lsn, timeout: Duration) -> Result<Response, Refusal> {
    shard.pages().wait_for(lsn, timeout).await?;
    let scanned = reading(shard, move |pages| pages.scan(from, to, lsn)).await?;
    Ok(Response::Values { entries: scanned.entries, more: scanned.more })
}

async fn get_checkpoint(shard: Arc<Shard>, lsn: Lsn, timeout: Duration) -> Result<Response, Refusal> {
    shard.pages().wait_for(lsn, timeout).await?;
    let end = blocking({
        let shard = Arc::clone(&shard);
        move || shard.log_end(lsn)
    });
    let elsewhere = || {
        let ingested = shard.pages().progress().ingested;
        Refusal::new(ErrorCode::Protocol, format!("{lsn} is not the end of the log, {ingested} is ingested"))
    };
    let end = end.await?.ok_or_else(elsewhere)?;
    let (last_record, shut_down) = (end.last_record, end.shut_down);
    Ok(Response::Checkpoint { last_record, state: end.checkpoint.encode().into(), shut_down })
}

async fn write_files(
    shard: Arc<Shard>,
    write: impl FnOnce(&Shard) -> Result<(), FileError> + Send + 'static,
) -> Result<Response, Refusal> {
    blocking(move || write(&shard)).await??;
    Ok(Response::Done)
}

async fn get_chain(shard: Arc<Shard>, key: Key, lsn: Lsn, timeout: Duration) -> Result<Response, Refusal> {
    shard.pages().wait_for(lsn, timeout).await?;
    let chain = reading(shard, move |pages| pages.chain(key, lsn)).await?;
    let versions: Vec<PageVersion> = chain.versions().filter_map(|version| version.to_message()).collect();
    match page_version::encoded_bytes(&versions) {
        0..=MAX_CHAIN_BYTES => Ok(Response::Chain(versions)),
        bytes => Err(Refusal::new(ErrorCode::Protocol, format!("the chain of {key} takes {bytes} bytes"))),
    }
}

async fn keep_pages(
    shard: Arc<Shard>,
    term: Term,
    upto: Lsn,
    pages: Vec<WrittenPage>,
    timeout: Duration,
) -> Result<Response, Refusal> {
    let newest = pages.iter().map(|written| page::lsn(&written.page)).fold(upto, Lsn::max);
    shard.pages().wait_for(newest, timeout).await?;
    let turn = tokio::time::timeout(timeout, shard.turn_to_keep()).await;
    let turn = turn.map_err(|_| Refusal::new(ErrorCode::Timeout, "other pages are still being kept"))?;
    let keep = move || {
        let _turn = turn;
        shard.keep_pages(term, upto, &pages)
    };
    Ok(Response::KeptPages(blocking(keep).await??))
}

/// Reads from a shard; a file that cannot be read is said.
async fn reading<T: Send + 'static>(
    shard: Arc<Shard>,
    read: impl FnOnce(&ShardPages) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Refusal> {
    let outcome = blocking(move || {
        read(shard.pages()).inspect_err(|error| {
            if let ReadError::Storage(reason) = error {
                shard.pages().note_unread(reason);
            }
        })
    });
    Ok(outcome.await??)
}

/// Runs work that reads files or keeps a processor busy.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    spawn_blocking(work).await.map_err(|_| Refusal::new(ErrorCode::Timeout, "the pageserver is shutting down"))
}

fn to_frame(answer: Result<Response, Refusal>, request_id: u64) -> Frame {
    match answer {
        Ok(response) => response.to_frame(request_id),
        Err(refusal) => error_frame(refusal, request_id),
    }
}

fn error_frame(refusal: Refusal, request_id: u64) -> Frame {
    Response::Error { code: refusal.code, message: refusal.message }.to_frame(request_id)
}
