//! The seam between major versions: every constant that another major version of PostgreSQL may change.
//!
//! Record layouts belong here too, in spirit: a second version gets its own [`Version`] value and, where the layouts of
//! resource managers differ, its own constants beside [`crate::rmgr`]. What changed from one minor version to the next
//! is not here but where it matters, by [`ServerVersion`].

use crate::ServerVersion;

/// What Quire needs to know of one major version of PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The major version, as in the file `PG_VERSION`.
    pub major: u32,
    /// `XLOG_PAGE_MAGIC`: first two bytes of every WAL page.
    pub wal_page_magic: u16,
    /// `PG_CONTROL_VERSION`: the layout of `pg_control`.
    pub control_version: u32,
    /// `TABLESPACE_VERSION_DIRECTORY`: the folder below a tablespace's own that holds this version's files. It ends in
    /// the catalog version, which is fixed for all released minor versions.
    pub tablespace_directory: &'static str,
    /// The newest minor version on which redo was compared (`docs/redo-coverage.md`).
    pub newest_tested: ServerVersion,
    /// Older ones that were not to be had, and of which it is not known on which side of a change of redo they are.
    pub doubtful: &'static [ServerVersion],
}

/// PostgreSQL 15.
pub const PG15: Version = Version {
    major: 15,
    wal_page_magic: 0xD110,
    control_version: 1300,
    tablespace_directory: "PG_15_202209061",
    newest_tested: ServerVersion::new(15, 20),
    doubtful: &[ServerVersion::new(15, 19)],
};

/// The version this build of Quire serves.
pub const CURRENT: Version = PG15;

impl Version {
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
