//! Tablespaces that are named by their locations.
//!
//! PostgreSQL reaches what is in a tablespace through a link in the data directory:
//! `pg_tblspc/16385/PG_15_202209061/5/16386`. But a base backup reads the link and sends what is at the location by
//! that path, `/srv/fast/PG_15_202209061/5/16386`. Both are one file with one meta file, which has the first name.

use crate::errno;
use crate::names::Buffer;
use crate::real;
use crate::shim::{self, Shim};
use libc::c_int;
use std::ffi::CStr;

/// Where the links are, below the data directory.
const LINKS: &[u8] = b"pg_tblspc";

/// How the directory begins that PostgreSQL makes at every location; a digit follows.
const VERSION_PREFIX: &[u8] = b"PG_";

/// The path below the data directory of what `path` (absolute, normalised, without the leading slash) names in a
/// tablespace.
pub fn below_link(shim: &Shim, path: &[u8]) -> Option<Buffer> {
    let at = version_component(path)?;
    let (location, inside) = (path.get(..at.checked_sub(1)?)?, path.get(at..)?);
    errno::preserved(|| {
        let wanted = shim::identity(AbsolutePath::of(location)?.as_c_str()).ok()?;
        Links::open(shim)?.below(wanted, inside)
    })
}

/// Where the last component begins that looks like the directory of a version.
fn version_component(path: &[u8]) -> Option<usize> {
    let begins = |at: &usize| {
        let digit = path.get(*at..).and_then(|rest| rest.strip_prefix(VERSION_PREFIX)).and_then(|rest| rest.first());
        (*at == 0 || path.get(at - 1) == Some(&b'/')) && digit.is_some_and(u8::is_ascii_digit)
    };
    (0..path.len()).rev().find(begins)
}

/// An absolute path as libc wants it.
struct AbsolutePath([u8; 1026]);

impl AbsolutePath {
    /// Of a path without its leading slash.
    fn of(path: &[u8]) -> Option<AbsolutePath> {
        let mut bytes = [0; 1026];
        bytes[0] = b'/';
        bytes.get_mut(1..1 + path.len())?.copy_from_slice(path);
        (path.len() + 2 <= bytes.len()).then_some(AbsolutePath(bytes))
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"/")
    }
}

/// The directory of links, open.
struct Links(c_int);

impl Links {
    fn open(shim: &Shim) -> Option<Links> {
        let path = shim.links_path();
        // SAFETY: a C string.
        let fd = unsafe { real::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC, 0) };
        (fd >= 0).then_some(Links(fd))
    }

    /// The path below the data directory of `inside` in the tablespace that is the directory `wanted`.
    fn below(&self, wanted: (u64, u64), inside: &[u8]) -> Option<Buffer> {
        let mut entries = Entries([0; ENTRIES_BYTES]);
        loop {
            // SAFETY: an open descriptor, and as many bytes for writing as are said. libc's own functions would
            // allocate.
            let got = unsafe { libc::syscall(libc::SYS_getdents64, self.0, entries.0.as_mut_ptr(), ENTRIES_BYTES) };
            let filled =
                usize::try_from(got).ok().filter(|bytes| *bytes > 0).and_then(|bytes| entries.0.get(..bytes))?;
            if let Some(name) = names(filled).find(|name| self.identity(name) == Some(wanted)) {
                return Buffer::joined(&[LINKS, name.to_bytes(), inside]);
            }
        }
    }

    /// What the link of this name points at.
    fn identity(&self, name: &CStr) -> Option<(u64, u64)> {
        // SAFETY: an all-zero `stat` is a valid value for the kernel to overwrite.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: a C string, and `status` is valid for writing.
        let found = unsafe { real::fstatat(self.0, name.as_ptr(), &raw mut status, 0) };
        (found == 0).then_some((status.st_dev, status.st_ino))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // SAFETY: our own descriptor, closed once.
        unsafe { real::close(self.0) };
    }
}

const ENTRIES_BYTES: usize = 2048;

/// What the kernel says of a directory's entries, aligned as it wants it.
#[repr(C, align(8))]
struct Entries([u8; ENTRIES_BYTES]);

/// Where an entry has its own length, and where its name begins. Source: `struct linux_dirent64`.
const ENTRY_LENGTH: usize = 16;
const ENTRY_NAME: usize = 19;

/// The names in a list of entries that are numbers, as tablespaces are called.
fn names(entries: &[u8]) -> impl Iterator<Item = &CStr> {
    let mut rest = entries;
    let next = move || {
        let length = u16::from_ne_bytes(*rest.get(ENTRY_LENGTH..)?.first_chunk()?);
        let (entry, others) = rest.split_at_checked(usize::from(length).max(1))?;
        rest = others;
        CStr::from_bytes_until_nul(entry.get(ENTRY_NAME..)?).ok()
    };
    std::iter::from_fn(next).filter(|name| name.to_bytes().first().is_some_and(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_directory_of_a_version_ends_the_location() {
        let location = |path: &str| version_component(path.as_bytes()).map(|at| path[..at].to_owned());
        assert_eq!(location("srv/fast/PG_15_202209061/5/16386").as_deref(), Some("srv/fast/"));
        assert_eq!(location("PG_1/PG_15_202209061").as_deref(), Some("PG_1/"));
        for path in ["srv/PG_VERSION", "srv/aPG_15/5", "etc/passwd", ""] {
            assert_eq!(location(path), None, "{path}");
        }
    }

    #[test]
    fn names_of_entries_are_read_up_to_the_first_that_is_cut_off() {
        let entry = |name: &[u8]| {
            let length = (ENTRY_NAME + name.len() + 1).next_multiple_of(8);
            let mut raw = vec![0; length];
            raw[ENTRY_LENGTH..ENTRY_LENGTH + 2].copy_from_slice(&(length as u16).to_ne_bytes());
            raw[ENTRY_NAME..ENTRY_NAME + name.len()].copy_from_slice(name);
            raw
        };
        let raw = [entry(b"."), entry(b"16385"), entry(b"x"), entry(b"123456789")].concat();
        assert_eq!(names(&raw).collect::<Vec<_>>(), [c"16385", c"123456789"]);
        assert_eq!(names(&raw[..raw.len() - 1]).count(), 1);
        assert_eq!(names(&[0; 100]).count(), 0);
    }
}
