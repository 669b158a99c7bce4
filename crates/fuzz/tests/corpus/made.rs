//! Seeds made by hand: messages, files, effects, and a short log.

use crate::Seeds;
use bytes::Bytes;
use quire_cache::FileId;
use quire_cache::request as local;
use quire_fuzz::files::{self, Format};
use quire_fuzz::{frames, redo, wal_stream};
use quire_layers::image_policy::ImageSettings;
use quire_layers::manifest::{Manifest, Origin, RunEntry};
use quire_protocol::quorum::{LogIdentity, TermHistory, TermStart};
use quire_protocol::{Frame, page, quorum};
use quire_redo::{Delta, MultixactMember, TransactionStatus};
use quire_types::{BranchKey, Fork, Key, Lsn, NodeId, PAGE_SIZE, RelTag, ShardId, Slru, Term, Writer};
use quire_wal::effects::FullPageWrites;
use quire_wal::effects::replorigin;
use quire_wal::postgres_version::PG15;
use quire_wal::wal_page::WalPageHeader;
use quire_wal::{CheckpointState, WalWriter, rmgr};

const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
const PAGE: Key = Key::RelBlock { rel: REL, block: 3 };

/// Adds all of them.
pub fn add(seeds: &mut Seeds, control_file: &[u8]) {
    let mut add = |target, more: Vec<Vec<u8>>| seeds.entry(target).or_default().extend(more);
    add("frames", messages());
    add("files", of_files(control_file));
    add("redo", effects());
    add("wal_stream", vec![log()]);
}

fn messages() -> Vec<Vec<u8>> {
    let frames: Vec<Frame> = [page_requests(), page_responses(), quorum_requests(), quorum_responses()].concat();
    let mut seeds: Vec<_> = frames.iter().map(frames::frame_seed).collect();
    seeds.push(frames::stream_seed(&frames[..4]));
    let file = FileId::Relation { rel: REL, segment: 1 };
    let slru = FileId::Slru { slru: Slru::Clog, segment: 0 };
    let requests = [
        local::Request::MaterialiseDatabase { tablespace: 1663, database: 5 },
        local::Request::MaterialiseRelation { tablespace: 1663, database: 5, relation: 16_384 },
        local::Request::MakeRoom,
        local::Request::Fill { file, first_block: 7, count: 2 },
        local::Request::Prefetch { file: slru, first_block: 7, count: 2 },
        local::Request::WalSegment { timeline: 1, segment_number: 9 },
    ];
    seeds.extend(requests.map(|request| frames::local_seed(&request.encode())));
    seeds.push(frames::local_seed(&local::Answer::Fenced.encode()));
    seeds
}

fn page_requests() -> Vec<Frame> {
    use page::{Request, WrittenPage};
    let requests = [
        Request::Hello { branch: BranchKey::default(), shard: ShardId::UNSHARDED },
        Request::GetPages { lsn: Lsn(9), keys: vec![PAGE, Key::SlruBlock { slru: Slru::Clog, page: 1 }] },
        Request::Scan { lsn: Lsn(9), from: PAGE, to: Key::Checkpoint },
        Request::GetPosition,
        Request::GetCheckpoint { lsn: Lsn(9) },
        Request::ImportBegin { start: Lsn(1 << 24), segment_bytes: 1 << 24, postgres_version: 15 },
        Request::ImportValues(vec![(Key::ControlFile, Bytes::from_static(b"file")), (PAGE, Bytes::new())]),
        Request::ImportFinish,
        Request::KeepPages {
            term: Term(3),
            upto: Lsn(9),
            pages: vec![WrittenPage { key: PAGE, page: vec![0; PAGE_SIZE].into() }],
        },
    ];
    requests.iter().map(|request| request.to_frame(5)).collect()
}

fn page_responses() -> Vec<Frame> {
    use page::{ErrorCode, Keeping, Response};
    let responses = [
        Response::Welcome { ingested: Some(Lsn(7)) },
        Response::Pages(vec![vec![0; PAGE_SIZE].into()]),
        Response::Values { entries: vec![(Key::ControlFile, Bytes::from_static(b"file"))], more: true },
        Response::Position { ingested: Lsn(7), durable: Lsn(6) },
        Response::Checkpoint { last_record: Lsn(7), state: Bytes::from_static(b"state"), shut_down: true },
        Response::Done,
        Response::KeptPages(vec![Keeping::Kept, Keeping::Logged]),
        Response::Error { code: ErrorCode::Corrupt, message: "why".into() },
    ];
    responses.iter().map(|response| response.to_frame(5)).collect()
}

