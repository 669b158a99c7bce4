//! Streams (`FILE`) over files of pages.
//!
//! libc reads a stream's file without calling this library again. So a stream over a tracked file is one of a kind for
//! which libc asks functions of ours (`fopencookie`), and these read as `read` does. Such a stream has no descriptor of
//! its own that `fileno` would tell. Writing to a tracked file by a stream is refused, as nothing that PostgreSQL does.

use crate::errno::{self, Errno};
use crate::fds::{self, Descriptor};
use crate::hooks::{data, descriptors, open, paths};
use crate::names::{FileKind, Target};
use crate::shim;
use crate::{real, withheld};
use libc::{FILE, c_char, c_int, c_void, off64_t, size_t, ssize_t};
use std::ffi::CStr;

/// What libc calls for a stream. Source: `cookie_io_functions_t`.
#[repr(C)]
struct Functions {
    read: unsafe extern "C" fn(*mut c_void, *mut c_char, size_t) -> ssize_t,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, size_t) -> ssize_t>,
    seek: unsafe extern "C" fn(*mut c_void, *mut off64_t, c_int) -> c_int,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: Functions) -> *mut FILE;
}

/// The cookie is the descriptor.
fn to_cookie(fd: c_int) -> *mut c_void {
    std::ptr::without_provenance_mut(fd.cast_unsigned() as usize)
}

fn from_cookie(cookie: *mut c_void) -> c_int {
    c_int::try_from(cookie.addr()).unwrap_or(-1)
}

unsafe extern "C" fn read_cookie(cookie: *mut c_void, buffer: *mut c_char, bytes: size_t) -> ssize_t {
    // SAFETY: libc gives a buffer of that many bytes.
    unsafe { data::read(from_cookie(cookie), buffer.cast(), bytes) }
}

unsafe extern "C" fn seek_cookie(cookie: *mut c_void, offset: *mut off64_t, whence: c_int) -> c_int {
    // SAFETY: libc gives a position that may be read and written.
    unsafe {
        let at = real::lseek(from_cookie(cookie), *offset, whence);
        if at < 0 {
            return -1;
        }
        *offset = at;
    }
    0
}

unsafe extern "C" fn close_cookie(cookie: *mut c_void) -> c_int {
    // SAFETY: the stream owned its descriptor.
    unsafe { descriptors::close(from_cookie(cookie)) }
}

/// A stream that reads from `fd` and owns it.
fn over(fd: c_int) -> *mut FILE {
    let functions = Functions { read: read_cookie, write: None, seek: seek_cookie, close: close_cookie };
    // SAFETY: a C string, and functions that live as long as the library, which is never unloaded.
    unsafe { fopencookie(to_cookie(fd), c"r".as_ptr(), functions) }
}

/// What a stream's mode says.
#[derive(Clone, Copy)]
struct Mode {
    /// It can only be read.
    only_reads: bool,
    close_on_exec: bool,
}

impl Mode {
    unsafe fn of(mode: *const c_char) -> Mode {
        // SAFETY: as the caller says: null or a C string.
        let mode = if mode.is_null() { b"" } else { unsafe { CStr::from_ptr(mode) }.to_bytes() };
        let has = |letter| mode.contains(&letter);
        Mode { only_reads: mode.first() == Some(&b'r') && !has(b'+'), close_on_exec: has(b'e') }
    }
}

fn is_tracked(fd: c_int) -> bool {
    matches!(fds::get(fd), Descriptor::Tracked(_))
}

/// Opens the tracked file of a path for reading; none if it is not tracked, or not there.
fn open_tracked(target: Target, path: *const c_char, mode: Mode) -> Result<Option<c_int>, Errno> {
    let flags = libc::O_RDONLY | if mode.close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: a C string; nothing is created, so that no mode is needed.
    let fd = open::open_as(Some(target), path, flags, |flags| unsafe { real::open(path, flags, 0) });
    match fd {
        0.. if is_tracked(fd) => Ok(Some(fd)),
        0.. => {
            close(fd);
            Ok(None)
        }
        _ if Errno::last() == Errno(libc::ENOENT) => Ok(None),
        _ => Err(Errno::last()),
    }
}

/// Closes a descriptor that no other code has.
fn close(fd: c_int) {
    // SAFETY: as the caller says.
    unsafe { descriptors::close(fd) };
}

/// A stream over `fd`, which is tracked and which it owns from then on.
fn stream_over(fd: c_int, mode: Mode) -> Result<*mut FILE, Errno> {
    if !mode.only_reads {
        return Err(Errno(libc::EPERM));
    }
    let stream = over(fd);
    if stream.is_null() { Err(Errno::last()) } else { Ok(stream) }
}

/// A stream over the tracked file of a path; none for any other file.
unsafe fn tracked_stream(path: *const c_char, mode: *const c_char) -> Result<Option<*mut FILE>, Errno> {
    // SAFETY: as the caller of the C function says, here and below.
    let (Some(shim), Some(target)) = (shim::current(), unsafe { open::target_of(path) }) else { return Ok(None) };
    paths::prepare(shim, &target)?;
    if target.kind != FileKind::Pages {
        return Ok(None);
    }
    // SAFETY: as above.
    let mode = unsafe { Mode::of(mode) };
    let Some(fd) = open_tracked(target, path, mode)? else { return Ok(None) };
    let stream = stream_over(fd, mode);
    if stream.is_err() {
        close(fd);
    }
    stream.map(Some)
}

/// Opens a stream by `real`, if it is not over a tracked file.
unsafe fn open_stream(path: *const c_char, mode: *const c_char, real: impl FnOnce() -> *mut FILE) -> *mut FILE {
    // SAFETY: as the caller of the C function says.
    match errno::preserved(|| unsafe { tracked_stream(path, mode) }) {
        Ok(Some(stream)) => stream,
        Ok(None) => real(),
        Err(error) => error.fail(),
    }
}

/// A stream that exists cannot be given other functions: over a tracked file it is refused.
unsafe fn reopen_stream(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
    // SAFETY: as the caller of the C function says, here and below. A path that is null means the same file.
    match errno::preserved(|| unsafe { tracked_stream(path, mode) }) {
        // SAFETY: as above.
        Ok(None) => unsafe { real::freopen(path, mode, stream) },
        Ok(Some(new)) => {
            // SAFETY: made just now, and no other code has it.
            unsafe { libc::fclose(new) };
            Errno(libc::EPERM).fail()
        }
        Err(error) => error.fail(),
    }
}

intercept! {
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
        // SAFETY: the caller keeps the C function's promises, here and in all functions below.
        unsafe { open_stream(path, mode, || real::fopen(withheld::path_of(path), mode)) }
    }

    fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE {
        // SAFETY: see `fopen`.
        unsafe { open_stream(path, mode, || real::fopen(withheld::path_of(path), mode)) }
    }

    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        if !is_tracked(fd) {
            // SAFETY: see `fopen`.
            return unsafe { real::fdopen(fd, mode) };
        }
        // SAFETY: see `fopen`.
        stream_over(fd, unsafe { Mode::of(mode) }).unwrap_or_else(Errno::fail)
    }

    fn freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
        // SAFETY: see `fopen`.
        unsafe { reopen_stream(path, mode, stream) }
    }

    fn freopen64(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
        // SAFETY: see `fopen`.
        unsafe { reopen_stream(path, mode, stream) }
    }
}
