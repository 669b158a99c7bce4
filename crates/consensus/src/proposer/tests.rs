//! The proposer, told what acceptors say.

use super::*;
use quire_protocol::quorum::{ErrorCode, MAX_TERM_HISTORY, TermHistory, TermStart};

const START: Lsn = Lsn(16 << 20);
const IDENTITY: LogIdentity = LogIdentity { system_id: 1, segment_bytes: 16 << 20, start: START };

fn at(offset: u64) -> Lsn {
    START.add(offset)
}

fn history(entries: &[(u64, u64)]) -> TermHistory {
    TermHistory(entries.iter().map(|&(term, offset)| TermStart { term: Term(term), start: at(offset) }).collect())
}

fn welcome(acceptor: usize, term: u64) -> Response {
    Response::Welcome { node: NodeId(acceptor as u64 + 1), term: Term(term), identity: Some(IDENTITY) }
}

fn vote(granted: bool, term: u64, flush: u64, commit: u64, entries: &[(u64, u64)]) -> Response {
    let (term, flush, commit) = (Term(term), at(flush), at(commit));
    Response::Vote { granted, term, flush, commit, oldest: START, history: history(entries) }
}

fn appended(term: u64, flush: u64) -> Response {
    Response::Appended { term: Term(term), flush: at(flush), commit: START }
}

fn outputs(proposer: &mut Proposer) -> Vec<Output> {
    std::iter::from_fn(|| proposer.poll()).collect()
}

fn sent(outputs: &[Output]) -> Vec<(Vec<usize>, &Request)> {
    let send = |output: &'_ Output| matches!(output, Output::Send { .. });
    let parts = |output| match output {
        &Output::Send { to, ref request } => (to.iter().collect(), request),
        _ => unreachable!("it was filtered"),
    };
    outputs.iter().filter(|output| send(output)).map(parts).collect()
}

fn proposer() -> Proposer {
    let branch = BranchKey::default();
    Proposer::new(Config { branch, node: NodeId(100), acceptors: 3, identity: None })
}

/// A candidate for term 6, which acceptors 0 and 1 know of.
fn candidate() -> Proposer {
    let mut proposer = proposer();
    proposer.campaign();
    for acceptor in [0, 1] {
        proposer.connected(acceptor);
        proposer.received(acceptor, welcome(acceptor, 5));
    }
    proposer
}

/// The holder of term 6, which starts at 16, with acceptor 0 as donor streaming, and acceptor 1 at 8 streaming.
fn leader() -> Proposer {
    let mut proposer = candidate();
    proposer.received(0, vote(true, 6, 16, 8, &[(2, 0)]));
    proposer.received(1, vote(true, 6, 8, 8, &[(2, 0)]));
    proposer.received(0, appended(6, 16));
    proposer.received(1, appended(6, 8));
    proposer
}

#[test]
fn a_campaign_waits_for_a_majority_and_goes_above_every_term_heard_of() {
    let mut proposer = proposer();
    proposer.campaign();
    proposer.connected(0);
    proposer.received(0, welcome(0, 5));
    assert_eq!(sent(&outputs(&mut proposer)).len(), 1, "only the greeting");
    proposer.connected(2);
    proposer.received(2, welcome(2, 3));
    let all = outputs(&mut proposer);
    assert_eq!(sent(&all).last(), Some(&(vec![0, 2], &Request::RequestVote { term: Term(6) })));
}

#[test]
fn the_donor_is_who_has_the_highest_last_term_then_the_longest_log() {
    let mut proposer = candidate();
    outputs(&mut proposer);
    proposer.received(0, vote(true, 6, 400, 0, &[(2, 0)]));
    proposer.received(1, vote(true, 6, 24, 0, &[(2, 0), (4, 16)]));
    let all = outputs(&mut proposer);
    assert_eq!(all[0], Output::Elected { term: Term(6), end_of_log: at(24), donor: 1 });
    let new = history(&[(2, 0), (4, 16), (6, 24)]);
    let elected = |stream_from| Request::Elected { term: Term(6), stream_from: at(stream_from), history: new.clone() };
    assert_eq!(sent(&all), [(vec![0], &elected(16)), (vec![1], &elected(24))]);
}

#[test]
fn a_last_term_beyond_the_flush_position_gives_no_precedence() {
    let mut proposer = candidate();
    outputs(&mut proposer);
    proposer.received(0, vote(true, 6, 16, 0, &[(2, 0), (4, 24)]));
    proposer.received(1, vote(true, 6, 20, 0, &[(2, 0)]));
    assert_eq!(outputs(&mut proposer)[0], Output::Elected { term: Term(6), end_of_log: at(20), donor: 1 });
}