fn identity() -> LogIdentity {
    LogIdentity { system_id: 7, segment_bytes: 1 << 24, start: Lsn(1 << 24) }
}

fn history() -> TermHistory {
    TermHistory(vec![
        TermStart { term: Term(1), start: Lsn(1 << 24) },
        TermStart { term: Term(4), start: Lsn(1 << 25) },
    ])
}

fn quorum_requests() -> Vec<Frame> {
    use quorum::Request;
    let wal = Bytes::from_static(b"some WAL");
    let (begin, commit, durable) = (Lsn(1 << 24), Lsn(1 << 24), Lsn(1 << 24));
    let requests = [
        Request::Hello { branch: BranchKey::default(), node: NodeId(3) },
        Request::CreateLog(identity()),
        Request::RequestVote { term: Term(4) },
        Request::Elected { term: Term(4), stream_from: begin, history: history() },
        Request::Append { term: Term(4), begin, commit, durable, ends_record: true, wal },
        Request::ReadWal { term: Term(0), begin, end: begin.add(100) },
        Request::Follow { from: begin, shard: ShardId::UNSHARDED, send_wal: true },
        Request::Durable { lsn: begin },
    ];
    requests.iter().map(|request| request.to_frame(0)).collect()
}

fn quorum_responses() -> Vec<Frame> {
    use quorum::{ErrorCode, Response};
    let (term, flush, commit, oldest) = (Term(4), Lsn(1 << 25), Lsn(1 << 25), Lsn(1 << 24));
    let responses = [
        Response::Welcome { node: NodeId(3), term, identity: Some(identity()) },
        Response::Vote { granted: true, term, flush, commit, oldest, history: history() },
        Response::Appended { term, flush, commit },
        Response::Wal { begin: oldest, commit, wal: Bytes::from_static(b"some WAL") },
        Response::Error { code: ErrorCode::OutOfRange, message: "why".into() },
    ];
    responses.iter().map(|response| response.to_frame(0)).collect()
}

fn of_files(control_file: &[u8]) -> Vec<Vec<u8>> {
    let checkpoint = CheckpointState { next_xid: 700, ..CheckpointState::default() };
    let mut header = Writer::new();
    WalPageHeader::new(&PG15, Lsn(1 << 20), 1, 9, 7, 1 << 20).write(&mut header);
    let mut control = Writer::new();
    control.bytes(&[0; 24]).u64(1 << 24).bytes(&[0; 4096]);
    let made = [
        (Format::Manifest, manifest()),
        (Format::SafekeeperState, safekeeper_state()),
        (Format::ControlFile, control_file[..300].to_vec()),
        (Format::Checkpoint, checkpoint.encode()),
        (Format::IngestState, ingest_state(&checkpoint)),
        (Format::DataPath, b"base/5/16384_vm.2".to_vec()),
        (Format::DataPath, b"pg_wal/000000010000000200000003".to_vec()),
        (Format::DataPath, b"pg_tblspc/16385/PG_15_202209061/5/99".to_vec()),
        (Format::ReplicationOrigins, replorigin::write_file(&[(1, Lsn(5)), (7, Lsn(9))])),
        (
            Format::RelationMap,
            [&5u32.to_le_bytes()[..], &1663u32.to_le_bytes(), &512u32.to_le_bytes(), &[0; 512]].concat(),
        ),
        (Format::WalPageHeader, header.into_vec()),
        (Format::CacheMeta, cache_meta()),
        (Format::CacheControl, control.into_vec()),
        (Format::LayerParts, layer()),
    ];
    let mut seeds: Vec<_> = made.iter().map(|(format, file)| files::seed(*format, file)).collect();
    seeds.extend(effects_and_keys().iter().map(|(_, delta)| files::seed(Format::Delta, &delta.encode())));
    seeds.extend(effects_and_keys().iter().map(|(key, _)| files::seed(Format::Key, &key.encode())));
    seeds
}

fn manifest() -> Vec<u8> {
    let origin = Origin {
        branch: BranchKey::default(),
        shard: ShardId::UNSHARDED,
        start: Lsn(1 << 24),
        segment_bytes: 1 << 24,
        postgres_version: 15,
    };
    let runs = vec![RunEntry { tier: 1, layers: vec![4, 5] }, RunEntry { tier: 0, layers: vec![6] }];
    Manifest { runs, next_layer: 7, ..Manifest::new(origin, ImageSettings::default()) }.encode()
}

