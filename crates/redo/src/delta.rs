//! What storage keeps between two images of a page: a WAL record, or the small effect a record has on a page that it
//! does not reference.
//!
//! The encoding is one byte for the kind, then little-endian fields; a list runs to the end of the value.
//!
//! | kind | fields |
//! |---|---|
//! | 0 record | start `u64`, the record |
//! | 1 visibility cleared | bits `u8`, heap blocks `u32`... |
//! | 2 visibility truncated | heap blocks that remain `u32` |
//! | 3 clog status | status `u8`, transactions `u32`... |
//! | 4 multixact offset | pairs of multixact `u32` and offset `u32`... |
//! | 5 multixact members | offset of the first `u32`, pairs of transaction `u32` and status `u8`... |
//! | 6 commit timestamp | time `i64`, origin `u16`, transactions `u32`... |
//! | 7 record of a server | version `u32`, start `u64`, the record |

use bytes::{Buf, Bytes};
use quire_types::{CodecError, Lsn, Reader, Writer};
use quire_wal::ServerVersion;

pub use quire_wal::effects::heap::{VISIBILITY_ALL_BITS, VISIBILITY_ALL_FROZEN};
pub use quire_wal::effects::multixact::Member as MultixactMember;

/// One change of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A whole WAL record as it stands in the log without page headers, and the LSN of its first byte. What it does to
    /// a page is what it does to the block reference that matches the page's key, whichever server wrote it, or as
    /// [`ServerVersion::UNRECORDED`] has it.
    Record(Bytes, Lsn),
    /// The same of a record that servers of other minor versions would redo otherwise, with the version of the one that
    /// wrote it.
    RecordOf(ServerVersion, Bytes, Lsn),
    /// Heap records that touched an all-visible heap page clear its bits on this page of the visibility map, leaving
    /// the map page's LSN alone.
    VisibilityCleared {
        /// The heap blocks, all of them on this map page: one, or the two of an update.
        heap_blocks: Vec<u32>,
        /// Which bits: [`VISIBILITY_ALL_BITS`], or [`VISIBILITY_ALL_FROZEN`] for a row lock.
        bits: u8,
    },
    /// The heap was truncated so that its end is within this page of the visibility map: what the page says of
    /// later blocks is cleared.
    VisibilityTruncated {
        /// Blocks the heap has left.
        heap_blocks: u32,
    },
    /// The outcome of transactions, on this page of the commit log.
    ClogStatus {
        /// How they ended.
        status: TransactionStatus,
        /// The transactions, all of them on this page.
        xids: Vec<u32>,
    },
    /// Where multixacts' members begin, on this page of `pg_multixact/offsets`. Creating multixact M sets the entries
    /// of M and of M + 1, which may be on different pages.
    MultixactOffset {
        /// Pairs of multixact and offset, all of them on this page.
        entries: Vec<(u32, u32)>,
    },
    /// Members of a multixact, on this page of `pg_multixact/members`.
    MultixactMembers {
        /// Offset of the first of them; they follow each other.
        first: u32,
        /// The members, all of them on this page.
        members: Vec<MultixactMember>,
    },
    /// When transactions were committed, on this page of `pg_commit_ts`.
    CommitTs {
        /// Microseconds since 2000-01-01 (`TimestampTz`).
        time: i64,
        /// The replication origin they came from, 0 for local ones.
        origin: u16,
        /// The transactions, all of them on this page.
        xids: Vec<u32>,
    },
}

/// How a transaction ended. PostgreSQL's redo never leaves a transaction sub-committed: a commit record marks the whole
/// tree committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TransactionStatus {
    /// `TRANSACTION_STATUS_COMMITTED`.
    Committed = 1,
    /// `TRANSACTION_STATUS_ABORTED`.
    Aborted = 2,
}

const RECORD: u8 = 0;
const VISIBILITY_CLEARED: u8 = 1;
const VISIBILITY_TRUNCATED: u8 = 2;
const CLOG_STATUS: u8 = 3;
const MULTIXACT_OFFSET: u8 = 4;
const MULTIXACT_MEMBERS: u8 = 5;
const COMMIT_TS: u8 = 6;
const RECORD_OF: u8 = 7;