#[test]
fn a_refused_candidate_is_outvoted_and_tries_a_higher_term() {
    let mut proposer = candidate();
    outputs(&mut proposer);
    proposer.received(0, vote(false, 9, 0, 0, &[]));
    assert_eq!(outputs(&mut proposer), [Output::Outvoted { by: Term(9) }]);
    proposer.received(1, vote(true, 6, 0, 0, &[]));
    assert_eq!(outputs(&mut proposer), [], "the old campaign is over");
    proposer.campaign();
    assert_eq!(sent(&outputs(&mut proposer)), [(vec![0, 1], &Request::RequestVote { term: Term(10) })]);
}

#[test]
fn the_same_term_granted_to_a_rival_does_not_count() {
    let mut proposer = candidate();
    outputs(&mut proposer);
    proposer.received(0, vote(true, 6, 0, 0, &[]));
    proposer.received(1, vote(false, 6, 0, 0, &[]));
    assert_eq!(outputs(&mut proposer), [Output::Outvoted { by: Term(6) }]);
}

#[test]
fn a_lagging_acceptor_is_brought_up_with_wal_that_is_read_for_it() {
    let mut proposer = leader();
    let all = outputs(&mut proposer);
    assert_eq!(all.last(), Some(&Output::ReadWal { acceptor: 1, begin: at(8), end: at(16) }));
    assert!(!all.iter().any(|output| matches!(output, Output::Committed(_))), "a majority is not there yet");
    proposer.wal_read(1, at(8), Bytes::from_static(b"89abcdef"));
    let all = outputs(&mut proposer);
    assert!(matches!(sent(&all)[..], [(_, Request::Append { begin, ends_record: true, .. })] if *begin == at(8)));
    proposer.received(1, appended(6, 16));
    assert_eq!(outputs(&mut proposer), [Output::Committed(at(16))]);
}

#[test]
fn new_wal_goes_to_all_that_are_up_to_date_as_one_message() {
    let mut proposer = leader();
    proposer.wal_read(1, at(8), Bytes::from_static(b"89abcdef"));
    outputs(&mut proposer);
    proposer.extend(at(16), Bytes::from_static(b"ghijklmn")).expect("elected");
    let all = outputs(&mut proposer);
    assert!(matches!(&sent(&all)[..], [(to, Request::Append { begin, .. })] if to == &[0, 1] && *begin == at(16)));
    proposer.received(0, appended(6, 24));
    assert_eq!(outputs(&mut proposer), [], "one of three is no majority");
    proposer.received(1, appended(6, 16));
    assert_eq!(outputs(&mut proposer), [Output::Committed(at(16))]);
    proposer.received(1, appended(6, 24));
    assert_eq!(outputs(&mut proposer), [Output::Committed(at(24))]);
}

#[test]
fn wal_that_does_not_go_on_at_the_end_is_not_taken() {
    let mut proposer = leader();
    let gap = proposer.extend(at(17), Bytes::from_static(b"x"));
    assert_eq!(gap, Err(ExtendError::NotContiguous { end: at(16), begin: at(17) }));
    assert_eq!(candidate().extend(at(0), Bytes::new()), Err(ExtendError::NotElected));
}

#[test]
fn an_acceptor_that_comes_later_joins_the_running_term_without_its_vote() {
    let mut proposer = leader();
    outputs(&mut proposer);
    proposer.connected(2);
    proposer.received(2, welcome(2, 6));
    proposer.received(2, vote(false, 6, 24, 0, &[(2, 0), (3, 8)]));
    let all = outputs(&mut proposer);
    let elected = Request::Elected { term: Term(6), stream_from: at(8), history: history(&[(2, 0), (6, 16)]) };
    assert_eq!(sent(&all)[2], (vec![2], &elected));
    proposer.received(2, appended(6, 8));
    assert!(proposer.streaming().contains(2));
}

#[test]
fn a_deposed_proposer_says_so_once_and_nothing_more() {
    let mut proposer = leader();
    proposer.wal_read(1, at(8), Bytes::from_static(b"89abcdef"));
    outputs(&mut proposer);
    proposer.received(0, appended(7, 16));
    assert_eq!(outputs(&mut proposer), [Output::Fenced { by: Term(7) }]);
    proposer.received(1, appended(6, 16));
    proposer.received(1, appended(8, 16));
    proposer.heartbeat();
    proposer.campaign();
    assert_eq!(outputs(&mut proposer), []);
    assert!(proposer.is_fenced() && proposer.term().is_none());
}

#[test]
fn one_safekeeper_at_two_addresses_counts_once() {
    let mut proposer = proposer();
    for acceptor in [0, 1] {
        proposer.connected(acceptor);
        proposer.received(acceptor, welcome(0, 0));
    }
    let all = outputs(&mut proposer);
    assert_eq!(all.last(), Some(&Output::Refused { acceptor: 1, reason: Refusal::SameNode(NodeId(1)) }));
}

#[test]
fn an_acceptor_without_a_log_is_not_given_one() {
    let mut proposer = proposer();
    proposer.connected(0);
    proposer.received(0, Response::Welcome { node: NodeId(1), term: Term(0), identity: None });
    assert_eq!(outputs(&mut proposer)[1..], [Output::Refused { acceptor: 0, reason: Refusal::NoLog }]);
}

