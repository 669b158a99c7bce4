//! Opening files and directories: this is where a descriptor becomes what it is to the shim.

use crate::errno::{self, Errno};
use crate::fds::{self, Descriptor};
use crate::hooks::paths;
use crate::names::{self, FileKind, Target};
use crate::shim::{self, Shim};
use crate::{create, process, real, tracked, wal, withheld};
use libc::{DIR, c_char, c_int, mode_t};
use quire_cache::Meta;

/// Opens by `real`, which is given the flags to use, and notes what the new descriptor is.
pub(crate) fn open_as(
    target: Option<Target>,
    path: *const c_char,
    flags: c_int,
    real: impl Fn(c_int) -> c_int,
) -> c_int {
    let (Some(shim), Some(target)) = (shim::current(), target) else {
        return noted(real(flags), Descriptor::Foreign);
    };
    process::bind_to_parent();
    if let Err(error) = paths::prepare(shim, &target) {
        return error.fail();
    }
    match target.kind {
        FileKind::Pages => open_pages(shim, &target, path, flags, real),
        FileKind::Wal { timeline, segment_number } => open_wal(shim, timeline, segment_number, flags, real),
        FileKind::Kept(area) => noted(real(flags), Descriptor::Kept { area }),
        FileKind::Other => noted(real(flags), Descriptor::Local),
    }
}

/// Notes what a descriptor is that was just opened; one that cannot be looked after is not opened.
fn noted(fd: c_int, descriptor: Descriptor) -> c_int {
    if fd < 0 {
        return fd;
    }
    if descriptor == Descriptor::Foreign {
        fds::forget(fd);
    } else if !fds::set(fd, descriptor) {
        // SAFETY: opened just now for a caller who will not get it.
        unsafe { real::close(fd) };
        return Errno(libc::EMFILE).fail();
    }
    fd
}

/// A file made here that then cannot be opened is removed again: PostgreSQL closes files when there are no more
/// descriptors, and tries once more to make it, which must not find it there.
fn open_pages(shim: &Shim, target: &Target, path: *const c_char, flags: c_int, real: impl Fn(c_int) -> c_int) -> c_int {
    let is_new = flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0;
    match make_and_open(shim, target, path, flags, real) {
        Ok(fd) => fd,
        Err((is_made, error)) => {
            if is_new && is_made {
                remove(shim, target, path);
            }
            error.fail()
        }
    }
}

/// Opens a file of pages; if that fails, says also whether the file was made.
///
/// `O_TRUNC` is taken out and done afterwards: truncation takes part in the cache's protocols.
///
/// In a bounded cache a file that is to be made is made with its meta file first, under its name at once, so that
/// the one cannot be opened without the other. Files that exist already are opened as always.
fn make_and_open(
    shim: &Shim,
    target: &Target,
    path: *const c_char,
    mut flags: c_int,
    real: impl Fn(c_int) -> c_int,
) -> Result<c_int, (bool, Errno)> {
    let mut is_made = false;
    if flags & libc::O_CREAT != 0 && shim.control().is_bounded() {
        is_made = errno::preserved(|| create::with_meta(shim, target, path)).map_err(|error| (false, error))?;
        if is_made {
            flags &= !(libc::O_CREAT | libc::O_EXCL);
        }
    }
    let fd = real(flags & !libc::O_TRUNC);
    if fd < 0 {
        return Err((is_made, Errno::last()));
    }
    let given_up = |error| {
        close(fd);
        (true, error)
    };
    let meta = errno::preserved(|| tracked::open_meta(shim, target.relative(), fd)).map_err(given_up)?;
    if flags & libc::O_TRUNC != 0 {
        emptied(shim, meta.as_ref(), fd).map_err(given_up)?;
    }
    let descriptor = meta.map_or(Descriptor::Local, |meta| Descriptor::Tracked(meta.into_raw()));
    match noted(fd, descriptor) {
        fd if fd < 0 => Err((true, Errno::last())),
        fd => Ok(fd),
    }
}

