//! A cold start: from nothing but storage to everything that a `postgres` needs.
//!
//! ```text
//! win the election for a new term; E = the end of the log; bring a majority up to E
//! ask the pageserver what a shutdown checkpoint at E says; the branch must be of the programs' major version
//! fence off earlier computes from the files that are kept outside WAL, and get these
//! make an empty data directory with the last WAL segment in it
//! write which server this is, unless the log says so, and that checkpoint's record at E, locally and through the
//!     quorum, unless the log ends with one; S = the end now
//! small files, pg_control, global/, SLRU files as of S; whatever is absent in the cache is read at S, until it was
//!     there and left
//! control.shm, agent.sock
//! ```
//!
//! What it costs does not depend on the size of the database. Here everything is made and put together; what continues
//! afterwards is in [`Session`].

use crate::as_written::{self, AsWritten, PartialPages};
use crate::bound::{self, Bound};
use crate::fill::{Fetcher, Files, FillServer, FillThread};
use crate::fullness::Fullness;
use crate::guard::Guard;
use crate::kept::free_space::FreeSpaceMaps;
use crate::kept::retention::Retention;
use crate::kept::settings::{Choice, Settings};
use crate::kept::{KeptFiles, statistics};
use crate::layout;
use crate::log_end::LogEnd;
use crate::materialise::Materialiser;
use crate::owner::Owner;
use crate::page_client::{CheckpointAnswer, PageClient};
use crate::quorum::local_wal::{LocalWal, TIMELINE};
use crate::quorum::{Quorum, Source, Won};
use crate::session::{self, Session};
use crate::setting::{Setting, blocking};
use crate::storage_position::{self, Position, Stored};
use crate::throttle::Throttle;
use crate::warm_up::WarmUp;
use crate::{Config, Error, conf, orphans, server};
use quire_cache::{ComputeDir, ControlMap, ControlSettings, FileArea};
use quire_protocol::page::SmallFile;
use quire_types::{Key, Lsn, RelTag};
use quire_wal::ServerVersion;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// How long the pageserver may take for one answer; a start that fails is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a session. Whatever an earlier one left in the compute's directory is discarded. The settings of `ALTER
/// SYSTEM` are the chosen ones, for the reason given.
pub async fn cold_start(setting: &Setting, choice: Choice, reason: &str) -> Result<Session, Error> {
    let auto_conf = blocking(setting, discard).await?;
    let quorum = Arc::new(Quorum::start(&setting.config)?);
    let outcome = set_up(setting, &quorum, auto_conf, (choice, reason)).await;
    if outcome.is_err() {
        session::stop(quorum).await;
    }
    outcome
}

fn discard(setting: &Setting) -> Result<Option<Vec<u8>>, Error> {
    orphans::kill_all(&setting.config.pgdata())?;
    layout::discard(setting)
}

async fn set_up(
    setting: &Setting,
    quorum: &Arc<Quorum>,
    auto_conf: Option<Vec<u8>>,
    choice: (Choice, &str),
) -> Result<Session, Error> {
    let log = take_log(setting, quorum).await?;
    prepare_directory(setting, quorum, &log.won, &log.end, auto_conf).await?;
    if !log.end.wal.is_empty() {
        quorum.append(log.won.end_of_log, log.end.wal.clone())?;
        quorum.committed(log.end.start).await?;
    }
    let laid_out = lay_out(setting, &log, choice).await?;
    let commits = serve_commits(setting, quorum, &log)?;
    let cache = open_cache(setting, quorum, &log, &laid_out, &commits).await?;
    let parts = Parts { setting, quorum, log: &log, laid_out: &laid_out, commits: &commits, cache: &cache };
    let mut tasks = vec![cache.fills.within(|| fill_server(&parts).listen(&setting.config))?];
    let (lasting, position) = keep_going(&parts);
    tasks.extend(lasting);
    let LaidOut { kept, settings, maps, materialiser } = laid_out;
    let Commits { control, throttle, partial, .. } = commits;
    let Cache { as_written, guard, warm_up, fills, .. } = cache;
    Ok(Session {
        quorum: quorum.clone(),
        control,
        client: log.client,
        throttle,
        materialiser,
        kept,
        settings,
        maps,
        partial,
        as_written,
        guard,
        won: log.won,
        start: log.end.start,
        server: log.server,
        warm_up,
        fills,
        tasks,
        position,
    })
}

