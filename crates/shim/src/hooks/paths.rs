//! Operations on names: a relation is complete before any file of it is looked at, and meta files go with their files.

use crate::errno::{self, Errno};
use crate::names::{self, FileKind, Target};
use crate::shim::{self, Shim};
use crate::{real, tracked, withheld};
use libc::{c_char, c_int, off_t};
use quire_cache::Meta;

/// Makes sure that what storage has of the relation of `target` is there.
pub(crate) fn prepare(shim: &Shim, target: &Target) -> Result<(), Errno> {
    match (target.database, target.relation) {
        (Some(database), Some(relation)) => database.materialise_relation(shim, relation),
        _ => Ok(()),
    }
}

/// Prepares what a path names, and says what that is (none if it is not the compute's).
unsafe fn prepared(dir: c_int, path: *const c_char) -> Result<Option<(&'static Shim, Target)>, Errno> {
    let Some(shim) = shim::current() else { return Ok(None) };
    // SAFETY: as the caller says.
    let Some(target) = (unsafe { names::target_at(shim, dir, path) }) else { return Ok(None) };
    prepare(shim, &target)?;
    Ok(Some((shim, target)))
}

/// Runs `real` once `path` is prepared.
unsafe fn looked_at(dir: c_int, path: *const c_char, real: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: as the caller says.
    match unsafe { prepared(dir, path) } {
        Ok(_) => real(),
        Err(error) => error.fail(),
    }
}

/// Removes by `real`; the meta file goes after its file, so that no other file of the name can be taken for it.
unsafe fn removed(dir: c_int, path: *const c_char, real: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: as the caller says.
    let target = match unsafe { prepared(dir, path) } {
        Ok(target) => target,
        Err(error) => return error.fail(),
    };
    let result = real();
    // SAFETY: as above. One that is there again is another file, with a meta file of its own.
    let again = result == 0 && unsafe { real::access(path, libc::F_OK) } == 0;
    if let (0, false, Some((shim, target))) = (result, again, target) {
        errno::preserved(|| remove_meta(shim, &target));
    }
    result
}

fn remove_meta(shim: &Shim, target: &Target) {
    if target.kind == FileKind::Pages
        && let Some(path) = shim.meta_path(target.relative())
    {
        // SAFETY: a C string. There may be no such file.
        unsafe { real::unlink(path.as_ptr()) };
    }
}

/// Renames by `real`; the meta file is renamed too, and one of a file that was overwritten is gone.
unsafe fn renamed(from: (c_int, *const c_char), to: (c_int, *const c_char), real: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: as the caller says.
    let targets = unsafe { prepared(from.0, from.1).and_then(|from_target| Ok((from_target, prepared(to.0, to.1)?))) };
    let (from, to) = match targets {
        Ok(targets) => targets,
        Err(error) => return error.fail(),
    };
    let result = real();
    if result == 0 {
        errno::preserved(|| rename_meta(from, to));
    }
    result
}

fn rename_meta(from: Option<(&Shim, Target)>, to: Option<(&Shim, Target)>) {
    let source = from.filter(|(_, target)| target.kind == FileKind::Pages);
    match (source, to) {
        (Some((shim, from)), Some((_, to))) if to.kind == FileKind::Pages => {
            let paths = (shim.meta_path(from.relative()), shim.meta_path(to.relative()));
            if let (Some(from), Some(to)) = paths {
                // SAFETY: C strings. A file that is wholly local has no meta file, and what it replaces must have none.
                unsafe {
                    if real::rename(from.as_ptr(), to.as_ptr()) != 0 {
                        real::unlink(to.as_ptr());
                    }
                }
            }
        }
        (Some((shim, from)), _) => remove_meta(shim, &from),
        (None, Some((shim, to))) => remove_meta(shim, &to),
        (None, None) => {}
    }
}

/// A second name of a tracked file would have no meta file and show holes: refused.
unsafe fn linked(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as the caller says, here and below.
    let checked = unsafe { prepared(libc::AT_FDCWD, from) }.and_then(|target| match target {
        // SAFETY: as above.
        Some((shim, target)) if target.kind == FileKind::Pages => match unsafe { meta_of(shim, &target, from) }? {
            Some(_) => Err(Errno(libc::EPERM)),
            None => Ok(()),
        },
        _ => Ok(()),
    });
    match checked {
        // SAFETY: as above.
        Ok(()) => unsafe { real::link(from, to) },
        Err(error) => error.fail(),
    }
}

/// The meta file of a file that is not open; none if it is wholly local, or missing.
unsafe fn meta_of(shim: &Shim, target: &Target, path: *const c_char) -> Result<Option<Meta>, Errno> {
    // SAFETY: as the caller says; the descriptor is ours and closed once.
    unsafe {
        let fd = real::open(path, libc::O_RDONLY | libc::O_CLOEXEC, 0);
        if fd < 0 {
            return Ok(None);
        }
        let meta = tracked::open_meta(shim, target.relative(), fd);
        real::close(fd);
        meta
    }
}

