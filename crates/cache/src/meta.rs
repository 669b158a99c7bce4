//! The meta file: which blocks of one relation or SLRU segment file are in the local cache.
//!
//! ```text
//! offset 0    header, 128 bytes: magic, build, which file, its inode, capacity, remote_nblocks, request_lsn, drops, cuts,
//!             marks of read-ahead
//! offset 128  one little-endian u32 for every 16 blocks: two bits each, the lowest for the first block
//! then, in a bounded cache only
//!             a u32 for each block: the epoch of its last write (0: never written by this compute)
//!             a byte for each block: how often it was touched lately, up to [`TOUCHES_MAX`]
//! ```
//!
//! The agent writes one when it materialises a file that storage has blocks of; in a bounded cache the shim writes one
//! for each relation file that PostgreSQL creates. A file without one is wholly local.
//! The inode ties it to that file: one of the same name that was made later is another file, and wholly local.

use crate::BUILD_ID;
use crate::error::{CacheError, io};
use crate::mapping::Mapping;
use crate::protocol::{BlockState, Blocks};
use quire_types::{Fork, Lsn, RELATION_SEGMENT_BLOCKS, RelTag, Slru};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// `QuireMet` as a little-endian number.
const META_MAGIC: u64 = 0x7465_4D65_7269_7551;

/// Bytes before the state words.
const HEADER_BYTES: usize = 128;

/// Blocks whose states share a word.
const BLOCKS_PER_WORD: u32 = 16;

/// Sixteen absent blocks.
const ALL_ABSENT: u32 = 0xAAAA_AAAA;

/// How many marks of read-ahead a file has.
pub const MARKS: usize = 4;

/// Touches are not counted beyond this.
pub const TOUCHES_MAX: u8 = 3;

/// A file of pages: one segment of a relation's fork, or one of an SLRU area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileId {
    /// A relation's segment.
    Relation {
        /// The relation's fork.
        rel: RelTag,
        /// Segment number; its first block is this times [`RELATION_SEGMENT_BLOCKS`].
        segment: u32,
    },
    /// A segment of an SLRU area.
    Slru {
        /// The area.
        slru: Slru,
        /// Segment number; its first page is this times 32.
        segment: u32,
    },
}

/// Words a [`FileId`] is written in.
pub(crate) const FILE_ID_WORDS: usize = 6;

impl FileId {
    /// As six numbers: kind, tablespace, database, relation, fork or area, segment.
    pub(crate) fn to_words(self) -> [u32; FILE_ID_WORDS] {
        match self {
            FileId::Relation { rel, segment } => {
                [1, rel.tablespace, rel.database, rel.relation, rel.fork as u32, segment]
            }
            FileId::Slru { slru, segment } => [2, 0, 0, 0, slru as u32, segment],
        }
    }

    /// Reads back [`FileId::to_words`].
    pub(crate) fn from_words(words: [u32; FILE_ID_WORDS]) -> Result<FileId, CacheError> {
        let [kind, tablespace, database, relation, small, segment] = words;
        let wrong = |field, value: u32| CacheError::Invalid { field, value: value.into() };
        let small_byte = u8::try_from(small).unwrap_or(u8::MAX);
        match kind {
            1 => {
                let fork = Fork::from_number(small_byte).ok_or(wrong("fork", small))?;
                Ok(FileId::Relation { rel: RelTag { tablespace, database, relation, fork }, segment })
            }
            2 => {
                let slru = Slru::from_number(small_byte).ok_or(wrong("SLRU area", small))?;
                Ok(FileId::Slru { slru, segment })
            }
            other => Err(wrong("file kind", other)),
        }
    }
}

/// The start of a meta file.
#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    build_id: AtomicU64,
    inode: AtomicU64,
    request_lsn: AtomicU64,
    drops: AtomicU64,
    capacity: AtomicU32,
    remote_nblocks: AtomicU32,
    file: [AtomicU32; FILE_ID_WORDS],
    cuts_begun: AtomicU64,
    cuts_ended: AtomicU64,
    bounded: AtomicU32,
    marks: [AtomicU64; MARKS],
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

