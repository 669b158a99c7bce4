//! A cold start: from nothing but storage to everything that a `postgres` needs.
//!
//! ```text
//! win the election for a new term; E = the end of the log; bring a majority up to E
//! ask the pageserver what a shutdown checkpoint at E says
//! fence off earlier computes from the files that are kept outside WAL, and get these
//! make an empty data directory with the last WAL segment in it
//! write which server this is, unless the log says so, and that checkpoint's record at E, locally and through the quorum, unless
//!     the log ends with one; S = the end now
//! small files, pg_control, global/, SLRU files as of S; whatever is absent in the cache is read at S, until it was there and left
//! control.shm, agent.sock
//! ```
//!
//! What it costs does not depend on the size of the database.

use crate::as_written::{self, AsWritten, PartialPages};
use crate::bound::{Bound, Fullness};
use crate::fill::{Fetcher, Files, FillServer, FillThread};
use crate::guard::Guard;
use crate::kept::free_space::FreeSpaceMaps;
use crate::kept::retention::Retention;
use crate::kept::settings::{Choice, Settings};
use crate::kept::{KeptFiles, statistics};
use crate::layout::{self, LastCheckpoint};
use crate::materialise::Materialiser;
use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::page_client::{CheckpointAnswer, PageClient};
use crate::quorum::local_wal::{LocalWal, TIMELINE};
use crate::quorum::{Quorum, Source, Won};
use crate::throttle::{Throttle, Throttled};
use crate::warm_up::WarmUp;
use crate::{Config, Error, conf, orphans, server};
use bytes::Bytes;
use quire_cache::{AgentState, ComputeDir, ControlMap, ControlSettings, FileArea};
use quire_protocol::page::SmallFile;
use quire_types::{Key, Lsn, RelTag};
use quire_wal::checkpoint::append_shutdown_checkpoint;
use quire_wal::effects::server_version;
use quire_wal::{CheckpointState, ServerVersion, WalWriter, rmgr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::AbortHandle;

/// How long the pageserver may take for one answer; a start that fails is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
const POSITION_POLL: Duration = Duration::from_millis(200);
/// The same while so little may wait for ingest that the time between two looks would be felt.
const POSITION_POLL_LOWERED: Duration = Duration::from_millis(10);
/// How long a stopped compute may take to send what nobody waits for.
const FAREWELL: Duration = Duration::from_secs(10);

/// What does not change between starts.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The checked settings.
    pub config: Arc<Config>,
    /// Who owns what PostgreSQL writes.
    pub owner: Owner,
    /// The agent's metrics.
    pub metrics: Arc<Metrics>,
}

/// One term of a compute: from a won election to a crash, a fence or a cold restart. Within it, PostgreSQL may be stopped and started
/// over the same cache.
#[derive(Debug)]
pub struct Session {
    /// The quorum, with the term.
    pub quorum: Arc<Quorum>,
    /// The memory shared with PostgreSQL.
    pub control: Arc<ControlMap>,
    /// Storage.
    pub client: PageClient,
    /// Holds commits back while storage lags.
    pub throttle: Arc<Throttle>,
    /// Which databases are in the cache.
    pub materialiser: Arc<Materialiser>,
    /// What PostgreSQL keeps outside WAL.
    pub kept: Arc<KeptFiles>,
    /// The settings of `ALTER SYSTEM` to go back to.
    pub settings: Settings,
    /// Free space maps.
    pub maps: Arc<FreeSpaceMaps>,
    /// Pages of which the log has only a part.
    pub partial: Arc<PartialPages>,
    /// Has storage keep pages that the log does not describe.
    pub as_written: Arc<AsWritten>,
    /// Relations of which redo is not trusted.
    pub guard: Arc<Guard>,
    /// The election that was won.
    pub won: Won,
    /// Where the compute started.
    pub start: Lsn,
    /// The server that writes the log in this session.
    pub server: ServerVersion,
    /// What is in the cache, for the session after this one.
    pub warm_up: Arc<WarmUp>,
    fills: FillThread,
    tasks: Vec<AbortHandle>,
}

