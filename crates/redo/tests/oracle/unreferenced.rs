//! What records do to pages that they do not reference: the visibility map, and the SLRU areas.

use anyhow::Result;
use quire_redo::{Delta, TransactionStatus, clog, commit_ts, multixact, visibility_map};
use quire_types::{Fork, Key, Slru};
use quire_wal::effects::multixact::MultixactEffect;
use quire_wal::effects::slru::{ClogEffect, CommitTsEffect};
use quire_wal::effects::xact::{Completion, XactEffect};
use quire_wal::effects::{self, heap::VisibilityCleared};
use quire_wal::{Record, rmgr};
use std::collections::BTreeMap;

/// Clears bits of the visibility map.
pub fn visibility_delta(cleared: VisibilityCleared) -> (Key, Delta) {
    let VisibilityCleared { rel, block, bits } = cleared;
    let map = Key::RelBlock { rel: rel.with_fork(Fork::VisibilityMap), block: visibility_map::map_block(block) };
    (map, Delta::VisibilityCleared { heap_blocks: vec![block], bits })
}

/// Ends of transactions, and multixacts.
pub fn status_deltas(record: &Record) -> Result<Vec<(Key, Delta)>> {
    match record.rmgr {
        rmgr::XACT => Ok(transaction_deltas(record, &effects::xact::parse(record.info, &record.main_data)?)),
        rmgr::MULTIXACT => Ok(multixact_deltas(effects::multixact::parse(record.info, &record.main_data)?)),
        _ => Ok(vec![]),
    }
}

fn transaction_deltas(record: &Record, effect: &XactEffect) -> Vec<(Key, Delta)> {
    let (status, completion) = match effect {
        XactEffect::Commit(completion) => (TransactionStatus::Committed, completion),
        XactEffect::Abort(completion) => (TransactionStatus::Aborted, completion),
        _ => return vec![],
    };
    let xids = transactions(record, completion);
    let mut deltas: Vec<(Key, Delta)> = by_page(&xids, clog::page_of)
        .map(|(page, xids)| (Key::SlruBlock { slru: Slru::Clog, page }, Delta::ClogStatus { status, xids }))
        .collect();
    if status == TransactionStatus::Committed {
        let time = completion.origin.map_or(completion.time, |origin| origin.time);
        let origin = record.origin.unwrap_or(0);
        deltas.extend(by_page(&xids, commit_ts::page_of).map(|(page, xids)| {
            (Key::SlruBlock { slru: Slru::CommitTs, page }, Delta::CommitTs { time, origin, xids })
        }));
    }
    deltas
}

fn transactions(record: &Record, completion: &Completion) -> Vec<u32> {
    let xid = completion.prepared_xid.unwrap_or(record.xid);
    let own = if xid == 0 { None } else { Some(xid) };
    own.into_iter().chain(completion.subxacts.iter().copied()).collect()
}

fn by_page(xids: &[u32], page_of: fn(u32) -> u32) -> impl Iterator<Item = (u32, Vec<u32>)> {
    let mut pages: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    xids.iter().for_each(|xid| pages.entry(page_of(*xid)).or_default().push(*xid));
    pages.into_iter()
}

fn multixact_deltas(effect: MultixactEffect) -> Vec<(Key, Delta)> {
    let MultixactEffect::Create { multi, offset, members } = effect else { return vec![] };
    let next = offset + members.len() as u32;
    let mut deltas: Vec<_> = [(multi, offset), (multi + 1, next)]
        .map(|entry| {
            let page = multixact::offset_page_of(entry.0);
            (Key::SlruBlock { slru: Slru::MultixactOffsets, page }, Delta::MultixactOffset { entries: vec![entry] })
        })
        .into();
    deltas.extend((offset..).zip(members).map(|(first, member)| {
        let page = multixact::member_page_of(first);
        (
            Key::SlruBlock { slru: Slru::MultixactMembers, page },
            Delta::MultixactMembers { first, members: vec![member] },
        )
    }));
    deltas
}

/// The page of an SLRU area that the record zeroes.
pub fn zeroed_page(record: &Record) -> Result<Option<(Slru, u32)>> {
    let data = &record.main_data;
    Ok(match record.rmgr {
        rmgr::CLOG => match effects::slru::parse_clog(record.info, data)? {
            ClogEffect::ZeroPage(page) => Some((Slru::Clog, page)),
            ClogEffect::Truncate { .. } => None,
        },
        rmgr::COMMIT_TS => match effects::slru::parse_commit_ts(record.info, data)? {
            CommitTsEffect::ZeroPage(page) => Some((Slru::CommitTs, page)),
            CommitTsEffect::Truncate { .. } => None,
        },
        rmgr::MULTIXACT => match effects::multixact::parse(record.info, data)? {
            MultixactEffect::ZeroOffsetsPage(page) => Some((Slru::MultixactOffsets, page)),
            MultixactEffect::ZeroMembersPage(page) => Some((Slru::MultixactMembers, page)),
            _ => None,
        },
        _ => None,
    })
}