#[test]
fn an_acceptor_that_lost_what_it_had_flushed_is_refused() {
    let mut proposer = leader();
    outputs(&mut proposer);
    proposer.disconnected(0);
    proposer.connected(0);
    proposer.received(0, welcome(0, 6));
    proposer.received(0, vote(false, 6, 8, 8, &[(2, 0)]));
    proposer.received(0, appended(6, 8));
    let refused = Output::Refused { acceptor: 0, reason: Refusal::LostWal { flush: at(8), known: at(16) } };
    assert_eq!(outputs(&mut proposer).last(), Some(&refused));
}

#[test]
fn a_window_bounds_what_is_under_way_to_a_slow_acceptor() {
    let mut proposer = leader();
    outputs(&mut proposer);
    let chunk = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..40 {
        let end = proposer.end_of_log().expect("elected");
        proposer.extend(end, chunk.clone()).expect("elected");
    }
    let all = outputs(&mut proposer);
    let to_donor = sent(&all).iter().filter(|(to, _)| to == &[0]).count() as u64;
    assert_eq!(to_donor << 20, WINDOW_BYTES);
    proposer.received(0, appended(6, 16 + (1 << 20)));
    assert!(matches!(outputs(&mut proposer)[..], [Output::ReadWal { acceptor: 0, .. }]), "it is asked for again");
}

#[test]
fn wal_is_held_back_for_an_acceptor_that_is_away() {
    let mut proposer = leader();
    outputs(&mut proposer);
    proposer.heartbeat();
    let all = outputs(&mut proposer);
    let Request::Append { durable, .. } = sent(&all)[0].1 else { panic!("{all:?}") };
    assert_eq!(*durable, Lsn::INVALID);
}

#[test]
fn commit_is_announced_to_those_who_do_not_know_it() {
    let mut proposer = leader();
    proposer.wal_read(1, at(8), Bytes::from_static(b"89abcdef"));
    proposer.received(1, appended(6, 16));
    outputs(&mut proposer);
    proposer.announce();
    let all = outputs(&mut proposer);
    assert_eq!(sent(&all).len(), 2);
    assert!(
        sent(&all).iter().all(|(_, request)| matches!(request, Request::Append { commit, .. } if *commit == at(16)))
    );
    proposer.announce();
    assert_eq!(outputs(&mut proposer), []);
}

#[test]
fn an_error_costs_the_acceptor_its_connection() {
    let mut proposer = leader();
    outputs(&mut proposer);
    let (code, message) = (ErrorCode::Storage, "disk".to_owned());
    proposer.received(0, Response::Error { code, message: message.clone() });
    let reason = Refusal::Error { code, message };
    assert_eq!(outputs(&mut proposer), [Output::Refused { acceptor: 0, reason }]);
    assert!(!proposer.streaming().contains(0));
}

#[test]
fn an_acceptor_that_speaks_of_an_impossible_term_is_refused_and_not_believed() {
    for term in [Term::MAX.0 + 1, u64::MAX] {
        let refused = |acceptor| Output::Refused { acceptor, reason: Refusal::TermOutOfReach(Term(term)) };
        let mut proposer = candidate();
        proposer.connected(2);
        outputs(&mut proposer);
        proposer.received(2, welcome(2, term));
        assert_eq!(outputs(&mut proposer), [refused(2)]);
        proposer.received(0, vote(false, term, 16, 8, &[(2, 0)]));
        assert_eq!(outputs(&mut proposer), [refused(0)]);
        let mut leader = leader();
        outputs(&mut leader);
        leader.received(1, appended(term, 8));
        assert_eq!(outputs(&mut leader), [refused(1)]);
        assert_eq!((leader.term(), leader.is_fenced()), (Some(Term(6)), false));
    }
}

#[test]
fn there_is_no_campaign_beyond_the_last_term() {
    let mut proposer = proposer();
    for acceptor in [0, 1] {
        proposer.connected(acceptor);
        proposer.received(acceptor, welcome(acceptor, Term::MAX.0));
    }
    outputs(&mut proposer);
    proposer.campaign();
    assert_eq!(outputs(&mut proposer), []);
}

#[test]
fn a_history_that_no_message_carries_is_not_announced() {
    let terms = MAX_TERM_HISTORY as u64;
    let full: Vec<(u64, u64)> = (0..terms).map(|number| (number + 1, 8 * number)).collect();
    let mut proposer = Proposer { highest_term: Term(terms), ..candidate() };
    proposer.campaign();
    outputs(&mut proposer);
    for acceptor in [0, 1] {
        proposer.received(acceptor, vote(true, terms + 1, 8 * terms, 0, &full));
    }
    assert_eq!(outputs(&mut proposer), [Output::Refused { acceptor: 0, reason: Refusal::HistoryFull }]);
    assert_eq!(proposer.term(), None);
}
