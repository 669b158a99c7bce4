//! Why a record cannot be ingested.

use crate::view::StateError;
use quire_redo::RedoError;
use quire_types::{CodecError, Key, Lsn, RelTag, Slru};
use quire_wal::{ServerVersion, WalError};

/// A record that cannot be ingested. Ingest of the branch ends there: going on would give wrong pages.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The record cannot be decoded, or an image in it cannot be restored.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The record's data are not what its type says.
    #[error("malformed {rmgr} record {info:#04x} at {lsn}: {source}")]
    Malformed {
        /// The resource manager.
        rmgr: String,
        /// `xl_info`.
        info: u8,
        /// Where the record starts.
        lsn: Lsn,
        /// What is wrong.
        source: CodecError,
    },
    /// Redo of the record is not known, and it has no image of the page.
    #[error("records of {rmgr} are not supported: type {info:#04x} at {lsn}")]
    Unsupported {
        /// The resource manager.
        rmgr: String,
        /// `xl_info`.
        info: u8,
        /// Where the record starts.
        lsn: Lsn,
    },
    /// The log is that of another major version from here on.
    #[error("from {lsn} on PostgreSQL {server} writes the log, whose records are not known")]
    Server {
        /// The server.
        server: ServerVersion,
        /// Where the record starts that says so.
        lsn: Lsn,
    },
    /// A record that exists only to carry page images lacks one.
    #[error("the record at {lsn} has no image of {key}")]
    MissingImage {
        /// The page.
        key: Key,
        /// Where the record starts.
        lsn: Lsn,
    },
    /// The first change of a new page could not be applied.
    #[error(transparent)]
    Redo(#[from] RedoError),
    /// A block is so far behind the relation's end that it cannot be true.
    #[error("the record at {lsn} extends {rel} from {blocks} blocks to block {block}")]
    Gap {
        /// The relation.
        rel: RelTag,
        /// Its size.
        blocks: u32,
        /// The block.
        block: u32,
        /// Where the record starts.
        lsn: Lsn,
    },
    /// A record uses so many pages that were not there before that it cannot be true.
    #[error("the record at {lsn} uses too many pages of {} that do not exist", slru.directory())]
    NewPages {
        /// The area.
        slru: Slru,
        /// Where the record starts.
        lsn: Lsn,
    },
    /// A record changes the same thing in two ways, such as a block that it names twice.
    #[error("the record at {lsn} changes {key} twice")]
    ChangedTwice {
        /// What it changes.
        key: Key,
        /// Where the record starts.
        lsn: Lsn,
    },
    /// Records must come in the order of the log.
    #[error("the record at {lsn} is before {position}, which is ingested")]
    OutOfOrder {
        /// Where the record starts.
        lsn: Lsn,
        /// How far ingest is.
        position: Lsn,
    },
    /// A record names another one as the one before it than was ingested last: one was left out.
    #[error("the record at {lsn} follows one at {prev}, but the last that was ingested is at {last_record}")]
    LeftOut {
        /// Where the record starts.
        lsn: Lsn,
        /// The record before it.
        prev: Lsn,
        /// The last record that was ingested; invalid if there is none.
        last_record: Lsn,
    },
    /// Storage could not answer.
    #[error(transparent)]
    View(#[from] StateError),
    /// Storage has a value that ingest cannot have written.
    #[error("invalid value of {key}: {source}")]
    Stored {
        /// The key.
        key: Key,
        /// What is wrong with its value.
        source: CodecError,
    },
    /// A key that every import writes is missing.
    #[error("{0} was not imported")]
    NotImported(Key),
    /// The remembered state of ingest cannot be read.
    #[error("invalid ingest state: {source}")]
    IngestState {
        /// What is wrong.
        source: CodecError,
    },
}
