//! What goes wrong in a safekeeper.

use quire_net::ListenError;
use quire_types::{CodecError, Lsn, NodeId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a safekeeper cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum SafekeeperError {
    /// A file or directory could not be used.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the data directory.
    #[error("{0} is in use by another safekeeper")]
    Locked(PathBuf),
    /// The data directory is another safekeeper's.
    #[error("{path} belongs to safekeeper {owner}, not to {node}")]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who wants it.
        node: NodeId,
    },
    /// A port could not be taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A port that was taken failed.
    #[error("a listening port failed: {0}")]
    Port(#[source] io::Error),
    /// A thread could not be started, or did not end as it should.
    #[error("thread {0} failed")]
    Thread(&'static str),
}

/// Why a branch's log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BranchLogError {
    /// It could not be opened, or the disk failed since: what is on it is known again once it can be opened.
    #[error("the log cannot be used: {0}")]
    Unusable(Arc<BranchLogError>),
    /// The disk failed just now.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The state file is not one.
    #[error("state file: {0}")]
    State(#[from] StateError),
    /// WAL that was durable is not there. Who does not know any more what he promised may not vote.
    #[error("{path}: WAL is lost or damaged at {at}; the log was durable up to {durable}")]
    LostWal {
        /// The segment.
        path: PathBuf,
        /// The end of the last whole record before the damage.
        at: Lsn,
        /// Up to where the log was durable.
        durable: Lsn,
    },
}

/// Why a state file cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// It does not begin as one.
    #[error("it does not begin with the magic bytes")]
    Magic,
    /// It is of another version of the format.
    #[error("it has format version {0}, which this program does not know")]
    Version(u32),
    /// It was damaged.
    #[error("checksum mismatch")]
    Checksum,
    /// Its content makes no sense.
    #[error(transparent)]
    Malformed(#[from] CodecError),
}

impl SafekeeperError {
    /// Wraps an I/O error with the path it is about.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> SafekeeperError {
        let path = path.into();
        move |source| SafekeeperError::File { path, source }
    }
}