impl Delta {
    /// What a record does to a page that it references. `server` wrote it, if that is known, and is kept where it
    /// matters.
    pub fn of_record(rmgr: u8, info: u8, server: Option<ServerVersion>, bytes: Bytes, start: Lsn) -> Delta {
        match server.filter(|_| crate::depends_on_server(rmgr, info)) {
            Some(server) => Delta::RecordOf(server, bytes, start),
            None => Delta::Record(bytes, start),
        }
    }

    /// The record's bytes and its start, if it is one.
    pub fn record(&self) -> Option<(&Bytes, Lsn)> {
        match self {
            Delta::Record(bytes, start) | Delta::RecordOf(_, bytes, start) => Some((bytes, *start)),
            _ => None,
        }
    }

    /// The bytes as the module's documentation gives them.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(self.encoded_size());
        match self {
            Delta::Record(bytes, start) => writer.u8(RECORD).u64(start.0).bytes(bytes),
            Delta::RecordOf(server, bytes, start) => {
                writer.u8(RECORD_OF).u32(server.number()).u64(start.0).bytes(bytes)
            }
            Delta::VisibilityCleared { heap_blocks, bits } => {
                write_numbers(writer.u8(VISIBILITY_CLEARED).u8(*bits), heap_blocks)
            }
            Delta::VisibilityTruncated { heap_blocks } => writer.u8(VISIBILITY_TRUNCATED).u32(*heap_blocks),
            Delta::ClogStatus { status, xids } => write_numbers(writer.u8(CLOG_STATUS).u8(*status as u8), xids),
            Delta::MultixactOffset { entries } => entries
                .iter()
                .fold(writer.u8(MULTIXACT_OFFSET), |writer, (multixact, offset)| writer.u32(*multixact).u32(*offset)),
            Delta::MultixactMembers { first, members } => {
                members.iter().fold(writer.u8(MULTIXACT_MEMBERS).u32(*first), |writer, member| {
                    writer.u32(member.xid).u8(member.status)
                })
            }
            Delta::CommitTs { time, origin, xids } => write_numbers(writer.u8(COMMIT_TS).i64(*time).u16(*origin), xids),
        };
        writer.into_bytes()
    }

    /// Bytes that [`Delta::encode`] gives.
    pub fn encoded_size(&self) -> usize {
        1 + match self {
            Delta::Record(bytes, _) => 8 + bytes.len(),
            Delta::RecordOf(_, bytes, _) => 12 + bytes.len(),
            Delta::VisibilityCleared { heap_blocks, .. } => 1 + 4 * heap_blocks.len(),
            Delta::VisibilityTruncated { .. } => 4,
            Delta::ClogStatus { xids, .. } => 1 + 4 * xids.len(),
            Delta::MultixactOffset { entries } => 8 * entries.len(),
            Delta::MultixactMembers { members, .. } => 4 + 5 * members.len(),
            Delta::CommitTs { xids, .. } => 10 + 4 * xids.len(),
        }
    }

    /// Reads back what [`Delta::encode`] wrote. A record shares `raw`'s memory; it is not decoded yet.
    pub fn decode(mut raw: Bytes) -> Result<Delta, CodecError> {
        let mut reader = Reader::new(&raw);
        match reader.u8("delta kind")? {
            RECORD => {
                let start = Lsn(reader.u64("record start")?);
                raw.advance(raw.len() - reader.remaining());
                Ok(Delta::Record(raw, start))
            }
            RECORD_OF => {
                let number = reader.u32("server version")?;
                let invalid = CodecError::Invalid { field: "server version", value: number.into() };
                let server = ServerVersion::from_number(number).ok_or(invalid)?;
                let start = Lsn(reader.u64("record start")?);
                raw.advance(raw.len() - reader.remaining());
                Ok(Delta::RecordOf(server, raw, start))
            }
            kind => decode_effect(kind, reader),
        }
    }
}

fn write_numbers<'w>(writer: &'w mut Writer, numbers: &[u32]) -> &'w mut Writer {
    numbers.iter().fold(writer, |writer, number| writer.u32(*number))
}

