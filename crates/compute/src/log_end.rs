//! How the log ends when a compute starts, and what the start appends.

use crate::Error;
use crate::last_checkpoint::LastCheckpoint;
use crate::page_client::CheckpointAnswer;
use crate::quorum::Won;
use bytes::Bytes;
use quire_types::Lsn;
use quire_wal::checkpoint::append_shutdown_checkpoint;
use quire_wal::effects::server_version;
use quire_wal::postgres_version::PostgresVersion;
use quire_wal::{CheckpointState, ServerVersion, WalWriter, rmgr};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the log ends, or is going to.
#[derive(Debug)]
pub struct LogEnd {
    /// The checkpoint that it ends with.
    pub last: LastCheckpoint,
    /// What has to be appended at the end of the log, if it does not end with a shutdown checkpoint of this server's
    /// version.
    pub wal: Bytes,
    /// The end of the log afterwards.
    pub start: Lsn,
}

impl LogEnd {
    /// `news` is the server that is going to write the log, if the log does not say that yet.
    pub fn plan(
        version: &'static PostgresVersion,
        won: &Won,
        answer: &CheckpointAnswer,
        news: Option<ServerVersion>,
        pushdown: bool,
    ) -> Result<LogEnd, Error> {
        let unusable =
            |error: quire_types::CodecError| Error::Storage { what: "checkpoint", reason: error.to_string() };
        let known = CheckpointState::decode(&answer.state).map_err(unusable)?;
        if answer.shut_down && news.is_none() {
            let last = LastCheckpoint { record: answer.last_record, state: known.at_shutdown(answer.last_record) };
            return Ok(LogEnd { last, wal: Bytes::new(), start: won.end_of_log });
        }
        let state = CheckpointState { full_page_writes: !pushdown, time: unix_time(), ..known };
        let (end, prev) = (won.end_of_log, answer.last_record);
        let segment_bytes = won.identity.segment_bytes.into();
        let mut wal = WalWriter::new(version, end, prev, state.this_timeline, won.identity.system_id, segment_bytes);
        if let Some(server) = news {
            wal.append(rmgr::LOGICALMSG, rmgr::XLOG_LOGICAL_MESSAGE, 0, &server_version::to_record_data(server));
        }
        let record = append_shutdown_checkpoint(&mut wal, &state);
        let (start, wal) = (wal.position(), wal.into_vec().into());
        Ok(LogEnd { last: LastCheckpoint { record, state: state.at_shutdown(record) }, wal, start })
    }
}

fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_protocol::quorum::LogIdentity;
    use quire_types::Term;
    use quire_wal::postgres_version::PG15;
    use quire_wal::{Record, WalStream};

    const SEGMENT: u32 = 16 << 20;

    fn won(end_of_log: u64) -> Won {
        let identity = LogIdentity { system_id: 7, segment_bytes: SEGMENT, start: Lsn(SEGMENT.into()) };
        Won { term: Term(3), end_of_log: Lsn(end_of_log), donor: 0, identity }
    }

    fn answer(last_record: u64, shut_down: bool) -> CheckpointAnswer {
        let state = CheckpointState { this_timeline: 1, next_xid: 740, ..CheckpointState::default() };
        CheckpointAnswer { last_record: Lsn(last_record), state: state.encode().into(), shut_down }
    }

    /// The records that a start appends.
    fn appended(end: &LogEnd, won: &Won) -> Vec<Record> {
        let mut stream = WalStream::new(won.end_of_log, SEGMENT.into(), Some(7));
        stream.feed(&end.wal);
        std::iter::from_fn(|| stream.next_record().expect("valid"))
            .map(|raw| Record::decode(raw.start, raw.end, raw.bytes).expect("a record"))
            .collect()
    }

    const SERVER: ServerVersion = ServerVersion::new(15, 20);

    #[test]
    fn an_empty_log_gets_records_that_say_which_server_this_is_and_what_the_start_does() {
        let won = won(SEGMENT.into());
        let end = LogEnd::plan(&PG15, &won, &answer(0, false), Some(SERVER), true).expect("planned");
        let [told, checkpoint] = &appended(&end, &won)[..] else { panic!("two records") };
        assert_eq!(server_version::parse(told.info, &told.main_data), Ok(Some(SERVER)));
        assert_eq!((checkpoint.start, checkpoint.end), (end.last.record, end.start));
        assert!(!end.last.state.full_page_writes);
        assert_eq!((end.last.state.redo, end.last.state.next_xid), (checkpoint.start, 740));
    }

    #[test]
    fn a_log_that_ends_with_a_shutdown_checkpoint_of_this_server_is_left_as_it_is() {
        let at = u64::from(SEGMENT) + 4096;
        let end = LogEnd::plan(&PG15, &won(at), &answer(at - 120, true), None, false).expect("planned");
        assert!(end.wal.is_empty());
        assert_eq!((end.start, end.last.record, end.last.state.redo), (Lsn(at), Lsn(at - 120), Lsn(at - 120)));
    }

    #[test]
    fn another_server_is_told_behind_the_shutdown_checkpoint_of_the_one_before() {
        let won = won(u64::from(SEGMENT) + 4096);
        let end =
            LogEnd::plan(&PG15, &won, &answer(won.end_of_log.0 - 120, true), Some(SERVER), true).expect("planned");
        let kinds: Vec<u8> = appended(&end, &won).iter().map(|record| record.rmgr).collect();
        assert_eq!(kinds, [rmgr::LOGICALMSG, rmgr::XLOG]);
        assert!(end.last.record > won.end_of_log && end.start > end.last.record);
    }

    #[test]
    fn a_server_that_the_log_knows_is_not_told_again() {
        let won = won(u64::from(SEGMENT) + 4096);
        let end = LogEnd::plan(&PG15, &won, &answer(won.end_of_log.0 - 120, false), None, true).expect("planned");
        let kinds: Vec<u8> = appended(&end, &won).iter().map(|record| record.rmgr).collect();
        assert_eq!(kinds, [rmgr::XLOG]);
    }
}
