//! What ingest remembers from record to record, and across restarts.

use crate::changes::Batch;
use crate::counters::Counters;
use crate::error::IngestError;
use crate::view::StateView;
use bytes::Bytes;
use quire_types::{CodecError, Key, Lsn, Reader, Writer};
use quire_wal::effects::FullPageWrites;
use quire_wal::{CheckpointState, Record, ServerVersion};

/// First byte of [`IngestState::encode`].
const FORMAT: u8 = 2;
/// Of states from before the server's version was recorded.
const FORMAT_WITHOUT_SERVER: u8 = 1;

/// Ingest's memory as of one position in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IngestState {
    /// End of the last record.
    pub(crate) position: Lsn,
    /// Start of the last record, invalid if there was none.
    pub(crate) last_record: Lsn,
    /// Whether the last record is a shutdown checkpoint.
    pub(crate) shut_down: bool,
    /// The counters, exactly.
    pub(crate) counters: Counters,
    /// The newest version of `Key::Checkpoint`.
    pub(crate) written: CheckpointState,
    /// The newest version of `Key::FullPageWrites`.
    pub(crate) full_page_writes: FullPageWrites,
    /// A page of multixact offsets that came into being with an entry, before the record that would zero it.
    pub(crate) early_offsets_page: Option<u32>,
    /// Which server writes the log, if the log says so: the newest version of `Key::ServerVersion`.
    pub(crate) server: Option<ServerVersion>,
}

impl IngestState {
    /// The state that an import leaves.
    pub(crate) fn imported(start: Lsn, view: &dyn StateView) -> Result<IngestState, IngestError> {
        let checkpoint = imported_value(view, Key::Checkpoint, CheckpointState::decode)?;
        let full_page_writes = imported_value(view, Key::FullPageWrites, FullPageWrites::decode)?;
        Ok(IngestState {
            position: start,
            last_record: Lsn::INVALID,
            shut_down: false,
            counters: Counters { checkpoint },
            written: checkpoint,
            full_page_writes,
            early_offsets_page: None,
            server: None,
        })
    }

    /// Refuses a record that is not the next one of the log. Each names the record before it; the first after the
    /// import names one from before the import, or none.
    pub(crate) fn check_follows(&self, record: &Record) -> Result<(), IngestError> {
        if record.start < self.position {
            return Err(IngestError::OutOfOrder { lsn: record.start, position: self.position });
        }
        let follows =
            if self.last_record.is_valid() { record.prev == self.last_record } else { record.prev < self.position };
        let (lsn, prev, last_record) = (record.start, record.prev, self.last_record);
        follows.then_some(()).ok_or(IngestError::LeftOut { lsn, prev, last_record })
    }

    /// Writes a version of `Key::Checkpoint` if the rounded counters changed.
    pub(crate) fn write_counters(&mut self, batch: &mut Batch<'_>) {
        let rounded = self.counters.rounded();
        if rounded != self.written {
            self.written = rounded;
            batch.set(Key::Checkpoint, rounded.encode());
        }
    }

    /// A format byte, `position` and `last_record` as `u64`, `shut_down` as a byte, the early offsets page as a byte
    /// that says whether there is one and a `u32`, then three values with their lengths before them: the counters, the
    /// counters as written, the full-page-writes state; then the server's version as `u32`, 0 if it is not known.
    /// Little endian.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        out.u8(FORMAT).u64(self.position.0).u64(self.last_record.0).u8(u8::from(self.shut_down));
        out.u8(u8::from(self.early_offsets_page.is_some())).u32(self.early_offsets_page.unwrap_or(0));
        out.length_prefixed(&self.counters.checkpoint.encode());
        out.length_prefixed(&self.written.encode());
        out.length_prefixed(&self.full_page_writes.encode());
        out.u32(self.server.map_or(0, ServerVersion::number));
        out.into_bytes()
    }

    /// Reads back what [`IngestState::encode`] wrote.
    pub(crate) fn decode(raw: &[u8]) -> Result<IngestState, CodecError> {
        let mut input = Reader::new(raw);
        let format = input.u8("ingest state format")?;
        if !matches!(format, FORMAT | FORMAT_WITHOUT_SERVER) {
            return Err(CodecError::Invalid { field: "ingest state format", value: format.into() });
        }
        let (position, last_record) = (Lsn(input.u64("position")?), Lsn(input.u64("last record")?));
        let shut_down = input.u8("shut down")? != 0;
        let has_early_page = input.u8("early offsets page")? != 0;
        let early_offsets_page = Some(input.u32("early offsets page")?).filter(|_| has_early_page);
        let checkpoint = CheckpointState::decode(input.length_prefixed("counters")?)?;
        let written = CheckpointState::decode(input.length_prefixed("written counters")?)?;
        let full_page_writes = FullPageWrites::decode(input.length_prefixed("full-page writes")?)?;
        let server = if format == FORMAT { read_server(&mut input)? } else { None };
        input.finish()?;
        let counters = Counters { checkpoint };
        Ok(IngestState {
            position,
            last_record,
            shut_down,
            counters,
            written,
            full_page_writes,
            early_offsets_page,
            server,
        })
    }
}

fn read_server(input: &mut Reader<'_>) -> Result<Option<ServerVersion>, CodecError> {
    match input.u32("server version")? {
        0 => Ok(None),
        number => ServerVersion::from_number(number)
            .map(Some)
            .ok_or(CodecError::Invalid { field: "server version", value: number.into() }),
    }
}

fn imported_value<T>(
    view: &dyn StateView,
    key: Key,
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
) -> Result<T, IngestError> {
    let raw = view.value(key)?.ok_or(IngestError::NotImported(key))?;
    decode(&raw).map_err(|source| IngestError::Stored { key, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_round_trips_and_a_cut_one_is_refused() {
        let checkpoint = CheckpointState { next_xid: 5 << 32 | 7, next_oid: 99, ..CheckpointState::default() };
        let state = IngestState {
            position: Lsn(0x200),
            last_record: Lsn(0x180),
            shut_down: true,
            counters: Counters { checkpoint },
            written: Counters { checkpoint }.rounded(),
            full_page_writes: FullPageWrites { on: true, since: Lsn(0x100) },
            early_offsets_page: Some(0),
            server: Some(ServerVersion::new(15, 20)),
        };
        let raw = state.encode();
        assert_eq!(IngestState::decode(&raw).as_ref(), Ok(&state));
        assert!(IngestState::decode(&raw[..raw.len() - 1]).is_err());
        // As it was written before there were versions.
        let mut old = raw[..raw.len() - 4].to_vec();
        old[0] = FORMAT_WITHOUT_SERVER;
        assert_eq!(IngestState::decode(&old), Ok(IngestState { server: None, ..state }));
    }
}
