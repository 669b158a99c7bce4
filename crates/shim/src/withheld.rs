//! Files of the data directory that only processes with this library find.
//!
//! A compute's data directory is a cache: blocks are absent from its files, and nothing in it knows of the quorum. A
//! PostgreSQL without this library would take the holes for empty pages, over the directory itself or over a copy of
//! it, and acknowledge commits that no safekeeper has. So the files without which none starts are not in there but in a
//! directory beside it, and this library opens and examines those instead. A base backup, which PostgreSQL itself
//! sends, has them where they belong.

use crate::names;
use crate::shim::{self, Shim};
use libc::{c_char, c_int};
use quire_cache::layout::{WITHHELD, WITHHELD_FILES};
use std::ffi::{CStr, CString};

/// The withheld files of a compute, in the order of [`WITHHELD_FILES`].
#[derive(Debug)]
pub struct Withheld([CString; WITHHELD_FILES.len()]);

impl Withheld {
    /// Those of the compute at `root`; none if it has no directory of them, as where a test has laid it out.
    pub fn find(root: &[u8]) -> Option<Withheld> {
        let in_folder = |name: &str| CString::new([root, b"/", WITHHELD.as_bytes(), b"/", name.as_bytes()].concat());
        let folder = in_folder("").ok()?;
        // SAFETY: a C string.
        let exists = unsafe { crate::real::access(folder.as_ptr(), libc::F_OK) } == 0;
        let [(_, control), (_, version)] = WITHHELD_FILES;
        exists.then_some(Withheld([in_folder(control).ok()?, in_folder(version).ok()?]))
    }

    fn file(&self, relative: &[u8]) -> Option<&CStr> {
        let position = WITHHELD_FILES.iter().position(|(path, _)| path.as_bytes() == relative)?;
        self.0.get(position).map(CString::as_c_str)
    }
}

/// The path to use in place of `path`, which is the same but for withheld files.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn path_of(path: *const c_char) -> *const c_char {
    // SAFETY: as the caller says.
    unsafe { path_at(libc::AT_FDCWD, path) }
}

/// As [`path_of`], for the `...at` functions.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn path_at(dir: c_int, path: *const c_char) -> *const c_char {
    let Some(shim) = shim::current() else { return path };
    // SAFETY: as the caller says.
    unsafe { withheld_path(shim, dir, path) }.map_or(path, CStr::as_ptr)
}

unsafe fn withheld_path(shim: &Shim, dir: c_int, path: *const c_char) -> Option<&CStr> {
    let withheld = shim.withheld()?;
    // SAFETY: as the caller says.
    if path.is_null() || !may_be_withheld(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return None;
    }
    // SAFETY: as the caller says.
    let target = unsafe { names::target_at(shim, dir, path) }?;
    withheld.file(target.relative())
}

/// Nearly every path is known by its end to be another.
fn may_be_withheld(path: &[u8]) -> bool {
    WITHHELD_FILES.iter().any(|(_, name)| path.ends_with(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compute_has_the_files_of_its_folder_and_without_the_folder_none() {
        let root = tempfile::tempdir().expect("a folder");
        let bytes = root.path().as_os_str().as_encoded_bytes();
        assert!(Withheld::find(bytes).is_none());
        std::fs::create_dir(root.path().join(WITHHELD)).expect("made");
        let withheld = Withheld::find(bytes).expect("there");
        let file = |relative: &[u8]| withheld.file(relative).map(|path| path.to_bytes().to_vec());
        assert_eq!(file(b"global/pg_control"), Some([bytes, b"/withheld/pg_control"].concat()));
        assert_eq!(file(b"PG_VERSION"), Some([bytes, b"/withheld/PG_VERSION"].concat()));
        assert_eq!(file(b"base/5/PG_VERSION"), None);
        assert!(may_be_withheld(b"/x/global/pg_control") && !may_be_withheld(b"base/5/1259"));
    }
}
