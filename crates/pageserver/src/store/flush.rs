//! From the open memtable to a layer: freeze, write, name in the manifest, swap.

use super::Store;
use super::tables::{Frozen, Run};
use crate::error::StorageError;
use crate::layer::{Layer, LayerWriter};
use crate::manifest::{LayerId, Manifest};
use crate::memtable::Memtable;
use bytes::Bytes;
use quire_types::Lsn;
use std::sync::Arc;

impl Store {
    /// Closes the open memtable. Everything before `lsn`, the end of a record, has been taken in, and nothing after;
    /// `ingest_state` is ingest's state there.
    pub fn freeze(&self, lsn: Lsn, ingest_state: Bytes) {
        let mut tables = self.write();
        let table = std::mem::take(&mut tables.open);
        tables.frozen.push_back(Arc::new(Frozen { table, durable: lsn, ingest_state }));
    }

    /// Makes the oldest frozen memtable durable; gives the LSN up to which everything is, or nothing if none was
    /// frozen. One flush runs at a time.
    pub fn flush(&self) -> Result<Option<Lsn>, StorageError> {
        let _one_at_a_time = self.flushing.lock();
        let Some(frozen) = self.read().frozen.front().cloned() else { return Ok(None) };
        self.check_not_failed()?;
        let run = match frozen.table.is_empty() {
            true => None,
            false => Some(self.note_unsettled(self.write_layer(&frozen.table))?),
        };
        let layers: Vec<LayerId> = run.iter().flat_map(Run::ids).collect();
        self.adopt_flushed(&frozen, run).inspect_err(|_| self.discard(layers))?;
        Ok(Some(frozen.durable))
    }

    /// Names the new run in the manifest, and then shows it to reads in place of the memtable.
    fn adopt_flushed(&self, frozen: &Frozen, run: Option<Run>) -> Result<(), StorageError> {
        let _manifest = self.change_manifest(|manifest| {
            manifest.durable = frozen.durable;
            manifest.ingest_state = frozen.ingest_state.clone();
            manifest.runs.extend(run.iter().map(Run::entry));
        })?;
        let mut tables = self.write();
        tables.frozen.pop_front();
        let runs = tables.runs.iter().cloned().chain(run).collect();
        tables.runs = Arc::new(runs);
        Ok(())
    }

    fn write_layer(&self, table: &Memtable) -> Result<Run, StorageError> {
        let id = self.next_layer();
        let path = Manifest::layer_path(&self.dir, id);
        let origin = self.origin();
        let mut writer = LayerWriter::create(&path, origin.branch, origin.shard)?;
        for (key, version) in table.entries() {
            writer.add(key, version)?;
        }
        writer.finish(table.carries().map(Ok))?;
        Ok(Run { tier: 0, layers: vec![(id, Layer::open(&path, &self.cache)?)] })
    }

    pub(super) fn next_layer(&self) -> LayerId {
        let mut manifest = self.manifest();
        manifest.next_layer += 1;
        manifest.next_layer - 1
    }
}
