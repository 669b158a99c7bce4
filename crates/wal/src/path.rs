//! Names of files in the data directory that storage knows. Source: `relpath.c`, `slru.c`, `xlog_internal.h`,
//! `twophase.c`, `relmapper.c`.
//!
//! [`DataPath::parse`] and [`DataPath::to_path`] are inverse to each other: a name PostgreSQL would not write (leading
//! zeroes, small letters) is no data path. Neither are temporary relations (`base/5/t3_16384`), which never leave the
//! compute, nor PostgreSQL's scratch files.

use crate::version;
use quire_types::lsn::segment_file_name;
use quire_types::{Fork, RelTag, Slru};

/// A file, or a database's folder, in the data directory. Paths are relative to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataPath {
    /// A segment file of a relation fork: `base/5/1259_vm.1`, `global/1262`, `pg_tblspc/16385/PG_15_202209061/5/1259`.
    Relation {
        /// The relation and fork.
        rel: RelTag,
        /// Which gibibyte, from 0.
        segment: u32,
    },
    /// A segment file of an SLRU area: `pg_xact/0000`.
    Slru {
        /// The area.
        slru: Slru,
        /// Segment number.
        segment: u32,
    },
    /// A WAL segment: `pg_wal/000000010000000000000001`.
    WalSegment {
        /// Timeline.
        timeline: u32,
        /// Number of the segment in the log, from 0.
        segment_number: u64,
    },
    /// A relation map: `base/5/pg_filenode.map`, `global/pg_filenode.map`.
    RelationMap {
        /// Tablespace.
        tablespace: u32,
        /// Database, 0 for the shared map.
        database: u32,
    },
    /// A database's folder: `base/5`; `global` is the one of database 0.
    Database {
        /// Tablespace.
        tablespace: u32,
        /// Database, 0 for `global`.
        database: u32,
    },
    /// State of a prepared transaction: `pg_twophase/0000028A`.
    TwoPhase {
        /// Its transaction id.
        xid: u32,
    },
    /// `global/pg_control`.
    ControlFile,
}

const RELATION_MAP: &str = "pg_filenode.map";

impl DataPath {
    /// What the path names, with WAL segments of the default size.
    pub fn parse(path: &str) -> Option<DataPath> {
        DataPath::parse_sized(path, version::WAL_SEGMENT_BYTES_DEFAULT)
    }

    /// What the path names, with WAL segments of `segment_bytes`.
    pub fn parse_sized(path: &str, segment_bytes: u64) -> Option<DataPath> {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        if path == "global/pg_control" {
            return Some(DataPath::ControlFile);
        }
        if let Some((tablespace, database)) = parse_database(path) {
            return Some(DataPath::Database { tablespace, database });
        }
        if let Some((tablespace, database)) = parse_database(folder) {
            return parse_relation_file(file, tablespace, database);
        }
        match folder {
            "pg_wal" => parse_wal_segment(file, segment_bytes),
            "pg_twophase" => Some(DataPath::TwoPhase { xid: hexadecimal(file, 8)? }),
            _ => {
                let slru = Slru::ALL.into_iter().find(|slru| slru.directory() == folder)?;
                Some(DataPath::Slru { slru, segment: parse_slru_segment(file)? })
            }
        }
    }

    /// The path, with WAL segments of the default size.
    pub fn to_path(&self) -> String {
        self.to_path_sized(version::WAL_SEGMENT_BYTES_DEFAULT)
    }

