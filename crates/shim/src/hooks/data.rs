//! Reading and writing.

use crate::errno::{Errno, Failure};
use crate::fds::{self, Descriptor};
use crate::shim::{self, Shim};
use crate::{real, tracked, undescribed, wal};
use libc::{c_int, c_uint, c_void, iovec, off_t, size_t, ssize_t};
use quire_cache::Meta;
use std::ptr::NonNull;

const PAGE_BYTES: usize = 8192;

/// Runs `body` with the meta file of a tracked descriptor, or `otherwise` for any other.
#[inline]
pub(crate) fn if_tracked<R>(
    fd: c_int,
    body: impl FnOnce(&'static Shim, &Meta) -> R,
    otherwise: impl FnOnce() -> R,
) -> R {
    match (fds::get(fd), shim::current()) {
        // SAFETY: the address is in the table, so it came from `into_raw` and was not taken back; no thread closes a
        // descriptor while it is in use.
        (Descriptor::Tracked(meta), Some(shim)) => unsafe { Meta::borrow_raw(meta, |meta| body(shim, meta)) },
        _ => otherwise(),
    }
}

/// Reads at the file's position by a read at an offset, which can be repeated, and moves the position after.
fn read_here(shim: &Shim, meta: &Meta, fd: c_int, bytes: usize, pread: impl Fn(off_t) -> ssize_t) -> ssize_t {
    // SAFETY: only asks for the position.
    let offset = unsafe { real::lseek(fd, 0, libc::SEEK_CUR) };
    if offset < 0 {
        return ssize_t::FAILED;
    }
    let got = tracked::read(shim, meta, offset, bytes, || pread(offset));
    moved(fd, offset, got)
}

/// Writes at the file's position, as [`read_here`].
fn write_here(
    shim: &Shim,
    meta: &Meta,
    fd: c_int,
    bytes: usize,
    pwrite: impl Fn(off_t) -> ssize_t,
    written: Written,
) -> ssize_t {
    // SAFETY: only asks for the position.
    let offset = unsafe { real::lseek(fd, 0, libc::SEEK_CUR) };
    if offset < 0 {
        return ssize_t::FAILED;
    }
    let got =
        tracked::write(shim, meta, offset, bytes, || pwrite(offset), |block| written.is_undescribed(offset, block));
    moved(fd, offset, got)
}

/// Where to find the bytes that were just written.
#[derive(Clone, Copy)]
enum Written {
    /// In the caller's buffer.
    Buffer(*const c_void),
    /// In the file behind this descriptor: they were scattered over several buffers.
    File(c_int),
}

impl Written {
    /// Whether the page that was written to a block, of bytes that begin at `offset` in the file, is more than WAL
    /// describes.
    fn is_undescribed(self, offset: off_t, block: u32) -> bool {
        let start = u64::from(block) * PAGE_BYTES as u64;
        match self {
            Written::Buffer(buffer) => {
                let skipped = usize::try_from(start.wrapping_sub(offset as u64)).unwrap_or(0);
                // SAFETY: the block is within what was written, so the caller's buffer has all of it; bytes need no
                // alignment.
                let page = unsafe { &*buffer.cast::<u8>().add(skipped).cast::<[u8; PAGE_BYTES]>() };
                undescribed::is_undescribed(block, page)
            }
            Written::File(fd) => {
                let mut page = [0; PAGE_BYTES];
                // SAFETY: the buffer is valid for writing.
                let got = unsafe { real::pread(fd, page.as_mut_ptr().cast(), PAGE_BYTES, start as off_t) };
                // One that cannot be read is given to storage: that is never wrong.
                usize::try_from(got) != Ok(PAGE_BYTES) || undescribed::is_undescribed(block, &page)
            }
        }
    }
}

fn moved(fd: c_int, offset: off_t, transferred: ssize_t) -> ssize_t {
    if transferred > 0 {
        // SAFETY: the position is inside what was just read or written.
        unsafe { real::lseek(fd, offset.saturating_add(transferred as off_t), libc::SEEK_SET) };
    }
    transferred
}

/// Writes by `write` into what is no tracked file; WAL at `offset` (or at the file's position) is noted.
fn write_local(fd: c_int, offset: Option<off_t>, write: impl FnOnce() -> ssize_t) -> ssize_t {
    let (Descriptor::Wal { segment_number }, Some(shim)) = (fds::get(fd), shim::current()) else { return write() };
    // SAFETY: only asks for the position.
    let offset = offset.unwrap_or_else(|| unsafe { real::lseek(fd, 0, libc::SEEK_CUR) });
    let written = write();
    wal::wrote(shim, segment_number, offset, written);
    written
}

/// Bytes in a vector; one that cannot be is left to the kernel to refuse.
unsafe fn vector_bytes(parts: *const iovec, count: c_int) -> usize {
    let Some(parts) = NonNull::new(parts.cast_mut()) else { return 0 };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller of the C function says that there are that many.
    let parts = unsafe { std::slice::from_raw_parts(parts.as_ptr(), count) };
    parts.iter().fold(0, |sum: usize, part| sum.saturating_add(part.iov_len))
}

/// Reads a vector at an offset.
unsafe fn read_vector(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the C function's promises, here and below.
    let real = || unsafe { real::preadv(fd, parts, count, offset) };
    // SAFETY: as above.
    if_tracked(fd, |shim, meta| tracked::read(shim, meta, offset, unsafe { vector_bytes(parts, count) }, real), real)
}

/// Writes a vector at an offset.
unsafe fn write_vector(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the C function's promises, here and below.
    let real = || unsafe { real::pwritev(fd, parts, count, offset) };
    // SAFETY: as above.
    let bytes = || unsafe { vector_bytes(parts, count) };
    let is_undescribed = |block| Written::File(fd).is_undescribed(offset, block);
    let tracked = |shim, meta: &Meta| tracked::write(shim, meta, offset, bytes(), real, is_undescribed);
    if_tracked(fd, tracked, || write_local(fd, Some(offset), real))
}

/// Reads at an offset.
#[inline]
unsafe fn read_at(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the C function's promises.
    let real = || unsafe { real::pread(fd, buffer, bytes, offset) };
    if_tracked(fd, |shim, meta| tracked::read(shim, meta, offset, bytes, real), real)
}

/// Reads at an offset into a buffer of known size; a read past it is left to libc, which ends the program.
unsafe fn read_at_within(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t, room: size_t) -> ssize_t {
    if bytes > room {
        // SAFETY: as the caller of the C function says.
        return unsafe { real::__pread_chk(fd, buffer, bytes, offset, room) };
    }
    // SAFETY: as above.
    unsafe { read_at(fd, buffer, bytes, offset) }
}

/// Writes at an offset.
unsafe fn write_at(fd: c_int, buffer: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the C function's promises.
    let real = || unsafe { real::pwrite(fd, buffer, bytes, offset) };
    let is_undescribed = |block| Written::Buffer(buffer).is_undescribed(offset, block);
    let tracked = |shim, meta: &Meta| tracked::write(shim, meta, offset, bytes, real, is_undescribed);
    if_tracked(fd, tracked, || write_local(fd, Some(offset), real))
}

/// Copies out of a tracked file after fetching; into one it is refused, as nothing that PostgreSQL does.
unsafe fn copy_range(from: (c_int, *mut off_t), to: (c_int, *mut off_t), bytes: size_t, flags: c_uint) -> ssize_t {
    let fetched = if_tracked(
        from.0,
        |shim, meta| {
            // SAFETY: null, or a position that the caller owns.
            let offset = unsafe { from.1.as_ref() }.copied();
            // SAFETY: only asks for the position.
            let offset = offset.unwrap_or_else(|| unsafe { real::lseek(from.0, 0, libc::SEEK_CUR) });
            tracked::fetch(shim, meta, offset, bytes)
        },
        || Ok(()),
    );
    let allowed = if_tracked(to.0, |_, _| Err(Errno(libc::EINVAL)), || Ok(()));
    match fetched.and(allowed) {
        // SAFETY: the caller keeps the C function's promises.
        Ok(()) => unsafe { real::copy_file_range(from.0, from.1, to.0, to.1, bytes, flags) },
        Err(error) => error.fail(),
    }
}

intercept! {
    fn pread(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t {
        // SAFETY: the caller keeps the C function's promises, here and in all functions below.
        unsafe { read_at(fd, buffer, bytes, offset) }
    }

    fn pread64(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { read_at(fd, buffer, bytes, offset) }
    }

    fn __pread_chk(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t, room: size_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { read_at_within(fd, buffer, bytes, offset, room) }
    }

    fn __pread64_chk(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t, room: size_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { read_at_within(fd, buffer, bytes, offset, room) }
    }

    fn preadv(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { read_vector(fd, parts, count, offset) }
    }

    fn preadv64(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { read_vector(fd, parts, count, offset) }
    }

    fn read(fd: c_int, buffer: *mut c_void, bytes: size_t) -> ssize_t {
        // SAFETY: see `pread`.
        let at = |offset| unsafe { real::pread(fd, buffer, bytes, offset) };
        // SAFETY: see `pread`.
        if_tracked(fd, |shim, meta| read_here(shim, meta, fd, bytes, at), || unsafe { real::read(fd, buffer, bytes) })
    }

    fn __read_chk(fd: c_int, buffer: *mut c_void, bytes: size_t, room: size_t) -> ssize_t {
        // SAFETY: see `pread`; a read past the room is left to libc, which ends the program.
        let at = |offset| unsafe { real::pread(fd, buffer, bytes.min(room), offset) };
        // SAFETY: see `pread`.
        let real = || unsafe { real::__read_chk(fd, buffer, bytes, room) };
        if bytes > room { real() } else { if_tracked(fd, |shim, meta| read_here(shim, meta, fd, bytes, at), real) }
    }

    fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: see `pread`.
        let at = |offset| unsafe { real::preadv(fd, parts, count, offset) };
        // SAFETY: see `pread`.
        let bytes = || unsafe { vector_bytes(parts, count) };
        // SAFETY: see `pread`.
        if_tracked(fd, |shim, meta| read_here(shim, meta, fd, bytes(), at), || unsafe { real::readv(fd, parts, count) })
    }

    fn pwrite(fd: c_int, buffer: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { write_at(fd, buffer, bytes, offset) }
    }

    fn pwrite64(fd: c_int, buffer: *const c_void, bytes: size_t, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { write_at(fd, buffer, bytes, offset) }
    }

    fn pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { write_vector(fd, parts, count, offset) }
    }

    fn pwritev64(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { write_vector(fd, parts, count, offset) }
    }

    fn write(fd: c_int, buffer: *const c_void, bytes: size_t) -> ssize_t {
        // SAFETY: see `pread`.
        let at = |offset| unsafe { real::pwrite(fd, buffer, bytes, offset) };
        // SAFETY: see `pread`.
        let local = || write_local(fd, None, || unsafe { real::write(fd, buffer, bytes) });
        if_tracked(fd, |shim, meta| write_here(shim, meta, fd, bytes, at, Written::Buffer(buffer)), local)
    }

    fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: see `pread`.
        let at = |offset| unsafe { real::pwritev(fd, parts, count, offset) };
        // SAFETY: see `pread`.
        let bytes = || unsafe { vector_bytes(parts, count) };
        // SAFETY: see `pread`.
        let local = || write_local(fd, None, || unsafe { real::writev(fd, parts, count) });
        if_tracked(fd, |shim, meta| write_here(shim, meta, fd, bytes(), at, Written::File(fd)), local)
    }

    fn copy_file_range(
        from: c_int,
        from_offset: *mut off_t,
        to: c_int,
        to_offset: *mut off_t,
        bytes: size_t,
        flags: c_uint,
    ) -> ssize_t {
        // SAFETY: see `pread`.
        unsafe { copy_range((from, from_offset), (to, to_offset), bytes, flags) }
    }

    fn ftruncate(fd: c_int, length: off_t) -> c_int {
        // SAFETY: see `pread`.
        let cut = || unsafe { real::ftruncate(fd, length) };
        if_tracked(fd, |shim, meta| tracked::truncate(shim, meta, length, cut), cut)
    }

    fn ftruncate64(fd: c_int, length: off_t) -> c_int {
        // SAFETY: see `pread`.
        let cut = || unsafe { real::ftruncate(fd, length) };
        if_tracked(fd, |shim, meta| tracked::truncate(shim, meta, length, cut), cut)
    }
}
