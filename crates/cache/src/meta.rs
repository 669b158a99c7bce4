//! The meta file: which blocks of one relation or SLRU segment file are in the local cache.
//!
//! ```text
//! offset 0    header, 192 bytes: magic, build, which file, its inode, capacity, remote_nblocks, request_lsn, drops,
//!             cuts, whether a page has something that WAL does not describe, marks of read-ahead, which parts have
//!             room on disk
//! offset 192  one little-endian u32 for every 16 blocks: two bits each, the lowest for the first block
//! then, in a bounded cache only
//!             a u32 for each block: the epoch of its last write (0: never written by this compute); the highest bit
//!             says that the page holds something that WAL does not describe and storage does not have yet
//!             a byte for each block: how often it was touched lately, up to [`TOUCHES_MAX`]
//! ```
//!
//! The agent writes one when it materialises a file that storage has blocks of; in a bounded cache the shim writes one
//! for each relation file that PostgreSQL creates. A file without one is wholly local.
//! The inode ties it to that file: one of the same name that was made later is another file, and wholly local.

mod format;
mod room;

pub use format::{MARKS, MetaSpec};

use crate::error::{CacheError, io};
use crate::file_id::FileId;
use crate::mapping::Mapping;
use crate::protocol::{BlockState, Blocks};
use format::{ALL_ABSENT, BLOCKS_PER_WORD, Header, bytes_for, check, epoch_at, state_at, touches_at};
use quire_types::Lsn;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

/// Touches are not counted beyond this.
pub const TOUCHES_MAX: u8 = 3;

/// In the word of a block's epoch: the page as it was written is not described by WAL.
const UNDESCRIBED: u32 = 1 << 31;

