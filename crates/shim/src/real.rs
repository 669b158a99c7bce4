//! libc's own functions, found behind this library.
//!
//! Each is looked up when it is first called: functions are called before this library's constructor has run. The
//! constructor then binds all of them ([`bind_all`]), because `dlsym` takes locks and must not run for the first time
//! in a signal handler.

use crate::errno::Errno;
use libc::{DIR, FILE, c_char, c_int, c_long, c_uint, c_void, iovec, mode_t, off_t, size_t, ssize_t};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The next definition of `name` behind this library's, remembered in `slot`; null if libc has none.
#[inline]
fn find(slot: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = slot.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    // SAFETY: `name` is a C string; the result is only remembered here.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    slot.store(found, Ordering::Relaxed);
    found
}

macro_rules! real {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        mod slots {
            use super::{AtomicPtr, c_void};
            $(
                #[allow(non_upper_case_globals)]
                pub static $name: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            )*
        }

        $(
            #[doc = concat!("libc's `", stringify!($name), "`; `ENOSYS` if this libc has none.")]
            ///
            /// # Safety
            /// As for the C function.
            #[inline]
            pub unsafe fn $name($($arg: $type),*) -> $result {
                const NAME: &CStr = name_of(concat!(stringify!($name), "\0"));
                let found = find(&slots::$name, NAME);
                if found.is_null() {
                    return Errno(libc::ENOSYS).fail();
                }
                // SAFETY: the symbol of this name has this signature, in every libc for Linux.
                let function: unsafe extern "C" fn($($type),*) -> $result = unsafe { std::mem::transmute(found) };
                // SAFETY: the caller keeps the C function's promises.
                unsafe { function($($arg),*) }
            }
        )*

        /// Looks up everything.
        pub fn bind_all() {
            $(find(&slots::$name, name_of(concat!(stringify!($name), "\0")));)*
        }
    };
}

const fn name_of(terminated: &'static str) -> &'static CStr {
    match CStr::from_bytes_until_nul(terminated.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

real! {
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int;
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE;
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE;
    fn freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE;
    fn opendir(path: *const c_char) -> *mut DIR;
    fn close(fd: c_int) -> c_int;
    fn dup(fd: c_int) -> c_int;
    fn dup2(fd: c_int, to: c_int) -> c_int;
    fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int;
    fn read(fd: c_int, buffer: *mut c_void, bytes: size_t) -> ssize_t;
    fn pread(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t) -> ssize_t;
    fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t;
    fn preadv(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t;
    fn write(fd: c_int, buffer: *const c_void, bytes: size_t) -> ssize_t;
    fn pwrite(fd: c_int, buffer: *const c_void, bytes: size_t, offset: off_t) -> ssize_t;
    fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t;
    fn pwritev(fd: c_int, parts: *const iovec, count: c_int, offset: off_t) -> ssize_t;
    fn copy_file_range(a: c_int, at: *mut off_t, b: c_int, to: *mut off_t, bytes: size_t, flags: c_uint) -> ssize_t;
    fn lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t;
    fn ftruncate(fd: c_int, length: off_t) -> c_int;
    fn truncate(path: *const c_char, length: off_t) -> c_int;
    fn posix_fadvise(fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int;
    fn fsync(fd: c_int) -> c_int;
    fn fdatasync(fd: c_int) -> c_int;
    fn sync_file_range(fd: c_int, offset: off_t, bytes: off_t, flags: c_uint) -> c_int;
    fn syncfs(fd: c_int) -> c_int;
    fn stat(path: *const c_char, status: *mut libc::stat) -> c_int;
    fn lstat(path: *const c_char, status: *mut libc::stat) -> c_int;
    fn fstatat(dir: c_int, path: *const c_char, status: *mut libc::stat, flags: c_int) -> c_int;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn unlink(path: *const c_char) -> c_int;
    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int;
    fn rename(from: *const c_char, to: *const c_char) -> c_int;
    fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int;
    fn link(from: *const c_char, to: *const c_char) -> c_int;
    fn accept(fd: c_int, address: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int;
    fn accept4(fd: c_int, address: *mut libc::sockaddr, bytes: *mut libc::socklen_t, flags: c_int) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn fchdir(fd: c_int) -> c_int;
    fn __read_chk(fd: c_int, buffer: *mut c_void, bytes: size_t, room: size_t) -> ssize_t;
    fn __pread_chk(fd: c_int, buffer: *mut c_void, bytes: size_t, offset: off_t, room: size_t) -> ssize_t;
}

/// What `fstat` says; it needs no interception, because the local file has the right size.
pub fn status_of(fd: c_int) -> Result<libc::stat, Errno> {
    // SAFETY: an all-zero `stat` is a valid value for the kernel to overwrite.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is valid for writing.
    if unsafe { libc::fstat(fd, &raw mut status) } != 0 { Err(Errno::last()) } else { Ok(status) }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing, and the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

/// Sleeps, at most as long as said.
pub fn nap(microseconds: c_long) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: microseconds.saturating_mul(1000).clamp(0, 999_999_999) };
    // SAFETY: `time` is valid for reading; the remainder is not asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}
