//! How a branch comes into being: `initdb`, an import into storage, an empty log at the safekeepers.
//!
//! Every step may be repeated, and is skipped where it was done: the import is complete or discarded as a whole, and a
//! log is created only while nothing was ever written and everybody can say so, because a safekeeper that lost its disk
//! must not come back as an empty one.

use crate::import::{Import, import_start};
use crate::owner::Owner;
use crate::page_client::PageClient;
use crate::{Config, Error, place};
use quire_net::quorum_client::{QuorumClient, Welcome};
use quire_protocol::page::Request;
use quire_protocol::quorum::LogIdentity;
use quire_types::{Endpoint, Key, Lsn, Term};
use quire_wal::ControlFile;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);
const SAFEKEEPER_PATIENCE: Duration = Duration::from_secs(5);
/// Batches of the import that are read ahead of the network.
const BATCHES_AHEAD: usize = 4;

/// Creates the branch of `config` unless it exists, with a new database cluster in it.
pub async fn bootstrap(config: &Config) -> Result<(), Error> {
    let config = config.clone().checked()?;
    let client = PageClient::new(config.pageserver(), config.branch_key(), config.shard());
    let ingested = match client.position(PATIENCE).await {
        Ok((ingested, _)) => ingested,
        Err(error) if error.is_no_such_branch() => import_new_cluster(&config, &client).await?,
        Err(error) => return Err(error.into()),
    };
    let identity = stored_identity(&client, ingested).await?;
    let is_new = ingested == identity.start;
    let created = tokio::task::spawn_blocking(move || create_logs(&config, identity, is_new));
    created.await.map_err(|_| Error::ShuttingDown)?
}

async fn import_new_cluster(config: &Config, client: &PageClient) -> Result<Lsn, Error> {
    let settings = config.clone();
    let made = tokio::task::spawn_blocking(move || initdb(&settings));
    let cluster = made.await.map_err(|_| Error::ShuttingDown)??;
    let outcome = import(client, &cluster).await;
    let removed = std::fs::remove_dir_all(&cluster).map_err(Error::file("remove", &cluster));
    let start = outcome?;
    removed?;
    Ok(start)
}

/// Makes a cluster in a directory of its own. Data checksums are off: storage has its own.
fn initdb(config: &Config) -> Result<PathBuf, Error> {
    let owner = Owner::detect(config)?;
    owner.check_reachable(&config.dir)?;
    std::fs::create_dir_all(&config.dir).map_err(Error::file("create", &config.dir))?;
    place::closed_folder(&config.dir, owner)?;
    let cluster = config.dir.join("bootstrap");
    if cluster.exists() {
        std::fs::remove_dir_all(&cluster).map_err(Error::file("remove", &cluster))?;
    }
    place::folder(&cluster, owner)?;
    let mut command = Command::new(config.program("initdb"));
    command.args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
    owner.adopt(command.arg(&cluster).current_dir("/").stdin(Stdio::null()));
    let output = command.output().map_err(Error::file("run", config.program("initdb")))?;
    if output.status.success() {
        Ok(cluster)
    } else {
        Err(Error::Program {
            program: "initdb".into(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// Imports a data directory of a cluster that was shut down; where its log begins.
pub async fn import(client: &PageClient, data_dir: &Path) -> Result<Lsn, Error> {
    let import = Import::open(data_dir)?;
    let start = import.start();
    let begin = Request::ImportBegin {
        start,
        segment_bytes: import.control().layout.wal_segment_bytes,
        postgres_version: import.version().major,
    };
    client.import(&begin, PATIENCE).await?;
    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        // When the receiver is gone, an error has been told already.
        import.map(|batch| sender.blocking_send(batch)).take_while(Result::is_ok).for_each(drop);
    });
    while let Some(batch) = batches.recv().await {
        client.import(&Request::ImportValues(batch?), PATIENCE).await?;
    }
    reading.await.map_err(|_| Error::ShuttingDown)?;
    client.import(&Request::ImportFinish, PATIENCE).await?;
    Ok(start)
}

/// The branch's `pg_control`, as it was imported.
pub(crate) async fn stored_control_file(client: &PageClient, at: Lsn) -> Result<ControlFile, Error> {
    let entries = client.scan(at, Key::ControlFile, Key::ControlFile, PATIENCE).await?;
    let unusable = |reason: String| Error::Storage { what: "pg_control", reason };
    let (_, file) = entries.first().ok_or_else(|| unusable("there is none".into()))?;
    ControlFile::parse(file).map_err(|error| unusable(error.to_string()))
}

/// The identity of the branch's log, from what was imported.
async fn stored_identity(client: &PageClient, at: Lsn) -> Result<LogIdentity, Error> {
    let control = stored_control_file(client, at).await?;
    Ok(LogIdentity {
        system_id: control.system_identifier,
        segment_bytes: control.layout.wal_segment_bytes,
        start: import_start(&control),
    })
}

/// Sees to it that the safekeepers have the branch's log. Before the log is first used, each of them must have it;
/// afterwards none is ever given an empty one, because it may have had a log and lost it: a majority has to do then.
///
/// Whether it was used is known only if all answer and all are in term 0. As long as this is so, what is missing is
/// created, also what an earlier attempt left out. `is_new` says that storage knows of no use either.
pub fn create_logs(config: &Config, identity: LogIdentity, is_new: bool) -> Result<(), Error> {
    let answers: Vec<_> = config.safekeepers.iter().map(|safekeeper| greet(config, safekeeper)).collect();
    let greeted = || answers.iter().flatten().map(|(_, welcome)| welcome);
    if let Some(theirs) = greeted().filter_map(|welcome| welcome.identity).find(|theirs| *theirs != identity) {
        return Err(Error::LogMismatch(theirs.to_string()));
    }
    let having = greeted().filter(|welcome| welcome.identity.is_some()).count();
    if having == config.safekeepers.len() {
        return Ok(());
    }
    if !is_new || greeted().any(|welcome| welcome.term > Term(0)) {
        tracing::warn!(having, "not all safekeepers have the log, and it was used before: none is given an empty one");
        return if having > config.safekeepers.len() / 2 { Ok(()) } else { Err(Error::NoLog) };
    }
    create_missing(config, answers, identity)
}

/// Creates the log where there is none, if everybody answers.
fn create_missing(config: &Config, answers: Vec<Option<Greeted>>, identity: LogIdentity) -> Result<(), Error> {
    let silent = config.safekeepers.iter().zip(&answers).find(|(_, answer)| answer.is_none());
    if let Some((safekeeper, _)) = silent {
        return Err(Error::LogNotCreated { safekeeper: safekeeper.clone(), reason: "it does not answer".into() });
    }
    for (safekeeper, (mut client, welcome)) in config.safekeepers.iter().zip(answers.into_iter().flatten()) {
        if welcome.identity.is_none() {
            let created = client.create_log(identity);
            created
                .map_err(|error| Error::LogNotCreated { safekeeper: safekeeper.clone(), reason: error.to_string() })?;
        }
    }
    Ok(())
}

/// A connection, and what the safekeeper said of itself.
type Greeted = (QuorumClient, Welcome);

fn greet(config: &Config, safekeeper: &Endpoint) -> Option<Greeted> {
    let greeted = QuorumClient::connect(safekeeper, config.branch_key(), config.node, SAFEKEEPER_PATIENCE);
    greeted.inspect_err(|error| tracing::warn!(%safekeeper, %error, "cannot reach a safekeeper")).ok()
}
