//! What storage keeps versions of: pages, sizes, listings and small files, all under one ordered key.
//!
//! A key is 18 bytes whose order as bytes is its order as a value, so that a relation's blocks are neighbours, a
//! database's relations are a range, and a layer file needs no comparator. `docs/format.md` gives the layout.

use crate::codec::{CodecError, Reader};
use std::fmt;

/// A fork of a relation (`ForkNumber`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Fork {
    /// The data itself.
    Main = 0,
    /// The free space map.
    FreeSpaceMap = 1,
    /// The visibility map.
    VisibilityMap = 2,
    /// What an unlogged relation is reset to.
    Init = 3,
}

impl Fork {
    /// All forks, in PostgreSQL's order.
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::FreeSpaceMap, Fork::VisibilityMap, Fork::Init];

    /// From PostgreSQL's number.
    pub fn from_number(number: u8) -> Option<Fork> {
        Fork::ALL.get(usize::from(number)).copied()
    }

    /// The suffix of its file names: empty, `_fsm`, `_vm`, `_init`.
    pub fn file_suffix(self) -> &'static str {
        ["", "_fsm", "_vm", "_init"][self as usize]
    }
}

/// One fork of one relation: what PostgreSQL calls a relation file node and a fork number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelTag {
    /// Tablespace: 1663 is `pg_default`, 1664 is `pg_global`.
    pub tablespace: u32,
    /// Database, 0 for shared relations.
    pub database: u32,
    /// The relation's file number (`relfilenode`).
    pub relation: u32,
    /// Which of its forks.
    pub fork: Fork,
}

impl RelTag {
    /// `pg_default`.
    pub const DEFAULT_TABLESPACE: u32 = 1663;
    /// `pg_global`.
    pub const GLOBAL_TABLESPACE: u32 = 1664;

    /// The same relation's other fork.
    #[must_use]
    pub fn with_fork(self, fork: Fork) -> RelTag {
        RelTag { fork, ..self }
    }
}

impl RelTag {
    /// None sorts before it.
    pub const FIRST: RelTag = RelTag { tablespace: 0, database: 0, relation: 0, fork: Fork::Main };

    /// None sorts after it.
    pub const LAST: RelTag = RelTag { tablespace: u32::MAX, database: u32::MAX, relation: u32::MAX, fork: Fork::Init };
}

impl fmt::Display for RelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}{}", self.tablespace, self.database, self.relation, self.fork.file_suffix())
    }
}

/// A simple LRU area: a family of page files outside relations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Slru {
    /// Commit status, two bits a transaction: `pg_xact`.
    Clog = 0,
    /// Where each multixact's members begin: `pg_multixact/offsets`.
    MultixactOffsets = 1,
    /// The members: `pg_multixact/members`.
    MultixactMembers = 2,
    /// Commit timestamps: `pg_commit_ts`.
    CommitTs = 3,
}

impl Slru {
    /// All areas that are logged.
    pub const ALL: [Slru; 4] = [Slru::Clog, Slru::MultixactOffsets, Slru::MultixactMembers, Slru::CommitTs];

    /// From the number in a key or message.
    pub fn from_number(number: u8) -> Option<Slru> {
        Slru::ALL.get(usize::from(number)).copied()
    }

    /// Its directory in the data directory.
    pub fn directory(self) -> &'static str {
        ["pg_xact", "pg_multixact/offsets", "pg_multixact/members", "pg_commit_ts"][self as usize]
    }
}

