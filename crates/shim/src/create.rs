//! Making meta files: that of a file which the agent made at the start when it is first opened, and, in a bounded cache, one with
//! each relation file, by which its pages can leave the cache later.
//!
//! A process that has a file open without its meta would take the hole of a dropped page for the page. So the meta file is there
//! before the file has its name: the file is made aside, in the tree of meta files, its meta file is written, and then it
//! is linked to its place. The name aside is also the lock among those who make the same file. Where linking cannot be
//! (another file system, a tablespace), the file is made as always and is wholly local.

use crate::errno::Errno;
use crate::names::Target;
use crate::process;
use crate::real;
use crate::shim::Shim;
use libc::{c_char, c_int};
use quire_cache::meta::ABSENT_BYTE;
use quire_cache::{FileId, MetaSpec};

/// How long to wait for another process that makes the same file, in naps.
const NAP_US: i64 = 500;
const NAPS_MAX: u32 = 20_000;

/// Makes the file at `path`, empty and with its meta file; false if it exists, or is to be wholly local.
pub fn with_meta(shim: &Shim, target: &Target, path: *const c_char) -> Result<bool, Errno> {
    let Some(file) = target.relation_file() else { return Ok(false) };
    let paths = (shim.meta_path(target.relative()), shim.path_beside(target.relative(), b".new"));
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

/// Makes the meta file of an untouched file, which is open with this status. Another process or the agent may do so at the same
/// time: the one that is linked first counts.
pub fn meta_of_untouched(shim: &Shim, target: &Target, status: &libc::stat) -> Result<(), Errno> {
    let file = target.relation_file().ok_or(Errno(libc::EIO))?;
    let (bounded, start) = (shim.control().is_bounded(), shim.control().start_lsn());
    let spec = MetaSpec::of_untouched(file, status.st_ino, status.st_size.cast_unsigned(), bounded, start);
    let spec = spec.map_err(|error| Errno(error.errno()))?;
    let paths = (shim.meta_path(target.relative()), shim.path_beside(target.relative(), &suffix_of_process()));
    let (Some(meta), Some(aside)) = paths else { return Err(Errno(libc::ENAMETOOLONG)) };
    match write_meta(&spec, aside.as_ptr()) {
        Err(Errno(libc::ENOENT)) => {
            make_folders(shim, target)?;
            write_meta(&spec, aside.as_ptr())?;
        }
        outcome => outcome?,
    }
    // SAFETY: C strings.
    let linked = unsafe { real::link(aside.as_ptr(), meta.as_ptr()) };
    let error = Errno::last();
    // SAFETY: as above.
    unsafe { real::unlink(aside.as_ptr()) };
    if linked == 0 || error == Errno(libc::EEXIST) { Ok(()) } else { Err(error) }
}

/// `.` and the process's number: a name aside that is only this process's.
fn suffix_of_process() -> [u8; 11] {
    let mut suffix = [b'.'; 11];
    let mut rest = process::pid();
    for digit in suffix.iter_mut().skip(1).rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    suffix
}

/// Writes a meta file; one that is there belonged to a file, or a process, that is gone.
fn write_meta(spec: &MetaSpec, path: *const c_char) -> Result<(), Errno> {
    // SAFETY: a C string.
    unsafe { real::unlink(path) };
    let fd = open_new(path)?;
    let length = libc::off_t::try_from(spec.file_bytes()).unwrap_or(0);
    // SAFETY: our own descriptor.
    let sized = unsafe { real::ftruncate(fd, length) } == 0;
    let written = if sized { write_states(spec, fd) } else { Err(Errno::last()) };
    // SAFETY: our own descriptor, closed once; a C string.
    unsafe {
        real::close(fd);
        if written.is_err() {
            real::unlink(path);
        }
    }
    written
}

fn write_states(spec: &MetaSpec, fd: c_int) -> Result<(), Errno> {
    let (header, (whole, last)) = (spec.header(), spec.absent_bytes());
    write_at(fd, &header, 0)?;
    for begun in (0..whole).step_by(ABSENT.len()) {
        let some = ABSENT.get(..whole - begun).unwrap_or(&ABSENT);
        write_at(fd, some, header.len() + begun)?;
    }
    write_at(fd, &last, header.len() + whole)
}

/// Part of the states of absent blocks.
static ABSENT: [u8; 4096] = [ABSENT_BYTE; 4096];

fn write_at(fd: c_int, bytes: &[u8], offset: usize) -> Result<(), Errno> {
    let offset = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
    // SAFETY: the bytes are valid for reading.
    let written = unsafe { real::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), offset) };
    match usize::try_from(written) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(Errno(libc::ENOSPC)),
        Err(_) => Err(Errno::last()),
    }
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
