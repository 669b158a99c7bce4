//! Which writes are so old that the log alone can repeat them.
//!
//! Storage rebuilds a page from the log. What PostgreSQL has on a page and not in the log means something only while
//! the transaction that put it there runs: command ids, speculative insertion tokens, and, for B-tree pages, the mark
//! that a running VACUUM left. And a few changes reach a page before their record is in the log, or without moving the
//! page's LSN: bits cleared in a visibility map, the all-visible flag of a table's page. Their record is in the log at
//! the latest when the transaction has ended. (What is left are hints, which a crash loses as well.)
//!
//! So writes are marked with epochs. The agent begins epoch `n` and *then* looks who could be in the middle of such a
//! change: each backend that holds a transaction id or a lock as strong as VACUUM's. A write marked with an earlier
//! epoch put down what was in a buffer before the look, so its author was seen or had ended. Once a later look sees
//! none of those any more, everything that was written before epoch `n` is in the log before the position that is taken
//! *after* that later look. When storage has that, the epoch is safe: a page that was last written in an earlier one
//! may go, and may be asked for at any later LSN.

use quire_types::Lsn;
use std::collections::{BTreeSet, VecDeque};

/// Epochs that wait for transactions, and those that wait for storage. Beyond, some are skipped: later ones cover them.
const PENDING_MAX: usize = 64;
const ENDED_MAX: usize = 16;

/// Who could be changing pages in ways that the log does not tell, by virtual transaction id.
pub type Running = BTreeSet<String>;

/// The epochs under way.
#[derive(Debug)]
pub struct Horizon {
    pending: VecDeque<(u32, Running)>,
    ended: VecDeque<(u32, Lsn)>,
    safe: u32,
}

impl Horizon {
    /// Nothing but what was never written is safe.
    pub fn new() -> Horizon {
        Horizon { pending: VecDeque::new(), ended: VecDeque::new(), safe: 1 }
    }

    /// A look: after `epoch` had begun these ran, and after that the log ended at `end`.
    pub fn looked(&mut self, epoch: u32, running: Running, end: Lsn) {
        for (_, left) in &mut self.pending {
            left.retain(|name| running.contains(name));
        }
        self.pending.push_back((epoch, running));
        let mut settled = None;
        while self.pending.front().is_some_and(|(_, left)| left.is_empty()) {
            settled = self.pending.pop_front();
        }
        if self.pending.len() > PENDING_MAX {
            let mut number = 0;
            self.pending.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        if let Some((epoch, _)) = settled {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_back();
            }
            self.ended.push_back((epoch, end));
        }
    }

    /// Storage can be read at `readable`.
    pub fn reached(&mut self, readable: Lsn) {
        while let Some((epoch, _)) = self.ended.front().copied().filter(|(_, end)| *end <= readable) {
            self.safe = epoch;
            self.ended.pop_front();
        }
    }

    /// What was last written before this epoch may go.
    pub fn safe(&self) -> u32 {
        self.safe
    }

    /// Whether the log has to get further.
    pub fn waits_for_log(&self) -> bool {
        !self.ended.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(names: &[&str]) -> Running {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_epoch_is_safe_when_all_who_ran_in_it_ended_and_storage_has_the_log() {
        let mut horizon = Horizon::new();
        horizon.looked(2, running(&["a", "b"]), Lsn(10));
        horizon.looked(3, running(&["b", "c"]), Lsn(20));
        horizon.reached(Lsn(1000));
        assert_eq!(horizon.safe(), 1);
        horizon.looked(4, running(&["c"]), Lsn(30));
        horizon.reached(Lsn(29));
        assert_eq!(horizon.safe(), 1);
        horizon.reached(Lsn(30));
        assert_eq!(horizon.safe(), 2);
        horizon.looked(5, running(&[]), Lsn(40));
        horizon.reached(Lsn(40));
        assert_eq!(horizon.safe(), 5);
    }

    #[test]
    fn a_long_transaction_holds_what_was_written_since_it_began_and_nothing_older() {
        let mut horizon = Horizon::new();
        horizon.looked(2, running(&["short"]), Lsn(1));
        for epoch in 3..1000 {
            horizon.looked(epoch, running(&["long"]), Lsn(epoch.into()));
        }
        horizon.reached(Lsn(1000));
        assert_eq!(horizon.safe(), 2);
        assert!(horizon.pending.len() <= PENDING_MAX);
        horizon.looked(1000, running(&["next"]), Lsn(1000));
        horizon.reached(Lsn(1000));
        assert!((990..1000).contains(&horizon.safe()));
    }
}
