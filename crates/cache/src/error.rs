//! What can be wrong with a shared file.

use std::io;

/// Why a shared file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The file is not what its name says.
    #[error("{0} has a wrong magic number: it was not written by Quire")]
    WrongMagic(&'static str),
    /// The other side was built from other source.
    #[error(
        "the shim and the agent are of different builds ({found:016x} here, {expected:016x} there); restart the compute"
    )]
    WrongBuild {
        /// The build that wrote the file or sent the message.
        found: u64,
        /// The build that reads it.
        expected: u64,
    },
    /// A field says what cannot be.
    #[error("{field} is invalid: {value}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
}

impl CacheError {
    /// Wraps the calling thread's `errno`.
    pub fn last_os(what: &'static str) -> CacheError {
        CacheError::Io { what, source: io::Error::last_os_error() }
    }

    /// The `errno` that says this best to a program that knows nothing of Quire.
    pub fn errno(&self) -> i32 {
        match self {
            CacheError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            _ => libc::EIO,
        }
    }
}

/// For `map_err`: says what was tried.
pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError::Io { what, source }
}
