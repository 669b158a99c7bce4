//! The thread that gets WAL for acceptors that lag: from the local segment files, else from an acceptor that has it.

use super::Shared;
use super::local_wal::LocalWal;
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
        let local = shared.local_wal();
        let wal =
            local.and_then(|mut wal| read_local(&mut wal, &job)).or_else(|| read_remote(shared, &mut connected, &job));
        shared.with_core(|core| core.wal_read(&job, wal));
    }
}

fn read_local(wal: &mut LocalWal, job: &ReadJob) -> Option<Bytes> {
    let mut bytes = Vec::new();
    // What is missing here is tried elsewhere, whatever the reason.
    wal.read(job.begin, job.end, &mut bytes).ok()?;
    Some(bytes.into())
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