/// What a version is kept of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// A page of a relation. Value: page image or delta.
    RelBlock {
        /// The relation's fork.
        rel: RelTag,
        /// The block in the fork, across segment files.
        block: u32,
    },
    /// How many blocks a fork has; its presence is the fork's existence. Value: `u32`, or a tombstone.
    RelSize {
        /// The relation's fork.
        rel: RelTag,
    },
    /// A page of an SLRU area. Value: page image or delta.
    SlruBlock {
        /// The area.
        slru: Slru,
        /// Page number in the area, across segment files.
        page: u32,
    },
    /// How many pages an SLRU segment file has; its presence is the file's existence. Value: `u32`, or a tombstone.
    SlruSegment {
        /// The area.
        slru: Slru,
        /// Segment number (page number / 32).
        segment: u32,
    },
    /// A database exists in a tablespace. Value: empty, or a tombstone.
    Database {
        /// Tablespace of its default relations.
        tablespace: u32,
        /// The database.
        database: u32,
    },
    /// A `pg_filenode.map`; database 0 is the shared one. Value: the file, or a tombstone.
    RelMap {
        /// Tablespace.
        tablespace: u32,
        /// Database, 0 for the shared map.
        database: u32,
    },
    /// The state file of a prepared transaction. Value: the file, or a tombstone.
    TwoPhase {
        /// Its transaction id.
        xid: u32,
    },
    /// `global/pg_control` as imported; what changes of it is in [`Key::Checkpoint`]. Value: the file.
    ControlFile,
    /// What a shutdown checkpoint at this LSN would say. Value: `quire_wal::CheckpointState`.
    Checkpoint,
    /// What the branch is told by its WAL: whether full-page writes are on, and since when. Value: see
    /// `docs/format.md`.
    FullPageWrites,
    /// Progress of a replication origin. Value: two LSNs, remote then local, or a tombstone.
    ReplicationOrigin {
        /// The origin's number.
        origin: u16,
    },
    /// A tablespace that a user made. Value: the location it was made with, empty for one in the data directory, or a
    /// tombstone.
    Tablespace {
        /// Its number.
        tablespace: u32,
    },
    /// Which server writes the log from here on. Value: `quire_wal::ServerVersion`.
    ServerVersion,
}

/// Bytes in an encoded key.
pub const KEY_BYTES: usize = 18;

impl Key {
    /// No key sorts after it.
    pub const LAST: Key = Key::ServerVersion;

    /// The keys whose values are no pages, as ranges with their first and last key.
    pub const VALUES: [(Key, Key); 2] =
        [(Key::RelSize { rel: RelTag::FIRST }, Key::RelSize { rel: RelTag::LAST }), Key::SMALL];

    /// The keys that are neither pages nor sizes of relations: their number grows with databases, not with data.
    pub const SMALL: (Key, Key) = (Key::SlruSegment { slru: Slru::Clog, segment: 0 }, Key::LAST);

    /// The sizes of a database's relations with numbers from the first to the last of `relations`.
    pub fn sizes_of(tablespace: u32, database: u32, relations: (u32, u32)) -> (Key, Key) {
        let key = |relation, fork| Key::RelSize { rel: RelTag { tablespace, database, relation, fork } };
        (key(relations.0, Fork::Main), key(relations.1, Fork::Init))
    }

    /// The 18 bytes, big-endian inside so that they sort: kind, three `u32`, fork or area, `u32`.
    pub fn encode(self) -> [u8; KEY_BYTES] {
        let (kind, a, b, c, d, e) = self.fields();
        let mut raw = [0; KEY_BYTES];
        raw[0] = kind;
        raw[1..5].copy_from_slice(&a.to_be_bytes());
        raw[5..9].copy_from_slice(&b.to_be_bytes());
        raw[9..13].copy_from_slice(&c.to_be_bytes());
        raw[13] = d;
        raw[14..18].copy_from_slice(&e.to_be_bytes());
        raw
    }

    fn fields(self) -> (u8, u32, u32, u32, u8, u32) {
        match self {
            Key::RelBlock { rel, block } => (0, rel.tablespace, rel.database, rel.relation, rel.fork as u8, block),
            Key::RelSize { rel } => (1, rel.tablespace, rel.database, rel.relation, rel.fork as u8, 0),
            Key::SlruBlock { slru, page } => (2, 0, 0, 0, slru as u8, page),
            Key::SlruSegment { slru, segment } => (3, 0, 0, 0, slru as u8, segment),
            Key::Database { tablespace, database } => (4, tablespace, database, 0, 0, 0),
            Key::RelMap { tablespace, database } => (5, tablespace, database, 0, 0, 0),
            Key::TwoPhase { xid } => (6, 0, 0, 0, 0, xid),
            Key::ControlFile => (7, 0, 0, 0, 0, 0),
            Key::Checkpoint => (8, 0, 0, 0, 0, 0),
            Key::FullPageWrites => (9, 0, 0, 0, 0, 0),
            Key::ReplicationOrigin { origin } => (10, 0, 0, 0, 0, u32::from(origin)),
            Key::Tablespace { tablespace } => (12, tablespace, 0, 0, 0, 0),
            Key::ServerVersion => (13, 0, 0, 0, 0, 0),
        }
    }

