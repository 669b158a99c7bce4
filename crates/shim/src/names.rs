//! What a path means: which of PostgreSQL's files it names, if any.
//!
//! PostgreSQL changes into its data directory and uses relative paths; absolute ones occur early and in a few
//! functions. Paths are normalised as text; symbolic links inside the data directory (tablespaces) are followed by the
//! kernel as usual, since a meta file has the same path below `meta/` as the path that was used. What is in a
//! tablespace may also be named by the tablespace's location, as base backups do ([`crate::locations`]).

use crate::database::Database;
use crate::locations;
use crate::shim::{self, Shim};
use libc::{c_char, c_int};
use quire_cache::{FileArea, FileId};
use quire_types::Fork;
use quire_types::data_file_name::{DataFileName, WalSegmentName, leading_number};
use std::ffi::CStr;

/// Longest path that is looked at; PostgreSQL's own limit (`MAXPGPATH`).
const PATH_BYTES_MAX: usize = 1024;

/// Longest name of an SLRU segment (`SlruScanDirectory`).
const SLRU_DIGITS_MAX: usize = 6;

/// Room for the path of a meta file.
pub const META_PATH_BYTES_MAX: usize = PATH_BYTES_MAX + 128;

/// A path on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    bytes: [u8; PATH_BYTES_MAX],
    length: usize,
}

impl Buffer {
    /// The path without its leading slash, empty components, `.` and `..`; none if it is too long.
    pub fn normalised(path: &[u8]) -> Option<Buffer> {
        let mut buffer = Buffer { bytes: [0; PATH_BYTES_MAX], length: 0 };
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => buffer.pop(),
                name => buffer.push(name)?,
            }
        }
        Some(buffer)
    }

    /// These with slashes between; none if that is too long.
    pub fn joined(parts: &[&[u8]]) -> Option<Buffer> {
        let mut buffer = Buffer { bytes: [0; PATH_BYTES_MAX], length: 0 };
        parts.iter().try_for_each(|part| buffer.push(part))?;
        Some(buffer)
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, name: &[u8]) -> Option<()> {
        if self.length > 0 {
            self.append(b"/")?;
        }
        self.append(name)
    }

    fn append(&mut self, text: &[u8]) -> Option<()> {
        let end = self.length.checked_add(text.len())?;
        self.bytes.get_mut(self.length..end)?.copy_from_slice(text);
        self.length = end;
        Some(())
    }

    fn pop(&mut self) {
        self.length = self.bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    }
}

/// What a file of PostgreSQL's is to the shim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// It may have a meta file: by its name, a relation's or an SLRU area's segment.
    Pages,
    /// A WAL segment.
    Wal {
        /// Its timeline.
        timeline: u32,
        /// Its number.
        segment_number: u64,
    },
    /// It is flushed but not logged: storage keeps it whole. Also a directory of such files.
    Kept(FileArea),
    /// Something else.
    Other,
}

/// A path below the data directory.
#[derive(Debug)]
pub struct Target {
    relative: Buffer,
    /// What it names.
    pub kind: FileKind,
    /// The database directory it is, or is in.
    pub database: Option<Database>,
    /// In a database directory, the number of the relation that it may belong to.
    pub relation: Option<u32>,
}

impl Target {
    /// The path below the data directory, normalised.
    pub fn relative(&self) -> &[u8] {
        self.relative.bytes()
    }

    /// Which relation's segment it names, if storage may have pages of that.
    pub fn relation_file(&self) -> Option<FileId> {
        match DataFileName::parse(self.relative())? {
            DataFileName::Relation(file) if file.fork != Fork::FreeSpaceMap => {
                Some(FileId::Relation { rel: file.rel(), segment: file.segment })
            }
            _ => None,
        }
    }
}

/// What `path` names, if it is below the data directory.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn target(shim: &Shim, path: *const c_char) -> Option<Target> {
    if path.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let relative = if path.first() == Some(&b'/') {
        let absolute = Buffer::normalised(path)?;
        match shim.below_pgdata(absolute.bytes()) {
            Some(relative) => Buffer::normalised(relative)?,
            None => locations::below_link(shim, absolute.bytes())?,
        }
    } else if shim::in_pgdata() {
        Buffer::normalised(path)?
    } else {
        return None;
    };
    Some(classify(relative, shim.control().segment_bytes()))
}

/// As [`target`], for the `...at` functions: none if `path` is relative to another directory than the working one.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn target_at(shim: &Shim, dir: c_int, path: *const c_char) -> Option<Target> {
    // SAFETY: as the caller says.
    let absolute = !path.is_null() && unsafe { *path.cast::<u8>() } == b'/';
    if dir == libc::AT_FDCWD || absolute {
        // SAFETY: as the caller says.
        return unsafe { target(shim, path) };
    }
    None
}