fn decode_effect(kind: u8, mut reader: Reader<'_>) -> Result<Delta, CodecError> {
    let delta = match kind {
        VISIBILITY_CLEARED => {
            let bits = reader.u8("visibility bits")?;
            Delta::VisibilityCleared { bits, heap_blocks: read_numbers(&mut reader, "heap block")? }
        }
        VISIBILITY_TRUNCATED => Delta::VisibilityTruncated { heap_blocks: reader.u32("heap blocks")? },
        CLOG_STATUS => {
            let status = read_status(&mut reader)?;
            Delta::ClogStatus { status, xids: read_numbers(&mut reader, "transaction")? }
        }
        MULTIXACT_OFFSET => Delta::MultixactOffset {
            entries: read_list(&mut reader, 8, |r| Ok((r.u32("multixact")?, r.u32("members' offset")?)))?,
        },
        MULTIXACT_MEMBERS => Delta::MultixactMembers {
            first: reader.u32("first member")?,
            members: read_list(&mut reader, 5, |r| {
                Ok(MultixactMember { xid: r.u32("member")?, status: r.u8("member status")? })
            })?,
        },
        COMMIT_TS => Delta::CommitTs {
            time: reader.i64("commit time")?,
            origin: reader.u16("origin")?,
            xids: read_numbers(&mut reader, "transaction")?,
        },
        other => return Err(CodecError::Invalid { field: "delta kind", value: other.into() }),
    };
    reader.finish()?;
    Ok(delta)
}

fn read_status(reader: &mut Reader<'_>) -> Result<TransactionStatus, CodecError> {
    match reader.u8("transaction status")? {
        1 => Ok(TransactionStatus::Committed),
        2 => Ok(TransactionStatus::Aborted),
        other => Err(CodecError::Invalid { field: "transaction status", value: other.into() }),
    }
}

fn read_numbers(reader: &mut Reader<'_>, field: &'static str) -> Result<Vec<u32>, CodecError> {
    read_list(reader, 4, |r| r.u32(field))
}

fn read_list<T>(
    reader: &mut Reader<'_>,
    entry_bytes: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    let mut list = Vec::with_capacity(reader.remaining() / entry_bytes);
    while reader.remaining() > 0 {
        list.push(read(reader)?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_numbers() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(any::<u32>(), 0..5)
    }

    fn any_delta() -> impl Strategy<Value = Delta> {
        let status = prop_oneof![Just(TransactionStatus::Committed), Just(TransactionStatus::Aborted)];
        let member = (any::<u32>(), any::<u8>()).prop_map(|(xid, status)| MultixactMember { xid, status });
        prop_oneof![
            (proptest::collection::vec(any::<u8>(), 0..60), any::<u64>())
                .prop_map(|(bytes, start)| Delta::Record(bytes.into(), Lsn(start))),
            (100_000u32..10_000_000, proptest::collection::vec(any::<u8>(), 0..60), any::<u64>()).prop_map(
                |(number, bytes, start)| {
                    let server = ServerVersion::from_number(number).expect("a version");
                    Delta::RecordOf(server, bytes.into(), Lsn(start))
                }
            ),
            (any_numbers(), any::<u8>()).prop_map(|(heap_blocks, bits)| Delta::VisibilityCleared { heap_blocks, bits }),
            any::<u32>().prop_map(|heap_blocks| Delta::VisibilityTruncated { heap_blocks }),
            (status, any_numbers()).prop_map(|(status, xids)| Delta::ClogStatus { status, xids }),
            proptest::collection::vec(any::<(u32, u32)>(), 0..4).prop_map(|entries| Delta::MultixactOffset { entries }),
            (any::<u32>(), proptest::collection::vec(member, 0..4))
                .prop_map(|(first, members)| Delta::MultixactMembers { first, members }),
            (any::<i64>(), any::<u16>(), any_numbers()).prop_map(|(time, origin, xids)| Delta::CommitTs {
                time,
                origin,
                xids
            }),
        ]
    }

    proptest! {
        #[test]
        fn encoding_round_trips(delta in any_delta()) {
            let raw = delta.encode();
            prop_assert_eq!(raw.len(), delta.encoded_size());
            prop_assert_eq!(Delta::decode(raw), Ok(delta));
        }

        #[test]
        fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Delta::decode(raw.into());
        }
    }

    #[test]
    fn a_cut_list_is_an_error() {
        let raw = Delta::ClogStatus { status: TransactionStatus::Aborted, xids: vec![7] }.encode();
        assert!(Delta::decode(raw.slice(..raw.len() - 1)).is_err());
    }
}
