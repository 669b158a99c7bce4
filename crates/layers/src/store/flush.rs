//! From the open memtable to a layer: freeze, write, name in the manifest, swap.

use super::Store;
use super::tables::{Frozen, Run};
use crate::error::StorageError;
use crate::manifest::LayerId;
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
        let run =
            if frozen.table.is_empty() { None } else { Some(self.note_unsettled(self.write_run(&frozen.table))?) };
        let layers: Vec<LayerId> = run.iter().flat_map(Run::ids).collect();
        self.adopt_flushed(&frozen, run).inspect_err(|_| self.discard(layers))?;
        Ok(Some(frozen.durable))
    }

    /// Names the new run in the manifest, and then shows it to reads in place of the memtable.
    fn adopt_flushed(&self, frozen: &Frozen, run: Option<Run>) -> Result<(), StorageError> {
        let _publishing = self.change_manifest(|manifest| {
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

    fn write_run(&self, table: &Memtable) -> Result<Run, StorageError> {
        let id = self.next_layer();
        self.layers.write(id, table)?;
        Ok(Run { tier: 0, layers: vec![(id, self.layers.open(id, &self.cache)?)] })
    }

    pub(super) fn next_layer(&self) -> LayerId {
        let mut manifest = self.manifest();
        manifest.next_layer += 1;
        manifest.next_layer - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_policy::ImageSettings;
    use crate::import::Import;
    use crate::layer::BlockCache;
    use crate::manifest::{Manifest, Origin};
    use crate::objects::LocalFolder;
    use quire_types::{BranchKey, Key, ShardId};

    const START: Lsn = Lsn(16 << 20);

    fn open(dir: &std::path::Path) -> Store {
        let (branch, shard) = (BranchKey::default(), ShardId::UNSHARDED);
        let origin = Origin { branch, shard, start: START, segment_bytes: 16 << 20, postgres_version: 15 };
        let mut import = Import::begin(dir, origin, ImageSettings::default(), 1 << 20).unwrap();
        import.put(Key::ControlFile, Bytes::from_static(b"control")).unwrap();
        import.finish().unwrap();
        let objects = Arc::new(LocalFolder::open(dir).unwrap());
        let manifest = Manifest::load(objects.as_ref()).unwrap().expect("it was imported");
        Store::open(objects, manifest, &BlockCache::new(1 << 16), 4 << 10).unwrap()
    }

    #[test]
    fn what_is_published_can_be_asked_for_while_more_is_being_published() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("0-1"));
        let publishing = store.publishing.lock();
        assert_eq!((store.durable(), store.origin().start), (START, START));
        let next = store.next_layer();
        drop(publishing);
        // A number that was given out meanwhile is not given out again.
        store.set_settings(ImageSettings { max_deltas: 7, ..ImageSettings::default() }).unwrap();
        assert_eq!((store.next_layer(), store.settings().max_deltas), (next + 1, 7));
    }
}
