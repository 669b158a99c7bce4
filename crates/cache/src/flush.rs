//! The commit path: how a PostgreSQL process gets its WAL flushed by the quorum, without a message.
//!
//! ```text
//! backend                                        agent
//! pwrite(pg_wal/...); end = max; writes += 1
//! fdatasync:
//!   ticket = writes
//!   request = max(ticket); bump, wake            -> next_request: reads the file up to `end`, ships whole records
//!   wait until done >= ticket                    <- complete_flush(request): done = max; bump, wake
//! ```
//!
//! A flush is asked for by a *ticket*, the number of writes so far, not by an LSN: PostgreSQL writes whole pages, so
//! the last one is written again and again, each time with more records and the same end. A request with ticket *n*
//! is met when the bytes that the first *n* writes left in the file are durable up to the last whole record. The
//! agent has to look at the request before it reads the file, and may grant no higher ticket than that.
//!
//! No wake-up is lost: each side reads its futex word first, looks at the condition next, and sleeps only if the word
//! is still the same; the other side changes the condition first and the word next. All of it is `SeqCst`. The WAL
//! bytes themselves go through the kernel (`pwrite` before the write is counted, `pread` after the request was seen).
//!
//! A fence is checked *after* the condition: a flush that was granted before the fence is granted.

use crate::control::{AgentState, Control};
use crate::futex;
use quire_types::Lsn;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a waiting process makes sure that the agent is still there.
const LIVENESS_CHECK: Duration = Duration::from_millis(100);

/// How a wait for a flush ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushOutcome {
    /// The quorum has it.
    Flushed,
    /// The compute is fenced or has failed: the outcome of this flush is unknown and no other will succeed.
    Refused,
    /// The agent is gone.
    AgentDead,
}

/// What a process waits for: that everything it had written so far is durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlushTicket(u64);

/// What the agent is to make durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushRequest {
    /// What to grant, once it is.
    pub ticket: FlushTicket,
    /// Where the local WAL ends: what is asked for are the whole records before this.
    pub written: Lsn,
}

impl Control {
    /// Asks for everything written so far to be flushed (PostgreSQL's side).
    pub fn request_flush(&self) -> FlushTicket {
        let ticket = FlushTicket(self.wal_writes());
        if !self.is_flushed(ticket) {
            self.request.ticket.fetch_max(ticket.0, Ordering::SeqCst);
            self.wake_agent();
        }
        ticket
    }

    /// Waits until what the ticket stands for is flushed (PostgreSQL's side). `agent_lives` is asked about ten times a
    /// second.
    pub fn wait_flushed(&self, ticket: FlushTicket, agent_lives: impl Fn() -> bool) -> FlushOutcome {
        loop {
            let seen = self.done.futex.load(Ordering::SeqCst);
            if self.is_flushed(ticket) {
                return FlushOutcome::Flushed;
            }
            if !self.state().serves() {
                return FlushOutcome::Refused;
            }
            if !agent_lives() {
                return FlushOutcome::AgentDead;
            }
            futex::wait(&self.done.futex, seen, LIVENESS_CHECK);
        }
    }

    /// Whether what the ticket stands for is flushed.
    pub fn is_flushed(&self, ticket: FlushTicket) -> bool {
        self.done.ticket.load(Ordering::SeqCst) >= ticket.0
    }

    /// What is asked for and not yet granted; waits for it for at most `timeout` (the agent's side, in a thread that
    /// may block).
    pub fn next_request(&self, timeout: Duration) -> Option<FlushRequest> {
        let seen = self.request.futex.load(Ordering::SeqCst);
        self.pending_request().or_else(|| {
            futex::wait(&self.request.futex, seen, timeout);
            self.pending_request()
        })
    }

    /// What is asked for and not yet granted, without waiting (the agent's side).
    pub fn pending_request(&self) -> Option<FlushRequest> {
        let ticket = FlushTicket(self.request.ticket.load(Ordering::SeqCst));
        // Loaded after the ticket, so that it covers all the writes the ticket counts.
        let written = self.wal_written();
        (!self.is_flushed(ticket)).then_some(FlushRequest { ticket, written })
    }

