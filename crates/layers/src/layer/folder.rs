//! The layers of a shard, by their numbers.

use super::{BlockCache, Layer, LayerWriter};
use crate::error::StorageError;
use crate::manifest::{LayerId, Origin};
use crate::memtable::Memtable;
use crate::objects::Objects;
use quire_files::Durability;
use quire_types::{BranchKey, ShardId};
use std::collections::HashSet;
use std::sync::Arc;

/// Ends the name of a layer.
const SUFFIX: &str = ".layer";

/// Makes, opens and removes the layers of one shard.
#[derive(Clone, Debug)]
pub struct LayerFolder {
    objects: Arc<dyn Objects>,
    branch: BranchKey,
    shard: ShardId,
}

impl LayerFolder {
    /// The layers of a shard among its objects.
    pub fn new(objects: Arc<dyn Objects>, origin: &Origin) -> LayerFolder {
        LayerFolder { objects, branch: origin.branch, shard: origin.shard }
    }

    /// Begins a layer.
    pub fn create(&self, id: LayerId) -> Result<LayerWriter, StorageError> {
        LayerWriter::create(self.objects.create(&name(id))?, self.branch, self.shard)
    }

    /// Writes a memtable, which must not be empty, as a layer.
    pub fn write(&self, id: LayerId, table: &Memtable) -> Result<(), StorageError> {
        let mut writer = self.create(id)?;
        for (key, version) in table.entries() {
            writer.add(key, version)?;
        }
        writer.finish(table.carries().map(Ok)).map(drop)
    }

    /// Opens a layer, which must be of this shard.
    pub fn open(&self, id: LayerId, cache: &Arc<BlockCache>) -> Result<Arc<Layer>, StorageError> {
        let layer = Layer::open(&self.objects, &name(id), cache)?;
        let summary = layer.summary();
        if (summary.branch, summary.shard) == (self.branch, self.shard) {
            Ok(layer)
        } else {
            Err(StorageError::Corrupt {
                path: self.objects.locate(&name(id)),
                offset: layer.bytes(),
                reason: format!("it belongs to {}", summary.branch),
            })
        }
    }

    /// Removes a layer that no manifest names. What a crash brings back is removed at the next open.
    pub fn remove(&self, id: LayerId) -> Result<(), StorageError> {
        self.objects.remove(&name(id), Durability::Process)
    }

    /// Removes all layers but these.
    pub fn retain(&self, named: impl Iterator<Item = LayerId>) -> Result<(), StorageError> {
        let named: HashSet<String> = named.map(name).collect();
        let found = self.objects.list()?.into_iter().map(|(name, _)| name);
        for stranger in found.filter(|name| name.ends_with(SUFFIX) && !named.contains(name)) {
            self.objects.remove(&stranger, Durability::Process)?;
        }
        Ok(())
    }
}

fn name(id: LayerId) -> String {
    format!("{id:016x}{SUFFIX}")
}
