//! Databases created and dropped. Source: `dbcommands_xlog.h`, `dbcommands.c` (`dbase_redo`).

use super::{numbers, unknown};
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// A database's directory: the database in one tablespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseDirectory {
    /// The database.
    pub database: u32,
    /// The tablespace.
    pub tablespace: u32,
}

/// What a record of the database manager says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DbaseEffect {
    /// Everything in one directory is copied to another, which is emptied first.
    CreateByFileCopy {
        /// The new directory.
        target: DatabaseDirectory,
        /// The template's.
        source: DatabaseDirectory,
    },
    /// An empty directory; its contents follow as records.
    CreateByWal(DatabaseDirectory),
    /// Directories to remove.
    Drop(Vec<DatabaseDirectory>),
}

/// Reads a record of the database manager.
pub fn parse(info: u8, data: &[u8]) -> Result<DbaseEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        XLOG_DBASE_CREATE_FILE_COPY => {
            let target = directory(&mut input)?;
            Ok(DbaseEffect::CreateByFileCopy { target, source: directory(&mut input)? })
        }
        XLOG_DBASE_CREATE_WAL_LOG => Ok(DbaseEffect::CreateByWal(directory(&mut input)?)),
        XLOG_DBASE_DROP => dropped(&mut input),
        other => unknown("database record type", other),
    }
}

fn directory(input: &mut Reader<'_>) -> Result<DatabaseDirectory, CodecError> {
    Ok(DatabaseDirectory { database: input.u32("database")?, tablespace: input.u32("tablespace")? })
}

fn dropped(input: &mut Reader<'_>) -> Result<DbaseEffect, CodecError> {
    let (database, count) = (input.u32("database")?, input.u32("ntablespaces")?);
    let tablespaces = numbers(input, "tablespaces", count)?;
    Ok(DbaseEffect::Drop(
        tablespaces.into_iter().map(|tablespace| DatabaseDirectory { database, tablespace }).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Writer;

    #[test]
    fn a_copy_names_the_target_before_the_source() {
        let mut data = Writer::new();
        data.u32(16384).u32(1663).u32(1).u32(1664);
        let target = DatabaseDirectory { database: 16384, tablespace: 1663 };
        let source = DatabaseDirectory { database: 1, tablespace: 1664 };
        assert_eq!(
            parse(XLOG_DBASE_CREATE_FILE_COPY, data.as_slice()),
            Ok(DbaseEffect::CreateByFileCopy { target, source })
        );
    }

    #[test]
    fn a_drop_lists_every_tablespace() {
        let mut data = Writer::new();
        data.u32(16384).u32(2).u32(1663).u32(17000);
        let directory = |tablespace| DatabaseDirectory { database: 16384, tablespace };
        assert_eq!(
            parse(XLOG_DBASE_DROP, data.as_slice()),
            Ok(DbaseEffect::Drop(vec![directory(1663), directory(17000)]))
        );
    }
}
