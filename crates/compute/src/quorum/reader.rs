//! The thread that gets WAL for acceptors that lag: from the local segment files, else from an acceptor that has it.
//!
//! Bytes of the local files are taken only where they are still what was shipped. Where they are not, a safekeeper has
//! to have them; if it may be that none has, they are lost and this compute fails.

use super::Shared;
use super::core::Core;
use super::local_wal::LocalWal;
use super::read_job::ReadJob;
use super::status::CommitPathError;
use bytes::Bytes;
use quire_net::quorum_client::QuorumClient;
use quire_types::{Endpoint, Lsn};
use std::sync::{Arc, mpsc};

/// Serves jobs until all senders are gone.
pub fn run(shared: &Arc<Shared>, jobs: &mpsc::Receiver<ReadJob>) {
    let mut connected = None;
    while let Ok(job) = jobs.recv() {
        quire_crash::plant("compute.quorum-reader");
        if shared.is_stopping() {
            return;
        }
        let local = shared.local_wal().map_or(Local::Absent, |mut wal| read_local(&mut wal, &job));
        if let Local::Changed(at) = local {
            tracing::error!(%at, "the local WAL is not what was written to it");
        }
        let is_lost = !job.shipped.is_empty() && !matches!(local, Local::Same(_));
        let wal = match local {
            Local::Same(wal) => Some(wal),
            Local::Changed(_) | Local::Absent => read_elsewhere(shared, &mut connected, &job),
        };
        shared.with_core(|core| hand_in(core, &job, wal, is_lost));
    }
}

/// `is_lost` says that the local files should have it and have not. What is committed some safekeeper has, even if it
/// cannot be reached.
fn hand_in(core: &mut Core, job: &ReadJob, wal: Option<Bytes>, is_lost: bool) {
    if wal.is_none() && is_lost && !core.is_committed(job.end) {
        core.fail(CommitPathError::Lost { at: job.begin })
    } else {
        core.wal_read(job, wal)
    }
}

/// What the local files have of what was shipped.
enum Local {
    /// The same bytes.
    Same(Bytes),
    /// Other bytes, in the range that begins there.
    Changed(Lsn),
    /// None that are known to be the same.
    Absent,
}

fn read_local(wal: &mut LocalWal, job: &ReadJob) -> Local {
    let (Some(first), Some(last)) = (job.shipped.first(), job.shipped.last()) else { return Local::Absent };
    let mut bytes = Vec::new();
    if wal.read(first.begin, last.end, &mut bytes).is_err() {
        // What is missing here is tried elsewhere, whatever the reason.
        return Local::Absent;
    }
    let mut left = &bytes[..];
    for range in &job.shipped {
        let (here, rest) = left.split_at(range.bytes());
        if !range.is(here) {
            return Local::Changed(range.begin);
        }
        left = rest;
    }
    let skipped = usize::try_from(job.begin.bytes_since(first.begin)).expect("what was read fits memory");
    let wanted = usize::try_from(job.end.bytes_since(job.begin)).expect("what was read fits memory");
    Local::Same(Bytes::from(bytes).slice(skipped..skipped + wanted))
}

/// From memory what the agent wrote itself, the rest from safekeepers.
fn read_elsewhere(shared: &Shared, connected: &mut Option<(Endpoint, QuorumClient)>, job: &ReadJob) -> Option<Bytes> {
    let Some(own) = &job.own else { return read_remote(shared, connected, job) };
    let tail = own.part_of(job);
    if own.begin <= job.begin {
        return Some(tail);
    }
    let head = read_remote(shared, connected, &ReadJob { end: own.begin, ..job.clone() })?;
    Some([head, tail].concat().into())
}

/// Keeps the connection to the source that had the last stretch: it is likely to have the next.
fn read_remote(shared: &Shared, connected: &mut Option<(Endpoint, QuorumClient)>, job: &ReadJob) -> Option<Bytes> {
    for source in &job.sources {
        let kept = connected.take().filter(|(address, _)| address == source).map(|(_, client)| Ok(client));
        let attempt = kept.unwrap_or_else(|| shared.connect(source)).and_then(|mut client| {
            let wal = client.read_wal(job.term, job.begin, job.end)?;
            *connected = Some((source.clone(), client));
            Ok(wal)
        });
        match attempt {
            Ok(wal) => return Some(wal),
            Err(error) => tracing::info!(%source, begin = %job.begin, %error, "cannot read WAL from a safekeeper"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use crate::quorum::shipped::Shipped;
    use quire_types::Term;

    const SEGMENT: u64 = 1 << 20;
    const START: Lsn = Lsn(3 * SEGMENT);

    /// A local file with these bytes, of which those from `shipped_from` on were shipped.
    fn local(wal: &[u8], shipped_from: u64) -> (tempfile::TempDir, LocalWal, Shipped) {
        let folder = tempfile::tempdir().expect("a folder");
        let local = LocalWal::new(folder.path(), SEGMENT);
        local.write(START, wal, Owner::unchanged()).expect("written");
        let mut shipped = Shipped::default();
        shipped.note(START.add(shipped_from), &wal[shipped_from as usize..]);
        (folder, local, shipped)
    }

    fn job(shipped: &Shipped, begin: u64, end: u64) -> ReadJob {
        let (begin, end) = (START.add(begin), START.add(end));
        let shipped = shipped.covering(begin, end);
        ReadJob { acceptor: 0, term: Term(1), begin, end, shipped, own: None, sources: Vec::new() }
    }

    #[test]
    fn what_was_shipped_and_is_still_there_is_read() {
        let wal: Vec<u8> = (0..700_000u32).map(|byte| byte as u8).collect();
        let (_folder, mut local, shipped) = local(&wal, 1000);
        for (begin, end) in [(1000, 700_000), (2000, 2001), (262_000, 262_200), (600_000, 700_000)] {
            let read = read_local(&mut local, &job(&shipped, begin, end));
            assert!(matches!(read, Local::Same(bytes) if bytes == wal[begin as usize..end as usize]), "{begin}");
        }
    }

    #[test]
    fn what_was_not_shipped_in_this_term_is_not_read() {
        let (_folder, mut local, shipped) = local(&[7; 5000], 1000);
        for (begin, end) in [(0, 1000), (999, 2000), (4000, 5001)] {
            assert!(matches!(read_local(&mut local, &job(&shipped, begin, end)), Local::Absent), "{begin}");
        }
    }

    #[test]
    fn what_has_changed_is_found_out_and_what_is_gone_is_absent() {
        let (folder, mut local, shipped) = local(&[7; 5000], 0);
        local.write(START.add(3000), &[8], Owner::unchanged()).expect("written");
        let read = read_local(&mut local, &job(&shipped, 100, 200));
        assert!(matches!(read, Local::Changed(START)), "the whole range is compared");
        let mut local = LocalWal::new(folder.path().join("elsewhere"), SEGMENT);
        assert!(matches!(read_local(&mut local, &job(&shipped, 100, 200)), Local::Absent));
    }
}