/// The log as this term takes it over.
struct Log {
    won: Won,
    client: PageClient,
    answer: CheckpointAnswer,
    server: ServerVersion,
    end: LogEnd,
}

async fn take_log(setting: &Setting, quorum: &Quorum) -> Result<Log, Error> {
    let config = &setting.config;
    // Until the slots are known, any WAL may be needed.
    quorum.set_durable(Lsn::INVALID);
    let won = quorum.elect().await?;
    quorum.committed(won.end_of_log).await?;
    let client = PageClient::new(config.pageserver(), config.branch_key(), config.shard());
    let answer = client.checkpoint(won.end_of_log, PATIENCE).await?;
    let server = server::installed(setting).await?;
    server::check_branch(setting.version, &client, won.end_of_log).await?;
    let told = server::recorded(&client, won.end_of_log, PATIENCE).await?.filter(|recorded| *recorded == server);
    let end = LogEnd::plan(setting.version, &won, &answer, told.xor(Some(server)), conf::read_pushdown(config))?;
    Ok(Log { won, client, answer, server, end })
}

/// What is in the data directory before PostgreSQL starts, and what keeps it.
struct LaidOut {
    kept: Arc<KeptFiles>,
    settings: Settings,
    maps: Arc<FreeSpaceMaps>,
    materialiser: Arc<Materialiser>,
}

async fn lay_out(setting: &Setting, log: &Log, choice: (Choice, &str)) -> Result<LaidOut, Error> {
    let (kept, settings) = restore_kept_files(setting, &log.client, &log.won, &log.answer, choice).await?;
    let kept = Arc::new(kept);
    let maps = Arc::new(FreeSpaceMaps::new(setting.cache_dir(), kept.clone()));
    let materialiser = Arc::new(fill_directory(setting, &log.client, &maps, &log.end).await?);
    Ok(LaidOut { kept, settings, maps, materialiser })
}

/// What a commit passes.
struct Commits {
    control: Arc<ControlMap>,
    throttle: Arc<Throttle>,
    partial: Arc<PartialPages>,
    fullness: Arc<Fullness>,
}

fn serve_commits(setting: &Setting, quorum: &Quorum, log: &Log) -> Result<Commits, Error> {
    let config = &setting.config;
    let control = share_memory(setting, &log.won, log.end.start)?;
    let fullness = Arc::new(Fullness::new(config));
    let throttle = Arc::new(Throttle::new(config.tuning.max_lag(), log.end.start, fullness.clone()));
    let partial = Arc::new(PartialPages::new(control.clone()));
    let source = Source { wal: local_wal(config, &log.won), throttle: throttle.clone(), partial: partial.clone() };
    quorum.serve(control.clone(), source, &log.won, &log.end.last, log.end.start)?;
    Ok(Commits { control, throttle, partial, fullness })
}

/// What works on the cache's files.
struct Cache {
    files: Arc<Files>,
    as_written: Arc<AsWritten>,
    guard: Arc<Guard>,
    fills: FillThread,
    fetcher: Arc<Fetcher>,
    warm_up: Arc<WarmUp>,
}

async fn open_cache(
    setting: &Setting,
    quorum: &Arc<Quorum>,
    log: &Log,
    laid_out: &LaidOut,
    commits: &Commits,
) -> Result<Cache, Error> {
    let (config, metrics) = (&setting.config, &setting.metrics);
    let LaidOut { kept, materialiser, .. } = laid_out;
    let files = Arc::new(Files::new(setting.cache_dir()));
    let as_written = Arc::new(AsWritten::new(as_written::Parts {
        files: files.clone(),
        client: log.client.clone(),
        quorum: quorum.clone(),
        term: log.won.term,
        partial: commits.partial.clone(),
        metrics: metrics.clone(),
    }));
    let guard = Guard::open(files.clone(), kept.clone(), materialiser.clone(), as_written.clone()).await?;
    let guard = Arc::new(guard);
    guard.laid_out(RelTag::GLOBAL_TABLESPACE, 0, None).await?;
    let fills = FillThread::start()?;
    // A connection of its own, so that a read of a page waits for nothing else.
    let pages = fills.within(|| PageClient::new(config.pageserver(), config.branch_key(), config.shard()));
    let fetcher = Fetcher::new(config, files.clone(), pages, metrics.clone(), commits.fullness.clone());
    let fetcher = Arc::new(fetcher);
    let warm_up = Arc::new(WarmUp::new(setting, fetcher.clone(), materialiser.clone()));
    Ok(Cache { files, as_written, guard, fills, fetcher, warm_up })
}