impl Header {
    fn file_id(&self) -> Result<FileId, CacheError> {
        FileId::from_words(self.file.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }
}

fn words_for(blocks: u32) -> usize {
    blocks.div_ceil(BLOCKS_PER_WORD) as usize
}

/// Where the epochs begin.
fn states_end(capacity: u32) -> usize {
    HEADER_BYTES + words_for(capacity) * size_of::<u32>()
}

/// Where the touches begin.
fn epochs_end(capacity: u32) -> usize {
    states_end(capacity) + capacity as usize * size_of::<u32>()
}

fn bytes_for(capacity: u32, bounded: bool) -> usize {
    if bounded { epochs_end(capacity) + capacity as usize } else { states_end(capacity) }
}

/// What a new meta file says; all blocks that storage has are absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaSpec {
    /// Which file it is about.
    pub file: FileId,
    /// Inode of that file.
    pub inode: u64,
    /// How many blocks of it storage has: at most [`RELATION_SEGMENT_BLOCKS`], and in an unbounded cache at least 1 (a file
    /// with none needs no meta there).
    pub remote_nblocks: u32,
    /// Whether blocks may be dropped, also those that the file does not have yet: it has states for a whole segment then.
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
        let tail = [0, 0, 0, 0, u32::from(self.bounded)];
        let bytes = longs.into_iter().flat_map(u64::to_ne_bytes).chain(shorts.chain(tail).flat_map(u32::to_ne_bytes));
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

/// A mapped meta file.
#[derive(Debug)]
pub struct Meta(Mapping);

impl Meta {
    /// Maps the file at `path` (for the agent).
    pub fn open(path: &Path) -> Result<Meta, CacheError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path).map_err(io("cannot open a meta file"))?;
        Meta::from_fd(file.as_raw_fd())
    }

    /// Maps the file behind `fd`, which may be closed afterwards (for the shim).
    pub fn from_fd(fd: RawFd) -> Result<Meta, CacheError> {
        let mapping = Mapping::of_fd(fd)?;
        check(&mapping)?;
        Ok(Meta(mapping))
    }

    /// A second, independent mapping of the same file.
    pub fn duplicate(&self) -> Result<Meta, CacheError> {
        Ok(Meta(self.0.duplicate()?))
    }

    /// Gives up ownership as one page-aligned address, for [`Meta::from_raw`] and [`Meta::borrow_raw`].
    pub fn into_raw(self) -> NonNull<u8> {
        self.0.into_raw().0
    }

    /// Takes back what [`Meta::into_raw`] gave up.
    ///
    /// # Safety
    /// The address came from `into_raw` and is taken back once, with no borrow left.
    #[inline]
    pub unsafe fn from_raw(start: NonNull<u8>) -> Meta {
        // SAFETY: the mapping begins with a header that was checked before it was given up, and its capacity never
        // changes.
        let header: &Header = unsafe { start.cast().as_ref() };
        let bytes = bytes_for(header.capacity.load(Ordering::Relaxed), header.bounded.load(Ordering::Relaxed) != 0);
        // SAFETY: the caller says that the range is its own.
        Meta(unsafe { Mapping::from_raw(start, bytes) })
    }

    /// Uses what [`Meta::into_raw`] gave up, without taking it back.
    ///
    /// # Safety
    /// The address came from `into_raw` and is not taken back while `body` runs.
    #[inline]
    pub unsafe fn borrow_raw<R>(start: NonNull<u8>, body: impl FnOnce(&Meta) -> R) -> R {
        // SAFETY: as the caller says; never dropped, so it is not unmapped here.
        let meta = std::mem::ManuallyDrop::new(unsafe { Meta::from_raw(start) });
        body(&meta)
    }

    /// Which file this is about.
    ///
    /// # Panics
    /// If the shared memory was scribbled over since it was mapped.
    pub fn file(&self) -> FileId {
        self.header().file_id().expect("the file's identity was checked when it was mapped, and is never changed")
    }

    /// Inode of that file.
    pub fn inode(&self) -> u64 {
        self.header().inode.load(Ordering::Relaxed)
    }

    /// The LSN at which absent blocks are to be read.
    pub fn request_lsn(&self) -> Lsn {
        Lsn(self.header().request_lsn.load(Ordering::SeqCst))
    }

    /// Raises it: a dropped page may be newer than the compute's start (for the agent).
    pub fn raise_request_lsn(&self, lsn: Lsn) {
        self.header().request_lsn.fetch_max(lsn.0, Ordering::SeqCst);
    }

    /// Whether blocks of this file may be dropped.
    pub fn is_bounded(&self) -> bool {
        self.header().bounded.load(Ordering::Relaxed) != 0
    }

    /// Notes that blocks were written in `epoch`; called while they are owned, after the bytes are in the file.
    pub fn note_written(&self, blocks: Range<u32>, epoch: u32) {
        for block in blocks.start..blocks.end.min(self.capacity()) {
            if let Some(mark) = self.epoch_word(block) {
                mark.store(epoch, Ordering::SeqCst);
            }
            self.touch(block);
        }
    }

    /// The epoch of a block's last write, 0 if this compute never wrote it; a block without one was just written.
    pub fn written_epoch(&self, block: u32) -> u32 {
        self.epoch_word(block).map_or(u32::MAX, |mark| mark.load(Ordering::SeqCst))
    }

    /// Notes that blocks were read.
    #[inline]
    pub fn note_read(&self, blocks: Range<u32>) {
        if self.is_bounded() {
            (blocks.start..blocks.end.min(self.capacity())).for_each(|block| self.touch(block));
        }
    }

    /// A lost count is as good: this is a hint.
    #[inline]
    fn touch(&self, block: u32) {
        if let Some(touches) = self.touches(block) {
            let now = touches.load(Ordering::Relaxed);
            if now < TOUCHES_MAX {
                touches.store(now + 1, Ordering::Relaxed);
            }
        }
    }

    /// How often a block was touched of late; a block for which that is not counted, always.
    #[inline]
    pub fn touches(&self, block: u32) -> Option<&AtomicU8> {
        if block >= self.capacity() || !self.is_bounded() {
            return None;
        }
        let offset = epochs_end(self.capacity()) + block as usize;
        // SAFETY: `check` made sure that the mapping of a bounded file holds a byte for each block below the capacity.
        Some(unsafe { self.0.start().add(offset).cast::<AtomicU8>().as_ref() })
    }

    /// Asks to be told when a reader comes to one of `blocks` (for the agent); replaces what the mark said before. An empty
    /// range asks for nothing.
    pub fn set_mark(&self, mark: usize, blocks: Range<u32>) {
        if let Some(word) = self.header().marks.get(mark) {
            word.store(u64::from(blocks.end) << 32 | u64::from(blocks.start), Ordering::Relaxed);
        }
    }

    /// Takes the mark that a read of `blocks` has come to, and says at which block (for the shim). A mark is taken by one
    /// reader only. A lost one costs speed and nothing else, so that no order with the states is needed.
    #[inline]
    pub fn take_mark(&self, blocks: &Range<u32>) -> Option<u32> {
        for word in &self.header().marks {
            let seen = word.load(Ordering::Relaxed);
            let (start, end) = ((seen & 0xFFFF_FFFF) as u32, (seen >> 32) as u32);
            let met = start.max(blocks.start);
            if met < end.min(blocks.end) {
                return word.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok().then_some(met);
            }
        }
        None
    }

    fn epoch_word(&self, block: u32) -> Option<&AtomicU32> {
        if block >= self.capacity() || !self.is_bounded() {
            return None;
        }
        let offset = states_end(self.capacity()) + block as usize * size_of::<u32>();
        // SAFETY: as for the touches; the offset is a multiple of 4.
        Some(unsafe { self.0.start().add(offset).cast::<AtomicU32>().as_ref() })
    }

    /// Whether all sixteen blocks from `block` on, a multiple of sixteen, are absent.
    pub fn are_sixteen_absent(&self, block: u32) -> bool {
        self.word(block).is_some_and(|(word, _)| word.load(Ordering::Relaxed) == ALL_ABSENT)
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned, was checked to be long enough, and lives as long as `self`; a header is
        // atomics only.
        unsafe { self.0.start().cast().as_ref() }
    }

    /// The word a block's state is in, and how far to shift it; none for a block past the capacity.
    #[inline]
    fn word(&self, block: u32) -> Option<(&AtomicU32, u32)> {
        if block >= self.capacity() {
            return None;
        }
        let index = (block / BLOCKS_PER_WORD) as usize;
        // SAFETY: `check` made sure that the mapping holds the words of all blocks below the capacity; the offset is a
        // multiple of 4.
        let word = unsafe { self.0.start().add(HEADER_BYTES).cast::<AtomicU32>().add(index).as_ref() };
        Some((word, block % BLOCKS_PER_WORD * 2))
    }
}

