//! What a proposer knows of one acceptor and of the connection to it.

use super::Refusal;
use quire_protocol::quorum::TermHistory;
use quire_types::{Lsn, NodeId};
use std::collections::VecDeque;

/// The most WAL that is under way to one acceptor, so that a slow one costs bounded memory.
pub const WINDOW_BYTES: u64 = 16 << 20;

/// The most messages that are under way to one acceptor.
const WINDOW_MESSAGES: usize = 1024;

/// One acceptor, seen from the proposer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Who answered there; learnt once, never to change.
    pub node: Option<NodeId>,
    /// The connection.
    pub link: PeerLink,
    /// The vote for the term of the running campaign.
    pub vote: Option<Ballot>,
    /// What it last said to have flushed after it adopted this proposer's term. It stays true when the connection
    /// breaks.
    pub flush: Option<Lsn>,
}

/// A granted vote.
#[derive(Clone, Debug)]
pub(super) struct Ballot {
    /// End of the voter's log.
    pub flush: Lsn,
    /// What the voter knows to be committed.
    pub commit: Lsn,
    /// The voter's history.
    pub history: TermHistory,
}

/// How far the conversation on the connection has come.
#[derive(Debug, Default)]
pub(super) enum PeerLink {
    /// There is no connection.
    #[default]
    Down,
    /// `Hello` is sent.
    Greeting,
    /// `Welcome` came; votes are asked for and given here.
    Welcomed,
    /// `Elected` is sent.
    Electing,
    /// The acceptor has adopted the term and takes WAL.
    Streaming(Stream),
    /// The acceptor cannot be used until it is connected anew.
    Refused,
}

/// A stream of WAL to an acceptor.
#[derive(Debug)]
pub(super) struct Stream {
    /// The next byte to send.
    pub next: Lsn,
    /// Lengths of the messages that are not answered, oldest first.
    unanswered: VecDeque<u64>,
    unanswered_bytes: u64,
    /// The commit position last told.
    pub told_commit: Lsn,
    /// The range asked from the runtime, if one is.
    pub reading: Option<(Lsn, Lsn)>,
}

impl Stream {
    /// A stream that starts at `next`.
    pub fn new(next: Lsn) -> Stream {
        Stream { next, unanswered: VecDeque::new(), unanswered_bytes: 0, told_commit: Lsn::INVALID, reading: None }
    }

    /// Whether `bytes` more may be sent now.
    pub fn has_room(&self, bytes: u64) -> bool {
        let fits = self.unanswered_bytes.saturating_add(bytes) <= WINDOW_BYTES;
        self.unanswered.is_empty() || (fits && self.unanswered.len() < WINDOW_MESSAGES)
    }

    /// Whether an answer is due.
    pub fn is_waiting(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Notes a message that was sent.
    pub fn sent(&mut self, bytes: u64, commit: Lsn) {
        self.next = self.next.add(bytes);
        self.unanswered.push_back(bytes);
        self.unanswered_bytes += bytes;
        self.told_commit = commit;
    }

    /// Notes an answer; `false` if none was due.
    pub fn answered(&mut self) -> bool {
        let bytes = self.unanswered.pop_front();
        self.unanswered_bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }
}

impl Peer {
    /// The stream, if the acceptor takes WAL.
    pub fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.link {
            PeerLink::Streaming(stream) => Some(stream),
            _ => None,
        }
    }

    /// Takes the answer to `Elected` or to WAL.
    pub fn answered(&mut self, flush: Lsn) -> Result<(), Refusal> {
        let known = self.flush.unwrap_or(Lsn::INVALID);
        if flush < known {
            return Err(Refusal::LostWal { flush, known });
        }
        let expected = match &mut self.link {
            PeerLink::Electing => {
                self.link = PeerLink::Streaming(Stream::new(flush));
                true
            }
            PeerLink::Streaming(stream) => stream.answered(),
            _ => false,
        };
        self.flush = Some(flush);
        expected.then_some(()).ok_or(Refusal::Unexpected("an answer to what was not sent"))
    }

    /// Whether it may be asked for its vote.
    pub fn is_welcomed(&self) -> bool {
        matches!(self.link, PeerLink::Welcomed)
    }
}
