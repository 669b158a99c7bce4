//! Which server writes the log: records that follow are redone as that one does.

use crate::changes::Batch;
use crate::error::IngestError;
use crate::state::IngestState;
use quire_types::Key;
use quire_wal::effects::server_version;
use quire_wal::postgres_version::PostgresVersion;

/// A message for logical decoding, which may be the one that tells the server's version. The branch is of `version`.
pub(crate) fn apply(
    version: &PostgresVersion,
    state: &mut IngestState,
    batch: &mut Batch<'_>,
) -> Result<(), IngestError> {
    let record = batch.record;
    let told = server_version::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))?;
    let Some(server) = told else { return Ok(()) };
    if server.major() != version.major {
        return Err(IngestError::Server { server, lsn: record.start });
    }
    if state.server != Some(server) {
        state.server = Some(server);
        batch.set(Key::ServerVersion, server.encode().to_vec());
    }
    Ok(())
}