/// Removes a file that was just made, and its meta file after it.
fn remove(shim: &Shim, target: &Target, path: *const c_char) {
    // SAFETY: C strings. There may be no meta file.
    unsafe {
        real::unlink(path);
        if let Some(meta) = shim.meta_path(target.relative()) {
            real::unlink(meta.as_ptr());
        }
    }
}

fn emptied(shim: &Shim, meta: Option<&Meta>, fd: c_int) -> Result<(), Errno> {
    // SAFETY: a descriptor that was opened just now.
    let cut = || unsafe { real::ftruncate(fd, 0) };
    let result = meta.map_or_else(cut, |meta| tracked::truncate(shim, meta, 0, cut));
    if result == 0 { Ok(()) } else { Err(Errno::last()) }
}

fn close(fd: c_int) {
    fds::forget(fd);
    // SAFETY: opened just now for a caller who will not get it.
    unsafe { real::close(fd) };
}

fn open_wal(shim: &Shim, timeline: u32, segment_number: u64, flags: c_int, real: impl Fn(c_int) -> c_int) -> c_int {
    let mut fd = real(flags);
    let missing = fd < 0 && flags & libc::O_CREAT == 0 && Errno::last() == Errno(libc::ENOENT);
    if missing {
        match wal::fetch_segment(shim, timeline, segment_number) {
            Ok(true) => fd = real(flags),
            Ok(false) => {}
            Err(error) => return error.fail(),
        }
    }
    let written = timeline == shim.control().timeline();
    noted(fd, if written { Descriptor::Wal { segment_number } } else { Descriptor::OtherTimeline })
}

/// What a path names, if the library serves a compute.
pub(crate) unsafe fn target_of(path: *const c_char) -> Option<Target> {
    // SAFETY: as the caller of the C function says.
    shim::current().and_then(|shim| unsafe { names::target(shim, path) })
}

/// As [`target_of`], relative to a directory.
unsafe fn target_at(dir: c_int, path: *const c_char) -> Option<Target> {
    // SAFETY: as the caller of the C function says.
    shim::current().and_then(|shim| unsafe { names::target_at(shim, dir, path) })
}

intercept! {
    fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller keeps the C function's promises. It is variadic in C; where there is no third argument,
        // this one is some register's contents, which the kernel ignores.
        unsafe { open_as(target_of(path), path, flags, |flags| real::open(withheld::path_of(path), flags, mode)) }
    }

    fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: as for `open`.
        unsafe { open_as(target_of(path), path, flags, |flags| real::open(withheld::path_of(path), flags, mode)) }
    }

    fn __open_2(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: as for `open`; the mode is not needed, or the program would have passed one.
        unsafe { open_as(target_of(path), path, flags, |flags| real::open(withheld::path_of(path), flags, 0)) }
    }

    fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: as for `__open_2`.
        unsafe { open_as(target_of(path), path, flags, |flags| real::open(withheld::path_of(path), flags, 0)) }
    }

    fn creat(path: *const c_char, mode: mode_t) -> c_int {
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
        // SAFETY: as for `open`.
        unsafe { open_as(target_of(path), path, flags, |flags| real::open(withheld::path_of(path), flags, mode)) }
    }

    fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: as for `open`.
        unsafe { open_as(target_at(dir, path), path, flags, |flags| real::openat(dir, withheld::path_at(dir, path), flags, mode)) }
    }

    fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: as for `open`.
        unsafe { open_as(target_at(dir, path), path, flags, |flags| real::openat(dir, withheld::path_at(dir, path), flags, mode)) }
    }

    fn opendir(path: *const c_char) -> *mut DIR {
        // SAFETY: the caller keeps the C function's promises, here and below.
        if let (Some(shim), Some(target)) = (shim::current(), unsafe { target_of(path) })
            && let Some(Err(error)) = target.database.map(|database| database.materialise_for_listing(shim))
        {
            return error.fail();
        }
        // SAFETY: as above.
        unsafe { real::opendir(path) }
    }
}
