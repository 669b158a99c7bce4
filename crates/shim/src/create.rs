//! Making a relation file of a bounded cache, with the meta file by which its pages can leave the cache later.
//!
//! A process that has a file open without its meta would take the hole of a dropped page for the page. So the meta file is there
//! before the file has its name: the file is made aside, in the tree of meta files, its meta file is written, and then it
//! is linked to its place. The name aside is also the lock among those who make the same file. Where linking cannot be
//! (another file system, a tablespace), the file is made as always and is wholly local.

use crate::errno::Errno;
use crate::names::Target;
use crate::real;
use crate::shim::Shim;
use libc::{c_char, c_int};
use quire_cache::layout::ASIDE_SUFFIX;
use quire_cache::{FileId, MetaSpec};

/// How long to wait for another process that makes the same file, in naps.
const NAP_US: i64 = 500;
const NAPS_MAX: u32 = 20_000;

/// Makes the file at `path`, empty and with its meta file; false if it exists, or is to be wholly local.
pub fn with_meta(shim: &Shim, target: &Target, path: *const c_char) -> Result<bool, Errno> {
    let Some(file) = target.relation_file() else { return Ok(false) };
    let paths = (shim.meta_path(target.relative()), shim.path_beside(target.relative(), ASIDE_SUFFIX.as_bytes()));
    let (Some(meta), Some(aside)) = paths else { return Ok(false) };
    for _ in 0..NAPS_MAX {
        if exists(path) {
            return Ok(false);
        }
        match open_new(aside.as_ptr()) {
            Ok(fd) => {
                let made = make(shim, file, fd, path, meta.as_ptr(), aside.as_ptr());
                // SAFETY: a C string; the descriptor is ours and closed once.
                unsafe {
                    real::unlink(aside.as_ptr());
                    real::close(fd);
                }
                return made;
            }
            Err(Errno(libc::EEXIST)) => real::nap(NAP_US),
            Err(Errno(libc::ENOENT)) => make_folders(shim, target)?,
            Err(error) => return Err(error),
        }
    }
    Err(Errno(libc::EIO))
}

fn make(
    shim: &Shim,
    file: FileId,
    fd: c_int,
    path: *const c_char,
    meta: *const c_char,
    aside: *const c_char,
) -> Result<bool, Errno> {
    // The one who held the lock before may have made it.
    if exists(path) {
        return Ok(false);
    }
    let inode = real::status_of(fd)?.st_ino;
    write_meta(
        &MetaSpec { file, inode, remote_nblocks: 0, bounded: true, request_lsn: shim.control().start_lsn() },
        meta,
    )?;
    // SAFETY: C strings.
    if unsafe { real::link(aside, path) } == 0 {
        return Ok(true);
    }
    let error = Errno::last();
    // SAFETY: a C string.
    unsafe { real::unlink(meta) };
    match error {
        Errno(libc::EXDEV | libc::EPERM | libc::ENOENT | libc::EEXIST) => Ok(false),
        error => Err(error),
    }
}

/// Writes a meta file; one that is there belonged to a file that is gone.
fn write_meta(spec: &MetaSpec, path: *const c_char) -> Result<(), Errno> {
    // SAFETY: a C string.
    unsafe { real::unlink(path) };
    let fd = open_new(path)?;
    let header = spec.header();
    let length = libc::off_t::try_from(spec.file_bytes()).unwrap_or(0);
    // SAFETY: our own descriptor, closed once; the header's bytes are valid for reading.
    let (sized, written) = unsafe {
        let sized = real::ftruncate(fd, length);
        let written = real::pwrite(fd, header.as_ptr().cast(), header.len(), 0);
        real::close(fd);
        (sized, written)
    };
    let whole = sized == 0 && usize::try_from(written) == Ok(header.len());
    whole.then_some(()).ok_or(Errno(libc::ENOSPC))
}

fn open_new(path: *const c_char) -> Result<c_int, Errno> {
    // SAFETY: a C string.
    let fd = unsafe { real::open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC, 0o600) };
    if fd < 0 { Err(Errno::last()) } else { Ok(fd) }
}

fn exists(path: *const c_char) -> bool {
    // SAFETY: a C string.
    unsafe { real::access(path, libc::F_OK) == 0 }
}

/// Makes the folders of meta files of a database that was created since the start.
fn make_folders(shim: &Shim, target: &Target) -> Result<(), Errno> {
    let relative = target.relative();
    for (at, _) in relative.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let folder = relative.get(..at).and_then(|part| shim.meta_path(part)).ok_or(Errno(libc::ENAMETOOLONG))?;
        // SAFETY: a C string.
        let made = unsafe { libc::mkdir(folder.as_ptr(), 0o700) };
        if made != 0 && Errno::last() != Errno(libc::EEXIST) {
            return Err(Errno::last());
        }
    }
    Ok(())
}
