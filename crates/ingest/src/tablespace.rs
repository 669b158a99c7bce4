//! Tablespaces created and dropped, and the directories that databases have in them.
//!
//! The log has records of tablespaces, but none of a database's directory in one: PostgreSQL makes that with the first
//! relation in it. A compute has to know which directories there are, so the first relation makes the directory's key
//! as well ([`Batch::extend_relation`]).

use crate::changes::Batch;
use crate::database;
use crate::error::IngestError;
use quire_types::Key;
use quire_wal::effects::dbase::DatabaseDirectory;
use quire_wal::effects::tblspc::{self, TablespaceEffect};

/// A record of the tablespace manager.
pub(crate) fn apply(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match tblspc::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        TablespaceEffect::Create { tablespace, location } => {
            batch.set(Key::Tablespace { tablespace }, record.main_data.slice_ref(location));
            Ok(())
        }
        TablespaceEffect::Drop { tablespace } => remove(batch, tablespace),
    }
}

/// The tablespace is empty, but directories of databases that once had something in it are still there.
fn remove(batch: &mut Batch<'_>, tablespace: u32) -> Result<(), IngestError> {
    let key = |database| Key::Database { tablespace, database };
    for (key, _) in batch.view.live(key(0), key(u32::MAX))? {
        if let Key::Database { tablespace, database } = key {
            database::remove(batch, DatabaseDirectory { database, tablespace })?;
        }
    }
    batch.remove(Key::Tablespace { tablespace });
    Ok(())
}
