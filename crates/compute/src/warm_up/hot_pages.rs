//! Which pages were in use: a file that outlives the cache.
//!
//! ```text
//! 0   u64  `QuireHot`
//! 8   u32  CRC32C of all that follows
//! 12  u32  version of this layout: 1
//! 16  ...  for each file: its path below the data directory and, packed, pairs of u32, the first block of a range and
//!          the one after its last; both preceded by their length in bytes (u32)
//! ```
//!
//! Little endian. It is a hint: a file that is damaged, or that another version wrote, is as good as none.

use crate::Error;
use crate::cache_dir::CacheDir;
use crate::cached_files::Inventory;
use quire_cache::protocol::{BlockState, Blocks};
use quire_cache::{FileId, Meta};
use quire_files::{Durability, publish};
use quire_types::{CodecError, Fork, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, Reader, Writer};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `QuireHot` as a little-endian number.
const MAGIC: u64 = 0x746F_4865_7269_7551;
const VERSION: u32 = 1;
/// Bytes of the file before what the checksum covers.
const HEAD_BYTES: usize = 12;
/// Ranges that are kept (8 MB of file); a cache in smaller pieces than that is not remembered as a whole.
const RANGES_MAX: usize = 1 << 20;

/// Pages by file, as ranges of blocks in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotPages {
    files: BTreeMap<FileId, Vec<Range<u32>>>,
}

/// Where the file is.
fn path(dir: &CacheDir) -> PathBuf {
    dir.root().join("hot-pages")
}

impl HotPages {
    /// What was remembered last; nothing if there is nothing that can be used.
    pub fn load(dir: &CacheDir) -> HotPages {
        let Ok(raw) = fs::read(path(dir)) else { return HotPages::default() };
        HotPages::decode(&raw, dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "the list of pages that were in use cannot be used");
            HotPages::default()
        })
    }

    /// Remembers this, in place of what was remembered.
    pub fn save(&self, dir: &CacheDir) -> Result<(), Error> {
        Ok(publish(&path(dir), &self.encode(dir), Durability::Machine)?)
    }

    /// Looks which relation pages are in the cache, and in a bounded one, which were touched lately. Small files come
    /// first when there are more than `blocks_max` blocks: catalogs and indexes before large tables.
    pub fn look(dir: &CacheDir, blocks_max: u64) -> HotPages {
        let mut found = Vec::new();
        for (rel, segment) in Inventory::of(dir).segments().filter(|(rel, _)| rel.fork != Fork::FreeSpaceMap) {
            let id = FileId::Relation { rel, segment };
            found.push((id, ranges_in_use(dir, id)));
        }
        HotPages::first_of(found, blocks_max)
    }

    fn first_of(mut found: Vec<(FileId, Vec<Range<u32>>)>, blocks_max: u64) -> HotPages {
        found.retain(|(_, ranges)| !ranges.is_empty());
        found.sort_by_cached_key(|(id, ranges)| (count(ranges), *id));
        let mut pages = HotPages::default();
        let (mut blocks_left, mut ranges_left) = (blocks_max, RANGES_MAX);
        for (id, mut ranges) in found {
            ranges.truncate(ranges_left);
            ranges.retain_mut(|range| {
                let fitting = u32::try_from(blocks_left).unwrap_or(u32::MAX).min(range.end - range.start);
                range.end = range.start + fitting;
                blocks_left -= u64::from(fitting);
                fitting > 0
            });
            ranges_left -= ranges.len();
            if !ranges.is_empty() {
                pages.files.insert(id, ranges);
            }
        }
        pages
    }

    /// These and those, up to `blocks_max` blocks.
    pub fn with(mut self, others: &HotPages, blocks_max: u64) -> HotPages {
        for (id, ranges) in &others.files {
            let own = self.files.entry(*id).or_default();
            own.extend(ranges.iter().cloned());
            own.sort_unstable_by_key(|range| range.start);
            own.dedup_by(|next, before| {
                let touching = next.start <= before.end;
                before.end = if touching { before.end.max(next.end) } else { before.end };
                touching
            });
        }
        HotPages::first_of(self.files.into_iter().collect(), blocks_max)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The smallest file that `wanted` says yes to, with its pages.
    pub fn smallest(&self, wanted: impl Fn(FileId) -> bool) -> Option<(FileId, Vec<Range<u32>>)> {
        let files = self.files.iter().filter(|(id, _)| wanted(**id));
        files.min_by_key(|(_, ranges)| count(ranges)).map(|(id, ranges)| (*id, ranges.clone()))
    }

    /// Forgets a file.
    pub fn remove(&mut self, id: FileId) {
        self.files.remove(&id);
    }

    fn encode(&self, dir: &CacheDir) -> Vec<u8> {
        let mut body = Writer::new();
        body.u32(VERSION);
        for (id, ranges) in &self.files {
            body.length_prefixed(dir.path_of(*id).as_bytes());
            let packed: Vec<u8> =
                ranges.iter().flat_map(|range| [range.start, range.end]).flat_map(u32::to_le_bytes).collect();
            body.length_prefixed(&packed);
        }
        let mut out = Writer::with_capacity(HEAD_BYTES + body.len());
        out.u64(MAGIC).u32(crc32c::crc32c(body.as_slice())).bytes(body.as_slice());
        out.into_vec()
    }

    fn decode(raw: &[u8], dir: &CacheDir) -> Result<HotPages, CodecError> {
        let invalid = |field, value: u32| CodecError::Invalid { field, value: value.into() };
        let mut input = Reader::new(raw);
        let (magic, checksum) = (input.u64("magic")?, input.u32("checksum")?);
        let version = input.u32("version")?;
        if magic != MAGIC || version != VERSION {
            return Err(invalid("version of the list", version));
        }
        if crc32c::crc32c(&raw[HEAD_BYTES..]) != checksum {
            return Err(invalid("checksum", checksum));
        }
        let mut files = BTreeMap::new();
        while input.remaining() > 0 {
            let path = std::str::from_utf8(input.length_prefixed("path")?).unwrap_or_default();
            let ranges = decode_ranges(input.length_prefixed("ranges")?)?;
            let file = dir.relation_of(Path::new(path));
            let (rel, segment) = file.ok_or_else(|| invalid("path of a file", 0))?;
            files.insert(FileId::Relation { rel, segment }, ranges);
        }
        Ok(HotPages { files })
    }
}