fn classify(relative: Buffer, segment_bytes: u64) -> Target {
    let (mut database, mut relation) = (None, None);
    let kind = match DataFileName::parse(relative.bytes()) {
        Some(DataFileName::Database(folder) | DataFileName::RelationMap(folder)) => {
            database = Database::of(folder);
            FileKind::Other
        }
        Some(DataFileName::Relation(file)) => {
            (database, relation) = (Database::of(file.folder), Some(file.relation));
            FileKind::Pages
        }
        Some(DataFileName::OtherInDatabase { folder, name }) => {
            (database, relation) = (Database::of(folder), leading_number(name));
            other_kind(name)
        }
        Some(DataFileName::Slru { digits, .. }) if digits <= SLRU_DIGITS_MAX => FileKind::Pages,
        Some(DataFileName::WalSegment(name)) => wal_kind(name, segment_bytes),
        Some(name) => FileArea::of_name(&name).map_or(FileKind::Other, FileKind::Kept),
        None => FileKind::Other,
    };
    Target { relative, kind, database, relation }
}

/// Relations of storage have names that begin with a digit; temporary ones (`t3_16384`) are local, and other files are
/// local or there from the start.
fn other_kind(name: &[u8]) -> FileKind {
    if name.first().is_some_and(u8::is_ascii_digit) { FileKind::Pages } else { FileKind::Other }
}

fn wal_kind(name: WalSegmentName, segment_bytes: u64) -> FileKind {
    let wal = |segment_number| FileKind::Wal { timeline: name.timeline, segment_number };
    name.segment_number(segment_bytes).map_or(FileKind::Other, wal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(path: &str) -> (FileKind, Option<(u32, u32, Option<u32>)>) {
        let target = classify(Buffer::normalised(path.as_bytes()).unwrap(), 16 << 20);
        (target.kind, target.database.map(|database| (database.tablespace, database.oid, target.relation)))
    }

    #[test]
    fn paths_are_normalised_as_text() {
        for (path, normal) in
            [("/a//b/", "a/b"), ("./base/5", "base/5"), ("a/../b/./c", "b/c"), ("../..", ""), ("", "")]
        {
            assert_eq!(Buffer::normalised(path.as_bytes()).unwrap().bytes(), normal.as_bytes(), "{path}");
        }
        assert!(Buffer::normalised(&[b'a'; PATH_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn files_of_pages_are_told_from_others() {
        for path in ["base/5/1259", "base/5/1259_vm.1", "pg_tblspc/16400/PG_15_202209061/5/16401"] {
            assert_eq!(kind_of(path).0, FileKind::Pages, "{path}");
        }
        for path in ["global/1262", "pg_xact/0000", "pg_multixact/offsets/0001", "pg_multixact/members/14078"] {
            assert_eq!(kind_of(path), (FileKind::Pages, None), "{path}");
        }
        for path in ["base/5/PG_VERSION", "base/5/t3_16384", "base/pgsql_tmp/1", "base/5", "PG_VERSION", ""] {
            assert_eq!(kind_of(path).0, FileKind::Other, "{path}");
        }
        for path in ["global/pg_control", "pg_xact", "pg_subtrans/0000", "a/b/c/d/e/f/g/h", "pg_wal/xlogtemp.17"] {
            assert_eq!(kind_of(path), (FileKind::Other, None), "{path}");
        }
    }

    #[test]
    fn a_database_directory_is_told_from_what_lies_in_it() {
        assert_eq!(kind_of("base/5").1, Some((1663, 5, None)));
        assert_eq!(kind_of("base/5/PG_VERSION").1, Some((1663, 5, None)));
        assert_eq!(kind_of("pg_tblspc/16400/PG_15_202209061/7").1, Some((16400, 7, None)));
        assert_eq!(kind_of("pg_tblspc/16400/PG_15_202209061/7/16385_fsm").1, Some((16400, 7, Some(16385))));
        assert_eq!(kind_of("base/5/1259_vm.1").1, Some((1663, 5, Some(1259))));
        assert_eq!(kind_of("base/5/pg_internal.init").1, Some((1663, 5, None)), "relation cache files are local");
        assert_eq!(kind_of("base/pgsql_tmp").1, None);
        assert_eq!(kind_of("base").1, None);
    }

    #[test]
    fn files_that_storage_keeps_are_told_from_unfinished_ones() {
        assert_eq!(kind_of("./pg_replslot/a/state"), (FileKind::Kept(FileArea::Slots), None));
        assert_eq!(kind_of("postgresql.auto.conf"), (FileKind::Kept(FileArea::Settings), None));
        assert_eq!(kind_of("pg_replslot/a/state.tmp"), (FileKind::Other, None));
    }

    #[test]
    fn wal_segments_are_numbered_as_postgresql_does() {
        let segment = |timeline, segment_number| (FileKind::Wal { timeline, segment_number }, None);
        assert_eq!(kind_of("pg_wal/000000010000000000000001"), segment(1, 1));
        assert_eq!(kind_of("pg_wal/0000000A00000001000000FF"), segment(10, 0x1FF));
        for path in [
            "pg_wal/00000001000000000000000",
            "pg_wal/00000001000000000000000G",
            "pg_wal/000000010000000000000001.partial",
        ] {
            assert_eq!(kind_of(path), (FileKind::Other, None), "{path}");
        }
    }
}
