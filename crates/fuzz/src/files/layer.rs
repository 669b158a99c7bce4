//! Layer files: opened, walked from front to back, and asked for every key in them.
//!
//! Of the parts of a layer a file is made as `docs/format.md` has it, checksums and offsets right. Input: a byte with
//! the number of data blocks; each a byte of flags and a piece; the carries, the bloom filter and the index in the same
//! way, then the footer's summary. An index that is a piece of no bytes is made of the blocks.

use crate::input::Input;
use quire_layers::error::StorageError;
use quire_layers::layer::{BlockCache, Layer};
use quire_layers::objects::{MemoryFolder, Objects};
use quire_layers::source::Source;
use quire_types::key::KEY_BYTES;
use quire_types::{Lsn, Writer};
use std::ops::Bound;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Bytes of cached blocks.
const CACHE_BYTES: usize = 1 << 20;
/// Bytes of a summary: branch, shard, keys, LSNs, counts.
const SUMMARY_BYTES: usize = 32 + 2 + 2 * KEY_BYTES + 32;
/// Bytes of a key and an LSN, with which every entry starts.
const POSITION_BYTES: usize = KEY_BYTES + 8;
/// A piece is stored as it is compressed.
const COMPRESSED: u8 = 1;
/// A piece is the stored bytes themselves.
const RAW: u8 = 2;

/// Makes a layer of its parts and reads it.
pub(super) fn read_parts(parts: &[u8]) {
    read_whole(&assembled(parts));
}

/// Reads a layer.
pub(super) fn read_whole(contents: &[u8]) {
    if let Ok(layer) = open(contents) {
        walk(&layer);
    }
}

fn open(contents: &[u8]) -> Result<Arc<Layer>, StorageError> {
    let objects: Arc<dyn Objects> = Arc::new(MemoryFolder::default());
    objects.replace("layer", contents)?;
    Layer::open(&objects, "layer", &BlockCache::new(CACHE_BYTES))
}

/// A seed: the parts of a layer with one data block.
pub fn layer_seed(block: &[u8], carries: &[u8], summary: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(1);
    for piece in [block, carries, &[0xFF; 64], &[]] {
        out.u8(COMPRESSED).u16(u16::try_from(piece.len()).unwrap_or(u16::MAX)).bytes(piece);
    }
    out.bytes(summary);
    out.into_vec()
}

fn walk(layer: &Arc<Layer>) {
    let entries: Vec<_> = layer.entries().map_while(Result::ok).collect();
    let _carries = layer.carries().take_while(Result::is_ok).count();
    for (key, version) in &entries {
        let _found = layer.may_hold(*key, Lsn::INVALID, version.lsn);
        let _newest = layer.newest(*key, version.lsn);
        let _visited = layer.visit(*key, Lsn::INVALID, Lsn::MAX, &mut |_| ControlFlow::Continue(()));
    }
    let last = layer.summary().last_key;
    let _range = layer.newest_in_range(Bound::Unbounded, last, Lsn::MAX, 100);
}

/// A frame around a piece.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    framed(input.u8(), input.piece())
}

fn framed(flags: u8, piece: &[u8]) -> Vec<u8> {
    let compressed = zstd::bulk::compress(piece, 1).unwrap_or_default();
    let stored = if flags & COMPRESSED != 0 && flags & RAW == 0 { &compressed } else { piece };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    // A compressed piece that came as it is may announce anything, here up to 16 MiB.
    let announced = if flags & RAW != 0 { u32::from(flags >> 2) << 18 } else { length(piece) };
    let mut checked = Writer::new();
    checked.u32(length(stored)).u32(announced).u8(flags & COMPRESSED).bytes(stored);
    let mut out = Writer::new();
    out.u32(crc32c::crc32c(checked.as_slice())).bytes(checked.as_slice());
    out.into_vec()
}

fn assembled(parts: &[u8]) -> Vec<u8> {
    let mut input = Input::new(parts);
    let mut out = Writer::new();
    out.bytes(b"QUIRELYR").u32(1);
    let mut index = Writer::new();
    for _ in 0..input.u8() % 8 {
        let (flags, piece) = (input.u8(), input.piece());
        let frame = framed(flags, piece);
        let position: [u8; POSITION_BYTES] = Input::new(piece).array();
        index.bytes(&position).u64(out.len() as u64).u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
        out.bytes(&frame);
    }
    let carries_at = out.len() as u64;
    out.bytes(&frame(&mut input));
    let bloom = write_part(&mut out, &frame(&mut input));
    let (flags, piece) = (input.u8(), input.piece());
    let piece = if piece.is_empty() { index.as_slice() } else { piece };
    let index = write_part(&mut out, &framed(flags, piece));
    out.bytes(&footer(&input.array(), carries_at, bloom, index));
    out.into_vec()
}

/// Appends a part and says where it is.
fn write_part(out: &mut Writer, part: &[u8]) -> (u64, u32) {
    let at = out.len() as u64;
    out.bytes(part);
    (at, u32::try_from(part.len()).unwrap_or(u32::MAX))
}

fn footer(summary: &[u8; SUMMARY_BYTES], carries_at: u64, bloom: (u64, u32), index: (u64, u32)) -> Vec<u8> {
    let mut out = Writer::new();
    out.bytes(b"QUIRELYR").u32(1).bytes(summary).u64(carries_at);
    out.u64(bloom.0).u32(bloom.1).u64(index.0).u32(index.1).bytes(&[0; 32]);
    out.u32(crc32c::crc32c(out.as_slice()));
    out.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Key;

    #[test]
    fn a_layer_made_of_a_seeds_parts_is_opened_and_has_the_seeds_entry() {
        let mut block = Writer::new();
        block.bytes(&Key::Checkpoint.encode()).u64(7).u8(1).length_prefixed(b"value");
        let mut summary = Writer::new();
        summary.bytes(&[0; 32]).u8(0).u8(1).bytes(&Key::Checkpoint.encode()).bytes(&Key::Checkpoint.encode());
        summary.u64(7).u64(7).u64(1).u64(1);
        assert_eq!(summary.len(), SUMMARY_BYTES);
        let contents = assembled(&layer_seed(block.as_slice(), &[], summary.as_slice()));
        let layer = open(&contents).unwrap();
        let found = layer.newest(Key::Checkpoint, Lsn(7)).unwrap().unwrap();
        assert_eq!(found.into_bytes().as_deref(), Some(&b"value"[..]));
    }
}
