//! The names of the files in PostgreSQL's data directory: one grammar for all that read or write them.
//!
//! Works on bytes, does not allocate and looks at no file, so that the shim can use it inside PostgreSQL. Paths are
//! relative to the data directory and normalised: no empty component, no `.` or `..`.
//!
//! [`DataFileName::parse`] also reads numbers that have leading zeroes or small hexadecimal letters. The writer is
//! [`fmt::Display`], and [`DataFileName::parse_exact`] its inverse: it reads only names that PostgreSQL writes.
//!
//! The name of a version's directory in a tablespace (`PG_15_202209061`) is not in the grammar. The parser yields it as
//! bytes; a caller for whom it matters compares it with his version's.
//!
//! Sources: `relpath.c`, `slru.c`, `xlog_internal.h`, `twophase.c`, `relmapper.c`, `slot.c`, `snapbuild.c`,
//! `rewriteheap.c`.

mod folder;
mod number;
mod relation;
#[cfg(test)]
mod tests;
mod wal_segment;

pub use folder::DatabaseFolder;
pub use number::leading_number;
pub use relation::RelationFile;
pub use wal_segment::WalSegmentName;

use crate::key::Slru;
use number::hexadecimal;
use std::fmt::{self, Write};
use std::ops::RangeInclusive;

