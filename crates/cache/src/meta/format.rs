//! How a meta file is laid out, written and checked.

use crate::BUILD_ID;
use crate::error::{CacheError, io};
use crate::file_id::{FILE_ID_WORDS, FileId};
use crate::mapping::Mapping;
use crate::meta::room::{self, ROOM_WORDS};
use quire_types::{Lsn, RELATION_SEGMENT_BLOCKS};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// `QuireMet` as a little-endian number.
const META_MAGIC: u64 = 0x7465_4D65_7269_7551;

/// Bytes before the state words.
pub(super) const HEADER_BYTES: usize = 192;

/// Blocks whose states share a word.
pub(super) const BLOCKS_PER_WORD: u32 = 16;

/// Sixteen absent blocks.
pub(super) const ALL_ABSENT: u32 = 0xAAAA_AAAA;

/// How many marks of read-ahead a file has.
pub const MARKS: usize = 4;

/// The start of a meta file.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    pub(super) build_id: AtomicU64,
    pub(super) inode: AtomicU64,
    pub(super) request_lsn: AtomicU64,
    pub(super) drops: AtomicU64,
    pub(super) capacity: AtomicU32,
    pub(super) remote_nblocks: AtomicU32,
    pub(super) file: [AtomicU32; FILE_ID_WORDS],
    pub(super) cuts_begun: AtomicU64,
    pub(super) cuts_ended: AtomicU64,
    pub(super) bounded: AtomicU32,
    pub(super) undescribed: AtomicU32,
    pub(super) marks: [AtomicU64; MARKS],
    pub(super) room: [AtomicU64; ROOM_WORDS],
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

impl Header {
    pub(super) fn file_id(&self) -> Result<FileId, CacheError> {
        FileId::from_words(self.file.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }
}

const fn words_for(blocks: u32) -> usize {
    blocks.div_ceil(BLOCKS_PER_WORD) as usize
}

/// Where the epochs begin.
const fn states_end(capacity: u32) -> usize {
    HEADER_BYTES + words_for(capacity) * size_of::<u32>()
}

/// Where the touches begin.
const fn epochs_end(capacity: u32) -> usize {
    states_end(capacity) + capacity as usize * size_of::<u32>()
}

/// Where the word is that a block's state is in.
#[inline]
pub(super) fn state_at(_capacity: u32, block: u32) -> usize {
    HEADER_BYTES + (block / BLOCKS_PER_WORD) as usize * size_of::<u32>()
}

/// Where a block's epoch is.
#[inline]
pub(super) fn epoch_at(capacity: u32, block: u32) -> usize {
    states_end(capacity) + block as usize * size_of::<u32>()
}

/// Where a block's touches are.
#[inline]
pub(super) fn touches_at(capacity: u32, block: u32) -> usize {
    epochs_end(capacity) + block as usize
}

const _: () = assert!(
    bytes_for(RELATION_SEGMENT_BLOCKS, true) <= ROOM_WORDS * u64::BITS as usize * room::PART_BYTES,
    "a part without a bit would never have room"
);

pub(super) const fn bytes_for(capacity: u32, bounded: bool) -> usize {
    if bounded { epochs_end(capacity) + capacity as usize } else { states_end(capacity) }
}

/// What a new meta file says; all blocks that storage has are absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaSpec {
    /// Which file it is about.
    pub file: FileId,
    /// Inode of that file.
    pub inode: u64,
    /// How many blocks of it storage has: at most [`RELATION_SEGMENT_BLOCKS`], and in an unbounded cache at least 1 (a
    /// file with none needs no meta there).
    pub remote_nblocks: u32,
    /// Whether blocks may be dropped, also those that the file does not have yet: it has states for a whole segment
    /// then.
    pub bounded: bool,
    /// The LSN at which absent blocks are to be read.
    pub request_lsn: Lsn,
}

impl MetaSpec {
    /// Writes the file, which must not exist yet, readable and writable by its owner (for the agent, which may have
    /// to change the owner by the handle that is returned).
    pub fn create(&self, path: &Path) -> Result<File, CacheError> {
        check_capacity(self.capacity())?;
        check_capacity(self.remote_nblocks.max(1))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(io("cannot create a meta file"))?;
        file.set_len(self.file_bytes()).map_err(io("cannot size a meta file"))?;
        let raw = [&self.header()[..], &self.absent_words()].concat();
        file.write_all_at(&raw, 0).map_err(io("cannot write a meta file"))?;
        Ok(file)
    }

    fn capacity(&self) -> u32 {
        if self.bounded { RELATION_SEGMENT_BLOCKS } else { self.remote_nblocks }
    }

    /// How long the file is.
    pub fn file_bytes(&self) -> u64 {
        bytes_for(self.capacity(), self.bounded) as u64
    }

    /// The state words of the blocks that storage has.
    fn absent_words(&self) -> Vec<u8> {
        let mut words = vec![ALL_ABSENT; words_for(self.remote_nblocks)];
        let rest = self.remote_nblocks % BLOCKS_PER_WORD;
        if let (Some(last), 1..) = (words.last_mut(), rest) {
            *last &= (1 << (rest * 2)) - 1;
        }
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    /// How the file begins: all of it that is not zeroes, if storage has no block.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        let longs = [META_MAGIC, BUILD_ID, self.inode, self.request_lsn.0, 0];
        let shorts = [self.capacity(), self.remote_nblocks].into_iter().chain(self.file.to_words());
        let tail = [0, 0, 0, 0, u32::from(self.bounded), 0];
        let written = HEADER_BYTES + words_for(self.remote_nblocks) * size_of::<u32>();
        let rest = [0; MARKS].into_iter().chain(room::of_written(written));
        let bytes = longs.into_iter().flat_map(u64::to_ne_bytes).chain(shorts.chain(tail).flat_map(u32::to_ne_bytes));
        let bytes = bytes.chain(rest.flat_map(u64::to_ne_bytes));
        for (slot, byte) in raw.iter_mut().zip(bytes) {
            *slot = byte;
        }
        raw
    }
}

fn check_capacity(blocks: u32) -> Result<(), CacheError> {
    let fits = (1..=RELATION_SEGMENT_BLOCKS).contains(&blocks);
    fits.then_some(()).ok_or(CacheError::Invalid { field: "blocks of a meta file", value: blocks.into() })
}

/// Makes sure that a mapping is a whole meta file of this build.
pub(super) fn check(mapping: &Mapping) -> Result<(), CacheError> {
    if mapping.bytes() < HEADER_BYTES {
        return Err(CacheError::Invalid { field: "length of a meta file", value: mapping.bytes() as u64 });
    }
    // SAFETY: page-aligned, long enough (just checked), atomics only.
    let header: &Header = unsafe { mapping.start().cast().as_ref() };
    if header.magic.load(Ordering::Relaxed) != META_MAGIC {
        return Err(CacheError::WrongMagic("a meta file"));
    }
    let found = header.build_id.load(Ordering::Relaxed);
    if found != BUILD_ID {
        return Err(CacheError::WrongBuild { found, expected: BUILD_ID });
    }
    let capacity = header.capacity.load(Ordering::Relaxed);
    check_capacity(capacity)?;
    if mapping.bytes() != bytes_for(capacity, header.bounded.load(Ordering::Relaxed) != 0) {
        return Err(CacheError::Invalid { field: "length of a meta file", value: mapping.bytes() as u64 });
    }
    header.file_id().map(drop)
}
