//! What ingest sees of a shard: everything that was taken in.

use super::ShardPages;
use bytes::Bytes;
use quire_ingest::{StateError, StateView};
use quire_layers::error::ReadError;
use quire_types::{Backoff, Key, Lsn, PAGE_SIZE};
use std::time::Duration;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// The view of one who gives up when a file cannot be read.
#[derive(Debug)]
pub struct LatestView<'a>(pub &'a ShardPages);

/// The view of one who waits until the file can be read again, or the shard is shut down. The progress says what is
/// waited for.
#[derive(Debug)]
pub struct PatientView<'a>(pub &'a ShardPages);

impl StateView for LatestView<'_> {
    fn value(&self, key: Key) -> Result<Option<Bytes>, StateError> {
        self.0.latest_value(key).map_err(refused)
    }

    fn live(&self, from: Key, to: Key) -> Result<Vec<(Key, Bytes)>, StateError> {
        self.0.latest_values(from, to).map_err(refused)
    }

    fn page(&self, key: Key) -> Result<Bytes, StateError> {
        self.0.latest_page(key).map_err(refused)
    }
}

impl StateView for PatientView<'_> {
    fn value(&self, key: Key) -> Result<Option<Bytes>, StateError> {
        self.0.retry_unread(|pages| pages.latest_value(key)).map_err(refused)
    }

    fn live(&self, from: Key, to: Key) -> Result<Vec<(Key, Bytes)>, StateError> {
        self.0.retry_unread(|pages| pages.latest_values(from, to)).map_err(refused)
    }

    fn page(&self, key: Key) -> Result<Bytes, StateError> {
        self.0.retry_unread(|pages| pages.latest_page(key)).map_err(refused)
    }
}

fn refused(error: ReadError) -> StateError {
    StateError(Box::new(error))
}

impl ShardPages {
    fn latest_value(&self, key: Key) -> Result<Option<Bytes>, ReadError> {
        self.value(key, Lsn::MAX)
    }

    fn latest_values(&self, from: Key, to: Key) -> Result<Vec<(Key, Bytes)>, ReadError> {
        Ok(self.store().scan(from, to, Lsn::MAX, usize::MAX, usize::MAX)?.entries)
    }

    fn latest_page(&self, key: Key) -> Result<Bytes, ReadError> {
        let (_, page) = self.rebuilder.rebuild(key, Lsn::MAX)?;
        assert_eq!(page.len(), PAGE_SIZE);
        Ok(page)
    }

    fn retry_unread<T>(&self, read: impl Fn(&ShardPages) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let mut backoff = BACKOFF;
        loop {
            let outcome = read(self);
            let Err(ReadError::Storage(reason)) = &outcome else {
                self.note_needed_read(None);
                return outcome;
            };
            self.note_unread(reason);
            self.note_needed_read(Some(reason));
            if !self.gate.pause(backoff.after_failure()) {
                return outcome;
            }
        }
    }
}
