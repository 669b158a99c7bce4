//! The seam between major versions: every constant that another major version of PostgreSQL may change.
//!
//! A version is a value that travels: it is found once, in [`SUPPORTED`], by a fact that names it (`PG_VERSION`,
//! `pg_control`, `postgres --version`, a WAL page), and handed to what depends on it.
//!
//! Record layouts belong here too, in spirit: a second version gets its own [`PostgresVersion`] value and, where the
//! layouts of resource managers differ, its own constants beside [`crate::rmgr`]. What changed from one minor version
//! to the next is not here but where it matters, by [`ServerVersion`].

use crate::ServerVersion;
use std::fmt;

/// What Quire needs to know of one major version of PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PostgresVersion {
    /// The major version, as in the file `PG_VERSION`.
    pub major: u32,
    /// `XLOG_PAGE_MAGIC`: first two bytes of every WAL page.
    pub wal_page_magic: u16,
    /// `PG_CONTROL_VERSION`: the layout of `pg_control`.
    pub control_version: u32,
    /// `TABLESPACE_VERSION_DIRECTORY`: the directory below a tablespace's own that holds this version's files. It ends
    /// in the catalog version, which is fixed for all released minor versions.
    pub tablespace_directory: &'static str,
    /// The newest minor version on which redo was compared (`docs/redo-coverage.md`).
    pub newest_tested: ServerVersion,
    /// Older ones that were not to be had, and of which it is not known on which side of a change of redo they are.
    pub doubtful: &'static [ServerVersion],
}

/// PostgreSQL 15.
pub const PG15: PostgresVersion = PostgresVersion {
    major: 15,
    wal_page_magic: 0xD110,
    control_version: 1300,
    tablespace_directory: "PG_15_202209061",
    newest_tested: ServerVersion::new(15, 20),
    doubtful: &[ServerVersion::new(15, 19)],
};

/// The versions that Quire serves.
pub static SUPPORTED: PostgresVersions = PostgresVersions::new(&[PG15]);

/// A table of versions, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PostgresVersions(&'static [PostgresVersion]);

impl PostgresVersions {
    /// A table.
    pub const fn new(oldest_first: &'static [PostgresVersion]) -> PostgresVersions {
        PostgresVersions(oldest_first)
    }

    /// By the major version, as in the file `PG_VERSION`.
    pub fn of_major(&self, major: u32) -> Option<&'static PostgresVersion> {
        self.0.iter().find(|version| version.major == major)
    }

    /// By a server's full version.
    pub fn of_server(&self, server: ServerVersion) -> Option<&'static PostgresVersion> {
        self.of_major(server.major())
    }

    /// By the first two bytes of a WAL page.
    pub fn of_wal_page_magic(&self, magic: u16) -> Option<&'static PostgresVersion> {
        self.0.iter().find(|version| version.wal_page_magic == magic)
    }

    /// By the layout of `pg_control`, as the file names it.
    pub fn of_control_version(&self, control_version: u32) -> Option<&'static PostgresVersion> {
        self.0.iter().find(|version| version.control_version == control_version)
    }

    /// The newest of them.
    pub fn newest(&self) -> &'static PostgresVersion {
        self.0.last().expect("a table has at least one version")
    }

    /// All of them.
    pub fn newest_first(&self) -> impl Iterator<Item = &'static PostgresVersion> + use<> {
        self.0.iter().rev()
    }
}

impl fmt::Display for PostgresVersions {
    /// The major versions, such as `15, 16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, version) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", version.major)?;
        }
        Ok(())
    }
}

impl PostgresVersion {
    /// Why redo of what this server writes is not known to be right, in words; none if it is.
    pub fn doubts(&self, server: ServerVersion) -> Option<String> {
        let newest = self.newest_tested;
        match server {
            _ if server > newest => Some(format!("PostgreSQL {server} is newer than {newest}, the newest tested")),
            _ if self.doubtful.contains(&server) => Some(format!("PostgreSQL {server} was not tested")),
            _ => None,
        }
    }
}

