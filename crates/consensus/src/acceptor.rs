//! The acceptor: keeps its promises, its log and its term on disk, in this order.
//!
//! [`Acceptor::handle`] takes a request and says what is to be done about it. The caller carries the [`Action`]s out
//! strictly in order and completes each before the next; several requests may share one [`Action::Flush`] if all their
//! replies wait for it. When an action fails, the acceptor's memory is ahead of its disk: it must be dropped and
//! restored from the disk.

use crate::history::common_point;
use bytes::{Buf, Bytes};
use quire_protocol::quorum::{ErrorCode, LogIdentity, Request, Response, TermHistory};
use quire_types::{Lsn, NodeId, Term};

/// What an acceptor keeps apart from the log itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptorState {
    /// What never changes.
    pub identity: LogIdentity,
    /// The highest term voted for or adopted.
    pub term: Term,
    /// The history of the last proposer that was adopted.
    pub history: TermHistory,
    /// A lower bound of what is committed, a record boundary. On disk it may lag behind: it is then learnt again.
    pub commit: Lsn,
    /// The oldest WAL that is kept, at a segment boundary.
    pub oldest: Lsn,
}

/// Something for the acceptor's caller to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Make this state durable, all or nothing.
    PersistState(AcceptorState),
    /// Remove every byte from `to` on, durably: they must not come back as WAL after a crash.
    TruncateWal {
        /// A record boundary.
        to: Lsn,
    },
    /// Write bytes to the log.
    WriteWal {
        /// Position of the first byte.
        begin: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// Make everything written durable.
    Flush,
    /// Answer.
    Reply(Response),
}

/// A log on disk that has less than it once said to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the log ends at {flush}, before {commit} up to which it was committed: WAL is lost or damaged")]
pub struct LostWal {
    /// Where the log ends.
    pub flush: Lsn,
    /// Up to where it was committed.
    pub commit: Lsn,
}

/// An acceptor of one branch.
#[derive(Clone, Debug)]
pub struct Acceptor {
    node: NodeId,
    state: AcceptorState,
    /// Everything before is durable. Always a record boundary.
    flush: Lsn,
    /// Everything before is written: `flush`, or past it while a long record arrives in pieces.
    written: Lsn,
}

impl Acceptor {
    /// The acceptor of a log that was just created; [`Acceptor::state`] is to be made durable before anything else.
    pub fn create(node: NodeId, identity: LogIdentity) -> Acceptor {
        let start = identity.start;
        let state =
            AcceptorState { identity, term: Term(0), history: TermHistory::default(), commit: start, oldest: start };
        Acceptor { node, state, flush: start, written: start }
    }

    /// The acceptor of a log on disk that ends at the record boundary `flush`, which must be durable.
    pub fn restore(node: NodeId, state: AcceptorState, flush: Lsn) -> Result<Acceptor, LostWal> {
        if flush < state.commit {
            Err(LostWal { flush, commit: state.commit })
        } else {
            Ok(Acceptor { node, state, flush, written: flush })
        }
    }

    /// What is to be kept on disk.
    pub fn state(&self) -> &AcceptorState {
        &self.state
    }

    /// Everything before is durable.
    pub fn flush(&self) -> Lsn {
        self.flush
    }

    /// Notes that WAL before `lsn` was removed.
    ///
    /// # Panics
    /// If that is not committed.
    pub fn removed_before(&mut self, lsn: Lsn) {
        assert!(lsn <= self.state.commit, "only committed WAL may be removed");
        self.state.oldest = self.state.oldest.max(lsn);
    }

    /// The answer to `Hello`, and to `CreateLog` of a log that exists.
    pub fn welcome(&self) -> Response {
        Response::Welcome { node: self.node, term: self.state.term, identity: Some(self.state.identity) }
    }

    /// Takes a request. `Hello`, `ReadWal`, `Follow` and `Durable` change nothing in an acceptor and are its caller's
    /// to serve; here they are errors.
    pub fn handle(&mut self, request: &Request) -> Vec<Action> {
        match request {
            Request::RequestVote { term } | Request::Elected { term, .. } if !term.is_in_reach_of(self.state.term) => {
                vec![self.out_of_reach(*term)]
            }
            Request::CreateLog(identity) => vec![Action::Reply(self.create_again(identity))],
            Request::RequestVote { term } => self.request_vote(*term),
            Request::Elected { term, stream_from, history } => self.elected(*term, *stream_from, history),
            Request::Append { term, begin, commit, ends_record, wal, .. } => {
                self.append(*term, Piece { begin: *begin, ends_record: *ends_record, wal }, *commit)
            }
            _ => vec![refusal("this message is not for an acceptor")],
        }
    }

