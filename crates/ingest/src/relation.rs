//! Relation files created, truncated and dropped.

use crate::changes::Batch;
use crate::error::IngestError;
use quire_layers::value::Value;
use quire_redo::{Delta, visibility_map};
use quire_types::{Fork, Key, RelTag};
use quire_wal::effects::smgr::{self, SmgrEffect};

/// The forks that are stored: all but the free space map.
pub(crate) const STORED_FORKS: [Fork; 3] = [Fork::Main, Fork::VisibilityMap, Fork::Init];

/// A record of the storage manager.
pub(crate) fn apply(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match smgr::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        SmgrEffect::Create(rel) => create(batch, rel),
        SmgrEffect::Truncate { rel, blocks, main, visibility_map } => {
            create(batch, rel)?;
            if main {
                cut(batch, rel, blocks)?;
            }
            if visibility_map {
                cut_visibility_map(batch, rel.with_fork(Fork::VisibilityMap), blocks)?;
            }
            Ok(())
        }
    }
}

fn create(batch: &mut Batch<'_>, rel: RelTag) -> Result<(), IngestError> {
    if rel.fork != Fork::FreeSpaceMap && batch.relation_size(rel)?.is_none() {
        batch.note_folder(rel)?;
        batch.resize(Key::RelSize { rel }, 0);
    }
    Ok(())
}

/// Truncation never extends.
fn cut(batch: &mut Batch<'_>, rel: RelTag, blocks: u32) -> Result<(), IngestError> {
    if batch.relation_size(rel)?.is_some_and(|size| size > blocks) {
        batch.resize(Key::RelSize { rel }, blocks);
    }
    Ok(())
}

/// What the map says of blocks that are gone is cleared, so that it is not trusted if the heap grows again.
fn cut_visibility_map(batch: &mut Batch<'_>, map: RelTag, heap_blocks: u32) -> Result<(), IngestError> {
    let last = visibility_map::map_block(heap_blocks);
    if heap_blocks.is_multiple_of(visibility_map::HEAP_BLOCKS_PER_PAGE) {
        return cut(batch, map, last);
    }
    if batch.relation_size(map)?.is_some_and(|size| size > last) {
        let delta = Delta::VisibilityTruncated { heap_blocks };
        batch.push(Key::RelBlock { rel: map, block: last }, Value::Delta(delta));
    }
    cut(batch, map, last + 1)
}

/// Drops all forks of relations.
pub(crate) fn drop_all(batch: &mut Batch<'_>, relations: &[RelTag]) -> Result<(), IngestError> {
    for rel in relations {
        for fork in STORED_FORKS {
            batch.remove_sized(Key::RelSize { rel: rel.with_fork(fork) })?;
        }
    }
    Ok(())
}