/// `wal_segment_size` unless `initdb --wal-segsize` said otherwise: 16 MiB.
pub const WAL_SEGMENT_BYTES_DEFAULT: u64 = 16 << 20;

/// Whether PostgreSQL accepts this as `wal_segment_size` (`IsValidWalSegSize`): a power of two, 1 MiB to 1 GiB.
pub fn is_valid_segment_bytes(segment_bytes: u64) -> bool {
    segment_bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&segment_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ControlFile, ControlFileError, DataPath};
    use quire_types::{Fork, RelTag};

    const NEXT: PostgresVersion = PostgresVersion {
        major: 99,
        wal_page_magic: 0xD199,
        control_version: 9900,
        tablespace_directory: "PG_99_209912311",
        newest_tested: ServerVersion::new(99, 1),
        doubtful: &[],
    };
    static TABLE: PostgresVersions = PostgresVersions::new(&[PG15, NEXT]);

    #[test]
    fn a_version_is_found_by_each_fact_that_names_it() {
        assert_eq!(TABLE.of_major(99), Some(&NEXT));
        assert_eq!(TABLE.of_server(ServerVersion::new(99, 2)), Some(&NEXT));
        assert_eq!((TABLE.of_control_version(9900), TABLE.of_wal_page_magic(0xD199)), (Some(&NEXT), Some(&NEXT)));
        assert_eq!(TABLE.of_control_version(1300), Some(&PG15));
        assert_eq!((TABLE.newest(), TABLE.newest_first().count()), (&NEXT, 2));
        assert_eq!((TABLE.of_major(14), SUPPORTED.of_major(99)), (None, None));
        assert_eq!((TABLE.to_string(), SUPPORTED.to_string()), ("15, 99".into(), "15".into()));
    }

    #[test]
    fn an_entry_in_the_table_is_all_that_names_and_control_files_need() {
        let path = "pg_tblspc/16385/PG_99_209912311/5/1259_vm.1";
        let rel = RelTag { tablespace: 16385, database: 5, relation: 1259, fork: Fork::VisibilityMap };
        let relation = DataPath::Relation { rel, segment: 1 };
        assert_eq!((DataPath::parse(path, &NEXT), DataPath::parse(path, &PG15)), (Some(relation), None));
        assert_eq!(relation.to_path(&NEXT), path);
        let mut control = ControlFile { version: &NEXT, ..ControlFile::sample() };
        assert_eq!(ControlFile::parse_among(TABLE, &control.to_bytes()), Ok(control));
        let unsupported = ControlFileError::Version { found: 9900, supported: SUPPORTED };
        assert_eq!(ControlFile::parse(&control.to_bytes()), Err(unsupported));
        control.version = &PG15;
        assert_eq!(ControlFile::parse_among(TABLE, &control.to_bytes()), Ok(control));
    }

    #[test]
    fn the_table_is_in_order_and_no_fact_names_two_versions() {
        for pair in SUPPORTED.0.windows(2) {
            assert!(pair[0].major < pair[1].major && pair[0].control_version < pair[1].control_version);
        }
        assert!(SUPPORTED.0.iter().all(|version| version.newest_tested.major() == version.major));
    }

    #[test]
    fn a_server_newer_than_any_tested_one_is_doubted() {
        let doubts = |minor| PG15.doubts(ServerVersion::new(15, minor));
        assert_eq!((doubts(0), doubts(18), doubts(20)), (None, None, None));
        assert_eq!(doubts(21).as_deref(), Some("PostgreSQL 15.21 is newer than 15.20, the newest tested"));
        assert_eq!(doubts(19).as_deref(), Some("PostgreSQL 15.19 was not tested"));
    }

    #[test]
    fn segment_sizes_are_powers_of_two_from_one_mebibyte_to_one_gibibyte() {
        for good in [1 << 20, WAL_SEGMENT_BYTES_DEFAULT, 1 << 30] {
            assert!(is_valid_segment_bytes(good), "{good}");
        }
        for bad in [0, 1, 1 << 19, 3 << 20, 1 << 31] {
            assert!(!is_valid_segment_bytes(bad), "{bad}");
        }
    }
}
