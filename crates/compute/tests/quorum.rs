//! The commit path against real safekeepers: what PostgreSQL is told is durable, is; and nothing else.

use quire_api::Tuning;
use quire_api::compute::{LinkStatus, QuorumStatus};
use quire_cache::{ControlMap, ControlSettings, FlushOutcome};
use quire_compute::as_written::PartialPages;
use quire_compute::fullness::Fullness;
use quire_compute::last_checkpoint::LastCheckpoint;
use quire_compute::quorum::local_wal::{LocalWal, TIMELINE};
use quire_compute::quorum::{Quorum, SessionEnd, Source, Won};
use quire_compute::throttle::Throttle;
use quire_compute::{Config, Error, bootstrap};
use quire_net::quorum_client::QuorumClient;
use quire_protocol::quorum::LogIdentity;
use quire_safekeeper::Safekeeper;
use quire_types::{BranchId, Endpoint, Lsn, NodeId, ProjectId, Term};
use quire_wal::CheckpointState;
use quire_wal::checkpoint::encode_shutdown_checkpoint;
use quire_wal::postgres_version::PG15;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SEGMENT: u64 = 1 << 20;
const IDENTITY: LogIdentity = LogIdentity { system_id: 7, segment_bytes: SEGMENT as u32, start: Lsn(SEGMENT) };
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    config: quire_safekeeper::Config,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Node {
    async fn start(folder: &Path, number: u64) -> Node {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let data_dir = folder.join(format!("safekeeper-{number}"));
        std::fs::create_dir_all(&data_dir).expect("made");
        let config =
            quire_safekeeper::Config { node: NodeId(number), listen: any, http: any, data_dir, keep_segments: 100 };
        let mut node = Node { config, address: any, running: None };
        node.up().await;
        node
    }

    async fn up(&mut self) {
        let safekeeper = Safekeeper::open(self.config.clone()).expect("opened");
        self.address = safekeeper.quorum_address().expect("bound");
        self.config.listen = self.address;
        let (stop, stopped) = oneshot::channel::<()>();
        let run = async move {
            safekeeper.run(async { drop(stopped.await) }).await.expect("a clean end");
        };
        self.running = Some((stop, tokio::spawn(run)));
    }

    async fn down(&mut self) {
        let (stop, ended) = self.running.take().expect("it runs");
        drop(stop);
        ended.await.expect("no panic");
    }
}

fn config(folder: &Path, nodes: &[Node]) -> Config {
    Config {
        project: ProjectId([1; 16]),
        branch: BranchId([2; 16]),
        branch_name: "main".into(),
        node: NodeId(9),
        dir: folder.join("compute"),
        pg_bin: "/bin".into(),
        shim: "/bin/sh".into(),
        port: 1,
        listen: [127, 0, 0, 1].into(),
        socket_dir: None,
        http: ([127, 0, 0, 1], 0).into(),
        safekeepers: nodes.iter().map(|node| node.address.into()).collect(),
        pageservers: vec![Endpoint::new("127.0.0.1", 1)],
        run_as_user: None,
        settings: Vec::new(),
        pushdown: false,
        tuning: Tuning { verify_rate: Some(0), ..Tuning::default() },
        unknown: Default::default(),
        evidence: None,
        drop_everything: false,
    }
}

/// Three safekeepers without a log.
async fn empty_nodes(folder: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(Node::start(folder, number).await);
    }
    nodes
}

/// Three safekeepers with an empty log.
async fn nodes(folder: &Path) -> Vec<Node> {
    let nodes = empty_nodes(folder).await;
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let branch = config(folder, &nodes).branch_key();
    let created = tokio::task::spawn_blocking(move || {
        for address in addresses {
            let (mut client, _) =
                QuorumClient::connect(&address.into(), branch, NodeId(0), PATIENCE).expect("connected");
            client.create_log(IDENTITY).expect("created");
        }
    });
    created.await.expect("no panic");
    nodes
}

/// Something that writes WAL and flushes it as PostgreSQL does.
struct Writer {
    quorum: Quorum,
    control: Arc<ControlMap>,
    wal: LocalWal,
    end: Lsn,
    last: Lsn,
}

