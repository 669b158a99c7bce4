//! A client of a pageserver: many requests in flight on one connection that mends itself.
//!
//! [`PageClient`] is cheap to clone; every clone feeds one driver task. A request waits while the connection is down
//! and is sent again after a reconnect, until the caller's deadline: all requests may be repeated. A refusal by the
//! pageserver is an answer, not a fault of the connection, and is handed out at once, unless the caller
//! [retries](PageClient::request_retrying).

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_net::connection::{Connection, Reader, Writer};
use quire_net::{FrameReader, frames};
use quire_protocol::page::{ErrorCode, FileVersion, Keeping, Request, Response, SmallFile, WrittenPage};
use quire_protocol::page_version::PageVersion;
use quire_protocol::{Frame, FrameError};
use quire_types::{Backoff, BranchKey, Endpoint, Key, Lsn, PAGE_SIZE, ShardId, Term};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::{mpsc, oneshot};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// No answer came before the deadline.
    #[error("pageserver {address} did not answer within {waited:?}")]
    Deadline {
        /// Who was asked.
        address: Endpoint,
        /// For how long.
        waited: Duration,
    },
    /// The pageserver answered that it cannot.
    #[error("pageserver {address} refused: {message}")]
    Refused {
        /// Who was asked.
        address: Endpoint,
        /// Its reason, for programs.
        code: ErrorCode,
        /// Its reason, for people.
        message: String,
    },
    /// The answer does not fit the question.
    #[error("pageserver {0} sent an unexpected response")]
    Unexpected(Endpoint),
    /// The client was shut down.
    #[error("the page client is shut down")]
    ShutDown,
}

impl PageError {
    /// The pageserver's own reason, if it answered that it cannot.
    pub fn refusal(&self) -> Option<ErrorCode> {
        match self {
            PageError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the pageserver says that it does not know the branch.
    pub fn is_no_such_branch(&self) -> bool {
        matches!(self, PageError::Refused { code: ErrorCode::NoSuchBranch, .. })
    }

    /// Whether the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(self, PageError::Deadline { .. } | PageError::Refused { code: ErrorCode::Storage, .. })
    }
}

/// What a shutdown checkpoint at the end of the log has to say, as the pageserver knows it.
#[derive(Clone, Debug)]
pub struct CheckpointAnswer {
    /// Start of the last record; invalid if the log is empty.
    pub last_record: Lsn,
    /// An encoded `CheckpointState`.
    pub state: Bytes,
    /// Whether the last record is a shutdown checkpoint already.
    pub shut_down: bool,
}

/// Requests that the connection may hold before callers wait to hand in theirs.
const QUEUED_CALLS_MAX: usize = 256;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to one pageserver's view of one branch.
#[derive(Clone, Debug)]
pub struct PageClient {
    calls: mpsc::Sender<Call>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: Endpoint,
    branch: BranchKey,
    shard: ShardId,
    next_id: AtomicU64,
    connected: AtomicBool,
    /// Sent, or to be sent again, and not answered yet; ordered by age.
    waiting: Mutex<BTreeMap<u64, Call>>,
}

#[derive(Debug)]
struct Call {
    frame: Frame,
    answer: oneshot::Sender<Result<Response, PageError>>,
}

impl PageClient {
    /// A client of the pageserver at `address`; must be called within a tokio runtime, which drives the connection.
    pub fn new(address: impl Into<Endpoint>, branch: BranchKey, shard: ShardId) -> PageClient {
        let address = address.into();
        let (calls, queue) = mpsc::channel(QUEUED_CALLS_MAX);
        let shared = Arc::new(Shared {
            address,
            branch,
            shard,
            next_id: AtomicU64::new(1),
            connected: AtomicBool::new(false),
            waiting: Mutex::default(),
        });
        tokio::spawn(drive(shared.clone(), queue));
        PageClient { calls, shared }
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Sends `request` and waits for its answer for at most `patience`.
    pub async fn call(&self, request: &Request, patience: Duration) -> Result<Response, PageError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        let call = Call { frame: request.to_frame(id), answer };
        let exchange = async {
            self.calls.send(call).await.map_err(|_| PageError::ShutDown)?;
            receiver.await.map_err(|_| PageError::ShutDown)?
        };
        let late = |_| PageError::Deadline { address: self.shared.address.clone(), waited: patience };
        tokio::time::timeout(patience, exchange).await.map_err(late)?
    }

