//! The blocks that a record names, and the visibility map pages that heap records mean without naming them.

use crate::changes::Batch;
use crate::error::IngestError;
use bytes::Bytes;
use quire_layers::value::Value;
use quire_redo::{Delta, mask, visibility_map};
use quire_types::{Fork, Key, PAGE_SIZE};
use quire_wal::effects::heap::{VisibilityCleared, visibility_cleared};
use quire_wal::effects::xlog::{self, XlogEffect};
use quire_wal::{Block, BlockImage, Record, ServerVersion, page, rmgr};

/// Changes every block that the record names, but those of the free space map.
///
/// The lower block goes first: of two new ones, the lower would else be zeroed as part of the gap before the higher.
pub(crate) fn apply(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let stored = batch.record.blocks.iter().filter(|block| block.rel.fork != Fork::FreeSpaceMap);
    let mut blocks: Vec<&Block> = stored.collect();
    blocks.sort_by_key(|block| block.block);
    for block in blocks {
        match block.image.as_ref().filter(|image| image.apply) {
            Some(image) => restore(batch, block, image)?,
            None => redo(batch, block)?,
        }
    }
    Ok(())
}

/// Redo of a block whose image is restored mostly ends there (`BLK_RESTORED`).
fn restore(batch: &mut Batch<'_>, block: &Block, image: &BlockImage) -> Result<(), IngestError> {
    let record = batch.record;
    let key = Key::RelBlock { rel: block.rel, block: block.block };
    let mut restored = image.restore()?;
    if !page::is_new(restored.as_slice()) {
        page::set_lsn(restored.as_mut_slice(), record.end);
    }
    quire_redo::finish_image(&mut restored, &record.into(), &block.into(), record.end)?;
    batch.extend_relation(block.rel, block.block)?;
    let page = Bytes::copy_from_slice(restored.as_slice());
    let value = if lacks_bytes(record, image, &restored, key) { Value::PartialImage(page) } else { Value::Image(page) };
    batch.push(key, value);
    Ok(())
}

/// Whether the hole that was left out of an image had contents. `CREATE DATABASE` logs the pages of a template as if
/// all had the standard layout (`RelationCopyStorageUsingBuffer`), and an extension's pages may be logged the same way.
/// The records of other resource managers leave no hole in such pages; that of generic records is zeroes on both sides
/// (`GenericXLogFinish`).
fn lacks_bytes(record: &Record, image: &BlockImage, page: &[u8; PAGE_SIZE], key: Key) -> bool {
    record.rmgr == rmgr::XLOG && image.hole_length > 0 && mask::reads_hole(page, key)
}

fn redo(batch: &mut Batch<'_>, block: &Block) -> Result<(), IngestError> {
    let key = Key::RelBlock { rel: block.rel, block: block.block };
    let record = batch.record;
    if record.rmgr == rmgr::XLOG {
        return without_image(batch, key);
    }
    if !quire_redo::supports(record.rmgr, record.info) {
        return Err(batch.unsupported());
    }
    let is_new = batch.extend_relation(block.rel, block.block)?;
    let delta = || Delta::of_record(record.rmgr, record.info, batch.server, record.bytes.clone(), record.start);
    if block.will_init {
        batch.push(key, Value::InitialDelta(delta()));
    } else if is_new {
        batch.push_page(key, first_page(batch, block)?.as_ref());
    } else {
        batch.push(key, Value::Delta(delta()));
    }
    Ok(())
}

/// What a record makes of a page that was nothing.
fn first_page(batch: &Batch<'_>, block: &Block) -> Result<Box<[u8; PAGE_SIZE]>, IngestError> {
    let (record, server) = (batch.record, batch.server.unwrap_or(ServerVersion::UNRECORDED));
    let mut page = Box::new([0; PAGE_SIZE]);
    quire_redo::apply_block(&mut page, &record.into(), &block.into(), record.start, record.end, server)?;
    Ok(page)
}

/// A page image for hint bits may come without the image when full-page writes are off, and then says nothing; the
/// plain kind may not.
fn without_image(batch: &Batch<'_>, key: Key) -> Result<(), IngestError> {
    let record = batch.record;
    match xlog::parse(record.info, &record.main_data) {
        Ok(XlogEffect::PageImagesForHints) => Ok(()),
        Ok(_) => Err(IngestError::MissingImage { key, lsn: record.start }),
        Err(source) => Err(batch.malformed(source)),
    }
}

/// Clears the bits of heap pages that are no longer all-visible, on map pages that exist.
pub(crate) fn clear_visibility(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let mut pages: Vec<(Key, Delta)> = Vec::new();
    for cleared in visibility_cleared(batch.record) {
        note_cleared(&mut pages, map_page(&cleared), &cleared);
    }
    for (key, delta) in pages {
        if let Key::RelBlock { rel, block } = key
            && batch.relation_size(rel)?.is_some_and(|blocks| block < blocks)
        {
            batch.push(key, Value::Delta(delta));
        }
    }
    Ok(())
}

fn map_page(cleared: &VisibilityCleared) -> Key {
    let rel = cleared.rel.with_fork(Fork::VisibilityMap);
    Key::RelBlock { rel, block: visibility_map::map_block(cleared.block) }
}

/// The two heap blocks of an update mostly share a map page, which gets one delta.
fn note_cleared(pages: &mut Vec<(Key, Delta)>, key: Key, cleared: &VisibilityCleared) {
    for (known, delta) in pages.iter_mut() {
        if let Delta::VisibilityCleared { heap_blocks, .. } = delta
            && *known == key
        {
            heap_blocks.push(cleared.block);
            return;
        }
    }
    pages.push((key, Delta::VisibilityCleared { heap_blocks: vec![cleared.block], bits: cleared.bits }));
}