    /// Reads back what [`Key::encode`] wrote.
    pub fn decode(raw: &[u8]) -> Result<Key, CodecError> {
        let mut reader = Reader::new(raw);
        let kind = reader.u8("key kind")?;
        let mut big = |field| Ok(u32::from_be_bytes(reader.array(field)?));
        let (tablespace, database, relation) = (big("tablespace")?, big("database")?, big("relation")?);
        let small = reader.u8("fork")?;
        let last = u32::from_be_bytes(reader.array("block")?);
        reader.finish()?;
        let rel = || {
            let fork = Fork::from_number(small).ok_or(CodecError::Invalid { field: "fork", value: small.into() })?;
            Ok::<_, CodecError>(RelTag { tablespace, database, relation, fork })
        };
        let slru = || Slru::from_number(small).ok_or(CodecError::Invalid { field: "slru", value: small.into() });
        Ok(match kind {
            0 => Key::RelBlock { rel: rel()?, block: last },
            1 => Key::RelSize { rel: rel()? },
            2 => Key::SlruBlock { slru: slru()?, page: last },
            3 => Key::SlruSegment { slru: slru()?, segment: last },
            4 => Key::Database { tablespace, database },
            5 => Key::RelMap { tablespace, database },
            6 => Key::TwoPhase { xid: last },
            7 => Key::ControlFile,
            8 => Key::Checkpoint,
            9 => Key::FullPageWrites,
            10 => Key::ReplicationOrigin {
                origin: u16::try_from(last).map_err(|_| CodecError::Invalid { field: "origin", value: last.into() })?,
            },
            12 => Key::Tablespace { tablespace },
            13 => Key::ServerVersion,
            other => return Err(CodecError::Invalid { field: "key kind", value: other.into() }),
        })
    }

    /// Whether its versions are 8 KiB pages (and so have chains and images).
    pub fn is_page(self) -> bool {
        matches!(self, Key::RelBlock { .. } | Key::SlruBlock { .. })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::RelBlock { rel, block } => write!(f, "relation {rel} block {block}"),
            Key::RelSize { rel } => write!(f, "relation {rel} size"),
            Key::SlruBlock { slru, page } => write!(f, "{} page {page}", slru.directory()),
            Key::SlruSegment { slru, segment } => write!(f, "{} segment {segment:04X}", slru.directory()),
            Key::Database { tablespace, database } => write!(f, "database {tablespace}/{database}"),
            Key::RelMap { tablespace, database } => write!(f, "relation map {tablespace}/{database}"),
            Key::TwoPhase { xid } => write!(f, "prepared transaction {xid}"),
            Key::ControlFile => write!(f, "pg_control"),
            Key::Checkpoint => write!(f, "checkpoint state"),
            Key::FullPageWrites => write!(f, "full-page-writes state"),
            Key::ReplicationOrigin { origin } => write!(f, "replication origin {origin}"),
            Key::Tablespace { tablespace } => write!(f, "tablespace {tablespace}"),
            Key::ServerVersion => write!(f, "server version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        (0u8..13, any::<u32>(), any::<u32>(), any::<u32>(), 0u8..4, any::<u32>()).prop_map(|(kind, a, b, c, d, e)| {
            let rel = RelTag { tablespace: a, database: b, relation: c, fork: Fork::ALL[usize::from(d)] };
            let slru = Slru::ALL[usize::from(d)];
            match kind {
                0 => Key::RelBlock { rel, block: e },
                1 => Key::RelSize { rel },
                2 => Key::SlruBlock { slru, page: e },
                3 => Key::SlruSegment { slru, segment: e },
                4 => Key::Database { tablespace: a, database: b },
                5 => Key::RelMap { tablespace: a, database: b },
                6 => Key::TwoPhase { xid: e },
                7 => Key::ControlFile,
                8 => Key::Checkpoint,
                9 => Key::FullPageWrites,
                10 => Key::ReplicationOrigin { origin: e as u16 },
                11 => Key::Tablespace { tablespace: a },
                _ => Key::ServerVersion,
            }
        })
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_keeps_the_order(a in any_key(), b in any_key()) {
            prop_assert_eq!(Key::decode(&a.encode()), Ok(a));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn every_key_is_a_page_or_in_exactly_one_range_of_values(key in any_key()) {
            let ranges = Key::VALUES.iter().filter(|(first, last)| (*first..=*last).contains(&key)).count();
            prop_assert_eq!(ranges, usize::from(!key.is_page()));
            let is_small = (Key::SMALL.0..=Key::SMALL.1).contains(&key);
            prop_assert_eq!(is_small, !key.is_page() && !matches!(key, Key::RelSize { .. }));
            if let Key::RelSize { rel } = key {
                let (first, last) = Key::sizes_of(rel.tablespace, rel.database, (rel.relation, rel.relation));
                prop_assert!((first..=last).contains(&key));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Key::decode(&raw);
        }
    }
}
