//! The thread that gets WAL for acceptors that lag: from the local segment files, else from an acceptor that has it.
//!
//! Bytes of the local files are taken only where they are still what was shipped. Where they are not, a safekeeper has to have them; if
//! it may be that none has, they are lost and this compute fails.

use super::Shared;
use super::core::Core;
use super::local_wal::LocalWal;
use super::shipped::Range;
use bytes::Bytes;
use quire_protocol::quorum_client::QuorumClient;
use quire_types::{Lsn, Term};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

/// WAL that the proposer needs for an acceptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadJob {
    /// Who lacks it.
    pub acceptor: usize,
    /// The proposer's term.
    pub term: Term,
    /// First byte.
    pub begin: Lsn,
    /// One past the last byte.
    pub end: Lsn,
    /// What of it, and around it, was shipped from the local files; empty if that is not known.
    pub shipped: Vec<Range>,
    /// Who has it, best first.
    pub sources: Vec<SocketAddr>,
}

/// Serves jobs until nobody can send one any more.
pub fn run(shared: &Arc<Shared>, jobs: &mpsc::Receiver<ReadJob>) {
    let mut connected = None;
    while let Ok(job) = jobs.recv() {
        if shared.is_stopping() {
            return;
        }
        let local = shared.local_wal().map_or(Local::Absent, |mut wal| read_local(&mut wal, &job));
        if let Local::Changed(at) = local {
            tracing::error!(%at, "the local WAL is not what was written to it");
        }
        let is_changed = matches!(local, Local::Changed(_));
        let wal = match local {
            Local::Same(wal) => Some(wal),
            Local::Changed(_) | Local::Absent => read_remote(shared, &mut connected, &job),
        };
        shared.with_core(|core| hand_in(core, &job, wal, is_changed));
    }
}

fn hand_in(core: &mut Core, job: &ReadJob, wal: Option<Bytes>, is_changed: bool) {
    if wal.is_none() && is_changed && !core.is_committed(job.end) {
        return core
            .fail(&format!("WAL from {} on is not in the data directory as it was written, nor elsewhere", job.begin));
    }
    core.wal_read(job, wal);
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

/// Keeps the connection to the source that had the last stretch: it is likely to have the next.
fn read_remote(shared: &Shared, connected: &mut Option<(SocketAddr, QuorumClient)>, job: &ReadJob) -> Option<Bytes> {
    for source in &job.sources {
        let kept = connected.take().filter(|(address, _)| address == source).map(|(_, client)| Ok(client));
        let attempt = kept.unwrap_or_else(|| shared.connect(*source)).and_then(|mut client| {
            let wal = client.read_wal(job.term, job.begin, job.end)?;
            *connected = Some((*source, client));
            Ok(wal)
        });
        match attempt {
            Ok(wal) => return Some(wal),
            Err(error) => tracing::info!(%source, begin = %job.begin, %error, "cannot read WAL from a safekeeper"),
        }
    }
    None
}
