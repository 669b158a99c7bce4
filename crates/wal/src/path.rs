//! The files in the data directory that storage knows, by their names ([`quire_types::data_file_name`]).
//!
//! [`DataPath::parse`] and [`DataPath::to_path`] are inverse to each other: a name PostgreSQL would not write (leading
//! zeroes, small letters) is no data path. Neither are temporary relations (`base/5/t3_16384`), which never leave the
//! compute, nor PostgreSQL's scratch files.

use crate::postgres_version::{self, PostgresVersion};
use quire_types::data_file_name::{DataFileName, DatabaseFolder, RelationFile, WalSegmentName};
use quire_types::{RelTag, Slru};

/// A file, or a database's directory, in the data directory. Paths are relative to it.
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
    /// A database's directory: `base/5`; `global` is the one of database 0.
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

impl DataPath {
    /// What the path names in a data directory of `version`, with WAL segments of the default size.
    pub fn parse(path: &str, version: &PostgresVersion) -> Option<DataPath> {
        DataPath::parse_sized(path, version, postgres_version::WAL_SEGMENT_BYTES_DEFAULT)
    }

    /// What the path names, with WAL segments of `segment_bytes`.
    pub fn parse_sized(path: &str, version: &PostgresVersion, segment_bytes: u64) -> Option<DataPath> {
        Some(match DataFileName::parse_exact(path.as_bytes())? {
            DataFileName::Relation(file) => {
                check_version(file.folder, version)?;
                DataPath::Relation { rel: file.rel(), segment: file.segment }
            }
            DataFileName::RelationMap(folder) => {
                let (tablespace, database) = check_version(folder, version)?;
                DataPath::RelationMap { tablespace, database }
            }
            DataFileName::Database(folder) => {
                let (tablespace, database) = check_version(folder, version)?;
                DataPath::Database { tablespace, database }
            }
            DataFileName::Slru { slru, segment, .. } => DataPath::Slru { slru, segment },
            DataFileName::WalSegment(name) => wal_segment(name, segment_bytes)?,
            DataFileName::TwoPhase { xid } => DataPath::TwoPhase { xid },
            DataFileName::ControlFile => DataPath::ControlFile,
            _ => return None,
        })
    }

    /// The path in a data directory of `version`, with WAL segments of the default size.
    pub fn to_path(&self, version: &PostgresVersion) -> String {
        self.to_path_sized(version, postgres_version::WAL_SEGMENT_BYTES_DEFAULT)
    }

    /// The path, with WAL segments of `segment_bytes`.
    ///
    /// # Panics
    /// If `segment_bytes` is 0.
    pub fn to_path_sized(&self, version: &PostgresVersion, segment_bytes: u64) -> String {
        self.name(version, segment_bytes).to_string()
    }

    fn name(&self, version: &PostgresVersion, segment_bytes: u64) -> DataFileName<'static> {
        let directory = version.tablespace_directory.as_bytes();
        let folder = |tablespace, database| DatabaseFolder::new(tablespace, database, directory);
        match *self {
            DataPath::Relation { rel, segment } => DataFileName::Relation(RelationFile::new(rel, segment, directory)),
            DataPath::Slru { slru, segment } => DataFileName::slru(slru, segment),
            DataPath::WalSegment { timeline, segment_number } => {
                DataFileName::WalSegment(WalSegmentName::new(timeline, segment_number, segment_bytes))
            }
            DataPath::RelationMap { tablespace, database } => DataFileName::RelationMap(folder(tablespace, database)),
            DataPath::Database { tablespace, database } => DataFileName::Database(folder(tablespace, database)),
            DataPath::TwoPhase { xid } => DataFileName::TwoPhase { xid },
            DataPath::ControlFile => DataFileName::ControlFile,
        }
    }
}

/// Tablespace and database of a directory, unless it is another version's.
fn check_version(folder: DatabaseFolder<'_>, version: &PostgresVersion) -> Option<(u32, u32)> {
    let ours = version.tablespace_directory.as_bytes();
    let is_ours = folder.version_directory().is_none_or(|directory| directory == ours);
    is_ours.then(|| (folder.tablespace(), folder.database()))
}

/// A segment, unless there is none of the name where segments have this size.
fn wal_segment(name: WalSegmentName, segment_bytes: u64) -> Option<DataPath> {
    if !postgres_version::is_valid_segment_bytes(segment_bytes) {
        return None;
    }
    let (timeline, segment_number) = (name.timeline, name.segment_number(segment_bytes)?);
    let is_canonical = WalSegmentName::new(timeline, segment_number, segment_bytes) == name;
    is_canonical.then_some(DataPath::WalSegment { timeline, segment_number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres_version::PG15;
    use proptest::prelude::*;
    use quire_types::Fork;

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
            assert_eq!(DataPath::parse(path, &PG15), Some(meaning), "{path}");
            assert_eq!(meaning.to_path(&PG15), path);
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
            assert_eq!(DataPath::parse(path, &PG15), None, "{path}");
        }
    }

    #[test]
    fn wal_segment_names_depend_on_the_segment_size() {
        let path = "pg_wal/000000010000000100000FFF";
        let expected = DataPath::WalSegment { timeline: 1, segment_number: 0x1FFF };
        assert_eq!(DataPath::parse_sized(path, &PG15, 1 << 20), Some(expected));
        assert_eq!(expected.to_path_sized(&PG15, 1 << 20), path);
        assert_eq!((DataPath::parse(path, &PG15), DataPath::parse_sized(path, &PG15, 0)), (None, None));
    }

    proptest! {
        #[test]
        fn what_is_understood_is_given_back(path in "(base|global|pg_xact|pg_wal|pg_tblspc)?/?[0-9A-F_a-z./]{0,30}") {
            if let Some(meaning) = DataPath::parse(&path, &PG15) {
                prop_assert_eq!(meaning.to_path(&PG15), path);
            }
        }

        #[test]
        fn any_text_is_survived(path in ".{0,40}") {
            let _ = DataPath::parse(&path, &PG15);
        }
    }
}