impl Writer {
    async fn start(folder: &Path, name: &str, config: &Config) -> Writer {
        let quorum = Quorum::start(config).expect("started");
        let won = within(quorum.elect()).await.expect("elected");
        within(quorum.committed(won.end_of_log)).await.expect("a majority has it");
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).expect("made");
        let wal = LocalWal::new(&folder, SEGMENT);
        let mut writer = Writer { control: control(&folder, won), quorum, wal, end: won.end_of_log, last: Lsn(0) };
        writer.fetch(&won).await;
        let (bytes, record) = writer.record();
        writer.quorum.append(won.end_of_log, bytes.into()).expect("appended");
        let (start, state) = (writer.end, CheckpointState::default());
        within(writer.quorum.committed(start)).await.expect("committed");
        writer.control = control(&folder, Won { end_of_log: start, ..won });
        let last = LastCheckpoint { record, state };
        let throttle = Arc::new(Throttle::new(config.tuning.max_lag(), start, Arc::new(Fullness::new(config))));
        let control = writer.control.clone();
        let partial = Arc::new(PartialPages::new(control.clone()));
        let source = Source { wal: writer.wal.another(), throttle, partial };
        writer.quorum.serve(control, source, &won, &last, start).expect("serving");
        writer
    }

    /// The part of the last segment that another writer left.
    async fn fetch(&mut self, won: &Won) {
        let begin = Lsn(won.end_of_log.segment_number(SEGMENT) * SEGMENT);
        let mut donor = self.quorum.connect_donor(won).expect("connected");
        let (term, end) = (won.term, won.end_of_log);
        let wal = tokio::task::spawn_blocking(move || donor.read_wal(term, begin, end).expect("read"));
        self.write(begin, &wal.await.expect("no panic"));
    }

    fn write(&self, begin: Lsn, bytes: &[u8]) {
        self.wal.write(begin, bytes, quire_compute::owner::Owner::unchanged()).expect("written");
    }

    /// Writes one record to the local file.
    fn record(&mut self) -> (Vec<u8>, Lsn) {
        let state = CheckpointState { this_timeline: 1, ..CheckpointState::default() };
        let (bytes, record) =
            encode_shutdown_checkpoint(&PG15, &state, self.end, self.last, IDENTITY.system_id, SEGMENT);
        self.write(self.end, &bytes);
        self.end = self.end.add(bytes.len() as u64);
        self.last = record;
        (bytes, record)
    }

    /// Writes records, then flushes them: what PostgreSQL is told, in a thread of its own.
    fn commit(&mut self, records: usize) -> std::thread::JoinHandle<FlushOutcome> {
        for _ in 0..records {
            self.record();
        }
        self.control.raise_wal_written(Lsn(self.end.0.next_multiple_of(8192)));
        let control = self.control.clone();
        std::thread::spawn(move || {
            let target = control.request_flush();
            control.wait_flushed(target, || true)
        })
    }

    async fn commit_and_wait(&mut self, records: usize) -> FlushOutcome {
        join(self.commit(records)).await
    }

    async fn everywhere(&self) {
        let has_all = |node: &LinkStatus| node.flush.is_some_and(|flush| flush >= self.end);
        self.until(|status| status.safekeepers.iter().all(has_all)).await;
    }

    /// Waits until the compute knows that it cannot continue; those who wait for a flush may hear of it first.
    async fn has_failed(&self) {
        within(self.quorum.view().wait_for(|view| matches!(view.ended, Some(SessionEnd::CommitPath(_)))))
            .await
            .expect("it says so");
    }

    async fn until(&self, holds: impl Fn(&QuorumStatus) -> bool) {
        within(async {
            while !holds(&self.quorum.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

fn control(folder: &Path, won: Won) -> Arc<ControlMap> {
    let settings = ControlSettings {
        agent_pid: std::process::id(),
        segment_bytes: SEGMENT,
        timeline: TIMELINE,
        start_lsn: won.end_of_log,
        bounded: false,
    };
    Arc::new(ControlMap::create(&folder.join("control.shm"), &settings).expect("made"))
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

async fn join(flush: std::thread::JoinHandle<FlushOutcome>) -> FlushOutcome {
    within(tokio::task::spawn_blocking(|| flush.join().expect("no panic"))).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_flushed_is_on_every_safekeeper_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    for records in [1, 2, 0, 100, 1] {
        assert_eq!(writer.commit_and_wait(records).await, FlushOutcome::Flushed);
        assert_eq!(writer.quorum.status().committed, Some(writer.end));
    }
    // Across the end of a segment, in one flush.
    assert_eq!(writer.commit_and_wait(20_000).await, FlushOutcome::Flushed);
    writer.everywhere().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_record_in_the_last_page_waits_for_the_next_flush() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    writer.record();
    let whole = writer.end;
    let (bytes, _) = writer.record();
    writer.write(whole.add(60), &[0xEE; 20]);
    assert_eq!(writer.commit_and_wait(0).await, FlushOutcome::Flushed);
    assert_eq!(writer.quorum.status().committed, Some(whole));
    writer.write(whole, &bytes);
    assert_eq!(writer.commit_and_wait(0).await, FlushOutcome::Flushed);
    assert_eq!(writer.quorum.status().committed, Some(writer.end));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_the_last_page_fails_the_compute() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    writer.record();
    let damaged = writer.end;
    for _ in 0..200 {
        writer.record();
    }
    writer.write(damaged.add(60), &[0xFF; 8]);
    assert_eq!(writer.commit_and_wait(0).await, FlushOutcome::Refused);
    writer.has_failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_a_majority_and_go_on_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    nodes[0].down().await;
    assert_eq!(writer.commit_and_wait(3).await, FlushOutcome::Flushed);
    nodes[1].down().await;
    let waiting = writer.commit(1);
    within(async {
        while !writer.quorum.status().lost {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "one of three is no majority");
    nodes[0].up().await;
    assert_eq!(join(waiting).await, FlushOutcome::Flushed);
    nodes[1].up().await;
    writer.everywhere().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_away_catches_up_over_segments_while_commits_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    nodes[2].down().await;
    for _ in 0..3 {
        assert_eq!(writer.commit_and_wait(10_000).await, FlushOutcome::Flushed);
    }
    nodes[2].up().await;
    for _ in 0..50 {
        assert_eq!(writer.commit_and_wait(1).await, FlushOutcome::Flushed);
    }
    writer.everywhere().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_compute_fences_an_older_one_and_has_all_it_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = nodes(folder.path()).await;
    let config = config(folder.path(), &nodes);
    let mut older = Writer::start(folder.path(), "a", &config).await;
    assert_eq!(older.commit_and_wait(5).await, FlushOutcome::Flushed);
    let mut newer = Writer::start(folder.path(), "b", &config).await;
    assert!(newer.end > older.end);
    assert_eq!(older.commit_and_wait(1).await, FlushOutcome::Refused);
    let refused = older.quorum.committed(Lsn::MAX).await;
    assert!(matches!(refused, Err(Error::Fenced { newer: Term(2) })), "{refused:?}");
    assert_eq!(newer.commit_and_wait(1).await, FlushOutcome::Flushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_no_election_is_won() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = vec![Node::start(folder.path(), 1).await];
    let quorum = Quorum::start(&config(folder.path(), &nodes)).expect("started");
    assert!(matches!(within(quorum.elect()).await, Err(Error::NoLog)));
}

/// Zeroes in the place of a page that is followed by others.
#[tokio::test(flavor = "multi_thread")]
async fn zeroes_before_the_last_page_fail_the_compute() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    assert_eq!(writer.commit_and_wait(1).await, FlushOutcome::Flushed);
    let acknowledged = writer.end;
    for _ in 0..300 {
        writer.record();
    }
    writer.write(Lsn(acknowledged.0.next_multiple_of(8192)), &[0; 8192]);
    assert_eq!(writer.commit_and_wait(0).await, FlushOutcome::Refused);
    writer.has_failed().await;
    assert_eq!(writer.commit_and_wait(1).await, FlushOutcome::Refused, "nothing after it is acknowledged");
}

/// The same within one page: the bytes between two records read as zeroes.
#[tokio::test(flavor = "multi_thread")]
async fn zeroes_in_an_earlier_page_fail_the_compute_even_if_they_begin_at_a_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    assert_eq!(writer.commit_and_wait(1).await, FlushOutcome::Flushed);
    let acknowledged = writer.end;
    for _ in 0..200 {
        writer.record();
    }
    writer.write(acknowledged, &[0; 64]);
    assert_eq!(writer.commit_and_wait(0).await, FlushOutcome::Refused);
    writer.has_failed().await;
}

/// What a page of the local file reads as after it was shipped is nobody's log.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_safekeeper_is_given_what_was_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = nodes(folder.path()).await;
    let config = config(folder.path(), &nodes);
    let mut writer = Writer::start(folder.path(), "a", &config).await;
    nodes[2].down().await;
    let begin = writer.end;
    assert_eq!(writer.commit_and_wait(1000).await, FlushOutcome::Flushed);
    let (damaged, end) = (Lsn(begin.0.next_multiple_of(8192)), writer.end);
    writer.write(damaged, &[0; 1024]);
    nodes[2].up().await;
    writer.everywhere().await;
    assert_eq!(writer.commit_and_wait(1).await, FlushOutcome::Flushed);
    writer.everywhere().await;
    let term = writer.quorum.status().term.expect("elected");
    let read = nodes.iter().map(|node| {
        let (address, branch) = (node.address, config.branch_key());
        tokio::task::spawn_blocking(move || {
            let (mut client, _) =
                QuorumClient::connect(&address.into(), branch, NodeId(0), PATIENCE).expect("connected");
            client.read_wal(term, begin, end).expect("read")
        })
    });
    let mut logs = Vec::new();
    for log in read {
        logs.push(log.await.expect("no panic"));
    }
    assert!(logs[0] == logs[1] && logs[1] == logs[2], "the logs of two safekeepers differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_changed_before_any_safekeeper_had_it_fails_the_compute() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = nodes(folder.path()).await;
    let mut writer = Writer::start(folder.path(), "a", &config(folder.path(), &nodes)).await;
    for node in &mut nodes {
        node.down().await;
    }
    writer.until(|status| status.connected == 0).await;
    let begin = writer.end;
    let waiting = writer.commit(1);
    writer.until(|status| status.written == Some(writer.end)).await;
    writer.write(begin, &[0; 64]);
    for node in &mut nodes {
        node.up().await;
    }
    assert_eq!(join(waiting).await, FlushOutcome::Refused);
    writer.has_failed().await;
}

async fn create_logs(config: &Config) -> Result<(), Error> {
    let config = config.clone();
    let created = tokio::task::spawn_blocking(move || bootstrap::create_logs(&config, IDENTITY, true));
    within(created).await.expect("no panic")
}

/// Which of the safekeepers that run have the log.
async fn having(config: &Config) -> Vec<bool> {
    let (addresses, branch) = (config.safekeepers.clone(), config.branch_key());
    let asked = tokio::task::spawn_blocking(move || {
        let welcome = |address: &Endpoint| {
            QuorumClient::connect(address, branch, NodeId(0), PATIENCE).map(|(_, welcome)| welcome)
        };
        let has_log = |address| welcome(address).is_ok_and(|welcome| welcome.identity.is_some());
        addresses.iter().map(has_log).collect()
    });
    within(asked).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_created_everywhere_or_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = empty_nodes(folder.path()).await;
    let config = config(folder.path(), &nodes);
    nodes[2].down().await;
    let refused = create_logs(&config).await;
    assert!(
        matches!(&refused, Err(Error::LogNotCreated { safekeeper, .. }) if *safekeeper == nodes[2].address.into()),
        "{refused:?}"
    );
    assert_eq!(having(&config).await, [false; 3]);
    nodes[2].up().await;
    create_logs(&config).await.expect("all answer");
    assert_eq!(having(&config).await, [true; 3]);
    create_logs(&config).await.expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_creation_is_completed_for_the_last_safekeeper() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = empty_nodes(folder.path()).await;
    let config = config(folder.path(), &nodes);
    let two = Config { safekeepers: config.safekeepers[..2].to_vec(), ..config.clone() };
    create_logs(&two).await.expect("both answer");
    nodes[2].down().await;
    assert!(create_logs(&config).await.is_err(), "the third would never get it");
    nodes[2].up().await;
    assert_eq!(having(&config).await, [true, true, false]);
    create_logs(&config).await.expect("all answer");
    assert_eq!(having(&config).await, [true; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safekeeper_that_lost_its_log_is_not_given_an_empty_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = nodes(folder.path()).await;
    let config = config(folder.path(), &nodes);
    let mut writer = Writer::start(folder.path(), "a", &config).await;
    assert_eq!(writer.commit_and_wait(5).await, FlushOutcome::Flushed);
    drop(writer);
    nodes[2].down().await;
    std::fs::remove_dir_all(&nodes[2].config.data_dir).expect("removed");
    nodes[2].up().await;
    create_logs(&config).await.expect("a majority has it");
    assert_eq!(having(&config).await, [true, true, false]);
    for node in &mut nodes[..2] {
        node.down().await;
    }
    assert!(create_logs(&config).await.is_err(), "nobody can say that it was not used");
    assert_eq!(having(&config).await, [false; 3]);
}