impl Session {
    /// Starts one. Whatever an earlier one left in the compute's directory is discarded. The settings of `ALTER SYSTEM` are the chosen
    /// ones, for the reason given.
    pub async fn cold_start(setting: &Setting, choice: Choice, reason: &str) -> Result<Session, Error> {
        let auto_conf = blocking(setting, discard).await?;
        let quorum = Arc::new(Quorum::start(&setting.config)?);
        let outcome = set_up(setting, &quorum, auto_conf, (choice, reason)).await;
        if outcome.is_err() {
            stop(quorum).await;
        }
        outcome
    }

    /// Ends it: no flush is granted and no page fetched any more.
    pub async fn end(&self) {
        self.control.set_state(AgentState::Failed);
        self.tasks.iter().for_each(AbortHandle::abort);
        self.materialiser.end();
        self.warm_up.clone().remember().await;
        stop(self.quorum.clone()).await;
    }

    /// The end of what is committed, a record boundary: what storage can be asked for without waiting for more.
    pub fn committed(&self) -> Lsn {
        self.quorum.committed_lsn().max(self.start)
    }

    /// PostgreSQL has shut down cleanly: sends what it leaves behind on that way, as far as storage takes it.
    pub async fn send_unlogged_state(&self) {
        if let Err(error) = self.as_written.keep_sequences().await {
            tracing::warn!(%error, "storage does not know how far sequences are: after a cold start they leave gaps");
        }
        let sending = async {
            statistics::send(&self.kept, self.committed()).await;
            self.maps.send_changed().await;
        };
        if tokio::time::timeout(FAREWELL, sending).await.is_err() {
            tracing::warn!("storage did not take all statistics and free space maps in time");
        }
    }

    /// PostgreSQL is ready with the settings of `ALTER SYSTEM` that were chosen, which are the current ones from now on.
    pub async fn settle_settings(&self, setting: &Setting, choice: Choice) -> Result<(), Error> {
        if choice != Choice::Current {
            self.kept.keep(FileArea::Settings).await?;
        }
        self.settings.is_ready(&setting.config, setting.owner, self.kept.clone()).await
    }

    fn stored(&self) -> Stored {
        let Session { quorum, throttle, client, kept, .. } = self;
        Stored { quorum: quorum.clone(), throttle: throttle.clone(), client: client.clone(), kept: kept.clone() }
    }

    /// Who holds commits back at the moment, if anybody does.
    pub fn throttled(&self) -> Option<Throttled> {
        self.throttle.throttled(self.client.is_connected())
    }

    /// The higher term that ended this one, if one was seen.
    pub fn fenced(&self) -> Option<Error> {
        self.quorum.view().borrow().fenced.map(|newer| Error::Fenced { newer })
    }

    /// Waits until this term cannot be used any more, and says why.
    pub async fn broken(&self) -> Error {
        let mut view = self.quorum.view();
        let ended = view.wait_for(|view| view.fenced.is_some() || view.failed.is_some()).await;
        match ended.as_deref() {
            Ok(view) => match (view.fenced, &view.failed) {
                (Some(newer), _) => Error::Fenced { newer },
                (None, reason) => Error::Refused(reason.clone().unwrap_or_default()),
            },
            Err(_) => Error::ShuttingDown,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.control.set_state(AgentState::Failed);
        self.tasks.iter().for_each(AbortHandle::abort);
        self.materialiser.end();
    }
}

async fn stop(quorum: Arc<Quorum>) {
    // Joining threads blocks.
    let _ = tokio::task::spawn_blocking(move || quorum.stop()).await;
}

/// Runs `work`, which blocks, with a copy of the setting.
async fn blocking<R: Send + 'static>(
    setting: &Setting,
    work: impl FnOnce(&Setting) -> Result<R, Error> + Send + 'static,
) -> Result<R, Error> {
    let setting = setting.clone();
    tokio::task::spawn_blocking(move || work(&setting)).await.map_err(|_| Error::ShuttingDown)?
}

fn discard(setting: &Setting) -> Result<Option<Vec<u8>>, Error> {
    orphans::kill_all(&setting.config.pgdata())?;
    layout::discard(&setting.config)
}

