//! A shared mapping of a whole file.

use crate::error::CacheError;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

/// Bytes of a file that several processes see change; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is an address range; readers and writers use atomics, in whichever thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of the file behind `fd`, which may be closed afterwards.
    pub fn of_fd(fd: RawFd) -> Result<Mapping, CacheError> {
        // SAFETY: an all-zero `stat` is a valid value for the kernel to overwrite.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `status` is valid for writing.
        if unsafe { libc::fstat(fd, &raw mut status) } != 0 {
            return Err(CacheError::last_os("cannot stat a shared file"));
        }
        let wrong = CacheError::Invalid { field: "length of a shared file", value: status.st_size.cast_unsigned() };
        let bytes = usize::try_from(status.st_size).ok().filter(|bytes| *bytes > 0).ok_or(wrong)?;
        Mapping::map(fd, bytes)
    }

    fn map(fd: RawFd, bytes: usize) -> Result<Mapping, CacheError> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(CacheError::last_os("cannot map a shared file"));
        }
        let start = NonNull::new(start.cast()).ok_or(CacheError::Invalid { field: "mapped address", value: 0 })?;
        Ok(Mapping { start, bytes })
    }

    /// A second, independent mapping of the same file, without its descriptor.
    pub fn duplicate(&self) -> Result<Mapping, CacheError> {
        // SAFETY: an old size of 0 makes the kernel map the same shared pages once more, elsewhere.
        let start = unsafe { libc::mremap(self.start.as_ptr().cast(), 0, self.bytes, libc::MREMAP_MAYMOVE) };
        if start == libc::MAP_FAILED {
            return Err(CacheError::last_os("cannot map a shared file again"));
        }
        let start = NonNull::new(start.cast()).ok_or(CacheError::Invalid { field: "mapped address", value: 0 })?;
        Ok(Mapping { start, bytes: self.bytes })
    }

    /// The first byte; page-aligned.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives up ownership, to be taken back by [`Mapping::from_raw`].
    pub fn into_raw(self) -> (NonNull<u8>, usize) {
        let raw = (self.start, self.bytes);
        std::mem::forget(self);
        raw
    }

    /// Takes back what [`Mapping::into_raw`] gave up.
    ///
    /// # Safety
    /// The range came from `into_raw`, and nobody else takes it back or uses it after this is dropped.
    pub unsafe fn from_raw(start: NonNull<u8>, bytes: usize) -> Mapping {
        Mapping { start, bytes }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_duplicate_shows_the_same_bytes_and_outlives_the_first() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        let first = Mapping::of_fd(file.as_raw_fd()).unwrap();
        let second = first.duplicate().unwrap();
        drop(file);
        // SAFETY: both ranges are mapped and nobody else reads or writes them.
        unsafe { first.start().as_ptr().write(9) };
        drop(first);
        // SAFETY: as above.
        assert_eq!(unsafe { second.start().as_ptr().read() }, 9);
    }

    #[test]
    fn an_empty_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Mapping::of_fd(file.as_raw_fd()), Err(CacheError::Invalid { .. })));
    }
}
