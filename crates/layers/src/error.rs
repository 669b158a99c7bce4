//! What can go wrong between a request and a page.

use quire_files::PublishError;
use quire_redo::RedoError;
use quire_types::{CodecError, Key, Lsn};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file could not be read or written, or does not hold what was written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file's bytes are not what was written.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damaged part starts.
        offset: u64,
        /// How it shows.
        reason: String,
    },
    /// A file may or may not have come into being under its name.
    #[error("cannot {action} {path}, and whether it was replaced is not known: {source}")]
    Unsettled {
        /// What was tried, such as `rename`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An earlier write failed with an unknown outcome; the branch must be opened again before it takes more.
    #[error("the branch refuses writes since an earlier failure: {0}")]
    Failed(String),
}

impl StorageError {
    /// Maps an I/O error of `action` on `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.to_owned();
        move |source| StorageError::Io { action, path, source }
    }

    /// Maps a malformed field at `offset` of `path`.
    pub fn malformed(path: &Path, offset: u64) -> impl FnOnce(CodecError) -> StorageError {
        let path = path.to_owned();
        move |error| StorageError::Corrupt { path, offset, reason: error.to_string() }
    }
}

impl From<PublishError> for StorageError {
    fn from(error: PublishError) -> StorageError {
        match error {
            PublishError::Unchanged { action, path, source } => StorageError::Io { action, path, source },
            PublishError::Unsettled { action, path, source } => StorageError::Unsettled { action, path, source },
        }
    }
}

/// Why a page or value cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The key does not exist at that LSN.
    #[error("{key} does not exist at {lsn}")]
    NoSuchKey {
        /// What was asked for.
        key: Key,
        /// As of when.
        lsn: Lsn,
    },
    /// A page was asked for by a key of another kind, or the other way round.
    #[error("{0} is not of the kind that was asked for")]
    WrongKind(Key),
    /// Ingest did not reach the LSN in time.
    #[error("ingest is at {ingested} and did not reach {lsn} in time")]
    Timeout {
        /// What was waited for.
        lsn: Lsn,
        /// How far ingest is.
        ingested: Lsn,
    },
    /// Ingest stopped before the LSN, and will not continue.
    #[error("ingest of the branch stopped at {ingested}: {reason}")]
    IngestStopped {
        /// How far ingest is.
        ingested: Lsn,
        /// What stopped it.
        reason: Arc<str>,
    },
    /// What is stored of the page cannot be applied.
    #[error("cannot rebuild {key} at {lsn}: {source}")]
    Redo {
        /// The page.
        key: Key,
        /// The version that fails.
        lsn: Lsn,
        /// Why.
        source: ReplayError,
    },
    /// The page would have to be made by redo that is not trusted.
    #[error("{key}: its relation is under guard since {since}, and the page was not kept as PostgreSQL wrote it last")]
    Guarded {
        /// The page.
        key: Key,
        /// From when on its relation is under guard.
        since: Lsn,
    },
    /// Redo of the page panicked before, more than once.
    #[error(
        "redo of {key} panicked twice, at the record that ends at {record}, and is not tried again: report this with the files in \
         {folder}; without them it is tried again after a restart"
    )]
    PutAside {
        /// The page.
        key: Key,
        /// Where redo was.
        record: Lsn,
        /// Where the notes and the page's chain are.
        folder: PathBuf,
    },
    /// What is stored under a key is not what its kind says.
    #[error("invalid value of {key}: {source}")]
    Value {
        /// The key.
        key: Key,
        /// What is wrong.
        source: CodecError,
    },
    /// The disk failed, or a file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a version of a page cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The stored delta is none.
    #[error("the delta cannot be decoded: {0}")]
    Delta(#[source] CodecError),
    /// The stored image has another length than a page.
    #[error("the image is not a page")]
    Image,
    /// The delta does not fit the page.
    #[error(transparent)]
    Redo(#[from] RedoError),
}

/// Why a record's changes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Changes must come in the order of the log.
    #[error("changes of the record that ends at {lsn} do not follow {ingested}")]
    OutOfOrder {
        /// The LSN of the refused record or change.
        lsn: Lsn,
        /// Everything before is ingested.
        ingested: Lsn,
    },
    /// One record may change a page once.
    #[error("{key} has two changes at {lsn}")]
    Duplicate {
        /// The page.
        key: Key,
        /// The record's end.
        lsn: Lsn,
    },
    /// A page was given a value that is not a page's, or the other way round.
    #[error("{0} cannot have a value of that kind")]
    WrongKind(Key),
}