async fn set_up(
    setting: &Setting,
    quorum: &Arc<Quorum>,
    auto_conf: Option<Vec<u8>>,
    choice: (Choice, &str),
) -> Result<Session, Error> {
    let config = &setting.config;
    // Until the slots are known, any WAL may be needed.
    quorum.set_durable(Lsn::INVALID);
    let won = quorum.elect().await?;
    quorum.committed(won.end_of_log).await?;
    let client = PageClient::new(config.pageserver(), config.branch_key(), config.shard());
    let answer = client.checkpoint(won.end_of_log, PATIENCE).await?;
    let server = server::installed(setting).await?;
    let told = server::recorded(&client, won.end_of_log, PATIENCE).await?.filter(|recorded| *recorded == server);
    let end = LogEnd::plan(&won, &answer, told.xor(Some(server)), conf::read_pushdown(config))?;
    prepare_directory(setting, quorum, &won, &end, auto_conf).await?;
    if !end.wal.is_empty() {
        quorum.append(won.end_of_log, end.wal.clone())?;
        quorum.committed(end.start).await?;
    }
    let (kept, settings) = restore_kept_files(setting, &client, &won, &answer, choice).await?;
    let kept = Arc::new(kept);
    let maps = Arc::new(FreeSpaceMaps::new(config.pgdata(), kept.clone()));
    let materialiser = Arc::new(fill_directory(setting, &client, &maps, &end).await?);
    let control = share_memory(setting, &won, end.start)?;
    let (fullness, metrics) = (Arc::new(Fullness::new(config)), setting.metrics.clone());
    let throttle = Arc::new(Throttle::new(config.lag_bytes_max, end.start, fullness.clone()));
    let partial = Arc::new(PartialPages::new(control.clone()));
    let source = Source { wal: local_wal(config, &won), throttle: throttle.clone(), partial: partial.clone() };
    quorum.serve(control.clone(), source, &won, &end.last, end.start)?;
    let files = Arc::new(Files::new(ComputeDir::new(&config.dir)));
    let as_written = Arc::new(AsWritten::new(as_written::Parts {
        pgdata: config.pgdata(),
        files: files.clone(),
        client: client.clone(),
        quorum: quorum.clone(),
        term: won.term,
        partial: partial.clone(),
        metrics: metrics.clone(),
    }));
    let dir = ComputeDir::new(&config.dir);
    let guard =
        Arc::new(Guard::open(dir, files.clone(), kept.clone(), materialiser.clone(), as_written.clone()).await?);
    guard.laid_out(RelTag::GLOBAL_TABLESPACE, 0, None).await?;
    let fills = FillThread::start()?;
    // A connection of its own, so that whoever waits for a page waits for nothing else.
    let pages = fills.within(|| PageClient::new(config.pageserver(), config.branch_key(), config.shard()));
    let fetcher = Arc::new(Fetcher::new(config, files.clone(), pages, metrics, fullness.clone()));
    let warm_up = Arc::new(WarmUp::new(config.clone(), fetcher.clone(), materialiser.clone()));
    let (quorum, start, tasks) = (quorum.clone(), end.start, vec![]);
    let mut session = Session {
        quorum,
        control,
        client,
        throttle,
        materialiser,
        kept,
        settings,
        maps,
        partial,
        as_written,
        guard,
        won,
        start,
        server,
        warm_up,
        fills,
        tasks,
    };
    let fill_server = Arc::new(FillServer::new(setting, &session, fetcher));
    let listening = session.fills.within(|| fill_server.listen(config))?;
    session.tasks.push(listening);
    let watching =
        watch_position(session.stored(), Retention::new(layout::control_file(&config.dir), end.last.state.redo));
    session.tasks.push(tokio::spawn(watching).abort_handle());
    session.tasks.push(tokio::spawn(session.maps.clone().keep()).abort_handle());
    session.tasks.push(tokio::spawn(session.guard.clone().keep()).abort_handle());
    session.tasks.push(tokio::spawn(session.warm_up.clone().warm()).abort_handle());
    session.tasks.push(tokio::spawn(session.warm_up.clone().remember_regularly()).abort_handle());
    if config.is_bounded() {
        let bound = Bound::new(setting, &session, files, fullness);
        session.tasks.push(tokio::spawn(bound.keep()).abort_handle());
    }
    Ok(session)
}