    /// Whether WAL `[begin, end)` may be given to a reader that asks in `term`, 0 being no proposer's term; see
    /// [`Request::ReadWal`]. The log may change as soon as another request is handled: a reader checks again
    /// afterwards.
    pub fn may_read(&self, term: Term, begin: Lsn, end: Lsn) -> Result<(), ReadRefused> {
        let committed_only = term == Term(0);
        if !committed_only && term != self.state.term {
            return Err(ReadRefused::OtherTerm { asked: term, term: self.state.term });
        }
        let (oldest, limit) = (self.state.oldest, if committed_only { self.state.commit } else { self.flush });
        if oldest <= begin && begin <= end && end <= limit {
            Ok(())
        } else {
            Err(ReadRefused::OutOfRange { oldest, limit })
        }
    }

    fn create_again(&self, identity: &LogIdentity) -> Response {
        if *identity == self.state.identity {
            return self.welcome();
        }
        let message = format!("the log exists and is of another server: {}", self.state.identity);
        Response::Error { code: ErrorCode::IdentityMismatch, message }
    }

    fn out_of_reach(&self, term: Term) -> Action {
        let message = format!("term {term} cannot be, after term {}", self.state.term);
        Action::Reply(Response::Error { code: ErrorCode::TermOutOfReach, message })
    }

    fn request_vote(&mut self, term: Term) -> Vec<Action> {
        let granted = term > self.state.term;
        let mut actions = Vec::new();
        if granted {
            self.state.term = term;
            actions.push(Action::PersistState(self.state.clone()));
        }
        actions.push(Action::Reply(self.vote(granted)));
        actions
    }

    fn vote(&self, granted: bool) -> Response {
        let AcceptorState { term, commit, oldest, ref history, .. } = self.state;
        Response::Vote { granted, term, flush: self.flush, commit, oldest, history: history.clone() }
    }

    fn elected(&mut self, term: Term, stream_from: Lsn, history: &TermHistory) -> Vec<Action> {
        if term < self.state.term {
            return vec![self.appended()];
        }
        if history.0.last().map(|entry| entry.term) != Some(term) {
            return vec![refusal("the history does not end with the elected term")];
        }
        if self.adopted() == Some(term) && *history != self.state.history {
            return vec![refusal("the term was announced with another history before")];
        }
        let keep = common_point(self.state.identity.start, self.flush, &self.state.history, history);
        if keep < self.state.commit {
            return vec![refusal("the elected proposer lacks WAL that is committed here")];
        }
        if keep < stream_from {
            return vec![refusal("the stream would begin past the common point of the two logs")];
        }
        self.adopt(term, history, keep)
    }

    fn adopt(&mut self, term: Term, history: &TermHistory, keep: Lsn) -> Vec<Action> {
        let mut actions = Vec::new();
        if keep < self.written {
            (self.flush, self.written) = (keep, keep);
            actions.push(Action::TruncateWal { to: keep });
        }
        if (self.state.term, &self.state.history) != (term, history) {
            self.state.term = term;
            self.state.history = history.clone();
            actions.push(Action::PersistState(self.state.clone()));
        }
        actions.push(self.appended());
        actions
    }

    /// The last term whose proposer announced itself here.
    fn adopted(&self) -> Option<Term> {
        self.state.history.0.last().map(|entry| entry.term)
    }

    fn append(&mut self, term: Term, piece: Piece<'_>, commit: Lsn) -> Vec<Action> {
        if term < self.state.term {
            return vec![self.appended()];
        }
        if term != self.state.term || self.adopted() != Some(term) {
            return vec![refusal("this term was not announced by Elected")];
        }
        if piece.begin > self.written {
            return vec![refusal("WAL is missing before this message")];
        }
        let mut actions = Vec::new();
        self.write(&piece, &mut actions);
        self.learn_commit(commit);
        actions.push(self.appended());
        actions
    }

    /// Writes what of the piece is new. The rest is a repetition: in one term, one position has one value.
    fn write(&mut self, piece: &Piece<'_>, actions: &mut Vec<Action>) {
        let end = piece.begin.add(piece.wal.len() as u64);
        if end > self.written {
            let mut wal = piece.wal.clone();
            wal.advance(wal.len() - end.bytes_since(self.written) as usize);
            actions.push(Action::WriteWal { begin: self.written, wal });
            self.written = end;
        }
        if piece.ends_record && end > self.flush {
            actions.push(Action::Flush);
            self.flush = end;
        }
    }

    /// A commit position past the own log says nothing more than that all of the log is committed.
    fn learn_commit(&mut self, commit: Lsn) {
        self.state.commit = self.state.commit.max(commit.min(self.flush));
    }

    fn appended(&self) -> Action {
        Action::Reply(Response::Appended { term: self.state.term, flush: self.flush, commit: self.state.commit })
    }
}

