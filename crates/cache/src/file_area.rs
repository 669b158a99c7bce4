//! Which of PostgreSQL's files storage keeps whole.

use quire_types::DataFileName;

/// Files of PostgreSQL's that it flushes and does not log, by where they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum FileArea {
    /// Replication slots: `pg_replslot/<slot>/state`.
    Slots = 0,
    /// Snapshots of logical decoding: `pg_logical/snapshots`.
    Snapshots = 1,
    /// What rewritten catalogs looked like before: `pg_logical/mappings`.
    Mappings = 2,
    /// What `ALTER SYSTEM` set: `postgresql.auto.conf`.
    Settings = 3,
}

impl FileArea {
    /// All areas.
    pub const ALL: [FileArea; 4] = [FileArea::Slots, FileArea::Snapshots, FileArea::Mappings, FileArea::Settings];

    /// From its number in a message.
    pub fn from_number(number: u32) -> Option<FileArea> {
        FileArea::ALL.into_iter().find(|area| *area as u32 == number)
    }

    /// The area in which a file is, or a directory of such files; by its normalised path below the data directory.
    pub fn of_path(path: &[u8]) -> Option<FileArea> {
        FileArea::of_name(&DataFileName::parse(path)?)
    }

    /// The area of a file, or of a directory of such files.
    pub fn of_name(name: &DataFileName<'_>) -> Option<FileArea> {
        match name {
            DataFileName::ReplicationSlot(_) => Some(FileArea::Slots),
            DataFileName::LogicalSnapshot(_) => Some(FileArea::Snapshots),
            DataFileName::LogicalMapping(_) => Some(FileArea::Mappings),
            DataFileName::AutoConf => Some(FileArea::Settings),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_storage_keeps_are_told_from_unfinished_and_other_ones() {
        for (path, area) in [
            ("pg_replslot", FileArea::Slots),
            ("pg_replslot/a", FileArea::Slots),
            ("pg_replslot/a/state", FileArea::Slots),
            ("pg_logical/snapshots", FileArea::Snapshots),
            ("pg_logical/snapshots/0-1500028.snap", FileArea::Snapshots),
            ("pg_logical/mappings/map-5-4e2-0_15A0-2f1-2f1", FileArea::Mappings),
            ("postgresql.auto.conf", FileArea::Settings),
        ] {
            assert_eq!(FileArea::of_path(path.as_bytes()), Some(area), "{path}");
        }
        for path in [
            "pg_replslot/a.tmp",
            "pg_replslot/a.tmp/state",
            "pg_replslot/a/state.tmp",
            "pg_logical/snapshots/0-1500028.snap.17.tmp",
            "pg_logical/replorigin_checkpoint",
            "pg_logical",
            "postgresql.auto.conf.tmp",
            "postgresql.conf",
            "",
        ] {
            assert_eq!(FileArea::of_path(path.as_bytes()), None, "{path}");
        }
    }
}