/// How the log ends, or is going to.
#[derive(Debug)]
struct LogEnd {
    last: LastCheckpoint,
    /// What has to be appended at the end of the log, if it does not end with a shutdown checkpoint of this server's version.
    wal: Bytes,
    /// The end of the log afterwards.
    start: Lsn,
}

impl LogEnd {
    /// `news` is the server that is going to write the log, if the log does not say that yet.
    fn plan(
        won: &Won,
        answer: &CheckpointAnswer,
        news: Option<ServerVersion>,
        pushdown: bool,
    ) -> Result<LogEnd, Error> {
        let unusable =
            |error: quire_types::CodecError| Error::Storage { what: "checkpoint", reason: error.to_string() };
        let known = CheckpointState::decode(&answer.state).map_err(unusable)?;
        if answer.shut_down && news.is_none() {
            let last = LastCheckpoint { record: answer.last_record, state: known.at_shutdown(answer.last_record) };
            return Ok(LogEnd { last, wal: Bytes::new(), start: won.end_of_log });
        }
        let state = CheckpointState { full_page_writes: !pushdown, time: unix_time(), ..known };
        let (end, prev) = (won.end_of_log, answer.last_record);
        let segment_bytes = won.identity.segment_bytes.into();
        let mut wal = WalWriter::new(end, prev, state.this_timeline, won.identity.system_id, segment_bytes);
        if let Some(server) = news {
            wal.append(rmgr::LOGICALMSG, rmgr::XLOG_LOGICAL_MESSAGE, 0, &server_version::to_record_data(server));
        }
        let record = append_shutdown_checkpoint(&mut wal, &state);
        let (start, wal) = (wal.position(), wal.into_vec().into());
        Ok(LogEnd { last: LastCheckpoint { record, state: state.at_shutdown(record) }, wal, start })
    }
}

fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Makes the empty directory, the WAL segment with the last record in it, and what the log's end still lacks, in that segment.
async fn prepare_directory(
    setting: &Setting,
    quorum: &Arc<Quorum>,
    won: &Won,
    end: &LogEnd,
    auto_conf: Option<Vec<u8>>,
) -> Result<(), Error> {
    let (quorum, won) = (quorum.clone(), *won);
    // What is appended may go on in another segment than it begins in, which is needed as a whole.
    let (first, wal) = (end.last.record.min(won.end_of_log), end.wal.clone());
    let prepare = move |setting: &Setting| {
        let Setting { config, owner, .. } = setting;
        layout::create_folders(config, *owner)?;
        layout::write_plain_conf(config, *owner)?;
        layout::restore_local_files(config, *owner, auto_conf.as_deref())?;
        let local = local_wal(config, &won);
        fetch_last_segment(&quorum, &won, first, &local, *owner)?;
        local.write(won.end_of_log, &wal, *owner)
    };
    blocking(setting, prepare).await
}

/// Gets the segment that `first` lies in, up to the end of the log, from the safekeeper that has it.
fn fetch_last_segment(quorum: &Quorum, won: &Won, first: Lsn, local: &LocalWal, owner: Owner) -> Result<(), Error> {
    let segment_bytes = local.segment_bytes();
    let begin = Lsn(first.segment_number(segment_bytes) * segment_bytes);
    if begin >= won.end_of_log {
        return Ok(());
    }
    let mut donor = quorum.connect_donor(won)?;
    let wal = donor.read_wal(won.term, begin, won.end_of_log).map_err(|error| {
        tracing::info!(%begin, %error, "cannot read WAL from the donor");
        Error::WalMissing { at: begin }
    })?;
    local.write(begin, &wal, owner)
}

fn local_wal(config: &Config, won: &Won) -> LocalWal {
    LocalWal::new(config.pgdata().join("pg_wal"), won.identity.segment_bytes.into())
}

