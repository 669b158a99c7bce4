//! The sources of versions, newest to oldest, behind one lock.

use super::StoreSize;
use crate::accounts::Accounts;
use crate::error::StorageError;
use crate::layer::Layer;
use crate::manifest::{LayerId, RunEntry};
use crate::memtable::Memtable;
use crate::source::Source;
use bytes::Bytes;
use quire_types::Lsn;
use std::collections::VecDeque;
use std::sync::Arc;

/// An open run of layers.
#[derive(Clone, Debug)]
pub struct Run {
    /// How often it was merged.
    pub tier: u8,
    /// Its layers by number, without a key in common, in key order.
    pub layers: Vec<(LayerId, Arc<Layer>)>,
}

impl Run {
    /// Its entry in the manifest.
    pub fn entry(&self) -> RunEntry {
        RunEntry { tier: self.tier, layers: self.ids().collect() }
    }

    /// The numbers of its layers.
    pub fn ids(&self) -> impl Iterator<Item = LayerId> {
        self.layers.iter().map(|(id, _)| *id)
    }
}

/// A memtable that takes no more, and what is durable once it is flushed.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) table: Memtable,
    pub(super) durable: Lsn,
    pub(super) ingest_state: Bytes,
}

/// All sources of versions.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) open: Memtable,
    /// Oldest first.
    pub(super) frozen: VecDeque<Arc<Frozen>>,
    /// Oldest first.
    pub(super) runs: Arc<Vec<Run>>,
    pub(super) accounts: Accounts,
    /// Counted when the keeping of written pages begins and when it ends, so odd meanwhile.
    pub(super) epoch: u64,
}

impl Tables {
    /// The sources after a restart: layers alone, and the accounts they carry.
    pub(super) fn open(runs: Vec<Run>) -> Result<Tables, StorageError> {
        let mut accounts = Accounts::default();
        for (_, layer) in runs.iter().flat_map(|run| &run.layers) {
            for carry in layer.carries() {
                accounts.restore(&carry?);
            }
        }
        let (open, frozen) = (Memtable::default(), VecDeque::new());
        Ok(Tables { open, frozen, runs: Arc::new(runs), accounts, epoch: 0 })
    }

    /// The memtables as sources, newest first.
    pub(super) fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        self.memtables().map(|table| table as &dyn Source)
    }

    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&self.open).chain(self.frozen.iter().rev().map(|frozen| &frozen.table))
    }

    /// Whether an image made in that epoch may be kept: no written page came since, and none is coming.
    pub(super) fn is_still(&self, epoch: u64) -> bool {
        self.epoch == epoch && epoch.is_multiple_of(2)
    }

    pub(super) fn size(&self) -> StoreSize {
        let layers = || self.runs.iter().flat_map(|run| &run.layers);
        StoreSize {
            runs: self.runs.len(),
            layers: layers().count(),
            layer_bytes: layers().map(|(_, layer)| layer.bytes()).sum(),
            frozen_memtables: self.frozen.len(),
            memtable_bytes: self.memtables().map(Memtable::bytes).sum(),
        }
    }
}