fn decode_ranges(raw: &[u8]) -> Result<Vec<Range<u32>>, CodecError> {
    let mut input = Reader::new(raw);
    let mut ranges: Vec<Range<u32>> = Vec::new();
    while input.remaining() > 0 {
        let range = input.u32("first block")?..input.u32("end of a range")?;
        let ascending = ranges.last().is_none_or(|last| last.end <= range.start);
        if !ascending || range.is_empty() || range.end > RELATION_SEGMENT_BLOCKS {
            return Err(CodecError::Invalid { field: "range of blocks", value: range.start.into() });
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn count(ranges: &[Range<u32>]) -> u64 {
    ranges.iter().map(|range| u64::from(range.end - range.start)).sum()
}

/// What is in use of one file; nothing if it cannot be looked at.
fn ranges_in_use(dir: &CacheDir, id: FileId) -> Vec<Range<u32>> {
    let path = dir.path_of(id);
    let Ok(status) = fs::metadata(dir.data_file(&path)) else { return Vec::new() };
    let blocks = u32::try_from(status.len() / PAGE_SIZE as u64).unwrap_or(0).min(RELATION_SEGMENT_BLOCKS);
    let whole = || (blocks > 0).then_some(0..blocks).into_iter().collect();
    // A file without a meta file of its own is wholly local.
    match open_meta(&dir.meta_file(&path)) {
        Some(meta) if meta.inode() == status.ino() => ranges_of(&meta, blocks),
        _ => whole(),
    }
}

fn open_meta(path: &Path) -> Option<Meta> {
    Meta::open(path).ok()
}

fn ranges_of(meta: &Meta, blocks: u32) -> Vec<Range<u32>> {
    let touched = |block| !meta.is_bounded() || meta.touches(block) > 0;
    let in_use = |block: u32| meta.state(block) == BlockState::Present && touched(block);
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for sixteen in (0..blocks).step_by(16).filter(|first| !meta.are_sixteen_absent(*first)) {
        for block in (sixteen..(sixteen + 16).min(blocks)).filter(|block| in_use(*block)) {
            match ranges.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => ranges.push(block..block + 1),
            }
        }
    }
    ranges
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]
mod tests {
    use super::*;
    use quire_types::RelTag;
    use quire_wal::postgres_version::PG15;

    fn file(relation: u32) -> FileId {
        FileId::Relation { rel: RelTag { tablespace: 1663, database: 5, relation, fork: Fork::Main }, segment: 0 }
    }

    fn pages(files: &[(u32, &[Range<u32>])]) -> HotPages {
        HotPages { files: files.iter().map(|(relation, ranges)| (file(*relation), ranges.to_vec())).collect() }
    }

    #[test]
    fn what_was_written_reads_back_and_damage_is_found() {
        let (hot, dir) = (pages(&[(1, &[0..1, 5..70]), (2, &[3..4])]), CacheDir::new("/c", &PG15));
        let raw = hot.encode(&dir);
        assert_eq!(HotPages::decode(&raw, &dir).expect("readable"), hot);
        for at in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[at] ^= 1;
            assert!(HotPages::decode(&damaged, &dir).is_err(), "byte {at}");
            assert!(HotPages::decode(&raw[..at], &dir).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn small_files_come_first_and_the_bound_cuts_the_largest() {
        let found = vec![(file(1), vec![0..100, 200..300]), (file(2), vec![5..15])];
        assert_eq!(HotPages::first_of(found, 120), pages(&[(1, &[0..100, 200..210]), (2, &[5..15])]));
    }

    #[test]
    fn lists_are_joined_where_they_overlap() {
        let joined = pages(&[(1, &[0..10, 20..30])]).with(&pages(&[(1, &[5..20, 40..41]), (3, &[1..2])]), 1000);
        assert_eq!(joined, pages(&[(1, &[0..30, 40..41]), (3, &[1..2])]));
    }

    #[test]
    fn the_smallest_wanted_file_is_next() {
        let hot = pages(&[(1, &[0..1]), (2, &[0..9]), (3, &[0..5])]);
        assert_eq!(hot.smallest(|id| id != file(1)), Some((file(3), vec![0..5])));
    }
}