/// A file in the data directory, or a directory of such files, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataFileName<'a> {
    /// A database's directory: `base/5`; also `global`.
    Database(DatabaseFolder<'a>),
    /// A segment file of a relation's fork: `base/5/1259_vm.1`.
    Relation(RelationFile<'a>),
    /// A relation map: `base/5/pg_filenode.map`.
    RelationMap(DatabaseFolder<'a>),
    /// Another file in a database's directory: `PG_VERSION`, `pg_internal.init`, a temporary relation (`t3_16384`).
    OtherInDatabase {
        /// The directory.
        folder: DatabaseFolder<'a>,
        /// The name in it.
        name: &'a [u8],
    },
    /// A segment file of an SLRU area: `pg_xact/0000`.
    Slru {
        /// The area.
        slru: Slru,
        /// Segment number.
        segment: u32,
        /// With how many digits it is written: four to eight.
        digits: usize,
    },
    /// A WAL segment: `pg_wal/000000010000000000000001`.
    WalSegment(WalSegmentName),
    /// The state of a prepared transaction: `pg_twophase/0000028A`.
    TwoPhase {
        /// Its transaction id.
        xid: u32,
    },
    /// `global/pg_control`.
    ControlFile,
    /// A file of a replication slot, or a directory of such: `pg_replslot/a/state`. With what follows `pg_replslot`.
    ReplicationSlot(&'a [u8]),
    /// A snapshot of logical decoding, or the directory: `pg_logical/snapshots/0-1500028.snap`.
    LogicalSnapshot(&'a [u8]),
    /// A mapping of a rewritten catalog, or the directory: `pg_logical/mappings/map-5-4e2-0_15A0-2f1-2f1`.
    LogicalMapping(&'a [u8]),
    /// What `ALTER SYSTEM` sets: `postgresql.auto.conf`.
    AutoConf,
}

const CONTROL_FILE: &[u8] = b"pg_control";
const RELATION_MAP: &[u8] = b"pg_filenode.map";
const WAL: &[u8] = b"pg_wal";
const TWO_PHASE: &[u8] = b"pg_twophase";
const REPLICATION_SLOTS: &[u8] = b"pg_replslot";
const LOGICAL_SNAPSHOTS: &[u8] = b"pg_logical/snapshots";
const LOGICAL_MAPPINGS: &[u8] = b"pg_logical/mappings";
const AUTO_CONF: &[u8] = b"postgresql.auto.conf";

/// Ends the names that PostgreSQL gives while it writes or removes, which mean nothing to a later start.
const UNFINISHED: &[u8] = b".tmp";

/// Digits of an SLRU segment's name: PostgreSQL writes at least four.
const SLRU_DIGITS: RangeInclusive<usize> = 4..=8;

impl<'a> DataFileName<'a> {
    /// What a path names; none if it is in no form that the grammar has.
    pub fn parse(path: &'a [u8]) -> Option<DataFileName<'a>> {
        let (first, rest) = split_once(path, b'/');
        match first {
            folder::GLOBAL | folder::BASE | folder::TABLESPACES => in_database(path),
            WAL => WalSegmentName::parse(rest?).map(DataFileName::WalSegment),
            TWO_PHASE => Some(DataFileName::TwoPhase { xid: hexadecimal(rest?, 8..=8)? }),
            _ => slru_segment(path).or_else(|| unlogged(path)),
        }
    }

    /// The segment file of an SLRU area, with as many digits as PostgreSQL writes.
    pub fn slru(slru: Slru, segment: u32) -> DataFileName<'static> {
        let needed = (u32::BITS - segment.leading_zeros()).div_ceil(4) as usize;
        DataFileName::Slru { slru, segment, digits: needed.max(*SLRU_DIGITS.start()) }
    }

    /// As [`DataFileName::parse`], but none unless PostgreSQL writes the name in this way. No object has number 0.
    pub fn parse_exact(path: &'a [u8]) -> Option<DataFileName<'a>> {
        DataFileName::parse(path).filter(|name| !name.has_invalid_number() && name.is_written(path))
    }

    fn has_invalid_number(&self) -> bool {
        match self {
            DataFileName::Database(folder)
            | DataFileName::RelationMap(folder)
            | DataFileName::OtherInDatabase { folder, .. } => folder.has_invalid_number(),
            DataFileName::Relation(file) => file.folder.has_invalid_number() || file.relation == 0,
            DataFileName::Slru { slru, segment, .. } => *self != DataFileName::slru(*slru, *segment),
            _ => false,
        }
    }

    /// Whether the writer gives this path.
    fn is_written(&self, path: &[u8]) -> bool {
        let mut rest = Unmatched(path);
        fmt::write(&mut rest, format_args!("{self}")).is_ok() && rest.0.is_empty()
    }
}

/// A database's directory, or a file in it.
fn in_database(path: &[u8]) -> Option<DataFileName<'_>> {
    let (folder, name) = DatabaseFolder::parse_prefix(path)?;
    let Some(name) = name else { return Some(DataFileName::Database(folder)) };
    Some(match name {
        RELATION_MAP => DataFileName::RelationMap(folder),
        CONTROL_FILE if folder == DatabaseFolder::Global => DataFileName::ControlFile,
        _ => match RelationFile::parse(folder, name) {
            Some(file) => DataFileName::Relation(file),
            None => DataFileName::OtherInDatabase { folder, name },
        },
    })
}

fn slru_segment(path: &[u8]) -> Option<DataFileName<'_>> {
    let name_in = |slru: Slru| path.strip_prefix(slru.directory().as_bytes())?.strip_prefix(b"/");
    let (slru, name) = Slru::ALL.into_iter().find_map(|slru| Some((slru, name_in(slru)?)))?;
    Some(DataFileName::Slru { slru, segment: hexadecimal(name, SLRU_DIGITS)?, digits: name.len() })
}

/// Files that PostgreSQL flushes and does not log.
fn unlogged(path: &[u8]) -> Option<DataFileName<'_>> {
    if path.split(|byte| *byte == b'/').any(|name| name.ends_with(UNFINISHED)) {
        return None;
    }
    let below = |folder: &[u8]| path.strip_prefix(folder).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
    None.or_else(|| below(REPLICATION_SLOTS).map(DataFileName::ReplicationSlot))
        .or_else(|| below(LOGICAL_SNAPSHOTS).map(DataFileName::LogicalSnapshot))
        .or_else(|| below(LOGICAL_MAPPINGS).map(DataFileName::LogicalMapping))
        .or_else(|| (path == AUTO_CONF).then_some(DataFileName::AutoConf))
}

/// What is before the first `separator`, and what is after it.
fn split_once(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == separator) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

impl fmt::Display for DataFileName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DataFileName::Database(folder) => folder.fmt(f),
            DataFileName::Relation(file) => file.fmt(f),
            DataFileName::RelationMap(folder) => write!(f, "{folder}/{}", Text(RELATION_MAP)),
            DataFileName::OtherInDatabase { folder, name } => write!(f, "{folder}/{}", Text(name)),
            DataFileName::Slru { slru, segment, digits } => write!(f, "{}/{segment:0digits$X}", slru.directory()),
            DataFileName::WalSegment(name) => write!(f, "{}/{name}", Text(WAL)),
            DataFileName::TwoPhase { xid } => write!(f, "{}/{xid:08X}", Text(TWO_PHASE)),
            DataFileName::ControlFile => write!(f, "{}/{}", Text(folder::GLOBAL), Text(CONTROL_FILE)),
            DataFileName::ReplicationSlot(rest) => write!(f, "{}{}", Text(REPLICATION_SLOTS), Text(rest)),
            DataFileName::LogicalSnapshot(rest) => write!(f, "{}{}", Text(LOGICAL_SNAPSHOTS), Text(rest)),
            DataFileName::LogicalMapping(rest) => write!(f, "{}{}", Text(LOGICAL_MAPPINGS), Text(rest)),
            DataFileName::AutoConf => Text(AUTO_CONF).fmt(f),
        }
    }
}

/// A part of a name. What is not UTF-8, and so not PostgreSQL's, is replaced as by [`String::from_utf8_lossy`].
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            if chunk.invalid().is_empty() { Ok(()) } else { f.write_char(char::REPLACEMENT_CHARACTER) }
        })
    }
}

/// What is left of a path of which the beginning was written.
struct Unmatched<'a>(&'a [u8]);

impl fmt::Write for Unmatched<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(text.as_bytes()).ok_or(fmt::Error)?;
        Ok(())
    }
}
