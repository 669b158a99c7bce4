//! Files of which storage has a part: reading fetches, writing and truncating take part in the cache's protocols.

use crate::errno::{self, Errno};
use crate::shim::{Shim, say};
use crate::{agent, process, real, undescribed};
use libc::{c_int, off_t, ssize_t};
use quire_cache::protocol::{self, BlockState, Blocks, Helper};
use quire_cache::request::FILL_BLOCKS_MAX;
use quire_cache::{Answer, CacheError, Meta, Request};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Bytes in a page.
const PAGE_BYTES: u64 = 8192;

/// How often blocks may be missing right after they were fetched before that is an error.
const FETCHES_MAX: u32 = 10_000;

/// How long to wait for the owner of a block, and how many waits are between two looks at the agent.
const PAUSE_US: i64 = 50;
const PAUSES_PER_CHECK: u32 = 200;

/// How long to wait until pages have left a full disk, in naps: ten seconds.
const ROOM_NAP_US: i64 = 50_000;
const ROOM_NAPS_MAX: u32 = 200;

/// The meta file of the file at `relative` that is open as `fd`; none if all of it is local.
pub fn open_meta(shim: &Shim, relative: &[u8], fd: c_int) -> Result<Option<Meta>, Errno> {
    let Some(path) = shim.meta_path(relative) else { return Ok(None) };
    // SAFETY: a C string.
    let meta_fd = unsafe { real::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC, 0) };
    if meta_fd < 0 {
        return match Errno::last() {
            Errno(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            other => Err(other),
        };
    }
    let meta = Meta::from_fd(meta_fd);
    // SAFETY: opened above, and closed once.
    unsafe { real::close(meta_fd) };
    let meta = meta.map_err(|error| unusable(relative, &error))?;
    let status = real::status_of(fd)?;
    Ok((meta.inode() == status.st_ino).then_some(meta))
}

fn unusable(relative: &[u8], error: &CacheError) -> Errno {
    say(format_args!("meta file of {}: {error}", relative.escape_ascii()));
    Errno(error.errno())
}

/// The blocks that bytes from `offset` on touch; none for what the kernel will refuse.
fn touched(offset: off_t, bytes: usize) -> Range<u32> {
    let Some((start, end)) = extent(offset, bytes) else { return 0..0 };
    block_number(start / PAGE_BYTES)..block_number(end.div_ceil(PAGE_BYTES))
}

/// The blocks that those bytes cover from end to end.
fn covered(offset: off_t, bytes: usize) -> Range<u32> {
    let Some((start, end)) = extent(offset, bytes) else { return 0..0 };
    block_number(start.div_ceil(PAGE_BYTES))..block_number(end / PAGE_BYTES)
}

fn extent(offset: off_t, bytes: usize) -> Option<(u64, u64)> {
    let start = u64::try_from(offset).ok()?;
    Some((start, start.checked_add(u64::try_from(bytes).ok()?)?))
}

/// No file has that many blocks: a higher number means the same.
fn block_number(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}

/// The process's side of the cache's protocols.
struct Process<'a> {
    shim: &'a Shim,
    meta: &'a Meta,
    fetches: Cell<u32>,
    pauses: Cell<u32>,
}

impl<'a> Process<'a> {
    fn new(shim: &'a Shim, meta: &'a Meta) -> Process<'a> {
        Process { shim, meta, fetches: Cell::new(0), pauses: Cell::new(0) }
    }

    fn fill(&self, first_block: u32, count: u32) -> Result<(), Errno> {
        let request = Request::Fill { file: self.meta.file(), first_block, count };
        let begun = real::monotonic_ns();
        let answer = agent::call(self.shim, &request);
        let counters = self.shim.control().counters();
        counters.fills.fetch_add(1, Ordering::Relaxed);
        counters.fill_wait_ns.fetch_add(real::monotonic_ns().saturating_sub(begun), Ordering::Relaxed);
        if answer == Ok(Answer::Ok) {
            return Ok(());
        }
        counters.fill_errors.fetch_add(1, Ordering::Relaxed);
        say(format_args!("cannot fetch {count} blocks from {first_block} of {:?}: {answer:?}", self.meta.file()));
        Err(Errno(libc::EIO))
    }
}

impl Helper for Process<'_> {
    type Error = Errno;

    fn fetch(&self, first_block: u32, count: u32) -> Result<(), Errno> {
        self.fetches.set(self.fetches.get() + 1);
        if self.fetches.get() > FETCHES_MAX {
            return Err(Errno(libc::EIO));
        }
        self.fill(first_block, count.min(FILL_BLOCKS_MAX))
    }

    fn pause(&self) -> Result<(), Errno> {
        real::nap(PAUSE_US);
        self.pauses.set(self.pauses.get().wrapping_add(1));
        if self.pauses.get().is_multiple_of(PAUSES_PER_CHECK) {
            agent::die_without(self.shim);
            if !self.shim.control().state().serves() {
                return Err(Errno(libc::EIO));
            }
        }
        Ok(())
    }
}

/// Reads `bytes` from `offset` on by `pread`, having fetched what is missing.
#[inline]
pub fn read(shim: &Shim, meta: &Meta, offset: off_t, bytes: usize, pread: impl FnMut() -> ssize_t) -> ssize_t {
    shim.control().count_read(process::pid());
    let before = Errno::last();
    let mut pread = pread;
    let blocks = touched(offset, bytes);
    if let Some(block) = meta.take_mark(&blocks) {
        agent::notify(shim, &Request::Reached { file: meta.file(), block });
    }
    let read = protocol::read(meta, blocks.clone(), &Process::new(shim, meta), || {
        before.set();
        pread()
    });
    meta.note_read(blocks);
    read.unwrap_or_else(Errno::fail)
}

