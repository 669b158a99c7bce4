//! Streaming WAL to the acceptors, and counting what they have flushed.

use super::peer::{PeerLink, Stream};
use super::{AcceptorSet, Output, Proposer, Refusal, Role};
use bytes::Bytes;
use quire_protocol::quorum::{MAX_WAL_BYTES, Request};
use quire_types::{Lsn, Term};

impl Proposer {
    pub(super) fn appended(&mut self, acceptor: usize, term: Term, flush: Lsn) {
        if !self.observe(term) {
            return;
        }
        let Role::Leader(leadership) = &self.role else {
            return self.refuse(acceptor, Refusal::Unexpected("an answer to what was not sent"));
        };
        if term != leadership.term || flush > leadership.end {
            return self.refuse(acceptor, Refusal::Unexpected("a log that this term did not write"));
        }
        if let Err(refusal) = self.peers[acceptor].answered(flush) {
            return self.refuse(acceptor, refusal);
        }
        self.advance_commit();
        self.pump(acceptor);
    }

    fn advance_commit(&mut self) {
        let mut flushed: Vec<Lsn> = self.peers.iter().map(|peer| peer.flush.unwrap_or(Lsn::INVALID)).collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        let by_majority = flushed[self.majority() - 1];
        let Role::Leader(leadership) = &mut self.role else { return };
        if let Some(commit) = leadership.advance_commit(by_majority) {
            self.outputs.push_back(Output::Committed(commit));
        }
    }

    /// Streaming acceptors that have been sent everything before `begin` and have room for `bytes` more.
    pub(super) fn ready_for(&self, begin: Lsn, bytes: u64) -> AcceptorSet {
        let ready = |stream: &Stream| stream.next == begin && stream.reading.is_none() && stream.has_room(bytes);
        self.select(|peer| matches!(&peer.link, PeerLink::Streaming(stream) if ready(stream)))
    }

    pub(super) fn send_in_chunks(&mut self, to: AcceptorSet, mut begin: Lsn, mut wal: Bytes) {
        while !wal.is_empty() && !to.is_empty() {
            let chunk = wal.split_to(wal.len().min(MAX_WAL_BYTES));
            let end = begin.add(chunk.len() as u64);
            self.send_wal(to, begin, chunk);
            begin = end;
        }
    }

    /// Asks the runtime for the next stretch that the acceptor lacks, if it may have it now.
    pub(super) fn pump(&mut self, acceptor: usize) {
        let Role::Leader(leadership) = &self.role else { return };
        let Some(stream) = self.peers[acceptor].stream() else { return };
        let (begin, (end, _)) = (stream.next, leadership.chunk_end(stream.next));
        if stream.reading.is_none() && begin < end && stream.has_room(end.bytes_since(begin)) {
            stream.reading = Some((begin, end));
            self.outputs.push_back(Output::ReadWal { acceptor, begin, end });
        }
    }

    pub(super) fn pump_all(&mut self) {
        (0..self.peers.len()).for_each(|acceptor| self.pump(acceptor));
    }

    pub(super) fn send_heartbeats(&mut self, to: AcceptorSet) {
        for acceptor in to.iter() {
            if let Some(next) = self.peers[acceptor].stream().map(|stream| stream.next) {
                self.send_wal(AcceptorSet::one(acceptor), next, Bytes::new());
            }
        }
    }

    pub(super) fn send_wal(&mut self, to: AcceptorSet, begin: Lsn, wal: Bytes) {
        let durable = self.removable();
        let Role::Leader(leadership) = &self.role else { return };
        let (term, commit) = (leadership.term, leadership.commit);
        let ends_record = leadership.is_boundary(begin.add(wal.len() as u64));
        for acceptor in to.iter() {
            if let Some(stream) = self.peers[acceptor].stream() {
                stream.sent(wal.len() as u64, commit);
            }
        }
        self.send(to, Request::Append { term, begin, commit, durable, ends_record, wal });
    }

    /// WAL before this is in no acceptor's need any more, nor in a pageserver's: an acceptor that is away holds it
    /// back.
    fn removable(&self) -> Lsn {
        let flushed_by_all = self.peers.iter().map(|peer| peer.flush.unwrap_or(Lsn::INVALID)).min();
        self.durable.min(flushed_by_all.unwrap_or(Lsn::INVALID))
    }
}
