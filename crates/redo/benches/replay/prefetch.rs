//! Asks the processor for memory ahead of its use.

use quire_types::PAGE_SIZE;
use std::ops::Range;

/// Bytes that the processor fetches together.
const LINE_BYTES: usize = 64;

/// Starts to fetch a part of a page. Where there is no instruction for it, nothing happens.
#[inline]
pub fn prefetch(page: &[u8; PAGE_SIZE], part: Range<usize>) {
    let first = part.start / LINE_BYTES * LINE_BYTES;
    for line in (first..part.end.min(PAGE_SIZE)).step_by(LINE_BYTES) {
        prefetch_line(&page[line]);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch_line(byte: &u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint, which neither reads nor writes anything as far as the program can tell.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch_line(_byte: &u8) {}