/// Writes `bytes` from `offset` on by `pwrite`. `is_undescribed` looks at the page that was written to a block.
pub fn write(
    shim: &Shim,
    meta: &Meta,
    offset: off_t,
    bytes: usize,
    mut pwrite: impl FnMut() -> ssize_t,
    is_undescribed: impl Fn(u32) -> bool,
) -> ssize_t {
    shim.control().count_write(process::pid());
    let before = Errno::last();
    let (touched, covered) = (touched(offset, bytes), covered(offset, bytes));
    if let Err(error) = meta.make_room(touched.clone()) {
        return Errno(error.errno()).fail();
    }
    let (first, marked) = (touched.start, touched.clone());
    let written = protocol::write(meta, touched, &covered, &Process::new(shim, meta), || {
        let result = write_into_hole(shim, meta, &marked, || {
            before.set();
            pwrite()
        });
        // What was just written was in a buffer before this epoch ends.
        meta.note_written(marked, shim.control().epoch());
        let pages = usize::try_from(result).map_or(first..first, |bytes| self::covered(offset, bytes));
        let outcome = mark_undescribed(meta, pages.clone(), is_undescribed);
        (outcome.map_or_else(|error| Errno(error.errno()).fail(), |()| result), pages.end.max(first))
    });
    written.unwrap_or_else(Errno::fail)
}

/// Writes `blocks` by `pwrite`. A page that has left the cache needs room again; if the disk is full, other pages
/// leave.
fn write_into_hole(shim: &Shim, meta: &Meta, blocks: &Range<u32>, mut pwrite: impl FnMut() -> ssize_t) -> ssize_t {
    for _ in 0..ROOM_NAPS_MAX {
        let result = pwrite();
        let lacks_room = result < 0 && Errno::last() == Errno(libc::ENOSPC) && blocks.end <= meta.remote_nblocks();
        if !lacks_room || errno::preserved(|| agent::call(shim, &Request::MakeRoom)) != Ok(Answer::Ok) {
            return result;
        }
        real::nap(ROOM_NAP_US);
    }
    pwrite()
}

/// Marks those of `pages` of which storage has to be given a copy.
fn mark_undescribed(meta: &Meta, pages: Range<u32>, is_undescribed: impl Fn(u32) -> bool) -> Result<(), CacheError> {
    let guarded = meta.is_guarded();
    for block in pages.filter(|block| guarded || is_undescribed(*block)) {
        if undescribed::has_described_pages(meta.file()) {
            meta.mark_undescribed(block)?;
        }
    }
    Ok(())
}

/// Cuts the file to (or extends it to) `length` bytes by `cut`.
pub fn truncate(shim: &Shim, meta: &Meta, length: off_t, cut: impl FnOnce() -> c_int) -> c_int {
    let Ok(bytes) = u64::try_from(length) else { return cut() };
    let helper = Process::new(shim, meta);
    let (whole, kept) = (block_number(bytes / PAGE_BYTES), block_number(bytes.div_ceil(PAGE_BYTES)));
    let before = Errno::last();
    let done = protocol::make_present(meta, whole..kept, &helper).and_then(|()| {
        protocol::truncate(meta, kept, &helper, || {
            before.set();
            cut()
        })
    });
    done.unwrap_or_else(Errno::fail)
}

/// Fetches all of the file that is missing, for readers that cannot be intercepted.
pub fn fetch_all(shim: &Shim, meta: &Meta) -> Result<(), Errno> {
    fetch(shim, meta, 0, usize::MAX / 2)
}

/// Fetches what is missing of a part of the file.
pub fn fetch(shim: &Shim, meta: &Meta, offset: off_t, bytes: usize) -> Result<(), Errno> {
    errno::preserved(|| protocol::make_present(meta, touched(offset, bytes), &Process::new(shim, meta)))
}

/// Has the agent bring in what is missing of a part of the file, without waiting; false if nothing is missing.
pub fn prefetch(shim: &Shim, meta: &Meta, offset: off_t, bytes: usize) -> bool {
    let Range { start, end } = touched(offset, bytes);
    let end = end.min(meta.remote_nblocks()).min(start.saturating_add(FILL_BLOCKS_MAX));
    let absent = |block: &u32| meta.state(*block) == BlockState::Absent;
    let Some(first_block) = (start..end).find(absent) else { return false };
    shim.control().counters().prefetches.fetch_add(1, Ordering::Relaxed);
    let request = Request::Prefetch { file: meta.file(), first_block, count: end - first_block };
    errno::preserved(|| agent::notify(shim, &request));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_touch_more_blocks_than_they_cover() {
        assert_eq!((touched(0, 8192), covered(0, 8192)), (0..1, 0..1));
        assert_eq!((touched(8191, 2), covered(8191, 2)), (0..2, 1..1));
        assert_eq!((touched(100, 32_768), covered(100, 32_768)), (0..5, 1..4));
        assert_eq!((touched(8192, 0), touched(-1, 8192), touched(i64::MAX, usize::MAX)), (1..1, 0..0, 0..0));
        assert_eq!(touched(0, usize::MAX / 2), 0..u32::MAX);
    }
}
