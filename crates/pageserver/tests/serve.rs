//! A whole pageserver, asked over its sockets, with a safekeeper that is played by the test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use quire_net::frames;
use quire_pageserver::{Config, Pageserver};
use quire_protocol::FrameError;
use quire_protocol::page::{ErrorCode, FileVersion, Keeping, Request, Response, SmallFile, WrittenPage};
use quire_protocol::page_version::{PageVersion, VersionKind};
use quire_protocol::quorum::{self, LogIdentity};
use quire_types::{BranchId, BranchKey, Fork, Key, Lsn, NodeId, PAGE_SIZE, RelTag, ShardId, Term};
use quire_wal::checkpoint::encode_shutdown_checkpoint;
use quire_wal::effects::FullPageWrites;
use quire_wal::postgres_version::PG15;
use quire_wal::record::record_crc;
use quire_wal::{CheckpointState, WalStream, WalWriter, rmgr};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SEGMENT_BYTES: u32 = 16 << 20;
const START: Lsn = Lsn(SEGMENT_BYTES as u64);
const SYSTEM_ID: u64 = 77;
const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };

fn any_address() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A safekeeper with one log, whose committed bytes are fixed.
struct Safekeeper {
    address: SocketAddr,
    durable: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Safekeeper {
    async fn start(wal: Vec<u8>) -> Safekeeper {
        let listener = TcpListener::bind(any_address()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (wal, durable) = (Arc::new(wal), Arc::new(AtomicU64::new(0)));
        let reported = Arc::clone(&durable);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_wal(stream, Arc::clone(&wal), Arc::clone(&reported)));
            }
        });
        Safekeeper { address, durable, task }
    }
}

async fn serve_wal(stream: TcpStream, wal: Arc<Vec<u8>>, durable: Arc<AtomicU64>) -> Result<(), FrameError> {
    let (mut reader, mut writer) = stream.into_split();
    let commit = START.add(wal.len() as u64);
    loop {
        let answer = match quorum::Request::from_frame(&frames::read(&mut reader).await?)? {
            quorum::Request::Hello { .. } => {
                let identity = LogIdentity { system_id: SYSTEM_ID, segment_bytes: SEGMENT_BYTES, start: START };
                quorum::Response::Welcome { node: NodeId(1), term: Term(1), identity: Some(identity) }
            }
            quorum::Request::Follow { from, send_wal, .. } => {
                let skipped = from.bytes_since(START) as usize;
                let bytes = if send_wal { Bytes::copy_from_slice(&wal[skipped..]) } else { Bytes::new() };
                quorum::Response::Wal { begin: from, commit, wal: bytes }
            }
            quorum::Request::Durable { lsn } => {
                durable.fetch_max(lsn.0, Ordering::SeqCst);
                continue;
            }
            other => panic!("unexpected {other:?}"),
        };
        writer.write_all(&answer.to_frame(0).encode()).await?;
    }
}

