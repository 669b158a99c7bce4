//! Why a compute cannot continue.

use crate::page_client::PageError;
use crate::quorum::CommitPathError;
use quire_api::compute::Phase;
use quire_consensus::proposer::{ExtendError, Refusal};
use quire_files::PublishError;
use quire_net::quorum_client::ClientError;
use quire_types::{Endpoint, Lsn, Term};
use quire_wal::ServerVersion;
use std::io;
use std::path::{Path, PathBuf};

/// What PostgreSQL says when another program listens on its port.
pub const PORT_TAKEN: &str = "could not create any TCP/IP sockets";

/// What stops a compute, or one of its operations.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot be right.
    #[error("configuration: {0}")]
    Config(String),
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried, as in "cannot create".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A system call on no particular file failed.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// A file shared with the shim cannot be used.
    #[error("{0}: {1}")]
    Cache(PathBuf, quire_cache::CacheError),
    /// A newer compute was elected; this one must not write any more.
    #[error("fenced by a newer compute, which was elected for term {newer}")]
    Fenced {
        /// The newer compute's term, as far as is known.
        newer: Term,
    },
    /// No majority of the safekeepers has the branch's log.
    #[error("the branch has no log at the safekeepers; create the branch first")]
    NoLog,
    /// The branch's log is not at all safekeepers yet, and has to be before it is first used.
    #[error(
        "the branch has no log yet at safekeeper {safekeeper}: {reason}; it is created once all safekeepers answer, so try again then"
    )]
    LogNotCreated {
        /// Which one.
        safekeeper: Endpoint,
        /// Why not.
        reason: String,
    },
    /// The safekeepers disagree about which log this is.
    #[error("the safekeepers' logs are of different databases: {0}")]
    LogMismatch(String),
    /// A safekeeper cannot be used at all.
    #[error(transparent)]
    Acceptor(#[from] Refusal),
    /// A safekeeper does not give the WAL that it has.
    #[error("safekeeper {safekeeper}: {source}")]
    Safekeeper {
        /// Which one.
        safekeeper: Endpoint,
        /// Why not.
        source: ClientError,
    },
    /// None of the safekeepers can be reached.
    #[error("no safekeeper can be reached")]
    NoSafekeeper,
    /// WAL was handed to the quorum that does not belong there.
    #[error(transparent)]
    Extend(#[from] ExtendError),
    /// Commits cannot be made any more before PostgreSQL is started again.
    #[error(transparent)]
    CommitPath(#[from] CommitPathError),
    /// WAL that a safekeeper or the data directory holds cannot be decoded.
    #[error(transparent)]
    Wal(#[from] quire_wal::WalError),
    /// WAL is missing where it has to be.
    #[error("WAL at {at} is neither in the data directory nor at a safekeeper")]
    WalMissing {
        /// The first byte that is missing.
        at: Lsn,
    },
    /// The local WAL reads as if nothing had been written where something was.
    #[error("the WAL in the data directory ends at {at}, but was written up to {written}: part of it is lost")]
    WalEnds {
        /// The end of the last record.
        at: Lsn,
        /// How far PostgreSQL has written.
        written: Lsn,
    },
    /// A file that PostgreSQL keeps outside WAL is too long for storage.
    #[error(
        "{path} has {bytes} bytes, and of a file outside WAL storage keeps at most {bytes_max}; its flush is refused"
    )]
    KeptFileTooLong {
        /// The file.
        path: PathBuf,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        bytes_max: u64,
    },
    /// The pageserver did not give what was asked.
    #[error(transparent)]
    Page(#[from] PageError),
    /// What the pageserver keeps for the branch cannot be used.
    #[error("storage holds no usable {what}: {reason}")]
    Storage {
        /// Which entry.
        what: &'static str,
        /// Why it cannot be used.
        reason: String,
    },
    /// A data directory cannot be imported.
    #[error(transparent)]
    Import(#[from] crate::import::ImportError),
    /// A program of PostgreSQL's failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Which one.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote.
        output: String,
    },
    /// PostgreSQL ended while it was starting.
    #[error("postgres ended while starting ({status}): {said}; see {log}")]
    StartFailed {
        /// How it ended.
        status: String,
        /// What it said last.
        said: String,
        /// Its log.
        log: PathBuf,
    },
    /// What was started is a server, but not over this compute's directory and log.
    #[error(
        "{program} started a server that is not this compute's: {reason}. No client was let in, and it was stopped. \
        Is {program} a script or a wrapper? It has to run PostgreSQL's program by exec, with its arguments and environment"
    )]
    WrongServer {
        /// What was run.
        program: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// PostgreSQL ended although it was not asked to.
    #[error("postgres ended ({status}); see {log}")]
    Crashed {
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
    },
    /// A statement on the compute's own PostgreSQL failed.
    #[error("postgres: {0}")]
    Sql(#[from] tokio_postgres::Error),
    /// The server's program was replaced while it was being started.
    #[error("the log says that PostgreSQL {recorded} writes it, and the one that was started is {running}")]
    ServerReplaced {
        /// What was recorded.
        recorded: ServerVersion,
        /// The running server's `server_version_num`.
        running: String,
    },
    /// The request makes no sense in the compute's present state.
    #[error("the compute is {state}; {hint}")]
    WrongState {
        /// The state.
        state: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// An order was carried out, and the compute is not as ordered.
    #[error("{}", .error.clone().unwrap_or_else(|| format!("the compute is {phase}")))]
    NotAsOrdered {
        /// How it is.
        phase: Phase,
        /// What went wrong, if that is known.
        error: Option<String>,
    },
    /// Pushdown was switched, and PostgreSQL or storage does not see it.
    #[error(
        "the switch has not taken effect within {seconds} s; is full_page_writes set by ALTER SYSTEM or in custom.conf?"
    )]
    NotSwitched {
        /// How long it was waited for.
        seconds: u64,
    },
    /// PostgreSQL does not answer the agent's own questions in time.
    #[error("postgres does not say what runs")]
    ServerSilent,
    /// PostgreSQL's answer is not an LSN.
    #[error("postgres says that its log ends at {0:?}, which is no LSN")]
    NotAnLsn(String),
    /// Processes of an earlier PostgreSQL do not end.
    #[error("stale postgres processes do not end: {pids:?}")]
    StaleProcesses {
        /// Which.
        pids: Vec<i32>,
    },
    /// The agent is ending.
    #[error("the compute agent is shutting down")]
    ShuttingDown,
}

impl Error {
    /// A failed operation on `path`.
    pub fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::File { action, path, source }
    }

    /// Whether PostgreSQL itself failed to start, which it does again unless something is changed.
    pub fn is_of_postgres(&self) -> bool {
        matches!(self, Error::StartFailed { .. } | Error::Program { .. } | Error::WrongServer { .. })
    }

    /// Whether settings may be why PostgreSQL did not start.
    pub fn is_of_settings(&self) -> bool {
        match self {
            Error::Program { .. } => true,
            Error::StartFailed { said, .. } => !said.contains(PORT_TAKEN),
            _ => false,
        }
    }

    /// Whether the same settings fail in the same way whenever they are tried.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Error::Program { .. })
    }

    /// The exit status that tells supervisors a fenced compute from a broken one: 3 must not be restarted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Fenced { .. } => 3,
            _ => 1,
        }
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Error {
        let (PublishError::Unchanged { action, path, source } | PublishError::Unsettled { action, path, source }) =
            error;
        Error::File { action, path, source }
    }
}
