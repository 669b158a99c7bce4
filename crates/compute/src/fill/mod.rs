//! The server on `agent.sock`: brings in what a PostgreSQL process needs and the cache does not have.
//!
//! One connection per process, one request at a time on it, so what is under way is bounded by PostgreSQL's own limits;
//! what no backend waits for is bounded in number and dropped beyond. Page bytes go from the network into the cache
//! file (`fetch`); the answer says only that they are there. All of it runs in one thread (`thread`), which therefore
//! must not block.

mod fetch;
pub mod files;
mod prefetch;
mod read_ahead;
mod thread;

use crate::as_written::AsWritten;
use crate::descriptors::{self, Seldom};
use crate::guard::Guard;
use crate::kept::KeptFiles;
use crate::materialise::Materialiser;
use crate::owner::Owner;
use crate::page_client::PageError;
use crate::quorum::{Quorum, local_wal::LocalWal};
use crate::{Config, Error, place};
pub use fetch::Fetcher;
use files::FileError;
pub use files::{CacheFile, Files, key_of};
use quire_cache::request::{HELLO_BYTES, REQUEST_BYTES};
use quire_cache::{AgentState, Answer, CacheError, ComputeDir, ControlMap, FileId, Hello, Request};
use quire_types::{Lsn, Term};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use thread::FillThread;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How many requests of one process are read at once; all but the last have no answer.
const REQUESTS_READ: usize = 8;