unsafe fn truncated(path: *const c_char, length: off_t) -> c_int {
    // SAFETY: as the caller says, here and below.
    let cut = || unsafe { real::truncate(path, length) };
    // SAFETY: as above.
    let tracked = unsafe { prepared(libc::AT_FDCWD, path) }.and_then(|target| match target {
        Some((shim, target)) if target.kind == FileKind::Pages => {
            // SAFETY: as above.
            Ok(unsafe { meta_of(shim, &target, path) }?.map(|meta| (shim, meta)))
        }
        _ => Ok(None),
    });
    match tracked {
        Ok(Some((shim, meta))) => tracked::truncate(shim, &meta, length, cut),
        Ok(None) => cut(),
        Err(error) => error.fail(),
    }
}

const HERE: c_int = libc::AT_FDCWD;

intercept! {
    fn stat(path: *const c_char, status: *mut libc::stat) -> c_int {
        // SAFETY: the caller keeps the C function's promises, here and in all functions below.
        unsafe { looked_at(HERE, path, || real::stat(withheld::path_of(path), status)) }
    }

    fn stat64(path: *const c_char, status: *mut libc::stat) -> c_int {
        // SAFETY: see `stat`.
        unsafe { looked_at(HERE, path, || real::stat(withheld::path_of(path), status)) }
    }

    fn lstat(path: *const c_char, status: *mut libc::stat) -> c_int {
        // SAFETY: see `stat`.
        unsafe { looked_at(HERE, path, || real::lstat(withheld::path_of(path), status)) }
    }

    fn lstat64(path: *const c_char, status: *mut libc::stat) -> c_int {
        // SAFETY: see `stat`.
        unsafe { looked_at(HERE, path, || real::lstat(withheld::path_of(path), status)) }
    }

    fn fstatat(dir: c_int, path: *const c_char, status: *mut libc::stat, flags: c_int) -> c_int {
        // SAFETY: see `stat`.
        unsafe { looked_at(dir, path, || real::fstatat(dir, withheld::path_at(dir, path), status, flags)) }
    }

    fn fstatat64(dir: c_int, path: *const c_char, status: *mut libc::stat, flags: c_int) -> c_int {
        // SAFETY: see `stat`.
        unsafe { looked_at(dir, path, || real::fstatat(dir, withheld::path_at(dir, path), status, flags)) }
    }

    fn __xstat(version: c_int, path: *const c_char, status: *mut libc::stat) -> c_int {
        let _ = version;
        // SAFETY: see `stat`; on 64-bit systems there is one version of the structure.
        unsafe { looked_at(HERE, path, || real::fstatat(HERE, withheld::path_of(path), status, 0)) }
    }

    fn __xstat64(version: c_int, path: *const c_char, status: *mut libc::stat) -> c_int {
        let _ = version;
        // SAFETY: see `__xstat`.
        unsafe { looked_at(HERE, path, || real::fstatat(HERE, withheld::path_of(path), status, 0)) }
    }

    fn __lxstat(version: c_int, path: *const c_char, status: *mut libc::stat) -> c_int {
        let _ = version;
        // SAFETY: see `__xstat`.
        unsafe { looked_at(HERE, path, || real::fstatat(HERE, withheld::path_of(path), status, libc::AT_SYMLINK_NOFOLLOW)) }
    }

    fn __lxstat64(version: c_int, path: *const c_char, status: *mut libc::stat) -> c_int {
        let _ = version;
        // SAFETY: see `__xstat`.
        unsafe { looked_at(HERE, path, || real::fstatat(HERE, withheld::path_of(path), status, libc::AT_SYMLINK_NOFOLLOW)) }
    }

    fn access(path: *const c_char, mode: c_int) -> c_int {
        // SAFETY: see `stat`.
        unsafe { looked_at(HERE, path, || real::access(withheld::path_of(path), mode)) }
    }

    fn truncate(path: *const c_char, length: off_t) -> c_int {
        // SAFETY: see `stat`.
        unsafe { truncated(path, length) }
    }

    fn truncate64(path: *const c_char, length: off_t) -> c_int {
        // SAFETY: see `stat`.
        unsafe { truncated(path, length) }
    }

    fn unlink(path: *const c_char) -> c_int {
        // SAFETY: see `stat`.
        unsafe { removed(HERE, path, || real::unlink(path)) }
    }

    fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: see `stat`.
        unsafe { removed(dir, path, || real::unlinkat(dir, path, flags)) }
    }

    fn rename(from: *const c_char, to: *const c_char) -> c_int {
        // SAFETY: see `stat`.
        unsafe { renamed((HERE, from), (HERE, to), || real::rename(from, to)) }
    }

    fn renameat(from_dir: c_int, from: *const c_char, to_dir: c_int, to: *const c_char) -> c_int {
        // SAFETY: see `stat`.
        unsafe { renamed((from_dir, from), (to_dir, to), || real::renameat(from_dir, from, to_dir, to)) }
    }

    fn link(from: *const c_char, to: *const c_char) -> c_int {
        // SAFETY: see `stat`.
        unsafe { linked(from, to) }
    }
}