    /// The path, with WAL segments of `segment_bytes`.
    ///
    /// # Panics
    /// If `segment_bytes` is 0.
    pub fn to_path_sized(&self, segment_bytes: u64) -> String {
        match *self {
            DataPath::Relation { rel, segment } => {
                let RelTag { tablespace, database, relation, fork } = rel;
                let suffix = if segment == 0 { String::new() } else { format!(".{segment}") };
                format!("{}/{relation}{}{suffix}", database_folder(tablespace, database), fork.file_suffix())
            }
            DataPath::Slru { slru, segment } => format!("{}/{segment:04X}", slru.directory()),
            DataPath::WalSegment { timeline, segment_number } => {
                format!("pg_wal/{}", segment_file_name(timeline, segment_number, segment_bytes))
            }
            DataPath::RelationMap { tablespace, database } => {
                format!("{}/{RELATION_MAP}", database_folder(tablespace, database))
            }
            DataPath::Database { tablespace, database } => database_folder(tablespace, database),
            DataPath::TwoPhase { xid } => format!("pg_twophase/{xid:08X}"),
            DataPath::ControlFile => "global/pg_control".into(),
        }
    }
}

/// The folder of a database's relations in a tablespace; database 0 of `pg_global` is `global`.
pub fn database_folder(tablespace: u32, database: u32) -> String {
    match tablespace {
        RelTag::GLOBAL_TABLESPACE => "global".into(),
        RelTag::DEFAULT_TABLESPACE => format!("base/{database}"),
        _ => format!("pg_tblspc/{tablespace}/{}/{database}", version::CURRENT.tablespace_directory),
    }
}

/// Tablespace and database of a folder of relations.
fn parse_database(folder: &str) -> Option<(u32, u32)> {
    let mut names = folder.split('/');
    let found = match names.next()? {
        "global" => (RelTag::GLOBAL_TABLESPACE, 0),
        "base" => (RelTag::DEFAULT_TABLESPACE, decimal(names.next()?)?),
        "pg_tblspc" => {
            let tablespace = decimal(names.next()?)?;
            names.next().filter(|&name| name == version::CURRENT.tablespace_directory)?;
            (tablespace, decimal(names.next()?)?)
        }
        _ => return None,
    };
    // The two built-in tablespaces have folders of their own, never a link in pg_tblspc.
    let is_canonical = names.next().is_none() && database_folder(found.0, found.1) == folder;
    is_canonical.then_some(found)
}

fn parse_relation_file(file: &str, tablespace: u32, database: u32) -> Option<DataPath> {
    if file == RELATION_MAP {
        return Some(DataPath::RelationMap { tablespace, database });
    }
    let (name, segment) = match file.split_once('.') {
        Some((name, segment)) => (name, decimal(segment)?),
        None => (file, 0),
    };
    let (relation, fork) = match name.find('_') {
        Some(end) => (&name[..end], parse_fork(&name[end..])?),
        None => (name, Fork::Main),
    };
    Some(DataPath::Relation { rel: RelTag { tablespace, database, relation: decimal(relation)?, fork }, segment })
}

/// The fork of a suffix such as `_vm`, which is not empty.
fn parse_fork(suffix: &str) -> Option<Fork> {
    Fork::ALL.into_iter().find(|fork| fork.file_suffix() == suffix)
}

fn parse_wal_segment(file: &str, segment_bytes: u64) -> Option<DataPath> {
    if file.len() != 24 || !version::is_valid_segment_bytes(segment_bytes) {
        return None;
    }
    let part = |start: usize| hexadecimal(file.get(start..start + 8)?, 8);
    let (timeline, log, segment) = (part(0)?, u64::from(part(8)?), u64::from(part(16)?));
    let segments_per_log = 0x1_0000_0000 / segment_bytes;
    let segment_number = log * segments_per_log + segment;
    (segment < segments_per_log).then_some(DataPath::WalSegment { timeline, segment_number })
}

/// At least four digits; more than four have no leading zero.
fn parse_slru_segment(file: &str) -> Option<u32> {
    let is_padded = file.len() > 4 && file.starts_with('0');
    if is_padded || !(4..=8).contains(&file.len()) { None } else { hexadecimal(file, file.len()) }
}