/// Every entry that is neither a page nor a relation's size: their number grows with databases, not with data.
async fn small_entries(client: &PageClient, start: Lsn) -> Result<Vec<(Key, Bytes)>, Error> {
    let segments = |slru, segment| Key::SlruSegment { slru, segment };
    let (first, last) = (quire_types::Slru::Clog, quire_types::Slru::CommitTs);
    let mut entries = client.scan(start, segments(first, 0), segments(last, u32::MAX), PATIENCE).await?;
    let from = Key::Database { tablespace: 0, database: 0 };
    let to = Key::Tablespace { tablespace: u32::MAX };
    entries.extend(client.scan(start, from, to, PATIENCE).await?);
    Ok(entries)
}

/// Puts back what PostgreSQL keeps outside WAL: replication slots as they were last flushed, statistics if nothing happened since.
async fn restore_kept_files(
    setting: &Setting,
    client: &PageClient,
    won: &Won,
    answer: &CheckpointAnswer,
    (choice, reason): (Choice, &str),
) -> Result<(KeptFiles, Settings), Error> {
    let dir = ComputeDir::new(&setting.config.dir);
    let (kept, files) = KeptFiles::open(dir, client.clone(), won.term, PATIENCE).await?;
    let shut_down_at = answer.shut_down.then_some(won.end_of_log);
    let reason = reason.to_owned();
    let restore = move |setting: &Setting| {
        kept.restore(&files, setting.owner)?;
        restore_statistics(setting, &files, shut_down_at)?;
        let settings = Settings::find(&setting.config, &files);
        settings.choose(&setting.config, setting.owner, choice, &reason)?;
        Ok((kept, settings))
    };
    let (kept, settings) = blocking(setting, restore).await?;
    if choice == Choice::Current {
        // Settings that were made before storage kept them.
        kept.keep(FileArea::Settings).await?;
    }
    Ok((kept, settings))
}

fn restore_statistics(setting: &Setting, files: &[SmallFile], shut_down_at: Option<Lsn>) -> Result<(), Error> {
    match shut_down_at {
        Some(log_end) => statistics::restore(&setting.config.pgdata(), files, log_end, setting.owner),
        None => Ok(()),
    }
}

/// Everything of storage's that is there before PostgreSQL starts: small files, shared relations, SLRU areas.
async fn fill_directory(
    setting: &Setting,
    client: &PageClient,
    maps: &Arc<FreeSpaceMaps>,
    end: &LogEnd,
) -> Result<Materialiser, Error> {
    let Setting { config, owner, .. } = setting;
    let entries = small_entries(client, end.start).await?;
    let template = entries.iter().find(|(key, _)| *key == Key::ControlFile).map(|(_, value)| value);
    let missing = || Error::Storage { what: "pg_control", reason: "there is none".into() };
    layout::write_control_file(config, *owner, template.ok_or_else(missing)?, &end.last)?;
    layout::write_small_files(config, *owner, &entries)?;
    let materialiser = Materialiser::new(config, *owner, client.clone(), maps.clone(), end.start, &entries);
    materialiser.global().await?;
    materialiser.slrus(&entries)?;
    Ok(materialiser)
}

fn share_memory(setting: &Setting, won: &Won, start: Lsn) -> Result<Arc<ControlMap>, Error> {
    let path = ComputeDir::new(&setting.config.dir).control();
    let settings = ControlSettings {
        agent_pid: std::process::id(),
        segment_bytes: won.identity.segment_bytes.into(),
        timeline: TIMELINE,
        start_lsn: start,
        bounded: true,
    };
    let control = ControlMap::create(&path, &settings).map_err(|error| Error::Cache(path.clone(), error))?;
    setting.owner.give(&path)?;
    Ok(Arc::new(control))
}

/// What follows how far storage is.
struct Stored {
    quorum: Arc<Quorum>,
    throttle: Arc<Throttle>,
    client: PageClient,
    kept: Arc<KeptFiles>,
}

