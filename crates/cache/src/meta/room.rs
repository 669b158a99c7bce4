//! Room on the disk for a meta file.
//!
//! A meta file is sparse: most of a segment's blocks are never touched. A store through the mapping into a part that
//! has no room yet makes the file system look for some, and on a full disk the process is killed (SIGBUS). So room is
//! made first, part by part, by a call that can fail, and the header notes which parts have it. A part without room is
//! zeroes, and it is not looked at: on some file systems even a load would ask for room.

use crate::error::CacheError;
use crate::mapping::Mapping;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What gets room at once: the smallest page of memory there is.
pub(super) const PART_BYTES: usize = 4096;

/// One bit for each part of the longest meta file.
pub(super) const ROOM_WORDS: usize = 3;

/// The parts that hold `bytes` of the file.
fn parts(bytes: Range<usize>) -> Range<usize> {
    bytes.start / PART_BYTES..bytes.end.div_ceil(PART_BYTES)
}

fn bit(part: usize) -> (usize, u64) {
    (part / u64::BITS as usize, 1 << (part % u64::BITS as usize))
}

/// The header's words of a file whose first `bytes` are written and no others.
pub(super) fn of_written(bytes: usize) -> [u64; ROOM_WORDS] {
    let mut words = [0; ROOM_WORDS];
    for (word, bit) in parts(0..bytes).map(bit) {
        if let Some(word) = words.get_mut(word) {
            *word |= bit;
        }
    }
    words
}

/// Whether the byte at `offset` has room.
#[inline]
pub(super) fn has(words: &[AtomicU64; ROOM_WORDS], offset: usize) -> bool {
    let (word, bit) = bit(offset / PART_BYTES);
    words.get(word).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0)
}

/// Makes room for `bytes` of the file.
pub(super) fn make(words: &[AtomicU64; ROOM_WORDS], mapping: &Mapping, bytes: Range<usize>) -> Result<(), CacheError> {
    for part in parts(bytes).filter(|part| !has(words, part * PART_BYTES)) {
        populate(mapping, part * PART_BYTES)?;
        let (word, bit) = bit(part);
        if let Some(word) = words.get(word) {
            word.fetch_or(bit, Ordering::Release);
        }
    }
    Ok(())
}

/// What a store into the part would do, but that failing is an error.
fn populate(mapping: &Mapping, offset: usize) -> Result<(), CacheError> {
    let full = |source| Err(CacheError::Io { what: "cannot make room for a meta file", source });
    let Some(bytes) = mapping.bytes().checked_sub(offset).filter(|bytes| *bytes > 0) else {
        return Err(CacheError::Invalid { field: "offset in a meta file", value: offset as u64 });
    };
    // SAFETY: the range is in the mapping, whose bytes stay as they are.
    let done = unsafe {
        let start = mapping.start().add(offset);
        libc::madvise(start.as_ptr().cast(), bytes.min(PART_BYTES), libc::MADV_POPULATE_WRITE)
    };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // So the kernel says that a store would have been answered by SIGBUS.
        Some(libc::EFAULT) => full(io::Error::from_raw_os_error(libc::ENOSPC)),
        // A kernel before 5.14, or one with larger pages, cannot tell.
        Some(libc::EINVAL) => Ok(()),
        _ => full(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn parts_that_were_written_have_room() {
        assert_eq!(of_written(1), [1, 0, 0]);
        assert_eq!(of_written(PART_BYTES + 1), [3, 0, 0]);
        assert_eq!(of_written(65 * PART_BYTES), [u64::MAX, 1, 0]);
    }

    #[test]
    fn room_is_made_on_the_disk() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * PART_BYTES as u64 + 1).unwrap();
        let (mapping, words) = (Mapping::of_fd(file.as_raw_fd()).unwrap(), of_written(1).map(AtomicU64::new));
        make(&words, &mapping, PART_BYTES - 1..3 * PART_BYTES).unwrap();
        make(&words, &mapping, 10 * PART_BYTES..10 * PART_BYTES + 1).unwrap();
        let has: Vec<usize> = (0..11).filter(|part| has(&words, part * PART_BYTES)).collect();
        assert_eq!(has, [0, 1, 2, 10]);
        assert!(make(&words, &mapping, 11 * PART_BYTES..12 * PART_BYTES).is_err(), "there is no such part");
    }
}