/// A number from 1, without sign or leading zero.
fn decimal(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

/// A number of exactly `digits` digits, at most eight, in capitals.
fn hexadecimal(text: &str, digits: usize) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if text.len() == digits && is_plain { u32::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relation(tablespace: u32, database: u32, relation: u32, fork: Fork, segment: u32) -> DataPath {
        DataPath::Relation { rel: RelTag { tablespace, database, relation, fork }, segment }
    }

    #[test]
    fn names_postgresql_writes_are_understood_and_given_back() {
        let known = [
            ("base/5/1259", relation(1663, 5, 1259, Fork::Main, 0)),
            ("base/5/1259_vm.1", relation(1663, 5, 1259, Fork::VisibilityMap, 1)),
            ("base/5/16384_init", relation(1663, 5, 16384, Fork::Init, 0)),
            ("global/1262_fsm", relation(1664, 0, 1262, Fork::FreeSpaceMap, 0)),
            ("pg_tblspc/16385/PG_15_202209061/5/99.12", relation(16385, 5, 99, Fork::Main, 12)),
            ("pg_xact/0000", DataPath::Slru { slru: Slru::Clog, segment: 0 }),
            ("pg_multixact/members/1A2B3", DataPath::Slru { slru: Slru::MultixactMembers, segment: 0x1A2B3 }),
            ("pg_wal/000000010000000200000003", DataPath::WalSegment { timeline: 1, segment_number: 0x203 }),
            ("base/5/pg_filenode.map", DataPath::RelationMap { tablespace: 1663, database: 5 }),
            ("global/pg_filenode.map", DataPath::RelationMap { tablespace: 1664, database: 0 }),
            ("global", DataPath::Database { tablespace: 1664, database: 0 }),
            ("base/16384", DataPath::Database { tablespace: 1663, database: 16384 }),
            ("pg_tblspc/16385/PG_15_202209061/5", DataPath::Database { tablespace: 16385, database: 5 }),
            ("pg_twophase/0000028A", DataPath::TwoPhase { xid: 0x28A }),
            ("global/pg_control", DataPath::ControlFile),
        ];
        for (path, meaning) in known {
            assert_eq!(DataPath::parse(path), Some(meaning), "{path}");
            assert_eq!(meaning.to_path(), path);
        }
    }

    #[test]
    fn names_storage_does_not_know_are_no_data_paths() {
        let unknown = [
            "",
            "/",
            "base",
            "base/",
            "base/5/",
            "base/5/t3_16384",
            "base/5/PG_VERSION",
            "base/5/01259",
            "base/5/1259.0",
            "base/5/1259_",
            "base/5/1259_xx",
            "base/5/+1",
            "base/5/1259/1",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/4294967296/1",
            "global/pg_internal.init",
            "pg_tblspc/16385/PG_14_202107181/5/1",
            "pg_tblspc/1663/PG_15_202209061/5/1",
            "pg_wal/archive_status",
            "pg_wal/00000001000000000000000a",
            "pg_wal/000000010000000000000100",
            "pg_wal/000000010000000000000001.partial",
            "pg_xact/000",
            "pg_xact/00001",
            "pg_subtrans/0000",
            "postgresql.conf",
        ];
        for path in unknown {
            assert_eq!(DataPath::parse(path), None, "{path}");
        }
    }

    #[test]
    fn wal_segment_names_depend_on_the_segment_size() {
        let path = "pg_wal/000000010000000100000FFF";
        let expected = DataPath::WalSegment { timeline: 1, segment_number: 0x1FFF };
        assert_eq!(DataPath::parse_sized(path, 1 << 20), Some(expected));
        assert_eq!(expected.to_path_sized(1 << 20), path);
        assert_eq!((DataPath::parse(path), DataPath::parse_sized(path, 0)), (None, None));
    }

    proptest! {
        #[test]
        fn what_is_understood_is_given_back(path in "(base|global|pg_xact|pg_wal|pg_tblspc)?/?[0-9A-F_a-z./]{0,30}") {
            if let Some(meaning) = DataPath::parse(&path) {
                prop_assert_eq!(meaning.to_path(), path);
            }
        }

        #[test]
        fn any_text_is_survived(path in ".{0,40}") {
            let _ = DataPath::parse(&path);
        }
    }
}
