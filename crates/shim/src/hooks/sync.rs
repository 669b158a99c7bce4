//! Making things durable: WAL by the quorum, what is flushed but not logged (files, and pages that WAL does not
//! describe) by storage, everything else in the data directory not at all.

use crate::errno::{self, Errno};
use crate::fds::{self, Descriptor};
use crate::hooks::data;
use crate::shim;
use crate::shim::Shim;
use crate::{agent, real, tracked, wal};
use libc::{c_int, c_uint, off_t};
use quire_cache::{Answer, FileArea, Meta, Request};

/// What a request to make `fd` durable comes to; `real` does it for a file that is not the compute's.
fn durable(fd: c_int, real: impl FnOnce() -> c_int) -> c_int {
    match (fds::get(fd), shim::current()) {
        (Descriptor::Foreign, _) | (_, None) => real(),
        (Descriptor::Wal { .. }, Some(shim)) => wal::flush(shim),
        (Descriptor::OtherTimeline, Some(shim)) => wal::refuse_timeline(shim),
        (Descriptor::Kept { area }, Some(shim)) => keep(shim, area),
        (Descriptor::Tracked(_), Some(_)) => data::if_tracked(fd, keep_pages, || 0),
        (Descriptor::Local, Some(_)) => 0,
    }
}

/// Returns once storage has those pages of the file that WAL does not describe, as they were written until now. Most
/// files have none, and cost nothing.
fn keep_pages(shim: &Shim, meta: &Meta) -> c_int {
    if !meta.has_undescribed() && !shim.control().has_partial_pages() {
        return 0;
    }
    ask_to_keep(shim, &Request::KeepPages { file: meta.file() })
}

/// Returns once storage has the files of `area` as they are now. That is more than was asked for, and needs no word on
/// renamed and removed files: PostgreSQL flushes their directories.
fn keep(shim: &Shim, area: FileArea) -> c_int {
    ask_to_keep(shim, &Request::KeepFiles { area })
}

fn ask_to_keep(shim: &Shim, request: &Request) -> c_int {
    match errno::preserved(|| agent::call(shim, request)) {
        Ok(Answer::Ok) => 0,
        // The file is gone, or wholly local.
        Ok(Answer::NotFound) if matches!(request, Request::KeepPages { .. }) => 0,
        Ok(answer) => {
            shim::say(format_args!("not kept: {request:?}: {answer:?}"));
            Errno(libc::EIO).fail()
        }
        Err(error) => error.fail(),
    }
}

/// A hint to start writing back, which a cache does not need.
fn written_back(fd: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if fds::get(fd) == Descriptor::Foreign { real() } else { 0 }
}

/// `POSIX_FADV_WILLNEED` on missing blocks is a prefetch. A length of 0 means up to the end.
fn advise(fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int {
    let bytes_wanted = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX / 2);
    let fetching = advice == libc::POSIX_FADV_WILLNEED
        && data::if_tracked(fd, |shim, meta| tracked::prefetch(shim, meta, offset, bytes_wanted), || false);
    // SAFETY: advice changes nothing.
    if fetching { 0 } else { unsafe { real::posix_fadvise(fd, offset, bytes, advice) } }
}

intercept! {
    fn fsync(fd: c_int) -> c_int {
        // SAFETY: the caller keeps the C function's promises, here and in all functions below.
        durable(fd, || unsafe { real::fsync(fd) })
    }

    fn fdatasync(fd: c_int) -> c_int {
        // SAFETY: see `fsync`.
        durable(fd, || unsafe { real::fdatasync(fd) })
    }

    fn sync_file_range(fd: c_int, offset: off_t, bytes: off_t, flags: c_uint) -> c_int {
        // SAFETY: see `fsync`.
        written_back(fd, || unsafe { real::sync_file_range(fd, offset, bytes, flags) })
    }

    fn syncfs(fd: c_int) -> c_int {
        // SAFETY: see `fsync`.
        written_back(fd, || unsafe { real::syncfs(fd) })
    }

    fn posix_fadvise(fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int {
        advise(fd, offset, bytes, advice)
    }

    fn posix_fadvise64(fd: c_int, offset: off_t, bytes: off_t, advice: c_int) -> c_int {
        advise(fd, offset, bytes, advice)
    }
}