/// Makes sure that a mapping is a whole meta file of this build.
fn check(mapping: &Mapping) -> Result<(), CacheError> {
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

impl Blocks for Meta {
    #[inline]
    fn capacity(&self) -> u32 {
        self.header().capacity.load(Ordering::Relaxed)
    }

    #[inline]
    fn remote_nblocks(&self) -> u32 {
        self.header().remote_nblocks.load(Ordering::SeqCst)
    }

    fn lower_remote_nblocks(&self, blocks: u32) -> u32 {
        self.header().remote_nblocks.fetch_min(blocks, Ordering::SeqCst)
    }

    fn raise_remote_nblocks(&self, from: u32, to: u32) -> bool {
        self.header().remote_nblocks.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn begin_cut(&self) {
        self.header().cuts_begun.fetch_add(1, Ordering::SeqCst);
    }

    fn end_cut(&self) {
        self.header().cuts_ended.fetch_add(1, Ordering::SeqCst);
    }

    fn settled_cuts(&self) -> Option<u64> {
        let begun = self.header().cuts_begun.load(Ordering::SeqCst);
        (begun == self.header().cuts_ended.load(Ordering::SeqCst)).then_some(begun)
    }

    #[inline]
    fn state(&self, block: u32) -> BlockState {
        let Some((word, shift)) = self.word(block) else { return BlockState::Present };
        BlockState::from_bits(word.load(Ordering::SeqCst) >> shift)
    }

    fn exchange(&self, block: u32, from: BlockState, to: BlockState) -> bool {
        let Some((word, shift)) = self.word(block) else { return false };
        let change = |now: u32| {
            let same = BlockState::from_bits(now >> shift) == from;
            same.then_some(now & !(3 << shift) | (to as u32) << shift)
        };
        word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }

    #[inline]
    fn drops(&self) -> u64 {
        // A reader of page bytes only loads, so that what must not move across this load is other loads.
        fence(Ordering::Acquire);
        let drops = self.header().drops.load(Ordering::SeqCst);
        fence(Ordering::Acquire);
        drops
    }

    fn count_drop(&self) {
        self.header().drops.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{claim, publish};

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 1259, fork: Fork::VisibilityMap };

    fn spec(remote_nblocks: u32) -> MetaSpec {
        let file = FileId::Relation { rel: REL, segment: 2 };
        MetaSpec { file, inode: 99, remote_nblocks, bounded: false, request_lsn: Lsn(0x100) }
    }

    #[test]
    fn a_new_meta_says_what_it_was_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1259_vm.2");
        spec(33).create(&path).unwrap();
        let meta = Meta::open(&path).unwrap();
        assert_eq!(meta.file(), spec(33).file);
        assert_eq!(
            (meta.inode(), meta.request_lsn(), meta.capacity(), meta.remote_nblocks()),
            (99, Lsn(0x100), 33, 33)
        );
        assert!((0..33).all(|block| meta.state(block) == BlockState::Absent));
        assert_eq!(meta.state(33), BlockState::Present);
    }

    #[test]
    fn a_mark_is_taken_once_by_whoever_reads_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        spec(100).create(&path).unwrap();
        let (agent, shim) = (Meta::open(&path).unwrap(), Meta::open(&path).unwrap());
        assert_eq!(shim.take_mark(&(0..100)), None);
        agent.set_mark(0, 8..16);
        agent.set_mark(3, 40..50);
        assert_eq!((shim.take_mark(&(0..8)), shim.take_mark(&(16..40))), (None, None));
        assert_eq!((shim.take_mark(&(15..17)), shim.take_mark(&(8..16))), (Some(15), None));
        assert_eq!((shim.take_mark(&(30..60)), shim.take_mark(&(30..60))), (Some(40), None));
    }

    #[test]
    fn states_are_apart_and_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        spec(100).create(&path).unwrap();
        let (agent, shim) = (Meta::open(&path).unwrap(), Meta::open(&path).unwrap());
        let shim = shim.duplicate().unwrap();
        for block in [0, 15, 16, 99] {
            assert!(claim(&agent, block));
            assert!(!claim(&shim, block));
            publish(&agent, block);
        }
        let present: Vec<u32> = (0..100).filter(|block| shim.state(*block) == BlockState::Present).collect();
        assert_eq!(present, [0, 15, 16, 99]);
        assert!(!claim(&agent, 100), "a block past the capacity cannot be claimed");
    }

    #[test]
    fn a_raw_address_is_the_same_meta() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        spec(1).create(&path).unwrap();
        let raw = Meta::open(&path).unwrap().into_raw();
        // SAFETY: `raw` comes from `into_raw` and is taken back last.
        assert_eq!(unsafe { Meta::borrow_raw(raw, Meta::file) }, spec(1).file);
        // SAFETY: as above.
        assert_eq!(unsafe { Meta::from_raw(raw) }.inode(), 99);
    }

    #[test]
    fn a_damaged_meta_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let file = spec(100).create(&path).unwrap();
        for (offset, bytes) in [(0, &[0][..]), (8, &[0; 8]), (40, &[0; 4]), (40, &[255; 4]), (48, &[9]), (64, &[4])] {
            let mut before = vec![0; bytes.len()];
            file.read_exact_at(&mut before, offset).unwrap();
            file.write_all_at(bytes, offset).unwrap();
            assert!(Meta::open(&path).is_err(), "{bytes:?} at {offset}");
            file.write_all_at(&before, offset).unwrap();
            assert!(Meta::open(&path).is_ok());
        }
        file.set_len(130).unwrap();
        assert!(Meta::open(&path).is_err());
    }

    #[test]
    fn a_bounded_meta_has_room_for_a_segment_and_notes_what_happens_to_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        MetaSpec { bounded: true, ..spec(18) }.create(&path).unwrap();
        let meta = Meta::open(&path).unwrap();
        assert_eq!((meta.capacity(), meta.remote_nblocks()), (RELATION_SEGMENT_BLOCKS, 18));
        assert!((0..18).all(|block| meta.state(block) == BlockState::Absent) && meta.are_sixteen_absent(0));
        let last = RELATION_SEGMENT_BLOCKS - 1;
        assert!([18, 31, last].map(|block| meta.state(block)).iter().all(|state| *state == BlockState::Present));
        meta.note_written(last..last + 9, 7);
        assert_eq!((meta.written_epoch(last), meta.written_epoch(last - 1)), (7, 0));
        meta.note_read(3..4);
        (0..9).for_each(|_| meta.note_read(5..6));
        let touches = |block| meta.touches(block).unwrap().load(Ordering::Relaxed);
        assert_eq!([3, 4, 5, last].map(touches), [1, 0, TOUCHES_MAX, 1]);
        let empty = MetaSpec { bounded: true, ..spec(0) };
        empty.create(&dir.path().join("e")).unwrap();
        assert_eq!(Meta::open(&dir.path().join("e")).unwrap().remote_nblocks(), 0);
    }

    #[test]
    fn no_meta_is_made_of_nothing_or_of_more_than_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        assert!(spec(0).create(&dir.path().join("a")).is_err());
        assert!(spec(RELATION_SEGMENT_BLOCKS + 1).create(&dir.path().join("b")).is_err());
    }
}
