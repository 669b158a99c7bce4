//! Waiting on all sockets to safekeepers, and on the clock.
//!
//! Who waits holds the right to take answers. That is a thread of its own as long as nothing is committed; while
//! flushes follow each other it is the shipper, between sending a flush and its grant, and this thread only looks in
//! now and then: for the answers that came after the majority's, and for what is due by the clock.

use super::Shared;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::MutexGuard;
use quire_net::polled::Connection;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often this thread looks in while the shipper is busy.
const LOOK_IN: Duration = Duration::from_millis(5);

/// The right to take answers.
type Right<'a> = MutexGuard<'a, ()>;

/// Runs until the quorum is shut down.
pub fn run(shared: &Arc<Shared>) {
    while !shared.is_stopping() {
        quire_crash::plant("compute.quorum-events");
        if !shared.with_core(|core| core.is_busy()) {
            turn(shared, &shared.answers.lock(), None);
            continue;
        }
        std::thread::sleep(LOOK_IN);
        take_answers(shared);
    }
}

/// Takes the answers that are there, unless another thread is at it.
pub fn take_answers(shared: &Shared) {
    if let Some(right) = try_right(shared) {
        turn(shared, &right, Some(Duration::ZERO));
    }
}

/// Takes answers until no flush is pending, for at most `patience`.
pub fn wait_granted(shared: &Shared, patience: Duration) {
    let deadline = Instant::now() + patience;
    let is_pending = || !shared.is_stopping() && shared.with_core(|core| core.has_pending_flush());
    if !is_pending() {
        return;
    }
    let right = try_right(shared).unwrap_or_else(|| {
        shared.wake();
        shared.answers.lock()
    });
    while is_pending() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        turn(shared, &right, Some(left));
    }
}

fn try_right(shared: &Shared) -> Option<Right<'_>> {
    shared.answers.try_lock()
}

/// Waits until a socket is ready, something is due, another thread asks for attention, or `patience` is over; then
/// serves all links.
fn turn(shared: &Shared, _right: &Right<'_>, patience: Option<Duration>) {
    let (sockets, due) = shared.with_core(|core| {
        let sockets: Vec<_> = core.links().iter().map(super::link::SafekeeperLink::interest).collect();
        (sockets, core.next_wake_up(Instant::now()))
    });
    let until_due = due.saturating_duration_since(Instant::now());
    let ready = wait(shared, &sockets, patience.map_or(until_due, |patience| patience.min(until_due)));
    let ready = ready.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot wait on the sockets to the safekeepers");
        std::thread::sleep(Duration::from_millis(100));
        vec![true; sockets.len()]
    });
    let now = Instant::now();
    shared.with_core(|core| {
        ready.iter().enumerate().for_each(|(acceptor, is_ready)| core.serve_link(acceptor, *is_ready, now));
        core.tick(now);
    });
}

/// Waits; which of the sockets have something.
fn wait(shared: &Shared, sockets: &[Option<(Connection, bool)>], patience: Duration) -> Result<Vec<bool>, Errno> {
    let mut polled = vec![PollFd::new(shared.waker_fd(), PollFlags::POLLIN)];
    for (socket, writing) in sockets.iter().flatten() {
        let write = if *writing { PollFlags::POLLOUT } else { PollFlags::empty() };
        polled.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN | write));
    }
    match poll(&mut polled, rounded_up(patience)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error),
    }
    let mut ready = polled.iter().map(|polled| polled.any().unwrap_or(true));
    if ready.next() == Some(true) {
        shared.drain_waker();
    }
    Ok(sockets.iter().map(|socket| socket.is_some() && ready.next().unwrap_or(true)).collect())
}

/// To a millisecond, so that the moment has come when the wait is over.
fn rounded_up(patience: Duration) -> PollTimeout {
    let rounded = if patience.is_zero() { patience } else { patience + Duration::from_millis(1) };
    PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
}
