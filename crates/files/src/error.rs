//! How publishing fails.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file was not put in place or removed, and what its name holds now.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The name holds what it held before.
    #[error("cannot {action} {path}: {source}")]
    Unchanged {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The name holds what it held before or what it should hold now; after a crash it may be the other of the two.
    #[error("cannot {action} {path}, and whether it was replaced is not known: {source}")]
    Unsettled {
        /// What was tried, such as `rename`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl PublishError {
    pub(crate) fn unchanged(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
        let path = path.to_owned();
        move |source| PublishError::Unchanged { action, path, source }
    }

    pub(crate) fn unsettled(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
        let path = path.to_owned();
        move |source| PublishError::Unsettled { action, path, source }
    }
}

/// For those to whom each failure is the same: the kind of the system's error, and all of the text.
impl From<PublishError> for io::Error {
    fn from(error: PublishError) -> io::Error {
        let (PublishError::Unchanged { source, .. } | PublishError::Unsettled { source, .. }) = &error;
        io::Error::new(source.kind(), error)
    }
}
