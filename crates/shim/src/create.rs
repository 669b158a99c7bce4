//! Making a relation file of a bounded cache, with the meta file by which its pages can leave the cache later.
//!
//! A process that has a file open without its meta would take the hole of a dropped page for the page. So the meta file
//! is there before the file has its name: the file is made aside, in the tree of meta files, its meta file is written,
//! and then it is linked to its place. The name aside is also the lock among those who make the same file. A file on
//! another file system, in a tablespace, cannot be linked from there: its maker, who has the lock, makes it under a
//! name beside its place and links it from that one.

use crate::errno::Errno;
use crate::names::Target;
use crate::real;
use crate::shim::Shim;
use libc::{c_char, c_int};
use quire_cache::layout::ASIDE_SUFFIX;
use quire_cache::{FileId, MetaSpec};
use std::ffi::{CStr, CString};

/// What is added to the name of a file that is made beside its place.
const BESIDE_SUFFIX: &[u8] = b".quire-new";

/// How long to wait for another process that makes the same file, in naps.
const NAP_US: i64 = 500;
const NAPS_MAX: u32 = 20_000;

/// Makes the file at `path`, empty and with its meta file; false if it exists, is no relation's, or its directory is
/// not there.
pub fn with_meta(shim: &Shim, target: &Target, path: *const c_char) -> Result<bool, Errno> {
    let Some(file) = target.relation_file() else { return Ok(false) };
    let paths = (shim.meta_path(target.relative()), shim.path_beside(target.relative(), ASIDE_SUFFIX.as_bytes()));
    let (Some(meta), Some(aside)) = paths else { return Ok(false) };
    let names = Names { path, meta: meta.as_ptr(), aside: aside.as_ptr() };
    for _ in 0..NAPS_MAX {
        if exists(path) {
            return Ok(false);
        }
        match open_new(aside.as_ptr()) {
            Ok(fd) => {
                let made = make(shim, file, fd, &names);
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

/// The names of one file while it is made.
struct Names {
    /// Its own.
    path: *const c_char,
    /// Its meta file's.
    meta: *const c_char,
    /// Where it is made.
    aside: *const c_char,
}

fn make(shim: &Shim, file: FileId, fd: c_int, names: &Names) -> Result<bool, Errno> {
    // The one who held the lock before may have made it.
    if exists(names.path) {
        return Ok(false);
    }
    match place(shim, file, fd, names) {
        Err(Errno(libc::EXDEV)) => make_beside(shim, file, names),
        outcome => outcome,
    }
}

/// As [`make`], on the file system that the file is to be on, where an unfinished one may be left.
fn make_beside(shim: &Shim, file: FileId, names: &Names) -> Result<bool, Errno> {
    // SAFETY: a C string.
    let path = unsafe { CStr::from_ptr(names.path) };
    let beside = CString::new([path.to_bytes(), BESIDE_SUFFIX].concat()).map_err(|_| Errno(libc::EINVAL))?;
    // SAFETY: a C string.
    unsafe { real::unlink(beside.as_ptr()) };
    let fd = match open_new(beside.as_ptr()) {
        // Its directory is not there; the caller says so to PostgreSQL.
        Err(Errno(libc::ENOENT)) => return Ok(false),
        opened => opened?,
    };
    let placed = place(shim, file, fd, &Names { aside: beside.as_ptr(), ..*names });
    // SAFETY: a C string; the descriptor is ours and closed once.
    unsafe {
        real::unlink(beside.as_ptr());
        real::close(fd);
    }
    placed
}

/// Writes the meta file, then gives the file its name; false if another has it, or its directory is not there.
fn place(shim: &Shim, file: FileId, fd: c_int, names: &Names) -> Result<bool, Errno> {
    let inode = real::status_of(fd)?.st_ino;
    let request_lsn = shim.control().start_lsn();
    write_meta(&MetaSpec { file, inode, remote_nblocks: 0, bounded: true, request_lsn }, names.meta)?;
    // SAFETY: C strings.
    if unsafe { real::link(names.aside, names.path) } == 0 {
        return Ok(true);
    }
    let error = Errno::last();
    // SAFETY: a C string.
    unsafe { real::unlink(names.meta) };
    match error {
        Errno(libc::ENOENT | libc::EEXIST) => Ok(false),
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

/// Makes the directories of meta files of a database that was created since the start.
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