/// All that a session is made of.
struct Parts<'a> {
    setting: &'a Setting,
    quorum: &'a Arc<Quorum>,
    log: &'a Log,
    laid_out: &'a LaidOut,
    commits: &'a Commits,
    cache: &'a Cache,
}

fn fill_server(parts: &Parts<'_>) -> Arc<FillServer> {
    let Parts { setting, quorum, log, laid_out, commits, cache } = *parts;
    Arc::new(FillServer {
        fetcher: cache.fetcher.clone(),
        materialiser: laid_out.materialiser.clone(),
        kept: laid_out.kept.clone(),
        as_written: cache.as_written.clone(),
        guard: cache.guard.clone(),
        quorum: quorum.clone(),
        control: commits.control.clone(),
        owner: setting.owner,
        pg_wal: setting.config.pgdata().join("pg_wal"),
        log_start: log.won.identity.start,
    })
}

/// Starts what runs until the session ends; one of it tells how far storage is.
fn keep_going(parts: &Parts<'_>) -> (Vec<AbortHandle>, watch::Receiver<Position>) {
    let Parts { setting, quorum, log, laid_out, commits, cache } = *parts;
    let config = setting.config.clone();
    let (teller, position) = watch::channel(Position::default());
    let stored = Stored {
        position: teller,
        quorum: quorum.clone(),
        throttle: commits.throttle.clone(),
        client: log.client.clone(),
        kept: laid_out.kept.clone(),
    };
    let retention = Retention::new(layout::control_file(&config.dir), log.end.last.state.redo);
    let mut tasks = vec![
        tokio::spawn(storage_position::watch(stored, retention)),
        tokio::spawn(laid_out.maps.clone().keep()),
        tokio::spawn(cache.guard.clone().keep()),
        tokio::spawn(cache.warm_up.clone().warm()),
        tokio::spawn(cache.warm_up.clone().remember_regularly()),
    ];
    if config.is_bounded() {
        let bound = Bound::new(bound::Parts {
            config,
            metrics: setting.metrics.clone(),
            position: position.clone(),
            quorum: quorum.clone(),
            control: commits.control.clone(),
            files: cache.files.clone(),
            fullness: commits.fullness.clone(),
            partial: commits.partial.clone(),
        });
        tasks.push(tokio::spawn(bound.keep()));
    }
    (tasks.iter().map(JoinHandle::abort_handle).collect(), position)
}

/// Makes the empty directory, the WAL segment with the last record in it, and what the log's end still lacks, in that
/// segment.
async fn prepare_directory(
    setting: &Setting,
    quorum: &Arc<Quorum>,
    won: &Won,
    end: &LogEnd,
    auto_conf: Option<Vec<u8>>,
) -> Result<(), Error> {
    let (quorum, won) = (quorum.clone(), *won);
    // What is appended may continue in another segment than it begins in, which is needed as a whole.
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

/// Gets the segment that `first` is in, up to the end of the log, from the safekeeper that has it.
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

/// Puts back what PostgreSQL keeps outside WAL: replication slots as they were last flushed, statistics if nothing
/// happened since.
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
    let (first, last) = Key::SMALL;
    let entries = client.scan(end.start, first, last, PATIENCE).await?;
    let template = entries.iter().find(|(key, _)| *key == Key::ControlFile).map(|(_, value)| value);
    let missing = || Error::Storage { what: "pg_control", reason: "there is none".into() };
    layout::write_control_file(config, *owner, template.ok_or_else(missing)?, &end.last)?;
    layout::write_small_files(setting, &entries)?;
    let materialiser = Materialiser::new(setting, client.clone(), maps.clone(), end.start, &entries);
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
