//! Arithmetic on term histories: where two logs part, and what a new term's history is.

use quire_protocol::quorum::{TermHistory, TermStart};
use quire_types::{Lsn, Term};

/// The last position up to which a log is a prefix of the leader's: everything after it diverges and must go.
///
/// `log_start` is where every log of the branch begins, `flush` and `history` describe the follower's. Each term has
/// one proposer and one start, so the logs agree over all terms that both histories list alike, and in the last of
/// these up to where the first of the two left it. A leader's own term has no end yet.
pub fn common_point(log_start: Lsn, flush: Lsn, history: &TermHistory, leader: &TermHistory) -> Lsn {
    let shared = history.0.iter().zip(&leader.0).take_while(|(ours, theirs)| ours == theirs).count();
    if shared == 0 {
        return log_start;
    }
    let left_at = |history: &TermHistory| history.0.get(shared).map_or(Lsn::MAX, |next| next.start);
    flush.min(left_at(history)).min(left_at(leader))
}

/// The history of a new `term` whose proposer takes over the donor's log, which ends at `flush`.
///
/// Terms in which the donor's log has no byte are left out: they say nothing about it, and the history stays short
/// however often computes start and stop without writing.
pub fn history_of_new_term(donor: &TermHistory, flush: Lsn, term: Term) -> TermHistory {
    let written = donor.0.iter().copied().take_while(|entry| entry.start < flush);
    TermHistory(written.chain([TermStart { term, start: flush }]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Lsn = Lsn(100);

    fn history(entries: &[(u64, u64)]) -> TermHistory {
        TermHistory(entries.iter().map(|&(term, start)| TermStart { term: Term(term), start: Lsn(start) }).collect())
    }

    #[test]
    fn a_follower_of_the_same_terms_keeps_all_it_has() {
        let leader = history(&[(1, 100), (3, 200)]);
        assert_eq!(common_point(START, Lsn(150), &history(&[(1, 100)]), &leader), Lsn(150));
        assert_eq!(common_point(START, Lsn(250), &leader, &leader), Lsn(250));
    }

    #[test]
    fn a_follower_that_went_on_in_an_older_term_is_cut_where_the_leader_took_over() {
        let leader = history(&[(1, 100), (3, 200)]);
        assert_eq!(common_point(START, Lsn(300), &history(&[(1, 100)]), &leader), Lsn(200));
        assert_eq!(common_point(START, Lsn(300), &history(&[(1, 100), (2, 160)]), &leader), Lsn(160));
    }

    #[test]
    fn logs_without_a_term_in_common_share_only_their_start() {
        assert_eq!(common_point(START, Lsn(300), &history(&[(1, 100)]), &history(&[(2, 100)])), START);
        assert_eq!(common_point(START, START, &history(&[]), &history(&[(2, 100)])), START);
    }

    #[test]
    fn a_term_without_a_byte_leaves_no_trace_in_the_next_history() {
        let donor = history(&[(1, 100), (2, 200), (4, 300)]);
        assert_eq!(history_of_new_term(&donor, Lsn(200), Term(9)), history(&[(1, 100), (9, 200)]));
        assert_eq!(history_of_new_term(&donor, Lsn(201), Term(9)), history(&[(1, 100), (2, 200), (9, 201)]));
        assert_eq!(history_of_new_term(&history(&[]), START, Term(1)), history(&[(1, 100)]));
    }
}