    /// Grants all requests up to this one (the agent's side). A compute that is fenced grants nothing.
    pub fn complete_flush(&self, request: FlushRequest) {
        if !self.state().serves() {
            return;
        }
        self.done.ticket.fetch_max(request.ticket.0, Ordering::SeqCst);
        self.done.futex.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(&self.done.futex);
    }

    /// Ends this compute's right to commit: every flush not yet granted, and all later ones, are refused.
    pub fn fence(&self) {
        self.set_state(AgentState::Fenced);
    }

    /// Lets [`Control::next_request`] return at once (the agent's side, to stop the thread that calls it).
    pub fn wake_agent(&self) {
        self.request.futex.fetch_add(1, Ordering::SeqCst);
        futex::wake_all(&self.request.futex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ControlMap, tests::SETTINGS};
    use std::sync::atomic::AtomicBool;

    fn control() -> ControlMap {
        let dir = tempfile::tempdir().unwrap();
        ControlMap::create(&dir.path().join("control.shm"), &SETTINGS).unwrap()
    }

    #[test]
    fn nothing_written_means_nothing_to_wait_for() {
        let control = control();
        let ticket = control.request_flush();
        assert_eq!(control.pending_request(), None);
        assert_eq!(control.wait_flushed(ticket, || false), FlushOutcome::Flushed);
    }

    #[test]
    fn a_page_written_again_is_flushed_again() {
        let control = control();
        let end = Lsn(0x0100_2000);
        for _ in 0..3 {
            control.raise_wal_written(end);
            let ticket = control.request_flush();
            assert!(!control.is_flushed(ticket));
            let request = control.pending_request().unwrap();
            assert_eq!(request.written, end);
            control.complete_flush(request);
            assert_eq!(control.wait_flushed(ticket, || false), FlushOutcome::Flushed);
        }
    }

    #[test]
    fn a_grant_does_not_cover_what_was_written_after_the_request() {
        let control = control();
        control.raise_wal_written(Lsn(0x0100_2000));
        control.request_flush();
        let request = control.pending_request().unwrap();
        control.raise_wal_written(Lsn(0x0100_2000));
        let later = control.request_flush();
        control.complete_flush(request);
        assert!(!control.is_flushed(later));
        assert!(control.pending_request().is_some());
    }

    #[test]
    fn every_flush_waits_for_its_own_grant() {
        let control = control();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    if let Some(request) = control.next_request(Duration::from_secs(1)) {
                        control.complete_flush(request);
                    }
                }
            });
            for page in 1..200 {
                control.raise_wal_written(SETTINGS.start_lsn.add(page * 8192));
                let ticket = control.request_flush();
                assert_eq!(control.wait_flushed(ticket, || true), FlushOutcome::Flushed);
                assert!(control.is_flushed(ticket));
            }
            stop.store(true, Ordering::SeqCst);
            control.wake_agent();
        });
    }

    #[test]
    fn a_fence_refuses_what_was_not_granted_and_only_that() {
        let control = control();
        control.raise_wal_written(Lsn(0x0100_2000));
        let first = control.request_flush();
        control.complete_flush(control.pending_request().unwrap());
        control.raise_wal_written(Lsn(0x0100_4000));
        let second = control.request_flush();
        let request = control.pending_request().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| control.wait_flushed(second, || true));
            control.fence();
            control.complete_flush(request);
            assert_eq!(waiter.join().unwrap(), FlushOutcome::Refused);
        });
        assert_eq!(control.wait_flushed(first, || true), FlushOutcome::Flushed);
    }

    #[test]
    fn a_dead_agent_ends_the_wait() {
        let control = control();
        control.raise_wal_written(Lsn(0x0100_2000));
        let ticket = control.request_flush();
        assert_eq!(control.wait_flushed(ticket, || false), FlushOutcome::AgentDead);
    }
}