/// A state file: magic, version, checksum, identity, terms and positions, history, followers.
fn safekeeper_state() -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(b"QUIRESKB").u32(1).u32(0).u64(7).u32(1 << 24).u64(1 << 24);
    out.u64(4).u64(1 << 25).u64(1 << 24);
    quorum::write_history(&mut out, &history());
    out.u32(1).u8(0).u8(1).u64(1 << 24);
    out.into_vec()
}

/// What ingest remembers, as `docs/format.md` has it.
fn ingest_state(checkpoint: &CheckpointState) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(1).u64(1 << 25).u64(1 << 24).u8(0).u8(1).u32(3);
    out.length_prefixed(&checkpoint.encode()).length_prefixed(&checkpoint.encode());
    out.length_prefixed(&FullPageWrites { on: true, since: Lsn(8) }.encode());
    out.into_vec()
}

/// A meta file of one block.
fn cache_meta() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meta");
    let file = FileId::Relation { rel: REL, segment: 0 };
    let spec = quire_cache::meta::MetaSpec { file, inode: 9, remote_nblocks: 1, request_lsn: Lsn(9), bounded: false };
    spec.create(&path).expect("a meta file");
    std::fs::read(&path).expect("a meta file")
}

/// The parts of a layer with a delta, an image account and a value.
fn layer() -> Vec<u8> {
    let mut block = Writer::new();
    let delta = Delta::VisibilityTruncated { heap_blocks: 9 }.encode();
    block.bytes(&PAGE.encode()).u64(50).u8(3).length_prefixed(&delta);
    block.bytes(&PAGE.encode()).u64(60).u8(3).length_prefixed(&delta);
    block.bytes(&Key::Checkpoint.encode()).u64(60).u8(1).length_prefixed(b"value");
    let mut carries = Writer::new();
    carries.bytes(&PAGE.encode()).u32(2).u64(10).u64(50).u64(60);
    let mut summary = Writer::new();
    summary.bytes(&[0; 32]).u8(0).u8(1).bytes(&PAGE.encode()).bytes(&Key::Checkpoint.encode());
    summary.u64(50).u64(60).u64(3).u64(2);
    files::layer_seed(block.as_slice(), carries.as_slice(), summary.as_slice())
}

fn effects() -> Vec<Vec<u8>> {
    let mut page = [0; PAGE_SIZE];
    quire_wal::page::init(&mut page, 0);
    page[24..40].fill(0xFF);
    let effects = effects_and_keys();
    effects.iter().map(|(key, delta)| redo::effect_seed(*key, &page, delta)).collect()
}

fn effects_and_keys() -> Vec<(Key, Delta)> {
    let map = Key::RelBlock { rel: REL.with_fork(Fork::VisibilityMap), block: 0 };
    let slru = |slru| Key::SlruBlock { slru, page: 0 };
    let members = vec![MultixactMember { xid: 7, status: 1 }, MultixactMember { xid: 8, status: 5 }];
    vec![
        (map, Delta::VisibilityCleared { heap_blocks: vec![5, 9], bits: 3 }),
        (map, Delta::VisibilityTruncated { heap_blocks: 7 }),
        (slru(Slru::Clog), Delta::ClogStatus { status: TransactionStatus::Aborted, xids: vec![700, 701] }),
        (slru(Slru::MultixactOffsets), Delta::MultixactOffset { entries: vec![(5, 9), (6, 11)] }),
        (slru(Slru::MultixactMembers), Delta::MultixactMembers { first: 9, members }),
        (slru(Slru::CommitTs), Delta::CommitTs { time: 99, origin: 3, xids: vec![700, 702] }),
    ]
}

/// Records of all lengths, with one that spans pages, and a segment's end.
fn log() -> Vec<u8> {
    let start = Lsn(3 * wal_stream::SEGMENT_BYTES);
    let mut writer = WalWriter::new(&PG15, start, Lsn(0), 1, wal_stream::SYSTEM_ID, wal_stream::SEGMENT_BYTES);
    for length in [0, 1, 7, 300, 9000, 20] {
        writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 3, &vec![5; length]);
    }
    writer.append(rmgr::XLOG, rmgr::XLOG_SWITCH, 0, &[]);
    [&wal_stream::SEED_PREFIX[..], &writer.into_vec()].concat()
}
