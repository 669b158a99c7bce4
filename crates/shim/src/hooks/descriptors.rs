//! Closing and duplicating descriptors, and changing the working directory.

use crate::errno::{self, Errno};
use crate::fds::{self, Descriptor};
use crate::hooks::data;
use crate::{clients, real, shim};
use libc::{c_char, c_int};
use quire_cache::Meta;

/// Makes `to` what `from` is; a duplicate of a tracked descriptor has a mapping of its own.
fn duplicated(from: c_int, to: c_int) -> c_int {
    if to < 0 || to == from {
        return to;
    }
    let duplicate = |meta: &Meta| meta.duplicate().map(|meta| Descriptor::Tracked(meta.into_raw()));
    let descriptor = data::if_tracked(from, |_, meta| errno::preserved(|| duplicate(meta)), || Ok(fds::get(from)));
    match descriptor {
        Ok(Descriptor::Foreign) => fds::forget(to),
        Ok(descriptor) if fds::set(to, descriptor) => {}
        _ => {
            fds::forget(to);
            // SAFETY: made just now for a caller who will not get it.
            unsafe { real::close(to) };
            return Errno(libc::EMFILE).fail();
        }
    }
    to
}

fn accepted(fd: c_int) -> c_int {
    clients::accepted(fd);
    fd
}

intercept! {
    fn accept(fd: c_int, address: *mut libc::sockaddr, bytes: *mut libc::socklen_t) -> c_int {
        // SAFETY: see `close`.
        accepted(unsafe { real::accept(fd, address, bytes) })
    }

    fn accept4(fd: c_int, address: *mut libc::sockaddr, bytes: *mut libc::socklen_t, flags: c_int) -> c_int {
        // SAFETY: see `close`.
        accepted(unsafe { real::accept4(fd, address, bytes, flags) })
    }

    fn close(fd: c_int) -> c_int {
        fds::forget(fd);
        // SAFETY: the caller keeps the C function's promises, here and in all functions below.
        unsafe { real::close(fd) }
    }

    fn dup(fd: c_int) -> c_int {
        // SAFETY: see `close`.
        duplicated(fd, unsafe { real::dup(fd) })
    }

    fn dup2(fd: c_int, to: c_int) -> c_int {
        // SAFETY: see `close`.
        duplicated(fd, unsafe { real::dup2(fd, to) })
    }

    fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
        // SAFETY: see `close`.
        duplicated(fd, unsafe { real::dup3(fd, to, flags) })
    }

    fn chdir(path: *const c_char) -> c_int {
        // SAFETY: see `close`.
        let result = unsafe { real::chdir(path) };
        errno::preserved(shim::look_at_working_directory);
        result
    }

    fn fchdir(fd: c_int) -> c_int {
        // SAFETY: see `close`.
        let result = unsafe { real::fchdir(fd) };
        errno::preserved(shim::look_at_working_directory);
        result
    }
}