/// Everything a request may need.
#[derive(Debug)]
pub struct FillServer {
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) materialiser: Arc<Materialiser>,
    pub(crate) kept: Arc<KeptFiles>,
    pub(crate) as_written: Arc<AsWritten>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) quorum: Arc<Quorum>,
    pub(crate) control: Arc<ControlMap>,
    pub(crate) owner: Owner,
    pub(crate) pg_wal: PathBuf,
    /// Where the log began; there is no WAL before.
    pub(crate) log_start: Lsn,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The file cannot be filled.
    #[error(transparent)]
    File(#[from] FileError),
    /// Storage does not give the pages.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The pages are here and cannot be kept.
    #[error("cannot write into the cache: {0}")]
    Write(std::io::Error),
    /// Something else that the agent does has failed.
    #[error(transparent)]
    Agent(#[from] Error),
    /// The process says what it must not.
    #[error(transparent)]
    Message(#[from] CacheError),
    /// The process cannot be talked to any more.
    #[error("connection: {0}")]
    Connection(std::io::Error),
}

impl FillServer {
    /// Listens on the compute's socket until aborted, in the runtime that this is called within.
    pub fn listen(self: Arc<FillServer>, config: &Config) -> Result<AbortHandle, Error> {
        let path = ComputeDir::new(&config.dir).socket();
        place::remove(&path)?;
        let listener = UnixListener::bind(&path).map_err(Error::file("listen on", &path))?;
        self.owner.give(&path)?;
        Ok(tokio::spawn(self.accept(listener)).abort_handle())
    }

    async fn accept(self: Arc<FillServer>, listener: UnixListener) {
        let mut connections = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut refusing = Seldom::default();
        loop {
            quire_crash::plant("compute.fill-accept");
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(self.clone().converse(stream))),
                    Err(error) => {
                        if descriptors::is_lack(&error) {
                            self.fetcher.files().close_all();
                        }
                        if refusing.is_time() {
                            tracing::warn!(%error, "cannot accept a connection on agent.sock, will retry");
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = sweep.tick() => self.fetcher.files().close_deleted(),
            }
        }
    }

    async fn converse(self: Arc<FillServer>, stream: UnixStream) {
        match self.serve(stream).await {
            Err(error @ FillError::Message(_)) => tracing::warn!(%error, "a connection on agent.sock is refused"),
            Err(error) => tracing::debug!(%error, "a conversation on agent.sock ended"),
            Ok(()) => {}
        }
    }

    async fn serve(self: &Arc<FillServer>, stream: UnixStream) -> Result<(), FillError> {
        // Room for more than one request: a read that fills all of it would be followed by one that finds nothing.
        let mut stream = BufReader::with_capacity(REQUESTS_READ * REQUEST_BYTES, stream);
        let mut hello = [0; HELLO_BYTES];
        read(&mut stream, &mut hello).await?;
        if let Err(error) = Hello::decode(&hello) {
            answer(&mut stream, Answer::WrongBuild).await?;
            return Err(error.into());
        }
        answer(&mut stream, Answer::Ok).await?;
        let mut raw = [0; REQUEST_BYTES];
        loop {
            quire_crash::plant("compute.fill");
            read(&mut stream, &mut raw).await?;
            let request = Request::decode(&raw)?;
            let outcome = self.handle(request).await;
            if request.is_answered() {
                answer(&mut stream, outcome).await?;
            }
        }
    }

    async fn handle(&self, request: Request) -> Answer {
        if self.control.state() == AgentState::Fenced {
            return Answer::Fenced;
        }
        let outcome = match request {
            Request::MaterialiseDatabase { tablespace, database } => {
                self.materialise(tablespace, database, None).await.map_err(FillError::from)
            }
            Request::MaterialiseRelation { tablespace, database, relation } => {
                self.materialise(tablespace, database, Some(relation)).await.map_err(FillError::from)
            }
            Request::Fill { file, first_block, count } => {
                self.fetcher.fill(file, first_block..first_block + count).await.map(|()| Answer::Ok)
            }
            Request::Prefetch { file, first_block, count } => {
                self.fetcher.prefetch(file, first_block..first_block + count);
                Ok(Answer::Ok)
            }
            Request::Reached { file, block } => {
                self.fetcher.reached(file, block);
                Ok(Answer::Ok)
            }
            Request::WalSegment { timeline, segment_number } => self.wal_segment(timeline, segment_number).await,
            Request::KeepPages { file } => self.keep_pages(file).await.map(|()| Answer::Ok).map_err(FillError::from),
            Request::MakeRoom => Ok(if self.fetcher.make_room() { Answer::Ok } else { Answer::NotFound }),
            Request::KeepFiles { area } => self.kept.keep(area).await.map(|()| Answer::Ok).map_err(FillError::from),
        };
        to_answer(request, outcome)
    }

    /// Makes a relation of a database, or all of it. Files under guard are marked before anybody writes them.
    async fn materialise(&self, tablespace: u32, oid: u32, relation: Option<u32>) -> Result<Answer, Error> {
        let Some(database) = self.materialiser.database(tablespace, oid) else { return Ok(Answer::NotFound) };
        let is_complete = match relation {
            Some(relation) => database.relation(relation).await?,
            None => database.whole().await.map(|()| true)?,
        };
        // Of a complete database no process asks again.
        let laid_out = if is_complete { None } else { relation };
        self.guard.laid_out(tablespace, oid, laid_out).await?;
        Ok(if is_complete { Answer::Complete } else { Answer::Ok })
    }

    async fn keep_pages(&self, file: FileId) -> Result<(), Error> {
        let begun = Instant::now();
        let outcome = self.as_written.keep(file).await;
        self.guard.note_wait(file, begun.elapsed());
        outcome
    }

    /// Fetches a whole segment of committed WAL; it is not found if there is none of it, or not all.
    async fn wal_segment(&self, timeline: u32, segment_number: u64) -> Result<Answer, FillError> {
        let segment_bytes = self.control.segment_bytes();
        let begin = Lsn(segment_number.saturating_mul(segment_bytes));
        let end = begin.add(segment_bytes);
        if timeline != self.control.timeline() || begin < self.log_start || end > self.control.commit_lsn() {
            return Ok(Answer::NotFound);
        }
        let (quorum, pg_wal, owner) = (self.quorum.clone(), self.pg_wal.clone(), self.owner);
        let fetch = move || fetch_segment(&quorum, LocalWal::new(pg_wal, segment_bytes), owner, segment_number);
        tokio::task::spawn_blocking(fetch).await.map_err(|_| Error::ShuttingDown)??;
        Ok(Answer::Ok)
    }
}

fn fetch_segment(quorum: &Quorum, wal: LocalWal, owner: Owner, segment_number: u64) -> Result<(), Error> {
    let begin = Lsn(segment_number * wal.segment_bytes());
    let mut client = quorum.connect_any()?;
    let bytes = client.read_wal(Term(0), begin, begin.add(wal.segment_bytes())).map_err(|error| {
        tracing::warn!(%begin, %error, "cannot fetch a WAL segment");
        Error::WalMissing { at: begin }
    })?;
    let path = wal.path(segment_number);
    // PostgreSQL removes files of this prefix when it starts.
    let aside = path.with_file_name(format!("xlogtemp.quire-{segment_number:X}"));
    place::file(&aside, &bytes, owner)?;
    std::fs::rename(&aside, &path).map_err(Error::file("rename", &aside))
}

fn to_answer(request: Request, outcome: Result<Answer, FillError>) -> Answer {
    match outcome {
        Ok(answer) => answer,
        Err(FillError::File(FileError::Local(_))) => Answer::NotFound,
        Err(error) => {
            tracing::error!(%error, ?request, "cannot serve a PostgreSQL process; it gets an I/O error");
            Answer::IoError
        }
    }
}

async fn read(stream: &mut BufReader<UnixStream>, buffer: &mut [u8]) -> Result<(), FillError> {
    stream.read_exact(buffer).await.map(drop).map_err(FillError::Connection)
}

async fn answer(stream: &mut BufReader<UnixStream>, answer: Answer) -> Result<(), FillError> {
    stream.write_all(&answer.encode()).await.map_err(FillError::Connection)
}
