//! Ends of transactions. Source: `xact.h`, `xactdesc.c` (`ParseCommitRecord`, `ParseAbortRecord`,
//! `ParsePrepareRecord`).

use super::{items, numbers, relations, unknown};
use crate::rmgr::*;
use quire_types::{CodecError, Lsn, Reader, RelTag};

/// Bytes of a `SharedInvalidationMessage` and of an `xl_xact_stats_item`.
const INVALIDATION_BYTES: usize = 16;
const STATISTICS_ITEM_BYTES: usize = 12;

/// What a record of the transaction manager says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XactEffect {
    /// The transaction, or a prepared one, has committed.
    Commit(Completion),
    /// The transaction, a subtransaction, or a prepared transaction, has aborted.
    Abort(Completion),
    /// The transaction is prepared; the record's data are the body of its state file.
    Prepare(Prepare),
    /// Which top-level transaction some subtransactions have: of use to standbys alone.
    Assignment,
    /// Invalidations for logical decoding.
    Invalidations,
}

/// What a commit and an abort have in common.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Completion {
    /// When, in microseconds since 2000-01-01.
    pub time: i64,
    /// Subtransactions that share its fate.
    pub subxacts: Vec<u32>,
    /// Relations to drop with all their forks; the fork in the tag is the main one.
    pub dropped: Vec<RelTag>,
    /// The prepared transaction that this is the end of; none if it is the record's own.
    pub prepared_xid: Option<u32>,
    /// How far the replication origin has come, if this was replayed from one.
    pub origin: Option<OriginProgress>,
}

/// Where a replayed transaction comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginProgress {
    /// Its end in the origin's log.
    pub remote_lsn: Lsn,
    /// When it was committed there, in microseconds since 2000-01-01.
    pub time: i64,
}

/// The header of a prepared transaction's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The transaction.
    pub xid: u32,
    /// Length of the state file: the record's data and the CRC that follows them in the file.
    pub file_bytes: u32,
    /// Its subtransactions.
    pub subxacts: Vec<u32>,
    /// Its end in the log of the replication origin, if it was replayed from one.
    pub origin_lsn: Lsn,
}

/// Reads a record of the transaction manager; `info` is `xl_info`.
pub fn parse(info: u8, data: &[u8]) -> Result<XactEffect, CodecError> {
    match info & XLOG_XACT_OPMASK {
        XLOG_XACT_COMMIT | XLOG_XACT_COMMIT_PREPARED => Ok(XactEffect::Commit(completion(info, data)?)),
        XLOG_XACT_PREPARE => Ok(XactEffect::Prepare(prepare(data)?)),
        XLOG_XACT_ABORT | XLOG_XACT_ABORT_PREPARED => Ok(XactEffect::Abort(completion(info, data)?)),
        XLOG_XACT_ASSIGNMENT => Ok(XactEffect::Assignment),
        XLOG_XACT_INVALIDATIONS => Ok(XactEffect::Invalidations),
        other => unknown("transaction record type", other),
    }
}

fn completion(info: u8, data: &[u8]) -> Result<Completion, CodecError> {
    let mut input = Reader::new(data);
    let mut end = Completion { time: input.i64("xact_time")?, ..Completion::default() };
    let xinfo = if info & XLOG_XACT_HAS_INFO == 0 { 0 } else { input.u32("xinfo")? };
    let has = |bit| xinfo & bit != 0;
    if has(XACT_XINFO_HAS_DBINFO) {
        input.bytes("database", 8)?;
    }
    if has(XACT_XINFO_HAS_SUBXACTS) {
        let count = input.u32("nsubxacts")?;
        end.subxacts = numbers(&mut input, "subxacts", count)?;
    }
    if has(XACT_XINFO_HAS_RELFILENODES) {
        let count = input.u32("nrels")?;
        end.dropped = relations(&mut input, count)?;
    }
    if has(XACT_XINFO_HAS_DROPPED_STATS) {
        skip(&mut input, "dropped statistics", STATISTICS_ITEM_BYTES)?;
    }
    if has(XACT_XINFO_HAS_INVALS) {
        skip(&mut input, "invalidations", INVALIDATION_BYTES)?;
    }
    if has(XACT_XINFO_HAS_TWOPHASE) {
        end.prepared_xid = Some(input.u32("prepared xid")?);
        if has(XACT_XINFO_HAS_GID) {
            skip_text(&mut input)?;
        }
    }
    if has(XACT_XINFO_HAS_ORIGIN) {
        end.origin =
            Some(OriginProgress { remote_lsn: Lsn(input.u64("origin LSN")?), time: input.i64("origin time")? });
    }
    Ok(end)
}

/// Steps over a count and that many items.
fn skip(input: &mut Reader<'_>, field: &'static str, item_bytes: usize) -> Result<(), CodecError> {
    let count = input.u32(field)?;
    items(input, field, count, item_bytes).map(drop)
}

/// Steps over a text that ends with a zero byte.
fn skip_text(input: &mut Reader<'_>) -> Result<(), CodecError> {
    while input.u8("gid")? != 0 {}
    Ok(())
}

fn prepare(data: &[u8]) -> Result<Prepare, CodecError> {
    let mut input = Reader::new(data);
    input.u32("magic")?;
    let file_bytes = input.u32("total_len")?;
    let xid = input.u32("xid")?;
    input.bytes("database, prepared_at, owner", 16)?;
    let subxact_count = input.u32("nsubxacts")?;
    input.bytes("counts of later parts", 20)?;
    input.bytes("initfileinval", 2)?;
    let gid_bytes = usize::from(input.u16("gidlen")?);
    let origin_lsn = Lsn(input.u64("origin_lsn")?);
    input.u64("origin_timestamp")?;
    input.bytes("gid", gid_bytes.next_multiple_of(8))?;
    let subxacts = numbers(&mut input, "subxacts", subxact_count)?;
    Ok(Prepare { xid, file_bytes, subxacts, origin_lsn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quire_types::{Fork, Writer};

    #[test]
    fn a_commit_with_every_part_gives_its_subtransactions_relations_and_origin() {
        let mut data = Writer::new();
        data.i64(77).u32(0x1FF);
        data.u32(5).u32(1663);
        data.u32(2).u32(101).u32(102);
        data.u32(1).u32(1663).u32(5).u32(16384);
        data.u32(1).bytes(&[1; STATISTICS_ITEM_BYTES]);
        data.u32(1).bytes(&[2; INVALIDATION_BYTES]);
        data.u32(99).bytes(b"gid\0");
        data.u64(0xABC).i64(55);
        let effect = parse(XLOG_XACT_COMMIT_PREPARED | XLOG_XACT_HAS_INFO, data.as_slice()).unwrap();
        let relation = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
        let expected = Completion {
            time: 77,
            subxacts: vec![101, 102],
            dropped: vec![relation],
            prepared_xid: Some(99),
            origin: Some(OriginProgress { remote_lsn: Lsn(0xABC), time: 55 }),
        };
        assert_eq!(effect, XactEffect::Commit(expected));
    }

    #[test]
    fn a_count_that_the_record_cannot_hold_is_refused() {
        let mut data = Writer::new();
        data.i64(0).u32(XACT_XINFO_HAS_SUBXACTS).u32(u32::MAX);
        assert!(parse(XLOG_XACT_HAS_INFO, data.as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(info: u8, data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(info, &data);
        }
    }
}
