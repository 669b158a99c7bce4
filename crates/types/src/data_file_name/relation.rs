//! A segment file of a relation's fork.

use super::folder::DatabaseFolder;
use super::number::decimal;
use super::split_once;
use crate::key::{Fork, RelTag};
use std::fmt;

/// A relation's segment file: its directory, and what its name in there says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelationFile<'a> {
    /// The directory.
    pub folder: DatabaseFolder<'a>,
    /// The relation's file number.
    pub relation: u32,
    /// The fork.
    pub fork: Fork,
    /// Which gibibyte, from 0.
    pub segment: u32,
}

impl<'a> RelationFile<'a> {
    /// A fork's segment file, in a directory of the version's where it is in a tablespace of a user.
    pub fn new(rel: RelTag, segment: u32, version_directory: &'a [u8]) -> RelationFile<'a> {
        let folder = DatabaseFolder::new(rel.tablespace, rel.database, version_directory);
        RelationFile { folder, relation: rel.relation, fork: rel.fork, segment }
    }

    /// The relation and fork.
    pub fn rel(&self) -> RelTag {
        let (tablespace, database) = (self.folder.tablespace(), self.folder.database());
        RelTag { tablespace, database, relation: self.relation, fork: self.fork }
    }

    /// What a file's name in its directory means: `1259_vm.1`.
    pub(super) fn parse(folder: DatabaseFolder<'a>, name: &[u8]) -> Option<RelationFile<'a>> {
        let (name, segment) = split_once(name, b'.');
        let (relation, fork) = match name.iter().position(|byte| *byte == b'_') {
            Some(end) => (&name[..end], fork(&name[end..])?),
            None => (name, Fork::Main),
        };
        let segment = segment.map_or(Some(0), decimal)?;
        Some(RelationFile { folder, relation: decimal(relation)?, fork, segment })
    }
}

/// The fork of a suffix, which is not empty.
fn fork(suffix: &[u8]) -> Option<Fork> {
    Fork::ALL.into_iter().find(|fork| fork.file_suffix().as_bytes() == suffix)
}

impl fmt::Display for RelationFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.folder, self.relation, self.fork.file_suffix())?;
        match self.segment {
            0 => Ok(()),
            segment => write!(f, ".{segment}"),
        }
    }
}
