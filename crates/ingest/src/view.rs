//! What ingest has to know of storage.

use bytes::Bytes;
use quire_types::Key;
use std::error::Error;

/// Storage could not answer.
#[derive(Debug, thiserror::Error)]
#[error("storage cannot be read: {0}")]
pub struct StateError(#[source] pub Box<dyn Error + Send + Sync>);

/// Storage as of the end of what was ingested: every change given out before is seen, whether it is in memory or in a
/// file.
pub trait StateView {
    /// The value of a key that is not a page; none if the key does not exist now.
    fn value(&self, key: Key) -> Result<Option<Bytes>, StateError>;

    /// The keys in `[from, to]` that exist now and are not pages, in order, with their values.
    fn live(&self, from: Key, to: Key) -> Result<Vec<(Key, Bytes)>, StateError>;

    /// A page inside its relation or SLRU segment, as it is now: 8 KiB, zeroes if it has no version.
    fn page(&self, key: Key) -> Result<Bytes, StateError>;
}