/// The WAL of an `Append`.
struct Piece<'a> {
    begin: Lsn,
    ends_record: bool,
    wal: &'a Bytes,
}

/// Why WAL is not given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadRefused {
    /// The log may not be what the asker takes it for.
    #[error("WAL of term {asked} was asked for, the safekeeper is in term {term}")]
    OtherTerm {
        /// The asker's.
        asked: Term,
        /// The acceptor's.
        term: Term,
    },
    /// It is not there.
    #[error("WAL can be read from {oldest} to {limit}")]
    OutOfRange {
        /// The oldest byte that is kept.
        oldest: Lsn,
        /// One past the newest that may be read.
        limit: Lsn,
    },
}

fn refusal(message: &str) -> Action {
    Action::Reply(Response::Error { code: ErrorCode::Protocol, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_protocol::quorum::TermStart;

    const START: Lsn = Lsn(16 << 20);

    fn acceptor() -> Acceptor {
        let identity = LogIdentity { system_id: 1, segment_bytes: 16 << 20, start: START };
        Acceptor::create(NodeId(1), identity)
    }

    fn at(offset: u64) -> Lsn {
        START.add(offset)
    }

    fn history(entries: &[(u64, u64)]) -> TermHistory {
        TermHistory(entries.iter().map(|&(term, offset)| TermStart { term: Term(term), start: at(offset) }).collect())
    }

    fn elected(term: u64, stream_from: u64, entries: &[(u64, u64)]) -> Request {
        Request::Elected { term: Term(term), stream_from: at(stream_from), history: history(entries) }
    }

    fn append(term: u64, begin: u64, commit: u64, ends_record: bool, wal: &'static [u8]) -> Request {
        let (begin, commit, wal) = (at(begin), at(commit), Bytes::from_static(wal));
        Request::Append { term: Term(term), begin, commit, durable: Lsn::INVALID, ends_record, wal }
    }

    fn appended(term: u64, flush: u64, commit: u64) -> Action {
        Action::Reply(Response::Appended { term: Term(term), flush: at(flush), commit: at(commit) })
    }

    fn is_refused(actions: &[Action]) -> bool {
        matches!(actions, [Action::Reply(Response::Error { code: ErrorCode::Protocol, .. })])
    }

    /// An acceptor in term 2 with 16 bytes of term 2, of which 8 are committed.
    fn with_log() -> Acceptor {
        let mut acceptor = acceptor();
        acceptor.handle(&elected(2, 0, &[(2, 0)]));
        acceptor.handle(&append(2, 0, 8, true, b"0123456789abcdef"));
        acceptor
    }

    #[test]
    fn a_vote_is_persisted_before_it_is_given() {
        let mut acceptor = acceptor();
        let actions = acceptor.handle(&Request::RequestVote { term: Term(3) });
        let [Action::PersistState(state), Action::Reply(Response::Vote { granted: true, term, .. })] = &actions[..]
        else {
            panic!("{actions:?}");
        };
        assert_eq!((state.term, *term), (Term(3), Term(3)));
    }

    #[test]
    fn a_term_is_granted_once_and_never_below() {
        let mut acceptor = acceptor();
        acceptor.handle(&Request::RequestVote { term: Term(3) });
        for term in [3, 2] {
            let actions = acceptor.handle(&Request::RequestVote { term: Term(term) });
            assert!(
                matches!(&actions[..], [Action::Reply(Response::Vote { granted: false, term: Term(3), .. })]),
                "{actions:?}"
            );
        }
    }

    #[test]
    fn a_term_that_no_campaign_reaches_is_refused_and_changes_nothing() {
        for term in [4 + Term::LEAD_MAX, u64::MAX - 1, u64::MAX] {
            let mut acceptor = acceptor();
            acceptor.handle(&Request::RequestVote { term: Term(3) });
            let before = acceptor.state().clone();
            for request in [Request::RequestVote { term: Term(term) }, elected(term, 0, &[(term, 0)])] {
                let actions = acceptor.handle(&request);
                assert!(
                    matches!(actions[..], [Action::Reply(Response::Error { code: ErrorCode::TermOutOfReach, .. })]),
                    "{actions:?}"
                );
            }
            assert_eq!(*acceptor.state(), before);
        }
        let mut acceptor = acceptor();
        let actions = acceptor.handle(&Request::RequestVote { term: Term(Term::LEAD_MAX) });
        assert!(matches!(&actions[..], [Action::PersistState(_), Action::Reply(_)]), "{actions:?}");
    }

    #[test]
    fn wal_is_written_and_flushed_before_the_answer() {
        let mut acceptor = acceptor();
        acceptor.handle(&elected(2, 0, &[(2, 0)]));
        let write = Action::WriteWal { begin: START, wal: Bytes::from_static(b"record01") };
        let actions = acceptor.handle(&append(2, 0, 0, true, b"record01"));
        assert_eq!(actions, [write, Action::Flush, appended(2, 8, 0)]);
    }

    #[test]
    fn a_repetition_is_written_only_where_it_is_new() {
        let mut acceptor = with_log();
        assert_eq!(acceptor.handle(&append(2, 8, 0, true, b"89abcdef")), [appended(2, 16, 8)]);
        let write = Action::WriteWal { begin: at(16), wal: Bytes::from_static(b"ghijklmn") };
        let actions = acceptor.handle(&append(2, 8, 0, true, b"89abcdefghijklmn"));
        assert_eq!(actions, [write, Action::Flush, appended(2, 24, 8)]);
    }

    #[test]
    fn a_gap_or_a_term_that_was_not_announced_is_refused() {
        let mut acceptor = with_log();
        assert!(is_refused(&acceptor.handle(&append(2, 17, 0, true, b"x"))));
        acceptor.handle(&Request::RequestVote { term: Term(3) });
        assert!(is_refused(&acceptor.handle(&append(3, 16, 0, true, b"x"))));
        assert_eq!(acceptor.handle(&append(2, 16, 0, true, b"x")), [appended(3, 16, 8)], "deposed, not refused");
    }

    #[test]
    fn a_record_in_pieces_counts_when_its_last_piece_is_there() {
        let mut acceptor = with_log();
        let write = |begin, wal: &'static [u8]| Action::WriteWal { begin, wal: Bytes::from_static(wal) };
        assert_eq!(acceptor.handle(&append(2, 16, 16, false, b"long")), [write(at(16), b"long"), appended(2, 16, 16)]);
        let actions = acceptor.handle(&append(2, 20, 24, true, b"tail"));
        assert_eq!(actions, [write(at(20), b"tail"), Action::Flush, appended(2, 24, 24)]);
    }

    #[test]
    fn commit_is_never_past_the_own_log() {
        let mut acceptor = with_log();
        assert_eq!(acceptor.handle(&append(2, 16, 500, true, b"")), [appended(2, 16, 16)]);
    }

    #[test]
    fn a_lagging_acceptor_truncates_only_its_divergent_tail_before_it_adopts() {
        let mut acceptor = with_log();
        let actions = acceptor.handle(&elected(4, 8, &[(2, 0), (3, 8), (4, 40)]));
        let [Action::TruncateWal { to }, Action::PersistState(state), answer] = &actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!((*to, state.term), (at(8), Term(4)));
        assert_eq!(*answer, appended(4, 8, 8));
    }

    #[test]
    fn committed_wal_is_never_truncated() {
        let mut acceptor = with_log();
        let before = acceptor.state().clone();
        assert!(is_refused(&acceptor.handle(&elected(4, 0, &[(2, 0), (3, 4)]))), "the history lacks its own term");
        assert!(is_refused(&acceptor.handle(&elected(3, 0, &[(2, 0), (3, 4)]))));
        assert_eq!(acceptor.state(), &before);
    }

    #[test]
    fn a_stream_past_the_common_point_is_refused() {
        assert!(is_refused(&with_log().handle(&elected(3, 24, &[(2, 0), (3, 24)]))));
    }

    #[test]
    fn a_proposer_that_comes_back_finds_its_term_as_it_left_it() {
        let mut acceptor = with_log();
        acceptor.handle(&append(2, 16, 0, false, b"half"));
        let actions = acceptor.handle(&elected(2, 16, &[(2, 0)]));
        assert_eq!(actions, [Action::TruncateWal { to: at(16) }, appended(2, 16, 8)]);
        assert!(is_refused(&acceptor.handle(&elected(2, 0, &[(1, 0), (2, 8)]))), "one term has one history");
    }

    #[test]
    fn wal_that_is_not_committed_is_read_in_the_acceptors_term_only() {
        let mut acceptor = with_log();
        assert_eq!(acceptor.may_read(Term(0), START, at(8)), Ok(()));
        assert!(matches!(acceptor.may_read(Term(0), START, at(9)), Err(ReadRefused::OutOfRange { .. })));
        assert_eq!(acceptor.may_read(Term(2), START, at(16)), Ok(()));
        acceptor.handle(&Request::RequestVote { term: Term(3) });
        assert!(matches!(acceptor.may_read(Term(2), START, at(16)), Err(ReadRefused::OtherTerm { .. })));
    }

    #[test]
    fn a_log_shorter_than_its_commit_position_is_not_restored() {
        let state = with_log().state().clone();
        assert!(Acceptor::restore(NodeId(1), state.clone(), at(7)).is_err());
        assert!(Acceptor::restore(NodeId(1), state, at(8)).is_ok());
    }
}