/// Lets the safekeepers know what storage has made durable and no replication slot needs, so that they can remove older WAL, and
/// the throttle how far ingest is.
async fn watch_position(stored: Stored, mut retention: Retention) {
    let Stored { quorum, throttle, client, kept } = stored;
    loop {
        quire_crash::plant("compute.position");
        match client.position(PATIENCE).await {
            Ok((ingested, durable)) => {
                throttle.ingested(ingested);
                quorum.set_durable(durable.min(retention.horizon(kept.wal_needed())));
            }
            Err(error) => tracing::debug!(%error, "storage does not say how far it is"),
        }
        tokio::time::sleep(if throttle.is_lowered() { POSITION_POLL_LOWERED } else { POSITION_POLL }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_protocol::quorum::LogIdentity;
    use quire_types::Term;
    use quire_wal::{Record, WalStream};

    const SEGMENT: u32 = 16 << 20;

    fn won(end_of_log: u64) -> Won {
        let identity = LogIdentity { system_id: 7, segment_bytes: SEGMENT, start: Lsn(SEGMENT.into()) };
        Won { term: Term(3), end_of_log: Lsn(end_of_log), donor: 0, identity }
    }

    fn answer(last_record: u64, shut_down: bool) -> CheckpointAnswer {
        let state = CheckpointState { this_timeline: 1, next_xid: 740, ..CheckpointState::default() };
        CheckpointAnswer { last_record: Lsn(last_record), state: state.encode().into(), shut_down }
    }

    /// The records that a start appends.
    fn appended(end: &LogEnd, won: &Won) -> Vec<Record> {
        let mut stream = WalStream::new(won.end_of_log, SEGMENT.into(), Some(7));
        stream.feed(&end.wal);
        std::iter::from_fn(|| stream.next_record().expect("valid"))
            .map(|raw| Record::decode(raw.start, raw.end, raw.bytes).expect("a record"))
            .collect()
    }

    const SERVER: ServerVersion = ServerVersion::new(15, 20);

    #[test]
    fn an_empty_log_gets_records_that_say_which_server_this_is_and_what_the_start_does() {
        let won = won(SEGMENT.into());
        let end = LogEnd::plan(&won, &answer(0, false), Some(SERVER), true).expect("planned");
        let [told, checkpoint] = &appended(&end, &won)[..] else { panic!("two records") };
        assert_eq!(server_version::parse(told.info, &told.main_data), Ok(Some(SERVER)));
        assert_eq!((checkpoint.start, checkpoint.end), (end.last.record, end.start));
        assert!(!end.last.state.full_page_writes);
        assert_eq!((end.last.state.redo, end.last.state.next_xid), (checkpoint.start, 740));
    }

    #[test]
    fn a_log_that_ends_with_a_shutdown_checkpoint_of_this_server_is_left_as_it_is() {
        let at = u64::from(SEGMENT) + 4096;
        let end = LogEnd::plan(&won(at), &answer(at - 120, true), None, false).expect("planned");
        assert!(end.wal.is_empty());
        assert_eq!((end.start, end.last.record, end.last.state.redo), (Lsn(at), Lsn(at - 120), Lsn(at - 120)));
    }

    #[test]
    fn another_server_is_told_behind_the_shutdown_checkpoint_of_the_one_before() {
        let won = won(u64::from(SEGMENT) + 4096);
        let end = LogEnd::plan(&won, &answer(won.end_of_log.0 - 120, true), Some(SERVER), true).expect("planned");
        let kinds: Vec<u8> = appended(&end, &won).iter().map(|record| record.rmgr).collect();
        assert_eq!(kinds, [rmgr::LOGICALMSG, rmgr::XLOG]);
        assert!(end.last.record > won.end_of_log && end.start > end.last.record);
    }

    #[test]
    fn a_server_that_the_log_knows_is_not_told_again() {
        let won = won(u64::from(SEGMENT) + 4096);
        let end = LogEnd::plan(&won, &answer(won.end_of_log.0 - 120, false), None, true).expect("planned");
        let kinds: Vec<u8> = appended(&end, &won).iter().map(|record| record.rmgr).collect();
        assert_eq!(kinds, [rmgr::XLOG]);
    }
}
