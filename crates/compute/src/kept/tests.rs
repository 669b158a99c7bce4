use super::*;
use quire_net::frames;
use quire_protocol::page::{ErrorCode, Request, Response};
use quire_types::{BranchKey, ShardId};
use std::fs;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

#[test]
fn a_name_that_leads_out_of_the_data_directory_is_none() {
    assert_eq!(data_path("pgdata/pg_replslot/a/state"), Some("pg_replslot/a/state"));
    for name in ["pgdata/", "pgdata/../x", "pgdata//etc/passwd", "fsm/1663/5/1", "pgdata/a/../../x"] {
        assert_eq!(data_path(name), None, "{name}");
    }
}

#[test]
fn a_slot_that_cannot_be_read_holds_back_all_wal() {
    let slot = |name: &str| format!("pg_replslot/{name}/state");
    let damaged = KnownContent::Content(Bytes::from_static(b"damaged"));
    let others = BTreeMap::from([("pg_logical/snapshots/0-1.snap".to_owned(), KnownContent::Length(7))]);
    assert_eq!(wal_needed(&others), None);
    assert_eq!(wal_needed(&BTreeMap::from([(slot("a"), damaged)])), Some(Lsn::INVALID));
}

/// A pageserver that gives these answers after the greeting, and what it was asked.
async fn storage(answers: Vec<Response>) -> (SocketAddr, tokio::task::JoinHandle<Vec<Request>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        frames::read(&mut stream).await.expect("hello");
        stream.write_all(&Response::Welcome { ingested: None }.to_frame(0).encode()).await.expect("sent");
        let mut asked = Vec::new();
        for answer in answers {
            let frame = frames::read(&mut stream).await.expect("a request");
            asked.push(Request::from_frame(&frame).expect("decoded"));
            stream.write_all(&answer.to_frame(frame.request_id).encode()).await.expect("sent");
        }
        asked
    });
    (address, serving)
}

fn refusal(code: ErrorCode) -> Response {
    Response::Error { code, message: "refused".into() }
}

async fn opened(folder: &Path, address: SocketAddr) -> KeptFiles {
    fs::create_dir_all(folder.join("pgdata/pg_replslot/a")).expect("made");
    fs::write(folder.join("pgdata/pg_replslot/a/state"), b"state").expect("written");
    let client = PageClient::new(address, BranchKey::default(), ShardId::UNSHARDED);
    KeptFiles::open(ComputeDir::new(folder), client, Term(4), PATIENCE).await.expect("opened").0
}

#[tokio::test]
async fn a_flush_waits_until_storage_takes_the_file_and_a_second_one_has_nothing_to_send() {
    let none = Response::Files { files: vec![], more: false };
    let answers = vec![Response::Done, none, refusal(ErrorCode::Storage), Response::Done, Response::Done];
    let ((address, serving), folder) = (storage(answers).await, tempfile::tempdir().expect("a folder"));
    let kept = opened(folder.path(), address).await;
    kept.keep(FileArea::Slots).await.expect("kept in the end");
    assert_eq!(kept.wal_needed(), Some(Lsn::INVALID), "it is no slot that says what it needs");
    kept.keep(FileArea::Slots).await.expect("nothing to do");
    fs::rename(folder.path().join("pgdata/pg_replslot/a"), folder.path().join("pgdata/pg_replslot/a.tmp"))
        .expect("renamed");
    kept.keep(FileArea::Slots).await.expect("forgotten");
    assert_eq!(kept.wal_needed(), None);

    let name = "pgdata/pg_replslot/a/state".to_owned();
    let file = SmallFile { name: name.clone(), lsn: Lsn::INVALID, content: Bytes::from_static(b"state") };
    let version = |sequence| FileVersion { term: Term(4), sequence };
    let expected = [
        Request::FenceFiles { term: Term(4) },
        Request::GetFiles { prefix: PGDATA.into(), after: String::new() },
        Request::PutFile { version: version(1), file: file.clone() },
        Request::PutFile { version: version(2), file },
        Request::RemoveFile { version: version(3), name },
    ];
    assert_eq!(serving.await.expect("served"), expected);
}

#[tokio::test]
async fn a_flush_of_a_compute_that_was_replaced_fails() {
    let none = Response::Files { files: vec![], more: false };
    let answers = vec![Response::Done, none, refusal(ErrorCode::Fenced)];
    let ((address, _serving), folder) = (storage(answers).await, tempfile::tempdir().expect("a folder"));
    let kept = opened(folder.path(), address).await;
    let error = kept.keep(FileArea::Slots).await.expect_err("fenced");
    assert!(matches!(error, Error::Page(PageError::Refused { code: ErrorCode::Fenced, .. })), "{error}");
}
