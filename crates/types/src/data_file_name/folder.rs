//! The directory of a database's relations in a tablespace.

use super::Text;
use super::number::decimal;
use crate::key::RelTag;
use std::fmt;

/// A directory of relations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatabaseFolder<'a> {
    /// `global`, the directory of relations that all databases share.
    Global,
    /// `base/5`.
    Base {
        /// The database.
        database: u32,
    },
    /// `pg_tblspc/16385/PG_15_202209061/5`.
    Tablespace {
        /// The tablespace, which a user made.
        tablespace: u32,
        /// The directory in it that the version of PostgreSQL has.
        version_directory: &'a [u8],
        /// The database.
        database: u32,
    },
}

pub(super) const GLOBAL: &[u8] = b"global";
pub(super) const BASE: &[u8] = b"base";
pub(super) const TABLESPACES: &[u8] = b"pg_tblspc";

impl<'a> DatabaseFolder<'a> {
    /// The directory of a database in a tablespace. `pg_global` has but one, whatever the database is.
    pub fn new(tablespace: u32, database: u32, version_directory: &'a [u8]) -> DatabaseFolder<'a> {
        match tablespace {
            RelTag::GLOBAL_TABLESPACE => DatabaseFolder::Global,
            RelTag::DEFAULT_TABLESPACE => DatabaseFolder::Base { database },
            _ => DatabaseFolder::Tablespace { tablespace, version_directory, database },
        }
    }

    /// The directory with which a path begins, and the name in it if the path is that of a file.
    pub(super) fn parse_prefix(path: &'a [u8]) -> Option<(DatabaseFolder<'a>, Option<&'a [u8]>)> {
        let mut parts = path.split(|byte| *byte == b'/');
        let folder = match parts.next()? {
            GLOBAL => DatabaseFolder::Global,
            BASE => DatabaseFolder::Base { database: decimal(parts.next()?)? },
            TABLESPACES => DatabaseFolder::Tablespace {
                tablespace: decimal(parts.next()?)?,
                version_directory: parts.next()?,
                database: decimal(parts.next()?)?,
            },
            _ => return None,
        };
        let name = parts.next();
        parts.next().is_none().then_some((folder, name))
    }

    /// The tablespace.
    pub fn tablespace(&self) -> u32 {
        match self {
            DatabaseFolder::Global => RelTag::GLOBAL_TABLESPACE,
            DatabaseFolder::Base { .. } => RelTag::DEFAULT_TABLESPACE,
            DatabaseFolder::Tablespace { tablespace, .. } => *tablespace,
        }
    }

    /// The database, 0 for `global`.
    pub fn database(&self) -> u32 {
        match self {
            DatabaseFolder::Global => 0,
            DatabaseFolder::Base { database } | DatabaseFolder::Tablespace { database, .. } => *database,
        }
    }

    /// The directory of a version that is part of the name; none outside of tablespaces of users.
    pub fn version_directory(&self) -> Option<&'a [u8]> {
        match self {
            DatabaseFolder::Tablespace { version_directory, .. } => Some(version_directory),
            _ => None,
        }
    }

    /// No object has number 0, and the tablespaces that every cluster has are not in `pg_tblspc`.
    pub(super) fn has_invalid_number(&self) -> bool {
        let built_in = [0, RelTag::DEFAULT_TABLESPACE, RelTag::GLOBAL_TABLESPACE];
        match self {
            DatabaseFolder::Global => false,
            DatabaseFolder::Base { database } => *database == 0,
            DatabaseFolder::Tablespace { tablespace, database, .. } => *database == 0 || built_in.contains(tablespace),
        }
    }
}

impl fmt::Display for DatabaseFolder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DatabaseFolder::Global => Text(GLOBAL).fmt(f),
            DatabaseFolder::Base { database } => write!(f, "{}/{database}", Text(BASE)),
            DatabaseFolder::Tablespace { tablespace, version_directory, database } => {
                write!(f, "{}/{tablespace}/{}/{database}", Text(TABLESPACES), Text(version_directory))
            }
        }
    }
}