struct Running {
    pages: SocketAddr,
    http: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(dir: &Path, safekeepers: Vec<SocketAddr>) -> Running {
        let mut config = Config::new(
            NodeId(9),
            any_address(),
            any_address(),
            dir.to_owned(),
            safekeepers.into_iter().map(Into::into).collect(),
        );
        (config.memtable_age_seconds, config.read_timeout_seconds) = (1, 5);
        let server = Pageserver::open(config).await.unwrap();
        let (pages, http) = (server.page_address().unwrap(), server.http_address().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            server.run(stopped).await.unwrap();
        });
        Running { pages, http, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// The first branch's part of the status.
    async fn wait_until_status_says(&self, words: &str) {
        let poll = async {
            loop {
                let status = self.http("GET", "/status", "").await;
                if status.split("{\"project\"").nth(1).unwrap().contains(words) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), poll)
            .await
            .unwrap_or_else(|_| panic!("the status never says {words}"));
    }

    async fn http(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn connect(address: SocketAddr) -> (Client, Response) {
        Client::connect_to(address, BranchKey::default()).await
    }

    async fn connect_to(address: SocketAddr, branch: BranchKey) -> (Client, Response) {
        let mut client = Client { stream: TcpStream::connect(address).await.unwrap() };
        let hello = Request::Hello { branch, shard: ShardId::UNSHARDED };
        let welcome = client.ask(&hello).await;
        (client, welcome)
    }

    async fn ask(&mut self, request: &Request) -> Response {
        self.stream.write_all(&request.to_frame(5).encode()).await.unwrap();
        let frame = frames::read(&mut self.stream).await.unwrap();
        assert_eq!(frame.request_id, 5);
        Response::from_frame(&frame).unwrap()
    }

    async fn error(&mut self, request: &Request) -> ErrorCode {
        match self.ask(request).await {
            Response::Error { code, .. } => code,
            other => panic!("an error was expected, not {other:?}"),
        }
    }
}

fn checkpoint() -> CheckpointState {
    CheckpointState { next_xid: 700, this_timeline: 1, prev_timeline: 1, ..CheckpointState::default() }
}

fn values() -> Vec<(Key, Bytes)> {
    let page = |byte| Bytes::from(vec![byte; PAGE_SIZE]);
    let writes = FullPageWrites { on: true, since: START };
    vec![
        (Key::RelSize { rel: REL }, Bytes::copy_from_slice(&3u32.to_le_bytes())),
        (Key::RelBlock { rel: REL, block: 0 }, page(1)),
        (Key::RelBlock { rel: REL, block: 1 }, page(2)),
        (Key::Checkpoint, checkpoint().encode().into()),
        (Key::FullPageWrites, writes.encode().into()),
        (Key::ControlFile, Bytes::from_static(b"control")),
    ]
}

async fn import(client: &mut Client) {
    let begin = Request::ImportBegin { start: START, segment_bytes: SEGMENT_BYTES, postgres_version: 15 };
    for request in [begin, Request::ImportValues(values()), Request::ImportFinish] {
        assert_eq!(client.ask(&request).await, Response::Done);
    }
}

fn shutdown_checkpoint() -> (Vec<u8>, Lsn) {
    encode_shutdown_checkpoint(&PG15, &checkpoint(), START, Lsn::INVALID, SYSTEM_ID, SEGMENT_BYTES.into())
}

fn get_pages(lsn: Lsn, blocks: &[u32]) -> Request {
    Request::GetPages { lsn, keys: blocks.iter().map(|block| Key::RelBlock { rel: REL, block: *block }).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_branch_is_served_followed_and_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, record) = shutdown_checkpoint();
    let end = START.add(wal.len() as u64);
    let safekeeper = Safekeeper::start(wal).await;
    let server = Running::start(dir.path(), vec![safekeeper.address]).await;

    let (mut client, welcome) = Client::connect(server.pages).await;
    assert_eq!(welcome, Response::Welcome { ingested: None });
    assert_eq!(client.error(&get_pages(START, &[0])).await, ErrorCode::NoSuchBranch);
    assert_eq!(client.error(&Request::ImportFinish).await, ErrorCode::Protocol);
    import(&mut client).await;

    let zeroes = Bytes::from(vec![0; PAGE_SIZE]);
    let pages = vec![Bytes::from(vec![2; PAGE_SIZE]), Bytes::from(vec![1; PAGE_SIZE]), zeroes];
    assert_eq!(client.ask(&get_pages(START, &[1, 0, 2])).await, Response::Pages(pages.clone()));
    assert_eq!(client.ask(&get_pages(end, &[1, 0, 2])).await, Response::Pages(pages.clone()));
    assert_eq!(client.error(&get_pages(end, &[3])).await, ErrorCode::NoSuchKey);
    assert_eq!(client.error(&Request::GetCheckpoint { lsn: START }).await, ErrorCode::Protocol);
    match client.ask(&Request::GetCheckpoint { lsn: end }).await {
        Response::Checkpoint { last_record, state, shut_down } => {
            assert_eq!((last_record, shut_down), (record, true));
            assert_eq!(CheckpointState::decode(&state).unwrap().next_xid, checkpoint().next_xid);
        }
        other => panic!("{other:?}"),
    }
    let chain = |block| Request::GetChain { lsn: end, key: Key::RelBlock { rel: REL, block } };
    let image = PageVersion { lsn: START, kind: VersionKind::Image, payload: pages[1].clone() };
    assert_eq!(client.ask(&chain(0)).await, Response::Chain(vec![image]));
    assert_eq!(client.ask(&chain(2)).await, Response::Chain(Vec::new()), "zeroes need no version");
    assert_eq!(client.error(&chain(3)).await, ErrorCode::NoSuchKey);
    let scan = Request::Scan { lsn: START, from: Key::RelSize { rel: REL }, to: Key::ControlFile };
    match client.ask(&scan).await {
        Response::Values { entries, more: false } => {
            let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, [Key::RelSize { rel: REL }, Key::ControlFile]);
        }
        other => panic!("{other:?}"),
    }
    wait_until(|| safekeeper.durable.load(Ordering::SeqCst) == end.0).await;
    server.stop().await;

    let server = Running::start(dir.path(), vec![safekeeper.address]).await;
    let (mut client, welcome) = Client::connect(server.pages).await;
    assert_eq!(welcome, Response::Welcome { ingested: Some(end) });
    assert_eq!(client.ask(&get_pages(end, &[1, 0, 2])).await, Response::Pages(pages));
    let position = client.ask(&Request::GetPosition).await;
    assert_eq!(position, Response::Position { ingested: end, durable: end });
    let again = Request::ImportBegin { start: START, segment_bytes: SEGMENT_BYTES, postgres_version: 15 };
    assert_eq!(client.error(&again).await, ErrorCode::Protocol);
    server.stop().await;
    // Of another major version this pageserver knows neither records nor pages.
    let empty = tempfile::tempdir().unwrap();
    let server = Running::start(empty.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    let newer = Request::ImportBegin { start: START, segment_bytes: SEGMENT_BYTES, postgres_version: 16 };
    assert_eq!(client.error(&newer).await, ErrorCode::Protocol);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_kept_for_the_compute_that_fenced_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    assert_eq!(client.error(&Request::FenceFiles { term: Term(1) }).await, ErrorCode::NoSuchBranch);
    import(&mut client).await;
    let version = |term, sequence| FileVersion { term: Term(term), sequence };
    let file = |name: &str| SmallFile { name: name.into(), lsn: Lsn(5), content: Bytes::from_static(b"content") };
    let put = |term, sequence, name| Request::PutFile { version: version(term, sequence), file: file(name) };
    let remove =
        |term, sequence, name: &str| Request::RemoveFile { version: version(term, sequence), name: name.into() };
    assert_eq!(client.error(&put(1, 1, "fsm/1/2/3")).await, ErrorCode::Protocol, "nobody has fenced");
    for request in [
        Request::FenceFiles { term: Term(1) },
        put(1, 1, "fsm/1/2/3"),
        put(1, 2, "pgdata/a"),
        remove(1, 3, "fsm/1/2/3"),
        Request::FenceFiles { term: Term(2) },
    ] {
        assert_eq!(client.ask(&request).await, Response::Done, "{request:?}");
    }
    assert_eq!(client.error(&remove(1, 4, "pgdata/a")).await, ErrorCode::Fenced);
    assert_eq!(client.error(&put(2, 1, "no-slash")).await, ErrorCode::Protocol);
    server.stop().await;
    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    let all = Request::GetFiles { prefix: String::new(), after: String::new() };
    assert_eq!(client.ask(&all).await, Response::Files { files: vec![file("pgdata/a")], more: false });
    assert_eq!(client.error(&Request::FenceFiles { term: Term(1) }).await, ErrorCode::Fenced);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn written_pages_are_kept_and_served_and_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    import(&mut client).await;
    let written = |block, lsn| {
        let mut raw = vec![8; PAGE_SIZE];
        quire_wal::page::set_lsn(&mut raw, lsn);
        WrittenPage { key: Key::RelBlock { rel: REL, block }, page: raw.into() }
    };
    let keep =
        |term, pages: &[WrittenPage]| Request::KeepPages { term: Term(term), upto: START, pages: pages.to_vec() };
    let pages = [written(0, START), written(9, START), written(2, Lsn::INVALID), written(1, Lsn::INVALID)];
    assert_eq!(client.error(&keep(1, &pages)).await, ErrorCode::Protocol, "nobody has fenced");
    for term in [1, 2] {
        assert_eq!(client.ask(&Request::FenceFiles { term: Term(term) }).await, Response::Done);
    }
    assert_eq!(client.error(&keep(1, &pages)).await, ErrorCode::Fenced);
    assert_eq!(client.error(&keep(2, &[written(0, START.add(8))])).await, ErrorCode::Timeout, "ingest is not there");
    let map = WrittenPage { key: Key::Checkpoint, page: pages[0].page.clone() };
    assert_eq!(client.error(&keep(2, &[pages[0].clone(), map])).await, ErrorCode::Protocol);
    let keepings = vec![Keeping::Kept, Keeping::Gone, Keeping::Kept, Keeping::Logged];
    assert_eq!(client.ask(&keep(2, &pages)).await, Response::KeptPages(keepings));
    let expected = Response::Pages(vec![pages[0].page.clone(), pages[2].page.clone()]);
    assert_eq!(client.ask(&get_pages(START, &[0, 2])).await, expected);
    let chain = Request::GetChain { lsn: START, key: pages[0].key };
    let version = PageVersion { lsn: START, kind: VersionKind::Written, payload: pages[0].page.clone() };
    assert_eq!(client.ask(&chain).await, Response::Chain(vec![version]));
    let metrics = server.http("GET", "/metrics", "").await;
    assert!(metrics.lines().any(|line| line.contains("pages_kept_total{") && line.ends_with(" 2")), "{metrics}");
    server.stop().await;
    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    assert_eq!(client.ask(&get_pages(START, &[0, 2])).await, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_source_is_left_for_the_next_safekeeper() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = shutdown_checkpoint();
    let end = START.add(wal.len() as u64);
    let (dead, alive) = (Safekeeper::start(wal.clone()).await, Safekeeper::start(wal).await);
    dead.task.abort();
    let server = Running::start(dir.path(), vec![dead.address, alive.address]).await;
    let (mut client, _) = Client::connect(server.pages).await;
    import(&mut client).await;
    assert!(matches!(client.ask(&get_pages(end, &[0])).await, Response::Pages(_)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_import_is_gone_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    let begin = Request::ImportBegin { start: START, segment_bytes: SEGMENT_BYTES, postgres_version: 15 };
    assert_eq!(client.ask(&begin).await, Response::Done);
    assert_eq!(client.ask(&Request::ImportValues(values())).await, Response::Done);
    let branch = dir.path().join("0".repeat(32)).join("0".repeat(32));
    assert!(branch.join("0-1.import").exists() && !branch.join("0-1").exists(), "it is no branch yet");
    server.stop().await;
    let server = Running::start(dir.path(), Vec::new()).await;
    assert!(!branch.join("0-1.import").exists(), "it is removed");
    let (mut client, welcome) = Client::connect(server.pages).await;
    assert_eq!(welcome, Response::Welcome { ingested: None });
    import(&mut client).await;
    server.stop().await;
}

/// The names of the files and directories in the directory of the first branch.
fn branch_files(dir: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(dir.join("0".repeat(32)).join("0".repeat(32)).join("0-1")).unwrap();
    let mut names: Vec<_> = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_without_its_manifest_is_left_alone_and_said_to_be_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Vec::new()).await;
    import(&mut Client::connect(server.pages).await.0).await;
    server.stop().await;
    let manifest = dir.path().join("0".repeat(32)).join("0".repeat(32)).join("0-1/manifest");
    std::fs::rename(&manifest, dir.path().join("manifest")).unwrap();
    let files = branch_files(dir.path());
    assert!(files.iter().any(|name| name.ends_with(".layer")), "{files:?}");

    let server = Running::start(dir.path(), Vec::new()).await;
    server.wait_until_status_says("cannot find the manifest").await;
    let (mut client, _) = Client::connect(server.pages).await;
    assert_eq!(client.error(&get_pages(START, &[0])).await, ErrorCode::Storage);
    let begin = Request::ImportBegin { start: START, segment_bytes: SEGMENT_BYTES, postgres_version: 15 };
    assert_eq!(client.error(&begin).await, ErrorCode::Protocol, "nothing is imported in its place");
    assert_eq!(branch_files(dir.path()), files);
    std::fs::rename(dir.path().join("manifest"), &manifest).unwrap();
    server.wait_until_status_says(r#""error":null"#).await;
    assert!(matches!(client.ask(&get_pages(START, &[0])).await, Response::Pages(_)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_cannot_be_ingested_stops_the_branch_and_not_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = shutdown_checkpoint();
    let last = wal.len() - 1;
    wal[last - 20] ^= 1;
    let end = START.add(wal.len() as u64);
    let safekeeper = Safekeeper::start(wal).await;
    let server = Running::start(dir.path(), vec![safekeeper.address]).await;
    let (mut client, _) = Client::connect(server.pages).await;
    import(&mut client).await;
    assert_eq!(client.error(&get_pages(end, &[0])).await, ErrorCode::IngestStopped);
    assert!(matches!(client.ask(&get_pages(START, &[0])).await, Response::Pages(_)));
    let status = server.http("GET", "/status", "").await;
    assert!(status.contains("\"error\":\"invalid WAL at"), "{status}");
    server.stop().await;
}

/// A checkpoint, a record whose checksum is right and whose body says nothing that can be decoded, a record that is
/// good; where the second starts, and where the third ends.
fn wal_with_a_record_that_cannot_be_decoded() -> (Vec<u8>, Lsn, Lsn) {
    let (mut wal, last) = shutdown_checkpoint();
    let mut writer = WalWriter::new(&PG15, START.add(wal.len() as u64), last, 1, SYSTEM_ID, SEGMENT_BYTES.into());
    let bad = writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, b"abc");
    writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, b"def");
    let end = writer.position();
    let mut records = writer.into_vec();
    let bytes = u32::from_le_bytes(*records.first_chunk().unwrap()) as usize;
    // The number of a block that no record has.
    records[24] = 100;
    let checksum = record_crc(&records[..bytes]);
    records[20..24].copy_from_slice(&checksum.to_le_bytes());
    wal.extend(records);
    (wal, bad, end)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_decoded_stops_ingest_at_it_and_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, bad, end) = wal_with_a_record_that_cannot_be_decoded();
    let before = Safekeeper::start(wal[..bad.bytes_since(START) as usize].to_vec()).await;
    let server = Running::start(dir.path(), vec![before.address]).await;
    import(&mut Client::connect(server.pages).await.0).await;
    wait_until(|| before.durable.load(Ordering::SeqCst) == bad.0).await;
    server.stop().await;
    let safekeeper = Safekeeper::start(wal).await;
    for start in ["first", "second"] {
        let server = Running::start(dir.path(), vec![safekeeper.address]).await;
        let (mut client, _) = Client::connect(server.pages).await;
        assert_eq!(client.error(&get_pages(end, &[0])).await, ErrorCode::IngestStopped, "the {start} time");
        assert!(matches!(client.ask(&get_pages(bad, &[0])).await, Response::Pages(_)), "what is before it is served");
        server.wait_until_status_says(&format!("\"error\":\"the record at {bad} cannot be decoded")).await;
        let position = client.ask(&Request::GetPosition).await;
        assert_eq!(position, Response::Position { ingested: bad, durable: bad });
        server.stop().await;
        assert!(safekeeper.durable.load(Ordering::SeqCst) <= bad.0, "nothing beyond it was reported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_cannot_be_opened_is_opened_once_its_files_are_whole_and_the_others_before() {
    let dir = tempfile::tempdir().unwrap();
    let other = BranchKey { branch: BranchId([7; 16]), ..BranchKey::default() };
    let server = Running::start(dir.path(), Vec::new()).await;
    for pages in [BranchKey::default(), other] {
        import(&mut Client::connect_to(server.pages, pages).await.0).await;
    }
    server.stop().await;
    let folder = dir.path().join("0".repeat(32)).join("0".repeat(32)).join("0-1");
    let layer = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
    let layer = layer.into_iter().find(|path| path.extension().is_some_and(|suffix| suffix == "layer")).unwrap();
    let whole = std::fs::read(&layer).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&layer, damaged).unwrap();

    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect_to(server.pages, other).await;
    assert!(matches!(client.ask(&get_pages(START, &[0])).await, Response::Pages(_)), "the other branch is served");
    let (mut client, _) = Client::connect(server.pages).await;
    assert_eq!(client.error(&get_pages(START, &[0])).await, ErrorCode::Storage);
    server.wait_until_status_says(layer.to_str().unwrap()).await;
    // What is put back may be away for a moment, and nothing may be taken for an import that was not finished.
    std::fs::write(&layer, whole).unwrap();
    let manifest = folder.join("manifest");
    std::fs::rename(&manifest, dir.path().join("manifest")).unwrap();
    server.wait_until_status_says("cannot find the manifest").await;
    std::fs::rename(dir.path().join("manifest"), &manifest).unwrap();
    server.wait_until_status_says(r#""error":null"#).await;
    assert!(matches!(client.ask(&get_pages(START, &[0])).await, Response::Pages(_)), "on the connection that it had");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_settings_chains_and_metrics_are_served_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), Vec::new()).await;
    let (mut client, _) = Client::connect(server.pages).await;
    import(&mut client).await;
    let id = "0".repeat(32);
    let branch = format!("project={id}&branch={id}");
    let settings = server.http("PUT", &format!("/settings?{branch}"), r#"{"max_deltas":7,"max_bytes":9000}"#).await;
    assert!(settings.starts_with("HTTP/1.1 204"), "{settings}");
    let status = server.http("GET", "/status", "").await;
    for part in [r#""max_deltas":7"#, r#""state":"off""#, r#""ingested":"0/1000000""#, r#""error":null"#] {
        assert!(status.contains(part), "{part} in {status}");
    }
    let page = format!("/page?{branch}&tablespace=1663&database=5&relation=16384&fork=main&block=1");
    let page = server.http("GET", &page, "").await;
    assert!(page.contains(r#""image_lsn":"0/1000000","deltas":0"#), "{page}");
    let missing = format!("/page?{branch}&tablespace=1663&database=5&relation=16384&block=9");
    assert!(server.http("GET", &missing, "").await.starts_with("HTTP/1.1 404"));
    assert!(server.http("GET", &format!("/hot?{branch}"), "").await.ends_with("[]"));
    let metrics = server.http("GET", "/metrics", "").await;
    for part in ["quire_pageserver_ingested_lsn{", "quire_pageserver_image_backlog_pages{", "# EOF"] {
        assert!(metrics.contains(part), "{part} in {metrics}");
    }
    server.stop().await;
}

#[test]
fn the_wal_that_the_tests_serve_is_one_record() {
    let (wal, record) = shutdown_checkpoint();
    let mut stream = WalStream::new(START, SEGMENT_BYTES.into(), Some(SYSTEM_ID));
    stream.feed(&wal);
    assert_eq!(stream.next_record().unwrap().unwrap().start, record);
}

async fn wait_until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), poll).await.expect("the condition comes true in time");
}