    /// The same, but asked again as long as the answer is that a disk or a file fails storage. After `patience` the
    /// last such answer is given.
    pub async fn request_retrying(&self, request: &Request, patience: Duration) -> Result<Response, PageError> {
        let deadline = Instant::now() + patience;
        let mut backoff = BACKOFF;
        let mut refused = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.call(request, left).await {
                Err(error) if error.refusal() == Some(ErrorCode::Storage) => refused = Some(error),
                Err(PageError::Deadline { address, .. }) => {
                    return Err(refused.unwrap_or(PageError::Deadline { address, waited: patience }));
                }
                outcome => return outcome,
            }
            tokio::time::sleep(backoff.after_failure().min(left)).await;
        }
    }

    /// The pages of `keys` at `lsn`, in their order.
    pub async fn get_pages(&self, lsn: Lsn, keys: Vec<Key>, patience: Duration) -> Result<Vec<Bytes>, PageError> {
        let asked = keys.len();
        self.pages(asked, self.call(&Request::GetPages { lsn, keys }, patience).await?)
    }

    /// The same, [insisting](PageClient::request_retrying).
    pub async fn get_pages_retrying(
        &self,
        lsn: Lsn,
        keys: Vec<Key>,
        patience: Duration,
    ) -> Result<Vec<Bytes>, PageError> {
        let asked = keys.len();
        self.pages(asked, self.request_retrying(&Request::GetPages { lsn, keys }, patience).await?)
    }