/// In the header: a block was marked; every page that is written is to be marked.
const MARKED: u32 = 1;
const GUARDED: u32 = 2;

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

    /// Makes room on the disk for all that is noted of `blocks`. Without it the notes on a write may be lost, so that
    /// a process that writes blocks calls this before; an error means that the disk is full.
    pub fn make_room(&self, blocks: Range<u32>) -> Result<(), CacheError> {
        let blocks = blocks.start..blocks.end.min(self.capacity());
        let Some(last) = blocks.end.checked_sub(1).filter(|last| *last >= blocks.start) else { return Ok(()) };
        let make = |at: fn(u32, u32) -> usize, bytes: usize| {
            let range = at(self.capacity(), blocks.start)..at(self.capacity(), last) + bytes;
            room::make(&self.header().room, &self.0, range)
        };
        make(state_at, size_of::<u32>())?;
        if self.is_bounded() {
            make(epoch_at, size_of::<u32>())?;
            make(touches_at, size_of::<u8>())?;
        }
        Ok(())
    }

    /// Notes that blocks were written in `epoch`; called while they are owned, after the bytes are in the file. A block
    /// that [was marked](Meta::mark_undescribed) stays so.
    pub fn note_written(&self, blocks: Range<u32>, epoch: u32) {
        for block in blocks.start..blocks.end.min(self.capacity()) {
            if let Some(word) = self.epoch_word(block) {
                word.store(word.load(Ordering::SeqCst) & UNDESCRIBED | epoch & !UNDESCRIBED, Ordering::SeqCst);
            }
            self.touch(block);
        }
    }

    /// The epoch of a block's last write, 0 if this compute never wrote it; a block of which that is not noted was just
    /// written.
    pub fn written_epoch(&self, block: u32) -> u32 {
        if block >= self.capacity() || !self.is_bounded() {
            return u32::MAX;
        }
        self.epoch_word(block).map_or(0, |word| word.load(Ordering::SeqCst) & !UNDESCRIBED)
    }

    /// Marks a page that holds something that WAL does not describe; called while the block is owned. Storage has to be
    /// given the page as it is. Nothing is marked in an unbounded cache.
    pub fn mark_undescribed(&self, block: u32) -> Result<(), CacheError> {
        self.make_room(block..block.saturating_add(1))?;
        if let Some(word) = self.epoch_word(block) {
            word.fetch_or(UNDESCRIBED, Ordering::SeqCst);
            self.header().undescribed.fetch_or(MARKED, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Says that every page that is written from now on is to be marked (for the agent); false if that was said before.
    pub fn guard(&self) -> bool {
        self.header().undescribed.fetch_or(GUARDED, Ordering::SeqCst) & GUARDED == 0
    }

    /// Whether every page that is written is to be marked.
    #[inline]
    pub fn is_guarded(&self) -> bool {
        self.header().undescribed.load(Ordering::SeqCst) & GUARDED != 0
    }

    /// Takes the mark of a block off, and says whether there was one; called while the block is owned.
    pub fn unmark_undescribed(&self, block: u32) -> bool {
        self.epoch_word(block).is_some_and(|word| word.fetch_and(!UNDESCRIBED, Ordering::SeqCst) & UNDESCRIBED != 0)
    }

    /// Whether a block is marked.
    pub fn is_undescribed(&self, block: u32) -> bool {
        self.epoch_word(block).is_some_and(|word| word.load(Ordering::SeqCst) & UNDESCRIBED != 0)
    }

    /// Whether a block was marked since [`Meta::take_undescribed`].
    #[inline]
    pub fn has_undescribed(&self) -> bool {
        self.header().undescribed.load(Ordering::SeqCst) & MARKED != 0
    }

    /// The same, and forgets it: the caller looks for the marks after this, so that a block that is marked meanwhile
    /// is either seen or remembered.
    pub fn take_undescribed(&self) -> bool {
        self.header().undescribed.fetch_and(!MARKED, Ordering::SeqCst) & MARKED != 0
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
        let touches = self.touches_byte(block).or_else(|| self.touches_byte(self.with_room(block)?));
        if let Some(touches) = touches {
            let now = touches.load(Ordering::Relaxed);
            if now < TOUCHES_MAX {
                touches.store(now + 1, Ordering::Relaxed);
            }
        }
    }

    /// How often a block was touched of late; 0 where that is not counted.
    pub fn touches(&self, block: u32) -> u8 {
        self.touches_byte(block).map_or(0, |touches| touches.load(Ordering::Relaxed))
    }

    /// Says how often a block was touched, where that is counted.
    pub fn set_touches(&self, block: u32, count: u8) {
        if let Some(touches) = self.touches_byte(block) {
            touches.store(count, Ordering::Relaxed);
        }
    }

    /// None where touches are not counted, or were not since there was room for it.
    #[inline]
    fn touches_byte(&self, block: u32) -> Option<&AtomicU8> {
        let offset = self.offset_with_room(block, touches_at).filter(|_| self.is_bounded())?;
        // SAFETY: `check` made sure that the mapping of a bounded file holds a byte for each block below the capacity.
        Some(unsafe { self.0.start().add(offset).cast::<AtomicU8>().as_ref() })
    }

    /// Where something is noted of a block; none if nothing was noted there yet, or the block has no notes.
    #[inline]
    fn offset_with_room(&self, block: u32, at: impl Fn(u32, u32) -> usize) -> Option<usize> {
        let capacity = self.capacity();
        if block >= capacity {
            return None;
        }
        let offset = at(capacity, block);
        room::has(&self.header().room, offset).then_some(offset)
    }

    /// The block, now that there is room for all that is noted of it; none if there cannot be.
    #[cold]
    fn with_room(&self, block: u32) -> Option<u32> {
        self.make_room(block..block.saturating_add(1)).ok().map(|()| block)
    }

    /// Asks to be told when a reader comes to one of `blocks` (for the agent); replaces what the mark said before. An
    /// empty range asks for nothing.
    pub fn set_mark(&self, mark: usize, blocks: Range<u32>) {
        if let Some(word) = self.header().marks.get(mark) {
            word.store(u64::from(blocks.end) << 32 | u64::from(blocks.start), Ordering::Relaxed);
        }
    }

    /// Takes the mark that a read of `blocks` has come to, and says at which block (for the shim). A mark is taken by
    /// one reader only. A lost one costs speed and nothing else, so that no order with the states is needed.
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

    /// None where epochs are not noted, or none was yet.
    fn epoch_word(&self, block: u32) -> Option<&AtomicU32> {
        let offset = self.offset_with_room(block, epoch_at).filter(|_| self.is_bounded())?;
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

    /// The word a block's state is in, and how far to shift it; none for a block past the capacity, and where all are
    /// present because none was ever anything else.
    #[inline]
    fn word(&self, block: u32) -> Option<(&AtomicU32, u32)> {
        let offset = self.offset_with_room(block, state_at)?;
        // SAFETY: `check` made sure that the mapping holds the words of all blocks below the capacity; the offset is a
        // multiple of 4.
        let word = unsafe { self.0.start().add(offset).cast::<AtomicU32>().as_ref() };
        Some((word, block % BLOCKS_PER_WORD * 2))
    }
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
        let word = self.word(block).or_else(|| self.word(self.with_room(block)?));
        let Some((word, shift)) = word else { return false };
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
mod tests;