    fn pages(&self, asked: usize, answer: Response) -> Result<Vec<Bytes>, PageError> {
        match answer {
            Response::Pages(pages) if pages.len() == asked && pages.iter().all(|page| page.len() == PAGE_SIZE) => {
                Ok(pages)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// What the page of `key` at `lsn` is put together of, oldest first.
    pub async fn get_chain(&self, lsn: Lsn, key: Key, patience: Duration) -> Result<Vec<PageVersion>, PageError> {
        match self.call(&Request::GetChain { lsn, key }, patience).await? {
            Response::Chain(versions) => Ok(versions),
            _ => Err(self.unexpected()),
        }
    }

    /// All entries from one key to another, as they were at `lsn`.
    pub async fn scan(&self, lsn: Lsn, from: Key, to: Key, patience: Duration) -> Result<Vec<(Key, Bytes)>, PageError> {
        let mut found = Vec::new();
        let mut next = from;
        loop {
            let (entries, more) = self.scan_some(lsn, next, to, patience).await?;
            // Each answer after the first begins with the key that the one before ended with.
            let repeated = found.last().map(|(key, _): &(Key, Bytes)| *key);
            let known = found.len();
            found.extend(entries.into_iter().filter(|(key, _)| Some(*key) > repeated));
            match found.last() {
                Some((last, _)) if more && found.len() > known => next = *last,
                _ if more => return Err(self.unexpected()),
                _ => return Ok(found),
            }
        }
    }

    /// The first of these entries, as many as storage gives at once, and whether there are more.
    pub async fn scan_some(
        &self,
        lsn: Lsn,
        from: Key,
        to: Key,
        patience: Duration,
    ) -> Result<(Vec<(Key, Bytes)>, bool), PageError> {
        match self.request_retrying(&Request::Scan { lsn, from, to }, patience).await? {
            Response::Values { entries, more } => Ok((entries, more)),
            _ => Err(self.unexpected()),
        }
    }

    /// How far ingest has come, and how far of it is durable.
    pub async fn position(&self, patience: Duration) -> Result<(Lsn, Lsn), PageError> {
        match self.call(&Request::GetPosition, patience).await? {
            Response::Position { ingested, durable } => Ok((ingested, durable)),
            _ => Err(self.unexpected()),
        }
    }

    /// What a shutdown checkpoint at `lsn`, the end of the log, has to say.
    pub async fn checkpoint(&self, lsn: Lsn, patience: Duration) -> Result<CheckpointAnswer, PageError> {
        match self.call(&Request::GetCheckpoint { lsn }, patience).await? {
            Response::Checkpoint { last_record, state, shut_down } => {
                Ok(CheckpointAnswer { last_record, state, shut_down })
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Sends a step of an import.
    pub async fn import(&self, step: &Request, patience: Duration) -> Result<(), PageError> {
        self.done(step, patience).await
    }

    /// Keeps computes of lower terms from writing small files.
    pub async fn fence_files(&self, term: Term, patience: Duration) -> Result<(), PageError> {
        self.done(&Request::FenceFiles { term }, patience).await
    }

    /// Small files whose names begin with `prefix` and come after `after`, and whether there are more.
    pub async fn get_files(
        &self,
        prefix: &str,
        after: &str,
        patience: Duration,
    ) -> Result<(Vec<SmallFile>, bool), PageError> {
        let request = Request::GetFiles { prefix: prefix.to_owned(), after: after.to_owned() };
        match self.call(&request, patience).await? {
            Response::Files { files, more } if !(more && files.is_empty()) => Ok((files, more)),
            _ => Err(self.unexpected()),
        }
    }

    /// Has a small file kept.
    pub async fn put_file(&self, version: FileVersion, file: SmallFile, patience: Duration) -> Result<(), PageError> {
        self.done(&Request::PutFile { version, file }, patience).await
    }

    /// Has a small file forgotten.
    pub async fn remove_file(&self, version: FileVersion, name: &str, patience: Duration) -> Result<(), PageError> {
        self.done(&Request::RemoveFile { version, name: name.to_owned() }, patience).await
    }

    /// Has pages kept as they were written; says of each what became of it.
    pub async fn keep_pages(
        &self,
        term: Term,
        upto: Lsn,
        pages: Vec<WrittenPage>,
        patience: Duration,
    ) -> Result<Vec<Keeping>, PageError> {
        let asked = pages.len();
        match self.call(&Request::KeepPages { term, upto, pages }, patience).await? {
            Response::KeptPages(outcomes) if outcomes.len() == asked => Ok(outcomes),
            _ => Err(self.unexpected()),
        }
    }

    async fn done(&self, request: &Request, patience: Duration) -> Result<(), PageError> {
        match self.call(request, patience).await? {
            Response::Done => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    fn unexpected(&self) -> PageError {
        PageError::Unexpected(self.shared.address.clone())
    }
}

enum End {
    /// Every handle is gone.
    NoMoreCallers,
    Broken(FrameError),
}

async fn drive(shared: Arc<Shared>, mut queue: mpsc::Receiver<Call>) {
    let mut backoff = BACKOFF;
    loop {
        let end = match connect(&shared).await {
            Ok(connection) => {
                backoff.reset();
                converse(&shared, connection, &mut queue).await
            }
            Err(error) => End::Broken(error),
        };
        shared.connected.store(false, Ordering::Relaxed);
        match end {
            End::NoMoreCallers => return,
            End::Broken(error) => tracing::debug!(address = %shared.address, %error, "no connection to the pageserver"),
        }
        if queue.is_closed() && queue.is_empty() {
            return;
        }
        tokio::time::sleep(backoff.after_failure()).await;
    }
}

async fn connect(shared: &Shared) -> Result<Connection, FrameError> {
    let greeting = async {
        let dialed = Connection::dial(&shared.address, CONNECT_TIMEOUT).await;
        let mut connection = dialed.map_err(|error| error.source)?;
        let hello = Request::Hello { branch: shared.branch, shard: shared.shard };
        connection.write_all(&hello.to_frame(0).encode()).await?;
        let answer = frames::read(&mut connection).await?;
        match Response::from_frame(&answer)? {
            Response::Welcome { .. } => Ok(connection),
            _ => Err(FrameError::Unexpected(answer.kind)),
        }
    };
    let late = |_| FrameError::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(CONNECT_TIMEOUT, greeting).await.map_err(late)?
}

async fn converse(shared: &Shared, connection: Connection, queue: &mut mpsc::Receiver<Call>) -> End {
    let (source, sink) = connection.split();
    shared.connected.store(true, Ordering::Relaxed);
    tokio::select! {
        end = send_calls(shared, sink, queue) => end,
        error = receive_answers(shared, source) => End::Broken(error),
    }
}

async fn send_calls(shared: &Shared, sink: Writer, queue: &mut mpsc::Receiver<Call>) -> End {
    let mut sink = BufWriter::new(sink);
    match resend(shared, &mut sink).await {
        Ok(()) => forward(shared, &mut sink, queue).await,
        Err(error) => End::Broken(error.into()),
    }
}

/// Repeats what the last connection left unanswered, except for callers who gave up.
async fn resend(shared: &Shared, sink: &mut BufWriter<Writer>) -> std::io::Result<()> {
    let frames: Vec<Vec<u8>> = {
        let mut waiting = shared.waiting();
        waiting.retain(|_, call| !call.answer.is_closed());
        waiting.values().map(|call| call.frame.encode()).collect()
    };
    for frame in frames {
        sink.write_all(&frame).await?;
    }
    sink.flush().await
}

async fn forward(shared: &Shared, sink: &mut BufWriter<Writer>, queue: &mut mpsc::Receiver<Call>) -> End {
    while let Some(call) = queue.recv().await {
        let raw = call.frame.encode();
        shared.waiting().insert(call.frame.request_id, call);
        let sent = async {
            sink.write_all(&raw).await?;
            if queue.is_empty() { sink.flush().await } else { Ok(()) }
        };
        if let Err(error) = sent.await {
            return End::Broken(error.into());
        }
    }
    End::NoMoreCallers
}

async fn receive_answers(shared: &Shared, source: Reader) -> FrameError {
    let mut answers = FrameReader::new(source);
    loop {
        quire_crash::plant("compute.page-client");
        let answer = match answers.next().await {
            Ok(frame) => Response::from_frame(&frame).map(|response| (frame.request_id, response)),
            Err(error) => return error,
        };
        match answer {
            Ok((id, response)) => shared.complete(id, response),
            Err(error) => return error,
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Call>> {
        self.waiting.lock()
    }

    fn complete(&self, id: u64, response: Response) {
        let Some(call) = self.waiting().remove(&id) else { return };
        let outcome = match response {
            Response::Error { code, message } => {
                Err(PageError::Refused { address: self.address.clone(), code, message })
            }
            other => Ok(other),
        };
        // The caller may have given up and not want the answer any more.
        let _ = call.answer.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::net::{TcpListener, TcpStream};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn client(address: SocketAddr) -> PageClient {
        PageClient::new(address, BranchKey::default(), ShardId::UNSHARDED)
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.expect("a client");
        frames::read(&mut stream).await.expect("hello");
        let welcome = Response::Welcome { ingested: None };
        stream.write_all(&welcome.to_frame(0).encode()).await.expect("sent");
        stream
    }

    async fn answer(stream: &mut TcpStream, id: u64, ingested: u64) {
        let position = Response::Position { ingested: Lsn(ingested), durable: Lsn(0) };
        stream.write_all(&position.to_frame(id).encode()).await.expect("sent");
    }

    #[tokio::test]
    async fn answers_find_their_callers_in_any_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = client(listener.local_addr().expect("bound"));
        let (first, second) = (client.position(PATIENCE), client.position(PATIENCE));
        let server = async {
            let mut stream = accept(&listener).await;
            let one = frames::read(&mut stream).await.expect("request").request_id;
            let two = frames::read(&mut stream).await.expect("request").request_id;
            answer(&mut stream, two, two).await;
            answer(&mut stream, one, one).await;
            stream
        };
        let (first, second, _open) = tokio::join!(first, second, server);
        assert_eq!(first.expect("answered").0, Lsn(1));
        assert_eq!(second.expect("answered").0, Lsn(2));
    }

    #[tokio::test]
    async fn an_unanswered_request_is_repeated_on_the_next_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = client(listener.local_addr().expect("bound"));
        let server = async {
            let mut stream = accept(&listener).await;
            frames::read(&mut stream).await.expect("request");
            drop(stream);
            let mut stream = accept(&listener).await;
            let again = frames::read(&mut stream).await.expect("the same request");
            answer(&mut stream, again.request_id, 7).await;
            stream
        };
        let (position, _open) = tokio::join!(client.position(PATIENCE), server);
        assert_eq!(position.expect("answered").0, Lsn(7));
    }

    #[tokio::test]
    async fn without_a_pageserver_the_deadline_ends_the_wait() {
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        let error = client(gone).position(Duration::from_millis(50)).await.expect_err("nobody listens");
        assert!(matches!(error, PageError::Deadline { .. }), "{error}");
    }

    async fn refuse(stream: &mut TcpStream, code: ErrorCode) {
        let id = frames::read(stream).await.expect("request").request_id;
        let refusal = Response::Error { code, message: "a layer is damaged".into() };
        stream.write_all(&refusal.to_frame(id).encode()).await.expect("sent");
    }

    #[tokio::test]
    async fn who_insists_asks_until_the_file_is_whole_and_then_hears_what_it_was() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = client(listener.local_addr().expect("bound"));
        let server = async {
            let mut stream = accept(&listener).await;
            refuse(&mut stream, ErrorCode::Storage).await;
            refuse(&mut stream, ErrorCode::Storage).await;
            let id = frames::read(&mut stream).await.expect("the third time").request_id;
            answer(&mut stream, id, 7).await;
            refuse(&mut stream, ErrorCode::Corrupt).await;
            stream
        };
        let asker = async {
            let mended = client.request_retrying(&Request::GetPosition, PATIENCE).await;
            (mended, client.request_retrying(&Request::GetPosition, PATIENCE).await)
        };
        let ((mended, corrupt), mut stream) = tokio::join!(asker, server);
        assert!(matches!(mended, Ok(Response::Position { .. })), "{mended:?}");
        assert_eq!(corrupt.expect_err("it does not pass").refusal(), Some(ErrorCode::Corrupt));
        let server = async { refuse(&mut stream, ErrorCode::Storage).await };
        let (late, ()) =
            tokio::join!(client.request_retrying(&Request::GetPosition, Duration::from_millis(300)), server);
        assert!(late.expect_err("never mended").to_string().contains("a layer is damaged"));
    }

    #[tokio::test]
    async fn a_scan_goes_on_after_the_last_key_of_an_answer() {
        let key = |database| Key::Database { tablespace: 1663, database };
        let entry = |database| (key(database), Bytes::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = client(listener.local_addr().expect("bound"));
        let server = async {
            let mut stream = accept(&listener).await;
            for (entries, more) in [(vec![entry(1), entry(2)], true), (vec![entry(2), entry(3)], false)] {
                let id = frames::read(&mut stream).await.expect("request").request_id;
                stream.write_all(&Response::Values { entries, more }.to_frame(id).encode()).await.expect("sent");
            }
            stream
        };
        let (found, _open) = tokio::join!(client.scan(Lsn(1), key(0), key(9), PATIENCE), server);
        assert_eq!(found.expect("answered"), [entry(1), entry(2), entry(3)]);
    }
}
